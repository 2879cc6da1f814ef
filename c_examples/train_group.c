/* The group of ranks, and sums over all of them.
 * 
 * A star: rank 0 listens on MASTER_ADDR:MASTER_PORT, all others connect to it. It adds the numbers
 * up in the order of the ranks, whoever comes first: floating-point sums depend on their order, and
 * the result must not depend on the timing. Numbers travel as they lie in memory, so all machines
 * must be of one kind.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define _GNU_SOURCE

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "train.h"

enum { PATIENCE_SECONDS = 30 };

/* The first bytes on each connection, to tell a rank from a stranger. */
struct hello {
  char text[12];
  int32_t rank;
};

static const char HELLO[12] = "ice train 1";

static int send_all(int socket, int to, const void *data, size_t length) {
  const char *bytes = data;
  while (length > 0) {
    /* MSG_NOSIGNAL: a peer that is gone is to be an error, not our death by SIGPIPE. */
    ssize_t sent = send(socket, bytes, length, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR)
      continue;
    if (sent < 0)
      return because(PEER_LOST, "cannot send to rank %d: %s", to, strerror(errno));
    bytes += sent;
    length -= (size_t)sent;
  }
  return GOOD;
}

static int receive_all(int socket, int from, void *data, size_t length) {
  char *bytes = data;
  while (length > 0) {
    ssize_t received = recv(socket, bytes, length, 0);
    if (received < 0 && errno == EINTR)
      continue;
    if (received < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
      return because(PEER_LOST, "rank %d is silent for %d seconds", from, PATIENCE_SECONDS);
    if (received < 0)
      return because(PEER_LOST, "cannot receive from rank %d: %s", from, strerror(errno));
    if (received == 0)
      return because(PEER_LOST, "rank %d has closed its connection", from);
    bytes += received;
    length -= (size_t)received;
  }
  return GOOD;
}

/* Waits for a peer have an end; small messages go out at once. */
static bool set_up_socket(int socket) {
  struct timeval patience = {.tv_sec = PATIENCE_SECONDS};
  int on = 1;
  return setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0 &&
         setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) == 0 &&
         setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0;
}

/* Rank 0: waits until every other rank has connected and said who it is. */
static int accept_all(struct group *group, int listener) {
  for (int missing = group->size - 1; missing > 0;) {
    int socket = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (socket < 0 && (errno == EINTR || errno == ECONNABORTED))
      continue;
    if (socket < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
      return because(PEER_LOST, "%d ranks did not connect in %d seconds", missing,
                     PATIENCE_SECONDS);
    if (socket < 0)
      return because(FAILED, "accept: %s", strerror(errno));

    struct hello hello;
    if (set_up_socket(socket) && receive_all(socket, -1, &hello, sizeof hello) == GOOD &&
        memcmp(hello.text, HELLO, sizeof HELLO) == 0 && hello.rank > 0 &&
        hello.rank < group->size && group->sockets[hello.rank] < 0) {
      group->sockets[hello.rank] = socket;
      missing--;
    } else {
      fprintf(stderr, "rank 0: somebody connected who is none of us\n");
      close(socket);
    }
  }
  return GOOD;
}

static int listen_for_peers(struct group *group, const struct addrinfo *address) {
  int listener = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0)
    return because(FAILED, "socket: %s", strerror(errno));
  /* SO_REUSEADDR: the agent holds the port for us with a socket that does not listen. */
  int on = 1, code;
  if (!set_up_socket(listener) ||
      setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
      bind(listener, address->ai_addr, address->ai_addrlen) != 0 ||
      listen(listener, group->size) != 0)
    code = because(FAILED, "cannot listen on MASTER_ADDR:MASTER_PORT: %s", strerror(errno));
  else
    code = accept_all(group, listener);
  close(listener);
  return code;
}

/* The others: rank 0 may not listen yet, so try for a while. */
static int connect_to_rank_0(struct group *group, const struct addrinfo *address) {
  const struct timespec pause = {.tv_nsec = 5000000};
  const int64_t tries = INT64_C(1000000000) / pause.tv_nsec * PATIENCE_SECONDS;
  for (int64_t i = 0; i < tries; i++) {
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
      return because(FAILED, "socket: %s", strerror(errno));
    if (connect(fd, address->ai_addr, address->ai_addrlen) == 0) {
      group->sockets[0] = fd;
      if (!set_up_socket(fd))
        return because(FAILED, "setsockopt: %s", strerror(errno));
      struct hello hello = {.rank = group->rank};
      memcpy(hello.text, HELLO, sizeof HELLO);
      return send_all(fd, 0, &hello, sizeof hello);
    }
    int error = errno;
    close(fd);
    if (error != ECONNREFUSED && error != EINTR && error != ETIMEDOUT)
      return because(FAILED, "cannot connect to rank 0: %s", strerror(error));
    nanosleep(&pause, NULL);
  }
  return because(PEER_LOST, "rank 0 does not listen");
}

void leave_group(struct group *group) {
  for (int i = 0; i < group->size; i++)
    if (group->sockets[i] >= 0)
      close(group->sockets[i]);
}

int join_group(struct group *group, int rank, int size) {
  group->rank = rank;
  group->size = size;
  for (int i = 0; i < MAX_RANKS; i++)
    group->sockets[i] = -1;

  const char *host = getenv("MASTER_ADDR"), *port = getenv("MASTER_PORT");
  if (host == NULL || port == NULL)
    return because(HOPELESS, "MASTER_ADDR and MASTER_PORT are not set");
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *address;
  int error = getaddrinfo(host, port, &hints, &address);
  if (error != 0)
    return because(FAILED, "no address for %s, port %s: %s", host, port, gai_strerror(error));

  int code = rank == 0 ? listen_for_peers(group, address) : connect_to_rank_0(group, address);
  freeaddrinfo(address);
  return code;
}

/* All ranks get the bytes of rank 0. */
int broadcast(const struct group *group, void *data, size_t length) {
  if (group->rank > 0)
    return receive_all(group->sockets[0], 0, data, length);
  int code = GOOD;
  for (int rank = 1; rank < group->size && code == GOOD; rank++)
    code = send_all(group->sockets[rank], rank, data, length);
  return code;
}

/* All ranks get the sums of all ranks' numbers. */
int all_reduce(const struct group *group, double *numbers, size_t count) {
  size_t length = count * sizeof *numbers;
  int code = GOOD;
  if (group->rank > 0) {
    code = send_all(group->sockets[0], 0, numbers, length);
  } else {
    double received[count];
    for (int rank = 1; rank < group->size && code == GOOD; rank++) {
      code = receive_all(group->sockets[rank], rank, received, length);
      for (size_t i = 0; i < count && code == GOOD; i++)
        numbers[i] += received[i];
    }
  }
  return code == GOOD ? broadcast(group, numbers, length) : code;
}

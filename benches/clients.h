/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * A store in a process of its own, and as many clients of it as are wanted, each a thread with a connection. */
#ifndef CLIENTS_H
#define CLIENTS_H

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ice.h"

static inline double NOW(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static inline void check(ice_status status) {
  if (status == ICE_OK) return;
  fprintf(stderr, "store: %s\n", ice_last_error_message());
  _exit(90);
}

/* A descriptor for each client. */
static inline void many_descriptors(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

struct serving {
  pid_t pid;
  int port;
  int ask, answer;
};

/* What the server has done so far. */
struct counts {
  uint64_t connections, requests;
  double cpu; /* seconds of its process */
};

static inline double cpu_of(const struct rusage *usage) {
  return (double)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) +
         (double)(usage->ru_utime.tv_usec + usage->ru_stime.tv_usec) / 1e6;
}

static inline struct serving serve(void) {
  struct serving serving;
  int up[2], down[2];
  if (pipe(up) || pipe(down)) exit(90);
  serving.pid = fork();
  if (serving.pid == 0) {
    ice_store_server *server;
    struct rusage usage;
    char line;
    many_descriptors();
    check(ice_store_server_new("127.0.0.1", 0, 0, &server));
    int port = ice_store_server_port(server);
    close(down[1]);
    if (write(up[1], &port, sizeof port) != sizeof port) _exit(91);
    while (read(down[0], &line, 1) == 1) {
      getrusage(RUSAGE_SELF, &usage);
      struct counts counts = {ice_store_server_connections(server), ice_store_server_requests(server), cpu_of(&usage)};
      if (write(up[1], &counts, sizeof counts) != sizeof counts) _exit(91);
    }
    ice_store_server_free(server);
    _exit(0);
  }
  close(down[0]);
  close(up[1]);
  if (read(up[0], &serving.port, sizeof serving.port) != sizeof serving.port) exit(91);
  serving.ask = down[1];
  serving.answer = up[0];
  return serving;
}

static inline struct counts served(const struct serving *serving) {
  struct counts counts;
  if (write(serving->ask, "?", 1) != 1 || read(serving->answer, &counts, sizeof counts) != sizeof counts) exit(91);
  return counts;
}

/* Its CPU time in all, in seconds. */
static inline double serve_no_more(const struct serving *serving) {
  struct rusage usage;
  int status;
  close(serving->ask);
  if (wait4(serving->pid, &status, 0, &usage) < 0 || status != 0) exit(93);
  return cpu_of(&usage);
}

/* What each client does, one after the other; client `number` of `count`. */
typedef void (*client_step)(ice_store *store, int number, int count);

/* How long a step took: microseconds from its beginning until the first, the middle and the last client was through;
 * what it asked of the server. */
struct step_cost {
  double first, median, last;
  uint64_t requests;
  double cpu;
};

struct crowd {
  int port, count;
  size_t steps;
  const client_step *step;
  pthread_barrier_t gate; /* of all clients and the one that measures */
  double *done;           /* when, by step and client */
};

struct member {
  struct crowd *crowd;
  int number;
};

static inline void *live(void *of) {
  struct member *me = of;
  struct crowd *crowd = me->crowd;
  ice_store *store = NULL;
  for (size_t step = 0; step < crowd->steps + 1; step++) {
    pthread_barrier_wait(&crowd->gate);
    if (step == 0)
      check(ice_store_connect("127.0.0.1", crowd->port, 60, &store));
    else
      crowd->step[step - 1](store, me->number, crowd->count);
    crowd->done[step * (size_t)crowd->count + (size_t)me->number] = NOW();
    pthread_barrier_wait(&crowd->gate);
  }
  ice_store_free(store);
  return NULL;
}

static inline int by_time(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

/* Lets `count` clients connect, which is step 0 of `costs`, and then do `steps` steps, all at once each. `meanwhile`,
 * if not NULL, is called in each step by the thread that measures; a step then begins when it says so. */
static inline void measure_clients(const struct serving *serving, int count, const client_step *step, size_t steps,
                                   double (*meanwhile)(size_t step, int port, int count), struct step_cost *costs) {
  struct crowd crowd = {.port = serving->port, .count = count, .steps = steps, .step = step};
  struct member *members = calloc((size_t)count, sizeof *members);
  pthread_t *threads = calloc((size_t)count, sizeof *threads);
  pthread_attr_t small;
  crowd.done = calloc((size_t)count * (steps + 1), sizeof *crowd.done);
  if (!members || !threads || !crowd.done) exit(90);
  many_descriptors();
  pthread_attr_init(&small);
  pthread_attr_setstacksize(&small, 128 << 10);
  pthread_barrier_init(&crowd.gate, NULL, (unsigned)count + 1);
  for (int i = 0; i < count; i++) {
    members[i] = (struct member){&crowd, i};
    if (pthread_create(&threads[i], &small, live, &members[i]) != 0) {
      fprintf(stderr, "store: no thread for client %d\n", i);
      exit(90);
    }
  }
  for (size_t at = 0; at < steps + 1; at++) {
    struct counts before = served(serving);
    double begin = NOW();
    pthread_barrier_wait(&crowd.gate);
    if (meanwhile && at > 0) {
      double later = meanwhile(at - 1, serving->port, count);
      if (later > 0) begin = later;
    }
    pthread_barrier_wait(&crowd.gate);
    struct counts after = served(serving);
    double *done = crowd.done + at * (size_t)count;
    qsort(done, (size_t)count, sizeof *done, by_time);
    costs[at] = (struct step_cost){done[0] - begin, done[count / 2] - begin, done[count - 1] - begin,
                                   after.requests - before.requests, after.cpu - before.cpu};
  }
  for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
  pthread_barrier_destroy(&crowd.gate);
  free(crowd.done);
  free(threads);
  free(members);
}

#endif

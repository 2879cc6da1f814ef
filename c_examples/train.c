/* A data-parallel trainer that survives the death of a worker.
 *
 * Several processes, the ranks, train one small neural network on the handwritten digits of
 * data/digits.csv. Each rank works out the gradient of its part of every batch, the ranks add their
 * gradients up over TCP, and all take the same step. Rank 0 writes a checkpoint every few epochs.
 *
 * The program does this twice. The first run is left in peace. In the second one rank is killed in
 * the middle of an epoch: the agent stops the other ranks, starts all of them again, and they go on
 * from the checkpoint. At the end both runs must have the same weights, byte for byte.
 *
 * The parts, in this order: errors, data, model, all-reduce, checkpoint, the worker, the host. What
 * has to do with libice is in the last two.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "ice.h"

/* ------------------------------------------------------------------------------------- errors
 *
 * Functions of the worker return GOOD or the exit code that the worker is to end with. The reason
 * stands in `problem`. */

enum {
  GOOD = 0,
  FAILED = 1,    /* another attempt may do better */
  HOPELESS = 2,  /* it will not: the data file is missing, say */
  PEER_LOST = 3, /* another rank is gone or silent; its own end tells more than ours */
};

static char problem[1024];

__attribute__((format(printf, 2, 3))) static int because(int code, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(problem, sizeof problem, format, arguments);
  va_end(arguments);
  return code;
}

/* --------------------------------------------------------------------------------------- data */

enum { PIXELS = 64, INK = 16, DIGITS = 10, HELD_OUT = 5 };

struct image {
  double pixels[PIXELS]; /* 0 to 1 */
  int digit;
};

struct images {
  struct image *items;
  size_t count, room;
};

struct data {
  struct images train;
  struct images test; /* every fifth image: never trained on, only for the final accuracy */
};

static bool append(struct images *images, const struct image *image) {
  if (images->count == images->room) {
    size_t room = images->room > 0 ? 2 * images->room : 256;
    struct image *items = realloc(images->items, room * sizeof *items);
    if (items == NULL)
      return false;
    images->items = items;
    images->room = room;
  }
  images->items[images->count++] = *image;
  return true;
}

/* One line: 64 whole numbers from 0 to 16 and the digit, with commas between them. */
static bool parse_line(const char *line, struct image *image) {
  for (int i = 0; i <= PIXELS; i++) {
    char *end;
    errno = 0;
    long value = strtol(line, &end, 10);
    if (end == line || errno != 0 || value < 0 || value > (i < PIXELS ? INK : DIGITS - 1))
      return false;
    if (i < PIXELS && *end != ',')
      return false;
    if (i < PIXELS)
      image->pixels[i] = (double)value / INK;
    else
      image->digit = (int)value;
    line = i < PIXELS ? end + 1 : end;
  }
  return line[strspn(line, "\r\n")] == '\0';
}

static int load_data(const char *path, struct data *data) {
  memset(data, 0, sizeof *data);
  FILE *file = fopen(path, "r");
  if (file == NULL)
    return because(HOPELESS, "cannot open the data file %s: %s", path, strerror(errno));

  int code = GOOD;
  char *line = NULL;
  size_t size = 0;
  for (size_t number = 0; code == GOOD && getline(&line, &size, file) >= 0; number++) {
    struct image image;
    if (!parse_line(line, &image))
      code = because(HOPELESS, "%s, line %zu: not 64 pixels and a digit", path, number + 1);
    else if (!append(number % HELD_OUT == 0 ? &data->test : &data->train, &image))
      code = because(FAILED, "out of memory for the data");
  }
  if (code == GOOD && ferror(file))
    code = because(FAILED, "cannot read the data file %s: %s", path, strerror(errno));
  else if (code == GOOD && data->train.count == 0)
    code = because(HOPELESS, "the data file %s has too few lines", path);
  free(line);
  fclose(file);
  return code;
}

static void free_data(struct data *data) {
  free(data->train.items);
  free(data->test.items);
}

/* -------------------------------------------------------------------------------------- model
 *
 * 64 pixels, 32 hidden units with tanh, 10 outputs with softmax; stochastic gradient descent with
 * momentum. Everything is a function of the seed and the epoch's number, so that a checkpoint needs
 * no state of a random number generator. */

enum {
  HIDDEN = 32,
  FIRST_LAYER = HIDDEN * (PIXELS + 1), /* each unit: the weights of its inputs, then its bias */
  WEIGHTS = FIRST_LAYER + DIGITS * (HIDDEN + 1),
  BATCH = 32, /* images of one step, over all ranks together */
};

static const double LEARNING_RATE = 0.05;
static const double MOMENTUM = 0.9;
static const uint64_t SEED = 1998;

/* All that training changes, and so all that a checkpoint must hold. Without the velocities a
 * resumed run would go on, but not to the same weights. */
struct state {
  int64_t epoch; /* how many epochs are done */
  double weights[WEIGHTS];
  double velocities[WEIGHTS];
};

/* splitmix64, by Sebastiano Vigna, in the public domain. */
static uint64_t next_random(uint64_t *random) {
  uint64_t z = *random += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

static void init_state(struct state *state) {
  memset(state, 0, sizeof *state);
  uint64_t random = SEED;
  for (int i = 0; i < WEIGHTS; i++) {
    double range = 1 / sqrt(i < FIRST_LAYER ? PIXELS : HIDDEN);
    state->weights[i] = range * (2 * ((double)(next_random(&random) >> 11) * 0x1p-53) - 1);
  }
}

/* The order of the training images in one epoch. All ranks find the same. */
static void shuffle(size_t *order, size_t count, int64_t epoch) {
  uint64_t random = SEED + (uint64_t)epoch + 1;
  for (size_t i = 0; i < count; i++)
    order[i] = i;
  for (size_t i = count - 1; i > 0; i--) {
    size_t j = (size_t)(next_random(&random) % (i + 1));
    size_t other = order[j];
    order[j] = order[i];
    order[i] = other;
  }
}

static void layer(const double *weights, const double *in, int inputs, double *out, int outputs) {
  for (int k = 0; k < outputs; k++) {
    double sum = weights[inputs];
    for (int i = 0; i < inputs; i++)
      sum += weights[i] * in[i];
    out[k] = sum;
    weights += inputs + 1;
  }
}

/* Fills in the hidden units and the probability of each digit. */
static void forward(const double *weights, const struct image *image, double *hidden,
                    double *probabilities) {
  layer(weights, image->pixels, PIXELS, hidden, HIDDEN);
  for (int j = 0; j < HIDDEN; j++)
    hidden[j] = tanh(hidden[j]);
  layer(weights + FIRST_LAYER, hidden, HIDDEN, probabilities, DIGITS);

  double highest = probabilities[0], sum = 0;
  for (int k = 1; k < DIGITS; k++)
    highest = fmax(highest, probabilities[k]);
  for (int k = 0; k < DIGITS; k++)
    sum += probabilities[k] = exp(probabilities[k] - highest);
  for (int k = 0; k < DIGITS; k++)
    probabilities[k] /= sum;
}

/* Adds one image's gradient to `gradient` and returns its loss (cross-entropy). */
static double add_gradient(const double *weights, const struct image *image, double *gradient) {
  double hidden[HIDDEN], probabilities[DIGITS], back[HIDDEN] = {0};
  forward(weights, image, hidden, probabilities);

  for (int k = 0; k < DIGITS; k++) {
    double error = probabilities[k] - (k == image->digit);
    const double *row = weights + FIRST_LAYER + k * (HIDDEN + 1);
    double *slope = gradient + FIRST_LAYER + k * (HIDDEN + 1);
    for (int j = 0; j < HIDDEN; j++) {
      back[j] += error * row[j];
      slope[j] += error * hidden[j];
    }
    slope[HIDDEN] += error;
  }
  for (int j = 0; j < HIDDEN; j++) {
    double error = back[j] * (1 - hidden[j] * hidden[j]);
    double *slope = gradient + j * (PIXELS + 1);
    for (int i = 0; i < PIXELS; i++)
      slope[i] += error * image->pixels[i];
    slope[PIXELS] += error;
  }
  return -log(fmax(probabilities[image->digit], 1e-300));
}

/* `gradient` is the sum over `images` images. */
static void take_step(struct state *state, const double *gradient, size_t images) {
  for (int i = 0; i < WEIGHTS; i++) {
    state->velocities[i] = MOMENTUM * state->velocities[i] - gradient[i] / (double)images;
    state->weights[i] += LEARNING_RATE * state->velocities[i];
  }
}

static int count_correct(const double *weights, const struct images *images) {
  int correct = 0;
  for (size_t n = 0; n < images->count; n++) {
    double hidden[HIDDEN], probabilities[DIGITS];
    forward(weights, &images->items[n], hidden, probabilities);
    int best = 0;
    for (int k = 1; k < DIGITS; k++)
      if (probabilities[k] > probabilities[best])
        best = k;
    correct += best == images->items[n].digit;
  }
  return correct;
}

/* --------------------------------------------------------------------------------- all-reduce
 *
 * A star: rank 0 listens on MASTER_ADDR:MASTER_PORT, all others connect to it. It adds the numbers
 * up in the order of the ranks, whoever comes first: floating-point sums depend on their order, and
 * the result must not depend on the timing. Numbers travel as they lie in memory, so all machines
 * must be of one kind. */

enum { MAX_RANKS = 64, PATIENCE_SECONDS = 30 };

struct group {
  int rank, size;
  int sockets[MAX_RANKS]; /* rank 0: one to each other rank; others: [0], to rank 0; else -1 */
};

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

static void leave_group(struct group *group) {
  for (int i = 0; i < group->size; i++)
    if (group->sockets[i] >= 0)
      close(group->sockets[i]);
}

static int join_group(struct group *group, int rank, int size) {
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
static int broadcast(const struct group *group, void *data, size_t length) {
  if (group->rank > 0)
    return receive_all(group->sockets[0], 0, data, length);
  int code = GOOD;
  for (int rank = 1; rank < group->size && code == GOOD; rank++)
    code = send_all(group->sockets[rank], rank, data, length);
  return code;
}

/* All ranks get the sums of all ranks' numbers. */
static int all_reduce(const struct group *group, double *numbers, size_t count) {
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

/* --------------------------------------------------------------------------------- checkpoint */

enum { CHECKPOINT_EVERY = 5 }; /* epochs */

static const char CHECKPOINT[16] = "ice digits 1";

/* A rename is durable only when its directory is on the disk. */
static bool sync_directory_of(const char *path) {
  const char *slash = strrchr(path, '/');
  char directory[PATH_MAX];
  int length = slash == NULL ? 0 : (int)(slash - path);
  snprintf(directory, sizeof directory, "%.*s", length == 0 ? 1 : length,
           slash == NULL ? "." : path);
  int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0)
    return false;
  bool good = fsync(fd) == 0;
  close(fd);
  return good;
}

/* Under another name first: whoever dies whenever, under `path` there is always a whole checkpoint,
 * the old one or the new one. */
static int save_checkpoint(const char *path, const struct state *state) {
  char temporary[PATH_MAX];
  if (snprintf(temporary, sizeof temporary, "%s.new", path) >= (int)sizeof temporary)
    return because(HOPELESS, "the path of the checkpoint is too long");

  FILE *file = fopen(temporary, "wb");
  if (file == NULL)
    return because(FAILED, "cannot create %s: %s", temporary, strerror(errno));
  bool written = fwrite(CHECKPOINT, sizeof CHECKPOINT, 1, file) == 1 &&
                 fwrite(state, sizeof *state, 1, file) == 1 && fflush(file) == 0 &&
                 fsync(fileno(file)) == 0;
  if (fclose(file) != 0 || !written)
    return because(FAILED, "cannot write %s: %s", temporary, strerror(errno));
  if (rename(temporary, path) != 0 || !sync_directory_of(path))
    return because(FAILED, "cannot put the checkpoint at %s: %s", path, strerror(errno));
  return GOOD;
}

/* Starts from nothing only if there is no checkpoint. One that cannot be read is an error: to lose
 * days of training silently would be worse than to stop. */
static int load_checkpoint(const char *path, struct state *state) {
  FILE *file = fopen(path, "rb");
  if (file == NULL && errno == ENOENT) {
    init_state(state);
    return GOOD;
  }
  if (file == NULL)
    return because(FAILED, "cannot open the checkpoint %s: %s", path, strerror(errno));
  char head[sizeof CHECKPOINT];
  bool whole = fread(head, sizeof head, 1, file) == 1 &&
               fread(state, sizeof *state, 1, file) == 1 && fgetc(file) == EOF && !ferror(file) &&
               memcmp(head, CHECKPOINT, sizeof head) == 0;
  fclose(file);
  return whole ? GOOD : because(HOPELESS, "%s is no checkpoint of this program", path);
}

/* --------------------------------------------------------------------------------- the worker */

/* What the host wants of all ranks. The ranks are forked copies of the host and find it in their
 * memory. */
struct job {
  int ranks;
  int64_t epochs;
  int kill_rank; /* -1: nobody */
  int64_t kill_epoch;
  const char *data;
  char checkpoint[PATH_MAX];
};

/* What rank 0 returns to the host. */
struct outcome {
  int64_t resumed_at; /* how many epochs the last attempt found done when it started */
  int correct, tested;
  double weights[WEIGHTS];
};

/* The accident of the second run: one rank is killed, in the first attempt only. */
static void maybe_die(const struct job *job, const ice_worker *worker, int64_t epoch, size_t step) {
  if (ice_worker_rank(worker) == job->kill_rank && ice_worker_restart_count(worker) == 0 &&
      epoch == job->kill_epoch) {
    fprintf(stderr, "rank %d: epoch %" PRId64 ", step %zu: this is my last line\n", job->kill_rank,
            epoch, step);
    raise(SIGKILL);
  }
}

static int train_epoch(const struct job *job, const ice_worker *worker, const struct group *group,
                       const struct images *train, size_t *order, struct state *state) {
  shuffle(order, train->count, state->epoch);

  double loss = 0;
  for (size_t start = 0; start < train->count; start += BATCH) {
    if (start / BATCH == train->count / BATCH / 2)
      maybe_die(job, worker, state->epoch, start / BATCH);

    /* This rank's share of the batch: one image of `size`. */
    size_t end = start + BATCH < train->count ? start + BATCH : train->count;
    double sums[WEIGHTS + 1] = {0}; /* the gradient, and the loss behind it */
    for (size_t i = start + (size_t)group->rank; i < end; i += (size_t)group->size)
      sums[WEIGHTS] += add_gradient(state->weights, &train->items[order[i]], sums);

    int code = all_reduce(group, sums, WEIGHTS + 1);
    if (code != GOOD)
      return code;
    take_step(state, sums, end - start);
    loss += sums[WEIGHTS];
  }
  state->epoch++;
  if (group->rank == 0)
    printf("epoch %" PRId64 ": loss %.5f\n", state->epoch, loss / (double)train->count);
  return GOOD;
}

static int train(const struct job *job, ice_worker *worker, const struct group *group,
                 const struct data *data) {
  /* Only rank 0 looks at the disk. All others take its state, so that no two ranks can start from
   * different epochs, whatever each of them would find. */
  struct state state;
  int code = group->rank == 0 ? load_checkpoint(job->checkpoint, &state) : GOOD;
  if (code == GOOD)
    code = broadcast(group, &state, sizeof state);
  if (code != GOOD)
    return code;

  struct outcome outcome = {.resumed_at = state.epoch};
  size_t *order = calloc(data->train.count, sizeof *order);
  if (order == NULL)
    return because(FAILED, "out of memory for the order of the data");
  while (code == GOOD && state.epoch < job->epochs) {
    code = train_epoch(job, worker, group, &data->train, order, &state);
    if (code == GOOD && group->rank == 0 && state.epoch % CHECKPOINT_EVERY == 0)
      code = save_checkpoint(job->checkpoint, &state);
  }
  free(order);
  if (code != GOOD || group->rank != 0)
    return code;

  outcome.correct = count_correct(state.weights, &data->test);
  outcome.tested = (int)data->test.count;
  memcpy(outcome.weights, state.weights, sizeof outcome.weights);
  if (ice_worker_return(worker, &outcome, sizeof outcome) != ICE_OK)
    return because(FAILED, "cannot return the weights: %s", ice_last_error_message());
  return GOOD;
}

/* Tells people why this worker fails, in its log and in the agent's result. */
static void report_problem(int rank) {
  fprintf(stderr, "rank %d: %s\n", rank, problem);
  if (ice_worker_record_error(problem, NULL) != ICE_OK)
    fprintf(stderr, "rank %d: %s\n", rank, ice_last_error_message());
}

/* Every rank is a process of its own and starts here; what is returned is its exit code. */
static int32_t work(ice_worker *worker, void *user_data) {
  const struct job *job = user_data;
  int rank = ice_worker_rank(worker);

  struct data data;
  struct group group = {0};
  int code = load_data(job->data, &data);
  if (code == GOOD)
    code = join_group(&group, rank, ice_worker_world_size(worker));
  if (code == GOOD)
    code = train(job, worker, &group, &data);

  if (code != GOOD)
    report_problem(rank);
  /* A rank that dies closes its connections a moment before the kernel counts it as dead. If this
   * one ended at once, it could be the first failure that the agent sees and be taken for the
   * culprit. So give the agent time to see the real one; its SIGTERM then ends this process. */
  if (code == PEER_LOST)
    sleep(5);

  leave_group(&group);
  free_data(&data);
  return code;
}

/* ----------------------------------------------------------------------------------- the host */

struct options {
  int ranks;
  int64_t epochs;
  int kill_rank;
  int64_t kill_epoch;
  bool undisturbed;
  const char *data;
  const char *directory;
  bool keep_directory;
};

/* The spec: what is to run, how often again, and where its output goes. */
static bool fill_spec(ice_spec *spec, const struct options *options, struct job *job,
                      const char *name) {
  char logs[PATH_MAX];
  if (snprintf(logs, sizeof logs, "%s/logs", options->directory) >= (int)sizeof logs)
    return false;
  return ice_spec_set_role(spec, "trainer") == ICE_OK &&
         ice_spec_set_run_id(spec, name) == ICE_OK &&
         ice_spec_set_callback(spec, work, job) == ICE_OK &&
         ice_spec_set_local_world_size(spec, job->ranks) == ICE_OK &&
         ice_spec_set_max_restarts(spec, 3) == ICE_OK &&
         ice_spec_add_no_restart_exit_code(spec, HOPELESS) == ICE_OK &&
         ice_spec_set_shutdown_timeout(spec, 5) == ICE_OK &&
         ice_spec_set_signals(spec, "SIGINT,SIGTERM,SIGHUP") == ICE_OK &&
         ice_spec_set_log_dir(spec, logs) == ICE_OK && ice_spec_set_redirects(spec, "3") == ICE_OK;
}

static bool run_agent(const struct options *options, struct job *job, const char *name,
                      ice_result **result) {
  ice_spec *spec = NULL;
  ice_agent *agent = NULL;
  bool good = ice_spec_new(&spec) == ICE_OK && fill_spec(spec, options, job, name) &&
              ice_agent_new(spec, &agent) == ICE_OK && ice_agent_run(agent, result) == ICE_OK;
  if (!good)
    fprintf(stderr, "the %s run: %s\n", name, ice_last_error_message());
  ice_agent_free(agent);
  ice_spec_free(spec);
  return good;
}

static void print_death_certificate(const ice_worker_result *worker) {
  printf("  died: rank %d, PID %d, in attempt %d, after %.3f s\n", worker->global_rank, worker->pid,
         worker->attempt, (double)(worker->end_ns - worker->start_ns) / 1e9);
  if (worker->outcome == ICE_OUTCOME_SIGNALED)
    printf("    of:      signal %d (%s)\n", worker->signal, strsignal(worker->signal));
  else
    printf("    of:      exit code %d\n", worker->exit_code);
  printf("    message: %s\n", worker->message);
  for (const char *line = worker->stderr_tail; *line != '\0';) {
    size_t length = strcspn(line, "\n");
    printf("    stderr:  %.*s\n", (int)length, line);
    line += length + (line[length] == '\n');
  }
}

/* Did the run end as it should have? Where nobody was to be killed, nobody may have died; else just
 * that rank, by SIGKILL, in the first attempt. */
static bool as_expected(const ice_result *result, const struct job *job) {
  if (ice_result_end(result) != ICE_END_SUCCEEDED)
    return false;
  if (job->kill_rank < 0)
    return ice_result_restarts(result) == 0 && ice_result_failure_count(result) == 0;
  const ice_worker_result *dead = ice_result_failure(result, 0);
  return ice_result_restarts(result) == 1 && ice_result_failure_count(result) == 1 &&
         dead != NULL && dead->global_rank == job->kill_rank && dead->attempt == 0 &&
         dead->cause == ICE_CAUSE_OWN_FAILURE && dead->signal == SIGKILL;
}

/* One run from nothing to the end: prints how it went, writes what rank 0 returned to `outcome`. */
static bool run_job(const struct options *options, bool disturbed, struct outcome *outcome) {
  const char *name = disturbed ? "disturbed" : "undisturbed";
  struct job job = {
    .ranks = options->ranks,
    .epochs = options->epochs,
    .kill_rank = disturbed ? options->kill_rank : -1,
    .kill_epoch = options->kill_epoch,
    .data = options->data,
  };
  int length = snprintf(job.checkpoint, sizeof job.checkpoint, "%s/%s.checkpoint",
                        options->directory, name);
  if (length >= (int)sizeof job.checkpoint) {
    fprintf(stderr, "the path of the directory is too long\n");
    return false;
  }
  /* With --dir there may be the checkpoint of an earlier day. */
  if (unlink(job.checkpoint) != 0 && errno != ENOENT) {
    fprintf(stderr, "cannot remove %s: %s\n", job.checkpoint, strerror(errno));
    return false;
  }

  printf("the %s run: %d rank%s, %" PRId64 " epochs\n", name, job.ranks,
         job.ranks == 1 ? "" : "s", job.epochs);
  ice_result *result = NULL;
  if (!run_agent(options, &job, name, &result))
    return false;

  bool good = as_expected(result, &job);
  const ice_worker_result *first = ice_result_worker_of_rank(result, 0);
  if (first != NULL && first->has_value && first->value_size == sizeof *outcome) {
    memcpy(outcome, first->value, sizeof *outcome);
    printf("  accuracy: %.2f %% (%d of %d held-out digits)\n",
           100.0 * outcome->correct / outcome->tested, outcome->correct, outcome->tested);
  } else {
    good = false;
  }
  printf("  restarts: %d\n", ice_result_restarts(result));
  for (size_t i = 0; i < ice_result_failure_count(result); i++)
    print_death_certificate(ice_result_failure(result, i));
  if (ice_result_restarts(result) > 0 && good)
    printf("  resumed:  after %" PRId64 " epochs\n", outcome->resumed_at);
  if (options->keep_directory)
    printf("  logs:     %s\n", ice_result_run_dir(result));
  if (!good)
    fprintf(stderr, "the %s run did not go as it should:\n%s", name, ice_result_summary(result));
  ice_result_free(result);
  return good;
}

/* The runs and the comparison of what they came to. */
static bool run_all(const struct options *options) {
  static struct outcome peaceful, disturbed;
  if (!run_job(options, false, &peaceful))
    return false;
  if (options->undisturbed)
    return true;
  if (!run_job(options, true, &disturbed))
    return false;
  bool same = memcmp(peaceful.weights, disturbed.weights, sizeof peaceful.weights) == 0;
  printf("the final weights of both runs, %d numbers: %s\n", WEIGHTS,
         same ? "the same, byte for byte" : "NOT the same");
  return same;
}

static const char USAGE[] =
  "usage: train [options]\n"
  "\n"
  "Trains a small network on handwritten digits with several processes, twice: once in peace, and\n"
  "once with a process killed on the way. Both must come to the same weights.\n"
  "\n"
  "  --ranks N        how many processes, 1 to 64 (default 4)\n"
  "  --epochs E       how many times to go through the data (default 30)\n"
  "  --kill-rank R    who is killed (default 2, or the last rank if there are fewer)\n"
  "  --kill-epoch K   in which epoch, from 0 (default three fifths of all)\n"
  "  --undisturbed    only the first run\n"
  "  --data FILE      the digits (default ../data/digits.csv, seen from this program)\n"
  "  --dir DIR        where checkpoints and logs go and stay (default: a new directory below\n"
  "                   TMPDIR or /tmp, removed at the end unless something went wrong)\n"
  "  --help           this text\n"
  "\n"
  "Exit code: 0 if all went well, else 1.\n";

static bool parse_number(const char *option, const char *text, int64_t low, int64_t high,
                         int64_t *number) {
  char *end;
  errno = 0;
  long long value = strtoll(text, &end, 10);
  if (end == text || *end != '\0' || errno != 0 || value < low || value > high) {
    fprintf(stderr, "--%s is '%s', not a number from %" PRId64 " to %" PRId64 "\n", option, text,
            low, high);
    return false;
  }
  *number = value;
  return true;
}

/* The data lies beside the directory of the executable: train runs in place from anywhere. */
static const char *find_data(void) {
  static char path[PATH_MAX];
  char executable[PATH_MAX];
  ssize_t length = readlink("/proc/self/exe", executable, sizeof executable - 1);
  if (length < 0) {
    fprintf(stderr, "cannot read /proc/self/exe: %s\n", strerror(errno));
    return NULL;
  }
  executable[length] = '\0';
  *strrchr(executable, '/') = '\0';
  if (snprintf(path, sizeof path, "%s/../data/digits.csv", executable) >= (int)sizeof path) {
    fprintf(stderr, "the path of the data is too long\n");
    return NULL;
  }
  return path;
}

static bool parse_options(int count, char **arguments, struct options *options) {
  static const struct option known[] = {
    {"ranks", required_argument, NULL, 'r'},     {"epochs", required_argument, NULL, 'e'},
    {"kill-rank", required_argument, NULL, 'k'}, {"kill-epoch", required_argument, NULL, 'K'},
    {"data", required_argument, NULL, 'd'},      {"dir", required_argument, NULL, 'D'},
    {"undisturbed", no_argument, NULL, 'u'},     {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
  };
  int64_t ranks = 4, epochs = 30, kill_rank = -1, kill_epoch = -1;
  int letter, index = 0;
  while ((letter = getopt_long(count, arguments, "", known, &index)) != -1) {
    bool good = true;
    switch (letter) {
    case 'r': good = parse_number("ranks", optarg, 1, MAX_RANKS, &ranks); break;
    case 'e': good = parse_number("epochs", optarg, 1, 1000000, &epochs); break;
    case 'k': good = parse_number("kill-rank", optarg, 0, MAX_RANKS - 1, &kill_rank); break;
    case 'K': good = parse_number("kill-epoch", optarg, 0, 999999, &kill_epoch); break;
    case 'd': options->data = optarg; break;
    case 'D': options->directory = optarg; break;
    case 'u': options->undisturbed = true; break;
    case 'h': fputs(USAGE, stdout); exit(EXIT_SUCCESS);
    default: good = false; /* getopt_long has said what is wrong */
    }
    if (!good)
      return false;
  }
  if (optind < count) {
    fprintf(stderr, "'%s' is no option\n", arguments[optind]);
    return false;
  }
  if (kill_rank < 0)
    kill_rank = ranks > 2 ? 2 : ranks - 1;
  if (kill_epoch < 0)
    kill_epoch = epochs * 3 / 5;
  if (kill_rank >= ranks || kill_epoch >= epochs) {
    fprintf(stderr, "the rank or epoch of the kill is beyond the last\n");
    return false;
  }
  options->ranks = (int)ranks;
  options->epochs = epochs;
  options->kill_rank = (int)kill_rank;
  options->kill_epoch = kill_epoch;
  if (options->data == NULL)
    options->data = find_data();
  return options->data != NULL;
}

static bool make_directory(struct options *options) {
  if (options->directory != NULL) {
    options->keep_directory = true;
    if (mkdir(options->directory, 0777) == 0 || errno == EEXIST)
      return true;
    fprintf(stderr, "cannot make %s: %s\n", options->directory, strerror(errno));
    return false;
  }
  static char path[PATH_MAX];
  const char *parent = getenv("TMPDIR");
  if (parent == NULL || *parent == '\0')
    parent = "/tmp";
  int length = snprintf(path, sizeof path, "%s/ice-train-XXXXXX", parent);
  if (length >= (int)sizeof path || mkdtemp(path) == NULL) {
    fprintf(stderr, "cannot make a directory below %s: %s\n", parent, strerror(errno));
    return false;
  }
  options->directory = path;
  return true;
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *place) {
  (void)status, (void)kind, (void)place;
  return remove(path);
}

int main(int count, char **arguments) {
  setvbuf(stdout, NULL, _IOLBF, 0); /* into a pipe too: lines in the order of those on stderr */
  struct options options = {0};
  if (!parse_options(count, arguments, &options)) {
    fprintf(stderr, "try --help\n");
    return EXIT_FAILURE;
  }
  if (!make_directory(&options))
    return EXIT_FAILURE;

  bool good = run_all(&options);
  if (good && !options.keep_directory) {
    if (nftw(options.directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS) != 0) {
      fprintf(stderr, "cannot remove %s: %s\n", options.directory, strerror(errno));
      good = false;
    }
  } else if (!good) {
    fprintf(stderr, "logs and checkpoints are in %s\n", options.directory);
  }
  if (fflush(stdout) != 0) {
    fprintf(stderr, "cannot write to stdout: %s\n", strerror(errno));
    good = false;
  }
  return good ? EXIT_SUCCESS : EXIT_FAILURE;
}

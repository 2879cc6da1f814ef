/* The worker: what each rank does, as a function and as a program.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define _GNU_SOURCE

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "train.h"

enum {
  BATCH = 32,           /* images of one step, over all ranks together */
  CHECKPOINT_EVERY = 5, /* epochs */
};

/* Who this worker is: a function asks its ice_worker, a program its environment. */
struct place {
  ice_worker *worker;
  int rank, size, attempt;
};

static char problem[1024];

int because(int code, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(problem, sizeof problem, format, arguments);
  va_end(arguments);
  return code;
}

/* ----------------------------------------------------------------------------------- training */

/* The accident of the second run: one rank is killed, in the first attempt only. */
static void maybe_die(const struct job *job, const struct place *place, int64_t epoch,
                      size_t step) {
  if (place->rank == job->kill_rank && place->attempt == 0 && epoch == job->kill_epoch) {
    fprintf(stderr, "rank %d: epoch %" PRId64 ", step %zu: this is my last line\n", place->rank,
            epoch, step);
    raise(SIGKILL);
  }
}

static int train_epoch(const struct job *job, const struct place *place, const struct group *group,
                       const struct images *train, size_t *order, struct state *state) {
  shuffle(order, train->count, state->epoch);

  double loss = 0;
  for (size_t start = 0; start < train->count; start += BATCH) {
    if (start / BATCH == train->count / BATCH / 2)
      maybe_die(job, place, state->epoch, start / BATCH);

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

/* Does what the agent asks for: before a stop it wants a checkpoint, at ^C it has the ranks pause
 * first. It asks all of them at the same epoch, so none waits in a sum for one that has stopped.
 * `stop_follows` becomes true once there is the checkpoint before a stop. */
static int obey(const struct job *job, const struct place *place, const struct state *state,
                bool *stop_follows) {
  ice_request request;
  int32_t kind;
  ice_worker_step(place->worker, (uint64_t)state->epoch);
  while ((kind = ice_worker_poll(place->worker, &request)) != ICE_REQUEST_NONE) {
    int code = GOOD;
    if (kind == ICE_REQUEST_SAVE) {
      printf("asked to save after %" PRId64 " epochs\n", state->epoch);
      fflush(stdout);
      if (place->rank == 0)
        code = save_checkpoint(job->checkpoint, state);
      *stop_follows = request.reason == ICE_REASON_PREEMPTION;
    }
    ice_worker_acknowledge(place->worker, code == GOOD);
    if (code != GOOD)
      return code;
  }
  return GOOD;
}

static int train(const struct job *job, const struct place *place, const struct group *group,
                 const struct data *data, struct outcome *outcome) {
  /* Only rank 0 looks at the disk. All others take its state, so that no two ranks can start from
   * different epochs, whatever each of them would find. */
  struct state state;
  int code = group->rank == 0 ? load_checkpoint(job->checkpoint, &state) : GOOD;
  if (code == GOOD)
    code = broadcast(group, &state, sizeof state);
  if (code != GOOD)
    return code;

  outcome->resumed_at = state.epoch;
  size_t *order = calloc(data->train.count, sizeof *order);
  if (order == NULL)
    return because(FAILED, "out of memory for the order of the data");
  bool stop_follows = false;
  while (code == GOOD && state.epoch < job->epochs) {
    code = train_epoch(job, place, group, &data->train, order, &state);
    /* None in the place of the last one, which the stop could cut short. */
    bool is_due = state.epoch % CHECKPOINT_EVERY == 0 && !stop_follows;
    if (code == GOOD && group->rank == 0 && is_due)
      code = save_checkpoint(job->checkpoint, &state);
    if (code == GOOD)
      code = obey(job, place, &state, &stop_follows);
  }
  free(order);
  if (code != GOOD)
    return code;

  outcome->correct = count_correct(state.weights, &data->test);
  outcome->tested = (int32_t)data->test.count;
  memcpy(outcome->weights, state.weights, sizeof outcome->weights);
  return GOOD;
}

/* ----------------------------------------------------------------------------------- one rank */

/* Filled by the warm-up, if there is one: a worker is then born with the data in its memory. */
static struct data data;

static int join_and_train(const struct job *job, const struct place *place,
                          struct outcome *outcome) {
  outcome->data_was_there = data.train.count > 0;
  int code = outcome->data_was_there ? GOOD : load_data(job->data, &data);
  struct group group;
  if (code == GOOD)
    code = join_group(&group, place->rank, place->size);
  if (code == GOOD)
    code = train(job, place, &group, &data, outcome);
  if (code == GOOD)
    leave_group(&group);
  return code; /* after a failure the process ends, and with it everything it holds */
}

/* Tells people why this worker fails, in its log and in the agent's result. */
static int fail(int rank, int code) {
  fprintf(stderr, "rank %d: %s\n", rank, problem);
  if (ice_worker_record_error(problem, NULL) != ICE_OK)
    fprintf(stderr, "rank %d: %s\n", rank, ice_last_error_message());
  /* A rank that dies closes its connections a moment before the kernel counts it as dead. If this
   * one ended at once, it could be the first failure that the agent sees and be taken for the
   * culprit. So give the agent time to see the real one; its SIGTERM then ends this process. */
  if (code == PEER_LOST)
    sleep(5);
  return code;
}

/* ---------------------------------------------------------------------- the worker as a function */

static int job_of(const ice_worker *worker, const struct job **job) {
  const void *argument;
  size_t length;
  if (ice_worker_argument(worker, &argument, &length) != ICE_OK)
    return because(HOPELESS, "no argument: %s", ice_last_error_message());
  if (length != sizeof **job)
    return because(HOPELESS, "the argument is no job of this version");
  *job = argument;
  return GOOD;
}

int32_t train_warm_up(ice_worker *worker, void *user_data) {
  (void)user_data;
  const struct job *job;
  int code = job_of(worker, &job);
  if (code == GOOD)
    code = load_data(job->data, &data);
  if (code != GOOD)
    fprintf(stderr, "the warm-up: %s\n", problem);
  return code;
}

int32_t train_worker(ice_worker *worker, void *user_data) {
  (void)user_data;
  struct place place = {
    .worker = worker,
    .rank = ice_worker_rank(worker),
    .size = ice_worker_world_size(worker),
    .attempt = ice_worker_restart_count(worker),
  };
  static struct outcome outcome;
  const struct job *job;
  int code = job_of(worker, &job);
  if (code == GOOD)
    code = join_and_train(job, &place, &outcome);
  if (code == GOOD && place.rank == 0 &&
      ice_worker_return(worker, &outcome, sizeof outcome) != ICE_OK)
    code = because(FAILED, "cannot return the weights: %s", ice_last_error_message());
  return code == GOOD ? GOOD : fail(place.rank, code);
}

/* ----------------------------------------------------------------------- the worker as a program */

static int number_in_environment(const char *name, int *number) {
  const char *text = getenv(name);
  if (text == NULL)
    return because(HOPELESS, "%s is not set: is this a worker?", name);
  *number = atoi(text);
  return GOOD;
}

static int read_job(const char *path, struct job *job) {
  FILE *file = fopen(path, "rb");
  if (file == NULL)
    return because(HOPELESS, "cannot open %s: %s", path, strerror(errno));
  bool whole = fread(job, sizeof *job, 1, file) == 1;
  fclose(file);
  return whole ? GOOD : because(HOPELESS, "%s is no job of this version", path);
}

static int write_outcome(const char *path, const struct outcome *outcome) {
  FILE *file = fopen(path, "wb");
  bool written = file != NULL && fwrite(outcome, sizeof *outcome, 1, file) == 1;
  if (file != NULL && fclose(file) != 0)
    written = false;
  return written ? GOOD : because(FAILED, "cannot write %s: %s", path, strerror(errno));
}

int train_program(const char *job_file, const char *outcome_file) {
  struct place place = {.rank = -1};
  static struct job job;
  static struct outcome outcome;
  int code = number_in_environment("RANK", &place.rank);
  if (code == GOOD)
    code = number_in_environment("WORLD_SIZE", &place.size);
  if (code == GOOD)
    code = number_in_environment("TORCHELASTIC_RESTART_COUNT", &place.attempt);
  if (code == GOOD)
    code = read_job(job_file, &job);
  if (code == GOOD && ice_worker_open(&place.worker) != ICE_OK)
    code = because(FAILED, "cannot hear the agent: %s", ice_last_error_message());
  if (code == GOOD)
    code = join_and_train(&job, &place, &outcome);
  if (code == GOOD && place.rank == 0)
    code = write_outcome(outcome_file, &outcome);
  ice_worker_close(place.worker);
  return code == GOOD ? GOOD : fail(place.rank, code);
}

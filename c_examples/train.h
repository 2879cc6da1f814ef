/* What the parts of the training example share: see train.c.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#ifndef TRAIN_H
#define TRAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ice.h"

enum { PATH_SIZE = 4096 };

/* ---- errors (train_worker.c)
 *
 * Functions of the worker return GOOD or the exit code that the worker is to end with. */

enum {
  GOOD = 0,
  FAILED = 1,    /* another attempt may do better */
  HOPELESS = 2,  /* it will not: the data file is missing, say */
  PEER_LOST = 3, /* another rank is gone or silent; its own end tells more than ours */
};

/* Notes the reason and returns `code`. */
__attribute__((format(printf, 2, 3))) int because(int code, const char *format, ...);

/* ---- the data set (train_data.c) */

enum { PIXELS = 64,
       INK = 16,
       DIGITS = 10 };

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

int load_data(const char *path, struct data *data);

/* ---- the model (train_model.c) */

enum {
  HIDDEN = 32,
  FIRST_LAYER = HIDDEN * (PIXELS + 1), /* each unit: the weights of its inputs, then its bias */
  WEIGHTS = FIRST_LAYER + DIGITS * (HIDDEN + 1),
};

/* All that training changes, and so all that a checkpoint must hold. Without the velocities a
 * resumed run would go on, but not to the same weights. */
struct state {
  int64_t epoch; /* how many epochs are done */
  double weights[WEIGHTS];
  double velocities[WEIGHTS];
};

void init_state(struct state *state);
void shuffle(size_t *order, size_t count, int64_t epoch);
double add_gradient(const double *weights, const struct image *image, double *gradient);
void take_step(struct state *state, const double *gradient, size_t images);
int count_correct(const double *weights, const struct images *images);

/* ---- the checkpoint (train_checkpoint.c) */

int save_checkpoint(const char *path, const struct state *state);
int load_checkpoint(const char *path, struct state *state);

/* ---- the group of ranks and its sums (train_group.c) */

enum { MAX_RANKS = 64 };

struct group {
  int rank, size;
  int sockets[MAX_RANKS]; /* rank 0: one to each other rank; others: [0], to rank 0; else -1 */
};

int join_group(struct group *group, int rank, int size);
void leave_group(struct group *group);
int broadcast(const struct group *group, void *data, size_t length);
int all_reduce(const struct group *group, double *numbers, size_t count);

/* ---- the worker (train_worker.c) */

/* What the host wants of all ranks: the argument of the function. It may reach another process, so
 * there is no pointer in it. */
struct job {
  int64_t epochs;
  int64_t kill_epoch;
  int32_t kill_rank; /* -1: nobody */
  char data[PATH_SIZE];
  char checkpoint[PATH_SIZE];
};

/* What rank 0 returns to the host. */
struct outcome {
  int64_t resumed_at; /* how many epochs the last attempt found done when it started */
  int32_t correct, tested;
  int32_t data_was_there; /* 1: loaded by the warm-up, before this worker was born */
  double weights[WEIGHTS];
};

/* The worker as a function: of this program, or of libtrain.so. */
int32_t train_worker(ice_worker *worker, void *user_data);

/* The warm-up of a fork server: loads the data, which all workers then share. */
int32_t train_warm_up(ice_worker *worker, void *user_data);

/* The worker as a program: reads the job from one file; rank 0 writes the outcome to the other. */
int train_program(const char *job_file, const char *outcome_file);

#endif

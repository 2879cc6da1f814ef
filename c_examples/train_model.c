/* The model: 64 pixels, 32 hidden units with tanh, 10 outputs with softmax; stochastic gradient
 * descent with momentum. Everything is a function of the seed and the epoch's number, so that a
 * checkpoint needs no state of a random number generator.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#include <math.h>
#include <string.h>

#include "train.h"

static const double LEARNING_RATE = 0.05;
static const double MOMENTUM = 0.9;
static const uint64_t SEED = 1998;

/* splitmix64, by Sebastiano Vigna, in the public domain. */
static uint64_t next_random(uint64_t *random) {
  uint64_t z = *random += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

void init_state(struct state *state) {
  memset(state, 0, sizeof *state);
  uint64_t random = SEED;
  for (int i = 0; i < WEIGHTS; i++) {
    double range = 1 / sqrt(i < FIRST_LAYER ? PIXELS : HIDDEN);
    state->weights[i] = range * (2 * ((double)(next_random(&random) >> 11) * 0x1p-53) - 1);
  }
}

/* The order of the training images in one epoch. All ranks find the same. */
void shuffle(size_t *order, size_t count, int64_t epoch) {
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
double add_gradient(const double *weights, const struct image *image, double *gradient) {
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
void take_step(struct state *state, const double *gradient, size_t images) {
  for (int i = 0; i < WEIGHTS; i++) {
    state->velocities[i] = MOMENTUM * state->velocities[i] - gradient[i] / (double)images;
    state->weights[i] += LEARNING_RATE * state->velocities[i];
  }
}

int count_correct(const double *weights, const struct images *images) {
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

/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The store with CLIENTS clients at once: how long each step takes them all, and what it costs the server.
 *
 *   many CLIENTS [ROUNDS]       the median of the rounds (3), as a Markdown table */
#define _GNU_SOURCE
#include <string.h>

#include "clients.h"

static void sets(ice_store *store, int number, int count) {
  char key[32];
  (void)count;
  snprintf(key, sizeof key, "own/%d", number);
  check(ice_store_set(store, key, key, strlen(key)));
}

/* The key of the next one. */
static void gets(ice_store *store, int number, int count) {
  char key[32];
  ice_store_values *values;
  snprintf(key, sizeof key, "own/%d", (number + 1) % count);
  check(ice_store_get(store, key, 60, &values));
  ice_store_values_free(values);
}

static void adds(ice_store *store, int number, int count) {
  int64_t sum;
  (void)number;
  (void)count;
  check(ice_store_add(store, "sum", 1, &sum));
}

static void waits(ice_store *store, int number, int count) {
  const char *keys[] = {"go"};
  int64_t sum;
  (void)number;
  (void)count;
  check(ice_store_add(store, "waiting", 1, &sum));
  check(ice_store_wait(store, keys, 1, 60));
}

static void meets(ice_store *store, int number, int count) {
  (void)number;
  check(ice_store_barrier(store, "all", count, 60));
}

static const client_step STEPS[] = {sets, gets, adds, waits, meets};
static const char *const NAMES[] = {"connect", "set a key of its own", "get that of another", "add to one number",
                                    "from a set until all that wait for it go on", "barrier of all"};
enum { COUNT = sizeof STEPS / sizeof *STEPS };

/* Sets what all wait for, once they do. */
static double lets_go(size_t step, int port, int count) {
  ice_store *store;
  int64_t waiting = 0;
  if (STEPS[step] != waits) return 0;
  check(ice_store_connect("127.0.0.1", port, 10, &store));
  while (waiting < count) {
    usleep(10000);
    check(ice_store_add(store, "waiting", 0, &waiting));
  }
  usleep(50000);
  double now = NOW();
  check(ice_store_set(store, "go", "", 0));
  ice_store_free(store);
  return now;
}

static int by_last(const void *a, const void *b) {
  const struct step_cost *x = a, *y = b;
  return x->last < y->last ? -1 : x->last > y->last;
}

int main(int argc, char **argv) {
  int clients = argc > 1 ? atoi(argv[1]) : 0, rounds = argc > 2 ? atoi(argv[2]) : 3;
  if (clients < 1 || rounds < 1 || rounds > 99) return 2;
  struct step_cost costs[COUNT + 1][99];
  for (int round = 0; round < rounds; round++) {
    struct step_cost one[COUNT + 1];
    struct serving serving = serve();
    measure_clients(&serving, clients, STEPS, COUNT, lets_go, one);
    serve_no_more(&serving);
    for (int i = 0; i <= COUNT; i++) costs[i][round] = one[i];
  }
  printf("| %d clients, ms (%d rounds) | first | median | last | requests | server's CPU, ms |\n", clients, rounds);
  printf("| --- | --- | --- | --- | --- | --- |\n");
  for (int i = 0; i <= COUNT; i++) {
    qsort(costs[i], (size_t)rounds, sizeof costs[i][0], by_last);
    const struct step_cost *cost = &costs[i][rounds / 2];
    printf("| %s | %.2f | %.2f | %.2f | %llu | %.1f |\n", NAMES[i], cost->first / 1e3, cost->median / 1e3,
           cost->last / 1e3, (unsigned long long)cost->requests, cost->cpu * 1e3);
  }
  return 0;
}

/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The store: its server in a process, CLIENTS blocking clients in processes of their own.
 *
 *   store CLIENTS SECONDS OP        OP is set, get, add, or wake (from a set until the wait in another one returns)
 *
 * One line of JSON: operations per second (of all clients together; set is not answered, so it is counted until the
 * server has seen all) and the time of one operation, in microseconds. */
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>

#include "clients.h"

enum { MOST_PER_SECOND = 2000000,
       WAKES = 200 };

static void *shared(size_t length) {
  void *at = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) {
    perror("mmap");
    exit(90);
  }
  return at;
}

static int compare(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return x < y ? -1 : x > y;
}

struct plan {
  const char *op;
  int clients;
  double seconds;
  pthread_barrier_t start;
  size_t most;
  size_t done[64];
  double took[64];
  double set_at[WAKES];
};

/* SECONDS of one operation, as often as it goes. */
static void repeat(struct plan *plan, ice_store *store, int number, float *times) {
  char key[16], value[32], counter[16];
  int64_t sum;
  size_t done = 0;
  memset(value, 'x', sizeof value);
  snprintf(key, sizeof key, "k%d", number);
  snprintf(counter, sizeof counter, "n%d", number);
  check(ice_store_set(store, key, value, sizeof value));
  for (int i = 0; i < 200; i++) check(ice_store_add(store, counter, 1, &sum));
  pthread_barrier_wait(&plan->start);
  double begin = NOW(), now = begin, end = begin + plan->seconds * 1e6;
  while (now < end && done < plan->most) {
    if (plan->op[0] == 's') {
      check(ice_store_set(store, key, value, sizeof value));
    } else if (plan->op[0] == 'g') {
      ice_store_values *values;
      check(ice_store_get(store, key, 60, &values));
      ice_store_values_free(values);
    } else {
      check(ice_store_add(store, counter, 1, &sum));
    }
    double after = NOW();
    times[done++] = (float)(after - now);
    now = after;
  }
  check(ice_store_add(store, counter, 1, &sum));
  plan->done[number] = done;
  plan->took[number] = NOW() - begin;
}

/* Client 0 sets, the others wait. */
static void wake(struct plan *plan, ice_store *store, int number, float *times) {
  char key[16];
  for (int i = 0; i < WAKES; i++) {
    const char *keys[] = {key};
    snprintf(key, sizeof key, "w%d", i);
    pthread_barrier_wait(&plan->start);
    if (number == 0) {
      usleep(2000);
      plan->set_at[i] = NOW();
      check(ice_store_set(store, key, "1", 1));
    } else {
      check(ice_store_wait(store, keys, 1, 60));
      double now = NOW();
      times[i] = (float)(now - plan->set_at[i]);
    }
  }
  plan->done[number] = number ? WAKES : 0;
  plan->took[number] = 1e6;
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  struct plan *plan = shared(sizeof *plan);
  plan->clients = atoi(argv[1]);
  plan->seconds = atof(argv[2]);
  plan->op = argv[3];
  if (plan->clients < 1 || plan->clients > 64) return 2;
  plan->most = (size_t)(plan->seconds * MOST_PER_SECOND) + WAKES;
  float *times = shared((size_t)plan->clients * plan->most * sizeof *times);
  pthread_barrierattr_t across;
  pthread_barrierattr_init(&across);
  pthread_barrierattr_setpshared(&across, PTHREAD_PROCESS_SHARED);
  pthread_barrier_init(&plan->start, &across, (unsigned)plan->clients);
  int status;
  struct serving serving = serve();
  for (int i = 0; i < plan->clients; i++) {
    if (fork() != 0) continue;
    close(serving.ask);
    ice_store *store;
    check(ice_store_connect("127.0.0.1", serving.port, 10, &store));
    (strcmp(plan->op, "wake") == 0 ? wake : repeat)(plan, store, i, times + (size_t)i * plan->most);
    _exit(0);
  }
  for (int i = 0; i < plan->clients; i++)
    if (wait(&status) < 0 || status != 0) return 92;
  double cpu = serve_no_more(&serving);
  size_t all = 0;
  double took = 0;
  for (int i = 0; i < plan->clients; i++) {
    memmove(times + all, times + (size_t)i * plan->most, plan->done[i] * sizeof *times);
    all += plan->done[i];
    if (plan->took[i] > took) took = plan->took[i];
  }
  qsort(times, all, sizeof *times, compare);
  printf("{\"bench\":\"store\",\"who\":\"libice\",\"op\":\"%s\",\"clients\":%d,", plan->op, plan->clients);
  if (strcmp(plan->op, "wake") != 0) printf("\"ops_s\":%.0f,", (double)all / took * 1e6);
  printf("\"p50_us\":%.2f,\"p99_us\":%.2f,\"min_us\":%.2f,\"server_cpu_s\":%.2f}\n", times[all / 2],
         times[all * 99 / 100], times[0], cpu);
  return 0;
}

/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The store: its server in a process, CLIENTS blocking clients in processes of their own.
 *
 *   store CLIENTS SECONDS OP        OP is set, get, add, or wake (from a set until the wait in another one returns)
 *
 * One line of JSON: operations per second (of all clients together; set is not answered, so it is counted until the
 * server has seen all) and the time of one operation, in microseconds. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ice.h"

enum { MOST_PER_SECOND = 2000000, WAKES = 200 };

static double NOW(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void check(ice_status status) {
  if (status == ICE_OK) return;
  fprintf(stderr, "store: %s\n", ice_last_error_message());
  _exit(90);
}

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

static pid_t serve(int *port, int *end) {
  int up[2], down[2];
  if (pipe(up) || pipe(down)) exit(90);
  pid_t pid = fork();
  if (pid == 0) {
    ice_store_server *server;
    check(ice_store_server_new("127.0.0.1", 0, 0, &server));
    int mine = ice_store_server_port(server);
    close(down[1]);
    if (write(up[1], &mine, sizeof mine) != sizeof mine || read(down[0], &mine, 1) != 0) _exit(91);
    ice_store_server_free(server);
    _exit(0);
  }
  if (read(up[0], port, sizeof *port) != sizeof *port) exit(91);
  *end = down[1];
  return pid;
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
  int port, end, status;
  pid_t server = serve(&port, &end);
  for (int i = 0; i < plan->clients; i++) {
    if (fork() != 0) continue;
    close(end);
    ice_store *store;
    check(ice_store_connect("127.0.0.1", port, 10, &store));
    (strcmp(plan->op, "wake") == 0 ? wake : repeat)(plan, store, i, times + (size_t)i * plan->most);
    _exit(0);
  }
  for (int i = 0; i < plan->clients; i++)
    if (wait(&status) < 0 || status != 0) return 92;
  close(end);
  struct rusage usage;
  if (wait4(server, &status, 0, &usage) < 0 || status != 0) return 93;
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
         times[all * 99 / 100], times[0],
         (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
             (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
  return 0;
}

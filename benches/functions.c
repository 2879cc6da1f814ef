/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Functions as workers, beside the least C that does the same (the floor), turn by turn in one process:
 *
 *   functions start [-n WORKERS] [-r REPS] [-g GIB of touched heap] [-o ROW]
 *       milliseconds from the call until the last function runs, for each start method. The floor of fork and
 *       of the fork server is fork(2); that of spawn executes this same program; that of the shared object
 *       executes the least program that loads the object and calls the function (functions_runner.c).
 *       -o: only rows whose name begins so.
 *   functions value [-m MIB] [-r REPS]
 *       milliseconds from a worker that has a value in its memory until the host has it, beside one memcpy(3)
 *
 * Medians, and the ratio to the floor of the same run, as a Markdown table. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "functions.h"
#include "ice.h"

extern char **environ;
static char HERE[PATH_MAX];
static uint64_t *NOTES; /* one time per rank */

static void die(const char *what) {
  perror(what);
  exit(90);
}

static void check(ice_status status) {
  if (status == ICE_OK) return;
  fprintf(stderr, "functions: %s\n", ice_last_error_message());
  exit(90);
}

/* --- the workers */

static int32_t note_start(ice_worker *worker, void *user_data) {
  (void)worker, (void)user_data;
  note();
  return 0;
}

/* A value that lies ready in the worker's memory. */
static int32_t return_value(ice_worker *worker, void *user_data) {
  const void *argument;
  size_t length;
  (void)user_data;
  ice_worker_argument(worker, &argument, &length);
  size_t size = *(const size_t *)argument;
  char *data = malloc(size);
  memset(data, 7, size);
  note();
  return ice_worker_return(worker, data, size) == ICE_OK ? 0 : 1;
}

/* One that is made where the host will read it. */
static int32_t return_in_place(ice_worker *worker, void *user_data) {
  const void *argument;
  size_t length;
  void *data;
  (void)user_data;
  ice_worker_argument(worker, &argument, &length);
  size_t size = *(const size_t *)argument;
  if (ice_worker_return_buffer(worker, size, &data) != ICE_OK) return 1;
  memset(data, 7, size);
  note();
  return 0;
}

/* --- the floor: start all, wait for all */

typedef pid_t starter(int rank);

static pid_t fork_one(int rank) {
  pid_t pid = fork();
  if (pid == 0) {
    note_of(rank);
    _exit(0);
  }
  return pid;
}

static pid_t execute(int rank, char **argv) {
  static char text[32];
  pid_t pid;
  snprintf(text, sizeof text, "%d", rank);
  setenv("RANK", text, 1);
  if (posix_spawn(&pid, argv[0], NULL, NULL, argv, environ)) die(argv[0]);
  return pid;
}

static pid_t execute_this(int rank) {
  return execute(rank, (char *[]){"/proc/self/exe", "worker", NULL});
}

static pid_t execute_runner(int rank) {
  static char runner[PATH_MAX + 32], object[PATH_MAX + 32];
  snprintf(runner, sizeof runner, "%s/functions_runner", HERE);
  snprintf(object, sizeof object, "%s/libfunctions.so", HERE);
  return execute(rank, (char *[]){runner, object, "note_start", NULL});
}

static double until_the_last(int workers, uint64_t call) {
  uint64_t last = 0;
  for (int rank = 0; rank < workers; rank++) {
    if (NOTES[rank] == 0) die("a worker did not run");
    if (NOTES[rank] > last) last = NOTES[rank];
    NOTES[rank] = 0;
  }
  return (double)(last - call) / 1e6;
}

static double floor_of(starter *start, int workers) {
  pid_t pids[MOST];
  uint64_t call = now_ns();
  for (int rank = 0; rank < workers; rank++) pids[rank] = start(rank);
  for (int rank = 0; rank < workers; rank++) waitpid(pids[rank], NULL, 0);
  return until_the_last(workers, call);
}

/* --- the library */

enum { CALLBACK,
       SPAWN,
       SHARED,
       SERVER,
       SHARED_SERVER,
       METHODS };

static ice_agent *agent_for(int method, int workers, const char *name, size_t size) {
  static char object[PATH_MAX + 32];
  ice_spec *spec;
  ice_agent *agent;
  snprintf(object, sizeof object, "%s/libfunctions.so", HERE);
  check(ice_spec_new(&spec));
  check(ice_spec_set_local_world_size(spec, workers));
  check(ice_spec_set_max_restarts(spec, 0));
  check(ice_spec_set_argument(spec, &size, sizeof size));
  if (method == CALLBACK)
    check(ice_spec_set_callback(spec, note_start, NULL));
  else
    check(ice_spec_set_function(spec, method == SHARED || method == SHARED_SERVER ? object : NULL, name));
  if (method == SERVER || method == SHARED_SERVER)
    check(ice_spec_set_start_method(spec, ICE_START_FORKSERVER));
  check(ice_agent_new(spec, &agent));
  ice_spec_free(spec);
  return agent;
}

static double library(int method, int workers, int prepare) {
  ice_agent *agent = agent_for(method, workers, "note_start", 0);
  ice_result *result;
  if (prepare) check(ice_agent_prepare(agent));
  uint64_t call = now_ns();
  check(ice_agent_run(agent, &result));
  if (ice_result_is_failed(result)) {
    fputs(ice_result_summary(result), stderr);
    exit(90);
  }
  ice_result_free(result);
  ice_agent_free(agent);
  return until_the_last(workers, call);
}

/* --- what is measured */

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *values, int count) {
  qsort(values, (size_t)count, sizeof *values, ascending);
  return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

static void touch(double gib) {
  size_t size = (size_t)(gib * (1 << 30));
  if (size == 0) return;
  char *heap = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (heap == MAP_FAILED) die("mmap");
  madvise(heap, size, MADV_NOHUGEPAGE); /* small pages: the worst case for a copy of page tables */
  for (size_t at = 0; at < size; at += 4096) heap[at] = 1;
}

static void measure_start(int workers, int reps, const char *only) {
  static const struct {
    const char *name;
    int method, prepare;
    starter *floor;
  } ROWS[] = {{"fork (callback)", CALLBACK, 0, fork_one},
              {"forkserver, prepared", SERVER, 1, fork_one},
              {"forkserver of a shared object, prepared", SHARED_SERVER, 1, fork_one},
              {"forkserver, not prepared", SERVER, 0, fork_one},
              {"spawn", SPAWN, 0, execute_this},
              {"shared object", SHARED, 0, execute_runner}};
  enum { COUNT = sizeof ROWS / sizeof *ROWS };
  double *ours = calloc((size_t)(COUNT * reps), sizeof *ours);
  double *floors = calloc((size_t)(COUNT * reps), sizeof *floors);
  for (int rep = 0; rep < reps; rep++) {
    for (int row = 0; row < COUNT; row++) {
      if (strncmp(ROWS[row].name, only, strlen(only))) continue;
      floors[row * reps + rep] = floor_of(ROWS[row].floor, workers);
      ours[row * reps + rep] = library(ROWS[row].method, workers, ROWS[row].prepare);
    }
  }
  printf("| call to %d functions running, ms | floor | libice | ratio |\n| --- | --- | --- | --- |\n", workers);
  for (int row = 0; row < COUNT; row++) {
    if (strncmp(ROWS[row].name, only, strlen(only))) continue;
    double floor = median(floors + row * reps, reps), our = median(ours + row * reps, reps);
    printf("| %s | %.2f | %.2f | %.2f |\n", ROWS[row].name, floor, our, our / floor);
  }
}

/* Nothing of it is kept: memory that a machine has not used for a while may be slow to get. */
static void two_memcpys(size_t size, double *there, double *fresh) {
  char *from = malloc(size), *to = malloc(size);
  memset(from, 7, size);
  for (double *time = fresh; time; time = time == fresh ? there : NULL) {
    uint64_t before = now_ns();
    memcpy(to, from, size);
    *time = (double)(now_ns() - before) / 1e6;
  }
  free(from);
  free(to);
}

static double one_value(size_t size, const char *function) {
  ice_agent *agent = agent_for(SPAWN, 1, function, size);
  ice_result *result;
  check(ice_agent_run(agent, &result));
  uint64_t after = now_ns();
  const ice_worker_result *worker = ice_result_worker(result, 0);
  if (worker->value_size != size || ((const char *)worker->value)[size - 1] != 7) die("value");
  double time = (double)(after - NOTES[0]) / 1e6;
  NOTES[0] = 0;
  ice_result_free(result);
  ice_agent_free(agent);
  return time;
}

static void measure_value(size_t mib, int reps) {
  enum { TOUCHED,
         FRESH,
         COPY,
         IN_PLACE,
         COUNT };
  static const char *NAMES[] = {"memcpy to memory that is there", "memcpy to fresh memory",
                                "ice_worker_return() to the host", "ice_worker_return_buffer() to the host"};
  size_t size = mib << 20;
  double *times = calloc((size_t)(COUNT * reps), sizeof *times);
  for (int rep = 0; rep < reps; rep++) {
    two_memcpys(size, &times[TOUCHED * reps + rep], &times[FRESH * reps + rep]);
    times[COPY * reps + rep] = one_value(size, "return_value");
    times[IN_PLACE * reps + rep] = one_value(size, "return_in_place");
  }
  double medians[COUNT];
  for (int row = 0; row < COUNT; row++) medians[row] = median(times + row * reps, reps);
  printf("| a value of %zu MiB | ms | to one memcpy | to one memcpy to fresh memory |\n| --- | --- | --- | --- |\n",
         mib);
  for (int row = 0; row < COUNT; row++)
    printf("| %s | %.1f | %.2f | %.2f |\n", NAMES[row], medians[row], medians[row] / medians[TOUCHED],
           medians[row] / medians[FRESH]);
}

int main(int argc, char **argv) {
  check(ice_worker_register("note_start", note_start, NULL));
  check(ice_worker_register("return_value", return_value, NULL));
  check(ice_worker_register("return_in_place", return_in_place, NULL));
  check(ice_worker_main());
  if (argc > 1 && strcmp(argv[1], "worker") == 0) {
    note();
    return 0;
  }
  int workers = 8, reps = 31, option;
  size_t mib = 1024;
  double gib = 0;
  const char *only = "";
  while ((option = getopt(argc, argv, "n:r:g:m:o:")) != -1) {
    switch (option) {
    case 'n': workers = atoi(optarg); break;
    case 'r': reps = atoi(optarg); break;
    case 'g': gib = atof(optarg); break;
    case 'o': only = optarg; break;
    case 'm': mib = (size_t)atol(optarg); break;
    default: return 91;
    }
  }
  if (workers < 1 || workers > MOST || reps < 1 || optind != argc - 1) return 91;
  char notes[64];
  int fd = memfd_create("notes", 0);
  if (fd < 0 || ftruncate(fd, MOST * sizeof *NOTES)) die("memfd");
  snprintf(notes, sizeof notes, "/proc/%d/fd/%d", getpid(), fd);
  setenv(NOTES_FILE, notes, 1);
  NOTES = mmap(NULL, MOST * sizeof *NOTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (NOTES == MAP_FAILED) die("mmap");
  ssize_t length = readlink("/proc/self/exe", HERE, sizeof HERE - 1);
  if (length < 0) die("/proc/self/exe");
  HERE[length] = 0;
  dirname(HERE);
  touch(gib);
  if (strcmp(argv[optind], "start") == 0)
    measure_start(workers, reps, only);
  else if (strcmp(argv[optind], "value") == 0)
    measure_value(mib, reps);
  else
    return 91;
  return 0;
}

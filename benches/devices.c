/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What devices cost: 8 workers that do nothing, without devices and with one of 8 GPUs each, in turns, from
 * ice_agent_new() to the return of ice_agent_run(); and a list of the GPUs by itself. The driver that the
 * probe loads is whatever libcuda.so.1 the loader finds.
 *
 *   devices [-r RUNS] */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "ice.h"

enum { WORKERS = 8,
       MOST = 1000 };

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void check(ice_status status) {
  if (status != ICE_OK) {
    fprintf(stderr, "devices: %s\n", ice_last_error_message());
    exit(90);
  }
}

static double run(int with_devices) {
  ice_spec *spec;
  ice_agent *agent;
  ice_result *result;
  check(ice_spec_new(&spec));
  check(ice_spec_set_program(spec, "/bin/true"));
  if (with_devices) {
    check(ice_spec_set_nproc_per_node(spec, "gpu"));
  } else {
    check(ice_spec_set_local_world_size(spec, WORKERS));
  }
  double start = now_ms();
  check(ice_agent_new(spec, &agent));
  check(ice_agent_run(agent, &result));
  double took = now_ms() - start;
  if (ice_result_is_failed(result) || ice_result_worker_count(result) != WORKERS) exit(91);
  ice_result_free(result);
  ice_agent_free(agent);
  ice_spec_free(spec);
  return took;
}

static double list(void) {
  ice_device_list *devices;
  double start = now_ms();
  check(ice_device_list_new(0, NULL, &devices));
  double took = now_ms() - start;
  if (ice_device_list_count(devices) != WORKERS) exit(91);
  ice_device_list_free(devices);
  return took;
}

static int compare(const void *a, const void *b) {
  double difference = *(const double *)a - *(const double *)b;
  return (difference > 0) - (difference < 0);
}

static void print(const char *what, double *times, int runs) {
  qsort(times, (size_t)runs, sizeof *times, compare);
  printf("%-28s %6.2f [%.2f..%.2f] (%d)\n", what, times[runs / 2], times[0], times[runs - 1], runs);
}

int main(int argc, char **argv) {
  static double bare[MOST], devices[MOST], added[MOST], lists[MOST];
  int runs = 41, option;
  while ((option = getopt(argc, argv, "r:")) != -1) {
    if (option != 'r') return 92;
    runs = atoi(optarg);
  }
  if (runs < 1 || runs > MOST) return 92;
  run(0), run(1), list(); /* what the first of each kind has to load is not measured */
  for (int i = 0; i < runs; i++) {
    bare[i] = run(0);
    devices[i] = run(1);
    added[i] = devices[i] - bare[i];
    lists[i] = list();
  }
  puts("milliseconds, median [min..max] (runs)");
  print("8 workers, no devices", bare, runs);
  print("8 workers, a GPU each", devices, runs);
  print("added, run by run", added, runs);
  print("a list of the GPUs", lists, runs);
}

/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The call inside a running program, for the harness of the peers: notes CLOCK_MONOTONIC just before
 * ice_agent_run() and just after it in the harness's shared file (bytes 32 and 40).
 *
 *   call [-n WORKERS] [-R RESTARTS] [-g GIB of touched heap] -s SHM PROGRAM [ARG...] */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "ice.h"

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void check(ice_status status) {
  if (status != ICE_OK) {
    fprintf(stderr, "call: %s\n", ice_last_error_message());
    exit(90);
  }
}

static void touch(double gib) {
  size_t size = (size_t)(gib * (1 << 30));
  if (size == 0) return;
  char *heap = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (heap == MAP_FAILED) {
    perror("mmap");
    exit(90);
  }
  madvise(heap, size, MADV_NOHUGEPAGE); /* small pages: the worst case for a copy of page tables */
  for (size_t at = 0; at < size; at += 4096) heap[at] = 1;
}

int main(int argc, char **argv) {
  long workers = 1, restarts = 0;
  double gib = 0;
  const char *shm = NULL;
  int option;
  while ((option = getopt(argc, argv, "+n:R:g:s:")) != -1) {
    switch (option) {
    case 'n': workers = atol(optarg); break;
    case 'R': restarts = atol(optarg); break;
    case 'g': gib = atof(optarg); break;
    case 's': shm = optarg; break;
    default: return 91;
    }
  }
  if (!shm || optind == argc) return 91;
  int fd = open(shm, O_RDWR | O_CLOEXEC);
  uint64_t *words = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (words == MAP_FAILED) {
    perror(shm);
    return 90;
  }
  touch(gib);

  ice_spec *spec;
  ice_agent *agent;
  ice_result *result;
  check(ice_spec_new(&spec));
  check(ice_spec_set_local_world_size(spec, workers));
  check(ice_spec_set_max_restarts(spec, restarts));
  check(ice_spec_set_program(spec, argv[optind]));
  check(ice_spec_add_args(spec, (const char *const *)argv + optind + 1, (size_t)(argc - optind - 1)));
  check(ice_agent_new(spec, &agent));
  words[4] = now_ns();
  check(ice_agent_run(agent, &result));
  words[5] = now_ns();
  int failed = ice_result_is_failed(result);
  ice_result_free(result);
  ice_agent_free(agent);
  ice_spec_free(spec);
  return failed;
}

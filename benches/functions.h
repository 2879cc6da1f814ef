/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What a measured function does, whoever started it: notes the time in a file that the host names. */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define NOTES_FILE "BENCH_NOTES"
enum { MOST = 256 };

static inline uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void note_of(long rank) {
  uint64_t now = now_ns();
  int fd = open(getenv(NOTES_FILE), O_WRONLY | O_CLOEXEC);
  if (pwrite(fd, &now, sizeof now, rank * (off_t)sizeof now) != sizeof now) _exit(90);
  close(fd);
}

static inline void note(void) {
  note_of(atol(getenv("RANK")));
}

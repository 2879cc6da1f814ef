/* Verbs of a worker that talks to its agent: of the functions of functions.h, and of the program controlled.c.
 *
 *   work FILE SECONDS COUNT   COUNT steps (0: until it is told to stop) of SECONDS each; what was asked for is appended
 *                         to FILE: "KIND REASON AT_STEP STEP MILLISECONDS_LEFT"; a stop ends the verb
 *   look FILE SECONDS COUNT   the same without a word about steps
 *   lockstep SHARED       from now on all ranks meet in each step, and in whatever they were asked for, by that file; one
 *                         that finds another elsewhere says so on stderr, and fails
 *   stride N              the next `work` counts its steps in steps of N
 *   from N                and begins at N
 *   refuse                answers that it could not, from now on
 *   silent                gives no answer from now on
 *   slow SECONDS          takes so long to save, from now on
 *   step N | progress DONE TOTAL | heartbeat | heartbeats COUNT SECONDS
 *   expires SCOPE SECONDS | disarm SCOPE
 *   debug | undebug       calls for a debugger, and is done with it
 *   section NAME          is in that section from now on, with "-" in none
 *   sections NAME COUNT SECONDS   passes through it so many times, each of that length
 *   restart               asks for a restart of the group
 *   control FILE          appends "HAS_CONTROL RANK LOCAL_RANK WORLD_SIZE" and the descriptors above 2 that are open
 *   meet FILE             meets all ranks at the store of the job, and appends "RANK SUM" of all ranks and 1 each
 *   scribble BYTE         fills the whole page with that byte, through descriptor 3
 *   close_fds             closes all descriptors above 2
 */
#ifndef TEST_CONTROL_H
#define TEST_CONTROL_H

#include <ice.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#include "verbs.h"

enum { LOCKSTEP_RANKS = 64,
       LOCKSTEP_ROOM = 4 };
typedef _Atomic unsigned long long lockstep_word;

static struct {
  unsigned long long stride, from;
  int refuse, silent;
  double slow;
  lockstep_word (*shared)[LOCKSTEP_ROOM]; /* for each rank: (number of the meeting + 1) << 8 | what it is for */
  unsigned long long met;
} CONTROL = {.stride = 1};

static void lockstep(const char *path) {
  size_t size = sizeof *CONTROL.shared * LOCKSTEP_RANKS;
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 || ftruncate(fd, (off_t)size)) _exit(78);
  CONTROL.shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (CONTROL.shared == MAP_FAILED) _exit(78);
  close(fd);
}

/* As a collective: nobody comes out before all are in. */
static void meet_all(ice_worker *worker, unsigned char what) {
  if (!CONTROL.shared) return;
  unsigned long long number = ++CONTROL.met;
  size_t place = number % LOCKSTEP_ROOM;
  int own = ice_worker_rank(worker);
  CONTROL.shared[own][place] = number << 8 | what;
  for (int rank = 0; rank < ice_worker_world_size(worker); rank++) {
    unsigned long long there;
    while ((there = CONTROL.shared[rank][place]) >> 8 != number) usleep(50);
    if ((unsigned char)there != what) {
      fprintf(stderr, "mismatch: rank %d is at %c where rank %d is at %c\n", own, what, rank, (unsigned char)there);
      _exit(76);
    }
  }
}

/* Does what is due; 1 if that is to stop. */
static int obey(ice_worker *worker, const char *file, unsigned long long step) {
  static const char *KINDS[] = {"none", "pause", "save", "stop"};
  ice_request request;
  ice_request_kind kind;
  while ((kind = ice_worker_poll(worker, &request)) != ICE_REQUEST_NONE) {
    char line[256];
    if ((int)kind != request.kind) _exit(80);
    snprintf(line, sizeof line, "%s %d %llu %llu %d", KINDS[kind], request.reason, (unsigned long long)request.step,
             step, (int)(request.seconds_left * 1000));
    append_line(fill(file), line);
    if (CONTROL.silent) return 0;
    if (kind != ICE_REQUEST_PAUSE) meet_all(worker, kind == ICE_REQUEST_SAVE ? 'S' : 'E');
    if (kind == ICE_REQUEST_SAVE) sleep_seconds(CONTROL.slow);
    if (ice_worker_acknowledge(worker, !CONTROL.refuse) != ICE_OK) _exit(81);
    if (kind == ICE_REQUEST_STOP && !CONTROL.refuse) return 1;
  }
  return 0;
}

static void work(ice_worker *worker, const char *file, double seconds, unsigned long long count, int says_steps) {
  for (unsigned long long i = 0; count == 0 || i < count; i++) {
    unsigned long long step = CONTROL.from + i * CONTROL.stride;
    if (says_steps) ice_worker_step(worker, step);
    if (obey(worker, file, step)) return;
    meet_all(worker, 'g');
    if (seconds > 0) sleep_seconds(seconds);
  }
}

static ice_status meet(ice_worker *worker, const char *file) {
  ice_store *store;
  char line[64];
  int64_t sum;
  int rank = ice_worker_rank(worker), size = ice_worker_world_size(worker);
  ice_status status = ice_worker_store(worker, 20, &store);
  if (status != ICE_OK) return status;
  if ((status = ice_store_add(store, "sum", rank + 1, &sum)) != ICE_OK) return status;
  if ((status = ice_store_barrier(store, "all came", size, 20)) != ICE_OK) return status;
  if ((status = ice_store_add(store, "sum", 0, &sum)) != ICE_OK) return status;
  snprintf(line, sizeof line, "%d %d", rank, (int)sum);
  append_line(fill(file), line);
  status = ice_store_barrier(store, "all went", size, 20);
  ice_store_free(store);
  return status;
}

static int control_verb(ice_worker *worker, char **argv, int argc, int *used) {
  const char *verb = argv[0], *a = argc > 1 ? argv[1] : "", *b = argc > 2 ? argv[2] : "", *c = argc > 3 ? argv[3] : "";
  ice_status status = ICE_OK;
#define VERB(name, values) (strcmp(verb, name) == 0 && (*used = (values), 1))
  if (VERB("work", 3)) {
    work(worker, a, atof(b), strtoull(c, NULL, 10), 1);
  } else if (VERB("look", 3)) {
    work(worker, a, atof(b), strtoull(c, NULL, 10), 0);
  } else if (VERB("lockstep", 1)) {
    lockstep(fill(a));
  } else if (VERB("stride", 1)) {
    CONTROL.stride = strtoull(a, NULL, 10);
  } else if (VERB("from", 1)) {
    CONTROL.from = strtoull(a, NULL, 10);
  } else if (VERB("refuse", 0)) {
    CONTROL.refuse = 1;
  } else if (VERB("silent", 0)) {
    CONTROL.silent = 1;
  } else if (VERB("slow", 1)) {
    CONTROL.slow = atof(a);
  } else if (VERB("step", 1)) {
    ice_worker_step(worker, strtoull(a, NULL, 10));
  } else if (VERB("progress", 2)) {
    ice_worker_progress(worker, strtoull(a, NULL, 10), strtoull(b, NULL, 10));
  } else if (VERB("heartbeat", 0)) {
    ice_worker_heartbeat(worker);
  } else if (VERB("heartbeats", 2)) {
    for (int i = 0; i < atoi(a); i++) {
      ice_worker_heartbeat(worker);
      sleep_seconds(atof(b));
    }
  } else if (VERB("expires", 2)) {
    status = ice_worker_expires(worker, a, atof(b));
  } else if (VERB("disarm", 1)) {
    status = ice_worker_release(worker, a);
  } else if (VERB("debug", 0)) {
    status = ice_worker_debug_begin(worker);
  } else if (VERB("undebug", 0)) {
    status = ice_worker_debug_end(worker);
  } else if (VERB("section", 1)) {
    status = ice_worker_section(worker, strcmp(a, "-") == 0 ? NULL : a);
  } else if (VERB("sections", 3)) {
    for (int i = 0; i < atoi(b) && status == ICE_OK; i++) {
      status = ice_worker_section(worker, a);
      sleep_seconds(atof(c));
    }
    if (status == ICE_OK) status = ice_worker_section(worker, NULL);
  } else if (VERB("restart", 0)) {
    status = ice_worker_request_restart(worker);
  } else if (VERB("control", 1)) {
    char line[128];
    int length = snprintf(line, sizeof line, "%d %d %d %d", ice_worker_has_control(worker), ice_worker_rank(worker),
                          ice_worker_local_rank(worker), ice_worker_world_size(worker));
    for (int fd = 3; fd < 20; fd++)
      if (fcntl(fd, F_GETFD) >= 0) length += snprintf(line + length, sizeof line - (size_t)length, " fd%d", fd);
    append_line(fill(a), line);
  } else if (VERB("meet", 1)) {
    status = meet(worker, a);
  } else if (VERB("scribble", 1)) {
    struct stat stat;
    if (fstat(3, &stat)) _exit(78);
    void *page = mmap(NULL, (size_t)stat.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, 3, 0);
    if (page == MAP_FAILED || ftruncate(3, 0) == 0) _exit(78);
    memset(page, atoi(a), (size_t)stat.st_size);
  } else if (VERB("close_fds", 0)) {
    for (int fd = 3; fd < 1000; fd++) close(fd);
  } else {
    return 0;
  }
#undef VERB
  if (status != ICE_OK) {
    fprintf(stderr, "%s: %s: %s\n", verb, ice_status_string(status), ice_last_error_message());
    _exit(90);
  }
  return 1;
}

#endif

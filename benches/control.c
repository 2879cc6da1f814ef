/* What a worker pays for control, and how soon it hears.
 *
 *   control worker        nanoseconds per step, per look, and per both, of a worker of an agent
 *   control request N     a checkpoint of N ranks whose steps take 0.1 ms (N above 8: as much longer, so that the
 *                         machine has as much to do): microseconds from the call to the last rank's look that sees
 *                         it, to the last answer, and of CPU in the host
 *   control launch N      milliseconds of a run of N no-op workers, without control and with it, side by side
 */
#include <ice.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static double of_clock(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double now(void) { return of_clock(CLOCK_MONOTONIC); }

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void show(const char *what, const char *unit, double *values, int count) {
  qsort(values, (size_t)count, sizeof *values, by_size);
  printf("%s: %.2f [%.2f..%.2f] %s (%d)\n", what, values[count / 2], values[0], values[count - 1], unit, count);
}

static void check(ice_status status) {
  if (status == ICE_OK) return;
  fprintf(stderr, "%s\n", ice_last_error_message());
  exit(2);
}

/* --- the price of a call --- */

enum { CALLS = 10000000,
       ROUNDS = 9 };

static int32_t count_calls(ice_worker *worker, void *what) {
  static const char *NAMES[] = {"step", "look", "step and look", "heartbeat", "timer of a step", "section"};
  (void)what;
  if (!ice_worker_has_control(worker)) return 1;
  for (int kind = 0; kind < 6; kind++) {
    double values[ROUNDS];
    int calls = kind < 3 ? CALLS : CALLS / 20;
    for (int round = 0; round < ROUNDS; round++) {
      double begin = now();
      for (int i = 0; i < calls; i++) {
        if (kind == 0 || kind == 2) ice_worker_step(worker, (uint64_t)i);
        if (kind == 1 || kind == 2) ice_worker_poll(worker, NULL);
        if (kind == 3) ice_worker_heartbeat(worker);
        if (kind == 4) ice_worker_expires(worker, "step", 60);
        if (kind == 5) ice_worker_section(worker, "step");
      }
      values[round] = (now() - begin) / calls * 1e9;
    }
    show(NAMES[kind], "ns", values, ROUNDS);
  }
  fflush(stdout);
  return 0;
}

/* --- a request --- */

static volatile double *SEEN; /* when each rank saw the last request */
static volatile uint64_t *STEPS;
static int RANKS;
static unsigned LOAD; /* how much longer a step of many ranks is */

static int32_t take_steps(ice_worker *worker, void *unused) {
  (void)unused;
  for (uint64_t step = 0;; step++) {
    ice_request_kind kind;
    /* As ranks that compute together: nobody begins a step before all have begun the one before. */
    STEPS[ice_worker_rank(worker)] = step;
    for (int rank = 0; rank < RANKS; rank++)
      while (STEPS[rank] + 1 < step) usleep(5 * LOAD);
    ice_worker_step(worker, step);
    while ((kind = ice_worker_poll(worker, NULL)) != ICE_REQUEST_NONE) {
      SEEN[ice_worker_rank(worker)] = now();
      ice_worker_acknowledge(worker, 1);
      if (kind == ICE_REQUEST_STOP) {
        STEPS[ice_worker_rank(worker)] = UINT64_MAX - 1;
        return 0;
      }
    }
    usleep(100 * LOAD);
  }
}

/* --- runs --- */

static int32_t nothing(ice_worker *worker, void *unused) {
  (void)worker;
  (void)unused;
  return 0;
}

static ice_agent *agent_of(int workers, int control, ice_worker_fn function) {
  ice_spec *spec;
  ice_agent *agent;
  check(ice_spec_new(&spec));
  check(ice_spec_set_local_world_size(spec, workers));
  check(ice_spec_set_control(spec, control));
  if (function)
    check(ice_spec_set_callback(spec, function, NULL));
  else
    check(ice_spec_set_program(spec, "/bin/true"));
  check(ice_agent_new(spec, &agent));
  ice_spec_free(spec);
  return agent;
}

static void run(ice_agent *agent) {
  ice_result *result;
  check(ice_agent_run(agent, &result));
  if (ice_result_is_failed(result)) exit(3);
  ice_result_free(result);
  ice_agent_free(agent);
}

static void requests(int ranks) {
  enum { TIMES = 301 };
  double seen[TIMES], answered[TIMES], used[TIMES];
  ice_answers *answers;
  RANKS = ranks;
  LOAD = ranks > 8 ? (unsigned)ranks / 8 : 1;
  SEEN = mmap(NULL, 16 * (size_t)ranks, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  STEPS = (volatile uint64_t *)(SEEN + ranks);
  ice_agent *agent = agent_of(ranks, 1, take_steps);
  check(ice_agent_start(agent));
  usleep(200000);
  for (int i = 0; i < TIMES; i++) {
    double begin = now(), last = 0, cpu = of_clock(CLOCK_PROCESS_CPUTIME_ID);
    check(ice_agent_request_checkpoint(agent, 10, &answers));
    answered[i] = (now() - begin) * 1e6;
    used[i] = (of_clock(CLOCK_PROCESS_CPUTIME_ID) - cpu) * 1e6;
    if (!ice_answers_complete(answers)) exit(4);
    ice_answers_free(answers);
    for (int rank = 0; rank < ranks; rank++)
      if (SEEN[rank] > last) last = SEEN[rank];
    seen[i] = (last - begin) * 1e6;
    usleep(1000);
  }
  check(ice_agent_request_stop(agent, 10, &answers));
  ice_answers_free(answers);
  ice_agent_free(agent);
  show("to the last rank's look", "us", seen, TIMES);
  show("to the last answer", "us", answered, TIMES);
  show("CPU of the host", "us", used, TIMES);
}

static void launches(int workers) {
  enum { TIMES = 101 };
  double values[4][TIMES];
  for (int i = 0; i < TIMES; i++)
    for (int kind = 0; kind < 4; kind++) {
      ice_agent *agent = agent_of(workers, kind % 2, kind < 2 ? NULL : nothing);
      double begin = now();
      run(agent);
      values[kind][i] = (now() - begin) * 1e3;
    }
  show("programs", "ms", values[0], TIMES);
  show("programs, with control", "ms", values[1], TIMES);
  show("callbacks", "ms", values[2], TIMES);
  show("callbacks, with control", "ms", values[3], TIMES);
}

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "";
  int count = argc > 2 ? atoi(argv[2]) : 8;
  if (strcmp(what, "worker") == 0)
    run(agent_of(1, 1, count_calls));
  else if (strcmp(what, "request") == 0)
    requests(count);
  else if (strcmp(what, "launch") == 0)
    launches(count);
  else
    return fprintf(stderr, "usage: control worker | request N | launch N\n"), 2;
  return 0;
}

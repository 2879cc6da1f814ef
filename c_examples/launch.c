/* Starts a program as a group of workers and prints what became of each:
 *
 *   build/launch 4 sh -c 'echo "I am rank $RANK of $WORLD_SIZE"'
 *   build/launch 4 sh -c 'sleep $RANK; exit $((RANK == 1))'
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#include <stdio.h>
#include <stdlib.h>

#include "ice.h"

static const char *fate(ice_cause cause) {
  switch (cause) {
  case ICE_CAUSE_SUCCESS: return "succeeded";
  case ICE_CAUSE_OWN_FAILURE: return "failed";
  case ICE_CAUSE_STOPPED_BY_AGENT: return "stopped by us";
  case ICE_CAUSE_STUCK: return "could not be killed";
  case ICE_CAUSE_TIMED_OUT: return "was stuck";
  case ICE_CAUSE_NEVER_STARTED: return "not started";
  default: return "lost";
  }
}

static void print_worker(const ice_worker_result *worker) {
  printf("rank %d: %s", worker->global_rank, fate(worker->cause));
  if (worker->outcome == ICE_OUTCOME_EXITED || worker->outcome == ICE_OUTCOME_SIGNALED) {
    double seconds = (double)(worker->end_ns - worker->start_ns) / 1e9;
    double mebibytes = (double)worker->max_rss_bytes / (1 << 20);
    printf(" after %.3f s, %.1f MiB", seconds, mebibytes);
  }
  printf("%s%s\n", *worker->message ? ": " : "", worker->message);
}

int main(int argc, char **argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: launch WORKERS PROGRAM [ARGUMENTS...]\n");
    return 2;
  }
  /* Values that make no sense are remembered: it is enough to ask ice_agent_new(). */
  ice_spec *spec;
  if (ice_spec_new(&spec) != ICE_OK) return 2;
  ice_spec_set_local_world_size(spec, atoll(argv[1]));
  ice_spec_set_program(spec, argv[2]);
  ice_spec_add_args(spec, (const char *const *)argv + 3, (size_t)argc - 3);
  ice_spec_set_max_restarts(spec, 0);
  ice_spec_set_shutdown_timeout(spec, 5);
  ice_spec_set_signals(spec, "SIGINT,SIGTERM"); /* ^C stops the workers, and the run ends */

  ice_agent *agent;
  ice_status status = ice_agent_new(spec, &agent);
  ice_spec_free(spec); /* the agent has its own copy */
  if (status != ICE_OK) {
    fprintf(stderr, "launch: %s\n", ice_last_error_message());
    return 2;
  }

  ice_result *result;
  status = ice_agent_run(agent, &result);
  ice_agent_free(agent);
  if (status != ICE_OK) {
    fprintf(stderr, "launch: %s\n", ice_last_error_message());
    return 1;
  }
  for (size_t i = 0; i < ice_result_worker_count(result); i++) {
    print_worker(ice_result_worker(result, i));
  }
  int failed = ice_result_is_failed(result);
  if (failed) printf("the run failed: %s\n", ice_result_message(result));
  ice_result_free(result);
  return failed;
}

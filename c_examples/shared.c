/* Workers that are a function of a shared object, here integrate() of pi.c:
 *
 *   build/shared build/libpi.so
 *   build/shared-static build/libpi.so build/runner
 *
 * Each runs in a new process with nothing in it but libice and the object. The process is libice.so
 * itself, run as a program. A host that has libice within itself, from libice.a, has no such file
 * and names a program instead: runner.c.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#include <stdio.h>

#include "ice.h"

enum { WORKERS = 4 };

static ice_status run(const char *library, const char *runner, ice_result **result) {
  int64_t steps = 10 * 1000 * 1000;
  ice_spec *spec;
  ice_agent *agent;
  ice_status status = ice_spec_new(&spec);
  if (status != ICE_OK) return status;
  ice_spec_set_local_world_size(spec, WORKERS);
  ice_spec_set_function(spec, library, "integrate");
  ice_spec_set_argument(spec, &steps, sizeof steps);
  if (runner) ice_spec_set_runner(spec, runner);
  status = ice_agent_new(spec, &agent); /* says what was wrong above, too */
  ice_spec_free(spec);
  if (status != ICE_OK) return status;
  status = ice_agent_run(agent, result);
  ice_agent_free(agent);
  return status;
}

int main(int argc, char **argv) {
  if (argc < 2 || argc > 3) {
    fprintf(stderr, "usage: shared LIBRARY [RUNNER]\n");
    return 2;
  }
  ice_result *result;
  if (run(argv[1], argc > 2 ? argv[2] : NULL, &result) != ICE_OK) {
    fprintf(stderr, "shared: %s\n", ice_last_error_message());
    return 1;
  }
  int failed = ice_result_is_failed(result);
  if (failed) {
    fprintf(stderr, "shared: %s", ice_result_summary(result));
  } else {
    double pi = 0;
    for (int32_t rank = 0; rank < WORKERS; rank++) {
      pi += *(const double *)ice_result_worker_of_rank(result, rank)->value;
    }
    printf("pi is %.12f\n", pi);
  }
  ice_result_free(result);
  return failed;
}

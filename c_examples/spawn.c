/* Workers that are a function of this program, each in a new process: the program is started again,
 * and its ice_worker_main() calls the function. That works in any host, whatever threads, memory or
 * devices it has, and nothing of them is in the worker: what it has to know is its argument.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#include <stdio.h>

#include "ice.h"

enum { WORKERS = 4 };

/* May have any size, but no pointers: it is read in another process. */
struct task {
  long steps;
};

/* The integral of 4 / (1 + x^2) from 0 to 1, which is pi: this worker's share of the steps. */
static int32_t integrate(ice_worker *worker, void *user_data) {
  (void)user_data; /* of ice_worker_register() */
  const void *argument;
  size_t length;
  if (ice_worker_argument(worker, &argument, &length) != ICE_OK || length != sizeof(struct task)) {
    ice_worker_record_error("the argument is no task", NULL);
    return 1;
  }
  const struct task *task = argument;
  double sum = 0;
  for (long i = ice_worker_rank(worker); i < task->steps; i += ice_worker_world_size(worker)) {
    double x = ((double)i + 0.5) / (double)task->steps;
    sum += 4 / (1 + x * x) / (double)task->steps;
  }
  return ice_worker_return(worker, &sum, sizeof sum) == ICE_OK ? 0 : 1;
}

static ice_status run(const struct task *task, ice_result **result) {
  ice_spec *spec;
  ice_agent *agent;
  ice_status status = ice_spec_new(&spec);
  if (status != ICE_OK) return status;
  ice_spec_set_local_world_size(spec, WORKERS);
  ice_spec_set_function(spec, NULL, "integrate"); /* NULL: of this program */
  ice_spec_set_start_method(spec, ICE_START_SPAWN);
  ice_spec_set_argument(spec, task, sizeof *task);
  status = ice_agent_new(spec, &agent); /* says what was wrong above, too */
  ice_spec_free(spec);
  if (status != ICE_OK) return status;
  status = ice_agent_run(agent, result);
  ice_agent_free(agent);
  return status;
}

int main(void) {
  /* First of all: in a process that is to be a worker the second call does not return. */
  if (ice_worker_register("integrate", integrate, NULL) != ICE_OK || ice_worker_main() != ICE_OK) {
    fprintf(stderr, "spawn: %s\n", ice_last_error_message());
    return 1;
  }

  struct task task = {.steps = 10 * 1000 * 1000};
  ice_result *result;
  if (run(&task, &result) != ICE_OK) {
    fprintf(stderr, "spawn: %s\n", ice_last_error_message());
    return 1;
  }
  int failed = ice_result_is_failed(result);
  if (failed) {
    fprintf(stderr, "spawn: %s", ice_result_summary(result));
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

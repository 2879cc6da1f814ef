/* Workers that are functions of this program: each computes its share of an integral in a process
 * of its own and returns a value, which the host adds up. Then one of them fails, and says why.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#include <stdio.h>

#include "ice.h"

enum { WORKERS = 4,
       STEPS = 10 * 1000 * 1000 };

struct share {
  double sum;
  long steps;
};

/* The integral of 4 / (1 + x^2) from 0 to 1, which is pi: every WORKERS-th step of it. */
static int32_t integrate(ice_worker *worker, void *user_data) {
  const long *steps = user_data; /* the worker is a copy of the host: its memory is here too */
  int32_t rank = ice_worker_rank(worker);
  int32_t size = ice_worker_world_size(worker);
  struct share share = {0, 0};
  for (long i = rank; i < *steps; i += size) {
    double x = ((double)i + 0.5) / (double)*steps;
    share.sum += 4 / (1 + x * x) / (double)*steps;
    share.steps++;
  }
  return ice_worker_return(worker, &share, sizeof share) == ICE_OK ? 0 : 1;
}

/* What is wrong reaches the host as text, and the number that is returned as the exit code. */
static int32_t fail_on_rank_1(ice_worker *worker, void *user_data) {
  (void)user_data;
  if (ice_worker_rank(worker) != 1) return 0;
  ice_worker_record_error("the input of rank 1 is not there", NULL);
  return 7;
}

static ice_result *run(ice_worker_fn function, void *user_data) {
  ice_spec *spec;
  ice_agent *agent;
  ice_result *result;
  if (ice_spec_new(&spec) != ICE_OK) return NULL;
  ice_spec_set_local_world_size(spec, WORKERS);
  ice_spec_set_callback(spec, function, user_data);
  ice_spec_set_max_restarts(spec, 0);
  ice_status status = ice_agent_new(spec, &agent);
  ice_spec_free(spec);
  if (status == ICE_OK) {
    status = ice_agent_run(agent, &result);
    ice_agent_free(agent);
  }
  if (status == ICE_OK) return result;
  fprintf(stderr, "callback: %s\n", ice_last_error_message());
  return NULL;
}

static int add_up(void) {
  long steps = STEPS;
  ice_result *result = run(integrate, &steps);
  if (!result) return 1;
  int failed = ice_result_is_failed(result);
  if (failed) {
    fprintf(stderr, "callback: %s", ice_result_summary(result));
  } else {
    double pi = 0;
    for (int32_t rank = 0; rank < WORKERS; rank++) {
      const ice_worker_result *worker = ice_result_worker_of_rank(result, rank);
      /* A value is the worker's own memory, aligned to a page. It lives as long as the result. */
      const struct share *share = worker->value;
      printf("rank %d: %.12f from %ld steps\n", rank, share->sum, share->steps);
      pi += share->sum;
    }
    printf("pi is %.12f\n\n", pi);
  }
  ice_result_free(result);
  return failed;
}

static int show_a_failure(void) {
  ice_result *result = run(fail_on_rank_1, NULL);
  if (!result) return 1;
  const ice_worker_result *first = ice_result_root_cause(result);
  if (first) {
    printf("rank %d failed, as it should, with exit code %d: %s\n", first->global_rank,
           first->exit_code, first->message);
    printf("its error file: %.*s\n", (int)first->error_size, (const char *)first->error_data);
  }
  ice_result_free(result);
  return first == NULL;
}

int main(void) {
  return add_up() || show_a_failure();
}

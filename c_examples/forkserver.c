/* Workers from a fork server: a process that this program makes once, that loads what all workers
 * need (the warm-up), and of which each worker is a copy, born in a fraction of a millisecond.
 *
 * Here the warm-up makes a table of primes, and each worker counts twin primes in its part of it.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define _GNU_SOURCE

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ice.h"

enum { WORKERS = 8,
       LIMIT = 10 * 1000 * 1000 };

static char is_prime[LIMIT];
static pid_t made_by;

/* In the server: the only process that ever does this. */
static int32_t make_table(ice_worker *server, void *user_data) {
  (void)server;
  (void)user_data;
  memset(is_prime + 2, 1, LIMIT - 2);
  for (long i = 2; i * i < LIMIT; i++) {
    for (long j = i * i; is_prime[i] && j < LIMIT; j += i) is_prime[j] = 0;
  }
  made_by = getpid();
  return 0; /* anything else, and no worker starts */
}

struct count {
  long twins;
  pid_t made_by;
};

/* In a copy of the server: the table is there, in memory that all workers share. */
static int32_t count_twins(ice_worker *worker, void *user_data) {
  (void)user_data;
  long rank = ice_worker_rank(worker), size = ice_worker_world_size(worker);
  long end = LIMIT / size * (rank + 1);
  struct count count = {0, made_by};
  for (long i = LIMIT / size * rank; i < end && i + 2 < LIMIT; i++) {
    count.twins += is_prime[i] && is_prime[i + 2];
  }
  return ice_worker_return(worker, &count, sizeof count) == ICE_OK ? 0 : 1;
}

static ice_status run(ice_result **result) {
  ice_spec *spec;
  ice_agent *agent;
  ice_status status = ice_spec_new(&spec);
  if (status != ICE_OK) return status;
  ice_spec_set_local_world_size(spec, WORKERS);
  ice_spec_set_function(spec, NULL, "count_twins");
  ice_spec_set_start_method(spec, ICE_START_FORKSERVER);
  ice_spec_set_warm_up(spec, "make_table");
  status = ice_agent_new(spec, &agent); /* says what was wrong above, too */
  ice_spec_free(spec);
  if (status != ICE_OK) return status;

  /* The run would make the server itself. Done here, the program may do something else before it
   * starts the workers, which then takes no time. */
  status = ice_agent_prepare(agent);
  if (status == ICE_OK) status = ice_agent_run(agent, result);
  ice_agent_free(agent);
  return status;
}

int main(void) {
  /* First of all: in the server and in workers the last call does not return. */
  if (ice_worker_register("make_table", make_table, NULL) != ICE_OK ||
      ice_worker_register("count_twins", count_twins, NULL) != ICE_OK ||
      ice_worker_main() != ICE_OK) {
    fprintf(stderr, "forkserver: %s\n", ice_last_error_message());
    return 1;
  }

  ice_result *result;
  if (run(&result) != ICE_OK) {
    fprintf(stderr, "forkserver: %s\n", ice_last_error_message());
    return 1;
  }
  int failed = ice_result_is_failed(result);
  if (failed) {
    fprintf(stderr, "forkserver: %s", ice_result_summary(result));
  } else {
    long twins = 0;
    for (int32_t rank = 0; rank < WORKERS; rank++) {
      const struct count *count = ice_result_worker_of_rank(result, rank)->value;
      printf("rank %d: %ld, in the table of process %d\n", rank, count->twins,
             (int)count->made_by);
      twins += count->twins;
    }
    printf("twin primes below %d: %ld\n", LIMIT, twins);
  }
  ice_result_free(result);
  return failed;
}

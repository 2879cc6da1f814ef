/* A function as a worker, in a shared object: see shared.c, which runs it. Any program in any
 * language may; its workers have nothing in them but libice and this.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#include <string.h>

#include "ice.h"

/* The integral of 4 / (1 + x^2) from 0 to 1, which is pi: this worker's share of the steps, whose
 * number is the argument. */
int32_t integrate(ice_worker *worker, void *user_data) {
  (void)user_data; /* always NULL here */
  const void *argument;
  size_t length;
  int64_t steps;
  if (ice_worker_argument(worker, &argument, &length) != ICE_OK || length != sizeof steps) {
    ice_worker_record_error("the argument is not a number of steps", NULL);
    return 1;
  }
  memcpy(&steps, argument, sizeof steps);
  double sum = 0;
  for (int64_t i = ice_worker_rank(worker); i < steps; i += ice_worker_world_size(worker)) {
    double x = ((double)i + 0.5) / (double)steps;
    sum += 4 / (1 + x * x) / (double)steps;
  }
  return ice_worker_return(worker, &sum, sizeof sum) == ICE_OK ? 0 : 1;
}

/* The program in which functions of shared objects run where libice is linked statically into the
 * host, see ice_spec_set_runner(). It is linked with -rdynamic: the objects then use its libice, and
 * need none of their own.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#include <stdio.h>

#include "ice.h"

int main(void) {
  ice_worker_main(); /* does not return in a worker */
  fprintf(stderr, "runner: an agent of libice starts this, see ice_spec_set_runner()\n");
  return 2;
}

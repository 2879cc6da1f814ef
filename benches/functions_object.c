/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The shared object of functions.c: its function, without the library. */
#include "functions.h"

int32_t note_start(void *worker, void *user_data) {
  (void)worker, (void)user_data;
  note();
  return 0;
}

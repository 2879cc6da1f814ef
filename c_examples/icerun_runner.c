/* icerun: where the process that asks the CUDA driver comes from.
 *
 * icerun is linked statically, to start quickly, and a static program cannot load the driver. The
 * shared library can: it is a program too.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define _POSIX_C_SOURCE 200809L

#include "icerun.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#ifndef LIBRARY_NAME
#define LIBRARY_NAME "libice.so"
#endif

void set_runner(ice_spec *spec) {
  static const char *const places[] = {"", "../lib/"}; /* as built, as installed in bin and lib */
  char own[4096];
  ssize_t length = readlink("/proc/self/exe", own, sizeof own);
  if (length < 0 || length == sizeof own) return;
  own[length] = '\0';
  char *name = strrchr(own, '/');
  if (!name) return;
  name[1] = '\0';
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    char library[sizeof own + 64];
    snprintf(library, sizeof library, "%s%s%s", own, places[i], LIBRARY_NAME);
    if (access(library, X_OK) == 0) {
      ice_spec_set_runner(spec, library);
      return;
    }
  }
  /* None: what needs it says so. */
}

/* icerun: what signals are to the run.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#include "icerun.h"

#include <stdio.h>

/* Their default would end icerun, or is to do nothing. What stops the run does so in any case. */
#define PASSED "SIGUSR1,SIGUSR2,SIGWINCH"

void set_default_signals(ice_spec *spec) {
  ice_spec_set_signals(spec, OPTIONS[OPT_SIGNALS_TO_HANDLE].standard);
  ice_spec_set_pass_signals(spec, PASSED);
}

void set_signals(const struct options *options, ice_spec *spec) {
  if (option_on(options, OPT_SIGNALS_TO_HANDLE)) {
    const char *list = option_text(options, OPT_SIGNALS_TO_HANDLE);
    accept_value(options, OPT_SIGNALS_TO_HANDLE, ice_spec_set_signals(spec, list));
  }
  if (!option_filled(options, OPT_PASS_SIGNALS)) return;
  char passed[1024];
  int length = snprintf(passed, sizeof passed, PASSED ",%s", option_text(options, OPT_PASS_SIGNALS));
  if (length >= (int)sizeof passed) bad_value(options, OPT_PASS_SIGNALS, "is too long");
  accept_value(options, OPT_PASS_SIGNALS, ice_spec_set_pass_signals(spec, passed));
}

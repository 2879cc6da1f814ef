/* icerun: what single signals are to the run, --on-signal and what is passed on without it.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define _POSIX_C_SOURCE 200809L
#define _XOPEN_SOURCE 700
#define _DEFAULT_SOURCE /* SIGWINCH */

#include "icerun.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* Names that people give to a scheduler, or a keyboard. */
static const struct {
  const char *name;
  int32_t number;
} SIGNALS[] = {
  {"HUP", SIGHUP},   {"INT", SIGINT},   {"QUIT", SIGQUIT},   {"TERM", SIGTERM}, {"USR1", SIGUSR1},
  {"USR2", SIGUSR2}, {"ALRM", SIGALRM}, {"WINCH", SIGWINCH}, {"CONT", SIGCONT}, {"TSTP", SIGTSTP},
  {"TTIN", SIGTTIN}, {"TTOU", SIGTTOU}, {"XCPU", SIGXCPU},   {"XFSZ", SIGXFSZ}, {"URG", SIGURG},
  {"PIPE", SIGPIPE}, {"KILL", SIGKILL}, {"STOP", SIGSTOP},   {"CHLD", SIGCHLD}, {"SEGV", SIGSEGV},
  {"ABRT", SIGABRT}, {"BUS", SIGBUS},   {"FPE", SIGFPE},     {"ILL", SIGILL},   {"TRAP", SIGTRAP},
  {"SYS", SIGSYS},
};

static const struct {
  const char *name;
  int32_t action;
} ACTIONS[] = {
  {"pass", ICE_ON_SIGNAL_PASS},
  {"checkpoint", ICE_ON_SIGNAL_CHECKPOINT},
  {"checkpoint-and-stop", ICE_ON_SIGNAL_CHECKPOINT_AND_STOP},
  {"stop", ICE_ON_SIGNAL_STOP},
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* USR1, SIGUSR1, 10 or RTMIN+3; 0 for what is no signal. */
static int32_t signal_number(const char *text) {
  int64_t number;
  if (read_integer(text, &number)) return number > 0 && number <= SIGRTMAX ? (int32_t)number : 0;
  if (strncasecmp(text, "SIG", 3) == 0) text += 3;
  if (strncasecmp(text, "RTMIN+", 6) == 0 && read_integer(text + 6, &number)) {
    return number >= 0 && number <= SIGRTMAX - SIGRTMIN ? SIGRTMIN + (int32_t)number : 0;
  }
  for (size_t i = 0; i < COUNT(SIGNALS); i++) {
    if (strcasecmp(text, SIGNALS[i].name) == 0) return SIGNALS[i].number;
  }
  return 0;
}

static int32_t action_number(const char *text) {
  for (size_t i = 0; i < COUNT(ACTIONS); i++) {
    if (strcmp(text, ACTIONS[i].name) == 0) return ACTIONS[i].action;
  }
  return ICE_ON_SIGNAL_DEFAULT;
}

/* One NAME=ACTION. */
static void set_one(const struct options *options, ice_spec *spec, char *item) {
  char *action = strchr(item, '=');
  if (action) *action++ = 0;
  int32_t number = signal_number(item);
  int32_t chosen = action ? action_number(action) : ICE_ON_SIGNAL_DEFAULT;
  if (!number) bad_value(options, OPT_ON_SIGNAL, "each must begin with a signal, like USR1=checkpoint");
  if (chosen == ICE_ON_SIGNAL_DEFAULT) {
    bad_value(options, OPT_ON_SIGNAL,
              "what follows a signal must be =pass, =checkpoint, =checkpoint-and-stop or =stop");
  }
  accept_value(options, OPT_ON_SIGNAL, ice_spec_set_on_signal(spec, number, chosen));
}

void set_signals(const struct options *options, ice_spec *spec) {
  /* Their default would end icerun, or is to do nothing. What stops the run does so in any case. */
  char passed[1024];
  const char *more = option_filled(options, OPT_PASS_SIGNALS) ? option_text(options, OPT_PASS_SIGNALS) : "";
  if (snprintf(passed, sizeof passed, "SIGUSR1,SIGUSR2,SIGWINCH,%s", more) >= (int)sizeof passed) {
    bad_value(options, OPT_PASS_SIGNALS, "is too long");
  }
  accept_value(options, OPT_PASS_SIGNALS, ice_spec_set_pass_signals(spec, passed));
  for (const char *at = options->on_signal ? options->on_signal : ""; *at; at += *at == ',') {
    char item[64];
    size_t length = strcspn(at, ",");
    if (length >= sizeof item) bad_value(options, OPT_ON_SIGNAL, "is no list like USR1=checkpoint,USR2=pass");
    memcpy(item, at, length);
    item[length] = 0;
    at += length;
    if (length > 0) set_one(options, spec, item);
  }
  /* ^Z */
  accept_value(options, OPT_ON_SIGNAL, ice_spec_set_suspend(spec, 1));
}

/* icerun: the torchrun of this library, from the arguments to the exit status.
 *
 *   icerun --standalone --nproc-per-node 8 train.py --epochs 3
 *   icerun --nproc-per-node 4 --no-python --tee 3 ./train
 *
 * It is a program like any other that uses the library: all it knows is in ice.h.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define _POSIX_C_SOURCE 200809L

#include "icerun.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* What `ice_result_exit_status()` says of an agent that could not go on. */
enum { EXIT_AGENT = 125 };

/* Called from a thread of the library, one message at a time. What ended the run, an error, is in
 * the report of its result too, with more about it: once is enough. */
static void print_message(void *user_data, int32_t level, const char *text) {
  (void)user_data;
  if (level != ICE_LOG_ERROR) fprintf(stderr, "icerun: %s\n", text);
}

static int32_t log_level(const struct options *options) {
  const char *level = option_text(options, OPT_LOG_LEVEL);
  if (strcmp(level, "error") == 0) return ICE_LOG_ERROR;
  if (strcmp(level, "info") == 0) return ICE_LOG_INFO;
  if (strcmp(level, "debug") == 0) return ICE_LOG_DEBUG;
  if (strcmp(level, "warning") != 0) {
    bad_value(options, OPT_LOG_LEVEL, "must be error, warning, info or debug");
  }
  return option_on(options, OPT_QUIET) ? ICE_LOG_ERROR : ICE_LOG_WARNING;
}

static int exit_status(const struct options *options, const ice_result *result) {
  int as_torchrun = option_on(options, OPT_COMPAT_EXIT_CODE);
  if (as_torchrun && ice_result_end(result) == ICE_END_WORKER_FAILURE) return 1;
  return ice_result_exit_status(result);
}

static void report(const struct options *options, const ice_result *result) {
  int worth_a_word = ice_result_is_failed(result);
  if (ice_result_restarts(result) > 0 && !option_on(options, OPT_QUIET)) worth_a_word = 1;
  if (worth_a_word) fprintf(stderr, "icerun: %s", ice_result_summary(result));
  /* Output that went to files only, to a place that nobody has named. */
  int to_files = option_filled(options, OPT_REDIRECTS) ||
                 option_filled(options, OPT_LOCAL_RANKS_FILTER);
  const char *dir = ice_result_run_dir(result);
  if (!worth_a_word && to_files && *dir && !option_filled(options, OPT_LOG_DIR)) {
    notice(options, "the files are in %s", dir);
  }
}

/* Ends by `signal`, so that whoever waits for this process sees what stopped it: a shell then stops
 * its script at ^C too. Returns if the signal does not end this process. */
static void end_by(int signal) {
  /* SIGQUIT is to end it, not to leave a core file: there is nothing wrong here. */
  struct rlimit none = {0, 0};
  setrlimit(RLIMIT_CORE, &none);
  struct sigaction standard = {.sa_handler = SIG_DFL};
  sigset_t only;
  sigemptyset(&only);
  sigaddset(&only, signal);
  sigaction(signal, &standard, NULL);
  sigprocmask(SIG_UNBLOCK, &only, NULL);
  raise(signal);
}

/* What --dry-run shows, in place of a run. */
static ice_status show_plan(const ice_agent *agent, int *code) {
  ice_plan *plan;
  ice_status status = ice_agent_plan(agent, &plan);
  if (status != ICE_OK) return status;
  *code = print_plan(plan);
  ice_plan_free(plan);
  return ICE_OK;
}

int main(int argc, char **argv) {
  (void)argc;
  ice_worker_main(); /* the process that asks the CUDA driver is icerun again, and does not return */
  /* A stderr without a reader must not end a run; workers get the default back. */
  signal(SIGPIPE, SIG_IGN);
  /* Whoever started this may ignore it: then no exit status could be had. */
  signal(SIGCHLD, SIG_DFL);

  struct options options;
  options_read(&options, argv);
  check_end(&options);
  int32_t level = log_level(&options);
  leave_pid_1(); /* before anything of the library is made: a handle is of no use in a child */

  hold_notices();
  ice_spec *spec = spec_from_options(&options, level);
  ice_spec_set_log_callback(spec, print_message, NULL);
  ice_agent *agent;
  ice_result *result;
  ice_status status = ice_agent_new(spec, &agent);
  if (status == ICE_ERROR_CONFIG) usage_error("%s", ice_last_error_message());
  release_notices();
  int code = 0, stopped_by = 0, dry = option_on(&options, OPT_DRY_RUN);
  if (status == ICE_OK && dry) {
    status = show_plan(agent, &code);
  } else if (status == ICE_OK) {
    status = ice_agent_run(agent, &result);
    /* One that is passed on and comes now is for workers that are no more: it must not cost the exit status. */
    signal(SIGUSR1, SIG_IGN);
    signal(SIGUSR2, SIG_IGN);
  }
  if (status != ICE_OK) {
    fprintf(stderr, "icerun: %s\n", ice_last_error_message());
    return EXIT_AGENT;
  }
  if (!dry) {
    report(&options, result);
    tell_others(&options, result);
    code = exit_status(&options, result);
    /* Unless another status was chosen. */
    int by_signal = ice_result_end(result) == ICE_END_INTERRUPTED && code > 128;
    if (by_signal && code == 128 + ice_result_signal(result)) stopped_by = code - 128;
    ice_result_free(result);
  }
  ice_agent_free(agent);
  ice_spec_free(spec);
  if (stopped_by > 0) end_by(stopped_by);
  return code;
}

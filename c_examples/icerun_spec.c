/* icerun: from options to an ice_spec.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define _POSIX_C_SOURCE 200809L

#include "icerun.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What the library does not take ends icerun, with the name of the option that asked for it. */
void accept_value(const struct options *options, size_t id, ice_status status) {
  if (status != ICE_OK) bad_value(options, id, ice_last_error_message());
}

static void accept(ice_status status) {
  if (status != ICE_OK) usage_error("%s", ice_last_error_message());
}

/* ---- what ---- */

static int is_on_path(const char *name) {
  const char *path = getenv("PATH");
  for (const char *dir = path ? path : "/bin:/usr/bin"; *dir; dir += *dir == ':') {
    int length = (int)strcspn(dir, ":");
    char file[4096];
    int needed = snprintf(file, sizeof file, "%.*s/%s", length, dir, name);
    if (needed < (int)sizeof file && length > 0 && access(file, X_OK) == 0) return 1;
    dir += length;
  }
  return 0;
}

static const char *python(void) {
  const char *chosen = getenv("PYTHON_EXEC");
  if (chosen && *chosen) return chosen;
  return !is_on_path("python3") && is_on_path("python") ? "python" : "python3";
}

/* Python's own runpy, in a process of its own, with the arguments that the script would see. */
static const char RUN_PATH[] =
  "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')";

static void set_command(const struct options *options, ice_spec *spec) {
  char **arguments = options->command;
  if (!*arguments) return; /* the file says it */
  if (option_on(options, OPT_RUN_PATH)) {
    if (**arguments != '/') usage_error("--run-path needs an absolute path, not %s", *arguments);
    const char *before[] = {"-u", "-c", RUN_PATH};
    accept(ice_spec_set_program(spec, python()));
    accept(ice_spec_add_args(spec, before, 3));
  } else if (option_on(options, OPT_NO_PYTHON)) {
    if (option_on(options, OPT_MODULE)) {
      usage_error("--module needs Python, --no-python leaves it out: choose one of the two");
    }
    accept(ice_spec_set_program(spec, *arguments++));
  } else {
    const char *before[] = {"-u", "-m"};
    accept(ice_spec_set_program(spec, python()));
    accept(ice_spec_add_args(spec, before, option_on(options, OPT_MODULE) ? 2 : 1));
  }
  for (; *arguments; arguments++) accept(ice_spec_add_arg(spec, *arguments));
}

/* ---- environment ---- */

static void set_environment(const struct options *options, ice_spec *spec) {
  /* Those of the file are not known here. */
  if (option_on(options, OPT_SIGNALS_TO_HANDLE) || !option_filled(options, OPT_CONFIG)) {
    const char *signals = option_text(options, OPT_SIGNALS_TO_HANDLE);
    accept(ice_spec_set_env(spec, "TORCHELASTIC_SIGNALS_TO_HANDLE", signals));
  }
  for (size_t i = 0; i < options->env_count; i++) {
    const char *variable = options->env[i];
    size_t length = strcspn(variable, "=");
    const char *value = variable + length + 1;
    accept(ice_spec_set_env_bytes(spec, variable, length, value, strlen(value)));
  }
}

/* ---- what icerun has its own words for ---- */

static void set_workers(const struct options *options, ice_spec *spec) {
  /* The list of devices says how many, or the file, unless a number is given too. */
  int is_said = option_filled(options, OPT_DEVICES) || option_filled(options, OPT_CONFIG) || scheduler(options);
  if (is_said && !option_on(options, OPT_NPROC_PER_NODE)) return;
  const char *count = option_text(options, OPT_NPROC_PER_NODE);
  accept_value(options, OPT_NPROC_PER_NODE, ice_spec_set_nproc_per_node(spec, count));
}

static void set_stdin(const struct options *options, ice_spec *spec) {
  if (!option_on(options, OPT_STDIN)) return;
  const char *who = option_text(options, OPT_STDIN);
  accept_value(options, OPT_STDIN, ice_spec_set(spec, "stdin", who));
  if (strcmp(who, "none") != 0 && isatty(STDIN_FILENO)) {
    /* A worker has a process group of its own: the terminal would stop it where it reads. */
    bad_value(options, OPT_STDIN, "a worker cannot read from a terminal, but for --debug-rank; use a pipe or a file");
  }
}

static void set_monitor_interval(const struct options *options, ice_spec *spec) {
  if (!option_on(options, OPT_MONITOR_INTERVAL)) return;
  double seconds = option_number(options, OPT_MONITOR_INTERVAL);
  if (seconds >= 0 && seconds < 0.001) seconds = 0.001; /* the least that the library takes */
  accept_value(options, OPT_MONITOR_INTERVAL, ice_spec_set_monitor_interval(spec, seconds));
}

/* ---- what the library takes as it is ---- */

static int is_plain(size_t id) { return OPTIONS[id].library && !OPTIONS[id].is_by_hand; }

/* An empty value is as good as none, as for torchrun, but where it stands in place of a number or a word. */
static int may_be_empty(size_t id) {
  int32_t kind = OPTIONS[id].library->kind;
  return !OPTIONS[id].standard || kind == ICE_OPTION_TEXT || kind == ICE_OPTION_LIST;
}

static void set_plain_values(const struct options *options, ice_spec *spec) {
  for (size_t id = 0; id < OPTION_COUNT; id++) {
    if (!is_plain(id) || option_repeats(id) || !option_on(options, id)) continue;
    const char *value = option_text(options, id);
    if (!*value && may_be_empty(id)) continue;
    accept_value(options, id, ice_spec_set(spec, OPTIONS[id].library->name, value));
  }
  for (size_t i = 0; i < options->item_count; i++) {
    const struct item *item = &options->items[i];
    ice_status status = ice_spec_set(spec, OPTIONS[item->id].library->name, item->value);
    if (status != ICE_OK) bad_text(options, item->id, item->value, ice_last_error_message());
  }
}

/* What is otherwise than with the library where nobody says it. */
static void set_defaults(const struct options *options, ice_spec *spec) {
  for (size_t id = 0; id < OPT_OWN_COUNT; id++) {
    if (!is_plain(id) || !OPTIONS[id].has_own_default) continue;
    accept(ice_spec_set(spec, OPTIONS[id].library->name, OPTIONS[id].standard));
  }
  set_default_signals(spec);
  set_default_run_id(options, spec);
  accept(ice_spec_set_ask_on_interrupt(spec, 1));
  accept(ice_spec_set_suspend(spec, 1));   /* ^Z */
  accept(ice_spec_set_subreaper(spec, 1)); /* it has no children but those of the run */
  accept(ice_spec_set_raise_descriptor_limit(spec, 1));
  accept(ice_spec_set_allow_absent_ranks(spec, 1)); /* as torchrun takes them */
  accept(ice_spec_set_scrub_launcher(spec, 1));
  accept(ice_spec_set_agent_store(spec, 1));
}

/* ---- all of it ---- */

/* Options of torchrun that change nothing here, but must not be wrong either. */
static void check_without_effect(const struct options *options) {
  const char *method = option_text(options, OPT_START_METHOD);
  if (strcmp(method, "spawn") != 0 && strcmp(method, "fork") != 0 && strcmp(method, "forkserver") != 0) {
    bad_value(options, OPT_START_METHOD, "must be spawn, fork or forkserver");
  }
  if (option_on(options, OPT_USE_ENV)) {
    notice(options, "--use-env has no effect here: LOCAL_RANK is always in the environment of workers");
  }
}

/* torchrun's word for where events go, or several: SOURCE=NAME,... */
static void set_event_handler(const struct options *options, ice_spec *spec) {
  static const char want[] = "must be null or console, or a list like worker=null,agent=console";
  for (const char *at = option_text(options, OPT_EVENT_LOG_HANDLER); *at; at += *at == ',') {
    char item[64];
    size_t length = strcspn(at, ",");
    if (length >= sizeof item) bad_value(options, OPT_EVENT_LOG_HANDLER, want);
    memcpy(item, at, length);
    item[length] = 0;
    at += length;
    char *name = strchr(item, '=');
    if (name) *name++ = 0;
    const char *source = name ? item : NULL, *handler = name ? name : item;
    int console = strcmp(handler, "console") == 0;
    if (!console && strcmp(handler, "null") != 0) bad_value(options, OPT_EVENT_LOG_HANDLER, want);
    if (!source && console && option_filled(options, OPT_EVENT_FILE)) {
      bad_value(options, OPT_EVENT_LOG_HANDLER, "events already go to the file of --event-file");
    }
    /* null is what is anyway where no source is named, and leaves it to --event-file. */
    if (source || console) {
      accept_value(options, OPT_EVENT_LOG_HANDLER,
                   ice_spec_set_event_handler(spec, source, handler));
    }
  }
}

ice_spec *spec_from_options(const struct options *options, int32_t log_level) {
  ice_spec *spec;
  accept(ice_spec_new(&spec));
  accept(ice_spec_set_log_level(spec, log_level));
  set_defaults(options, spec);
  if (option_filled(options, OPT_CONFIG)) {
    accept_value(options, OPT_CONFIG, ice_spec_load(spec, option_text(options, OPT_CONFIG)));
    int is_said = option_on(options, OPT_LOG_LEVEL) || option_on(options, OPT_QUIET);
    if (is_said) accept(ice_spec_set_log_level(spec, log_level));
  }
  set_workers(options, spec);
  check_without_effect(options);
  set_event_handler(options, spec);
  set_plain_values(options, spec);
  set_stdin(options, spec);
  set_monitor_interval(options, spec);
  if (option_on(options, OPT_KEEP_LAUNCHER_VARIABLES)) accept(ice_spec_set_scrub_launcher(spec, 0));
  if (option_on(options, OPT_NO_AGENT_STORE)) accept(ice_spec_set_agent_store(spec, 0));
  set_signals(options, spec);
  rendezvous_to_spec(options, spec);
  set_command(options, spec);
  set_environment(options, spec);
  return spec;
}

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
void accept_value(const struct options *options, enum option_id id, ice_status status) {
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

int has_env(const struct options *options, const char *name) {
  size_t length = strlen(name);
  for (size_t i = 0; i < options->env_count; i++) {
    const char *variable = options->env[i];
    if (strncmp(variable, name, length) == 0 && variable[length] == '=') return 1;
  }
  return getenv(name) != NULL;
}

static void set_environment(const struct options *options, ice_spec *spec) {
  const char *signals = option_text(options, OPT_SIGNALS_TO_HANDLE);
  accept(ice_spec_set_env(spec, "TORCHELASTIC_SIGNALS_TO_HANDLE", signals));
  for (size_t i = 0; i < options->env_count; i++) {
    const char *variable = options->env[i];
    size_t length = strcspn(variable, "=");
    const char *value = variable + length + 1;
    accept(ice_spec_set_env_bytes(spec, variable, length, value, strlen(value)));
  }
}

/* ---- choices and lists ---- */

/* The place of the value among `choices`, which end in NULL. */
static int32_t choice(const struct options *options, enum option_id id, const char *const *choices,
                      const char *want) {
  const char *text = option_text(options, id);
  for (int32_t i = 0; choices[i]; i++) {
    if (strcmp(text, choices[i]) == 0) return i;
  }
  bad_value(options, id, want);
}

static void set_workers(const struct options *options, ice_spec *spec) {
  /* The list of devices says how many, unless a number is given too. */
  if (option_filled(options, OPT_DEVICES) && !option_on(options, OPT_NPROC_PER_NODE)) return;
  const char *count = option_text(options, OPT_NPROC_PER_NODE);
  char digits[32];
  int64_t number;
  if (read_integer(count, &number)) {
    snprintf(digits, sizeof digits, "%lld", (long long)number);
    count = digits;
  }
  accept_value(options, OPT_NPROC_PER_NODE, ice_spec_set_nproc_per_node(spec, count));
}

static void set_visibility(const struct options *options, ice_spec *spec) {
  static const char *const names[] = {"inherit", "own", "all", NULL};
  static const int32_t values[] = {ICE_VISIBLE_INHERIT, ICE_VISIBLE_OWN, ICE_VISIBLE_ALL};
  if (!option_filled(options, OPT_DEVICE_VISIBILITY)) return;
  int32_t chosen = choice(options, OPT_DEVICE_VISIBILITY, names, "must be own, all or inherit");
  accept_value(options, OPT_DEVICE_VISIBILITY,
               ice_spec_set_device_visibility(spec, values[chosen]));
}

static void set_stdin(const struct options *options, ice_spec *spec) {
  static const char *const names[] = {"none", "rank0", "all", NULL};
  static const int32_t values[] = {ICE_STDIN_NULL, ICE_STDIN_RANK0, ICE_STDIN_ALL};
  int32_t chosen = choice(options, OPT_STDIN, names, "must be none, rank0 or all");
  if (values[chosen] != ICE_STDIN_NULL && isatty(STDIN_FILENO)) {
    /* A worker has a process group of its own: the terminal would stop it where it reads. */
    bad_value(options, OPT_STDIN, "a worker cannot read from a terminal, but for --debug-rank; use a pipe or a file");
  }
  accept_value(options, OPT_STDIN, ice_spec_set_stdin(spec, values[chosen]));
}

static void set_numa_binding(const struct options *options, ice_spec *spec) {
  static const char *const names[] = {"node", "socket", "exclusive", "core-complex", "compact", NULL};
  static const int32_t values[] = {ICE_CPU_BINDING_NODE, ICE_CPU_BINDING_SOCKET,
                                   ICE_CPU_BINDING_EXCLUSIVE, ICE_CPU_BINDING_CORE_COMPLEX,
                                   ICE_CPU_BINDING_COMPACT};
  if (!option_text(options, OPT_NUMA_BINDING)) return;
  int32_t chosen = choice(options, OPT_NUMA_BINDING, names,
                          "must be node, socket, exclusive, core-complex or compact");
  accept_value(options, OPT_NUMA_BINDING, ice_spec_set_cpu_binding(spec, values[chosen]));
}

static void set_macros(const struct options *options, ice_spec *spec) {
  static const char *const names[] = {"none", "local_rank", "all", NULL};
  static const int32_t values[] = {ICE_MACROS_NONE, ICE_MACROS_LOCAL_RANK, ICE_MACROS_ALL};
  int32_t chosen = choice(options, OPT_MACROS, names, "must be local_rank, all or none");
  accept_value(options, OPT_MACROS, ice_spec_set_macros(spec, values[chosen]));
}

static void set_monitor_interval(const struct options *options, ice_spec *spec) {
  double seconds = option_number(options, OPT_MONITOR_INTERVAL);
  if (seconds >= 0 && seconds < 0.001) seconds = 0.001; /* the least that the library takes */
  accept_value(options, OPT_MONITOR_INTERVAL, ice_spec_set_monitor_interval(spec, seconds));
}

static void set_debug_rank(const struct options *options, ice_spec *spec) {
  if (!option_filled(options, OPT_DEBUG_RANK)) return;
  int64_t rank = option_integer(options, OPT_DEBUG_RANK);
  accept_value(options, OPT_DEBUG_RANK, ice_spec_set_debug_rank(spec, rank));
}

static void set_file_timers(const struct options *options, ice_spec *spec) {
  /* Left to the environment, unless it is given. */
  if (!option_on(options, OPT_FILE_TIMERS)) return;
  accept_value(options, OPT_FILE_TIMERS, ice_spec_set_file_timers(spec, 1));
}

static void set_stack_command(const struct options *options, ice_spec *spec) {
  if (!option_filled(options, OPT_STACK_COMMAND)) return;
  const char *words[] = {"/bin/sh", "-c", option_text(options, OPT_STACK_COMMAND)};
  accept_value(options, OPT_STACK_COMMAND, ice_spec_set_stack_command(spec, words, 3));
}

static void set_backoff(const struct options *options, ice_spec *spec) {
  if (!option_filled(options, OPT_RESTART_BACKOFF)) return;
  const char *text = option_text(options, OPT_RESTART_BACKOFF);
  char first[32];
  size_t length = strcspn(text, ":");
  double initial, maximum;
  snprintf(first, sizeof first, "%.*s", (int)length, text);
  if (length >= sizeof first || !read_number(first, &initial) ||
      (text[length] && !read_number(text + length + 1, &maximum))) {
    bad_value(options, OPT_RESTART_BACKOFF, "must be SECONDS or SECONDS:MAX");
  }
  if (!text[length]) maximum = initial > 60 ? initial : 60;
  ice_status status = ice_spec_set_restart_backoff(spec, initial, maximum);
  accept_value(options, OPT_RESTART_BACKOFF, status);
}

static void set_section_limits(const struct options *options, ice_spec *spec) {
  if (!option_filled(options, OPT_SECTION_LIMITS)) return;
  static const char want[] = "must be NAME:SECONDS,... as step:120, without a NAME for no section";
  const char *text = option_text(options, OPT_SECTION_LIMITS);
  for (;;) {
    size_t length = strcspn(text, ","), name = strcspn(text, ":");
    char item[128];
    double seconds;
    if (name >= length || length >= sizeof item) bad_value(options, OPT_SECTION_LIMITS, want);
    memcpy(item, text, length);
    item[length] = item[name] = 0;
    if (!read_number(item + name + 1, &seconds)) bad_value(options, OPT_SECTION_LIMITS, want);
    accept_value(options, OPT_SECTION_LIMITS,
                 ice_spec_set_section_limit(spec, name ? item : NULL, seconds));
    if (!text[length]) return;
    text += length + 1;
  }
}

static void set_section_learning(const struct options *options, ice_spec *spec) {
  if (!option_filled(options, OPT_SECTION_LEARNING)) return;
  const char *text = option_text(options, OPT_SECTION_LEARNING);
  char first[32];
  size_t length = strcspn(text, ":");
  double factor, least = 10;
  snprintf(first, sizeof first, "%.*s", (int)length, text);
  if (length >= sizeof first || !read_number(first, &factor) ||
      (text[length] && !read_number(text + length + 1, &least))) {
    bad_value(options, OPT_SECTION_LEARNING, "must be FACTOR or FACTOR:LEAST");
  }
  accept_value(options, OPT_SECTION_LEARNING, ice_spec_set_section_learning(spec, factor, least));
}

static void set_health_port(const struct options *options, ice_spec *spec) {
  if (!option_filled(options, OPT_HEALTH_PORT)) return;
  int64_t port = option_integer(options, OPT_HEALTH_PORT);
  accept_value(options, OPT_HEALTH_PORT, ice_spec_set_health_check(spec, port, 0));
}

static void set_timer_signal(const struct options *options, ice_spec *spec) {
  int64_t number = option_integer(options, OPT_TIMER_SIGNAL);
  if (number < 0 || number > 64) bad_value(options, OPT_TIMER_SIGNAL, "must be 0 to 64");
  accept_value(options, OPT_TIMER_SIGNAL, ice_spec_set_timer_signal(spec, (int32_t)number));
}

static void set_no_restart_codes(const struct options *options, ice_spec *spec) {
  if (!option_filled(options, OPT_NO_RESTART_CODES)) return;
  const char *text = option_text(options, OPT_NO_RESTART_CODES);
  for (;;) {
    size_t length = strcspn(text, ",");
    char item[16];
    int64_t code;
    snprintf(item, sizeof item, "%.*s", (int)length, text);
    if (length >= sizeof item || !read_integer(item, &code) || code < 1 || code > 255) {
      bad_value(options, OPT_NO_RESTART_CODES, "must be exit codes from 1 to 255, like 2,3");
    }
    accept_value(options, OPT_NO_RESTART_CODES,
                 ice_spec_add_no_restart_exit_code(spec, (int32_t)code));
    if (!text[length]) return;
    text += length + 1;
  }
}

/* ---- what the library takes as it is ---- */

static const struct {
  enum option_id id;
  ice_status (*set)(ice_spec *spec, const char *value);
} TEXTS[] = {
  {OPT_ROLE, ice_spec_set_role},
  {OPT_DEVICES, ice_spec_set_devices},
  {OPT_SIGNALS_TO_HANDLE, ice_spec_set_signals},
  {OPT_WORKING_DIR, ice_spec_set_working_dir},
  {OPT_LOG_DIR, ice_spec_set_log_dir},
  {OPT_EVENT_FILE, ice_spec_set_event_file},
  {OPT_HEALTH_ADDRESS, ice_spec_set_health_address},
  {OPT_HEALTH_SOCKET, ice_spec_set_health_socket},
  {OPT_REDIRECTS, ice_spec_set_redirects},
  {OPT_TEE, ice_spec_set_tee},
  {OPT_LOCAL_RANKS_FILTER, ice_spec_set_local_ranks_filter},
  {OPT_LOG_LINE_PREFIX_TEMPLATE, ice_spec_set_log_prefix_template},
  {OPT_DUPLICATE_STDOUT_FILTERS, ice_spec_set_duplicate_stdout_filters},
  {OPT_DUPLICATE_STDERR_FILTERS, ice_spec_set_duplicate_stderr_filters},
};

static const struct {
  enum option_id id;
  ice_status (*set)(ice_spec *spec, double seconds);
} TIMES[] = {
  {OPT_MIN_UPTIME, ice_spec_set_min_uptime},
  {OPT_SHUTDOWN_TIMEOUT, ice_spec_set_shutdown_timeout},
  {OPT_UNINTERRUPTIBLE_TIMEOUT, ice_spec_set_uninterruptible_timeout},
  {OPT_STRAGGLER_TIMEOUT, ice_spec_set_straggler_timeout},
  {OPT_STACK_TIMEOUT, ice_spec_set_stack_timeout},
  {OPT_HEARTBEAT_TIMEOUT, ice_spec_set_heartbeat_timeout},
  {OPT_INITIAL_HEARTBEAT_TIMEOUT, ice_spec_set_initial_heartbeat_timeout},
  {OPT_CHECKPOINT_BEFORE_STOP, ice_spec_set_checkpoint_before_stop},
};

static const struct {
  enum option_id id;
  ice_status (*set)(ice_spec *spec, int64_t number);
} NUMBERS[] = {
  {OPT_MAX_RESTARTS, ice_spec_set_max_restarts},
  {OPT_MAX_ATTEMPTS_WITHOUT_PROGRESS, ice_spec_set_max_attempts_without_progress},
  {OPT_DEVICES_PER_RANK, ice_spec_set_devices_per_rank},
  {OPT_RANKS_PER_DEVICE, ice_spec_set_ranks_per_device},
};

static const struct {
  enum option_id id;
  ice_status (*set)(ice_spec *spec, int32_t on);
} FLAGS[] = {
  {OPT_MERGE_STDERR, ice_spec_set_merge_stderr},
  {OPT_TIMESTAMPS, ice_spec_set_log_timestamps},
  {OPT_LOG_THROUGH_AGENT, ice_spec_set_log_through_agent},
  {OPT_VIRTUAL_LOCAL_RANK, ice_spec_set_virtual_local_rank},
  {OPT_DEVICE_UUIDS, ice_spec_set_device_uuids},
  {OPT_CONTROL, ice_spec_set_control},
  {OPT_PROGRESS_BAR, ice_spec_set_progress_bar},
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static void set_plain_values(const struct options *options, ice_spec *spec) {
  for (size_t i = 0; i < COUNT(TEXTS); i++) {
    const char *value = option_text(options, TEXTS[i].id);
    /* An empty value is as good as none, as for torchrun. */
    if (value && *value) accept_value(options, TEXTS[i].id, TEXTS[i].set(spec, value));
  }
  for (size_t i = 0; i < COUNT(TIMES); i++) {
    if (!option_text(options, TIMES[i].id)) continue;
    double seconds = option_number(options, TIMES[i].id);
    accept_value(options, TIMES[i].id, TIMES[i].set(spec, seconds));
  }
  for (size_t i = 0; i < COUNT(NUMBERS); i++) {
    int64_t number = option_integer(options, NUMBERS[i].id);
    accept_value(options, NUMBERS[i].id, NUMBERS[i].set(spec, number));
  }
  for (size_t i = 0; i < COUNT(FLAGS); i++) {
    accept_value(options, FLAGS[i].id, FLAGS[i].set(spec, option_on(options, FLAGS[i].id)));
  }
}

/* ---- all of it ---- */

/* Options of torchrun that change nothing here, but must not be wrong either. */
static void check_without_effect(const struct options *options) {
  static const char *const methods[] = {"spawn", "fork", "forkserver", NULL};
  choice(options, OPT_START_METHOD, methods, "must be spawn, fork or forkserver");
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

ice_spec *spec_from_options(const struct options *options) {
  ice_spec *spec;
  accept(ice_spec_new(&spec));
  set_workers(options, spec);
  check_without_effect(options);
  set_event_handler(options, spec);
  set_plain_values(options, spec);
  set_visibility(options, spec);
  set_stdin(options, spec);
  set_numa_binding(options, spec);
  set_debug_rank(options, spec);
  set_macros(options, spec);
  set_monitor_interval(options, spec);
  accept(ice_spec_set_ask_on_interrupt(spec, 1));
  accept(ice_spec_set_subreaper(spec, 1)); /* it has no children but those of the run */
  accept(ice_spec_set_raise_descriptor_limit(spec, 1));
  accept(ice_spec_set_allow_absent_ranks(spec, 1)); /* as torchrun takes them */
  accept(ice_spec_set_scrub_launcher(spec, !option_on(options, OPT_KEEP_LAUNCHER_VARIABLES)));
  accept(ice_spec_set_agent_store(spec, !option_on(options, OPT_NO_AGENT_STORE)));
  set_file_timers(options, spec);
  set_stack_command(options, spec);
  set_section_limits(options, spec);
  set_section_learning(options, spec);
  set_timer_signal(options, spec);
  set_signals(options, spec);
  set_health_port(options, spec);
  set_backoff(options, spec);
  set_no_restart_codes(options, spec);
  rendezvous_to_spec(options, spec);
  set_command(options, spec);
  set_environment(options, spec);
  return spec;
}

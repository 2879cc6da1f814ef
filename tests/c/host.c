/* A host of the library that does what its command line says, in order, and writes what came of it as JSON
 * lines: one object per step, {"do": STEP, "status": .., ...}.
 *
 *   host OUTPUT STEP...       OUTPUT is a file, appended to, one whole line at a time
 *
 * FIELD=VALUE for a field of the spec calls ice_spec_set_FIELD (or ice_spec_FIELD): program, arg, env=K=V,
 * unset_env, rank_env=R:K=V, unset_rank_env=R:K, restart_backoff=A,B, pre_stop_signal=S,SECONDS, log_modes=D,F
 * (octal), console=OUT,ERR, set=NAME=TEXT and load=FILE (any option as text), nodes=MIN:MAX, rendezvous=BACKEND,ENDPOINT, rendezvous_option=K=V, ... ; a refusal is a line, success is silent. `*_bytes` fields take \0 and \xHH.
 *   callback=                 a callback that runs the verbs of verbs.h; each verb=WORD adds one word
 *   function=NAME             a function of functions.h, of this program, or of the one that library=PATH named before;
 *                             the verbs are its argument, unless argument_size=N (a pattern) or no_argument follows
 *   log_callback=FILE         "LEVEL TEXT" lines; output_callback=FILE  "RANK STREAM LENGTH" lines and FILE.R.S bytes
 *   log_callback_do=WHAT      stop | sleep:SECONDS: done within the first log callback
 *   event_callback=FILE       a line for each event; event_seconds=SECONDS: how long the callback takes
 *
 * Preparing the host (before the run): ignore=S block=S handler=S default=S close=FD open=FD:PATH (inherited)
 *   limit=nofile|nproc|core|cpu|as|fsize|stack:N umask=OCTAL nice=N chdir=DIR uid=N setenv=K=V unsetenv=K
 *   cpu=N (this thread and those it makes may run there alone) deny=N (that system call gives EPERM from now on)
 *   environ_twice=K=V print=TEXT (stays in stdio's buffer) atexit=FILE (appends a line) memory=MIB subreaper
 *   child=CODE (a child of the host's own; reap_child waits for it) nowait (SIGCHLD with SA_NOCLDWAIT)
 *   reap_any (a thread that waits for any child) hammer=N (threads that use malloc, stdio and the library; unhammer)
 *
 * Before main says that this program can be a worker, the variable HOST_BEFORE_HOOK may hold: skip (it never says so),
 *   no functions (it registers none), exit:N, _exit:N, kill:S, ignore:S, child (that lives on), agent (makes one); and
 *   HOST_STARTS a file to which each process appends its number,
 *   HOST_CHILD one for that child. HOST_OUTPUT replaces OUTPUT.
 *
 * Requests to the workers: checkpoint=SECONDS checkpoints=N (one after the other) pause_workers=SECONDS resume
 *   request_stop=SECONDS checkpoints_of_threads=THREADS:N
 * Steps: new plan prepare start run wait=SECONDS stop=S signal=S snapshot free_agent free_spec free_result new_spec result
 *   poll=SECONDS (on the agent's descriptor) await=FILE await_lines=FILE:N sleep=SECONDS doze=AT_MOST before after join
 *   await_healthy (until all workers are started) watch_snapshots (a thread that checks them until the run ends)
 *   stop_thread=S:FILE (another thread stops the agent once FILE is there) raise=S
 *   stop_on=S (a handler for S calls ice_agent_stop) run_in_thread=STACKSIZE start_in_thread run_twice_at_once
 *   run_beside_another (two agents of the same spec)
 *   dlopen=FILE call=FUNCTION (of that file) mapped=TEXT (whether it is in /proc/self/maps) unlink=FILE
 *   replace=FILE,OTHER (by a copy of OTHER) list_devices=SECONDS or list_devices=SECONDS:RUNNER (the GPUs)
 *   fork (a copy of the host uses the handles) dump_self=FILE mark=TEXT exit=N _exit=N
 *   repeat=N:STEP,STEP.. (silent but for a failure; lines "early" and "late" with what must not grow)
 * A script without a step for the agent gets `run` at its end. `before` is taken by itself ahead of the first such
 * step, and `after` at the end when all handles are freed: descriptors, threads, children, signals, mappings.
 */
#include <dlfcn.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>

static char REGISTERED; /* the user data of registered functions */
#define USER_DATA (&REGISTERED)
#include "functions.h"

static int OUTPUT = -1;
static ice_spec *SPEC;
static ice_agent *AGENT;
static ice_result *RESULT;
static volatile int HAMMERING;
static pid_t OWN_CHILD;
static int SILENT; /* within repeat= */
static int FAILED_IN_SILENCE;
static char *VERBS[4096];
static int VERB_COUNT;
static int VERBS_ARE_ARGUMENT; /* of a function */
static char *LIBRARY, *PATTERN;

/* --- lines --- */

static void line_begin(json *j, const char *step) {
  memset(j, 0, sizeof *j);
  json_open(j, "{");
  json_text(j, "do", step);
  json_number(j, "t", now_ns());
}

static void line_end(json *j) {
  json_close(j, "}");
  json_put(j, "\n");
  write_all(OUTPUT, j->at, j->length);
  json_free(j);
}

static void status_line(const char *step, ice_status status) {
  json j;
  if (SILENT) {
    if (status == ICE_OK) return;
    FAILED_IN_SILENCE++;
  }
  line_begin(&j, step);
  json_text(&j, "status", ice_status_string(status));
  if (status != ICE_OK) json_text(&j, "message", ice_last_error_message());
  line_end(&j);
}

static void blob(json *j, const char *key, const void *data, size_t size) {
  char text[32];
  json_key(j, key);
  if (!data && size == 0) {
    json_put(j, "null");
    return;
  }
  json_open(j, "{");
  json_number(j, "size", (long long)size);
  json_number(j, "page_offset", (long long)((uintptr_t)data % 4096));
  if (size <= 1 << 28) {
    snprintf(text, sizeof text, "%016llx", (unsigned long long)hash(data, size));
    json_text(j, "hash", text);
  } else {
    const unsigned char *b = data;
    json_number(j, "first", b[0]);
    json_number(j, "middle", b[size / 2]);
    json_number(j, "last", b[size - 1]);
  }
  if (size <= 65536) {
    json_key(j, "bytes");
    json_bytes(j, data, size);
  }
  json_close(j, "}");
}

static void worker_result(json *j, const ice_worker_result *w) {
  if (!w) {
    json_put(j, "null");
    return;
  }
  json_open(j, "{");
#define NUMBER(field) json_number(j, #field, (long long)w->field)
  NUMBER(global_rank);
  NUMBER(local_rank);
  NUMBER(role_rank);
  NUMBER(pid);
  NUMBER(outcome);
  NUMBER(cause);
  NUMBER(exit_code);
  NUMBER(signal);
  NUMBER(core_dumped);
  NUMBER(likely_oom);
  NUMBER(order);
  NUMBER(attempt);
  NUMBER(start_ns);
  NUMBER(end_ns);
  NUMBER(end_unix_ns);
  NUMBER(max_rss_bytes);
  NUMBER(user_cpu_ns);
  NUMBER(system_cpu_ns);
  NUMBER(has_value);
  NUMBER(value_size);
  NUMBER(error_timestamp);
  NUMBER(error_size);
  NUMBER(stderr_tail_size);
#undef NUMBER
  blob(j, "value", w->value, w->value_size);
  json_text(j, "message", w->message);
  json_text(j, "call_stack", w->call_stack);
  blob(j, "error_data", w->error_data, w->error_size);
  json_text(j, "error_file", w->error_file);
  json_key(j, "stderr_tail");
  json_bytes(j, w->stderr_tail, w->stderr_tail_size);
  json_number(j, "stderr_tail_terminated", w->stderr_tail[w->stderr_tail_size] == 0);
  json_text(j, "stdout_log", w->stdout_log);
  json_text(j, "stderr_log", w->stderr_log);
  json_text(j, "stack", w->stack);
  json_text(j, "hostname", w->hostname);
  json_close(j, "}");
}

static void result_fields(json *j, const ice_result *r) {
  json_key(j, "result");
  json_open(j, "{");
  json_number(j, "end", ice_result_end(r));
  json_number(j, "is_failed", ice_result_is_failed(r));
  json_number(j, "state", ice_result_state(r));
  json_number(j, "restarts", ice_result_restarts(r));
  json_number(j, "round", ice_result_round(r));
  json_number(j, "job_restarts", ice_result_job_restarts(r));
  json_number(j, "exit_code", ice_result_exit_code(r));
  json_number(j, "exit_status", ice_result_exit_status(r));
  json_number(j, "has_saved", ice_result_has_saved(r));
  json_number(j, "saved_step", ice_result_saved_step(r));
  json_number(j, "flakiness", ice_result_flakiness(r));
  json_number(j, "signal", ice_result_signal(r));
  json_number(j, "all_exited_cleanly", ice_result_all_exited_cleanly(r));
  json_number(j, "errno", ice_result_errno(r));
  json_text(j, "message", ice_result_message(r));
  json_text(j, "summary", ice_result_summary(r));
  json_text(j, "run_dir", ice_result_run_dir(r));
  json_key(j, "workers");
  json_open(j, "[");
  for (size_t i = 0; i < ice_result_worker_count(r); i++) {
    json_comma(j);
    worker_result(j, ice_result_worker(r, i));
  }
  json_close(j, "]");
  json_key(j, "by_rank");
  json_open(j, "[");
  for (size_t i = 0; i < ice_result_worker_count(r); i++) {
    const ice_worker_result *w = ice_result_worker_of_rank(r, (int32_t)i);
    char text[32];
    json_comma(j);
    snprintf(text, sizeof text, "%d", w ? w->local_rank : -1);
    json_put(j, text);
  }
  json_close(j, "]");
  json_key(j, "root_cause");
  worker_result(j, ice_result_root_cause(r));
  json_key(j, "failures");
  json_open(j, "[");
  for (size_t i = 0; i < ice_result_failure_count(r); i++) {
    json_comma(j);
    worker_result(j, ice_result_failure(r, i));
  }
  json_close(j, "]");
  json_close(j, "}");
}

static void result_line(const char *step, ice_status status, ice_result *result) {
  json j;
  if (SILENT && status == ICE_OK) {
    if (ice_result_end(result) == ICE_END_SUCCEEDED) return;
    FAILED_IN_SILENCE++;
  }
  line_begin(&j, step);
  json_text(&j, "status", ice_status_string(status));
  if (status != ICE_OK)
    json_text(&j, "message", ice_last_error_message());
  else
    result_fields(&j, result);
  line_end(&j);
}

/* --- what must be as before at the end --- */

typedef struct vitals {
  int fds, threads, children, mappings;
  long rss_kib;
  char signals[512];
} vitals;

static int count_entries(const char *path) {
  int count = 0;
  DIR *dir = opendir(path);
  struct dirent *entry;
  while (dir && (entry = readdir(dir))) count += entry->d_name[0] != '.';
  if (dir) closedir(dir);
  return count;
}

static int count_words(const char *path) {
  static char text[65536];
  int words = 0;
  read_file(path, text, sizeof text);
  for (char *at = strtok(text, " \n"); at; at = strtok(NULL, " \n")) words++;
  return words;
}

static vitals take_vitals(void) {
  static char status[16384], path[64];
  vitals v = {0};
  v.fds = count_entries("/proc/self/fd") - 1;
  v.threads = count_entries("/proc/self/task");
  v.mappings = count_lines("/proc/self/maps");
  DIR *dir = opendir("/proc/self/task");
  struct dirent *entry;
  while (dir && (entry = readdir(dir))) {
    if (entry->d_name[0] == '.') continue;
    snprintf(path, sizeof path, "/proc/self/task/%.20s/children", entry->d_name);
    v.children += count_words(path);
  }
  if (dir) closedir(dir);
  read_file("/proc/self/status", status, sizeof status);
  const char *at = strstr(status, "VmRSS:");
  if (at) v.rss_kib = atol(at + 6);
  at = strstr(status, "SigBlk:");
  if (at) snprintf(v.signals, sizeof v.signals, "%.*s", (int)(strstr(at, "CapInh") - at), at);
  return v;
}

static vitals BEFORE;
static int BEFORE_TAKEN;

static void vitals_line(const char *step, const vitals *v) {
  json j, fds = {0};
  line_begin(&j, step);
  json_number(&j, "fds", v->fds);
  json_number(&j, "threads", v->threads);
  json_number(&j, "children", v->children);
  json_number(&j, "mappings", v->mappings);
  json_number(&j, "rss_kib", v->rss_kib);
  json_text(&j, "signals", v->signals);
  json_key(&j, "list");
  json_open(&fds, "{");
  dump_fds(&fds);
  json_close(&fds, "}");
  json_raw(&j, fds.at, fds.length);
  json_free(&fds);
  line_end(&j);
}

static void before(void) {
  if (BEFORE_TAKEN) return;
  BEFORE_TAKEN = 1;
  BEFORE = take_vitals();
  vitals_line("before", &BEFORE);
}

enum { VITALS_LOOKS = 1000 };

/* Waits until threads and children are as wanted, and the descriptors too where they count. A thread that was
 * joined is in /proc until the kernel has forgotten it. The promise is a second, a busy machine gets more; what is
 * still different then is in the line. */
static vitals settled(const vitals *wanted, int fds) {
  vitals v = take_vitals();
  for (int look = 0; look < VITALS_LOOKS; look++) {
    if ((!fds || v.fds == wanted->fds) && v.threads == wanted->threads && v.children == wanted->children) break;
    sleep_seconds(0.005);
    v = take_vitals();
  }
  return v;
}

static void after(void) {
  vitals v = settled(&BEFORE, 1);
  vitals_line("after", &v);
}

/* --- callbacks --- */

/* A verb that only a callback knows. */
static int callback_verb(verbs_state *v, char **argv, int argc, int *used) {
  if (strcmp(argv[0], "agent") != 0) return function_verb(v, argv, argc, used);
  /* The host's handles in a forked copy. */
  ice_result *result = NULL;
  json j = {0};
  json_open(&j, "{");
  json_text(&j, "stop", ice_status_string(ice_agent_stop(AGENT, 0)));
  json_text(&j, "wait", ice_status_string(ice_agent_wait(AGENT, 0, &result)));
  json_close(&j, "}");
  append_line(fill(argc > 1 ? argv[1] : ""), j.at);
  json_free(&j);
  *used = 1;
  return 1;
}

static int32_t callback(ice_worker *worker, void *user_data) {
  own_data own = {worker};
  verbs_state v = {.own = callback_verb, .data = &own, .argc = VERB_COUNT, .argv = VERBS};
  if (user_data != (void *)VERBS) _exit(89);
  run_verbs(&v, VERBS, VERB_COUNT);
  return v.returned;
}

static char LOG_FILE[4096], OUTPUT_FILE[4096], LOG_DO[256];
static volatile int LOG_DONE;

static double EVENT_SECONDS; /* how long the callback takes for each */

static void on_log(void *user_data, int32_t level, const char *text) {
  char line[8192];
  (void)user_data;
  if (LOG_DO[0] && !LOG_DONE) {
    LOG_DONE = 1;
    if (strncmp(LOG_DO, "sleep:", 6) == 0) sleep_seconds(atof(LOG_DO + 6));
    if (strcmp(LOG_DO, "stop") == 0) ice_agent_stop(AGENT, 0);
  }
  snprintf(line, sizeof line, "%d %s", level, text);
  append_line(LOG_FILE, line);
}

static void on_event(void *user_data, const char *json) {
  append_line(user_data, json);
  if (EVENT_SECONDS > 0) sleep_seconds(EVENT_SECONDS);
}

static void on_output(void *user_data, int32_t rank, int32_t stream, const uint8_t *data, size_t length) {
  char path[4200], line[64];
  snprintf(line, sizeof line, "%d %d %zu", rank, stream, length);
  append_line(OUTPUT_FILE, line);
  snprintf(path, sizeof path, "%s.%d.%d", OUTPUT_FILE, rank, stream);
  int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  write_all(fd, data, length);
  close(fd);
  if (user_data) sleep_seconds(*(double *)user_data);
}

static double OUTPUT_SECONDS;

/* --- the spec --- */

static char *after_char(char *text, char c) {
  char *at = strchr(text, c);
  if (!at) {
    fprintf(stderr, "host: '%s' needs a '%c'\n", text, c);
    exit(88);
  }
  *at = 0;
  return at + 1;
}

static int is_option(const char *name) {
  for (size_t i = 0; i < ice_option_count(); i++)
    if (strcmp(ice_option_at(i)->name, name) == 0) return 1;
  return 0;
}

/* 1 if `key` is a field of the spec, its status in `*status`. */
static int set_field(const char *key, char *value, ice_status *status) {
  static char bytes[1 << 18], more[1 << 18];
#define TEXT(name)                              \
  if (strcmp(key, #name) == 0) {                \
    *status = ice_spec_set_##name(SPEC, value); \
    return 1;                                   \
  }
#define INTEGER(name)                                                       \
  if (strcmp(key, #name) == 0) {                                            \
    *status = ice_spec_set_##name(SPEC, (int32_t)strtoll(value, NULL, 10)); \
    return 1;                                                               \
  }
#define LONG(name)                                                 \
  if (strcmp(key, #name) == 0) {                                   \
    *status = ice_spec_set_##name(SPEC, strtoll(value, NULL, 10)); \
    return 1;                                                      \
  }
#define REAL(name)                                    \
  if (strcmp(key, #name) == 0) {                      \
    *status = ice_spec_set_##name(SPEC, atof(value)); \
    return 1;                                         \
  }
  TEXT(role)
  TEXT(program)
  TEXT(working_dir)
  TEXT(event_file)
  TEXT(health_address)
  TEXT(health_socket)
  TEXT(signals)
  TEXT(pass_signals)
  TEXT(master_addr)
  TEXT(run_id)
  TEXT(log_dir)
  TEXT(redirects)
  TEXT(tee)
  TEXT(log_prefix_template)
  TEXT(local_ranks_filter)
  TEXT(duplicate_stdout_filters)
  TEXT(duplicate_stderr_filters)
  TEXT(nproc_per_node)
  TEXT(devices)
  INTEGER(device_visibility)
  INTEGER(virtual_local_rank)
  INTEGER(device_uuids)
  LONG(devices_per_rank)
  LONG(ranks_per_device)
  LONG(local_world_size)
  LONG(node_rank)
  TEXT(local_addr)
  LONG(max_restarts)
  LONG(max_attempts_without_progress)
  LONG(stderr_tail)
  LONG(debug_rank)
  TEXT(warm_up)
  TEXT(runner)
  INTEGER(start_method)
  INTEGER(crash_records)
  INTEGER(clean_env)
  INTEGER(stdin)
  INTEGER(macros)
  INTEGER(agent_store)
  INTEGER(allow_absent_ranks)
  INTEGER(cpu_binding)
  INTEGER(stop_signal)
  INTEGER(kill_group_on_success)
  INTEGER(subreaper)
  INTEGER(file_timers)
  INTEGER(control)
  INTEGER(ask_on_interrupt)
  INTEGER(raise_descriptor_limit)
  INTEGER(scrub_launcher)
  INTEGER(suspend)
  INTEGER(progress_bar)
  INTEGER(timer_signal)
  INTEGER(master_port)
  INTEGER(merge_stderr)
  INTEGER(log_timestamps)
  INTEGER(log_through_agent)
  REAL(min_uptime)
  REAL(monitor_interval)
  REAL(shutdown_timeout)
  REAL(probe_timeout)
  REAL(uninterruptible_timeout)
  REAL(stack_timeout)
  REAL(straggler_timeout)
  REAL(heartbeat_timeout)
  REAL(initial_heartbeat_timeout)
  REAL(exit_barrier_timeout)
  REAL(checkpoint_before_stop)
#undef TEXT
#undef INTEGER
#undef LONG
#undef REAL
  if (strcmp(key, "arg") == 0) {
    *status = ice_spec_add_arg(SPEC, value);
  } else if (strcmp(key, "args") == 0) {
    const char *list[1024];
    size_t count = 0;
    for (char *at = strtok(value, " "); at && count < 1024; at = strtok(NULL, " ")) list[count++] = at;
    *status = ice_spec_add_args(SPEC, list, count);
  } else if (strcmp(key, "stack_command") == 0) {
    const char *list[64];
    size_t count = 0;
    for (char *at = strtok(value, " "); at && count < 64; at = strtok(NULL, " ")) list[count++] = at;
    *status = ice_spec_set_stack_command(SPEC, list, count);
  } else if (strcmp(key, "many_args") == 0) {
    int count = atoi(value);
    char text[32];
    for (int i = 0; i < count && *status == ICE_OK; i++) {
      snprintf(text, sizeof text, "a%d", i);
      *status = ice_spec_add_arg(SPEC, text);
    }
  } else if (strcmp(key, "long_arg") == 0) {
    size_t size = strtoull(value, NULL, 10);
    memset(bytes, 'x', size);
    bytes[size] = 0;
    *status = ice_spec_add_arg(SPEC, bytes);
  } else if (strcmp(key, "program_bytes") == 0) {
    *status = ice_spec_set_program_bytes(SPEC, bytes, unescape(value, bytes));
  } else if (strcmp(key, "arg_bytes") == 0) {
    *status = ice_spec_add_arg_bytes(SPEC, bytes, unescape(value, bytes));
  } else if (strcmp(key, "env_bytes") == 0) {
    char *second = after_char(value, '=');
    size_t first_size = unescape(value, bytes), second_size = unescape(second, more);
    *status = ice_spec_set_env_bytes(SPEC, bytes, first_size, more, second_size);
  } else if (strcmp(key, "env") == 0) {
    char *second = after_char(value, '=');
    *status = ice_spec_set_env(SPEC, value, second);
  } else if (strcmp(key, "env_key") == 0) {
    *status = ice_spec_set_env(SPEC, value, "x"); /* a key with a '=' in it */
  } else if (strcmp(key, "unset_env") == 0) {
    *status = ice_spec_unset_env(SPEC, value);
  } else if (strcmp(key, "rank_env") == 0) {
    char *name = after_char(value, ':'), *second = after_char(name, '=');
    *status = ice_spec_set_rank_env(SPEC, atoi(value), name, second);
  } else if (strcmp(key, "unset_rank_env") == 0) {
    char *name = after_char(value, ':');
    *status = ice_spec_unset_rank_env(SPEC, atoi(value), name);
  } else if (strcmp(key, "restart_backoff") == 0) {
    char *second = after_char(value, ',');
    *status = ice_spec_set_restart_backoff(SPEC, atof(value), atof(second));
  } else if (strcmp(key, "nodes") == 0) {
    char *most = after_char(value, ':');
    *status = ice_spec_set_nodes(SPEC, atoll(value), atoll(most));
  } else if (strcmp(key, "rendezvous") == 0) {
    char *endpoint = after_char(value, ',');
    *status = ice_spec_set_rendezvous(SPEC, value, endpoint);
  } else if (strcmp(key, "rendezvous_option") == 0) {
    char *text = after_char(value, '=');
    *status = ice_spec_set_rendezvous_option(SPEC, value, text);
  } else if (strcmp(key, "no_restart_exit_code") == 0) {
    *status = ice_spec_add_no_restart_exit_code(SPEC, atoi(value));
  } else if (strcmp(key, "pre_stop_signal") == 0) {
    char *second = after_char(value, ',');
    *status = ice_spec_set_pre_stop_signal(SPEC, atoi(value), atof(second));
  } else if (strcmp(key, "on_signal") == 0) {
    char *second = after_char(value, ',');
    *status = ice_spec_set_on_signal(SPEC, atoi(value), atoi(second));
  } else if (strcmp(key, "log_modes") == 0) {
    char *second = after_char(value, ',');
    *status = ice_spec_set_log_modes(SPEC, (int32_t)strtol(value, NULL, 8), (int32_t)strtol(second, NULL, 8));
  } else if (strcmp(key, "console") == 0) {
    char *second = after_char(value, ',');
    *status = ice_spec_set_console(SPEC, atoi(value), atoi(second));
  } else if (strcmp(key, "callback") == 0) {
    *status = ice_spec_set_callback(SPEC, callback, VERBS);
  } else if (strcmp(key, "verb") == 0) {
    VERBS[VERB_COUNT++] = value;
  } else if (strcmp(key, "library") == 0) {
    LIBRARY = value;
  } else if (strcmp(key, "function") == 0) {
    *status = ice_spec_set_function(SPEC, LIBRARY, value);
    VERBS_ARE_ARGUMENT = *status == ICE_OK;
  } else if (strcmp(key, "argument_size") == 0) {
    PATTERN = value;
  } else if (strcmp(key, "no_argument") == 0) {
    VERBS_ARE_ARGUMENT = 0;
  } else if (strcmp(key, "log_callback") == 0) {
    snprintf(LOG_FILE, sizeof LOG_FILE, "%s", value);
    *status = ice_spec_set_log_callback(SPEC, on_log, NULL);
  } else if (strcmp(key, "log_callback_do") == 0) {
    snprintf(LOG_DO, sizeof LOG_DO, "%s", value);
  } else if (strcmp(key, "output_callback") == 0) {
    snprintf(OUTPUT_FILE, sizeof OUTPUT_FILE, "%s", value);
    *status = ice_spec_set_output_callback(SPEC, on_output, OUTPUT_SECONDS > 0 ? &OUTPUT_SECONDS : NULL);
  } else if (strcmp(key, "event_handler") == 0) { /* SOURCE:HANDLER */
    char *handler = after_char(value, ':');
    *status = ice_spec_set_event_handler(SPEC, *value ? value : NULL, handler);
  } else if (strcmp(key, "section_limit") == 0) { /* NAME:SECONDS */
    char *seconds = after_char(value, ':');
    *status = ice_spec_set_section_limit(SPEC, *value ? value : NULL, atof(seconds));
  } else if (strcmp(key, "section_learning") == 0) {
    char *least = after_char(value, ',');
    *status = ice_spec_set_section_learning(SPEC, atof(value), atof(least));
  } else if (strcmp(key, "health_check") == 0) {
    char *second = after_char(value, ',');
    *status = ice_spec_set_health_check(SPEC, atol(value), atof(second));
  } else if (strcmp(key, "event_callback") == 0) {
    *status = ice_spec_set_event_callback(SPEC, on_event, value);
  } else if (strcmp(key, "event_seconds") == 0) {
    EVENT_SECONDS = atof(value);
  } else if (strcmp(key, "output_seconds") == 0) {
    OUTPUT_SECONDS = atof(value);
  } else if (strcmp(key, "set") == 0) { /* NAME=TEXT */
    char *text = after_char(value, '=');
    *status = ice_spec_set(SPEC, value, text);
  } else if (strcmp(key, "load") == 0) {
    *status = ice_spec_load(SPEC, value);
  } else if (is_option(key)) {
    *status = ice_spec_set(SPEC, key, value);
  } else {
    return 0;
  }
  return 1;
}

/* --- the host itself --- */

static char HOST_ATEXIT_FILE[4096];
static void host_atexit(void) {
  char line[64];
  snprintf(line, sizeof line, "host atexit in %d", (int)getpid());
  append_line(HOST_ATEXIT_FILE, line);
}

static void on_signal_nothing(int number) { (void)number; }
static void on_signal_stop(int number) { ice_agent_stop(AGENT, number); }

/* Threads that keep the locks of malloc, stdio and the library busy. */
static void *hammer(void *file) {
  unsigned n = 0;
  while (HAMMERING) {
    char *memory = malloc(++n % 5000 + 1);
    memset(memory, 1, n % 5000 + 1);
    fprintf(file, "%u\n", n);
    printf("%s", "");
    ice_spec *spec = NULL;
    if (ice_spec_new(&spec) == ICE_OK) {
      ice_spec_set_env(spec, "A", "b");
      ice_spec_set_local_world_size(spec, -1); /* an error message for this thread */
    }
    ice_spec_free(spec);
    free(memory);
  }
  return NULL;
}

static void *reap_any(void *unused) {
  (void)unused;
  for (;;) {
    if (waitpid(-1, NULL, 0) < 0) sleep_seconds(0.0005);
  }
  return NULL;
}

static void *DRIVER;
static pthread_t HAMMERS[64];
static int HAMMER_COUNT;

static int prepare(const char *key, char *value) {
#define IS(name) (strcmp(key, name) == 0)
  if (IS("ignore")) {
    signal(signal_number(value), SIG_IGN);
  } else if (IS("default")) {
    signal(signal_number(value), SIG_DFL);
  } else if (IS("handler")) {
    set_handler(signal_number(value), on_signal_nothing);
  } else if (IS("block")) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal_number(value));
    sigprocmask(SIG_BLOCK, &set, NULL);
  } else if (IS("close")) {
    close(atoi(value));
  } else if (IS("open")) {
    char *path = after_char(value, ':');
    int fd = open(path, O_RDWR | O_CREAT, 0666);
    if (dup2(fd, atoi(value)) < 0) exit(87);
    if (fd != atoi(value)) close(fd);
  } else if (IS("limit")) {
    char *number = after_char(value, ':');
    static const struct {
      const char *name;
      int which;
    } LIMITS[] = {{"nofile", RLIMIT_NOFILE}, {"nproc", RLIMIT_NPROC}, {"core", RLIMIT_CORE}, {"cpu", RLIMIT_CPU}, {"as", RLIMIT_AS}, {"fsize", RLIMIT_FSIZE}, {"stack", RLIMIT_STACK}};
    for (size_t i = 0; i < sizeof LIMITS / sizeof *LIMITS; i++) {
      if (strcmp(LIMITS[i].name, value) != 0) continue;
      struct rlimit limit;
      getrlimit((__rlimit_resource_t)LIMITS[i].which, &limit);
      limit.rlim_cur = strtoull(number, NULL, 10);
      if (setrlimit((__rlimit_resource_t)LIMITS[i].which, &limit)) exit(87);
    }
  } else if (IS("umask")) {
    umask((mode_t)strtol(value, NULL, 8));
  } else if (IS("cpu")) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)atoi(value), &set);
    if (sched_setaffinity(0, sizeof set, &set)) exit(87);
  } else if (IS("deny")) {
    struct sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)atoi(value), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) exit(87);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) exit(87);
  } else if (IS("nice")) {
    setpriority(PRIO_PROCESS, 0, atoi(value));
  } else if (IS("chdir")) {
    if (chdir(value)) exit(87);
  } else if (IS("uid")) {
    if (setresgid((gid_t)atoi(value), (gid_t)atoi(value), (gid_t)atoi(value))) exit(87);
    if (setresuid((uid_t)atoi(value), (uid_t)atoi(value), (uid_t)atoi(value))) exit(87);
    prctl(PR_SET_DUMPABLE, 1); /* so that /proc/self stays readable */
  } else if (IS("setenv")) {
    char *second = after_char(value, '=');
    setenv(value, second, 1);
  } else if (IS("environ_twice")) {
    /* The same name twice in one environ, as putenv and execve allow. */
    static char *copy[4096];
    size_t count = 0;
    while (environ[count] && count < 4090) {
      copy[count] = environ[count];
      count++;
    }
    copy[count] = value;
    copy[count + 1] = value;
    environ = copy;
  } else if (IS("unsetenv")) {
    unsetenv(value);
  } else if (IS("print")) {
    fputs(value, stdout);
  } else if (IS("atexit")) {
    snprintf(HOST_ATEXIT_FILE, sizeof HOST_ATEXIT_FILE, "%s", value);
    atexit(host_atexit);
  } else if (IS("child")) {
    OWN_CHILD = fork();
    if (OWN_CHILD == 0) {
      sleep_seconds(0.2);
      _exit(atoi(value));
    }
  } else if (IS("hammer")) {
    FILE *nowhere = fopen("/dev/null", "we");
    HAMMERING = 1;
    for (HAMMER_COUNT = 0; HAMMER_COUNT < atoi(value) && HAMMER_COUNT < 64; HAMMER_COUNT++)
      pthread_create(&HAMMERS[HAMMER_COUNT], NULL, hammer, nowhere);
  } else if (IS("subreaper")) {
    prctl(PR_SET_CHILD_SUBREAPER, 1);
  } else if (IS("nowait")) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal_nothing;
    action.sa_flags = SA_NOCLDWAIT;
    sigaction(SIGCHLD, &action, NULL);
  } else if (IS("reap_any")) {
    pthread_t thread;
    pthread_create(&thread, NULL, reap_any, NULL);
    pthread_detach(thread);
  } else if (IS("memory")) {
    size_t size = strtoull(value, NULL, 10) << 20;
    char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (size_t i = 0; i < size; i += 4096) ((volatile char *)at)[i] = 1;
  } else {
    return 0;
  }
  return 1;
}

/* --- steps of the agent --- */

static void snapshot_line(void) {
  ice_snapshot *snapshot = NULL;
  ice_status status = ice_agent_snapshot(AGENT, &snapshot);
  json j;
  line_begin(&j, "snapshot");
  json_text(&j, "status", ice_status_string(status));
  if (status == ICE_OK) {
    json_number(&j, "state", ice_snapshot_state(snapshot));
    json_number(&j, "attempt", ice_snapshot_attempt(snapshot));
    json_key(&j, "workers");
    json_open(&j, "[");
    for (size_t i = 0; i < ice_snapshot_worker_count(snapshot); i++) {
      const ice_worker_info *w = ice_snapshot_worker(snapshot, i);
      json_comma(&j);
      json_open(&j, "{");
      json_number(&j, "global_rank", w->global_rank);
      json_number(&j, "local_rank", w->local_rank);
      json_number(&j, "role_rank", w->role_rank);
      json_number(&j, "pid", w->pid);
      json_number(&j, "outcome", w->outcome);
      json_number(&j, "has_control", w->has_control);
      json_number(&j, "paused", w->paused);
      json_number(&j, "step", (long long)w->step);
      json_number(&j, "progress_done", (long long)w->progress_done);
      json_number(&j, "progress_total", (long long)w->progress_total);
      json_number(&j, "heartbeat_ns", (long long)w->heartbeat_ns);
      json_number(&j, "lag", (long long)w->lag);
      json_number(&j, "at_step_ns", (long long)w->at_step_ns);
      json_text(&j, "section", w->section);
      json_number(&j, "in_section_ns", (long long)w->in_section_ns);
      json_close(&j, "}");
    }
    json_close(&j, "]");
    json_number(&j, "slowest", ice_snapshot_slowest(snapshot));
    ice_snapshot_free(snapshot);
  } else {
    json_text(&j, "message", ice_last_error_message());
  }
  line_end(&j);
}

typedef ice_status request_function(ice_agent *, double, ice_answers **);

/* Asks the workers for something `times` times; a line with the last answers, and how many were complete. */
static void request_line(const char *step, request_function *ask, double seconds, int times) {
  ice_answers *answers = NULL;
  ice_status status = ICE_OK;
  int complete = 0;
  int64_t begin = now_ns();
  for (int i = 0; i < times && status == ICE_OK; i++) {
    ice_answers_free(answers);
    answers = NULL;
    status = ask(AGENT, seconds, &answers);
    if (status == ICE_OK) complete += ice_answers_complete(answers);
  }
  json j;
  line_begin(&j, step);
  json_text(&j, "status", ice_status_string(status));
  json_number(&j, "call_ns", now_ns() - begin);
  if (status == ICE_OK) {
    json_number(&j, "complete", complete);
    json_number(&j, "took_ns", ice_answers_took_ns(answers));
    for (int steps = 0; steps < 2; steps++) {
      json_key(&j, steps ? "steps" : "answers");
      json_open(&j, "[");
      for (size_t i = 0; i < ice_answers_count(answers); i++) {
        char text[32];
        json_comma(&j);
        snprintf(text, sizeof text, "%lld",
                 steps ? (long long)ice_answers_step(answers, i) : (long long)ice_answers_of_rank(answers, i));
        json_put(&j, text);
      }
      json_close(&j, "]");
    }
  } else {
    json_text(&j, "message", ice_last_error_message());
  }
  line_end(&j);
  ice_answers_free(answers);
}

static void devices_line(char *value) {
  char *runner = strchr(value, ':');
  ice_device_list *list = NULL;
  if (runner) *runner++ = 0;
  int64_t start = now_ns();
  ice_status status = ice_device_list_new(atof(value), runner, &list);
  int64_t wall = now_ns() - start;
  if (runner) runner[-1] = ':';
  if (SILENT) {
    FAILED_IN_SILENCE += status != ICE_OK || ice_device_list_count(list) == 0;
    ice_device_list_free(list);
    return;
  }
  json j;
  line_begin(&j, "list_devices");
  json_text(&j, "status", ice_status_string(status));
  json_text(&j, "message", status == ICE_OK ? ice_device_list_message(list) : ice_last_error_message());
  json_number(&j, "wall_ns", wall);
  json_number(&j, "driver_version", ice_device_list_driver_version(list));
  json_key(&j, "devices");
  json_open(&j, "[");
  for (size_t i = 0; i < ice_device_list_count(list); i++) {
    const ice_device *d = ice_device_list_device(list, i);
    json_comma(&j);
    json_open(&j, "{");
    json_number(&j, "index", d->index);
    json_number(&j, "is_mig", d->is_mig);
    json_text(&j, "uuid", d->uuid);
    json_text(&j, "name", d->name);
    json_number(&j, "memory_bytes", (long long)d->memory_bytes);
    json_number(&j, "compute_major", d->compute_major);
    json_number(&j, "compute_minor", d->compute_minor);
    json_text(&j, "pci_bus_id", d->pci_bus_id);
    json_number(&j, "numa_node", d->numa_node);
    json_close(&j, "}");
  }
  json_close(&j, "]");
  line_end(&j);
  ice_device_list_free(list);
}

/* One line for each state that was seen, in order, and one for each snapshot that contradicts itself. */
static void *watch_snapshots(void *unused) {
  int last_state = -1, last_attempt = -1, wrong = 0;
  long taken = 0;
  (void)unused;
  for (;;) {
    ice_snapshot *snapshot = NULL;
    if (ice_agent_snapshot(AGENT, &snapshot) != ICE_OK) continue;
    int state = ice_snapshot_state(snapshot), attempt = ice_snapshot_attempt(snapshot);
    size_t count = ice_snapshot_worker_count(snapshot), started = 0;
    taken++;
    for (size_t i = 0; i < count; i++) {
      const ice_worker_info *w = ice_snapshot_worker(snapshot, i);
      started += w->pid > 0;
      if (w->local_rank != (int32_t)i || (w->outcome == ICE_OUTCOME_RUNNING && w->pid <= 0)) wrong++;
    }
    if (state == ICE_STATE_HEALTHY && started != count) wrong++;
    ice_snapshot_free(snapshot);
    if (state != last_state || attempt != last_attempt) {
      json j;
      line_begin(&j, "state");
      json_number(&j, "state", state);
      json_number(&j, "attempt", attempt);
      line_end(&j);
      last_state = state;
      last_attempt = attempt;
    }
    ice_result *result = NULL;
    if (ice_agent_wait(AGENT, 0, &result) == ICE_OK) {
      ice_result_free(result);
      if (state != ICE_STATE_INIT && state != ICE_STATE_HEALTHY) break;
    }
    sleep_seconds(0.0002);
  }
  json j;
  line_begin(&j, "snapshots_done");
  json_number(&j, "wrong", wrong);
  json_number(&j, "taken", taken);
  line_end(&j);
  return NULL;
}

/* What would be started, and the backend as the spec and the plan know it. */
static void plan_line(void) {
  ice_plan *plan = NULL;
  ice_status status = ice_agent_plan(AGENT, &plan);
  json j;
  line_begin(&j, "plan");
  json_text(&j, "status", ice_status_string(status));
  if (status == ICE_OK) {
    json_text(&j, "spec_backend", ice_spec_dist_backend(SPEC));
    json_text(&j, "backend", ice_plan_dist_backend(plan));
    json_key(&j, "workers");
    json_open(&j, "[");
    for (size_t i = 0; i < ice_plan_worker_count(plan); i++) {
      const ice_worker_plan *w = ice_plan_worker(plan, i);
      json_comma(&j);
      json_open(&j, "{");
      json_number(&j, "global_rank", w->global_rank);
      json_number(&j, "local_rank", w->local_rank);
      json_number(&j, "role_rank", w->role_rank);
      const char *const *lists[] = {w->argv, w->env};
      for (int list = 0; list < 2; list++) {
        json_key(&j, list ? "env" : "argv");
        json_open(&j, "[");
        for (const char *const *text = lists[list]; *text; text++) {
          json_comma(&j);
          json_bytes(&j, *text, strlen(*text));
        }
        json_close(&j, "]");
      }
      json_number(&j, "argc", w->argc);
      json_text(&j, "devices", w->devices);
      json_text(&j, "visible_devices", w->visible_devices);
      json_text(&j, "cpus", w->cpus);
      json_text(&j, "stdout_log", w->stdout_log);
      json_text(&j, "stderr_log", w->stderr_log);
      json_text(&j, "error_file", w->error_file);
      json_close(&j, "}");
    }
    json_close(&j, "]");
    ice_plan_free(plan);
  } else {
    json_text(&j, "message", ice_last_error_message());
  }
  line_end(&j);
}

static ice_status new_agent(void) {
  ice_status status = ICE_OK;
  if (VERBS_ARE_ARGUMENT && SPEC) {
    size_t size = PATTERN ? strtoull(PATTERN, NULL, 10) : 0;
    char *bytes = PATTERN ? malloc(size + 1) : join(VERBS, VERB_COUNT, &size);
    if (PATTERN) fill_pattern((unsigned char *)bytes, size);
    status = ice_spec_set_argument(SPEC, bytes, size);
    free(bytes);
    VERBS_ARE_ARGUMENT = 0; /* once is enough */
  }
  return status == ICE_OK ? ice_agent_new(SPEC, &AGENT) : status;
}

static void need_agent(void) {
  before();
  if (!AGENT) {
    ice_status status = new_agent();
    if (status != ICE_OK) status_line("new", status);
  }
}

static void *run_thread(void *unused) {
  (void)unused;
  ice_result *result = NULL;
  ice_status status = ice_agent_run(AGENT, &result);
  result_line("run", status, result);
  if (status == ICE_OK) ice_result_free(result);
  return NULL;
}

static void run_beside_another(void) {
  ice_agent *agents[2] = {NULL, NULL};
  before();
  for (int i = 0; i < 2; i++) {
    ice_status status = ice_agent_new(SPEC, &agents[i]);
    if (status == ICE_OK) status = ice_agent_start(agents[i]);
    if (status != ICE_OK) status_line("start", status);
  }
  for (int i = 0; i < 2; i++) {
    ice_result *result = NULL;
    ice_status status = ice_agent_wait(agents[i], -1, &result);
    result_line("run_beside_another", status, result);
    ice_result_free(result);
    ice_agent_free(agents[i]);
  }
}

static void *start_thread(void *unused) {
  (void)unused;
  status_line("start", ice_agent_start(AGENT));
  return NULL;
}

static void *no_thread(void *unused) { return unused; }

static char STOP_FILE[4096];
static int STOP_SIGNAL;

static void await_lines(const char *file, int lines) {
  for (int64_t end = now_ns() + (int64_t)(60 * 1e9); count_lines(file) < lines && now_ns() < end;) sleep_seconds(0.002);
}

static void *stop_thread(void *unused) {
  (void)unused;
  for (int64_t end = now_ns() + (int64_t)(60 * 1e9); access(STOP_FILE, F_OK) && now_ns() < end;) sleep_seconds(0.002);
  status_line("stop", ice_agent_stop(AGENT, STOP_SIGNAL));
  return NULL;
}

static pthread_t THREADS[64];
static int THREAD_COUNT;

static void in_thread(void *(*function)(void *), size_t stack) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  if (stack) pthread_attr_setstacksize(&attributes, stack);
  if (pthread_create(&THREADS[THREAD_COUNT++], &attributes, function, NULL)) exit(87);
  pthread_attr_destroy(&attributes);
}

static int REQUESTS;

static void *request_thread(void *unused) {
  (void)unused;
  request_line("checkpoints", ice_agent_request_checkpoint, 30, REQUESTS);
  return NULL;
}

static void join_threads(void) {
  while (THREAD_COUNT > 0) pthread_join(THREADS[--THREAD_COUNT], NULL);
}

static void do_step(char *step);

static void do_step_in_silence(char *steps) {
  char *count = steps;
  steps = after_char(steps, ':');
  int n = atoi(count);
  vitals early = BEFORE;
  SILENT++;
  for (int i = 0; i < n; i++) {
    char *copy = strdup(steps), *save = NULL;
    for (char *at = strtok_r(copy, ",", &save); at; at = strtok_r(NULL, ",", &save)) do_step(at);
    free(copy);
    if (n >= 100 && i == n / 10) {
      /* Handles that are still there may have descriptors. */
      early = settled(&BEFORE, 0);
      vitals_line("early", &early);
    }
  }
  SILENT--;
  vitals late = settled(&early, n >= 100);
  vitals_line("late", &late);
  json j;
  line_begin(&j, "repeated");
  json_number(&j, "times", n);
  json_number(&j, "failed", FAILED_IN_SILENCE);
  line_end(&j);
}

static int agent_step(const char *key, char *value) {
  if (IS("new_spec")) {
    ice_spec_free(SPEC);
    SPEC = NULL;
    status_line("new_spec", ice_spec_new(&SPEC));
  } else if (IS("new")) {
    before();
    ice_agent_free(AGENT);
    AGENT = NULL;
    status_line("new", new_agent());
  } else if (IS("before")) {
    before();
  } else if (IS("after")) {
    after();
  } else if (IS("start")) {
    need_agent();
    if (AGENT) status_line("start", ice_agent_start(AGENT));
  } else if (IS("prepare")) {
    need_agent();
    if (AGENT) status_line("prepare", ice_agent_prepare(AGENT));
  } else if (IS("start_in_thread")) {
    need_agent();
    if (!AGENT) return 1;
    in_thread(start_thread, 0);
    join_threads();
  } else if (IS("run")) {
    need_agent();
    if (!AGENT) return 1;
    ice_result_free(RESULT);
    RESULT = NULL;
    ice_status status = ice_agent_run(AGENT, &RESULT);
    result_line("run", status, RESULT);
  } else if (IS("run_in_thread")) {
    need_agent();
    if (!AGENT) return 1;
    in_thread(run_thread, strtoull(value, NULL, 10));
    join_threads();
  } else if (IS("run_twice_at_once")) {
    need_agent();
    in_thread(run_thread, 0);
    in_thread(run_thread, 0);
    join_threads();
  } else if (IS("run_beside_another")) {
    run_beside_another();
  } else if (IS("wait")) {
    if (!AGENT) return 1;
    ice_result *result = NULL;
    ice_status status = ice_agent_wait(AGENT, atof(value), &result);
    result_line("wait", status, result);
    if (status == ICE_OK) {
      ice_result_free(RESULT);
      RESULT = result;
    }
  } else if (IS("stop")) {
    if (AGENT) status_line("stop", ice_agent_stop(AGENT, signal_number(value)));
  } else if (IS("signal")) {
    if (AGENT) status_line("signal", ice_agent_signal(AGENT, signal_number(value)));
  } else if (IS("stop_thread")) {
    need_agent();
    char *file = after_char(value, ':');
    STOP_SIGNAL = signal_number(value);
    snprintf(STOP_FILE, sizeof STOP_FILE, "%s", file);
    in_thread(stop_thread, 0);
  } else if (IS("stop_on")) {
    need_agent();
    set_handler(signal_number(value), on_signal_stop);
  } else if (IS("raise")) {
    kill(getpid(), signal_number(value));
  } else if (IS("checkpoint")) {
    request_line(key, ice_agent_request_checkpoint, atof(value), 1);
  } else if (IS("checkpoints")) {
    request_line(key, ice_agent_request_checkpoint, 30, atoi(value));
  } else if (IS("checkpoints_of_threads")) {
    REQUESTS = atoi(after_char(value, ':'));
    for (int i = 0; i < atoi(value); i++) in_thread(request_thread, 0);
    join_threads();
  } else if (IS("pause_workers")) {
    request_line(key, ice_agent_pause, atof(value), 1);
  } else if (IS("request_stop")) {
    request_line(key, ice_agent_request_stop, atof(value), 1);
  } else if (IS("resume")) {
    status_line("resume", ice_agent_resume(AGENT));
  } else if (IS("snapshot")) {
    snapshot_line();
  } else if (IS("plan")) {
    need_agent();
    if (AGENT) plan_line();
  } else if (IS("await_healthy")) {
    ice_state state = ICE_STATE_INIT;
    for (int64_t end = now_ns() + (int64_t)(60 * 1e9); state == ICE_STATE_INIT && now_ns() < end;
         sleep_seconds(0.001)) {
      ice_snapshot *snapshot = NULL;
      ice_agent_snapshot(AGENT, &snapshot);
      state = ice_snapshot_state(snapshot);
      ice_snapshot_free(snapshot);
    }
  } else if (IS("watch_snapshots")) {
    need_agent();
    in_thread(watch_snapshots, 0);
  } else if (IS("poll")) {
    int fd = -1;
    ice_status status = ice_agent_poll_fd(AGENT, &fd);
    struct pollfd item = {.fd = fd, .events = POLLIN};
    int ready = poll(&item, 1, (int)(atof(value) * 1000));
    json j;
    line_begin(&j, "poll");
    json_text(&j, "status", ice_status_string(status));
    json_number(&j, "ready", ready);
    json_number(&j, "cloexec", (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    line_end(&j);
  } else if (IS("free_agent")) {
    ice_agent_free(AGENT);
    AGENT = NULL;
    if (!SILENT) status_line("free_agent", ICE_OK);
  } else if (IS("free_spec")) {
    ice_spec_free(SPEC);
    SPEC = NULL;
  } else if (IS("free_result")) {
    ice_result_free(RESULT);
    RESULT = NULL;
  } else if (IS("result")) {
    result_line("result", ICE_OK, RESULT);
  } else if (IS("await")) {
    for (int64_t end = now_ns() + (int64_t)(60 * 1e9); access(value, F_OK) && now_ns() < end;) sleep_seconds(0.002);
  } else if (IS("await_lines")) {
    char *count = strrchr(value, ':');
    *count = 0;
    await_lines(value, atoi(count + 1));
    *count = ':';
  } else if (IS("sleep")) {
    sleep_seconds(atof(value));
  } else if (IS("doze")) {
    sleep_seconds((double)random() / RAND_MAX * atof(value));
  } else if (IS("join")) {
    join_threads();
  } else if (IS("dump_self")) {
    verbs_state v = {0};
    dump_state(&v, value);
  } else if (IS("mark")) {
    status_line(value, ICE_OK);
  } else if (IS("repeat")) {
    before();
    do_step_in_silence(value);
  } else if (IS("reap_child")) {
    int status = 0;
    pid_t pid = waitpid(OWN_CHILD, &status, 0);
    BEFORE.children -= pid == OWN_CHILD;
    json j;
    line_begin(&j, "reap_child");
    json_number(&j, "same", pid == OWN_CHILD);
    json_number(&j, "code", WIFEXITED(status) ? WEXITSTATUS(status) : -1);
    line_end(&j);
  } else if (IS("fork")) {
    /* A copy of the host that uses and frees the handles of its parent. */
    pid_t pid = fork();
    if (pid == 0) {
      ice_result *result = NULL;
      ice_snapshot *snapshot = NULL;
      int fd = -1;
      json j;
      line_begin(&j, "forked");
      json_text(&j, "stop", ice_status_string(ice_agent_stop(AGENT, 0)));
      json_text(&j, "start", ice_status_string(ice_agent_start(AGENT)));
      json_text(&j, "run", ice_status_string(ice_agent_run(AGENT, &result)));
      json_text(&j, "wait", ice_status_string(ice_agent_wait(AGENT, 0, &result)));
      json_text(&j, "snapshot", ice_status_string(ice_agent_snapshot(AGENT, &snapshot)));
      json_text(&j, "poll_fd", ice_status_string(ice_agent_poll_fd(AGENT, &fd)));
      json_text(&j, "message", ice_last_error_message());
      line_end(&j);
      ice_agent_free(AGENT);
      ice_spec_free(SPEC);
      status_line("forked_freed", ICE_OK);
      exit(0);
    }
    waitpid(pid, NULL, 0);
  } else if (IS("exit")) {
    exit(atoi(value));
  } else if (IS("_exit")) {
    _exit(atoi(value));
  } else if (IS("dlopen")) {
    DRIVER = dlopen(value, RTLD_NOW);
    if (!DRIVER) exit(85);
  } else if (IS("call")) {
    /* A function of what was loaded. */
    int (*function)(unsigned) = NULL;
    *(void **)&function = dlsym(DRIVER, value);
    if (!function || function(0)) exit(85);
  } else if (IS("mapped")) {
    static char maps[1 << 20];
    read_file("/proc/self/maps", maps, sizeof maps);
    json j;
    line_begin(&j, "mapped");
    json_number(&j, "found", strstr(maps, value) != NULL);
    line_end(&j);
  } else if (IS("list_devices")) {
    before();
    devices_line(value);
  } else if (IS("unlink")) {
    if (unlink(value)) exit(84);
  } else if (IS("replace")) {
    /* By a copy of another file, which is renamed into its place. */
    char *source = after_char(value, ','), temporary[4200];
    static char bytes[1 << 24];
    snprintf(temporary, sizeof temporary, "%s.new", value);
    int in = open(source, O_RDONLY | O_CLOEXEC), out = open(temporary, O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
    for (ssize_t n; (n = read(in, bytes, sizeof bytes)) > 0;) write_all(out, bytes, (size_t)n);
    close(in);
    close(out);
    if (rename(temporary, value)) exit(84);
  } else if (IS("exec_sleep")) {
    execlp("sleep", "sleep", value, (char *)NULL);
    _exit(86);
  } else if (IS("unhammer")) {
    HAMMERING = 0;
    while (HAMMER_COUNT > 0) {
      pthread_join(HAMMERS[--HAMMER_COUNT], NULL);
      BEFORE.threads--;
    }
  } else {
    return 0;
  }
  return 1;
}
#undef IS

static void do_step(char *step) {
  char key[64], *value = strchr(step, '=');
  size_t length = value ? (size_t)(value - step) : strlen(step);
  snprintf(key, sizeof key, "%.*s", (int)length, step);
  value = value ? value + 1 : step + length;
  ice_status status = ICE_OK;
  if (set_field(key, value, &status)) {
    if (status != ICE_OK) status_line(key, status);
  } else if (!prepare(key, value) && !agent_step(key, value)) {
    fprintf(stderr, "host: no step '%s'\n", key);
    exit(86);
  }
}

static int starts(const char *step) {
  static const char *STARTERS[] = {"new", "start", "run",
                                   "repeat", "run_in_thread", "exit",
                                   "_exit", "start_in_thread", "run_twice_at_once",
                                   "prepare", "list_devices", "run_beside_another"};
  size_t length = strcspn(step, "=");
  for (size_t i = 0; i < sizeof STARTERS / sizeof *STARTERS; i++)
    if (strlen(STARTERS[i]) == length && strncmp(STARTERS[i], step, length) == 0) return 1;
  return 0;
}

/* What a program does wrong, or what happens to it, before it says that it can be a worker. */
static void before_hook(const char *what) {
  append_line(env_or("HOST_STARTS", "/dev/null"), fill("%p"));
  if (strncmp(what, "exit:", 5) == 0) exit(atoi(what + 5));
  if (strncmp(what, "_exit:", 6) == 0) _exit(atoi(what + 6));
  if (strncmp(what, "kill:", 5) == 0) kill(getpid(), signal_number(what + 5));
  if (strncmp(what, "ignore:", 7) == 0) signal(signal_number(what + 7), SIG_IGN);
  if (strcmp(what, "child") == 0 && fork() == 0) {
    /* No worker, though its parent is one: it has its own life. */
    append_line(env_or("HOST_CHILD", "/dev/null"), ice_worker_main() == ICE_OK ? fill("%p") : "refused");
    sleep_seconds(LONGEST);
    _exit(0);
  }
  if (strcmp(what, "agent") == 0) {
    ice_spec *spec = NULL;
    ice_agent *agent = NULL;
    ice_spec_new(&spec);
    ice_spec_set_program(spec, "/bin/true");
    ice_agent_new(spec, &agent);
    append_line(env_or("HOST_STARTS", "/dev/null"), "made an agent");
  }
}

int main(int argc, char **argv) {
  const char *what = env_or("HOST_BEFORE_HOOK", "");
  before_hook(what);
  if (strcmp(what, "skip") != 0) {
    if (strcmp(what, "no functions") != 0) {
      ice_worker_register("verbs", verbs, USER_DATA);
      ice_worker_register("warm_up", warm_up, USER_DATA);
      ice_worker_register("hash_argument", hash_argument, USER_DATA);
    }
    if (ice_worker_main() != ICE_OK) return 4;
  }
  if (argc < 2) {
    fprintf(stderr, "usage: host OUTPUT STEP...\n");
    return 2;
  }
  argv[1] = (char *)(uintptr_t)env_or("HOST_OUTPUT", argv[1]);
  /* High, so that tests may close and open low descriptors as they like. */
  int fd = open(argv[1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666), ran = 0;
  OUTPUT = fcntl(fd, F_DUPFD_CLOEXEC, 15);
  close(fd);
  if (OUTPUT < 0) return 2;
  /* glibc takes a signal of its own with the first thread. */
  in_thread(no_thread, 0);
  join_threads();
  for (int look = 0; look < VITALS_LOOKS && count_entries("/proc/self/task") > 1; look++) sleep_seconds(0.001);
  if (ice_spec_new(&SPEC) != ICE_OK) return 3;
  for (int i = 2; i < argc; i++) {
    ran |= starts(argv[i]);
    do_step(argv[i]);
  }
  if (!ran) do_step((char[]){"run"});
  join_threads();
  ice_agent_free(AGENT);
  ice_spec_free(SPEC);
  ice_result_free(RESULT);
  after();
  return 0;
}

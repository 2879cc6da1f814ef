/* icerun: what its files share.
 *
 *   icerun.c          from the arguments to the exit status
 *   icerun_table.c    the table of options: the library's, and its own
 *   icerun_options.c  how options are read: command line and PET_ variables
 *   icerun_help.c     --help
 *   icerun_completion.c  --print-completion
 *   icerun_spec.c     from options to an ice_spec
 *   icerun_signals.c  what signals are to the run
 *   icerun_rdzv.c     the rendezvous options
 *   icerun_plan.c     --dry-run
 *   icerun_end.c      what others are told at the end: the queue, the termination log
 *   icerun_init.c     what a pid 1 has to do
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#ifndef ICERUN_H
#define ICERUN_H

#include <stddef.h>
#include <stdint.h>

#include "ice.h"

/* The options that icerun itself asks for. The library's others are behind them in the table. */
enum option_id {
  OPT_HELP,
  OPT_VERSION,
  OPT_PRINT_COMPLETION,
  OPT_QUIET,
  OPT_LOG_LEVEL,
  OPT_DRY_RUN,
  OPT_CONFIG,

  OPT_NPROC_PER_NODE,
  OPT_MODULE,
  OPT_NO_PYTHON,
  OPT_RUN_PATH,
  OPT_USE_ENV,
  OPT_MACROS,
  OPT_ENV,
  OPT_STDIN,
  OPT_START_METHOD,
  OPT_KEEP_LAUNCHER_VARIABLES,

  OPT_DEVICES,
  OPT_NUMA_BINDING,
  OPT_MAX_RESTARTS,
  OPT_MONITOR_INTERVAL,

  OPT_SIGNALS_TO_HANDLE,
  OPT_PASS_SIGNALS,
  OPT_COMPAT_EXIT_CODE,
  OPT_REQUEUE,
  OPT_TERMINATION_LOG,

  OPT_LOG_DIR,
  OPT_REDIRECTS,
  OPT_LOCAL_RANKS_FILTER,
  OPT_EVENT_FILE,
  OPT_EVENT_LOG_HANDLER,

  OPT_STANDALONE,
  OPT_SCHEDULER,
  OPT_NNODES,
  OPT_NODE_RANK,
  OPT_RDZV_BACKEND,
  OPT_RDZV_ENDPOINT,
  OPT_RDZV_ID,
  OPT_RDZV_CONF,
  OPT_MASTER_ADDR,
  OPT_MASTER_PORT,
  OPT_LOCAL_ADDR,
  OPT_NO_AGENT_STORE,

  OPT_LOGS_SPECS,

  OPT_OWN_COUNT
};

/* icerun_table.c */
struct option {
  const char *of;       /* the library's option that it is, by name; NULL for one of icerun alone */
  const char *name;     /* of the flag */
  char letter;          /* of the short form, or 0 */
  const char *argument; /* what the help calls the value; NULL for a flag */
  const char *standard; /* the default; NULL for none */
  const char *help;
  const char *heading; /* of the group that it is in */
  const char *missing; /* why it cannot be used, if so */
  const char *words;   /* that may be its value, for a shell to offer; NULL for none */
  int is_by_hand;      /* the library does not get the value as it is */
  int has_own_default;
  const ice_option *library; /* NULL for one of icerun alone */
  size_t place;              /* in the help */
};
extern struct option *OPTIONS; /* by their ids */
extern size_t OPTION_COUNT;
void options_make(void);
extern const struct option **SHOWN; /* in the order of the help, which only who shows them needs */
void options_order(void);
int option_repeats(size_t id); /* each value that is given counts */

struct setting {
  const char *value; /* NULL: neither given nor in the environment; of several the last */
  int on_command_line;
};

/* One value of an option that repeats. */
struct item {
  size_t id;
  const char *value;
};

struct options {
  struct setting *settings; /* by id */
  struct item *items;
  size_t item_count;
  char **env; /* each NAME=VALUE of --env, the last of one name counts */
  size_t env_count;
  char **command; /* the script and its arguments, up to a NULL */
};

/* icerun_options.c. What is wrong with the arguments ends the program with one line and EXIT_USAGE;
 * --help, --version and --print-completion end it with 0. */
#define EXIT_USAGE 2
void options_read(struct options *options, char **argv);
int option_on(const struct options *options, size_t id);
int option_filled(const struct options *options, size_t id); /* given and not empty */
const char *option_text(const struct options *options, size_t id); /* or its default */
int64_t option_integer(const struct options *options, size_t id);
double option_number(const struct options *options, size_t id);
/* 1 if `text` is a whole number and no more, or any number, as Python's int() and float() read them. */
int read_integer(const char *text, int64_t *out);
int read_number(const char *text, double *out);
#define OPTION_VARIABLE 64 /* as long as the name of any option's variable */
void option_variable(const struct option *option, char name[OPTION_VARIABLE]);
#if defined(__GNUC__)
#define PRINTF_LIKE(text, first) __attribute__((format(printf, text, first)))
#else
#define PRINTF_LIKE(text, first)
#endif
/* How many bytes of a control character the text begins with, 0 for any other. */
int control_length(const char *text);
_Noreturn void usage_error(const char *format, ...) PRINTF_LIKE(1, 2);
_Noreturn void bad_value(const struct options *options, size_t id, const char *want);
_Noreturn void bad_text(const struct options *options, size_t id, const char *value, const char *want);
/* One line on stderr, unless --quiet. */
void notice(const struct options *options, const char *format, ...) PRINTF_LIKE(2, 3);
/* Those in between are printed at the release, or never where there is a usage error first. */
void hold_notices(void);
void release_notices(void);

/* icerun_help.c */
_Noreturn void print_help(void);

/* icerun_completion.c */
_Noreturn void print_completion(const char *shell);

/* icerun_spec.c. The caller frees the spec. */
ice_spec *spec_from_options(const struct options *options, int32_t log_level);
void accept_value(const struct options *options, size_t id, ice_status status);

/* icerun_signals.c. What signals are where nobody says it, and what is said. */
void set_default_signals(ice_spec *spec);
void set_signals(const struct options *options, ice_spec *spec);

/* icerun_rdzv.c */
void set_default_run_id(const struct options *options, ice_spec *spec);
/* The name of a scheduler that may say what options do not; NULL for none. */
const char *scheduler(const struct options *options);
void rendezvous_to_spec(const struct options *options, ice_spec *spec);

/* icerun_plan.c. Returns icerun's exit status. */
int print_plan(const ice_plan *plan);

/* icerun_end.c */
void check_end(const struct options *options);
void tell_others(const struct options *options, const ice_result *result);

/* icerun_init.c. Returns at once unless this is pid 1, and then in a child of it. */
void leave_pid_1(void);

#endif

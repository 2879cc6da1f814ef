/* icerun: the table of its options. Most are the library's, which tells of them (`ice_option_at()`); here are those of
 * icerun alone, and what it has otherwise.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#include "icerun.h"

#include <stdlib.h>
#include <string.h>

#define FLAG(option_name) .name = option_name
#define VALUE(option_name, what, normally) \
  .name = option_name, .argument = what, .standard = normally
/* The library's option of that name; what is not said here is as the library says it. */
#define OF(option_name) .of = option_name
#define BY_HAND .is_by_hand = 1

static const char ABOUT[] = "About icerun";
static const char WORKERS[] = "Workers";
static const char SIGNALS[] = "Signals and the end";
static const char EVENTS[] = "Events and health";
static const char RENDEZVOUS[] = "Rendezvous: one host, or several";
static const char MISSING[] = "Options of torchrun that are not here";

static const struct option OWN[OPT_OWN_COUNT] = {
  [OPT_HELP] = {FLAG("help"), .letter = 'h', .heading = ABOUT,
                .help = "Shows this text."},
  [OPT_VERSION] = {FLAG("version"), .heading = ABOUT,
                   .help = "Shows the version of the library."},
  [OPT_PRINT_COMPLETION] = {VALUE("print-completion", "SHELL", NULL), .words = "bash zsh fish",
                            .heading = ABOUT,
                            .help = "Shows a script that lets bash, zsh or fish complete these options: "
                                    "source <(icerun --print-completion bash)."},
  [OPT_QUIET] = {FLAG("quiet"), .letter = 'q', .heading = ABOUT,
                 .help = "Only errors and the report of a failure on stderr."},
  [OPT_LOG_LEVEL] = {VALUE("log-level", "LEVEL", "warning"), .words = "error warning info debug",
                     .heading = ABOUT,
                     .help = "Messages on stderr: error (only the report of a failure), warning, info, debug."},
  [OPT_DRY_RUN] = {FLAG("dry-run"), .heading = ABOUT,
                   .help = "Shows what would be started, for each rank: devices, files, command and "
                           "environment. Nothing is started."},
  [OPT_CONFIG] = {VALUE("config", "FILE", NULL), .heading = ABOUT,
                  .help = "Options of a file in TOML, by the names of these: max_restarts = 3. The command line and the "
                          "environment count before it. It may have more: docs/options.md. Where it says which program "
                          "to run no SCRIPT is needed."},

  [OPT_NPROC_PER_NODE] = {OF("nproc_per_node"), BY_HAND, .standard = "1"},
  [OPT_MODULE] = {FLAG("module"), .letter = 'm', .heading = WORKERS,
                  .help = "SCRIPT is the name of a Python module."},
  [OPT_NO_PYTHON] = {FLAG("no-python"), .heading = WORKERS,
                     .help = "SCRIPT is a program and runs without Python."},
  [OPT_RUN_PATH] = {FLAG("run-path"), .heading = WORKERS,
                    .help = "SCRIPT, an absolute path, is run by Python's runpy.run_path. Wins over "
                            "--no-python."},
  [OPT_USE_ENV] = {FLAG("use-env"), .heading = WORKERS,
                   .help = "Of torch.distributed.launch, and always so here: LOCAL_RANK is in the environment. A "
                           "script that wants it as an option gets it by --local-rank='${local_rank}' among ARGUMENTS."},
  [OPT_MACROS] = {OF("macros"), .standard = "local_rank"},
  [OPT_ENV] = {VALUE("env", "NAME=VALUE", NULL), .heading = WORKERS,
               .help = "Sets a variable for the workers. May be repeated (in PET_ENV: one a line)."},
  [OPT_STDIN] = {OF("stdin"), BY_HAND},
  [OPT_START_METHOD] = {VALUE("start-method", "METHOD", "spawn"), .words = "spawn fork forkserver",
                        .heading = WORKERS,
                        .help = "spawn, fork or forkserver: as with torchrun it makes no difference to programs "
                                "and scripts."},
  [OPT_KEEP_LAUNCHER_VARIABLES] = {FLAG("keep-launcher-variables"), .heading = WORKERS,
                                   .help = "Workers of an icerun that mpirun or srun has started get the variables of MPI's launchers too "
                                           "(PMI_*, PMIX_*, OMPI_* and the like). Without it they do not: MPI_Init would fail in them."},

  [OPT_DEVICES] = {OF("devices")},
  [OPT_NUMA_BINDING] = {OF("cpu_binding")},
  [OPT_MAX_RESTARTS] = {OF("max_restarts"), .standard = "0"},
  [OPT_MONITOR_INTERVAL] = {OF("monitor_interval"), BY_HAND,
                            .help = "How often to look for what the kernel does not announce; 0 for as often as can be. Exits are "
                                    "seen at once."},

  [OPT_SIGNALS_TO_HANDLE] = {OF("signals"), BY_HAND, .standard = "SIGTERM,SIGINT,SIGHUP,SIGQUIT"},
  [OPT_PASS_SIGNALS] = {OF("pass_signals"), BY_HAND,
                        .help = "Signals that workers get too, while the run goes on, beside SIGUSR1, SIGUSR2 and SIGWINCH: "
                                "SIGCONT,SIGALRM."},
  [OPT_COMPAT_EXIT_CODE] = {FLAG("compat-exit-code"), .heading = SIGNALS,
                            .help = "Every failure of a worker ends icerun with 1, as torchrun does."},
  [OPT_REQUEUE] = {FLAG("requeue"), .heading = SIGNALS,
                   .help = "Of a job of Slurm: puts it back into its queue (scontrol requeue) when it was stopped after all "
                           "ranks had saved a checkpoint."},
  [OPT_TERMINATION_LOG] = {VALUE("termination-log", "FILE", "/dev/termination-log"), .heading = SIGNALS,
                           .help = "Where Kubernetes reads why a container has failed: gets the report of a failure, if the "
                                   "file is there."},

  [OPT_LOG_DIR] = {OF("log_dir")},
  [OPT_REDIRECTS] = {OF("redirects")},
  [OPT_LOCAL_RANKS_FILTER] = {OF("local_ranks_filter")},
  [OPT_EVENT_FILE] = {OF("event_file")},
  [OPT_EVENT_LOG_HANDLER] = {VALUE("event-log-handler", "NAME", "null"), .words = "null console",
                             .heading = EVENTS,
                             .help = "console: these lines go to stderr; null: they do not. Or by their source: "
                                     "worker=null,agent=console."},

  [OPT_STANDALONE] = {FLAG("standalone"), .heading = RENDEZVOUS,
                      .help = "One host, a free port, a random run id. The backend, endpoint, node rank and "
                              "master options are then ignored."},
  [OPT_SCHEDULER] = {OF("scheduler"), .standard = "auto"},
  [OPT_NNODES] = {OF("nodes"), BY_HAND, .standard = "1:1",
                  .help = "How many hosts the job has, at least and at most."},
  [OPT_NODE_RANK] = {OF("node_rank"), BY_HAND, .standard = "0"},
  [OPT_RDZV_BACKEND] = {OF("rendezvous_backend"), BY_HAND, .standard = "static",
                        .help = "static: a given set of hosts that meet at the first, which is MASTER_ADDR and "
                                "MASTER_PORT, too. c10d, etcd: hosts that come and go, and meet at a store or an etcd."},
  [OPT_RDZV_ENDPOINT] = {OF("rendezvous_endpoint"), BY_HAND,
                         .help = "With static, in place of --master-addr and --master-port. With c10d where the store is; "
                                 "the host of that name serves it. Port 29400."},
  [OPT_RDZV_ID] = {OF("run_id"), BY_HAND, .standard = "none",
                   .help = "The name of the job, in TORCHELASTIC_RUN_ID and in the name of the run's "
                           "directory. Random where neither it nor an endpoint or master port is given."},
  [OPT_RDZV_CONF] = {VALUE("rdzv-conf", "K=V,...", NULL), .heading = RENDEZVOUS,
                     .help = "Further settings: join_timeout, last_call_timeout, keep_alive_interval, "
                             "keep_alive_max_attempt, read_timeout, close_timeout, lost_timeout, is_host, ..."},
  [OPT_MASTER_ADDR] = {OF("master_addr"), BY_HAND, .standard = "127.0.0.1",
                       .help = "Where worker 0 listens: MASTER_ADDR (static only)."},
  [OPT_MASTER_PORT] = {OF("master_port"), BY_HAND,
                       .help = "The port there: MASTER_PORT (static only). Without it a free one."},
  [OPT_LOCAL_ADDR] = {OF("local_addr"), BY_HAND},
  [OPT_NO_AGENT_STORE] = {FLAG("no-agent-store"), .heading = RENDEZVOUS,
                          .help = "The worker of rank 0 serves the store at MASTER_PORT, or whatever else it likes. Without it "
                                  "icerun does, as torchrun: a new one for each attempt, and rank 0 is a client too."},

  [OPT_LOGS_SPECS] = {VALUE("logs-specs", "NAME", NULL), .heading = MISSING,
                      .missing = "this names a Python plug-in, and there is no Python in icerun",
                      .help = "Refused: it names a Python plug-in."},
};

struct option *OPTIONS;
const struct option **SHOWN;
size_t OPTION_COUNT;

/* NULL for an empty text. */
static const char *or_none(const char *text) { return *text ? text : NULL; }

/* `max_restarts` as `max-restarts`. */
static const char *flag_name(const ice_option *library) {
  const char *name = *library->also ? library->also : library->name;
  char *flag = malloc(strlen(name) + 1);
  if (!flag) usage_error("out of memory");
  strcpy(flag, name);
  for (char *c = flag; *c; c++) {
    if (*c == '_') *c = '-';
  }
  return flag;
}

/* Fills in what the library says of an option. */
static void complete(struct option *option, const ice_option *library, size_t place) {
  option->library = library;
  option->place = place;
  option->name = flag_name(library);
  option->letter = (char)library->letter;
  option->argument = or_none(library->argument);
  option->heading = library->heading;
  option->words = or_none(library->words);
  option->has_own_default = option->standard != NULL;
  if (!option->standard && option->argument) option->standard = or_none(library->standard);
  if (!option->help) option->help = library->help;
}

static size_t find_own(const char *name) {
  size_t id = 0;
  while (id < OPT_OWN_COUNT && (!OWN[id].of || strcmp(OWN[id].of, name) != 0)) id++;
  return id;
}

/* The place of an option of icerun alone: ahead of all, behind those of its heading, or behind all. */
static size_t own_place(const char *heading, size_t library_count) {
  if (strcmp(heading, ABOUT) == 0) return 0;
  size_t last = library_count;
  for (size_t i = 0; i < library_count; i++) {
    if (strcmp(ice_option_at(i)->heading, heading) == 0) last = i;
  }
  return 2 * (last + 1) + 1;
}

static int by_place(const void *one, const void *other) {
  const struct option *a = *(const struct option *const *)one, *b = *(const struct option *const *)other;
  if (a->place != b->place) return a->place < b->place ? -1 : 1;
  return a < b ? -1 : a > b; /* those of one place in the order of their ids */
}

void options_make(void) {
  size_t count = ice_option_count();
  OPTIONS = calloc(OPT_OWN_COUNT + count, sizeof *OPTIONS);
  if (!OPTIONS) usage_error("out of memory");
  memcpy(OPTIONS, OWN, sizeof OWN);
  OPTION_COUNT = OPT_OWN_COUNT;
  for (size_t i = 0; i < count; i++) {
    const ice_option *library = ice_option_at(i);
    size_t own = find_own(library->name);
    if (own == OPT_OWN_COUNT && !library->is_flag_of_icerun) continue;
    complete(&OPTIONS[own < OPT_OWN_COUNT ? own : OPTION_COUNT++], library, 2 * (i + 1));
  }
}

void options_order(void) {
  SHOWN = calloc(OPTION_COUNT, sizeof *SHOWN);
  if (!SHOWN) usage_error("out of memory");
  for (size_t id = 0; id < OPTION_COUNT; id++) {
    if (!OPTIONS[id].library) OPTIONS[id].place = own_place(OPTIONS[id].heading, ice_option_count());
    SHOWN[id] = &OPTIONS[id];
  }
  qsort(SHOWN, OPTION_COUNT, sizeof *SHOWN, by_place);
}

int option_repeats(size_t id) {
  const ice_option *library = OPTIONS[id].library;
  return library && library->kind == ICE_OPTION_EACH;
}

/* icerun: the table of its options, in the order of the help.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#include "icerun.h"

#define FLAG(option_name) .name = option_name
#define VALUE(option_name, what, normally) \
  .name = option_name, .argument = what, .standard = normally

const struct option OPTIONS[OPTION_COUNT] = {
  [OPT_HELP] = {FLAG("help"), .letter = 'h',
    .heading = "About icerun",
    .help = "Shows this text."},
  [OPT_VERSION] = {FLAG("version"),
    .help = "Shows the version of the library."},
  [OPT_PRINT_COMPLETION] = {VALUE("print-completion", "SHELL", NULL), .words = "bash zsh fish",
    .help = "Shows a script that lets bash, zsh or fish complete these options: "
            "source <(icerun --print-completion bash)."},
  [OPT_QUIET] = {FLAG("quiet"), .letter = 'q',
    .help = "Only errors and the report of a failure on stderr."},
  [OPT_LOG_LEVEL] = {VALUE("log-level", "LEVEL", "warning"), .words = "error warning info debug",
    .help = "Messages on stderr: error (only the report of a failure), warning, info, debug."},
  [OPT_DRY_RUN] = {FLAG("dry-run"),
    .help = "Shows what would be started, for each rank: devices, files, command and "
            "environment. Nothing is started."},

  [OPT_NPROC_PER_NODE] = {VALUE("nproc-per-node", "N", "1"), .words = "gpu cpu auto",
    .heading = "Workers",
    .help = "How many workers to start: a number, `gpu` or `cpu` for as many as there are CUDA "
            "devices or CPUs to use, `auto` for gpu if there is one, else cpu. Not needed with "
            "--devices."},
  [OPT_ROLE] = {VALUE("role", "NAME", "default"),
    .help = "The role of the workers."},
  [OPT_MODULE] = {FLAG("module"), .letter = 'm',
    .help = "SCRIPT is the name of a Python module."},
  [OPT_NO_PYTHON] = {FLAG("no-python"),
    .help = "SCRIPT is a program and runs without Python."},
  [OPT_RUN_PATH] = {FLAG("run-path"),
    .help = "SCRIPT, an absolute path, is run by Python's runpy.run_path. Wins over "
            "--no-python."},
  [OPT_USE_ENV] = {FLAG("use-env"),
    .help = "Of torch.distributed.launch, and always so here: LOCAL_RANK is in the environment. A "
            "script that wants it as an option gets it by --local-rank='${local_rank}' among ARGUMENTS."},
  [OPT_MACROS] = {VALUE("macros", "WHICH", "local_rank"), .words = "local_rank all none",
    .help = "What is filled in in ARGUMENTS: local_rank for ${local_rank} alone, as with torchrun, none, "
            "or all for ${rank}, ${role_rank}, ${group_rank}, ${world_size}, ${local_world_size}, "
            "${role_name}, ${run_id}, ${restart_count} and ${hostname} too. $${rank} then stays, as ${rank}."},
  [OPT_ENV] = {VALUE("env", "NAME=VALUE", NULL),
    .help = "Sets a variable for the workers. May be repeated (in PET_ENV: one a line)."},
  [OPT_WORKING_DIR] = {VALUE("working-dir", "DIR", NULL),
    .help = "The directory that workers start in."},
  [OPT_STDIN] = {VALUE("stdin", "WHO", "none"), .words = "none rank0 all",
    .help = "Who reads the standard input, which must not be a terminal: none, rank0, or all "
            "as with torchrun, where workers take it from each other."},
  [OPT_NUMA_BINDING] = {VALUE("numa-binding", "MODE", NULL),
    .words = "node socket exclusive core-complex compact",
    .help = "Binds each worker to CPUs: node, socket, exclusive or core-complex, all near its GPU; "
            "or compact, a part of all cores, GPU or not. OMP_NUM_THREADS, if not set, is then "
            "the number of its cores."},
  [OPT_START_METHOD] = {VALUE("start-method", "METHOD", "spawn"), .words = "spawn fork forkserver",
    .help = "spawn, fork or forkserver: as with torchrun it makes no difference to programs "
            "and scripts."},

  [OPT_DEVICES] = {VALUE("devices", "LIST", NULL),
    .heading = "Devices",
    .help = "One worker for each of these, which it alone sees: cuda:0-2,7, cuda:*, auto:*, "
            "cpu:0-3, GPU-8932f937. Numbers are places in CUDA_VISIBLE_DEVICES, where that is "
            "set. A device that is named twice has two workers."},
  [OPT_DEVICE_VISIBILITY] = {VALUE("device-visibility", "WHICH", NULL), .words = "own all inherit",
    .help = "What a worker finds in CUDA_VISIBLE_DEVICES: own for its own devices alone, all for "
            "those of all workers, inherit for what icerun sees. Without it own where there is a "
            "worker for each device (--devices, --nproc-per-node gpu), else inherit. Under torchrun "
            "it is inherit: a script that takes GPU LOCAL_RANK wants that."},
  [OPT_VIRTUAL_LOCAL_RANK] = {FLAG("virtual-local-rank"),
    .help = "LOCAL_RANK is 0 for each worker, which sees its own device alone; the real one is "
            "in ICE_LOCAL_RANK."},
  [OPT_DEVICES_PER_RANK] = {VALUE("devices-per-rank", "N", "1"),
    .help = "How many devices each worker has."},
  [OPT_RANKS_PER_DEVICE] = {VALUE("ranks-per-device", "N", "1"),
    .help = "How many workers share each device."},
  [OPT_DEVICE_UUIDS] = {FLAG("device-uuids"),
    .help = "Workers find UUIDs in CUDA_VISIBLE_DEVICES, not numbers."},

  [OPT_MAX_RESTARTS] = {VALUE("max-restarts", "N", "0"),
    .heading = "Restarts",
    .help = "How often all workers are started again after one has failed."},
  [OPT_RESTART_BACKOFF] = {VALUE("restart-backoff", "SECONDS[:MAX]", NULL),
    .help = "The wait before the first restart, doubled for each further one up to MAX (60 if "
            "not given)."},
  [OPT_MIN_UPTIME] = {VALUE("min-uptime", "SECONDS", "0"),
    .help = "A failure sooner than this is a crash loop and not restarted."},
  [OPT_NO_RESTART_CODES] = {VALUE("no-restart-codes", "CODES", NULL),
    .help = "Exit codes after which a restart makes no sense: 2,3."},
  [OPT_MONITOR_INTERVAL] = {VALUE("monitor-interval", "SECONDS", "0.1"),
    .help = "How often to look for what the kernel does not announce; 0 for as often as can be. Exits are "
            "seen at once."},

  [OPT_CONTROL] = {FLAG("control"),
    .heading = "Workers that use libice",
    .help = "Workers get a descriptor, 3, through which they may say steps, heartbeats and timers "
            "(ice_worker_open). Implied by those that follow. At a terminal ^C then pauses them and "
            "asks whether they should save a checkpoint; another ^C stops the run at once."},
  [OPT_HEARTBEAT_TIMEOUT] = {VALUE("heartbeat-timeout", "SECONDS", NULL),
    .help = "A worker that has said a step or a heartbeat, and then none for so long, has failed."},
  [OPT_INITIAL_HEARTBEAT_TIMEOUT] = {VALUE("initial-heartbeat-timeout", "SECONDS", NULL),
    .help = "A worker that has said no step, heartbeat or section for so long from its start on has "
            "failed."},
  [OPT_CHECKPOINT_BEFORE_STOP] = {VALUE("checkpoint-before-stop", "SECONDS", NULL),
    .help = "Before a signal stops the run, workers are asked to save a checkpoint, all at the same "
            "step, and have so much time for it. Another SIGINT or SIGQUIT then kills at once. A worker that "
            "does not use libice is not stopped by SIGTERM then, unless it handles it, but killed when the time is over."},
  [OPT_PROGRESS_BAR] = {FLAG("progress-bar"),
    .help = "Below the lines on stderr, if that is a terminal, a bar of what workers say: steps and "
            "progress, rate, time left, slowest rank, restarts. Output goes through files then, as "
            "with --tee."},
  [OPT_DEBUG_RANK] = {VALUE("debug-rank", "N", NULL),
    .help = "This local rank has the terminal, ^C too: breakpoint() in its script works. No timer of "
            "any worker runs while it lives."},

  [OPT_SECTION_LIMITS] = {VALUE("section-limits", "LIST", NULL),
    .help = "How many seconds workers may be in sections of their work that they name: "
            "setup:900,step:120,:180, the last outside of all."},
  [OPT_SECTION_LEARNING] = {VALUE("section-learning", "FACTOR[:LEAST]", NULL),
    .help = "Sections without a limit may take so many times as long as the longest seen, and at "
            "least LEAST seconds (10 if not given)."},
  [OPT_TIMER_SIGNAL] = {VALUE("timer-signal", "NUMBER", "9"),
    .help = "The signal for a worker whose timer, heartbeat or section is overdue; 0 only says "
            "so."},
  [OPT_MAX_ATTEMPTS_WITHOUT_PROGRESS] = {VALUE("max-attempts-without-progress", "N", "0"),
    .help = "Ends the run when so many attempts have come no further, in steps, than those before, "
            "whatever restarts are left; 0 for any number."},

  [OPT_FILE_TIMERS] = {FLAG("file-timers"),
    .heading = "Stuck workers",
    .help = "Serves torch's file timers: a worker that does not release one in time has failed. Also "
            "on with TORCHELASTIC_ENABLE_FILE_TIMER=1."},
  [OPT_UNINTERRUPTIBLE_TIMEOUT] = {VALUE("uninterruptible-timeout", "SECONDS", NULL),
    .help = "A worker in uninterruptible sleep (state D) for longer ends the run, without a restart; 0 "
            "for no limit. Without it TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT, else none."},
  [OPT_STRAGGLER_TIMEOUT] = {VALUE("straggler-timeout", "SECONDS", NULL),
    .help = "Workers that still run so long after the first has ended with success have failed; 0 "
            "for no limit."},
  [OPT_STACK_TIMEOUT] = {VALUE("stack-timeout", "SECONDS", NULL),
    .help = "How long it may take to find out where a stuck worker is before it is ended (5 if not "
            "given); 0 for not at all. It is in the report, and in stack.txt beside its logs."},
  [OPT_STACK_COMMAND] = {VALUE("stack-command", "COMMAND", NULL),
    .help = "A shell command that looks at a stuck worker, with ${pid}, ${rank} and the like: "
            "'py-spy dump --pid ${pid}'."},

  [OPT_SIGNALS_TO_HANDLE] = {VALUE("signals-to-handle", "LIST", "SIGTERM,SIGINT,SIGHUP,SIGQUIT"),
    .heading = "Signals and the end",
    .help = "Signals that stop the run: workers get the same one, and SIGKILL after the "
            "shutdown time-out. A second SIGINT or SIGQUIT kills at once."},
  [OPT_PASS_SIGNALS] = {VALUE("pass-signals", "LIST", NULL),
    .help = "Signals that workers get too, while the run goes on, beside SIGUSR1, SIGUSR2 and SIGWINCH: "
            "SIGCONT,SIGALRM."},
  [OPT_ON_SIGNAL] = {VALUE("on-signal", "NAME=ACTION", NULL),
    .help = "What a signal is to the run: pass (workers get it too), checkpoint (they are asked to "
            "save one, and go on), checkpoint-and-stop, or stop: USR1=checkpoint,USR2=stop. May be "
            "repeated. A checkpoint implies --control."},
  [OPT_SHUTDOWN_TIMEOUT] = {VALUE("shutdown-timeout", "SECONDS", NULL),
    .help = "Time between the stop signal and SIGKILL, whatever the reason of the stop. "
            "Without it TORCH_ELASTIC_SHUTDOWN_TIMEOUT, else 30."},
  [OPT_COMPAT_EXIT_CODE] = {FLAG("compat-exit-code"),
    .help = "Every failure of a worker ends icerun with 1, as torchrun does."},

  [OPT_LOG_DIR] = {VALUE("log-dir", "DIR", NULL),
    .heading = "Output of the workers",
    .help = "Where runs make their directories for log and error files; /dev/null for no "
            "files. Without it a new directory below TMPDIR, else below /tmp, or below "
            "/dev/shm for error files alone; it goes if it stays empty."},
  [OPT_EVENT_FILE] = {VALUE("event-file", "FILE", NULL),
    .help = "A line of JSON is appended to it for each worker that starts or ends, and for the end of "
            "the run."},
  [OPT_EVENT_LOG_HANDLER] = {VALUE("event-log-handler", "NAME", "null"), .words = "null console",
    .help = "console: these lines go to stderr; null: they do not. Or by their source: "
            "worker=null,agent=console."},
  [OPT_HEALTH_PORT] = {VALUE("health-port", "PORT", NULL),
    .help = "GET answers there whether icerun is well, and /metrics for Prometheus; 0 for a free "
            "port. Without it TORCHELASTIC_HEALTH_CHECK_PORT, else none."},
  [OPT_HEALTH_ADDRESS] = {VALUE("health-address", "ADDRESS", "127.0.0.1"),
    .help = "The address of that port; 0.0.0.0 or :: for all, as a probe from elsewhere needs it."},
  [OPT_HEALTH_SOCKET] = {VALUE("health-socket", "PATH", NULL),
    .help = "The same at a unix socket, with or without a port."},
  [OPT_REDIRECTS] = {VALUE("redirects", "MAP", "0"), .letter = 'r',
    .help = "Streams that go to files: 0 none, 1 stdout, 2 stderr, 3 both; or by local rank: "
            "0:3,12:1. Ranks that there are not are left out."},
  [OPT_TEE] = {VALUE("tee", "MAP", "0"), .letter = 't',
    .help = "Streams that go to files and, each line with a prefix, to the console."},
  [OPT_MERGE_STDERR] = {FLAG("merge-stderr"),
    .help = "A worker's stderr goes where its stdout goes."},
  [OPT_LOG_THROUGH_AGENT] = {FLAG("log-through-agent"),
    .help = "Output that goes to files goes through icerun, which writes them: a full disk then fails "
            "no worker, and tee'd lines all reach the console. Somewhat slower."},
  [OPT_LOCAL_RANKS_FILTER] = {VALUE("local-ranks-filter", "RANKS", NULL),
    .help = "Only these local ranks reach the console: 0,2. Others go to files."},
  [OPT_LOG_LINE_PREFIX_TEMPLATE] = {VALUE("log-line-prefix-template", "TEXT", NULL),
    .help = "The prefix of tee'd lines, with ${role_name}, ${local_rank}, ${rank}, ${hostname} "
            "and more. Without it TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE, else "
            "[${role_name}${local_rank}]:."},
  [OPT_TIMESTAMPS] = {FLAG("timestamps"),
    .help = "Tee'd lines start with the time, UTC."},
  [OPT_DUPLICATE_STDOUT_FILTERS] = {VALUE("duplicate-stdout-filters", "TEXTS", NULL),
    .help = "Lines of redirected or tee'd stdout that contain one of these texts go to "
            "filtered_stdout.log too: apple,orange."},
  [OPT_DUPLICATE_STDERR_FILTERS] = {VALUE("duplicate-stderr-filters", "TEXTS", NULL),
    .help = "The same for stderr and filtered_stderr.log."},

  [OPT_STANDALONE] = {FLAG("standalone"),
    .heading = "Rendezvous: one host, or several",
    .help = "One host, a free port, a random run id. The backend, endpoint, node rank and "
            "master options are then ignored."},
  [OPT_NNODES] = {VALUE("nnodes", "N[:MAX]", "1:1"),
    .help = "How many hosts the job has, at least and at most."},
  [OPT_NODE_RANK] = {VALUE("node-rank", "N", "0"), .words = "scheduler",
    .help = "Which of the hosts this is: with static all say it, with c10d it is a wish. scheduler: "
            "SLURM_PROCID or JOB_COMPLETION_INDEX."},
  [OPT_RDZV_BACKEND] = {VALUE("rdzv-backend", "NAME", "static"), .words = "static c10d etcd",
    .help = "static: a given set of hosts that meet at the first, which is MASTER_ADDR and "
            "MASTER_PORT, too. c10d, etcd: hosts that come and go, and meet at a store or an etcd."},
  [OPT_RDZV_ENDPOINT] = {VALUE("rdzv-endpoint", "HOST[:PORT]", NULL),
    .help = "With static, in place of --master-addr and --master-port. With c10d where the store is; "
            "the host of that name serves it. Port 29400."},
  [OPT_RDZV_ID] = {VALUE("rdzv-id", "TEXT", "none"),
    .help = "The name of the job, in TORCHELASTIC_RUN_ID and in the name of the run's "
            "directory. Random where neither it nor an endpoint or master port is given."},
  [OPT_RDZV_CONF] = {VALUE("rdzv-conf", "K=V,...", NULL),
    .help = "Further settings: join_timeout, last_call_timeout, keep_alive_interval, "
            "keep_alive_max_attempt, read_timeout, close_timeout, lost_timeout, is_host, ..."},
  [OPT_EXIT_BARRIER_TIMEOUT] = {VALUE("exit-barrier-timeout", "SECONDS", NULL),
    .help = "How long workers that succeeded are waited with for those of other hosts. Without it "
            "TORCH_ELASTIC_EXIT_BARRIER_TIMEOUT, else 300."},
  [OPT_MASTER_ADDR] = {VALUE("master-addr", "ADDRESS", "127.0.0.1"),
    .help = "Where worker 0 listens: MASTER_ADDR (static only)."},
  [OPT_MASTER_PORT] = {VALUE("master-port", "PORT", NULL),
    .help = "The port there: MASTER_PORT (static only). Without it a free one."},
  [OPT_LOCAL_ADDR] = {VALUE("local-addr", "ADDRESS", NULL),
    .help = "The address of this host: MASTER_ADDR, unless static names one."},
  [OPT_NO_AGENT_STORE] = {FLAG("no-agent-store"),
    .help = "The worker of rank 0 serves the store at MASTER_PORT, or whatever else it likes. Without it "
            "icerun does, as torchrun: a new one for each attempt, and rank 0 is a client too."},
  [OPT_KEEP_LAUNCHER_VARIABLES] = {FLAG("keep-launcher-variables"),
    .help = "Workers of an icerun that mpirun or srun has started get the variables of MPI's launchers too "
            "(PMI_*, PMIX_*, OMPI_* and the like). Without it they do not: MPI_Init would fail in them."},

  [OPT_LOGS_SPECS] = {VALUE("logs-specs", "NAME", NULL),
    .heading = "Options of torchrun that are not here",
    .missing = "this names a Python plug-in, and there is no Python in icerun",
    .help = "Refused: it names a Python plug-in."},
};

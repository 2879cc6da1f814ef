/* A data-parallel trainer that survives the death of a worker.
 *
 * Several processes, the ranks, train one small neural network on the handwritten digits of
 * data/digits.csv. Each rank works out the gradient of its part of every batch, the ranks add their
 * gradients up over TCP, and all take the same step. Rank 0 writes a checkpoint every few epochs.
 *
 * The program does this twice. The first run is left in peace. In the second one rank is killed in
 * the middle of an epoch: the agent stops the other ranks, starts all of them again, and they go on
 * from the checkpoint. At the end both runs must have the same weights, byte for byte; the method by
 * which the ranks are started (--start-method) makes no difference to them either.
 *
 * A stop (SIGTERM, say before the machine is taken away) has the ranks save a checkpoint first, all at
 * the same epoch; ^C at a terminal asks whether they should.
 *
 * This file is the host. Each other part has a file of its own: train_worker.c is what a rank does,
 * with the help of train_data.c, train_model.c, train_checkpoint.c and train_group.c, the
 * all-reduce. What has to do with libice is here and in train_worker.c.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define _GNU_SOURCE

#include <errno.h>
#include <ftw.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "train.h"

/* How the ranks get their processes. */
struct method {
  const char *name;
  int32_t start;       /* an ice_start_method; PROGRAM: not a function */
  const char *library; /* the shared object that has the function, NULL: this program */
};

enum { PROGRAM = -1 };

static const struct method METHODS[] = {
  {"fork", ICE_START_FORK, NULL},
  {"spawn", ICE_START_SPAWN, NULL},
  {"spawn-shared", ICE_START_SPAWN, "libtrain.so"},
  {"forkserver", ICE_START_FORKSERVER, NULL},
  {"forkserver-shared", ICE_START_FORKSERVER, "libtrain.so"},
  {"program", PROGRAM, NULL},
};

static const struct method *find_method(const char *name) {
  for (size_t i = 0; i < sizeof METHODS / sizeof *METHODS; i++)
    if (strcmp(name, METHODS[i].name) == 0)
      return &METHODS[i];
  fprintf(stderr, "--start-method is '%s', see --help for those there are\n", name);
  return NULL;
}

struct options {
  const struct method *method;
  int ranks;
  int64_t epochs;
  int kill_rank;
  int64_t kill_epoch;
  bool undisturbed;
  const char *data;
  const char *directory;
  bool keep_directory;
};

/* One run. */
struct run {
  const char *name;
  struct job job;
  char job_file[PATH_SIZE]; /* these two only where the worker is a program */
  char outcome_file[PATH_SIZE];
};

/* This executable, and its directory: what it needs lies there, or is found from there. */
static char executable[PATH_SIZE], home[PATH_SIZE];

static bool find_executable(void) {
  ssize_t length = readlink("/proc/self/exe", executable, sizeof executable - 1);
  if (length < 0) {
    fprintf(stderr, "cannot read /proc/self/exe: %s\n", strerror(errno));
    return false;
  }
  memcpy(home, executable, sizeof home);
  *strrchr(home, '/') = '\0';
  return true;
}

static bool join_path(char *path, const char *directory, const char *name, const char *suffix) {
  if (snprintf(path, PATH_SIZE, "%s/%s%s", directory, name, suffix) < PATH_SIZE)
    return true;
  fprintf(stderr, "a path below %s is too long\n", directory);
  return false;
}

/* A function of this program or of a shared object; what it is to do is its argument. */
static bool set_function(ice_spec *spec, const struct method *method, const struct job *job) {
  char library[PATH_SIZE];
  if (method->library != NULL && !join_path(library, home, method->library, ""))
    return false;
  return ice_spec_set_function(spec, method->library != NULL ? library : NULL, "train_worker") ==
           ICE_OK &&
         ice_spec_set_start_method(spec, method->start) == ICE_OK &&
         ice_spec_set_argument(spec, job, sizeof *job) == ICE_OK &&
         (method->start != ICE_START_FORKSERVER ||
          ice_spec_set_warm_up(spec, "train_warm_up") == ICE_OK);
}

/* A program gets and leaves its things in files. */
static bool set_program(ice_spec *spec, const struct run *run) {
  FILE *file = fopen(run->job_file, "wb");
  bool written = file != NULL && fwrite(&run->job, sizeof run->job, 1, file) == 1;
  if (file == NULL || fclose(file) != 0 || !written) {
    fprintf(stderr, "cannot write %s: %s\n", run->job_file, strerror(errno));
    return false;
  }
  const char *const arguments[] = {"--worker", run->job_file, run->outcome_file};
  return ice_spec_set_program(spec, executable) == ICE_OK &&
         ice_spec_add_args(spec, arguments, sizeof arguments / sizeof *arguments) == ICE_OK;
}

/* The spec: what is to run, how often again, and where its output goes. */
static bool fill_spec(ice_spec *spec, const struct options *options, const struct run *run) {
  char logs[PATH_SIZE];
  if (!join_path(logs, options->directory, "logs", ""))
    return false;
  bool good = options->method->start == PROGRAM ? set_program(spec, run)
                                                : set_function(spec, options->method, &run->job);
  return good && ice_spec_set_role(spec, "trainer") == ICE_OK &&
         ice_spec_set_run_id(spec, run->name) == ICE_OK &&
         ice_spec_set_local_world_size(spec, options->ranks) == ICE_OK &&
         ice_spec_set_max_restarts(spec, 3) == ICE_OK &&
         ice_spec_add_no_restart_exit_code(spec, HOPELESS) == ICE_OK &&
         ice_spec_set_shutdown_timeout(spec, 5) == ICE_OK &&
         ice_spec_set_signals(spec, "SIGINT,SIGTERM,SIGHUP") == ICE_OK &&
         ice_spec_set_checkpoint_before_stop(spec, 30) == ICE_OK &&
         ice_spec_set_ask_on_interrupt(spec, 1) == ICE_OK &&
         ice_spec_set_log_dir(spec, logs) == ICE_OK && ice_spec_set_redirects(spec, "3") == ICE_OK;
}

static bool run_agent(const struct options *options, const struct run *run, ice_result **result) {
  ice_spec *spec = NULL;
  ice_agent *agent = NULL;
  bool good = ice_spec_new(&spec) == ICE_OK && fill_spec(spec, options, run) &&
              ice_agent_new(spec, &agent) == ICE_OK && ice_agent_run(agent, result) == ICE_OK;
  if (!good)
    fprintf(stderr, "the %s run: %s\n", run->name, ice_last_error_message());
  ice_agent_free(agent);
  ice_spec_free(spec);
  return good;
}

static void print_death_certificate(const ice_worker_result *worker) {
  printf("  died: rank %d, PID %d, in attempt %d, after %.3f s\n", worker->global_rank, worker->pid,
         worker->attempt, (double)(worker->end_ns - worker->start_ns) / 1e9);
  if (worker->outcome == ICE_OUTCOME_SIGNALED)
    printf("    of:      signal %d (%s)\n", worker->signal, strsignal(worker->signal));
  else
    printf("    of:      exit code %d\n", worker->exit_code);
  printf("    message: %s\n", worker->message);
  for (const char *line = worker->stderr_tail; *line != '\0';) {
    size_t length = strcspn(line, "\n");
    printf("    stderr:  %.*s\n", (int)length, line);
    line += length + (line[length] == '\n');
  }
}

/* Did the run end as it should have? Where nobody was to be killed, nobody may have died; else just
 * that rank, by SIGKILL, in the first attempt. */
static bool as_expected(const ice_result *result, const struct job *job) {
  if (ice_result_end(result) != ICE_END_SUCCEEDED)
    return false;
  if (job->kill_rank < 0)
    return ice_result_restarts(result) == 0 && ice_result_failure_count(result) == 0;
  const ice_worker_result *dead = ice_result_failure(result, 0);
  return ice_result_restarts(result) == 1 && ice_result_failure_count(result) == 1 &&
         dead != NULL && dead->global_rank == job->kill_rank && dead->attempt == 0 &&
         dead->cause == ICE_CAUSE_OWN_FAILURE && dead->signal == SIGKILL;
}

/* With --dir there may be files of an earlier day. */
static bool remove_old(const char *path) {
  if (unlink(path) == 0 || errno == ENOENT)
    return true;
  fprintf(stderr, "cannot remove %s: %s\n", path, strerror(errno));
  return false;
}

static bool prepare_run(const struct options *options, bool disturbed, struct run *run) {
  run->name = disturbed ? "disturbed" : "undisturbed";
  run->job = (struct job){
    .epochs = options->epochs,
    .kill_rank = disturbed ? options->kill_rank : -1,
    .kill_epoch = options->kill_epoch,
  };
  int length = snprintf(run->job.data, sizeof run->job.data, "%s", options->data);
  if (length >= (int)sizeof run->job.data) {
    fprintf(stderr, "the path of the data is too long\n");
    return false;
  }
  const char *directory = options->directory;
  return join_path(run->job.checkpoint, directory, run->name, ".checkpoint") &&
         join_path(run->job_file, directory, run->name, ".job") &&
         join_path(run->outcome_file, directory, run->name, ".outcome") &&
         remove_old(run->job.checkpoint) && remove_old(run->outcome_file);
}

/* What rank 0 came to: a function returned it, a program wrote it to a file. */
static bool take_outcome(const struct options *options, const struct run *run,
                         const ice_result *result, struct outcome *outcome) {
  if (options->method->start == PROGRAM) {
    FILE *file = fopen(run->outcome_file, "rb");
    bool read = file != NULL && fread(outcome, sizeof *outcome, 1, file) == 1;
    if (file != NULL)
      fclose(file);
    return read;
  }
  const ice_worker_result *first = ice_result_worker_of_rank(result, 0);
  if (first == NULL || !first->has_value || first->value_size != sizeof *outcome)
    return false;
  memcpy(outcome, first->value, sizeof *outcome);
  return true;
}

/* One run from nothing to the end: prints how it went, writes what rank 0 came to to `outcome`. */
static bool run_job(const struct options *options, bool disturbed, struct outcome *outcome) {
  static struct run run;
  if (!prepare_run(options, disturbed, &run))
    return false;
  printf("the %s run: %d rank%s by %s, %" PRId64 " epochs\n", run.name, options->ranks,
         options->ranks == 1 ? "" : "s", options->method->name, options->epochs);
  ice_result *result = NULL;
  if (!run_agent(options, &run, &result))
    return false;

  bool good = as_expected(result, &run.job) && take_outcome(options, &run, result, outcome);
  if (good) {
    printf("  accuracy: %.2f %% (%d of %d held-out digits)\n",
           100.0 * outcome->correct / outcome->tested, outcome->correct, outcome->tested);
    printf("  data:     loaded %s\n", outcome->data_was_there ? "once" : "by each rank");
  }
  printf("  restarts: %d\n", ice_result_restarts(result));
  for (size_t i = 0; i < ice_result_failure_count(result); i++)
    print_death_certificate(ice_result_failure(result, i));
  if (ice_result_restarts(result) > 0 && good)
    printf("  resumed:  after %" PRId64 " epochs\n", outcome->resumed_at);
  if (options->keep_directory)
    printf("  logs:     %s\n", ice_result_run_dir(result));
  if (!good)
    fprintf(stderr, "the %s run %s:\n%s", run.name,
            ice_result_end(result) == ICE_END_INTERRUPTED ? "was stopped" : "did not go as it should",
            ice_result_summary(result));
  ice_result_free(result);
  return good;
}

/* The runs and the comparison of what they came to. */
static bool run_all(const struct options *options) {
  static struct outcome peaceful, disturbed;
  if (!run_job(options, false, &peaceful))
    return false;
  if (options->undisturbed)
    return true;
  if (!run_job(options, true, &disturbed))
    return false;
  bool same = memcmp(peaceful.weights, disturbed.weights, sizeof peaceful.weights) == 0;
  printf("the final weights of both runs, %d numbers: %s\n", WEIGHTS,
         same ? "the same, byte for byte" : "NOT the same");
  return same;
}

static const char USAGE[] =
  "usage: train [options]\n"
  "\n"
  "Trains a small network on handwritten digits with several processes, twice: once in peace, and\n"
  "once with a process killed on the way. Both must come to the same weights.\n"
  "\n"
  "  --start-method M how they are started: fork (the default), spawn or forkserver: a function of\n"
  "                   this program; spawn-shared or forkserver-shared: a function of libtrain.so,\n"
  "                   beside this program; program: this program with other arguments\n"
  "  --ranks N        how many processes, 1 to 64 (default 4)\n"
  "  --epochs E       how many times to go through the data (default 30)\n"
  "  --kill-rank R    who is killed (default 2, or the last rank if there are fewer)\n"
  "  --kill-epoch K   in which epoch, from 0 (default three fifths of all)\n"
  "  --undisturbed    only the first run\n"
  "  --data FILE      the digits (default ../data/digits.csv, seen from this program)\n"
  "  --dir DIR        where checkpoints and logs go and stay (default: a new directory below\n"
  "                   TMPDIR or /tmp, removed at the end unless something went wrong)\n"
  "  --help           this text\n"
  "\n"
  "Exit code: 0 if all went well, else 1.\n";

static bool parse_number(const char *option, const char *text, int64_t low, int64_t high,
                         int64_t *number) {
  char *end;
  errno = 0;
  long long value = strtoll(text, &end, 10);
  if (end == text || *end != '\0' || errno != 0 || value < low || value > high) {
    fprintf(stderr, "--%s is '%s', not a number from %" PRId64 " to %" PRId64 "\n", option, text,
            low, high);
    return false;
  }
  *number = value;
  return true;
}

static bool parse_options(int count, char **arguments, struct options *options) {
  static const struct option known[] = {
    {"ranks", required_argument, NULL, 'r'},
    {"epochs", required_argument, NULL, 'e'},
    {"kill-rank", required_argument, NULL, 'k'},
    {"kill-epoch", required_argument, NULL, 'K'},
    {"data", required_argument, NULL, 'd'},
    {"dir", required_argument, NULL, 'D'},
    {"undisturbed", no_argument, NULL, 'u'},
    {"start-method", required_argument, NULL, 'm'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
  };
  int64_t ranks = 4, epochs = 30, kill_rank = -1, kill_epoch = -1;
  int letter, index = 0;
  while ((letter = getopt_long(count, arguments, "", known, &index)) != -1) {
    bool good = true;
    switch (letter) {
    case 'r': good = parse_number("ranks", optarg, 1, MAX_RANKS, &ranks); break;
    case 'e': good = parse_number("epochs", optarg, 1, 1000000, &epochs); break;
    case 'k': good = parse_number("kill-rank", optarg, 0, MAX_RANKS - 1, &kill_rank); break;
    case 'K': good = parse_number("kill-epoch", optarg, 0, 999999, &kill_epoch); break;
    case 'd': options->data = optarg; break;
    case 'D': options->directory = optarg; break;
    case 'u': options->undisturbed = true; break;
    case 'm': good = (options->method = find_method(optarg)) != NULL; break;
    case 'h': fputs(USAGE, stdout); exit(EXIT_SUCCESS);
    default: good = false; /* getopt_long has said what is wrong */
    }
    if (!good)
      return false;
  }
  if (optind < count) {
    fprintf(stderr, "'%s' is no option\n", arguments[optind]);
    return false;
  }
  if (kill_rank < 0)
    kill_rank = ranks > 2 ? 2 : ranks - 1;
  if (kill_epoch < 0)
    kill_epoch = epochs * 3 / 5;
  if (kill_rank >= ranks || kill_epoch >= epochs) {
    fprintf(stderr, "the rank or epoch of the kill is beyond the last\n");
    return false;
  }
  options->ranks = (int)ranks;
  options->epochs = epochs;
  options->kill_rank = (int)kill_rank;
  options->kill_epoch = kill_epoch;
  static char data[PATH_SIZE];
  if (options->data == NULL && !join_path(data, home, "../data/digits.csv", ""))
    return false;
  if (options->data == NULL)
    options->data = data;
  return true;
}

static bool make_directory(struct options *options) {
  if (options->directory != NULL) {
    options->keep_directory = true;
    if (mkdir(options->directory, 0777) == 0 || errno == EEXIST)
      return true;
    fprintf(stderr, "cannot make %s: %s\n", options->directory, strerror(errno));
    return false;
  }
  static char path[PATH_SIZE];
  const char *parent = getenv("TMPDIR");
  if (parent == NULL || *parent == '\0')
    parent = "/tmp";
  int length = snprintf(path, sizeof path, "%s/ice-train-XXXXXX", parent);
  if (length >= (int)sizeof path || mkdtemp(path) == NULL) {
    fprintf(stderr, "cannot make a directory below %s: %s\n", parent, strerror(errno));
    return false;
  }
  options->directory = path;
  return true;
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *place) {
  (void)status, (void)kind, (void)place;
  return remove(path);
}

int main(int count, char **arguments) {
  /* First of all, so that this program can be started again as a worker or as a fork server: in such
   * a process ice_worker_main() does not return. */
  if (ice_worker_register("train_worker", train_worker, NULL) != ICE_OK ||
      ice_worker_register("train_warm_up", train_warm_up, NULL) != ICE_OK ||
      ice_worker_main() != ICE_OK) {
    fprintf(stderr, "%s\n", ice_last_error_message());
    return EXIT_FAILURE;
  }
  /* The same for the method program, where it is our own affair. */
  if (count == 4 && strcmp(arguments[1], "--worker") == 0)
    return train_program(arguments[2], arguments[3]);

  setvbuf(stdout, NULL, _IOLBF, 0); /* into a pipe too: lines in the order of those on stderr */
  struct options options = {.method = &METHODS[0]};
  if (!find_executable() || !parse_options(count, arguments, &options)) {
    fprintf(stderr, "try --help\n");
    return EXIT_FAILURE;
  }
  if (!make_directory(&options))
    return EXIT_FAILURE;

  bool good = run_all(&options);
  if (good && !options.keep_directory) {
    if (nftw(options.directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS) != 0) {
      fprintf(stderr, "cannot remove %s: %s\n", options.directory, strerror(errno));
      good = false;
    }
  } else if (!good) {
    fprintf(stderr, "logs and checkpoints are in %s\n", options.directory);
  }
  if (fflush(stdout) != 0) {
    fprintf(stderr, "cannot write to stdout: %s\n", strerror(errno));
    good = false;
  }
  return good ? EXIT_SUCCESS : EXIT_FAILURE;
}

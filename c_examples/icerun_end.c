/* icerun: what others are told at the end: a queue that is to start the job again, and whoever reads why a container failed.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define _POSIX_C_SOURCE 200809L

#include "icerun.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* What the kubelet reads of that file. */
enum { TERMINATION_LOG_BYTES = 4096 };

void check_end(const struct options *options) {
  if (!option_on(options, OPT_REQUEUE)) return;
  const char *job = getenv("SLURM_JOB_ID");
  if (!job || !*job || strspn(job, "0123456789") != strlen(job)) {
    bad_value(options, OPT_REQUEUE, "this is no job of Slurm: SLURM_JOB_ID is no number in the environment");
  }
}

/* The first lines that fit, to a file that is there. */
static void write_termination_log(const struct options *options, const ice_result *result) {
  int file = open(option_text(options, OPT_TERMINATION_LOG), O_WRONLY | O_TRUNC | O_CLOEXEC);
  if (file < 0) return;
  const char *text = ice_result_summary(result);
  size_t length = strlen(text);
  if (length > TERMINATION_LOG_BYTES) {
    length = TERMINATION_LOG_BYTES;
    while (length > 0 && text[length - 1] != '\n') length--;
  }
  if (write(file, text, length) != (ssize_t)length) notice(options, "the termination log takes no more: %s", strerror(errno));
  close(file);
}

/* Whether the job is still one that Slurm runs: not one that somebody has cancelled. */
static int is_running(const char *job) {
  char command[128], state[32] = "";
  snprintf(command, sizeof command, "squeue --noheader --jobs=%s --format=%%T 2> /dev/null", job);
  FILE *squeue = popen(command, "r");
  if (!squeue) return 0;
  if (!fgets(state, sizeof state, squeue)) *state = '\0';
  pclose(squeue);
  return strncmp(state, "RUNNING", 7) == 0;
}

/* One of the agents does it for all; Slurm ends what is left of the job. */
static void requeue(const struct options *options) {
  extern char **environ;
  const char *rank = getenv("SLURM_PROCID");
  if (rank && strcmp(rank, "0") != 0) return;
  char *arguments[] = {"scontrol", "requeue", getenv("SLURM_JOB_ID"), NULL};
  if (!is_running(arguments[2])) {
    notice(options, "--requeue: not done, as the job is not running any more: it was cancelled");
    return;
  }
  pid_t child;
  int status, error = posix_spawnp(&child, "scontrol", NULL, NULL, arguments, environ);
  if (error) {
    notice(options, "--requeue: cannot run scontrol: %s", strerror(error));
    return;
  }
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (status != 0) notice(options, "--requeue: scontrol requeue %s has failed", arguments[2]);
}

void tell_others(const struct options *options, const ice_result *result) {
  if (ice_result_is_failed(result)) write_termination_log(options, result);
  int is_stopped = ice_result_end(result) == ICE_END_INTERRUPTED;
  if (is_stopped && option_on(options, OPT_REQUEUE)) {
    if (ice_result_has_saved(result)) {
      requeue(options);
    } else {
      notice(options, "--requeue: not done, as the ranks have not all saved a checkpoint");
    }
  }
}

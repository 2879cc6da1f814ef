/* icerun: what a pid 1 has to do. As the first process of a container icerun becomes the parent of
 * every process that loses its own, and has to wait for them, or they stay as zombies. The library
 * waits for its workers only. So pid 1 does just that, and the run happens in a child.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define _POSIX_C_SOURCE 200809L

#include "icerun.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Waits for all that have ended; returns only if the run is not among them. */
static void reap(pid_t run) {
  int status;
  pid_t pid;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
    if (pid != run) continue;
    /* A signal would not end a pid 1 that sends it to itself. */
    exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
  }
}

void leave_pid_1(void) {
  if (getpid() != 1) return;
  sigset_t all, before;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  pid_t run = fork();
  if (run < 0) {
    fprintf(stderr, "icerun: fork: %s\n", strerror(errno));
    exit(125);
  }
  if (run == 0) {
    sigprocmask(SIG_SETMASK, &before, NULL);
    return;
  }
  for (;;) {
    siginfo_t info;
    int signal = sigwaitinfo(&all, &info);
    if (signal == SIGCHLD) {
      reap(run);
    } else if (signal > 0 && info.si_code != SI_KERNEL) {
      /* What comes from the kernel, ^C for instance, went to the child as well. */
      kill(run, signal);
    }
  }
}

/* A fault at one system call: `inject K ERRNO SECONDS REPORT PROGRAM ARGS..` runs PROGRAM, of which the K-th system call
 * that may fail, from its first sigaction(2) on, is not made and fails with ERRNO. Its threads count, and what it forks
 * until that executes a program. REPORT gets one line: `K CALL COMM`, or `none COUNT` if there were only COUNT calls. Ends
 * as PROGRAM does, 128 + S where a signal ended that, or with 199 after so many SECONDS, when PROGRAM is killed. x86-64
 * alone. */
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __x86_64__
#include <linux/ptrace.h>

enum { MOST = 1 << 22,
       LATE = 199 };

/* By number of the thread. */
static struct {
  unsigned char known, fails;
} threads[MOST];
static volatile sig_atomic_t late;

static void on_alarm(int signal) { late = signal; }

/* Calls that the kernel does not refuse, or in a way of their own; a descriptor is closed whatever is said of it. */
static int cannot_fail(long call) {
  static const long calls[] = {
    SYS_exit,
    SYS_exit_group,
    SYS_rt_sigreturn,
    SYS_rt_sigprocmask,
    SYS_rt_sigaction,
    SYS_futex,
    SYS_getpid,
    SYS_gettid,
    SYS_getppid,
    SYS_getuid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getegid,
    SYS_set_tid_address,
    SYS_set_robust_list,
    SYS_rseq,
    SYS_sched_yield,
    SYS_clock_gettime,
    SYS_munmap,
    SYS_close,
    SYS_brk,
    SYS_madvise,
    SYS_restart_syscall,
    SYS_sigaltstack,
    SYS_getcwd,
    SYS_getrandom,
  };
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
    if (calls[i] == call) return 1;
  }
  return 0;
}

/* Nor an eventfd, which is in memory, to be written to or read from. */
static int is_of_eventfd(pid_t pid, long call, unsigned long fd) {
  char path[64], target[64];
  if (call != SYS_write && call != SYS_read) return 0;
  snprintf(path, sizeof path, "/proc/%d/fd/%lu", pid, fd);
  ssize_t length = readlink(path, target, sizeof target - 1);
  if (length < 0) return 0;
  target[length] = 0;
  return strcmp(target, "anon_inode:[eventfd]") == 0;
}

int main(int argc, char **argv) {
  if (argc < 6) return 198;
  long wanted = atol(argv[1]), error = atol(argv[2]), count = 0;
  FILE *report = fopen(argv[4], "we");
  if (!report) return 198;
  pid_t root = fork();
  if (root == 0) {
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    raise(SIGSTOP);
    execv(argv[5], argv + 5);
    _exit(197);
  }
  int status, is_up = 0, is_done = 0;
  waitpid(root, &status, 0);
  long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
                 PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;
  ptrace(PTRACE_SETOPTIONS, root, 0, options);
  threads[root].known = 1;
  ptrace(PTRACE_SYSCALL, root, 0, 0);
  struct sigaction action = {.sa_handler = on_alarm};
  sigaction(SIGALRM, &action, NULL);
  alarm((unsigned)atoi(argv[3]));
  for (;;) {
    pid_t pid = waitpid(-1, &status, __WALL);
    if (late) {
      kill(root, SIGKILL);
      return LATE;
    }
    if (pid < 0 && errno == EINTR) continue;
    if (pid < 0) return 198;
    if (!WIFSTOPPED(status)) {
      if (pid != root) {
        threads[pid].known = 0;
        continue;
      }
      if (!is_done) fprintf(report, "none %ld\n", count);
      return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    int signal = WSTOPSIG(status), event = status >> 16;
    if (event == PTRACE_EVENT_EXEC && pid != root) {
      /* A worker, or a helper: what happens there is its own affair. */
      threads[pid].known = 0;
      ptrace(PTRACE_DETACH, pid, 0, 0);
      continue;
    }
    if (!threads[pid].known) {
      threads[pid].known = 1; /* its first stop is that of its birth */
      threads[pid].fails = 0;
      signal = 0;
    } else if (signal == (SIGTRAP | 0x80)) {
      struct __ptrace_syscall_info info;
      signal = 0;
      if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info) > 0) {
        long call = (long)info.entry.nr;
        if (info.op == PTRACE_SYSCALL_INFO_ENTRY && !is_up) {
          is_up = call == SYS_rt_sigaction; /* the dynamic loader is done, main has begun */
        } else if (info.op == PTRACE_SYSCALL_INFO_ENTRY && !is_done && !cannot_fail(call) &&
                   !is_of_eventfd(pid, call, info.entry.args[0]) && ++count == wanted) {
          is_done = threads[pid].fails = 1;
          char path[64], name[32] = "?";
          snprintf(path, sizeof path, "/proc/%d/comm", pid);
          FILE *comm = fopen(path, "re");
          if (comm) {
            if (fgets(name, sizeof name, comm)) name[strcspn(name, "\n")] = 0;
            fclose(comm);
          }
          fprintf(report, "%ld %ld %s\n", count, call, name);
          fflush(report);
          ptrace(PTRACE_POKEUSER, pid, offsetof(struct user_regs_struct, orig_rax), -1L);
        } else if (info.op == PTRACE_SYSCALL_INFO_EXIT && threads[pid].fails) {
          threads[pid].fails = 0;
          ptrace(PTRACE_POKEUSER, pid, offsetof(struct user_regs_struct, rax), -error);
        }
      }
    } else if (event || signal == SIGSTOP || signal == SIGTSTP) {
      signal = 0;
    }
    ptrace(PTRACE_SYSCALL, pid, 0, signal);
  }
}
#else
int main(void) { return 198; }
#endif

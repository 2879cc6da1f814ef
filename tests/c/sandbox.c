/* Runs a program under a filter of system calls:
 *   sandbox CALL=ERRNO[,CALL=ERRNO..] PROGRAM [ARGS..]
 * where ERRNO is EPERM, EACCES, ENOSYS or EINVAL. Calls are named as below; `waitid_pidfd` is waitid(P_PIDFD, ..) and
 * `clone_pidfd` clone with CLONE_PIDFD, as a filter sees them, and as emulators refuse them. */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x1000
#endif

/* `mask` of the first argument: 0 for any call, else those that have one of these bits; with `equals` those where the
 * argument is `mask`. */
static const struct {
  const char *name;
  int number;
  unsigned mask;
  int equals;
} CALLS[] = {
  {"close_range", 436, 0, 0},
  {"pidfd_open", 434, 0, 0},
  {"clone3", 435, 0, 0},
  {"pidfd_send_signal", 424, 0, 0},
  {"memfd_create", SYS_memfd_create, 0, 0},
  {"execveat", SYS_execveat, 0, 0},
  {"waitid_pidfd", SYS_waitid, 3, 1},
  {"clone_pidfd", SYS_clone, CLONE_PIDFD, 0},
};

static int number_of(const char *name) {
  if (strcmp(name, "EPERM") == 0) return EPERM;
  if (strcmp(name, "EACCES") == 0) return EACCES;
  if (strcmp(name, "ENOSYS") == 0) return ENOSYS;
  if (strcmp(name, "EINVAL") == 0) return EINVAL;
  fprintf(stderr, "sandbox: no errno %s\n", name);
  exit(2);
}

static struct sock_filter FILTER[128];
static unsigned short LENGTH;

static void add(unsigned short code, unsigned char yes, unsigned char no, unsigned value) {
  FILTER[LENGTH++] = (struct sock_filter){code, yes, no, value};
}

static void refuse(const char *name, int error) {
  for (size_t i = 0; i < sizeof CALLS / sizeof *CALLS; i++) {
    if (strcmp(CALLS[i].name, name) != 0) continue;
    add(BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr));
    add(BPF_JMP | BPF_JEQ | BPF_K, 0, CALLS[i].mask ? 3 : 1, CALLS[i].number);
    if (CALLS[i].mask) {
      add(BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, args));
      add(BPF_JMP | (CALLS[i].equals ? BPF_JEQ : BPF_JSET) | BPF_K, 0, 1, CALLS[i].mask);
    }
    add(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | (unsigned)error);
    return;
  }
  fprintf(stderr, "sandbox: no call %s\n", name);
  exit(2);
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  for (char *item = strtok(argv[1], ","); item; item = strtok(NULL, ",")) {
    char *equals = strchr(item, '=');
    if (!equals) return 2;
    *equals = 0;
    refuse(item, number_of(equals + 1));
  }
  add(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW);
  struct sock_fprog program = {LENGTH, FILTER};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    perror("sandbox");
    return 2;
  }
  execvp(argv[2], argv + 2);
  perror(argv[2]);
  return 127;
}

/* A preloaded library that lets one call of the C library fail, if the library under test makes it:
 *   LD_PRELOAD=faults.so FAULT=NAME:N:ERRNO    the Nth call of NAME fails with ERRNO
 * `count:0:0` only counts: each call is a line "NAME" in the file FAULT_LOG. FAULT is looked up at every call, so
 * that a host arms it with setenv when it is ready. Only the process that loaded this first is meant, no worker. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static pid_t HOST;
static int CALLS;
static char ARMED[128];

__attribute__((constructor)) static void loaded(void) {
  if (!getenv("FAULT_HOST")) {
    char text[32];
    snprintf(text, sizeof text, "%d", (int)getpid());
    setenv("FAULT_HOST", text, 1);
    HOST = getpid();
  }
}

#define REAL(type, name) ((type)dlsym(RTLD_NEXT, name))
#define CALLER __builtin_return_address(0)
/* dlsym gives an object pointer, POSIX says that it may be called. */
#pragma GCC diagnostic ignored "-Wpedantic"
/* Past the wrapper at the end of this file. */
#define DIRECT REAL(long (*)(long, ...), "syscall")

/* By its own name: its directory may be called anything. */
static int is_the_library(const char *path) {
  const char *slash = strrchr(path, '/');
  return strncmp(slash ? slash + 1 : path, "libice.so", 9) == 0;
}

/* 1 if this call, made from `caller`, is the one that fails; errno is set then. */
static int fails(const char *name, void *caller) {
  const char *fault = getenv("FAULT"), *log = getenv("FAULT_LOG");
  Dl_info info;
  int saved = errno, number = 0, wrong = 0;
  if (!fault || DIRECT(SYS_getpid) != HOST) return 0;
  if (!dladdr(caller, &info) || !is_the_library(info.dli_fname)) {
    errno = saved;
    return 0;
  }
  if (strcmp(fault, "count:0:0") == 0) {
    int fd = (int)DIRECT(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd >= 0) {
      char line[64];
      int length = snprintf(line, sizeof line, "%s\n", name);
      DIRECT(SYS_write, fd, line, length);
      DIRECT(SYS_close, fd);
    }
    errno = saved;
    return 0;
  }
  if (strcmp(ARMED, fault) != 0) {
    snprintf(ARMED, sizeof ARMED, "%s", fault);
    CALLS = 0;
  }
  const char *colon = strchr(fault, ':');
  errno = saved;
  if (!colon || strlen(name) != (size_t)(colon - fault) || strncmp(name, fault, strlen(name)) != 0) return 0;
  sscanf(colon, ":%d:%d", &number, &wrong);
  if (__atomic_add_fetch(&CALLS, 1, __ATOMIC_SEQ_CST) != number) return 0;
  errno = wrong;
  return 1;
}

#define WRAP1(name, A)                   \
  int name(A a) {                        \
    if (fails(#name, CALLER)) return -1; \
    return REAL(int (*)(A), #name)(a);   \
  }
#define WRAP2(name, A, B)                    \
  int name(A a, B b) {                       \
    if (fails(#name, CALLER)) return -1;     \
    return REAL(int (*)(A, B), #name)(a, b); \
  }
#define WRAP3(name, A, B, C)                       \
  int name(A a, B b, C c) {                        \
    if (fails(#name, CALLER)) return -1;           \
    return REAL(int (*)(A, B, C), #name)(a, b, c); \
  }

struct epoll_event;
struct sockaddr;
WRAP1(epoll_create1, int)
WRAP2(eventfd, unsigned, int)
WRAP2(memfd_create, const char *, unsigned)
WRAP1(inotify_init1, int)
WRAP3(inotify_add_watch, int, const char *, unsigned)
WRAP3(socket, int, int, int)
WRAP3(bind, int, const struct sockaddr *, unsigned)
WRAP2(ftruncate, int, off_t)
WRAP2(mkdir, const char *, mode_t)
WRAP2(chmod, const char *, mode_t)

int epoll_ctl(int a, int b, int c, struct epoll_event *d) {
  if (fails("epoll_ctl", CALLER)) return -1;
  return REAL(int (*)(int, int, int, struct epoll_event *), "epoll_ctl")(a, b, c, d);
}

int open64(const char *path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  mode_t mode = va_arg(list, mode_t);
  va_end(list);
  if (fails("open", CALLER)) return -1;
  return REAL(int (*)(const char *, int, ...), "open64")(path, flags, mode);
}

int open(const char *path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  mode_t mode = va_arg(list, mode_t);
  va_end(list);
  if (fails("open", CALLER)) return -1;
  return REAL(int (*)(const char *, int, ...), "open")(path, flags, mode);
}

int fcntl(int fd, int command, ...) {
  va_list list;
  va_start(list, command);
  void *argument = va_arg(list, void *);
  va_end(list);
  if ((command == F_DUPFD || command == F_DUPFD_CLOEXEC) && fails("fcntl", CALLER)) return -1;
  return REAL(int (*)(int, int, ...), "fcntl")(fd, command, argument);
}

pid_t fork(void) {
  if (fails("fork", CALLER)) return -1;
  return REAL(pid_t(*)(void), "fork")();
}

int clone(int (*function)(void *), void *stack, int flags, void *argument, ...) {
  va_list list;
  va_start(list, argument);
  void *a = va_arg(list, void *), *b = va_arg(list, void *), *c = va_arg(list, void *);
  va_end(list);
  if (fails("clone", CALLER)) return -1;
  return REAL(int (*)(int (*)(void *), void *, int, void *, ...), "clone")(function, stack, flags, argument, a, b, c);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*function)(void *), void *argument) {
  if (fails("pthread_create", CALLER)) return errno;
  typedef int create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
  return REAL(create *, "pthread_create")(thread, attributes, function, argument);
}

void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
  if (fails("mmap", CALLER)) return (void *)-1;
  return (void *)DIRECT(SYS_mmap, at, size, protection, flags, fd, offset);
}

void *mmap64(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
  if (fails("mmap", CALLER)) return (void *)-1;
  return (void *)DIRECT(SYS_mmap, at, size, protection, flags, fd, offset);
}

/* Under the name "syscall-NUMBER"; futex and gettid are no calls that can fail. */
long syscall(long number, ...) {
  va_list list;
  long a[6];
  char name[32];
  va_start(list, number);
  for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
  va_end(list);
  if (number != SYS_futex && number != SYS_gettid && number != SYS_getpid) {
    snprintf(name, sizeof name, "syscall-%ld", number);
    if (fails(name, CALLER)) return -1;
  }
  return REAL(long (*)(long, ...), "syscall")(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* The verbs of a test worker. probe.c runs them as a program, host.c inside a callback, so that every
 * scenario can be played by both kinds of worker.
 *
 * In file names and texts: %r LOCAL_RANK, %g RANK, %a attempt, %i run id, %o round, %p pid, %q parent, %t CLOCK_MONOTONIC in nanoseconds, %% a percent.
 * A block of verbs ends with its own `;`. No verb sleeps longer than LONGEST seconds: nothing that a failing
 * test leaves behind lives for ever.
 *
 *   dump FILE            everything about this process as JSON (argv, env, fds, signals, ids, cwd, limits)
 *   exit N | _exit N     exit(3), _exit(2)          code N       (callback) return N
 *   kill S               send itself signal S       stop         send itself SIGSTOP
 *   sleep SECONDS        also when interrupted      pause        until killed, at most LONGEST
 *   ignore S | default S | block S                  disposition and mask
 *   count S FILE         append "S PID %t" at each signal S and go on
 *   exit_on S CODE SECONDS   at signal S wait SECONDS, then exit with CODE
 *   append FILE TEXT     one line                   touch FILE
 *   await FILE           until FILE is there        await_lines FILE N
 *   await_exit FILE      until the process whose number is in FILE has ended (its zombie may be there)
 *   still_there FILE OUT appends to OUT the numbers of FILE's first words that are live processes
 *   child VERBS ;        in a child of the same group, stdio shared
 *   group VERBS ; | session VERBS ; | daemon VERBS ;   in an own group, own session, double-forked session
 *   thread VERBS ;       in a new thread, which is waited for
 *   close_stdio          fds 0, 1, 2 to /dev/null   wait_children
 *   rank R VERBS ;       only for local rank R      attempt A VERBS ;  only in attempt A
 *   until_attempt A VERBS ;   only in attempts below A
 *   once FILE VERBS ;    only where FILE is not there yet; it is then
 *   write FD TEXT        with \n \r \t \0 \\ \xHH   print TEXT   to stdout with a newline (stdio)
 *   out FD BYTES CHUNK   BYTES bytes of pattern     lines FD COUNT TEXT   "TEXT r<rank> <i>\n", one write each
 *   error_file TEXT      raw text (escapes as write) into TORCHELASTIC_ERROR_FILE
 *   error_long MESSAGE STACK TIMESTAMP              the same in torch's form
 *   stdin FILE           number of bytes read from stdin until its end
 *   exec PROGRAM ARGS.. | memory MIB | core (allow core dumps) | segv | abort
 *   crash HOW            in crash_leaf, called by crash_middle, called by crash_outer; HOW is one of
 *                        segv readonly noncanonical jump bus fpe ill abort assert recursion heap smash, or mixed:
 *                        segv, abort, bus, ill in turn
 *   crash_in_thread HOW | crash_threads N HOW      the same in another thread, in N threads at once
 *   block_record         makes the library hang when it writes a record
 *   hand_on S FILE       own handler that appends "S" to FILE and calls the one before
 *   limit fsize|nofile N
 *   stuck SECONDS        uninterruptible: the parent of a vfork whose child sleeps
 *   timer PID SCOPE SECONDS S | release PID SCOPE     torch's file timer, as its client does it; %p is this process
 *   timer_raw TEXT       these bytes to the FIFO (escapes as write)
 *   spin | deadlock      an endless loop, a lock that is never free, in hang_leaf, called by hang_outer
 *   spin_smashed         an endless loop with nothing above it on the stack that could be followed
 *   listen FILE          bind MASTER_PORT with SO_REUSEADDR, listen; FILE gets "ok" or the errno
 *   truncate_out FD      ftruncate to 0             umask OCTAL | setenv K V | chdir DIR
 *   uid N                become that user (a set-user-ID probe may become root)
 *   --                   ends the verbs
 */
#ifndef TEST_VERBS_H
#define TEST_VERBS_H

#include <arpa/inet.h>
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "json.h"

#define LONGEST 300.0

extern char **environ;

typedef struct verbs_state verbs_state;
struct verbs_state {
  /* Does a verb that only one kind of worker knows; 0 if it is not known. */
  int (*own)(verbs_state *v, char **argv, int argc, int *used);
  void *data;
  int argc; /* for dump */
  char **argv;
  int returned, done; /* the number of `code`, once it is done */
};

static void run_verbs(verbs_state *v, char **argv, int argc);

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void sleep_until_ns(int64_t end) {
  struct timespec t = {.tv_sec = end / 1000000000, .tv_nsec = end % 1000000000};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {
  }
}

static void sleep_seconds(double seconds) {
  if (seconds > LONGEST) seconds = LONGEST;
  sleep_until_ns(now_ns() + (int64_t)(seconds * 1e9));
}

/* How often was looked: counted, so that a machine under load does not use it up by the clock. */
struct patience {
  int looks;
};

/* Waits a little before the next look, longer after many; gives up after some minutes. */
static void look_again(struct patience *patience) {
  if (++patience->looks > 12000) _exit(97);
  sleep_seconds(patience->looks < 500 ? 0.002 : 0.02);
}

static const struct {
  const char *name;
  int number;
} SIGNAL_NAMES[] = {
  {"HUP", SIGHUP},
  {"INT", SIGINT},
  {"QUIT", SIGQUIT},
  {"ABRT", SIGABRT},
  {"KILL", SIGKILL},
  {"SEGV", SIGSEGV},
  {"BUS", SIGBUS},
  {"FPE", SIGFPE},
  {"ILL", SIGILL},
  {"PIPE", SIGPIPE},
  {"ALRM", SIGALRM},
  {"TERM", SIGTERM},
  {"USR1", SIGUSR1},
  {"USR2", SIGUSR2},
  {"CHLD", SIGCHLD},
  {"CONT", SIGCONT},
  {"STOP", SIGSTOP},
  {"TSTP", SIGTSTP},
  {"WINCH", SIGWINCH},
  {"TRAP", SIGTRAP},
  {"TTOU", SIGTTOU},
  {"TTIN", SIGTTIN},
};

static int signal_number(const char *name) {
  if (strncmp(name, "RTMIN+", 6) == 0) return SIGRTMIN + atoi(name + 6);
  for (size_t i = 0; i < sizeof SIGNAL_NAMES / sizeof *SIGNAL_NAMES; i++)
    if (strcmp(SIGNAL_NAMES[i].name, name) == 0) return SIGNAL_NAMES[i].number;
  return atoi(name);
}

static const char *signal_name(int number, char *buffer, size_t size) {
  for (size_t i = 0; i < sizeof SIGNAL_NAMES / sizeof *SIGNAL_NAMES; i++)
    if (SIGNAL_NAMES[i].number == number) return SIGNAL_NAMES[i].name;
  snprintf(buffer, size, "%d", number);
  return buffer;
}

static const char *env_or(const char *key, const char *otherwise) {
  const char *value = getenv(key);
  return value ? value : otherwise;
}

/* Fills in %r and its like. The result is in a static buffer of its own for each of a few calls. */
static const char *fill(const char *template) {
  static char buffers[4][65536];
  static unsigned next;
  char *out = buffers[next++ % 4], *at = out, *end = out + 64000;
  for (const char *p = template; *p && at < end; p++) {
    if (*p != '%' || !p[1]) {
      *at++ = *p;
      continue;
    }
    switch (*++p) {
    case 'r': at += snprintf(at, 32, "%s", env_or("LOCAL_RANK", "x")); break;
    case 'g': at += snprintf(at, 32, "%s", env_or("RANK", "x")); break;
    case 'a': at += snprintf(at, 32, "%s", env_or("TORCHELASTIC_RESTART_COUNT", "x")); break;
    case 'i': at += snprintf(at, 1024, "%s", env_or("TORCHELASTIC_RUN_ID", "x")); break;
    case 'o': at += snprintf(at, 32, "%s", env_or("ICE_ROUND", "x")); break;
    case 'q': at += snprintf(at, 32, "%d", (int)getppid()); break;
    case 'p': at += snprintf(at, 32, "%d", (int)getpid()); break;
    case 't': at += snprintf(at, 32, "%lld", (long long)now_ns()); break;
    case '%': *at++ = '%'; break;
    default: *at++ = '%'; *at++ = *p;
    }
  }
  *at = 0;
  return out;
}

/* Turns \n, \xHH and the like of `text` into bytes; the length is returned. */
static size_t unescape(const char *text, char *out) {
  char *at = out;
  for (const char *p = text; *p; p++) {
    if (*p != '\\' || !p[1]) {
      *at++ = *p;
      continue;
    }
    switch (*++p) {
    case 'n': *at++ = '\n'; break;
    case 'r': *at++ = '\r'; break;
    case 't': *at++ = '\t'; break;
    case '0': *at++ = 0; break;
    case 'x': {
      char hex[3] = {p[1], p[1] ? p[2] : 0, 0};
      *at++ = (char)strtol(hex, NULL, 16);
      p += 2;
      break;
    }
    default: *at++ = *p;
    }
  }
  return (size_t)(at - out);
}

static void append_line(const char *file, const char *text) {
  char line[65536 + 1];
  int fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  size_t length = strlen(text) < 65536 ? strlen(text) : 65536;
  memcpy(line, text, length);
  line[length] = '\n';
  if (fd < 0) return;
  write_all(fd, line, length + 1);
  close(fd);
}

static int count_lines(const char *file) {
  char buffer[65536];
  int lines = 0, fd = open(file, O_RDONLY | O_CLOEXEC);
  ssize_t n;
  if (fd < 0) return 0;
  while ((n = read(fd, buffer, sizeof buffer)) > 0)
    for (ssize_t i = 0; i < n; i++) lines += buffer[i] == '\n';
  close(fd);
  return lines;
}

static void read_file(const char *file, char *buffer, size_t size) {
  int fd = open(file, O_RDONLY | O_CLOEXEC);
  ssize_t n, length = 0;
  while (fd >= 0 && (n = read(fd, buffer + length, size - 1 - (size_t)length)) > 0) length += n;
  if (fd >= 0) close(fd);
  buffer[length] = 0;
}

/* The letter of a process's state, 0 if there is no such process. */
static char state_of(int pid) {
  char path[64], stat[1024];
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  read_file(path, stat, sizeof stat);
  const char *at = strrchr(stat, ')');
  return at && at[1] ? at[2] : 0;
}

static void still_there(const char *file, const char *out) {
  static char text[65536];
  char line[32];
  read_file(file, text, sizeof text);
  for (char *at = text; *at;) {
    /* An orphan's zombie is for init to take, which may take its time. */
    char state = state_of(atoi(at));
    if (state && state != 'Z' && state != 'X') {
      snprintf(line, sizeof line, "%d", atoi(at));
      append_line(out, line);
    }
    at = strchr(at, '\n');
    if (!at) break;
    at++;
  }
}

/* Handlers: one action per signal. */
static struct {
  char file[4096];
  int code;
  double seconds;
} ON_SIGNAL[65];

static void on_count(int number) {
  int saved = errno;
  char name[16], line[96];
  snprintf(line, sizeof line, "%s %d %lld", signal_name(number, name, sizeof name), (int)getpid(), (long long)now_ns());
  append_line(ON_SIGNAL[number].file, line);
  errno = saved;
}

static void on_exit_code(int number) {
  sleep_seconds(ON_SIGNAL[number].seconds);
  _exit(ON_SIGNAL[number].code);
}

static void set_handler(int number, void (*handler)(int)) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigfillset(&action.sa_mask);
  sigaction(number, &action, NULL);
}

static void status_field(json *j, const char *status, const char *key, const char *name) {
  char value[256] = "";
  const char *at = strstr(status, name);
  if (at) sscanf(at + strlen(name), " %255[^\n]", value);
  json_text(j, key, value);
}

static void limit_field(json *j, const char *key, int which) {
  struct rlimit limit;
  getrlimit((__rlimit_resource_t)which, &limit);
  json_number(j, key, limit.rlim_cur == RLIM_INFINITY ? -1 : (long long)limit.rlim_cur);
}

/* The open descriptors, without the one that lists them. */
static void dump_fds(json *j) {
  DIR *dir = opendir("/proc/self/fd");
  struct dirent *entry;
  json_key(j, "fds");
  json_open(j, "[");
  while (dir && (entry = readdir(dir))) {
    char path[300], link[4096];
    int fd = atoi(entry->d_name);
    if (entry->d_name[0] == '.' || fd == dirfd(dir)) continue;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(path, link, sizeof link - 1);
    link[n > 0 ? n : 0] = 0;
    json_comma(j);
    json_open(j, "{");
    json_number(j, "fd", fd);
    json_text(j, "link", link);
    json_number(j, "cloexec", (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    json_close(j, "}");
  }
  if (dir) closedir(dir);
  json_close(j, "]");
}

static void dump_environ(json *j) {
  json_key(j, "env");
  json_open(j, "[");
  for (char **e = environ; *e; e++) {
    json_comma(j);
    json_bytes(j, *e, strlen(*e));
  }
  json_close(j, "]");
}

/* What ps(1) shows, which for a function is not its verbs. */
static void dump_command_line(json *j) {
  static char text[1 << 20];
  int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
  ssize_t n, length = 0;
  while (fd >= 0 && (n = read(fd, text + length, sizeof text - 1 - (size_t)length)) > 0) length += n;
  if (fd >= 0) close(fd);
  text[length] = 0;
  json_key(j, "cmdline");
  json_open(j, "[");
  for (char *at = text; at < text + length; at += strlen(at) + 1) {
    json_comma(j);
    json_bytes(j, at, strlen(at));
  }
  json_close(j, "]");
}

/* Where this process might run when it had done nothing yet: of interest where it was executed. */
static cpu_set_t FIRST_CPUS;
static __attribute__((constructor)) void note_first_cpus(void) {
  sched_getaffinity(0, sizeof FIRST_CPUS, &FIRST_CPUS);
}

static void dump_cpus(json *j, const char *key, const cpu_set_t *cpus) {
  json_key(j, key);
  json_open(j, "[");
  for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    char text[16];
    if (!CPU_ISSET(cpu, cpus)) continue;
    json_comma(j);
    snprintf(text, sizeof text, "%zu", cpu);
    json_put(j, text);
  }
  json_close(j, "]");
}

static void dump_state(verbs_state *v, const char *file) {
  json j = {0};
  char status[16384], temporary[8192], cwd[4096];
  int deathsig = -1;
  mode_t mask = umask(0);
  umask(mask);
  prctl(PR_GET_PDEATHSIG, &deathsig);
  read_file("/proc/self/status", status, sizeof status);
  json_open(&j, "{");
  json_key(&j, "argv");
  json_open(&j, "[");
  for (int i = 0; i < v->argc; i++) {
    json_comma(&j);
    json_bytes(&j, v->argv[i], strlen(v->argv[i]));
  }
  json_close(&j, "]");
  dump_environ(&j);
  dump_fds(&j);
  read_file("/proc/self/comm", cwd, sizeof cwd);
  cwd[strcspn(cwd, "\n")] = 0;
  json_text(&j, "comm", cwd);
  dump_command_line(&j);
  status_field(&j, status, "blocked", "SigBlk:");
  status_field(&j, status, "ignored", "SigIgn:");
  status_field(&j, status, "caught", "SigCgt:");
  status_field(&j, status, "threads", "Threads:");
  json_number(&j, "pid", getpid());
  json_number(&j, "ppid", getppid());
  json_number(&j, "pgid", getpgid(0));
  json_number(&j, "sid", getsid(0));
  json_number(&j, "umask", (long long)mask);
  cpu_set_t cpus;
  sched_getaffinity(0, sizeof cpus, &cpus);
  dump_cpus(&j, "cpus", &cpus);
  dump_cpus(&j, "first_cpus", &FIRST_CPUS);
  json_number(&j, "nice", getpriority(PRIO_PROCESS, 0));
  json_number(&j, "parent_death_signal", deathsig);
  json_text(&j, "cwd", getcwd(cwd, sizeof cwd) ? cwd : "");
  limit_field(&j, "limit_nofile", RLIMIT_NOFILE);
  limit_field(&j, "limit_core", RLIMIT_CORE);
  limit_field(&j, "limit_cpu", RLIMIT_CPU);
  json_close(&j, "}");
  json_put(&j, "\n");
  snprintf(temporary, sizeof temporary, "%s.%d.part", file, (int)getpid());
  int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  write_all(fd, j.at, j.length);
  close(fd);
  rename(temporary, file);
  json_free(&j);
}

static int block_end(char **argv, int argc, int from) {
  static const char *OPENERS[] = {"child", "group", "session", "daemon", "thread",
                                  "rank", "attempt", "until_attempt", "once", "nest"};
  int depth = 1;
  for (int i = from; i < argc; i++) {
    for (size_t k = 0; k < sizeof OPENERS / sizeof *OPENERS; k++)
      if (strcmp(argv[i], OPENERS[k]) == 0) depth++;
    if (strcmp(argv[i], ";") == 0 && --depth == 0) return i;
  }
  fprintf(stderr, "probe: a block without ';'\n");
  _exit(98);
}

static void in_child(verbs_state *v, const char *kind, char **argv, int argc) {
  fflush(NULL);
  pid_t pid = fork();
  if (pid != 0) {
    if (strcmp(kind, "daemon") == 0) waitpid(pid, NULL, 0);
    return;
  }
  if (strcmp(kind, "group") == 0) setpgid(0, 0);
  if (strcmp(kind, "session") == 0 || strcmp(kind, "daemon") == 0) setsid();
  if (strcmp(kind, "daemon") == 0 && fork() != 0) _exit(0);
  run_verbs(v, argv, argc);
  fflush(NULL);
  _exit(v->returned);
}

struct thread_verbs {
  verbs_state *v;
  char **argv;
  int argc;
};

static void *verbs_of_thread(void *argument) {
  struct thread_verbs *verbs = argument;
  run_verbs(verbs->v, verbs->argv, verbs->argc);
  return NULL;
}

static void in_own_thread(verbs_state *v, char **argv, int argc) {
  struct thread_verbs verbs = {v, argv, argc};
  pthread_t thread;
  if (pthread_create(&thread, NULL, verbs_of_thread, &verbs)) _exit(94);
  pthread_join(thread, NULL);
}

static void open_stdio_null(void) {
  int fd = open("/dev/null", O_RDWR);
  for (int i = 0; i < 3; i++) dup2(fd, i);
  if (fd > 2) close(fd);
}

static void write_pattern(int fd, size_t bytes, size_t chunk) {
  static char buffer[1 << 20];
  size_t done = 0;
  if (chunk == 0 || chunk > sizeof buffer) chunk = sizeof buffer;
  while (done < bytes) {
    size_t n = bytes - done < chunk ? bytes - done : chunk;
    for (size_t i = 0; i < n; i++) buffer[i] = (done + i) % 64 == 63 ? '\n' : (char)('0' + (done + i) / 64 % 64);
    write_all(fd, buffer, n);
    done += n;
  }
}

static void error_file(const void *data, size_t length) {
  int fd = open(env_or("TORCHELASTIC_ERROR_FILE", ""), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) return;
  write_all(fd, data, length);
  close(fd);
}

static void listen_master_port(const char *file) {
  int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(env_or("MASTER_PORT", "0")))};
  char text[32];
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 16)) {
    snprintf(text, sizeof text, "errno %d", errno);
    append_line(file, text);
  } else {
    append_line(file, "ok");
  }
}

/* In one write, as PIPE_BUF allows it. */
static void write_timer(const void *data, size_t length) {
  int fd = open(env_or("TORCHELASTIC_TIMER_FILE", ""), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) _exit(94);
  write_all(fd, data, length);
  close(fd);
}

static void request_timer(const char *pid, const char *scope, double expiration, int number) {
  json j = {0};
  char text[64];
  json_open(&j, "{");
  json_number(&j, "version", 1);
  json_number(&j, "pid", atoi(pid));
  json_text(&j, "scope_id", scope);
  json_key(&j, "expiration_time");
  snprintf(text, sizeof text, "%.6f", expiration);
  json_put(&j, text);
  json_number(&j, "signal", number);
  json_close(&j, "}");
  json_put(&j, "\n");
  write_timer(j.at, j.length);
  json_free(&j);
}

static double seconds_since_1970(void) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static volatile unsigned SPINS;

static __attribute__((noinline)) int hang_leaf(int locks) {
  static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  for (int64_t end = now_ns() + (int64_t)(LONGEST * 1e9); now_ns() < end;) {
    if (locks) pthread_mutex_lock(&mutex);
    for (int i = 0; i < 1000; i++) SPINS++;
  }
  return (int)SPINS;
}

static __attribute__((noinline)) int hang_outer(int locks) { return hang_leaf(locks) + (int)SPINS; }

static __attribute__((noinline)) void spin_smashed(void) {
  volatile uintptr_t *frame = __builtin_frame_address(0);
  frame[0] = frame[1] = 0x1000;
  for (;;) SPINS++;
}

/* GCC warns of vfork; being the parent that waits uninterruptibly is what is wanted here. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
static void stuck(double seconds) {
  pid_t pid = vfork();
  if (pid == 0) {
    /* An own session, so that no group signal shortens the wait; libc calls that touch nothing shared. */
    struct timespec t = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    setsid();
    nanosleep(&t, NULL);
    _exit(0);
  }
}
#pragma GCC diagnostic pop

/* --- crashes --- */

static volatile int CRASH_NUMBER;

static void *nothing(void *argument) { return argument; }

/* Ends in malloc's own abort(), which holds the lock of the arena: a program with threads takes it. */
static void crash_in_malloc(void) {
  pthread_t thread;
  pthread_create(&thread, NULL, nothing, NULL);
  pthread_join(thread, NULL);
  volatile size_t *last = malloc(100000);
  memset((void *)last, 0, 100000);
  last[100008 / sizeof *last] = ~(size_t)0 - 7; /* the size of what is left of the heap */
  for (int i = 0; i < 100; i++) CRASH_NUMBER += malloc(100000) != NULL;
}

static __attribute__((noinline)) int crash_recursion(volatile char *above) {
  volatile char frame[512];
  frame[0] = above ? above[0] : 1;
  int deeper = CRASH_NUMBER < 0 ? 0 : crash_recursion(frame);
  return deeper + frame[0];
}

/* With nothing above that could be followed: neither the caller's frame nor the address to return to. */
static __attribute__((noinline)) void crash_smashed(void) {
  volatile uintptr_t *frame = __builtin_frame_address(0), zero = 0;
  frame[0] = frame[1] = 0x1000;
  *(volatile char *)(zero + 16) = 1;
}

static __attribute__((noinline)) int crash_leaf(const char *how) {
#define IS(name) (strcmp(how, name) == 0)
  static const char *MIXED[] = {"segv", "abort", "bus", "ill"};
  static atomic_uint next;
  volatile uintptr_t zero = 0;
  if (IS("mixed")) how = MIXED[atomic_fetch_add(&next, 1) % 4];
  if (IS("segv")) {
    *(volatile char *)(zero + 16) = 1;
  } else if (IS("readonly")) {
    *(volatile char *)(uintptr_t)"a constant" = 1;
  } else if (IS("noncanonical")) {
    *(volatile char *)(zero + ((uintptr_t)1 << 62)) = 1;
  } else if (IS("jump")) {
    ((void (*)(void))(zero + 16))();
  } else if (IS("bus")) {
    int fd = memfd_create("empty", MFD_CLOEXEC);
    CRASH_NUMBER = *(volatile char *)mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
  } else if (IS("fpe")) {
#ifdef __x86_64__
    CRASH_NUMBER = CRASH_NUMBER / (int)zero;
#else
    raise(SIGFPE);
#endif
  } else if (IS("ill")) {
#ifdef __x86_64__
    __asm__ volatile("ud2");
#else
    __asm__ volatile("udf #0");
#endif
  } else if (IS("abort")) {
    abort();
  } else if (IS("assert")) {
    assert(zero == 1);
  } else if (IS("recursion")) {
    CRASH_NUMBER = crash_recursion(NULL);
  } else if (IS("heap")) {
    crash_in_malloc();
  } else if (IS("smash")) {
    crash_smashed();
  }
  return ++CRASH_NUMBER;
#undef IS
}

int crash_middle(const char *how);
__attribute__((noinline)) int crash_middle(const char *how) { return crash_leaf(how) + CRASH_NUMBER; }

static __attribute__((noinline)) int crash_outer(const char *how) { return crash_middle(how) - CRASH_NUMBER; }

static pthread_barrier_t CRASH_BARRIER;

static void *crash_thread(void *how) {
  pthread_barrier_wait(&CRASH_BARRIER);
  CRASH_NUMBER = crash_outer(how);
  return NULL;
}

static void crash_threads(int count, const char *how) {
  pthread_t threads[64];
  pthread_barrier_init(&CRASH_BARRIER, NULL, (unsigned)count);
  for (int i = 0; i < count && i < 64; i++) pthread_create(&threads[i], NULL, crash_thread, (void *)(uintptr_t)how);
  for (int i = 0; i < count && i < 64; i++) pthread_join(threads[i], NULL);
}

static struct sigaction BEFORE_HAND_ON;

static void on_hand_on(int number, siginfo_t *info, void *context) {
  char name[16];
  append_line(ON_SIGNAL[number].file, signal_name(number, name, sizeof name));
  BEFORE_HAND_ON.sa_sigaction(number, info, context);
}

/* Runs `argc` verbs at `argv`; stops early after `code`. */
static void run_verbs(verbs_state *v, char **argv, int argc) {
#define IS(name) (strcmp(argv[i], name) == 0)
#define NEED(n)                                                   \
  do {                                                            \
    if (i + (n) >= argc) {                                        \
      fprintf(stderr, "probe: %s needs %d values\n", argv[i], n); \
      _exit(98);                                                  \
    }                                                             \
  } while (0)
  static char bytes[1 << 20];
  for (int i = 0; i < argc && !v->done; i++) {
    if (IS("--")) break;
    if (IS("dump")) {
      NEED(1);
      dump_state(v, fill(argv[++i]));
    } else if (IS("exit")) {
      NEED(1);
      exit(atoi(argv[++i]));
    } else if (IS("_exit")) {
      NEED(1);
      _exit(atoi(argv[++i]));
    } else if (IS("code")) {
      NEED(1);
      v->returned = (int)strtoll(argv[++i], NULL, 10);
      v->done = 1;
    } else if (IS("kill")) {
      NEED(1);
      kill(getpid(), signal_number(argv[++i]));
    } else if (IS("stop")) {
      kill(getpid(), SIGSTOP);
    } else if (IS("sleep")) {
      NEED(1);
      sleep_seconds(atof(argv[++i]));
    } else if (IS("pause")) {
      sleep_seconds(LONGEST);
    } else if (IS("ignore")) {
      NEED(1);
      signal(signal_number(argv[++i]), SIG_IGN);
    } else if (IS("default")) {
      NEED(1);
      signal(signal_number(argv[++i]), SIG_DFL);
    } else if (IS("block")) {
      NEED(1);
      sigset_t set;
      sigemptyset(&set);
      sigaddset(&set, signal_number(argv[++i]));
      sigprocmask(SIG_BLOCK, &set, NULL);
    } else if (IS("count")) {
      NEED(2);
      int number = signal_number(argv[++i]);
      snprintf(ON_SIGNAL[number].file, sizeof ON_SIGNAL[number].file, "%s", fill(argv[++i]));
      set_handler(number, on_count);
    } else if (IS("exit_on")) {
      NEED(3);
      int number = signal_number(argv[++i]);
      ON_SIGNAL[number].code = atoi(argv[++i]);
      ON_SIGNAL[number].seconds = atof(argv[++i]);
      set_handler(number, on_exit_code);
    } else if (IS("append")) {
      NEED(2);
      const char *file = fill(argv[++i]);
      append_line(file, fill(argv[++i]));
    } else if (IS("touch")) {
      NEED(1);
      close(open(fill(argv[++i]), O_WRONLY | O_CREAT | O_CLOEXEC, 0666));
    } else if (IS("await")) {
      NEED(1);
      const char *file = fill(argv[++i]);
      for (struct patience patience = {0}; access(file, F_OK) != 0; look_again(&patience)) {
      }
    } else if (IS("await_lines")) {
      NEED(2);
      const char *file = fill(argv[++i]);
      int lines = atoi(argv[++i]);
      for (struct patience patience = {0}; count_lines(file) < lines; look_again(&patience)) {
      }
    } else if (IS("await_exit")) {
      NEED(1);
      const char *file = fill(argv[++i]);
      int64_t end = now_ns() + (int64_t)(60 * 1e9);
      for (int pid = 0; now_ns() < end; sleep_seconds(0.001)) {
        read_file(file, bytes, 32);
        pid = atoi(bytes);
        char state = pid ? state_of(pid) : 'R';
        if (state == 0 || state == 'Z') break;
      }
    } else if (IS("still_there")) {
      NEED(2);
      const char *file = fill(argv[++i]);
      still_there(file, fill(argv[++i]));
    } else if (IS("child") || IS("group") || IS("session") || IS("daemon")) {
      int end = block_end(argv, argc, i + 1);
      in_child(v, argv[i], argv + i + 1, end - i - 1);
      i = end;
    } else if (IS("thread")) {
      int end = block_end(argv, argc, i + 1);
      in_own_thread(v, argv + i + 1, end - i - 1);
      i = end;
    } else if (IS("rank") || IS("attempt") || IS("until_attempt")) {
      NEED(1);
      int end = block_end(argv, argc, i + 2), wanted = atoi(argv[i + 1]);
      int have = atoi(env_or(IS("rank") ? "LOCAL_RANK" : "TORCHELASTIC_RESTART_COUNT", "-1"));
      if (IS("until_attempt") ? have < wanted : have == wanted) run_verbs(v, argv + i + 2, end - i - 2);
      i = end;
    } else if (IS("once")) {
      NEED(1);
      int end = block_end(argv, argc, i + 2);
      int fd = open(fill(argv[i + 1]), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      if (fd >= 0) {
        close(fd);
        run_verbs(v, argv + i + 2, end - i - 2);
      }
      i = end;
    } else if (IS("close_stdio")) {
      open_stdio_null();
    } else if (IS("wait_children")) {
      while (wait(NULL) > 0) {
      }
    } else if (IS("write")) {
      NEED(2);
      int fd = atoi(argv[++i]);
      write_all(fd, bytes, unescape(fill(argv[++i]), bytes));
    } else if (IS("print")) {
      NEED(1);
      puts(fill(argv[++i]));
    } else if (IS("out")) {
      NEED(3);
      int fd = atoi(argv[++i]);
      size_t count = strtoull(argv[++i], NULL, 10);
      write_pattern(fd, count, strtoull(argv[++i], NULL, 10));
    } else if (IS("lines")) {
      NEED(3);
      int fd = atoi(argv[++i]), count = atoi(argv[++i]);
      const char *text = fill(argv[++i]);
      for (int k = 0; k < count; k++) {
        int n = snprintf(bytes, sizeof bytes, "%s r%s %d\n", text, env_or("LOCAL_RANK", "x"), k);
        write_all(fd, bytes, (size_t)n);
      }
    } else if (IS("error_file")) {
      NEED(1);
      size_t length = unescape(fill(argv[++i]), bytes);
      error_file(bytes, length);
    } else if (IS("error_long")) {
      NEED(3);
      json j = {0};
      json_put(&j, "{\"message\":{");
      json_text(&j, "message", fill(argv[++i]));
      json_key(&j, "extraInfo");
      json_open(&j, "{");
      json_text(&j, "py_callstack", fill(argv[++i]));
      json_text(&j, "timestamp", fill(argv[++i]));
      json_put(&j, "}}}");
      error_file(j.at, j.length);
      json_free(&j);
    } else if (IS("stdin")) {
      NEED(1);
      const char *file = fill(argv[++i]);
      long long total = 0;
      ssize_t n;
      while ((n = read(0, bytes, sizeof bytes)) > 0) total += n;
      char text[32];
      snprintf(text, sizeof text, "%lld", total);
      append_line(file, text);
    } else if (IS("exec")) {
      NEED(1);
      execvp(argv[i + 1], argv + i + 1);
      _exit(96);
    } else if (IS("memory")) {
      NEED(1);
      size_t size = strtoull(argv[++i], NULL, 10) << 20;
      char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (at == MAP_FAILED) _exit(95);
      for (size_t k = 0; k < size; k += 4096) ((volatile char *)at)[k] = 1;
    } else if (IS("core")) {
      struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
      setrlimit(RLIMIT_CORE, &limit);
    } else if (IS("segv")) {
      volatile char *nowhere = (volatile char *)(uintptr_t)strtoul("8", NULL, 10);
      *nowhere = 1;
    } else if (IS("abort")) {
      abort();
    } else if (IS("crash") || IS("crash_in_thread")) {
      NEED(1);
      if (IS("crash"))
        CRASH_NUMBER = crash_outer(argv[i + 1]);
      else
        crash_threads(1, argv[i + 1]);
      i++;
    } else if (IS("crash_threads")) {
      NEED(2);
      crash_threads(atoi(argv[i + 1]), argv[i + 2]);
      i += 2;
    } else if (IS("limit")) {
      NEED(2);
      int which = strcmp(argv[++i], "fsize") == 0 ? RLIMIT_FSIZE : RLIMIT_NOFILE;
      rlim_t number = strtoull(argv[++i], NULL, 10);
      struct rlimit limit = {number, number};
      if (setrlimit((__rlimit_resource_t)which, &limit)) _exit(94);
    } else if (IS("block_record")) {
      snprintf(bytes, sizeof bytes, "%s.crash", env_or("TORCHELASTIC_ERROR_FILE", ""));
      if (mkfifo(bytes, 0600)) _exit(94);
    } else if (IS("hand_on")) {
      NEED(2);
      int number = signal_number(argv[++i]);
      struct sigaction action = {.sa_sigaction = on_hand_on, .sa_flags = SA_SIGINFO | SA_ONSTACK};
      snprintf(ON_SIGNAL[number].file, sizeof ON_SIGNAL[number].file, "%s", fill(argv[++i]));
      sigaction(number, &action, &BEFORE_HAND_ON);
    } else if (IS("stuck")) {
      NEED(1);
      stuck(atof(argv[++i]));
    } else if (IS("timer")) {
      NEED(4);
      const char *pid = fill(argv[i + 1]), *scope = fill(argv[i + 2]);
      request_timer(pid, scope, seconds_since_1970() + atof(argv[i + 3]), signal_number(argv[i + 4]));
      i += 4;
    } else if (IS("release")) {
      NEED(2);
      request_timer(fill(argv[i + 1]), fill(argv[i + 2]), -1, 0);
      i += 2;
    } else if (IS("timer_raw")) {
      NEED(1);
      write_timer(bytes, unescape(fill(argv[++i]), bytes));
    } else if (IS("spin")) {
      hang_outer(0);
    } else if (IS("deadlock")) {
      hang_outer(1);
    } else if (IS("spin_smashed")) {
      spin_smashed();
    } else if (IS("listen")) {
      NEED(1);
      listen_master_port(fill(argv[++i]));
    } else if (IS("truncate_out")) {
      NEED(1);
      if (ftruncate(atoi(argv[++i]), 0)) _exit(94);
    } else if (IS("umask")) {
      NEED(1);
      umask((mode_t)strtol(argv[++i], NULL, 8));
    } else if (IS("uid")) {
      NEED(1);
      uid_t uid = (uid_t)atoi(argv[++i]);
      if (setresuid(uid, uid, uid)) _exit(88);
    } else if (IS("setenv")) {
      NEED(2);
      setenv(argv[i + 1], fill(argv[i + 2]), 1);
      i += 2;
    } else if (IS("chdir")) {
      NEED(1);
      if (chdir(fill(argv[++i]))) _exit(93);
    } else {
      int used = 0;
      if (!v->own || !v->own(v, argv + i, argc - i, &used)) {
        fprintf(stderr, "probe: no verb '%s'\n", argv[i]);
        _exit(98);
      }
      i += used;
    }
  }
#undef IS
#undef NEED
}

#endif

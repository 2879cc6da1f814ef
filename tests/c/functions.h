/* Functions as workers: of host.c, where they are registered and the first is the callback too, and of libverbs.c,
 * where they are symbols. They know the verbs of control.h too.
 *
 *   verbs          does the verbs of verbs.h and those below; they come in the argument, each with a NUL after it
 *   warm_up        does those behind the first `--`, in the fork server
 *   hash_argument  returns what `argument` writes
 *
 *   return TEXT | return_empty | return_escaped TEXT      the value
 *   tamper HOW | claim_value N      a worker that lies: damages the memory it shares with the agent, or says what is not so
 *   return_bytes N | return_buffer N | return_half N      a pattern, copied, in place, its first half only
 *   record MESSAGE STACK   record_error                   ranks FILE   the six numbers of the worker
 *   argument FILE          "SIZE HASH" of the argument, or "none"
 *   load TEXT | loaded FILE    keeps the text in memory; appends what was loaded in this process or its server
 *   deep BYTES             that deep a recursion          threads N    that still run at the end
 *   reap_any               a thread that takes the status of any child
 *   atexit_sleep SECONDS | atexit_exit CODE | atexit_append FILE | malloc_and_stdio
 *   nest WAY FILE VERBS ;  an agent of its own with two workers that do these verbs; returns the end of its run.
 *                          Its logs are in NEST_LOG_DIR.
 *                          WAY is program or a start method; FILE the program, a shared object, or empty
 */
#ifndef TEST_FUNCTIONS_H
#define TEST_FUNCTIONS_H

#include <ice.h>
#include <pthread.h>

#include "control.h"

/* What the functions find as user data in this image. */
#ifndef USER_DATA
#define USER_DATA NULL
#endif

static char *LOADED;

static uint64_t hash(const void *data, size_t size) {
  const unsigned char *b = data;
  uint64_t h = 1469598103934665603u;
  for (size_t i = 0; i < size; i++) h = (h ^ b[i]) * 1099511628211u;
  return h;
}

static void fill_pattern(unsigned char *at, size_t size) {
  for (size_t i = 0; i < size; i++) at[i] = (unsigned char)(i * 31 + i / 256);
}

/* Words with a NUL after each, to be freed. */
static char *join(char **words, int count, size_t *size) {
  *size = 0;
  for (int i = 0; i < count; i++) *size += strlen(words[i]) + 1;
  char *joined = malloc(*size + 1), *at = joined;
  for (int i = 0; i < count; i++) at = stpcpy(at, words[i]) + 1;
  return joined;
}

static void describe_argument(ice_worker *worker, char *text, size_t size) {
  const void *data = "";
  size_t length = 77;
  if (ice_worker_argument(worker, &data, &length) != ICE_OK)
    snprintf(text, size, "%s", ice_last_error_message());
  else if (!data)
    snprintf(text, size, "none %zu", length);
  else
    snprintf(text, size, "%zu %016llx %d", length, (unsigned long long)hash(data, length), (int)((uintptr_t)data % 4096));
}

typedef struct own_data {
  ice_worker *worker;
} own_data;

static volatile int DEPTH;

static int deep(size_t bytes) {
  volatile char frame[4096];
  for (size_t i = 0; i < sizeof frame; i += 64) frame[i] = (char)i;
  DEPTH++;
  if (bytes > sizeof frame) return deep(bytes - sizeof frame) + frame[64];
  return frame[0];
}

static double ATEXIT_SECONDS;
static int ATEXIT_CODE;
static char ATEXIT_FILE[4096];
static void atexit_sleep(void) { sleep_seconds(ATEXIT_SECONDS); }
static void atexit_exit(void) { _exit(ATEXIT_CODE); }
static void atexit_append(void) { append_line(ATEXIT_FILE, "atexit"); }

static void *sleep_forever(void *unused) {
  (void)unused;
  sleep_seconds(LONGEST);
  return NULL;
}

static void *reap_any_child(void *unused) {
  (void)unused;
  for (;;) {
    if (waitpid(-1, NULL, 0) < 0) sleep_seconds(0.0005);
  }
  return NULL;
}

/* An agent within this worker, with two workers of its own; the result is how its run ended. */
static int nest(const char *way, const char *file, char **argv, int argc) {
  ice_spec *spec = NULL;
  ice_agent *agent = NULL;
  ice_result *result = NULL;
  ice_status status = ice_spec_new(&spec);
  ice_spec_set_local_world_size(spec, 2);
  ice_spec_set_max_restarts(spec, 0);
  ice_spec_set_shutdown_timeout(spec, 5);
  ice_spec_set_log_dir(spec, env_or("NEST_LOG_DIR", "/dev/null"));
  if (strcmp(way, "program") == 0) {
    ice_spec_set_program(spec, file);
    ice_spec_add_args(spec, (const char *const *)argv, (size_t)argc);
  } else {
    size_t size;
    char *joined = join(argv, argc, &size);
    ice_spec_set_function(spec, *file ? file : NULL, "verbs");
    ice_spec_set_start_method(spec, atoi(way));
    ice_spec_set_argument(spec, joined, size);
    free(joined);
  }
  if (status == ICE_OK) status = ice_agent_new(spec, &agent);
  if (status == ICE_OK) status = ice_agent_run(agent, &result);
  if (status != ICE_OK) {
    fprintf(stderr, "nest: %s: %s\n", ice_status_string(status), ice_last_error_message());
    _exit(90);
  }
  int end = ice_result_end(result);
  if (end != ICE_END_SUCCEEDED) fprintf(stderr, "nest: %s\n", ice_result_message(result));
  ice_result_free(result);
  ice_agent_free(agent);
  ice_spec_free(spec);
  return end;
}

/* The next descriptor from `fd` on that is a memfd of the agent's whose name begins so, or -1. */
static int next_memory(int fd, const char *name) {
  for (; fd < 256; fd++) {
    char path[64], link[256];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(path, link, sizeof link - 1);
    if (length <= 0) continue;
    link[length] = '\0';
    if (strncmp(link, "/memfd:", 7) == 0 && strncmp(link + 7, name, strlen(name)) == 0) return fd;
  }
  return -1;
}

static uint64_t *map_page(int fd) {
  void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  return page == MAP_FAILED ? NULL : page;
}

/* Does to all memory that the agent shares with this process what no worker should. What cannot be done is not. */
static void tamper_with_memory(const char *how) {
  const off_t huge = (off_t)1 << 40;
  for (int fd = 3; (fd = next_memory(fd, "ice-")) >= 0; fd++) {
    if (strcmp(how, "shrink") == 0 && ftruncate(fd, 0) == 0) continue;
    if (strcmp(how, "grow") == 0 && ftruncate(fd, huge) == 0) continue;
    if (strcmp(how, "punch") == 0) fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, huge);
    if (strcmp(how, "seal") == 0)
      fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL);
    if (strcmp(how, "scribble") == 0) {
      uint64_t *page = map_page(fd);
      if (page) memset(page, 0xff, 4096);
    }
  }
}

/* Says in the words of src/process/channel.rs that there is a value of so many bytes. */
static void claim_value(uint64_t length) {
  enum { HAS_VALUE = 5,
         LENGTH = 6 };
  uint64_t *words = map_page(next_memory(3, "ice-value"));
  if (!words) _exit(93);
  words[LENGTH] = length;
  words[HAS_VALUE] = 1;
}

/* Verbs that only a function knows. */
static int function_verb(verbs_state *v, char **argv, int argc, int *used) {
  ice_worker *worker = ((own_data *)v->data)->worker;
  const char *verb = argv[0], *value = argc > 1 ? argv[1] : "";
  ice_status status = ICE_OK;
  *used = 1;
  if (strcmp(verb, "return") == 0) {
    const char *text = fill(value);
    status = ice_worker_return(worker, text, strlen(text));
  } else if (strcmp(verb, "return_empty") == 0) {
    status = ice_worker_return(worker, NULL, 0);
    *used = 0;
  } else if (strcmp(verb, "return_escaped") == 0) {
    static char bytes[65536];
    status = ice_worker_return(worker, bytes, unescape(value, bytes));
  } else if (strcmp(verb, "return_bytes") == 0 || strcmp(verb, "return_buffer") == 0) {
    size_t size = strtoull(value, NULL, 10);
    unsigned char *at = NULL;
    int copied = strcmp(verb, "return_bytes") == 0;
    if (copied)
      at = malloc(size ? size : 1);
    else
      status = ice_worker_return_buffer(worker, size, (void **)&at);
    if (!at && status == ICE_OK) _exit(92);
    if (status != ICE_OK) size = 0; /* told below */
    if (!copied && size && (at[0] || at[size - 1] || at[size / 2])) _exit(91);
    fill_pattern(at, size);
    if (copied && status == ICE_OK) {
      status = ice_worker_return(worker, at, size);
      free(at);
    }
  } else if (strcmp(verb, "return_half") == 0) {
    /* The buffer of that size, its first half written, then a file says so. */
    size_t size = strtoull(value, NULL, 10);
    unsigned char *at = NULL;
    status = ice_worker_return_buffer(worker, size, (void **)&at);
    if (status == ICE_OK) memset(at, 7, size / 2);
  } else if (strcmp(verb, "tamper") == 0) {
    tamper_with_memory(value);
  } else if (strcmp(verb, "claim_value") == 0) {
    claim_value(strtoull(value, NULL, 10));
  } else if (strcmp(verb, "record") == 0) {
    status = ice_worker_record_error(value, argc > 2 ? argv[2] : NULL);
    *used = 2;
  } else if (strcmp(verb, "ranks") == 0) {
    char text[256];
    snprintf(text, sizeof text, "%d %d %d %d %d %d", ice_worker_rank(worker), ice_worker_local_rank(worker),
             ice_worker_role_rank(worker), ice_worker_world_size(worker), ice_worker_local_world_size(worker),
             ice_worker_restart_count(worker));
    append_line(fill(value), text);
  } else if (strcmp(verb, "deep") == 0) {
    deep(strtoull(value, NULL, 10));
  } else if (strcmp(verb, "atexit_sleep") == 0) {
    ATEXIT_SECONDS = atof(value);
    atexit(atexit_sleep);
  } else if (strcmp(verb, "atexit_exit") == 0) {
    ATEXIT_CODE = atoi(value);
    atexit(atexit_exit);
  } else if (strcmp(verb, "atexit_append") == 0) {
    snprintf(ATEXIT_FILE, sizeof ATEXIT_FILE, "%s", fill(value));
    atexit(atexit_append);
  } else if (strcmp(verb, "threads") == 0) {
    for (int i = 0; i < atoi(value); i++) {
      pthread_t thread;
      pthread_create(&thread, NULL, sleep_forever, NULL);
      pthread_detach(thread);
    }
  } else if (strcmp(verb, "malloc_and_stdio") == 0) {
    for (int i = 0; i < 100; i++) {
      char *memory = malloc((size_t)(i * 1000 + 1));
      memset(memory, i, (size_t)(i * 1000 + 1));
      free(memory);
    }
    printf("%s", "");
    fprintf(stderr, "%s", "");
    fflush(NULL);
    *used = 0;
  } else if (strcmp(verb, "argument") == 0) {
    char text[256];
    describe_argument(worker, text, sizeof text);
    append_line(fill(value), text);
  } else if (strcmp(verb, "reap_any") == 0) {
    pthread_t thread;
    pthread_create(&thread, NULL, reap_any_child, NULL);
    pthread_detach(thread);
    *used = 0;
  } else if (strcmp(verb, "load") == 0) {
    LOADED = strdup(value);
  } else if (strcmp(verb, "loaded") == 0) {
    append_line(fill(value), LOADED ? LOADED : "nothing");
  } else if (strcmp(verb, "nest") == 0) {
    const char *way = argc > 1 ? argv[1] : "", *file = argc > 2 ? argv[2] : "";
    *used = block_end(argv, argc, 3);
    v->returned = nest(way, file, argv + 3, *used - 3);
  } else {
    return control_verb(worker, argv, argc, used);
  }
  if (status != ICE_OK) {
    fprintf(stderr, "%s: %s: %s\n", verb, ice_status_string(status), ice_last_error_message());
    _exit(90);
  }
  return 1;
}

static int32_t do_verbs(ice_worker *worker, char **argv, int argc) {
  own_data own = {worker};
  verbs_state v = {.own = function_verb, .data = &own, .argc = argc, .argv = argv};
  run_verbs(&v, argv, argc);
  return v.returned;
}

/* Does those verbs of the argument that stand behind so many `--`. */
static int32_t do_argument(ice_worker *worker, void *user_data, int part) {
  static char *words[4096];
  const char *at = NULL;
  size_t size = 0;
  int count = 0;
  if (user_data != USER_DATA) _exit(89);
  if (ice_worker_argument(worker, (const void **)&at, &size) != ICE_OK) _exit(88);
  for (const char *end = at + size; at < end && count < 4096; at += strlen(at) + 1) {
    if (strcmp(at, "--") == 0)
      part--;
    else if (part == 0)
      words[count++] = (char *)(uintptr_t)at;
  }
  return do_verbs(worker, words, count);
}

/* Not static: libverbs.c is looked up by these names. */
int32_t verbs(ice_worker *worker, void *user_data);
int32_t warm_up(ice_worker *worker, void *user_data);
int32_t hash_argument(ice_worker *worker, void *user_data);

int32_t verbs(ice_worker *worker, void *user_data) { return do_argument(worker, user_data, 0); }

int32_t warm_up(ice_worker *worker, void *user_data) { return do_argument(worker, user_data, 1); }

int32_t hash_argument(ice_worker *worker, void *user_data) {
  char text[256];
  if (user_data != USER_DATA) return 89;
  describe_argument(worker, text, sizeof text);
  ice_worker_return(worker, text, strlen(text));
  return 0;
}

#endif

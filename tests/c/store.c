/* A store, or a client of one, that does what its command line says:
 *   store serve [ADDRESS [PORT [MEMORY]]]     prints the port and serves until its input ends; each line of it is
 *                                             `workers COUNT SECONDS` or `counts`
 *   store HOST PORT STEP...                   one line for each step: its status, and what it has to say
 *   store worker STEP...                      the same at the store of its job
 * STORE_SECRET is the secret of both.
 * Steps: connect SECONDS (10 if it is not the first)   prefix P   set K V   append K V   get K SECONDS   add K N
 *   compare_set K EXPECTED DESIRED   check K,K   delete K   wait K,K SECONDS   multi_get K,K SECONDS
 *   multi_set K,K V,V   num_keys   push K V   pop K SECONDS   len K   barrier K N SECONDS   list (sorted)   arrive
 *   addresses   interrupt MS (after so long)   descriptors N (at most)
 *   broadcast NAME GENERATION RANK TEXT SECONDS   size K BYTES (a value so large)   say TEXT
 *   ready FILE (adds a line) */
#include <ice.h>
#include <pthread.h>
#include <sys/resource.h>

#include "verbs.h"

#define KEYS 16

static const char *HOST;
static int PORT;
static ice_store *STORE;
static ice_worker *WORKER;
static char **WORDS;

static const char *word(void) {
  if (!*WORDS) exit(3);
  return *WORDS++;
}

static double number(void) { return atof(word()); }

static size_t split(char *list, const char **out) {
  size_t count = 0;
  if (strcmp(list, "-") == 0) return 0;
  for (char *part = strtok(list, ","); part && count < KEYS; part = strtok(NULL, ",")) out[count++] = part;
  return count;
}

static char *copy(const char *text) {
  char *out = strdup(text);
  if (!out) exit(3);
  return out;
}

static void say(ice_status status, const char *text) {
  printf("%s %s\n", ice_status_string(status), status == ICE_OK ? text : ice_last_error_message());
}

static void say_number(ice_status status, int64_t value) {
  char text[32];
  snprintf(text, sizeof text, "%lld", (long long)value);
  say(status, text);
}

static void say_values(ice_status status, ice_store_values **got) {
  ice_store_values *values = *got;
  if (status != ICE_OK) {
    say(status, "");
    return;
  }
  printf("ICE_OK");
  for (size_t i = 0; i < ice_store_values_count(values); i++) {
    size_t length = ice_store_values_length(values, i);
    if (length > 200)
      printf(" (%zu bytes)", length);
    else
      printf(" %s", ice_store_values_data(values, i));
  }
  printf("\n");
  ice_store_values_free(values);
}

static int compare(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void say_sorted(ice_status status, ice_store_values **got) {
  const char *names[KEYS];
  size_t count = status == ICE_OK ? ice_store_values_count(*got) : 0;
  char line[1000] = "";
  if (count > KEYS) exit(3);
  for (size_t i = 0; i < count; i++) names[i] = ice_store_values_data(*got, i);
  qsort(names, count, sizeof *names, compare);
  for (size_t i = 0; i < count; i++)
    snprintf(line + strlen(line), sizeof line - strlen(line), "%s%s", i ? "," : "", names[i]);
  say(status, line);
  if (status == ICE_OK) ice_store_values_free(*got);
}

static void *interrupt_later(void *milliseconds) {
  long wait = *(long *)milliseconds;
  struct timespec time = {wait / 1000, wait % 1000 * 1000000};
  nanosleep(&time, NULL);
  ice_store_interrupt(STORE);
  return NULL;
}

static ice_status join(double seconds) {
  const char *secret = getenv("STORE_SECRET");
  if (!HOST) return ice_worker_store(WORKER, seconds, &STORE);
  if (secret) return ice_store_connect_with_secret(HOST, PORT, seconds, secret, strlen(secret), &STORE);
  return ice_store_connect(HOST, PORT, seconds, &STORE);
}

static void step(const char *name) {
  const char *keys[KEYS], *values[KEYS];
  size_t lengths[KEYS];
  ice_store_values *got = NULL;
  int32_t flag = -1;
  int64_t sum = -1;
  if (strcmp(name, "connect") == 0) {
    ice_store_free(STORE);
    STORE = NULL;
    say(join(number()), "");
  } else if (strcmp(name, "prefix") == 0) {
    ice_store *old = STORE;
    say(ice_store_prefix(old, word(), &STORE), "");
    ice_store_free(old);
  } else if (strcmp(name, "set") == 0) {
    const char *key = word(), *value = word();
    say(ice_store_set(STORE, key, value, strlen(value)), "");
  } else if (strcmp(name, "size") == 0) {
    const char *key = word();
    size_t length = (size_t)number();
    char *value = calloc(1, length + 1);
    if (!value) exit(3);
    say(ice_store_set(STORE, key, value, length), "");
    free(value);
  } else if (strcmp(name, "append") == 0) {
    const char *key = word(), *value = word();
    say(ice_store_append(STORE, key, value, strlen(value)), "");
  } else if (strcmp(name, "get") == 0) {
    const char *key = word();
    say_values(ice_store_get(STORE, key, number(), &got), &got);
  } else if (strcmp(name, "add") == 0) {
    const char *key = word();
    ice_status status = ice_store_add(STORE, key, atoll(word()), &sum);
    say_number(status, sum);
  } else if (strcmp(name, "compare_set") == 0) {
    const char *key = word(), *expected = word(), *desired = word();
    say_values(ice_store_compare_set(STORE, key, expected, strlen(expected), desired, strlen(desired), &got), &got);
  } else if (strcmp(name, "check") == 0) {
    char *list = copy(word());
    ice_status status = ice_store_check(STORE, keys, split(list, keys), &flag);
    say_number(status, flag);
    free(list);
  } else if (strcmp(name, "delete") == 0) {
    ice_status status = ice_store_delete(STORE, word(), &flag);
    say_number(status, flag);
  } else if (strcmp(name, "wait") == 0) {
    char *list = copy(word());
    size_t count = split(list, keys);
    say(ice_store_wait(STORE, keys, count, number()), "");
    free(list);
  } else if (strcmp(name, "multi_get") == 0) {
    char *list = copy(word());
    size_t count = split(list, keys);
    ice_status status = ice_store_multi_get(STORE, keys, count, number(), &got);
    say_values(status, &got);
    free(list);
  } else if (strcmp(name, "multi_set") == 0) {
    char *list = copy(word()), *other = copy(word());
    size_t count = split(list, keys);
    if (split(other, values) != count) exit(3);
    for (size_t i = 0; i < count; i++) lengths[i] = strlen(values[i]);
    say(ice_store_multi_set(STORE, keys, values, lengths, count), "");
    free(list);
    free(other);
  } else if (strcmp(name, "num_keys") == 0) {
    ice_status status = ice_store_num_keys(STORE, &sum);
    say_number(status, sum);
  } else if (strcmp(name, "list") == 0) {
    say_sorted(ice_store_list_keys(STORE, &got), &got);
  } else if (strcmp(name, "arrive") == 0) {
    ice_status status = ice_store_arrive(STORE, &sum);
    say_number(status, sum);
  } else if (strcmp(name, "addresses") == 0) {
    printf("ICE_OK %s %s\n", ice_store_local_address(STORE), ice_store_peer_address(STORE));
  } else if (strcmp(name, "interrupt") == 0) {
    static long later;
    pthread_t thread;
    later = (long)number();
    if (pthread_create(&thread, NULL, interrupt_later, &later) != 0) exit(3);
    pthread_detach(thread);
  } else if (strcmp(name, "descriptors") == 0) {
    struct rlimit limit = {(rlim_t)number(), 0};
    limit.rlim_max = limit.rlim_cur;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) exit(3);
  } else if (strcmp(name, "push") == 0) {
    const char *key = word(), *value = word();
    say(ice_store_queue_push(STORE, key, value, strlen(value)), "");
  } else if (strcmp(name, "pop") == 0) {
    const char *key = word();
    say_values(ice_store_queue_pop(STORE, key, number(), &got), &got);
  } else if (strcmp(name, "len") == 0) {
    ice_status status = ice_store_queue_len(STORE, word(), &sum);
    say_number(status, sum);
  } else if (strcmp(name, "barrier") == 0) {
    const char *key = word();
    int32_t size = atoi(word());
    say(ice_store_barrier(STORE, key, size, number()), "");
  } else if (strcmp(name, "broadcast") == 0) {
    const char *key = word();
    uint64_t generation = strtoull(word(), NULL, 10);
    int32_t rank = atoi(word());
    char *data = copy(word());
    ice_status status = ice_store_broadcast(STORE, key, generation, rank, data, strlen(data), number());
    say(status, data);
    free(data);
  } else if (strcmp(name, "ready") == 0) {
    int fd = open(word(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, "x\n", 2) != 2 || close(fd) != 0) exit(3);
  } else if (strcmp(name, "say") == 0) {
    say(ICE_OK, word());
  } else {
    fprintf(stderr, "no step is called %s\n", name);
    exit(3);
  }
  fflush(stdout);
}

static int serve(char **words) {
  struct rlimit limit;
  const char *address = words[0] && strcmp(words[0], "-") != 0 ? words[0] : NULL;
  int port = words[0] && words[1] ? atoi(words[1]) : 0;
  size_t memory = words[0] && words[1] && words[2] ? strtoull(words[2], NULL, 10) : 0;
  ice_store_server *server = NULL;
  /* A descriptor for each client. */
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
  const char *secret = getenv("STORE_SECRET");
  ice_status status =
    secret ? ice_store_server_new_with_secret(address, port, memory, secret, strlen(secret), &server)
           : ice_store_server_new(address, port, memory, &server);
  if (status != ICE_OK) {
    say(status, "");
    return 1;
  }
  printf("%d\n", ice_store_server_port(server));
  fflush(stdout);
  char line[100];
  while (fgets(line, sizeof line, stdin)) {
    int count;
    double seconds;
    if (sscanf(line, "workers %d %lf", &count, &seconds) == 2)
      say(ice_store_server_wait_for_workers(server, count, seconds), "");
    else
      printf("%llu connections, %llu refused, %llu requests\n",
             (unsigned long long)ice_store_server_connections(server),
             (unsigned long long)ice_store_server_refused(server),
             (unsigned long long)ice_store_server_requests(server));
    fflush(stdout);
  }
  ice_store_server_free(server);
  printf("freed\n");
  return 0;
}

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[1], "serve") == 0) return serve(argv + 2);
  if (argc > 1 && strcmp(argv[1], "worker") == 0) {
    if (ice_worker_open(&WORKER) != ICE_OK) return 3;
    WORDS = argv + 2;
  } else {
    if (argc < 4) return 3;
    HOST = argv[1];
    PORT = atoi(argv[2]);
    WORDS = argv + 3;
  }
  if (*WORDS && strcmp(*WORDS, "connect") != 0) {
    ice_status status = join(10);
    if (status != ICE_OK) {
      say(status, "");
      return 1;
    }
  }
  while (*WORDS) step(word());
  ice_store_free(STORE);
  ice_worker_close(WORKER);
  return 0;
}

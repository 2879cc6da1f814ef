/* A job of two agents in one process, which meet at a place that the program brings: a table in memory.
 *   place [wait]          with a function that waits, or without
 *   place unreachable     it cannot be reached for the first three calls
 *   place broken          one of its calls fails for good
 * Prints one line per agent: how its run ended, and its message. */
#include <ice.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct entry {
  char key[128];
  void *value;
  size_t length;
  uint64_t version;
  struct entry *next;
};

static pthread_mutex_t LOCK = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t CHANGED = PTHREAD_COND_INITIALIZER;
static struct entry *TABLE;
static const char *MODE = "";
static int CALLS, CONNECTIONS;

static struct entry *find(const char *key) {
  struct entry *entry = TABLE;
  while (entry && strcmp(entry->key, key) != 0) entry = entry->next;
  return entry;
}

/* What this call is to come to. */
static int32_t fate(ice_rendezvous_reply *reply) {
  CALLS++;
  if (strcmp(MODE, "unreachable") == 0 && CALLS < 4) {
    ice_rendezvous_reply_error(reply, "the table is not there yet");
    return ICE_ERROR_STORE;
  }
  if (strcmp(MODE, "broken") == 0 && CALLS == 9) {
    ice_rendezvous_reply_error(reply, "the table is upside down");
    return ICE_ERROR_STATE;
  }
  return ICE_OK;
}

static int32_t open_table(void *user_data, const char *endpoint, const char *run_id, void **connection,
                          ice_rendezvous_reply *reply) {
  pthread_mutex_lock(&LOCK);
  int32_t status = fate(reply);
  if (strcmp(endpoint, "here") != 0 || strcmp(run_id, "job 1") != 0 || user_data != &TABLE) abort();
  if (status == ICE_OK) {
    CONNECTIONS++;
    *connection = &CONNECTIONS;
  }
  pthread_mutex_unlock(&LOCK);
  return status;
}

static void say(struct entry *entry, ice_rendezvous_reply *reply) {
  if (entry) {
    ice_rendezvous_reply_found(reply, entry->value, entry->length, &entry->version, sizeof entry->version);
  }
}

static int32_t get(void *connection, const char *key, ice_rendezvous_reply *reply) {
  pthread_mutex_lock(&LOCK);
  if (connection != &CONNECTIONS) abort();
  int32_t status = fate(reply);
  say(find(key), reply);
  pthread_mutex_unlock(&LOCK);
  return status;
}

static int32_t compare_and_set(void *connection, const char *key, const void *token, size_t token_length,
                               const void *value, size_t value_length, int32_t *stored,
                               ice_rendezvous_reply *reply) {
  pthread_mutex_lock(&LOCK);
  if (connection != &CONNECTIONS) abort();
  int32_t status = fate(reply);
  struct entry *entry = find(key);
  if (status == ICE_OK && !entry && !token) {
    entry = calloc(1, sizeof *entry);
    snprintf(entry->key, sizeof entry->key, "%s", key);
    entry->next = TABLE;
    TABLE = entry;
    *stored = 1;
  } else if (status == ICE_OK && entry && token) {
    *stored = token_length == sizeof entry->version && memcmp(token, &entry->version, token_length) == 0;
  }
  if (*stored) {
    free(entry->value);
    entry->value = malloc(value_length + 1);
    memcpy(entry->value, value, value_length);
    entry->length = value_length;
    entry->version++;
    pthread_cond_broadcast(&CHANGED);
  } else {
    say(entry, reply);
  }
  pthread_mutex_unlock(&LOCK);
  return status;
}

static int32_t wait_for(void *connection, const char *key, double seconds, ice_rendezvous_reply *reply) {
  (void)reply;
  if (connection != &CONNECTIONS || seconds > 0.5) abort();
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_nsec += (long)(seconds * 1e9);
  until.tv_sec += until.tv_nsec / 1000000000;
  until.tv_nsec %= 1000000000;
  pthread_mutex_lock(&LOCK);
  while (!find(key) && pthread_cond_timedwait(&CHANGED, &LOCK, &until) == 0) {
  }
  pthread_mutex_unlock(&LOCK);
  return ICE_OK;
}

static void close_table(void *connection) {
  if (connection != &CONNECTIONS) abort();
  pthread_mutex_lock(&LOCK);
  CONNECTIONS--;
  pthread_mutex_unlock(&LOCK);
}

static void need(ice_status status) {
  if (status == ICE_OK) return;
  fprintf(stderr, "%s\n", ice_last_error_message());
  exit(1);
}

int main(int argc, char **argv) {
  if (argc > 1) MODE = argv[1];
  int waits = strcmp(MODE, "wait") == 0;
  ice_rendezvous_wait_fn wait = waits ? wait_for : NULL;
  need(ice_rendezvous_register("table", open_table, get, compare_and_set, wait, close_table, &TABLE));
  const char *taken[] = {"table", "c10d", "etcd-v3"};
  for (int i = 0; i < 3; i++) {
    if (ice_rendezvous_register(taken[i], open_table, get, compare_and_set, wait, close_table, NULL) !=
        ICE_ERROR_CONFIG) {
      return 2;
    }
  }
  ice_agent *agents[2];
  for (int i = 0; i < 2; i++) {
    ice_spec *spec;
    need(ice_spec_new(&spec));
    ice_spec_set_nodes(spec, 2, 2);
    ice_spec_set_run_id(spec, "job 1");
    ice_spec_set_rendezvous(spec, "table", "here");
    /* Whoever cannot reach it cannot say so either: the other one waits in vain. */
    int broken = strcmp(MODE, "broken") == 0;
    ice_spec_set_rendezvous_option(spec, "join_timeout", broken ? "1" : "60");
    ice_spec_set_node_rank(spec, 1 - i);
    ice_spec_set_local_world_size(spec, i + 1);
    ice_spec_set_program(spec, "/bin/sh");
    const char *arguments[] = {"-c", "echo $RANK of $WORLD_SIZE in round $ICE_ROUND; [ $ICE_ROUND = 1 ]"};
    ice_spec_add_args(spec, arguments, 2);
    need(ice_agent_new(spec, &agents[i]));
    ice_spec_free(spec);
    need(ice_agent_start(agents[i]));
  }
  for (int i = 0; i < 2; i++) {
    ice_result *result;
    need(ice_agent_wait(agents[i], -1, &result));
    printf("end %d round %d restarts %d: %s\n", (int)ice_result_end(result), (int)ice_result_round(result),
           (int)ice_result_job_restarts(result), ice_result_message(result));
    ice_result_free(result);
    ice_agent_free(agents[i]);
  }
  if (CONNECTIONS != 0) printf("%d connections are open\n", CONNECTIONS);
  return 0;
}

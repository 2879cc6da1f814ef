/* Many agents at once in one process:
 *   farm N WAY|program|stop DIR     WAY is how functions start, as the tests call it
 * Each agent has two workers and a run id, an argument and a log directory of its own.
 * Nothing of one may show in another, and no agent may have more than two threads. `stop` stops every second one.
 * Exits 0, or 1 with the lines that are not so. */
#include "functions.h"

static int WRONG;

#define CHECK(condition)                                                                       \
  do {                                                                                         \
    if (!(condition)) {                                                                        \
      WRONG++;                                                                                 \
      fprintf(stderr, "%s:%d: agent %d: not so: %s (%s)\n", __FILE__, __LINE__, i, #condition, \
              ice_last_error_message());                                                       \
    }                                                                                          \
  } while (0)

enum { MOST = 100 };
static ice_agent *AGENTS[MOST];
static char GO[4096], PROBE[4096], LIBRARY[4096];

static int threads(void) {
  int count = 0;
  DIR *dir = opendir("/proc/self/task");
  while (dir && readdir(dir)) count++;
  closedir(dir);
  return count - 2;
}

static int descriptors(void) {
  int count = 0;
  DIR *dir = opendir("/proc/self/fd");
  while (dir && readdir(dir)) count++;
  closedir(dir);
  return count - 3;
}

static void make(int i, const char *kind, const char *dir) {
  ice_spec *spec = NULL;
  char text[8192];
  CHECK(ice_spec_new(&spec) == ICE_OK);
  ice_spec_set_local_world_size(spec, 2);
  ice_spec_set_max_restarts(spec, 0);
  snprintf(text, sizeof text, "id-%d", i);
  ice_spec_set_run_id(spec, text);
  snprintf(text, sizeof text, "%s/%d", dir, i);
  ice_spec_set_log_dir(spec, text);
  ice_spec_set_redirects(spec, "1");
  const char *of_library = strstr(kind, "_of_a_library");
  int server = strncmp(kind, "forkserver", 10) == 0;
  if (strcmp(kind, "program") == 0 || strcmp(kind, "stop") == 0) {
    const char *args[] = {"print", NULL, "await", GO};
    snprintf(text, sizeof text, "agent %d rank ${rank} id ${run_id}", i);
    args[1] = text;
    ice_spec_set_program(spec, PROBE);
    ice_spec_add_args(spec, args, 4);
  } else {
    char *words[] = {"print", text, "await", GO, "return", text}, *joined;
    size_t size;
    snprintf(text, sizeof text, "agent %d rank %%r id %%i", i);
    joined = join(words, 6, &size);
    CHECK(ice_spec_set_argument(spec, joined, size) == ICE_OK);
    free(joined);
    if (strcmp(kind, "fork") == 0)
      ice_spec_set_callback(spec, verbs, NULL);
    else
      ice_spec_set_function(spec, of_library ? LIBRARY : NULL, "verbs");
    ice_spec_set_start_method(spec, strcmp(kind, "fork") == 0 ? ICE_START_FORK
                                    : server                  ? ICE_START_FORKSERVER
                                                              : ICE_START_SPAWN);
  }
  CHECK(ice_agent_new(spec, &AGENTS[i]) == ICE_OK);
  ice_spec_free(spec);
}

static void check(int i, int stopped, const char *kind) {
  ice_result *result = NULL;
  CHECK(ice_agent_wait(AGENTS[i], 60, &result) == ICE_OK);
  CHECK(ice_result_end(result) == (stopped ? ICE_END_INTERRUPTED : ICE_END_SUCCEEDED));
  CHECK(ice_result_worker_count(result) == 2);
  char text[128], log[4096];
  snprintf(text, sizeof text, "/id-%d_", i);
  CHECK(strstr(ice_result_run_dir(result), text) != NULL);
  for (int rank = 0; rank < 2 && result; rank++) {
    const ice_worker_result *w = ice_result_worker(result, (size_t)rank);
    snprintf(text, sizeof text, "agent %d rank %d id id-%d", i, rank, i);
    if (!stopped && strcmp(kind, "program") != 0 && strcmp(kind, "stop") != 0)
      CHECK(w->has_value && w->value_size == strlen(text) && memcmp(w->value, text, w->value_size) == 0);
    if (stopped) continue;
    strcat(text, "\n");
    read_file(w->stdout_log, log, sizeof log);
    CHECK(strcmp(log, text) == 0);
  }
  ice_result_free(result);
}

int main(int argc, char **argv) {
  ice_worker_register("verbs", verbs, USER_DATA);
  ice_worker_main();
  if (argc != 4) return 2;
  int count = atoi(argv[1]), stop = strcmp(argv[2], "stop") == 0, i = -1;
  if (count > MOST) return 2;
  mkdir(argv[3], 0777);
  snprintf(GO, sizeof GO, "%s/go", argv[3]);
  snprintf(LIBRARY, sizeof LIBRARY, "%.*s/libverbs.so", (int)(strrchr(argv[0], '/') - argv[0]), argv[0]);
  snprintf(PROBE, sizeof PROBE, "%.*s/probe", (int)(strrchr(argv[0], '/') - argv[0]), argv[0]);
  int threads_before = threads(), descriptors_before = descriptors();
  for (i = 0; i < count; i++) make(i, argv[2], argv[3]);
  for (i = 0; i < count; i++) CHECK(ice_agent_start(AGENTS[i]) == ICE_OK);
  for (i = 0; i < count; i++) {
    ice_state state = ICE_STATE_INIT;
    for (int64_t end = now_ns() + 60000000000; state == ICE_STATE_INIT && now_ns() < end; sleep_seconds(0.002)) {
      ice_snapshot *snapshot = NULL;
      CHECK(ice_agent_snapshot(AGENTS[i], &snapshot) == ICE_OK);
      state = ice_snapshot_state(snapshot);
      ice_snapshot_free(snapshot);
    }
    CHECK(state == ICE_STATE_HEALTHY);
  }
  i = -1;
  fprintf(stderr, "%d threads for %d agents\n", threads() - threads_before, count);
  CHECK(threads() - threads_before <= 2 * count);
  for (i = 1; i < count && stop; i += 2) CHECK(ice_agent_stop(AGENTS[i], 0) == ICE_OK);
  for (i = 1; i < count && stop; i += 2) check(i, 1, argv[2]);
  close(open(GO, O_CREAT | O_WRONLY, 0666));
  for (i = 0; i < count; i += stop ? 2 : 1) check(i, 0, argv[2]);
  for (i = 0; i < count; i++) ice_agent_free(AGENTS[i]);
  i = -1;
  /* One that has been joined is listed until the kernel has done with it. */
  for (int looks = 0; threads() != threads_before && looks < 5000; looks++) sleep_seconds(0.002);
  CHECK(threads() == threads_before);
  CHECK(descriptors() == descriptors_before);
  CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
  return WRONG != 0;
}

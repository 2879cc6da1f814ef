/* Loads the library, runs a group and unloads it, again and again:
 *   dlopen LIBRARY TIMES
 * The header's own types, but every function by dlsym: this program does not link the library. */
#include <dlfcn.h>
#include <ice.h>

#include "verbs.h"

static void *LIBRARY;
static int MESSAGES;

static void *symbol(const char *name) {
  void *at = dlsym(LIBRARY, name);
  if (!at) {
    fprintf(stderr, "%s\n", dlerror());
    exit(3);
  }
  return at;
}

static void on_log(void *user_data, int32_t level, const char *text) {
  (void)user_data;
  (void)level;
  (void)text;
  MESSAGES++;
}

/* ISO C has no cast from an object pointer to a function pointer; POSIX has this. */
#define FUNCTION(variable, name) *(void **)&variable = symbol(name)

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  for (int i = 0; i < atoi(argv[2]); i++) {
    ice_status (*spec_new)(ice_spec **), (*set_program)(ice_spec *, const char *), (*set_size)(ice_spec *, int64_t);
    ice_status (*set_log)(ice_spec *, ice_log_fn, void *), (*set_signals)(ice_spec *, const char *);
    ice_status (*agent_new)(const ice_spec *, ice_agent **), (*agent_run)(ice_agent *, ice_result **);
    ice_end (*result_end)(const ice_result *);
    void (*spec_free)(ice_spec *), (*agent_free)(ice_agent *), (*result_free)(ice_result *);
    const char *(*last_error)(void);
    ice_spec *spec = NULL;
    ice_agent *agent = NULL;
    ice_result *result = NULL;
    LIBRARY = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!LIBRARY) {
      fprintf(stderr, "%s\n", dlerror());
      return 3;
    }
    FUNCTION(spec_new, "ice_spec_new");
    FUNCTION(set_program, "ice_spec_set_program");
    FUNCTION(set_size, "ice_spec_set_local_world_size");
    FUNCTION(set_log, "ice_spec_set_log_callback");
    FUNCTION(set_signals, "ice_spec_set_signals");
    FUNCTION(agent_new, "ice_agent_new");
    FUNCTION(agent_run, "ice_agent_run");
    FUNCTION(result_end, "ice_result_end");
    FUNCTION(spec_free, "ice_spec_free");
    FUNCTION(agent_free, "ice_agent_free");
    FUNCTION(result_free, "ice_result_free");
    FUNCTION(last_error, "ice_last_error_message");
    if (spec_new(&spec) || set_program(spec, "/bin/true") || set_size(spec, 2) || set_log(spec, on_log, NULL) ||
        set_signals(spec, "TERM") || agent_new(spec, &agent) || agent_run(agent, &result)) {
      fprintf(stderr, "%s\n", last_error());
      return 4;
    }
    if (result_end(result) != ICE_END_SUCCEEDED) return 5;
    set_size(spec, 0); /* leaves an error message for this thread */
    result_free(result);
    agent_free(agent);
    spec_free(spec);
    if (dlclose(LIBRARY)) return 6;
  }
  int threads = 0;
  DIR *dir = opendir("/proc/self/task");
  while (dir && readdir(dir)) threads++;
  closedir(dir);
  if (threads - 2 != 1) return 7;
  return 0;
}

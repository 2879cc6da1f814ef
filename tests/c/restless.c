/* A host whose other threads change environ, the working directory, the umask and the locale while workers start:
 *   restless FILE      exits 0 if all runs succeed and each worker had what was there at the start call
 * C allows setenv only against getenv of the same program under a lock that nobody shares: what is checked is that the
 * library survives it and that a worker sees the environment of the moment of ice_agent_start(), no later one. */
#include <ice.h>
#include <locale.h>
#include <pthread.h>

#include "verbs.h"

static volatile int GO_ON = 1;

/* Between setenv and setlocale, which looks for LOCPATH. The library has no part in it. */
static pthread_mutex_t ENVIRONMENT = PTHREAD_MUTEX_INITIALIZER;

static void set(const char *name, const char *value) {
  pthread_mutex_lock(&ENVIRONMENT);
  if (value ? setenv(name, value, 1) : unsetenv(name)) abort();
  pthread_mutex_unlock(&ENVIRONMENT);
}

static void *restless(void *unused) {
  for (unsigned n = 0; GO_ON; n++) {
    if (chdir(n % 2 ? "/" : "/tmp")) abort();
    umask(n % 2 ? 077 : 022);
    pthread_mutex_lock(&ENVIRONMENT);
    setlocale(LC_ALL, n % 2 ? "C" : "C.UTF-8");
    pthread_mutex_unlock(&ENVIRONMENT);
    sleep_seconds(0.00005);
  }
  return unused;
}

int main(int argc, char **argv) {
  char probe[4096], number[32], text[1 << 18];
  pthread_t thread;
  if (argc != 2) return 2;
  snprintf(probe, sizeof probe, "%.*s/probe", (int)(strrchr(argv[0], '/') - argv[0]), argv[0]);
  pthread_create(&thread, NULL, restless, NULL);
  for (int i = 0; i < 100; i++) {
    ice_spec *spec = NULL;
    ice_agent *agent = NULL;
    ice_result *result = NULL;
    if (ice_spec_new(&spec) || ice_spec_set_program(spec, probe) || ice_spec_add_arg(spec, "dump") ||
        ice_spec_add_arg(spec, argv[1]) || ice_spec_set_max_restarts(spec, 0) || ice_agent_new(spec, &agent))
      return 3;
    snprintf(number, sizeof number, "start %d.", i);
    set("MOMENT", number);
    if (ice_agent_start(agent)) return 4;
    set("MOMENT", "later");
    for (int k = 0; k < 50; k++) {
      snprintf(number, sizeof number, "OTHER_%d", k);
      set(number, "x");
    }
    if (ice_agent_wait(agent, 60, &result) || ice_result_end(result) != ICE_END_SUCCEEDED) return 5;
    for (int k = 0; k < 50; k++) {
      snprintf(number, sizeof number, "OTHER_%d", k);
      set(number, NULL);
    }
    read_file(argv[1], text, sizeof text);
    snprintf(number, sizeof number, "MOMENT=start %d.\"", i);
    if (!strstr(text, number) || strstr(text, "OTHER_")) {
      fprintf(stderr, "not '%s' in %s\n", number, text);
      return 6;
    }
    ice_result_free(result);
    ice_agent_free(agent);
    ice_spec_free(spec);
  }
  GO_ON = 0;
  pthread_join(thread, NULL);
  return 0;
}

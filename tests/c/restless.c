/* A host whose other threads change environ, the working directory, the umask and the locale while workers start:
 *   restless FILE      exits 0 if all runs succeed and each worker had what was there at the start call
 * C allows setenv only against getenv of the same program under a lock that nobody shares: what is checked is that the
 * library survives it and that a worker sees the environment of the moment of ice_agent_start(), no later one. */
#include <ice.h>
#include <locale.h>
#include <pthread.h>

#include "verbs.h"

static volatile int GO_ON = 1;

static void *restless(void *unused) {
  for (unsigned n = 0; GO_ON; n++) {
    if (chdir(n % 2 ? "/" : "/tmp")) abort();
    umask(n % 2 ? 077 : 022);
    setlocale(LC_ALL, n % 2 ? "C" : "C.UTF-8");
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
    setenv("MOMENT", number, 1);
    if (ice_agent_start(agent)) return 4;
    setenv("MOMENT", "later", 1);
    for (int k = 0; k < 50; k++) {
      snprintf(number, sizeof number, "OTHER_%d", k);
      setenv(number, "x", 1);
    }
    if (ice_agent_wait(agent, 60, &result) || ice_result_end(result) != ICE_END_SUCCEEDED) return 5;
    for (int k = 0; k < 50; k++) {
      snprintf(number, sizeof number, "OTHER_%d", k);
      unsetenv(number);
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

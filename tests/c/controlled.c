/* A worker that is a program and talks to its agent: the probe with the verbs of control.h. Its handle is made with
 * the first of these. */
#include "control.h"

static int own(verbs_state *v, char **argv, int argc, int *used) {
  static ice_worker *worker;
  if (!worker && ice_worker_open(&worker) != ICE_OK) _exit(79);
  (void)v;
  return control_verb(worker, argv, argc, used);
}

int main(int argc, char **argv) {
  verbs_state v = {.own = own, .argc = argc, .argv = argv};
  run_verbs(&v, argv + 1, argc - 1);
  return v.returned;
}

/* The worker of the tests: a program that does the verbs of its command line, see verbs.h. */
#include "verbs.h"

int main(int argc, char **argv) {
  verbs_state v = {.own = NULL, .argc = argc, .argv = argv};
  run_verbs(&v, argv + 1, argc - 1);
  return v.returned;
}

/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The floor of a function of a shared object: loads it and calls it. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>

int main(int argc, char **argv) {
  void *object = argc == 3 ? dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL) : NULL;
  int32_t (*function)(void *, void *) = object ? (int32_t (*)(void *, void *))dlsym(object, argv[2]) : NULL;
  return function ? function(NULL, NULL) : 90;
}

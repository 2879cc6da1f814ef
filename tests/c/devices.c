/* Lists the GPUs with a library that it loads itself, or with -DLINKED with one that is linked into it:
 *   devices LIBRARY        devices [RUNNER]
 * One line for the status, with what is wrong or why the list is empty, and one for each GPU. With the variable
 * WORKER_MAIN=first it can be started again, with WORKER_MAIN=late it says so when it is too late. */
#include <dlfcn.h>
#include <ice.h>

#include "verbs.h"

#ifdef LINKED
#define FUNCTION(name) name
#else
static void *LIBRARY;

static void *symbol(const char *name) {
  void *at = dlsym(LIBRARY, name);
  if (!at) exit(3);
  return at;
}

/* The function's own type, without a reference to it. */
#define FUNCTION(name) ((__typeof__(&name))(uintptr_t)symbol(#name))
#endif

int main(int argc, char **argv) {
  const char *runner = NULL;
  ice_device_list *list = NULL;
#ifdef LINKED
  const char *worker_main = env_or("WORKER_MAIN", "");
  if (strcmp(worker_main, "first") == 0) ice_worker_main();
  if (argc > 1) runner = argv[1];
#else
  if (argc < 2 || !(LIBRARY = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL))) {
    fprintf(stderr, "%s\n", dlerror());
    return 3;
  }
#endif
  ice_status status = FUNCTION(ice_device_list_new)(10, runner, &list);
  const char *text = status == ICE_OK ? FUNCTION(ice_device_list_message)(list) : FUNCTION(ice_last_error_message)();
  printf("%s %s\n", FUNCTION(ice_status_string)(status), text);
  for (size_t i = 0; i < FUNCTION(ice_device_list_count)(list); i++) {
    const ice_device *device = FUNCTION(ice_device_list_device)(list, i);
    printf("%d %s %s\n", device->index, device->uuid, device->name);
  }
  FUNCTION(ice_device_list_free)(list);
#ifdef LINKED
  if (strcmp(worker_main, "late") == 0) ice_worker_main();
#endif
  return status == ICE_OK ? 0 : 1;
}

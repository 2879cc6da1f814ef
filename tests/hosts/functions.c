/* Functions of a shared object, which hosts in other languages run as workers.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ice.h"

static const char *loaded_by_warm_up = "nothing";

int32_t warm_up(ice_worker *server, void *user_data) {
  (void)user_data;
  loaded_by_warm_up = "data";
  return ice_worker_rank(server) == -1 ? 0 : 1;
}

static const char *argument(const ice_worker *worker, int *length) {
  const void *data = NULL;
  size_t bytes = 0;
  ice_worker_argument(worker, &data, &bytes);
  *length = (int)bytes;
  return data == NULL ? "" : data;
}

/* "rank 0 of 2 has ARGUMENT and nothing, attempt 0" */
int32_t describe(ice_worker *worker, void *user_data) {
  char text[256];
  int length;
  const char *data = argument(worker, &length);
  (void)user_data;
  snprintf(text, sizeof text, "rank %d of %d has %.*s and %s, attempt %d", ice_worker_rank(worker),
           ice_worker_world_size(worker), length, data, loaded_by_warm_up,
           ice_worker_restart_count(worker));
  return ice_worker_return(worker, text, strlen(text)) == ICE_OK ? 0 : 1;
}

int32_t fail(ice_worker *worker, void *user_data) {
  (void)user_data;
  if (ice_worker_rank(worker) == 1) {
    ice_worker_record_error("rank 1 has no input", NULL);
    return 7;
  }
  for (;;) pause();
}

int32_t fail_once(ice_worker *worker, void *user_data) {
  return ice_worker_restart_count(worker) == 0 ? fail(worker, user_data)
                                               : describe(worker, user_data);
}

/* Says that it is there, in a file in the directory ARGUMENT, and waits for the file `go` there. */
int32_t wait_for_go(ice_worker *worker, void *user_data) {
  const struct timespec pause = {.tv_nsec = 5 * 1000 * 1000};
  char path[4096];
  int length;
  const char *directory = argument(worker, &length);
  (void)user_data;
  snprintf(path, sizeof path, "%.*s/here.%d", length, directory, ice_worker_rank(worker));
  FILE *file = fopen(path, "w");
  if (file == NULL || fclose(file) != 0) return 1;
  snprintf(path, sizeof path, "%.*s/go", length, directory);
  while (access(path, F_OK) != 0) nanosleep(&pause, NULL);
  return 0;
}

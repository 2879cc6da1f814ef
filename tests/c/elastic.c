/* A toy trainer of several processes that meet at the store of their round: step S adds S to a sum, once, by the
 * rank whose turn it is; all wait for each other in every step. The sum of all steps is the same whatever the number
 * of ranks, and however often they are killed, if no two groups train at once and no round sees keys of another.
 *
 *   elastic DIR STEPS        ends after STEPS steps, once DIR/finish is there; DIR/checkpoint is `STEP SUM`, and
 *                            DIR/journal has a line for each process: ROUND RANK WORLD_SIZE ADDR:PORT PID
 */
#include <ice.h>

#include "verbs.h"

static void check(ice_status status) {
  if (status == ICE_OK) return;
  fprintf(stderr, "%s\n", ice_last_error_message());
  exit(1);
}

static void set(ice_store *store, const char *key, long step, const char *text) {
  char full[64];
  snprintf(full, sizeof full, "%s/%ld", key, step);
  check(ice_store_set(store, full, text, strlen(text)));
}

static void get(ice_store *store, const char *key, long step, char text[64]) {
  char full[64];
  ice_store_values *values;
  snprintf(full, sizeof full, "%s/%ld", key, step);
  check(ice_store_get(store, full, 60, &values));
  snprintf(text, 64, "%s", ice_store_values_data(values, 0));
  ice_store_values_free(values);
}

static void save(const char *file, long step, long sum) {
  char temporary[4200];
  snprintf(temporary, sizeof temporary, "%s.part", file);
  FILE *out = fopen(temporary, "w");
  if (!out || fprintf(out, "%ld %ld\n", step, sum) < 0 || fclose(out) || rename(temporary, file)) exit(90);
}

int main(int argc, char **argv) {
  char file[4096], text[64] = "0 0", key[64], line[512];
  const char *addr = env_or("MASTER_ADDR", ""), *port = env_or("MASTER_PORT", "0");
  long rank = atol(env_or("RANK", "-1")), world = atol(env_or("WORLD_SIZE", "0")), step = 0, sum = 0;
  verbs_state unused = {.own = NULL, .argc = argc, .argv = argv, .returned = -1};
  run_verbs(&unused, argv, 0);
  if (argc < 3 || rank < 0 || world < 1) return 2;
  snprintf(file, sizeof file, "%s/journal", argv[1]);
  snprintf(line, sizeof line, "%s %ld %ld %s:%s %d", env_or("ICE_ROUND", "x"), rank, world, addr, port,
           (int)getpid());
  append_line(file, line);
  snprintf(file, sizeof file, "%s/finish", argv[1]);
  char checkpoint[4096];
  snprintf(checkpoint, sizeof checkpoint, "%s/checkpoint", argv[1]);
  ice_store *store;
  check(ice_store_connect(addr, atoi(port), 20, &store));
  if (rank == 0) {
    if (access(checkpoint, F_OK) == 0) read_file(checkpoint, text, sizeof text);
    set(store, "begin", 0, text);
  }
  get(store, "begin", 0, text);
  sscanf(text, "%ld %ld", &step, &sum);
  for (long steps = atol(argv[2]);;) {
    /* Rank 0 says whether there is another one. */
    if (rank == 0) {
      while (step == steps && access(file, F_OK) != 0) sleep_seconds(0.005);
      set(store, "more", step, step < steps ? "1" : "0");
    }
    get(store, "more", step, text);
    if (text[0] == '0') break;
    step++;
    int64_t added = 0;
    snprintf(key, sizeof key, "sum/%ld", step);
    if (step % world == rank) check(ice_store_add(store, key, step, &added));
    snprintf(key, sizeof key, "barrier/%ld", step);
    check(ice_store_barrier(store, key, (int32_t)world, 60));
    get(store, "sum", step, text);
    sum += atol(text);
    if (rank == 0) save(checkpoint, step, sum);
    sleep_seconds(0.001);
  }
  ice_store_free(store);
  return 0;
}

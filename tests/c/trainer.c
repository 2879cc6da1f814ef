/* A toy trainer: one process of several, each adds up (rank + 1) * step for the steps 1 to STEPS and keeps what it
 * has in a checkpoint, from which it goes on when it is started again. It ends once FINISH is there as well.
 *
 *   trainer DIR STEPS        checkpoints are DIR/checkpoint.RANK, pids of attempt A are in DIR/pids.A,
 *                            FINISH is DIR/finish
 */
#include "verbs.h"

static void save(const char *file, long step, long sum) {
  char temporary[4200], text[64];
  snprintf(temporary, sizeof temporary, "%s.part", file);
  int n = snprintf(text, sizeof text, "%ld %ld\n", step, sum);
  int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  write_all(fd, text, (size_t)n);
  close(fd);
  if (rename(temporary, file)) _exit(90);
}

int main(int argc, char **argv) {
  char file[4096], text[64], pids[4096], pid[16], finish[4096];
  long rank = atol(env_or("RANK", "-1")), step = 0, sum = 0;
  verbs_state unused = {.own = NULL, .argc = argc, .argv = argv, .returned = -1};
  run_verbs(&unused, argv, 0);
  if (argc < 3 || rank < 0) return 2;
  snprintf(file, sizeof file, "%s/checkpoint.%ld", argv[1], rank);
  snprintf(pids, sizeof pids, "%s/pids.%s", argv[1], env_or("TORCHELASTIC_RESTART_COUNT", "x"));
  snprintf(finish, sizeof finish, "%s/finish", argv[1]);
  snprintf(pid, sizeof pid, "%d", (int)getpid());
  read_file(file, text, sizeof text);
  sscanf(text, "%ld %ld", &step, &sum);
  append_line(pids, pid);
  for (long steps = atol(argv[2]); step < steps || access(finish, F_OK) != 0; sleep_seconds(0.0005)) {
    if (step == steps) continue;
    step++;
    sum += (rank + 1) * step;
    save(file, step, sum);
  }
  return 0;
}

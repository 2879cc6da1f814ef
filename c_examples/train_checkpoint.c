/* The checkpoint: a file that holds the state of the training, always a whole one.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "train.h"

static const char CHECKPOINT[16] = "ice digits 1";

/* A rename is durable only when its directory is on the disk. */
static bool sync_directory_of(const char *path) {
  const char *slash = strrchr(path, '/');
  char directory[PATH_SIZE];
  int length = slash == NULL ? 0 : (int)(slash - path);
  snprintf(directory, sizeof directory, "%.*s", length == 0 ? 1 : length,
           slash == NULL ? "." : path);
  int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0)
    return false;
  bool good = fsync(fd) == 0;
  close(fd);
  return good;
}

/* Under another name first: whoever dies whenever, under `path` there is always a whole checkpoint,
 * the old one or the new one. */
int save_checkpoint(const char *path, const struct state *state) {
  char temporary[PATH_SIZE];
  if (snprintf(temporary, sizeof temporary, "%s.new", path) >= (int)sizeof temporary)
    return because(HOPELESS, "the path of the checkpoint is too long");

  FILE *file = fopen(temporary, "wb");
  if (file == NULL)
    return because(FAILED, "cannot create %s: %s", temporary, strerror(errno));
  bool written = fwrite(CHECKPOINT, sizeof CHECKPOINT, 1, file) == 1 &&
                 fwrite(state, sizeof *state, 1, file) == 1 && fflush(file) == 0 &&
                 fsync(fileno(file)) == 0;
  if (fclose(file) != 0 || !written)
    return because(FAILED, "cannot write %s: %s", temporary, strerror(errno));
  if (rename(temporary, path) != 0 || !sync_directory_of(path))
    return because(FAILED, "cannot put the checkpoint at %s: %s", path, strerror(errno));
  return GOOD;
}

/* Starts from nothing only if there is no checkpoint. One that cannot be read is an error: to lose
 * days of training silently would be worse than to stop. */
int load_checkpoint(const char *path, struct state *state) {
  FILE *file = fopen(path, "rb");
  if (file == NULL && errno == ENOENT) {
    init_state(state);
    return GOOD;
  }
  if (file == NULL)
    return because(FAILED, "cannot open the checkpoint %s: %s", path, strerror(errno));
  char head[sizeof CHECKPOINT];
  bool whole = fread(head, sizeof head, 1, file) == 1 &&
               fread(state, sizeof *state, 1, file) == 1 && fgetc(file) == EOF && !ferror(file) &&
               memcmp(head, CHECKPOINT, sizeof head) == 0;
  fclose(file);
  return whole ? GOOD : because(HOPELESS, "%s is no checkpoint of this program", path);
}

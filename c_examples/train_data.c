/* The data set: images of handwritten digits, see data/README.md.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define _GNU_SOURCE

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train.h"

enum { HELD_OUT = 5 };

static bool append(struct images *images, const struct image *image) {
  if (images->count == images->room) {
    size_t room = images->room > 0 ? 2 * images->room : 256;
    struct image *items = realloc(images->items, room * sizeof *items);
    if (items == NULL)
      return false;
    images->items = items;
    images->room = room;
  }
  images->items[images->count++] = *image;
  return true;
}

/* One line: 64 whole numbers from 0 to 16 and the digit, with commas between them. */
static bool parse_line(const char *line, struct image *image) {
  for (int i = 0; i <= PIXELS; i++) {
    char *end;
    errno = 0;
    long value = strtol(line, &end, 10);
    if (end == line || errno != 0 || value < 0 || value > (i < PIXELS ? INK : DIGITS - 1))
      return false;
    if (i < PIXELS && *end != ',')
      return false;
    if (i < PIXELS)
      image->pixels[i] = (double)value / INK;
    else
      image->digit = (int)value;
    line = i < PIXELS ? end + 1 : end;
  }
  return line[strspn(line, "\r\n")] == '\0';
}

int load_data(const char *path, struct data *data) {
  memset(data, 0, sizeof *data);
  FILE *file = fopen(path, "r");
  if (file == NULL)
    return because(HOPELESS, "cannot open the data file %s: %s", path, strerror(errno));

  int code = GOOD;
  char *line = NULL;
  size_t size = 0;
  for (size_t number = 0; code == GOOD && getline(&line, &size, file) >= 0; number++) {
    struct image image;
    if (!parse_line(line, &image))
      code = because(HOPELESS, "%s, line %zu: not 64 pixels and a digit", path, number + 1);
    else if (!append(number % HELD_OUT == 0 ? &data->test : &data->train, &image))
      code = because(FAILED, "out of memory for the data");
  }
  if (code == GOOD && ferror(file))
    code = because(FAILED, "cannot read the data file %s: %s", path, strerror(errno));
  else if (code == GOOD && data->train.count == 0)
    code = because(HOPELESS, "the data file %s has too few lines", path);
  free(line);
  fclose(file);
  return code;
}

/* icerun: --dry-run, what a run would start.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define _POSIX_C_SOURCE 200809L

#include "icerun.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RANK,
       LOCAL_RANK,
       DEVICES,
       VISIBLE,
       CPUS,
       STDOUT,
       STDERR,
       ERROR_FILE,
       COLUMNS };

static const char *const HEADS[COLUMNS] = {
  "RANK",
  "LOCAL",
  "DEVICES",
  "CUDA_VISIBLE_DEVICES",
  "CPUS",
  "STDOUT",
  "STDERR",
  "ERROR FILE",
};

/* One field of a worker; a number is written to `text`. */
static const char *field(const ice_worker_plan *worker, int column, char text[16]) {
  const char *value = text;
  switch (column) {
  case RANK: snprintf(text, 16, "%d", (int)worker->global_rank); break;
  case LOCAL_RANK: snprintf(text, 16, "%d", (int)worker->local_rank); break;
  case DEVICES: value = worker->devices; break;
  case VISIBLE: value = worker->visible_devices; break;
  case CPUS: value = worker->cpus; break;
  case STDOUT: value = worker->stdout_log; break;
  case STDERR: value = worker->stderr_log; break;
  default: value = worker->error_file; break;
  }
  return *value ? value : "-";
}

static void print_table(const ice_plan *plan) {
  size_t count = ice_plan_worker_count(plan);
  int widths[COLUMNS];
  char text[16];
  for (int column = 0; column < COLUMNS; column++) {
    widths[column] = (int)strlen(HEADS[column]);
    for (size_t i = 0; i < count; i++) {
      int width = (int)strlen(field(ice_plan_worker(plan, i), column, text));
      if (width > widths[column]) widths[column] = width;
    }
  }
  for (size_t i = 0; i <= count; i++) {
    for (int column = 0; column < COLUMNS; column++) {
      const char *value =
        i == 0 ? HEADS[column] : field(ice_plan_worker(plan, i - 1), column, text);
      int last = column == COLUMNS - 1;
      printf("%-*s%s", last ? 0 : widths[column], value, last ? "\n" : "  ");
    }
  }
}

/* A word as a shell would have to read it. */
static void print_word(const char *word) {
  int plain = *word != '\0';
  for (const char *c = word; *c; c++) {
    if (!isalnum((unsigned char)*c) && !strchr("_-+=./:,@%", *c)) plain = 0;
  }
  if (plain) {
    fputs(word, stdout);
    return;
  }
  /* Between $' and ' a shell takes escapes: a terminal is to see no control character. */
  int escapes = 0;
  for (const char *c = word; *c; c++) escapes |= control_length(c) > 0;
  fputs(escapes ? "$'" : "'", stdout);
  for (const char *c = word; *c; c++) {
    int length = control_length(c);
    if (length > 0) {
      for (int i = 0; i < length; i++) printf("\\x%02x", (unsigned char)c[i]);
      c += length - 1;
    } else if (escapes && strchr("'\\", *c)) {
      printf("\\%c", *c);
    } else if (*c == '\'') {
      fputs("'\\''", stdout);
    } else {
      putchar(*c);
    }
  }
  putchar('\'');
}

static int has(const char *const *list, const char *text) {
  for (; *list; list++) {
    if (strcmp(*list, text) == 0) return 1;
  }
  return 0;
}

/* Whether every worker has this very variable. */
static int all_have(const ice_plan *plan, const char *variable) {
  for (size_t i = 0; i < ice_plan_worker_count(plan); i++) {
    if (!has(ice_plan_worker(plan, i)->env, variable)) return 0;
  }
  return 1;
}

/* The variables that icerun itself does not have so: those of all workers alike, or the others. */
static void print_env(const ice_plan *plan, const ice_worker_plan *worker, int common) {
  extern char **environ;
  for (const char *const *variable = worker->env; *variable; variable++) {
    if (has((const char *const *)environ, *variable)) continue;
    if (all_have(plan, *variable) != common) continue;
    fputs("  ", stdout);
    print_word(*variable);
    putchar('\n');
  }
}

/* What a scheduler has said, and where it stands. */
static void print_sources(const ice_plan *plan) {
  size_t count = ice_plan_source_count(plan);
  for (size_t i = 0; i < count; i++) {
    const ice_plan_source *said = ice_plan_source_at(plan, i);
    printf("%s: %s (%s)\n", said->option, said->value, said->source);
  }
  if (count > 0) putchar('\n');
}

int print_plan(const ice_plan *plan) {
  size_t count = ice_plan_worker_count(plan);
  print_sources(plan);
  print_table(plan);
  puts("\nall ranks");
  print_env(plan, ice_plan_worker(plan, 0), 1);
  for (size_t i = 0; i < count; i++) {
    const ice_worker_plan *worker = ice_plan_worker(plan, i);
    printf("\nrank %d\n ", (int)worker->global_rank);
    for (int32_t word = 0; word < worker->argc; word++) {
      putchar(' ');
      print_word(worker->argv[word]);
    }
    putchar('\n');
    /* Alone it has everything in common with itself. */
    print_env(plan, worker, 0);
  }
  return fflush(stdout) == 0 && !ferror(stdout) ? 0 : 1;
}

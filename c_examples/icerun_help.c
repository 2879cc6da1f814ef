/* icerun: the text of --help, made from the table of options.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#include "icerun.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Prints words in lines of up to 88 bytes, each after `indent` blanks. */
static void print_wrapped(const char *text, int indent) {
  int column = 0;
  while (*text) {
    int length = (int)strcspn(text, " ");
    if (column > 0 && column + 1 + length > 88) {
      putchar('\n');
      column = 0;
    }
    const char *gap = column > 0 ? " " : "";
    column += printf("%*s%s%.*s", column > 0 ? 0 : indent, "", gap, length, text);
    text += length;
    text += strspn(text, " ");
  }
  putchar('\n');
}

static void print_option(const struct option *option) {
  int column = printf("  ");
  if (option->letter) column += printf("-%c, ", option->letter);
  const char *argument = option->argument ? option->argument : "";
  column += printf("--%s%s%s", option->name, *argument ? " " : "", argument);
  if (option > &OPTIONS[OPT_PRINT_COMPLETION] && !option->missing) {
    char variable[OPTION_VARIABLE];
    const char *standard = option->standard ? option->standard : *argument ? "none"
                                                                           : "0";
    option_variable(option, variable);
    printf("%*s[%s, default: %s]", column < 42 ? 42 - column : 1, "", variable, standard);
  }
  putchar('\n');
  print_wrapped(option->help, 8);
}

void print_help(void) {
  options_order();
  puts("Usage: icerun [OPTIONS] SCRIPT [ARGUMENTS...]\n");
  print_wrapped(
    "Starts SCRIPT as the workers of a parallel program, one process for each rank, "
    "watches them, starts all again when one fails, and reports what became of them. "
    "Each worker runs `python3 -u SCRIPT ARGUMENTS...` (`python` where there is no "
    "python3; the variable PYTHON_EXEC names another one) and finds RANK, WORLD_SIZE, "
    "MASTER_ADDR and the other variables of torchrun in its environment. "
    "${local_rank} is filled in in ARGUMENTS; $${local_rank} stays, as ${local_rank}.",
    0);
  const char *heading = "";
  for (size_t i = 0; i < OPTION_COUNT; i++) {
    if (strcmp(heading, SHOWN[i]->heading) != 0) printf("\n%s:\n", SHOWN[i]->heading);
    heading = SHOWN[i]->heading;
    print_option(SHOWN[i]);
  }
  putchar('\n');
  print_wrapped(
    "The variable in brackets, if it is set and not empty, is used where the option is "
    "not given; flags are 0 or 1 there. Names may have _ for -, and may be cut short "
    "where that is not ambiguous. Options end at SCRIPT or at --.",
    0);
  puts(
    "\nExit status:\n"
    "    0  all workers exited with 0, or the job succeeded without this node\n"
    "    n  a worker failed: the exit code of the one that failed first, or 128 + the signal\n"
    "       that killed it (1 with --compat-exit-code, as for 124)\n"
    "    2  wrong options; nothing was started\n"
    "  123  the workers could not be started, but for 126 and 127: no log directory, no memory,\n"
    "       no more processes, a port in use\n"
    "  124  a worker was stuck (a timer, heartbeat, section or limit of its expired), and ended\n"
    "  125  the agent itself could not go on\n"
    "  126  the program was found but cannot be executed\n"
    "  127  the program, or its interpreter, was not found\n"
    "  A run that a signal stopped ends by that signal (a shell shows 128 + its number).");
  /* A help that could not be written is no success. */
  exit(fflush(stdout) == 0 && !ferror(stdout) ? 0 : 1);
}

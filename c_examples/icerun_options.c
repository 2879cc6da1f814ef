/* icerun: reads the options from the command line and from PET_ variables.
 *
 * The rules are torchrun's: `--long-name` or `--long_name` or any unambiguous beginning of it, its
 * value after `=` or as the next argument; PET_LONG_NAME in the environment is the default. Options
 * stop at the script: what comes after it is the script's.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define _POSIX_C_SOURCE 200809L

#include "icerun.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- messages ---- */

/* Where notices wait until all options are known to be good: what is wrong is one line. */
static char *HELD;
static size_t HELD_SIZE;
static FILE *HOLDING;

int control_length(const char *text) {
  const unsigned char *c = (const unsigned char *)text;
  if (c[0] == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0) return 2; /* one of the further 32, in UTF-8 */
  return *c && iscntrl(*c) ? 1 : 0;
}

/* Whatever a user's value holds, a message is one line. */
static void print_line(FILE *to, const char *format, va_list arguments) {
  char line[2048];
  vsnprintf(line, sizeof line, format, arguments);
  for (char *c = line; *c; c++) {
    for (int length = control_length(c); length > 0; length--) c[length - 1] = '?';
  }
  fprintf(to, "icerun: %s\n", line);
}

void usage_error(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  print_line(stderr, format, arguments);
  va_end(arguments);
  exit(EXIT_USAGE);
}

void notice(const struct options *options, const char *format, ...) {
  if (option_on(options, OPT_QUIET)) return;
  va_list arguments;
  va_start(arguments, format);
  print_line(HOLDING ? HOLDING : stderr, format, arguments);
  va_end(arguments);
}

void hold_notices(void) { HOLDING = open_memstream(&HELD, &HELD_SIZE); }

void release_notices(void) {
  if (!HOLDING) return;
  fclose(HOLDING);
  HOLDING = NULL;
  fputs(HELD, stderr);
  free(HELD);
}

/* `max-restarts` as `PET_MAX_RESTARTS`. */
void option_variable(const struct option *option, char name[OPTION_VARIABLE]) {
  snprintf(name, OPTION_VARIABLE, "PET_%s", option->name);
  for (char *c = name; *c; c++) *c = *c == '-' ? '_' : (char)toupper((unsigned char)*c);
}

void bad_value(const struct options *options, size_t id, const char *want) {
  bad_text(options, id, option_text(options, id), want);
}

void bad_text(const struct options *options, size_t id, const char *value, const char *want) {
  const struct option *option = &OPTIONS[id];
  if (!options->settings[id].on_command_line && value != option->standard) {
    char variable[OPTION_VARIABLE];
    option_variable(option, variable);
    usage_error("%s=%s: %s", variable, value, want);
  }
  usage_error("--%s%s%s: %s", option->name, option->argument ? " " : "",
              option->argument && value ? value : "", want);
}

/* ---- values ---- */

int option_on(const struct options *options, size_t id) {
  return options->settings[id].value != NULL;
}

int option_filled(const struct options *options, size_t id) {
  const char *value = options->settings[id].value;
  return value && *value;
}

const char *option_text(const struct options *options, size_t id) {
  const char *value = options->settings[id].value;
  return value ? value : OPTIONS[id].standard;
}

static int is_digit(char c) { return isdigit((unsigned char)c) != 0; }

/* What Python leaves out of a number: blanks around it, and each _ between two digits. 0 if it is none. */
static int bare_number(const char *text, char bare[64]) {
  size_t length = 0;
  while (isspace((unsigned char)*text)) text++;
  const char *end = text + strlen(text);
  while (end > text && isspace((unsigned char)end[-1])) end--;
  for (const char *c = text; c < end; c++) {
    if (*c == '_' && c > text && is_digit(c[-1]) && is_digit(c[1])) continue;
    if (!isalnum((unsigned char)*c) && !strchr("+-.", *c)) return 0;
    if (length == 63) return 0;
    bare[length++] = *c;
  }
  bare[length] = '\0';
  return length > 0;
}

int read_integer(const char *text, int64_t *out) {
  char bare[64], *end;
  if (!bare_number(text, bare)) return 0;
  *out = strtoll(bare, &end, 10); /* out of range is the largest there is, which nothing takes */
  return end != bare && !*end;
}

int read_number(const char *text, double *out) {
  char bare[64], *end;
  /* Hexadecimal is none of Python's. */
  if (!bare_number(text, bare) || strpbrk(bare, "xX")) return 0;
  *out = strtod(bare, &end);
  return end != bare && !*end;
}

int64_t option_integer(const struct options *options, size_t id) {
  int64_t value;
  if (read_integer(option_text(options, id), &value)) return value;
  bad_value(options, id, "must be a whole number");
}

double option_number(const struct options *options, size_t id) {
  double value;
  if (read_number(option_text(options, id), &value)) return value;
  bad_value(options, id, "must be a number");
}

/* ---- reading ---- */

static void add_env(struct options *options, const char *text, size_t length) {
  char **env = realloc(options->env, (options->env_count + 1) * sizeof *env);
  char *copy = malloc(length + 1);
  if (!env || !copy) usage_error("out of memory");
  memcpy(copy, text, length);
  copy[length] = '\0';
  if (!strchr(copy, '=')) usage_error("--env %s: must be NAME=VALUE", copy);
  env[options->env_count++] = copy;
  options->env = env;
}

static void add_item(struct options *options, size_t id, const char *value) {
  struct item *items = realloc(options->items, (options->item_count + 1) * sizeof *items);
  if (!items) usage_error("out of memory");
  items[options->item_count++] = (struct item){id, value};
  options->items = items;
}

/* A variable of an option that repeats has a value in each line. */
static void add_lines(struct options *options, size_t id, const char *text) {
  for (const char *line = text; *line; line += *line == '\n') {
    size_t length = strcspn(line, "\n");
    if (length > 0 && id == OPT_ENV) {
      add_env(options, line, length);
    } else if (length > 0) {
      char *copy = calloc(1, length + 1);
      if (!copy) usage_error("out of memory");
      add_item(options, id, memcpy(copy, line, length));
    }
    line += length;
  }
}

static void set(struct options *options, size_t id, const char *value, int given) {
  options->settings[id] = (struct setting){value, given};
  if (OPTIONS[id].missing) bad_value(options, id, OPTIONS[id].missing);
  int repeats = id == OPT_ENV || option_repeats(id);
  if (repeats && !given) {
    add_lines(options, id, value);
  } else if (id == OPT_ENV) {
    add_env(options, value, strlen(value));
  } else if (repeats) {
    add_item(options, id, value);
  }
}

/* The variables of options that the command line has not given. Within a worker they are those of the run that it
 * belongs to: its number of nodes and its place to meet are not this one's. */
static void read_environment(struct options *options) {
  int in_worker = getenv("TORCHELASTIC_RUN_ID") != NULL;
  for (size_t id = OPT_PRINT_COMPLETION + 1; id < OPTION_COUNT; id++) {
    char variable[OPTION_VARIABLE];
    option_variable(&OPTIONS[id], variable);
    const char *value = getenv(variable);
    /* What is refused has no variable: torchrun has none for it either. */
    if (!value || !*value || option_on(options, id) || OPTIONS[id].missing) continue;
    if (in_worker) {
      notice(options, "%s is of the run that this process is a worker of: not read, give --%s", variable,
             OPTIONS[id].name);
      continue;
    }
    if (!OPTIONS[id].argument) {
      int64_t number;
      if (!read_integer(value, &number)) usage_error("%s=%s: must be 0 or 1", variable, value);
      /* Off says something only where the file may say otherwise. */
      if (number == 0 && !(OPTIONS[id].library && option_filled(options, OPT_CONFIG))) continue;
      value = number == 0 ? "0" : "1";
    }
    set(options, id, value, 0);
  }
}

/* Whether the `length` bytes at `text` are how `name` begins; `_` stands for `-`. */
static int begins(const char *name, const char *text, size_t length) {
  for (size_t i = 0; i < length; i++) {
    if ((name[i] == '_' ? '-' : name[i]) != (text[i] == '_' ? '-' : text[i])) return 0;
  }
  return 1;
}

/* Whether it is all of an option's name, or of another name that it has. */
static int is_name(size_t id, const char *text, size_t length) {
  const ice_option *library = OPTIONS[id].library;
  const char *names[] = {OPTIONS[id].name, library ? library->name : "", library ? library->also : ""};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    if (strlen(names[i]) == length && length > 0 && begins(names[i], text, length)) return 1;
  }
  return 0;
}

static size_t find_long(const char *text, size_t length) {
  size_t found = OPTION_COUNT;
  for (size_t id = 0; id < OPTION_COUNT; id++) {
    if (is_name(id, text, length)) return id;
  }
  for (size_t id = 0; id < OPTION_COUNT; id++) {
    if (!begins(OPTIONS[id].name, text, length)) continue;
    if (found != OPTION_COUNT) {
      usage_error("--%.*s may be --%s or --%s", (int)length, text, OPTIONS[found].name,
                  OPTIONS[id].name);
    }
    found = id;
  }
  if (found < OPTION_COUNT) return found;
  usage_error("no such option: --%.*s (see icerun --help)", (int)length, text);
}

static size_t find_letter(char letter) {
  for (size_t id = 0; id < OPTION_COUNT; id++) {
    if (OPTIONS[id].letter == letter) return id;
  }
  usage_error("no such option: -%c (see icerun --help)", letter);
}

/* The value that follows an option; one that looks like the next option is a forgotten value. */
static const char *next_value(size_t id, const char *next) {
  const char *name = OPTIONS[id].name;
  if (!next) usage_error("--%s needs a value", name);
  if (next[0] == '-' && next[1] && !isdigit((unsigned char)next[1]) && next[1] != '.') {
    usage_error("--%s needs a value, not %s (if that is it: --%s=%s)", name, next, name, next);
  }
  return next;
}

/* Reads one `--name`, with the argument after it if it is needed; returns how many were used. */
static int read_long(struct options *options, char **argv) {
  const char *name = argv[0] + 2;
  size_t length = strcspn(name, "=");
  const char *value = name[length] ? name + length + 1 : NULL;
  size_t id = find_long(name, length);
  if (!OPTIONS[id].argument) {
    if (value) usage_error("--%s takes no value", OPTIONS[id].name);
    set(options, id, "1", 1);
    return 1;
  }
  set(options, id, value ? value : next_value(id, argv[1]), 1);
  return value ? 1 : 2;
}

/* Reads one `-m`, `-r 3`, `-r3`, `-r=3` or `-mr3`. */
static int read_letters(struct options *options, char **argv) {
  for (const char *letter = argv[0] + 1; *letter; letter++) {
    size_t id = find_letter(*letter);
    if (OPTIONS[id].argument) {
      const char *rest = letter + 1 + (letter[1] == '=');
      set(options, id, letter[1] ? rest : next_value(id, argv[1]), 1);
      return letter[1] ? 1 : 2;
    }
    set(options, id, "1", 1);
  }
  return 1;
}

void options_read(struct options *options, char **argv) {
  memset(options, 0, sizeof *options);
  options_make();
  options->settings = calloc(OPTION_COUNT, sizeof *options->settings);
  if (!options->settings) usage_error("out of memory");
  argv += argv[0] != NULL;
  while (*argv && (*argv)[0] == '-' && (*argv)[1]) {
    if (strcmp(*argv, "--") == 0) {
      argv++;
      break;
    }
    argv += (*argv)[1] == '-' ? read_long(options, argv) : read_letters(options, argv);
    if (option_on(options, OPT_HELP)) print_help();
    if (option_on(options, OPT_PRINT_COMPLETION)) {
      print_completion(option_text(options, OPT_PRINT_COMPLETION));
    }
    if (option_on(options, OPT_VERSION)) {
      printf("icerun %s\n", ice_version());
      exit(fflush(stdout) == 0 ? 0 : 1);
    }
  }
  read_environment(options);
  options->command = argv;
  if (!*argv && !option_filled(options, OPT_CONFIG)) usage_error("which script? (see icerun --help)");
}

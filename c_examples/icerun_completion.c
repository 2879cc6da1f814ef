/* icerun: --print-completion, made from the table of options. A shell that has read it completes the
 * options up to the script, and files from there on.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#include "icerun.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what the table tells ---- */

/* The next option that may be given, from this one on in the order of the help; NULL after the last. */
static const struct option **usable(const struct option **at) {
  while (at < SHOWN + OPTION_COUNT && (*at)->missing) at++;
  return at < SHOWN + OPTION_COUNT ? at : NULL;
}

#define EACH_OPTION(at)                     \
  const struct option **at = usable(SHOWN); \
  at;                                       \
  at = usable(at + 1)

/* What a shell offers for a value. */
enum kind { ANYTHING,
            WORDS,
            FILES,
            DIRECTORIES };

static enum kind kind_of(const struct option *option) {
  const char *what = option->argument ? option->argument : "";
  if (option->words) return WORDS;
  if (strcmp(what, "DIR") == 0) return DIRECTORIES;
  return strcmp(what, "FILE") == 0 || strcmp(what, "PATH") == 0 ? FILES : ANYTHING;
}

/* The names of all options that take a value, or only of those of one kind, with `between` them. */
static void print_names(const char *between, int any, enum kind kind) {
  int count = 0;
  for (EACH_OPTION(at)) {
    const struct option *option = *at;
    if (!option->argument || (!any && kind_of(option) != kind)) continue;
    if (option->letter) printf("%s-%c", count++ ? between : "", option->letter);
    printf("%s--%s", count++ ? between : "", option->name);
  }
}

/* The first sentence of the help within single quotes; `escaped` characters have a backslash before
 * them, and `quote` is how the shell has a single quote there. */
static void print_help_of(const struct option *option, const char *escaped, const char *quote) {
  for (const char *c = option->help; *c && !(c[0] == '.' && (c[1] == ' ' || !c[1])); c++) {
    if (*c == '\'') {
      fputs(quote, stdout);
    } else {
      if (strchr(escaped, *c)) putchar('\\');
      putchar(*c);
    }
  }
}

/* ---- the shells ---- */

static void print_bash(void) {
  puts(
    "_icerun() {\n"
    "  local word wants= i current=${COMP_WORDS[COMP_CWORD]}\n"
    "  COMPREPLY=()\n"
    "  # bash parts a word at each =.\n"
    "  [ \"$current\" != = ] || current=\n"
    "  for ((i = 1; i < COMP_CWORD; i++)); do\n"
    "    word=${COMP_WORDS[i]}\n"
    "    if [ \"$word\" = = ]; then continue; fi\n"
    "    if [ -n \"$wants\" ]; then wants=; continue; fi\n"
    "    case $word in\n"
    "      --) return ;;");
  fputs("      ", stdout);
  print_names("|", 1, ANYTHING);
  puts(
    ") wants=$word ;;\n"
    "      -*) ;;\n"
    "      *) return ;;\n"
    "    esac\n"
    "  done\n"
    "  case $wants in\n"
    "    '') ;;");
  for (EACH_OPTION(at)) {
    const struct option *option = *at;
    if (kind_of(option) != WORDS) continue;
    printf("    --%s) COMPREPLY=($(compgen -W '%s' -- \"$current\")); return ;;\n", option->name,
           option->words);
  }
  fputs("    ", stdout);
  print_names("|", 0, DIRECTORIES);
  puts(
    ") COMPREPLY=($(compgen -d -- \"$current\")); return ;;\n"
    "    *) return ;;\n"
    "  esac\n"
    "  case $current in\n"
    "    -*) COMPREPLY=($(compgen -W '");
  for (EACH_OPTION(at)) {
    const struct option *option = *at;
    if (option->letter) printf("-%c ", option->letter);
    printf("--%s\n", option->name);
  }
  puts(
    "' -- \"$current\")) ;;\n"
    "  esac\n"
    "}\n"
    "complete -o default -F _icerun icerun");
}

/* One spec of _arguments: 'NAME[HELP]' or 'NAME[HELP]:WHAT:ACTION'. */
static void print_zsh_option(const struct option *option, const char *name, const char *joint) {
  printf("    '%s%s[", name, option->argument ? joint : "");
  print_help_of(option, "[]:\\", "'\\''");
  putchar(']');
  if (option->argument) {
    /* Its colon would end the name of what is wanted. */
    putchar(':');
    for (const char *c = option->argument; *c; c++) printf(*c == ':' ? "\\:" : "%c", *c);
    putchar(':');
    switch (kind_of(option)) {
    case WORDS: printf("(%s)", option->words); break;
    case FILES: fputs("_files", stdout); break;
    case DIRECTORIES: fputs("_files -/", stdout); break;
    case ANYTHING: break;
    }
  }
  puts("' \\");
}

static void print_zsh(void) {
  puts(
    "#compdef icerun\n"
    "_icerun() {\n"
    "  _arguments -S \\");
  for (EACH_OPTION(at)) {
    const struct option *option = *at;
    char name[OPTION_VARIABLE + 2];
    snprintf(name, sizeof name, "--%s", option->name);
    print_zsh_option(option, name, "=");
    if (!option->letter) continue;
    snprintf(name, sizeof name, "-%c", option->letter);
    print_zsh_option(option, name, "+");
  }
  puts(
    "    '(-)1:script:_files' \\\n"
    "    '(-)*:argument:_files'\n"
    "}\n"
    "if [ \"${funcstack[1]}\" = _icerun ]; then _icerun \"$@\"; else compdef _icerun icerun; fi");
}

static void print_fish(void) {
  puts(
    "function __icerun_before_script\n"
    "  set -l words (commandline -opc)\n"
    "  set -e words[1]\n"
    "  while set -q words[1]\n"
    "    switch $words[1]\n"
    "      case --\n"
    "        return 1");
  fputs("      case ", stdout);
  print_names(" ", 1, ANYTHING);
  puts(
    "\n"
    "        set -e words[1]\n"
    "      case '-*'\n"
    "      case '*'\n"
    "        return 1\n"
    "    end\n"
    "    set -e words[1]\n"
    "  end\n"
    "end");
  for (EACH_OPTION(at)) {
    const struct option *option = *at;
    printf("complete -c icerun -n __icerun_before_script -l %s", option->name);
    if (option->letter) printf(" -s %c", option->letter);
    if (option->argument) fputs(kind_of(option) == FILES ? " -r -F" : " -x", stdout);
    if (kind_of(option) == WORDS) printf(" -a '%s'", option->words);
    if (kind_of(option) == DIRECTORIES) fputs(" -a '(__fish_complete_directories)'", stdout);
    fputs(" -d '", stdout);
    print_help_of(option, "\\", "\\'");
    puts("'");
  }
}

void print_completion(const char *shell) {
  options_order();
  if (strcmp(shell, "bash") == 0) {
    print_bash();
  } else if (strcmp(shell, "zsh") == 0) {
    print_zsh();
  } else if (strcmp(shell, "fish") == 0) {
    print_fish();
  } else {
    usage_error("--print-completion %s: must be bash, zsh or fish", shell);
  }
  exit(fflush(stdout) == 0 && !ferror(stdout) ? 0 : 1);
}

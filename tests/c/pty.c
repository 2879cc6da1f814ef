/* Runs a program in the foreground of a terminal of its own and types ^C there once FILE has LINES lines.
 *   pty FILE LINES PROGRAM ARGS...      exits as the program did */
#include <pty.h>

#include "verbs.h"

int main(int argc, char **argv) {
  int terminal, status = 0, typed = 0;
  char buffer[4096];
  if (argc < 4) return 2;
  pid_t pid = forkpty(&terminal, NULL, NULL, NULL);
  if (pid < 0) return 3;
  if (pid == 0) {
    execv(argv[3], argv + 3);
    _exit(127);
  }
  fcntl(terminal, F_SETFL, O_NONBLOCK);
  while (waitpid(pid, &status, WNOHANG) == 0) {
    while (read(terminal, buffer, sizeof buffer) > 0) {
    }
    if (!typed && count_lines(argv[1]) >= atoi(argv[2])) {
      write_all(terminal, "\003", 1);
      typed = 1;
    }
    sleep_seconds(0.005);
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Runs a command as the foreground of a terminal of its own. Its standard input is typed there, what the terminal
 * shows goes to its standard output; at the end of its input the terminal hangs up. Ends as the command does, with
 * 128 + N for a signal.
 *
 *   terminal PROGRAM ARGS...
 */
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

static int copy(int from, int to) {
  char buffer[4096];
  ssize_t n = read(from, buffer, sizeof buffer);
  for (ssize_t done = 0, w; done < n; done += w)
    if ((w = write(to, buffer + done, (size_t)(n - done))) <= 0) return 0;
  return n > 0;
}

int main(int argc, char **argv) {
  int terminal = -1, status = 0;
  if (argc < 2) return 2;
  signal(SIGPIPE, SIG_IGN);
  pid_t pid = forkpty(&terminal, NULL, NULL, NULL);
  if (pid == 0) {
    signal(SIGPIPE, SIG_DFL);
    execvp(argv[1], argv + 1);
    _exit(127);
  }
  if (pid < 0) return 2;
  struct pollfd items[2] = {{.fd = terminal, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
  for (;;) {
    if (poll(items, 2, -1) < 0) continue;
    if (items[0].revents && !copy(terminal, 1)) break; /* EIO: nobody has it open any more */
    if (items[1].revents && !copy(0, terminal)) {
      close(terminal);
      break;
    }
  }
  while (waitpid(pid, &status, 0) < 0) {
  }
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

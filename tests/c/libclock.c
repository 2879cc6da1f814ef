/* Preloaded: a wall clock that somebody has set. It is off by the seconds in the file that CLOCK_STEP names, if
 * that is there; the monotonic clock is as it was. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
  long result = syscall(SYS_clock_gettime, clock, time);
  const char *file = getenv("CLOCK_STEP");
  if (result == 0 && clock == CLOCK_REALTIME && file) {
    char text[32];
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    if (fd >= 0) close(fd);
    text[length > 0 ? length : 0] = 0;
    time->tv_sec += atol(text);
  }
  return (int)result;
}

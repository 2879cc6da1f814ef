/* icerun: how many CPUs there are to use: those this process may run on, and no more than what the
 * control groups around it grant (a container with `--cpus 2` sees all CPUs of its host).
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define _GNU_SOURCE /* sched_getaffinity and sets of more than 1024 CPUs */

#include "icerun.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int64_t in_affinity_mask(void) {
  for (size_t size = 1024; size <= 1 << 20; size *= 2) {
    cpu_set_t *set = CPU_ALLOC(size);
    if (!set) break;
    size_t bytes = CPU_ALLOC_SIZE(size);
    int count = sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (count > 0) return count;
  }
  return sysconf(_SC_NPROCESSORS_ONLN);
}

/* The first number in a file; 0 if there is none (`max`, no such file), so none that limits. */
static double first_number(const char *group, const char *name, double *second) {
  char path[8192];
  double first = 0;
  snprintf(path, sizeof path, "%s/%s", group, name);
  FILE *file = fopen(path, "re");
  if (!file) return 0;
  int read = fscanf(file, "%lf %lf", &first, second);
  fclose(file);
  return read > 0 ? first : 0;
}

/* How many CPUs' worth of time a group may use: microseconds, of so many. 0 if it has no limit. */
static double granted(const char *group) {
  double period = 0, unused;
  double quota = first_number(group, "cpu.max", &period); /* cgroup v2 */
  if (quota <= 0) {
    quota = first_number(group, "cpu.cfs_quota_us", &unused); /* v1; -1 for no limit */
    period = first_number(group, "cpu.cfs_period_us", &unused);
  }
  return quota > 0 && period > 0 ? quota / period : 0;
}

/* Lowers `count` to what is granted at `mount` + `path` and in every group above. A container may
 * not see its own group by that path: what is not there has no say, the mount itself has. */
static int64_t limited_by(const char *mount, const char *path, int64_t count) {
  char group[4608];
  snprintf(group, sizeof group, "%s%s", mount, path);
  for (;;) {
    double cpus = granted(group);
    if (cpus > 0 && cpus < (double)count) count = cpus < 1 ? 1 : (int64_t)cpus;
    char *last = strrchr(group, '/');
    if (strlen(group) <= strlen(mount) || !last) return count;
    *last = '\0';
  }
}

/* The lines of /proc/self/cgroup are `0::/path` for v2 and `4:cpu,cpuacct:/path` for v1. */
int64_t usable_cpus(void) {
  int64_t count = in_affinity_mask();
  FILE *file = fopen("/proc/self/cgroup", "re");
  char line[4096];
  while (file && fgets(line, sizeof line, file)) {
    line[strcspn(line, "\n")] = '\0';
    char *names = strchr(line, ':');
    char *path = names ? strchr(names + 1, ':') : NULL;
    if (!path) continue;
    *path++ = '\0';
    if (strcmp(names, ":") == 0) {
      count = limited_by("/sys/fs/cgroup", path, count);
    } else if (strncmp(names, ":cpu", 4) == 0 && (names[4] == '\0' || names[4] == ',')) {
      count = limited_by("/sys/fs/cgroup/cpu", path, count);
    }
  }
  if (file) fclose(file);
  return count > 0 ? count : 1;
}

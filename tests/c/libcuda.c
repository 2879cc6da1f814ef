/* As much of the CUDA driver as the library asks, with GPUs that these variables describe:
 *   STUB_CUDA_COUNT=N          how many there are; 1
 *   STUB_CUDA_GONE=FILE        without the one whose number is in this file, if it is there
 *   CUDA_VISIBLE_DEVICES       as CUDA reads it: numbers and UUIDs, up to the first that is none
 *   STUB_CUDA_MIG=N            this one is a MIG device
 *   STUB_CUDA_PCI=ID           the bus id of the first
 *   STUB_CUDA_FAIL=CALL=CODE   this call returns that number
 *   STUB_CUDA_HANG=CALL        this call never returns, from when the file STUB_CUDA_HANG_IF is there if that is set
 *   STUB_CUDA_CRASH=CALL       this call crashes
 *   STUB_CUDA_EXIT=CALL        this call ends the process with code 3
 *   STUB_CUDA_CHILD=CALL       this call leaves a child that lives on
 *   STUB_CUDA_AT_EXIT=1        an exit function never returns
 *   STUB_CUDA_LOG=FILE         each cuInit appends its process
 *   STUB_CUDA_DUMP=FILE        cuInit writes the state of its process
 * Built with -DWITHOUT_<function> it lacks that one. */
#include "verbs.h"

enum { NOT_INITIALIZED = 3,
       NO_DEVICE = 100,
       INVALID_DEVICE = 101 };

static int INITIALISED;

int cuInit(unsigned flags);
int cuDriverGetVersion(int *version);
int cuDeviceGetCount(int *count);
int cuDeviceGet(int *device, int ordinal);
int cuDeviceGetName(char *name, int length, int device);
int cuDeviceGetUuid(unsigned char *uuid, int device);
int cuDeviceGetUuid_v2(unsigned char *uuid, int device);
int cuDeviceGetPCIBusId(char *id, int length, int device);
int cuDeviceTotalMem_v2(size_t *bytes, int device);
int cuDeviceGetAttribute(int *value, int attribute, int device);
int cuGetErrorString(int error, const char **text);

static int number(const char *variable, int otherwise) {
  const char *value = getenv(variable);
  return value ? atoi(value) : otherwise;
}

static int names(const char *variable, const char *call) {
  const char *value = getenv(variable);
  return value && strcmp(value, call) == 0;
}

static int is_gone(int gpu) {
  char text[32];
  const char *file = getenv("STUB_CUDA_GONE");
  if (!file || access(file, F_OK) != 0) return 0;
  read_file(file, text, sizeof text);
  return atoi(text) == gpu;
}

/* The GPUs that are shown, in order, by the numbers that they have without a variable; how many. */
static int visible(int gpus[64]) {
  int all[64], there = 0, count = 0, most = number("STUB_CUDA_COUNT", 1);
  for (int gpu = 0; gpu < most && gpu < 64; gpu++)
    if (!is_gone(gpu)) all[there++] = gpu;
  const char *at = getenv("CUDA_VISIBLE_DEVICES");
  if (!at) {
    memcpy(gpus, all, sizeof all);
    return there;
  }
  while (*at && count < 64) {
    int found = -1;
    char text[64];
    size_t length = strcspn(at, ",");
    snprintf(text, sizeof text, "%.*s", (int)length, at);
    if (strncmp(text, "GPU-", 4) == 0) {
      for (int i = 0; i < there; i++) {
        char start[8];
        snprintf(start, sizeof start, "%02x", all[i]);
        if (strncmp(text + 4, start, 2) == 0) found = all[i];
      }
    } else if (*text >= '0' && *text <= '9' && atoi(text) < there) {
      found = all[atoi(text)];
    }
    if (found < 0) break;
    for (int i = 0; i < count; i++)
      if (gpus[i] == found) return 0;
    gpus[count++] = found;
    at += length + (at[length] == ',');
  }
  return count;
}

static void hang(void) {
  for (;;) pause();
}

/* What a call comes to before it does anything: 0 if it is to go on. */
static int fate(const char *call) {
  const char *fail = getenv("STUB_CUDA_FAIL");
  size_t length = strlen(call);
  if (names("STUB_CUDA_CHILD", call) && fork() == 0) {
    sleep_seconds(LONGEST);
    _exit(0);
  }
  const char *hang_if = getenv("STUB_CUDA_HANG_IF");
  if (names("STUB_CUDA_HANG", call) && (!hang_if || access(hang_if, F_OK) == 0)) hang();
  if (names("STUB_CUDA_CRASH", call)) *(volatile int *)8 = 1;
  if (names("STUB_CUDA_EXIT", call)) _exit(3);
  if (fail && strncmp(fail, call, length) == 0 && fail[length] == '=') return atoi(fail + length + 1);
  if (!INITIALISED && strcmp(call, "cuInit") != 0) return NOT_INITIALIZED;
  return 0;
}

#define BEGIN()                 \
  do {                          \
    int code = fate(__func__);  \
    if (code != 0) return code; \
  } while (0)

#ifndef WITHOUT_cuInit
int cuInit(unsigned flags) {
  verbs_state state = {0};
  (void)flags;
  append_line(env_or("STUB_CUDA_LOG", "/dev/null"), fill("%p"));
  if (getenv("STUB_CUDA_DUMP")) dump_state(&state, getenv("STUB_CUDA_DUMP"));
  if (getenv("STUB_CUDA_AT_EXIT")) atexit(hang);
  BEGIN();
  INITIALISED = 1;
  return number("STUB_CUDA_COUNT", 1) < 0 ? NO_DEVICE : 0;
}
#endif

int cuDriverGetVersion(int *version) {
  int was = INITIALISED, code;
  INITIALISED = 1; /* the only one that may be called before cuInit */
  code = fate(__func__);
  INITIALISED = was;
  *version = 13040;
  return code;
}

int cuDeviceGetCount(int *count) {
  BEGIN();
  int gpus[64];
  *count = visible(gpus);
  return 0;
}

/* A handle is no ordinal. */
int cuDeviceGet(int *device, int ordinal) {
  BEGIN();
  int gpus[64];
  if (ordinal < 0 || ordinal >= visible(gpus)) return INVALID_DEVICE;
  *device = gpus[ordinal] + 1000;
  return 0;
}

#ifndef WITHOUT_cuDeviceGetName
int cuDeviceGetName(char *name, int length, int device) {
  BEGIN();
  snprintf(name, (size_t)length, "Stub GPU %d", device - 1000);
  return 0;
}
#endif

#ifndef WITHOUT_cuDeviceGetUuid
int cuDeviceGetUuid(unsigned char *uuid, int device) {
  BEGIN();
  for (int i = 0; i < 16; i++) uuid[i] = (unsigned char)(i * 17);
  uuid[0] = (unsigned char)(device - 1000);
  return 0;
}
#endif

#ifndef WITHOUT_cuDeviceGetUuid_v2
int cuDeviceGetUuid_v2(unsigned char *uuid, int device) {
  BEGIN();
  for (int i = 0; i < 16; i++) uuid[i] = (unsigned char)(i * 17);
  uuid[0] = (unsigned char)(device - 1000);
  if (number("STUB_CUDA_MIG", -1) == device - 1000) uuid[0] = 0xab;
  return 0;
}
#endif

int cuDeviceGetPCIBusId(char *id, int length, int device) {
  BEGIN();
  snprintf(id, (size_t)length, "FFFF:%02X:00.0", device - 1000 + 0xa0);
  if (device == 1000 && getenv("STUB_CUDA_PCI")) snprintf(id, (size_t)length, "%s", getenv("STUB_CUDA_PCI"));
  return 0;
}

int cuDeviceTotalMem_v2(size_t *bytes, int device) {
  BEGIN();
  *bytes = ((size_t)80 << 30) + (size_t)(device - 1000);
  return 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
  (void)device;
  BEGIN();
  *value = attribute == 75 ? 9 : attribute == 76 ? 0
                                                 : -1;
  return 0;
}

#ifndef WITHOUT_cuGetErrorString
int cuGetErrorString(int error, const char **text) {
  *text = error == NO_DEVICE ? "no CUDA-capable device is detected" : error == 802 ? "system not yet initialized"
                                                                                   : NULL;
  return 0;
}
#endif

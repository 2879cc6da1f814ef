/* As much of the CUDA driver as the library asks: is CUDA initialised here? */
static int INITIALISED;

int cuInit(unsigned flags);
int cuDeviceGetCount(int *count);

int cuInit(unsigned flags) {
  INITIALISED = 1;
  return (int)flags;
}

int cuDeviceGetCount(int *count) {
  const int not_initialized = 3; /* CUDA_ERROR_NOT_INITIALIZED */
  if (!INITIALISED) return not_initialized;
  *count = 1;
  return 0;
}

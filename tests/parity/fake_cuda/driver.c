/* The CUDA driver and its libraries on host memory. Kernels are counted, and not run: results are zeros.
 *
 * `functions.h`, made by the test, has DEFAULT(name) for each function of soragen that is not here: it succeeds and does nothing. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef int status;

/* Kernels and products of matrices; copies from the host; copies on the device. */
uint64_t fake_launches, fake_uploads, fake_copies;
/* The names of the kernels since the last clear, one on a line. */
char fake_names[1 << 20];
static size_t length;

void fake_clear(void) {
    fake_launches = fake_uploads = fake_copies = 0;
    length = 0;
    fake_names[0] = 0;
}

static void note(const char *name) {
    fake_launches++;
    size_t more = strlen(name);
    if (length + more + 2 < sizeof fake_names) {
        memcpy(fake_names + length, name, more);
        length += more;
        fake_names[length++] = '\n';
        fake_names[length] = 0;
    }
}

#define DEFAULT(name) status name(void) { return 0; }
/* Writes a handle through the first pointer. */
#define HANDLE(name) status name(void **out) { *out = malloc(16); return 0; }
#define PRODUCT(name) status name(void) { note(#name); return 0; }

status cuDeviceGetCount(int *count) { *count = 1; return 0; }
status cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
status cuDriverGetVersion(int *version) { *version = 13000; return 0; }
status cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    /* Compute capability 9.0; all else is supported. */
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : 1;
    return 0;
}
status cuDeviceGetName(char *name, int size, int device) {
    (void)device;
    strncpy(name, "fake", size);
    return 0;
}
status cuMemGetInfo_v2(size_t *available, size_t *total) { *available = *total = (size_t)80 << 30; return 0; }
status cuDevicePrimaryCtxRetain(void **context, int device) { (void)device; *context = (void *)4096; return 0; }
status cuCtxGetCurrent(void **context) { *context = (void *)4096; return 0; }
HANDLE(cuStreamCreate)
HANDLE(cuEventCreate)
HANDLE(cuDeviceGetDefaultMemPool)
HANDLE(cuModuleLoadData)
HANDLE(cublasCreate_v2)
HANDLE(cublasLtCreate)
HANDLE(curandCreateGenerator)
HANDLE(nvrtcCreateProgram)
status cuStreamIsCapturing(void *stream, int *state) { (void)stream; *state = 0; return 0; }

static status allocate(uint64_t *address, size_t size) {
    *address = (uint64_t)calloc(size ? size : 1, 1);
    return *address ? 0 : 2;
}
status cuMemAllocAsync(uint64_t *address, size_t size, void *stream) { (void)stream; return allocate(address, size); }
status cuMemAlloc_v2(uint64_t *address, size_t size) { return allocate(address, size); }
status cuMemFreeAsync(uint64_t address, void *stream) { (void)stream; free((void *)address); return 0; }
status cuMemFree_v2(uint64_t address) { free((void *)address); return 0; }
status cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *stream) {
    (void)stream;
    fake_uploads++;
    memcpy((void *)to, from, size);
    return 0;
}
status cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *stream) {
    (void)stream;
    memcpy(to, (void *)from, size);
    return 0;
}
status cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t size, void *stream) {
    (void)stream;
    fake_copies++;
    memcpy((void *)to, (void *)from, size);
    return 0;
}
status cuMemsetD8Async(uint64_t to, unsigned char value, size_t count, void *stream) {
    (void)stream;
    memset((void *)to, value, count);
    return 0;
}

/* A function is its name. */
status cuModuleGetFunction(void **function, void *module, const char *name) {
    (void)module;
    *function = strdup(name);
    return 0;
}
status cuLaunchKernel(const char *function) { note(function); return 0; }

status nvrtcGetCUBINSize(void *program, size_t *size) { (void)program; *size = 16; return 0; }
status nvrtcGetPTXSize(void *program, size_t *size) { (void)program; *size = 16; return 0; }
status nvrtcGetProgramLogSize(void *program, size_t *size) { (void)program; *size = 1; return 0; }
status nvrtcGetCUBIN(void *program, char *code) { (void)program; memset(code, 0, 16); return 0; }
status nvrtcGetPTX(void *program, char *code) { (void)program; memset(code, 0, 16); return 0; }
status nvrtcGetProgramLog(void *program, char *log) { (void)program; *log = 0; return 0; }

PRODUCT(cublasGemmEx)
PRODUCT(cublasGemmStridedBatchedEx)
PRODUCT(cublasSgemm_v2)
PRODUCT(cublasSgemmStridedBatched)
PRODUCT(cublasHgemm)
PRODUCT(cublasHgemmStridedBatched)
PRODUCT(cublasLtMatmul)

#include "functions.h"

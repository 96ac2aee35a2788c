/* A CUDA driver whose GPU is the memory of the process: what libgstcuda of GStreamer 1.22 and later calls to make contexts, to allocate
 * buffers and to copy them.
 *
 * It refuses what a GPU would refuse: work without a current context, and memory of another context. Memory that it did not allocate
 * belongs to the first context, which stands for that of a model. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201, NOT_SUPPORTED = 801 };
enum { HOST = 1, DEVICE = 2 };
enum { MAX_ALLOCATIONS = 4096, MAX_DEPTH = 64, PITCH = 256 };

typedef struct {
  int number;
} Context;

typedef struct {
  char *start;
  size_t size;
  Context *context;
} Allocation;

typedef struct {
  size_t x, y;
  unsigned kind;
  const char *host;
  uintptr_t device;
  void *array;
  size_t pitch;
} Rows;

typedef struct {
  Rows from, to;
  size_t width, height;
} Copy;

static int contexts;
static Context *first;
static Allocation allocations[MAX_ALLOCATIONS];
static __thread Context *stack[MAX_DEPTH];
static __thread int depth;
static volatile int lock;

static void enter(void) {
  while (__sync_lock_test_and_set(&lock, 1)) {
  }
}

static void leave(void) { __sync_lock_release(&lock); }

static Context *current(void) { return depth ? stack[depth - 1] : NULL; }

int cuInit(unsigned flags) { return OK; }
int cuDriverGetVersion(int *version) { return *version = 12000, OK; }
int cuDeviceGetCount(int *count) { return *count = 1, OK; }
int cuDeviceGet(int *device, int ordinal) { return *device = 0, ordinal == 0 ? OK : INVALID_VALUE; }
int cuDeviceGetName(char *name, int size, int device) { return strncpy(name, "fake", size), OK; }
int cuDeviceCanAccessPeer(int *can, int device, int peer) { return *can = 0, OK; }
int cuGetErrorName(int error, const char **text) { return *text = "error", OK; }
int cuGetErrorString(int error, const char **text) { return *text = "error of the fake driver", OK; }

int cuDeviceGetAttribute(int *value, int attribute, int device) {
  /* Texture alignment and compute capability; the others are switches. */
  *value = attribute == 14 ? PITCH : attribute == 75 ? 9 : 0;
  return OK;
}

int cuCtxCreate_v2(Context **context, unsigned flags, int device) {
  *context = calloc(1, sizeof **context);
  enter();
  (*context)->number = ++contexts;
  first = first ? first : *context;
  leave();
  stack[depth++] = *context;
  return OK;
}

int cuCtxDestroy_v2(Context *context) {
  if (current() == context)
    depth--;
  return OK;
}

int cuCtxPushCurrent_v2(Context *context) {
  if (!context || depth == MAX_DEPTH)
    return INVALID_CONTEXT;
  stack[depth++] = context;
  return OK;
}

int cuCtxPopCurrent_v2(Context **context) {
  if (!depth)
    return INVALID_CONTEXT;
  depth--;
  if (context)
    *context = stack[depth];
  return OK;
}

int cuMemAlloc_v2(uintptr_t *address, size_t size) {
  if (!current())
    return INVALID_CONTEXT;
  char *start = aligned_alloc(PITCH, (size + PITCH - 1) / PITCH * PITCH);
  if (!start)
    return OUT_OF_MEMORY;
  /* So that bytes that nobody writes are seen. */
  memset(start, 0xee, size);
  enter();
  int i = 0;
  while (i < MAX_ALLOCATIONS && allocations[i].start)
    i++;
  if (i < MAX_ALLOCATIONS)
    allocations[i] = (Allocation){start, size, current()};
  leave();
  *address = (uintptr_t)start;
  return i < MAX_ALLOCATIONS ? OK : OUT_OF_MEMORY;
}

int cuMemAllocPitch_v2(uintptr_t *address, size_t *pitch, size_t width, size_t height, unsigned element) {
  *pitch = (width + PITCH - 1) / PITCH * PITCH;
  return cuMemAlloc_v2(address, *pitch * height);
}

int cuMemFree_v2(uintptr_t address) {
  int status = INVALID_VALUE;
  enter();
  for (int i = 0; i < MAX_ALLOCATIONS; i++)
    if (allocations[i].start == (char *)address) {
      status = allocations[i].context == current() ? OK : INVALID_CONTEXT;
      allocations[i].start = NULL;
    }
  leave();
  if (status == OK)
    free((void *)address);
  return status;
}

/* For tests: how many allocations were not freed. */
int fake_allocations(void) {
  int count = 0;
  enter();
  for (int i = 0; i < MAX_ALLOCATIONS; i++)
    count += allocations[i].start != NULL;
  leave();
  return count;
}

int cuMemAllocHost_v2(void **address, size_t size) { return (*address = malloc(size)) ? OK : OUT_OF_MEMORY; }
int cuMemFreeHost(void *address) { return free(address), OK; }

/* The first byte of a side, or NULL if it is not memory that the current context may use. */
static char *start(const Rows *rows, size_t width, size_t height) {
  size_t offset = rows->y * rows->pitch + rows->x, size = (height - 1) * rows->pitch + width;
  if (rows->kind == HOST)
    return (char *)rows->host + offset;
  char *address = (char *)rows->device + offset;
  Context *owner = first;
  int inside = 1;
  enter();
  for (int i = 0; i < MAX_ALLOCATIONS; i++) {
    Allocation *a = &allocations[i];
    if (a->start && address >= a->start && address < a->start + a->size) {
      owner = a->context;
      inside = address + size <= a->start + a->size;
    }
  }
  leave();
  return rows->kind == DEVICE && owner == current() && inside ? address : NULL;
}

int cuMemcpy2D_v2(const Copy *copy) {
  if (!current())
    return INVALID_CONTEXT;
  char *from = start(&copy->from, copy->width, copy->height);
  char *to = start(&copy->to, copy->width, copy->height);
  if (!from || !to || copy->from.pitch < copy->width || copy->to.pitch < copy->width)
    return INVALID_VALUE;
  for (size_t y = 0; y < copy->height; y++)
    memcpy(to + y * copy->to.pitch, from + y * copy->from.pitch, copy->width);
  return OK;
}

/* A stream belongs to the context in which it was created. */
int cuStreamCreate(Context **stream, unsigned flags) { return (*stream = current()) ? OK : INVALID_CONTEXT; }
int cuStreamDestroy(Context *stream) { return stream == current() ? OK : INVALID_CONTEXT; }
int cuStreamSynchronize(Context *stream) { return !stream || stream == current() ? OK : INVALID_CONTEXT; }

int cuMemcpy2DAsync_v2(const Copy *copy, Context *stream) {
  return stream && stream != current() ? INVALID_CONTEXT : cuMemcpy2D_v2(copy);
}

#define MISSING(name) int name(void) { return NOT_SUPPORTED; }
MISSING(cuCtxEnablePeerAccess)
MISSING(cuCtxDisablePeerAccess)
MISSING(cuGraphicsMapResources)
MISSING(cuGraphicsUnmapResources)
MISSING(cuGraphicsUnregisterResource)
MISSING(cuGraphicsGLRegisterImage)
MISSING(cuGraphicsGLRegisterBuffer)
MISSING(cuGraphicsResourceSetMapFlags_v2)
MISSING(cuGraphicsSubResourceGetMappedArray)
MISSING(cuGraphicsResourceGetMappedPointer_v2)
MISSING(cuGLGetDevices_v2)
MISSING(cuModuleLoadData)
MISSING(cuModuleUnload)
MISSING(cuModuleGetFunction)
MISSING(cuTexObjectCreate)
MISSING(cuTexObjectDestroy)
MISSING(cuLaunchKernel)

/* Under the name of libnvcuvid, so that GStreamer registers its CUDA elements. There is no decoder. */
MISSING(cuvidCtxLockCreate)
MISSING(cuvidCtxLockDestroy)
MISSING(cuvidCtxLock)
MISSING(cuvidCtxUnlock)
MISSING(cuvidCreateDecoder)
MISSING(cuvidDestroyDecoder)
MISSING(cuvidDecodePicture)
MISSING(cuvidCreateVideoParser)
MISSING(cuvidParseVideoData)
MISSING(cuvidDestroyVideoParser)
MISSING(cuvidMapVideoFrame64)
MISSING(cuvidUnmapVideoFrame64)
MISSING(cuvidGetDecoderCaps)

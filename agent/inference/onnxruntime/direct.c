#define _GNU_SOURCE
#include "direct.h"

#include <dlfcn.h>
#include <malloc.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "positions.h"

enum { TYPE_STRING = 8, ONNX_TENSOR = 1, API_VERSION = 24 };

typedef struct {
  const void *(*GetApi)(uint32_t version);
  const char *(*GetVersionString)(void);
} api_base;

static void *const *api;
static const char *version = "";
static void *cpu;        // OrtMemoryInfo of the caller's memory
static void *allocator;  // the default allocator

// FN(name, args...) is the function at a position, taking args and returning an OrtStatus.
#define FN(name, ...) ((void *(*)(__VA_ARGS__))api[POS_##name])
#define VOID_FN(name, ...) ((void (*)(__VA_ARGS__))api[POS_##name])

static void take(void *status, int32_t *code, char *error) {
  if (code) *code = ((int (*)(void *))api[POS_GetErrorCode])(status);
  snprintf(error, DHOW_ERROR_BYTES, "%s", ((const char *(*)(void *))api[POS_GetErrorMessage])(status));
  VOID_FN(ReleaseStatus, void *)(status);
}

int dhow_open(const char *path, char *note, size_t note_size) {
  void *handle = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
  if (!handle) {
    snprintf(note, note_size, "%s", dlerror());
    return DHOW_CANNOT_OPEN;
  }
  api_base *(*get)(void) = (api_base * (*)(void)) dlsym(handle, "OrtGetApiBase");
  api_base *base = get ? get() : NULL;
  if (!base) {
    dlclose(handle);
    return DHOW_NO_RUNTIME;
  }
  snprintf(note, note_size, "%s", base->GetVersionString());
  const void *table = base->GetApi(API_VERSION);
  if (!table) {
    dlclose(handle);
    return DHOW_TOO_OLD;
  }
  api = (void *const *)table;
  version = base->GetVersionString();
  char ignored[DHOW_ERROR_BYTES];
  void *status = NULL;
  if (!cpu) status = FN(CreateCpuMemoryInfo, int, int, void **)(1, 0, &cpu);
  if (!status) status = FN(GetAllocatorWithDefaultOptions, void **)(&allocator);
  if (status) {
    take(status, NULL, ignored);
    snprintf(note, note_size, "%s", ignored);
    return DHOW_NO_RUNTIME;
  }
  return DHOW_OPENED;  // the handle is kept for the life of the process
}

const char *dhow_version(void) { return version; }

void dhow_providers(char *out, size_t size) {
  char **names = NULL;
  int n = 0;
  char ignored[DHOW_ERROR_BYTES];
  out[0] = 0;
  void *status = FN(GetAvailableProviders, char ***, int *)(&names, &n);
  if (status) {
    take(status, NULL, ignored);
    return;
  }
  size_t used = 0;
  for (int i = 0; i < n; i++) {
    size_t length = strlen(names[i]);
    if (used + length + 2 > size) break;
    memcpy(out + used, names[i], length);
    used += length;
    out[used++] = '\n';
    out[used] = 0;
  }
  status = FN(ReleaseAvailableProviders, char **, int)(names, n);
  if (status) take(status, NULL, ignored);
}

int dhow_count(void *session, size_t *inputs, size_t *outputs, char *error) {
  void *status = FN(SessionGetInputCount, void *, size_t *)(session, inputs);
  if (!status) status = FN(SessionGetOutputCount, void *, size_t *)(session, outputs);
  if (!status) return 0;
  take(status, NULL, error);
  return -1;
}

static void *describe_tensor(const void *type, dhow_port *port) {
  const void *info = NULL;  // belongs to type
  void *status = FN(CastTypeInfoToTensorInfo, const void *, const void **)(type, &info);
  if (status || !info) return status;
  status = FN(GetTensorElementType, const void *, int32_t *)(info, &port->type);
  if (status) return status;
  if (!((bool (*)(const void *))api[POS_TensorTypeAndShape_HasShape])(info)) {
    port->rank = -1;
    return NULL;
  }
  size_t rank = 0;
  status = FN(GetDimensionsCount, const void *, size_t *)(info, &rank);
  if (status) return status;
  if (rank > DHOW_MAX_RANK) {
    port->kind = 0;  // no tensor that Dhow could carry
    return NULL;
  }
  port->rank = (int32_t)rank;
  return FN(GetDimensions, const void *, int64_t *, size_t)(info, port->shape, rank);
}

int dhow_describe(void *session, int output, size_t index, dhow_port *port, char *error) {
  memset(port, 0, sizeof *port);
  char *name = NULL;
  void *type = NULL;
  void *status = output ? FN(SessionGetOutputName, void *, size_t, void *, char **)(session, index, allocator, &name)
                        : FN(SessionGetInputName, void *, size_t, void *, char **)(session, index, allocator, &name);
  if (status) goto failed;
  port->name = strdup(name);
  status = FN(AllocatorFree, void *, void *)(allocator, name);
  if (status) goto failed;
  status = output ? FN(SessionGetOutputTypeInfo, void *, size_t, void **)(session, index, &type)
                  : FN(SessionGetInputTypeInfo, void *, size_t, void **)(session, index, &type);
  if (status) goto failed;
  status = FN(GetOnnxTypeFromTypeInfo, const void *, int32_t *)(type, &port->kind);
  if (!status && port->kind == ONNX_TENSOR) status = describe_tensor(type, port);
  VOID_FN(ReleaseTypeInfo, void *)(type);
  if (status) goto failed;
  return 0;
failed:
  free(port->name);
  port->name = NULL;
  take(status, NULL, error);
  return -1;
}

dhow_run *dhow_run_new(size_t nin, size_t nout) {
  dhow_run *r = calloc(1, sizeof *r);
  if (!r) return NULL;
  r->nin = nin;
  r->in = calloc(nin + 1, sizeof *r->in);
  r->out = calloc(nout + 1, sizeof *r->out);
  r->in_names = calloc(nin + 1, sizeof *r->in_names);
  r->out_names = calloc(nout + 1, sizeof *r->out_names);
  r->in_values = calloc(nin + 1, sizeof *r->in_values);
  r->out_values = calloc(nout + 1, sizeof *r->out_values);
  void *status = NULL;
  if (!r->in || !r->out || !r->in_names || !r->out_names || !r->in_values || !r->out_values ||
      (status = FN(CreateRunOptions, void **)(&r->options))) {
    if (status) VOID_FN(ReleaseStatus, void *)(status);
    dhow_run_free(r);
    return NULL;
  }
  return r;
}

void dhow_run_free(dhow_run *r) {
  if (r->options) VOID_FN(ReleaseRunOptions, void *)(r->options);
  free(r->in), free(r->out), free(r->in_names), free(r->out_names), free(r->in_values), free(r->out_values);
  free(r);
}

static uint32_t length_at(const unsigned char *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

// strings_in makes a tensor of strings out of their packed form, which the caller has checked.
static void *strings_in(const dhow_slot *s, void **value) {
  void *status = FN(CreateTensorAsOrtValue, void *, const int64_t *, size_t, int, void **)(allocator, s->shape, s->rank, TYPE_STRING, value);
  if (status) return status;
  const unsigned char *p = (const unsigned char *)s->source;
  const unsigned char *end = p + s->size;
  for (size_t i = 0; p < end; i++) {
    uint32_t n = length_at(p);
    char *to = NULL;
    status = FN(GetResizedStringTensorElementBuffer, void *, size_t, size_t, char **)(*value, i, n, &to);
    if (status) return status;
    if (n) memcpy(to, p + 4, n);
    p += 4 + (size_t)n;
  }
  return NULL;
}

static int fail(dhow_run *r, const char *sentence) {
  r->code = 1;
  snprintf(r->error, sizeof r->error, "%s", sentence);
  return -1;
}

// strings_out packs a tensor of strings into memory of its own.
static int strings_out(dhow_run *r, void *value, dhow_slot *s, size_t elements) {
  size_t total = 0;
  void *status = FN(GetStringTensorDataLength, void *, size_t *)(value, &total);
  if (status) return take(status, &r->code, r->error), -1;
  char *flat = malloc(total + 1);
  size_t *offsets = malloc((elements + 1) * sizeof *offsets);
  s->size = total + 4 * elements;
  s->packed = malloc(s->size + 1);
  s->data = s->packed;
  int result = -1;
  if (!flat || !offsets || !s->packed) {
    fail(r, "out of memory for an output of strings");
    goto done;
  }
  if (elements) {
    status = FN(GetStringTensorContent, void *, void *, size_t, size_t *, size_t)(value, flat, total, offsets, elements);
    if (status) {
      take(status, &r->code, r->error);
      goto done;
    }
  }
  char *to = s->packed;
  for (size_t i = 0; i < elements; i++) {
    size_t n = (i + 1 < elements ? offsets[i + 1] : total) - offsets[i];
    if (n > UINT32_MAX) {
      fail(r, "an output string is longer than 4 GiB");
      goto done;
    }
    to[0] = (char)n, to[1] = (char)(n >> 8), to[2] = (char)(n >> 16), to[3] = (char)(n >> 24);
    memcpy(to + 4, flat + offsets[i], n);
    to += 4 + n;
  }
  result = 0;
done:
  free(flat);
  free(offsets);
  return result;
}

// value_out says what an output is and where it lies.
static int value_out(dhow_run *r, void *value, dhow_slot *s) {
  if (!value) return fail(r, "the model left an output empty");
  const int64_t *shape = NULL;
  size_t rank = 0, elements = 1;
  void *status = FN(GetTensorElementTypeAndShapeDataReference, const void *, int32_t *, const int64_t **, size_t *)(value, &s->type, &shape, &rank);
  if (status) return take(status, &r->code, r->error), -1;
  if (rank > DHOW_MAX_RANK) return fail(r, "an output has more than 16 dimensions");
  s->rank = (int32_t)rank;
  for (size_t i = 0; i < rank; i++) {
    s->shape[i] = shape[i];
    elements *= (size_t)shape[i];
  }
  if (s->type == TYPE_STRING) return strings_out(r, value, s, elements);
  status = FN(GetTensorMutableData, void *, void **)(value, &s->data);
  if (!status) status = FN(GetTensorSizeInBytes, void *, size_t *)(value, &s->size);
  if (status) return take(status, &r->code, r->error), -1;
  return 0;
}

// place makes a tensor over the caller's memory.
static void *place(const dhow_slot *s, void **value) {
  return FN(CreateTensorWithDataAsOrtValue, void *, void *, size_t, const int64_t *, size_t, int, void **)(
      cpu, (void *)s->source, s->size, s->shape, s->rank, s->type, value);
}

int dhow_run_call(void *session, dhow_run *r) {
  r->code = 0;
  memset(r->out_values, 0, r->nout * sizeof *r->out_values);
  memset(r->in_values, 0, r->nin * sizeof *r->in_values);
  void *status = NULL;
  for (size_t i = 0; i < r->nout; i++) {
    dhow_slot *s = &r->out[i];
    s->packed = NULL;
    if (s->source && !status) status = place(s, &r->out_values[i]);
  }
  for (size_t i = 0; i < r->nin && !status; i++) {
    const dhow_slot *s = &r->in[i];
    status = s->type == TYPE_STRING
                 ? strings_in(s, &r->in_values[i])
                 : place(s, &r->in_values[i]);
  }
  if (!status) {
    status = FN(Run, void *, void *, const char *const *, void *const *, size_t, const char *const *, size_t, void **)(
        session, r->options, r->in_names, r->in_values, r->nin, r->out_names, r->nout, r->out_values);
  }
  for (size_t i = 0; i < r->nin; i++) {
    if (r->in_values[i]) VOID_FN(ReleaseValue, void *)(r->in_values[i]);
  }
  int result = 0;
  if (status) {
    take(status, &r->code, r->error);
    result = -1;
  }
  for (size_t i = 0; i < r->nout && !result; i++) result = value_out(r, r->out_values[i], &r->out[i]);
  if (result) dhow_run_release(r);
  return result;
}

void dhow_run_release(dhow_run *r) {
  for (size_t i = 0; i < r->nout; i++) {
    free(r->out[i].packed);
    r->out[i].packed = NULL;
    if (r->out_values[i]) VOID_FN(ReleaseValue, void *)(r->out_values[i]);
    r->out_values[i] = NULL;
  }
}

static void ignore(void *status) {
  if (status) VOID_FN(ReleaseStatus, void *)(status);
}

void dhow_run_stop(dhow_run *r) { ignore(FN(RunOptionsSetTerminate, void *)(r->options)); }
void dhow_run_unstop(dhow_run *r) { ignore(FN(RunOptionsUnsetTerminate, void *)(r->options)); }

void dhow_run_shrink(dhow_run *r, int on) {
#ifdef __GLIBC__
  // What the session gave back, the allocator of C may still keep.
  if (!on) malloc_trim(0);
#endif
  ignore(FN(AddRunConfigEntry, void *, const char *, const char *)(r->options, "memory.enable_memory_arena_shrinkage", on ? "cpu:0" : ""));
}

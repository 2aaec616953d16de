// The part of ONNX Runtime's C interface that answering a request needs, called without the Go binding between.
//
// OrtApi is a table of functions whose order never changes (its header promises that members are only appended), so
// it is used by position; direct_test.go compares the positions with the binding's header.
#ifndef DHOW_DIRECT_H
#define DHOW_DIRECT_H

#include <stddef.h>
#include <stdint.h>

#define DHOW_MAX_RANK 16
#define DHOW_ERROR_BYTES 1024

// A tensor on its way in or out.
typedef struct {
  uintptr_t source;  // the address of the caller's memory, aligned and pinned; out: where to write, 0 for the runtime's own
  void *data;        // out: the runtime's memory, or packed
  size_t size;       // bytes at source or data; of an output with source, what it will have, with type, rank and shape
  int32_t type;      // ONNXTensorElementDataType
  int32_t rank;
  int64_t shape[DHOW_MAX_RANK];
  char *packed;      // out, strings: each a 32-bit little-endian length and its bytes
} dhow_slot;

// Everything one call of Run needs; one goroutine uses it at a time.
typedef struct {
  void *options;     // OrtRunOptions, by which the call is stopped
  size_t nin, nout;  // nout is set for each call, at most the number given to dhow_run_new
  dhow_slot *in, *out;
  const char **in_names, **out_names;  // borrowed
  void **in_values, **out_values;
  int32_t code;      // OrtErrorCode of the failure
  char error[DHOW_ERROR_BYTES];
} dhow_run;

typedef struct {
  char *name;        // malloc'd
  int32_t kind;      // ONNXType, 1 being a tensor
  int32_t type;
  int32_t rank;      // -1 when the model does not say
  int64_t shape[DHOW_MAX_RANK];
} dhow_port;

enum { DHOW_OPENED = 0, DHOW_CANNOT_OPEN = 1, DHOW_NO_RUNTIME = 2, DHOW_TOO_OLD = 3 };

// dhow_open opens the library; note receives the loader's sentence, or the version of a library that is too old.
int dhow_open(const char *path, char *note, size_t note_size);
const char *dhow_version(void);
// dhow_providers writes the names of the execution providers, separated by newlines.
void dhow_providers(char *out, size_t size);

// dhow_describe fills the ports of a session; returns 0, or -1 with a sentence in error.
int dhow_count(void *session, size_t *inputs, size_t *outputs, char *error);
int dhow_describe(void *session, int output, size_t index, dhow_port *port, char *error);

dhow_run *dhow_run_new(size_t nin, size_t nout);
void dhow_run_free(dhow_run *r);
// dhow_run_call computes; 0 means that out is filled and must be given back by dhow_run_release.
int dhow_run_call(void *session, dhow_run *r);
void dhow_run_release(dhow_run *r);
void dhow_run_stop(dhow_run *r);
void dhow_run_unstop(dhow_run *r);
// dhow_run_shrink sets whether the session gives memory that it does not use back to the system after this run;
// turned off, the rest of the process does.
void dhow_run_shrink(dhow_run *r, int on);

#endif

// dhow.h: pre- and post-processing steps for Dhow in C (C99 and later) or C++, without a C library.
//
// A step is one function:
//
//	#include "dhow.h"
//
//	dhow_status dhow_process(const dhow_request *request, dhow_response *response) {
//		const dhow_tensor *x = dhow_input(request, "x");
//		if (!x || !dhow_f32(x))
//			return dhow_input_error(response, "the input x must be FP32");
//		float *y = dhow_output(response, "y", DHOW_FP32, x->rank, x->shape);
//		if (!y)
//			return DHOW_GUEST_ERROR;
//		for (uint32_t i = 0; i < x->elements; i++)
//			y[i] = 2 * dhow_f32(x)[i];
//		return DHOW_OK;
//	}
//
// README.md beside this file says how to build it. Inputs are views into the request, outputs are written where the host
// reads them: no number is copied. A request has been checked as a whole before dhow_process sees it, so that lengths and
// shapes can be relied on.
//
// Memory: dhow_alloc takes from an arena. What dhow_process takes is gone when it returns; what dhow_configure takes
// stays. There is nothing to free. Between requests the host puts memory and globals back to how dhow_configure left
// them, unless the bundle says `state: keep`; results must not depend on what a step remembers.
//
// A step runs for one request at a time. It has no files, no network, no clock and no randomness. A trap (unreachable, a
// division by zero, an address outside memory) fails the request and nothing else.
#ifndef DHOW_H
#define DHOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
	DHOW_OK = 0,
	DHOW_INPUT_ERROR = 1, // the request is at fault: whoever sent it is told
	DHOW_GUEST_ERROR = 2, // the step is at fault: it counts against the model's version
} dhow_status;

typedef enum {
	DHOW_BOOL = 1, // one byte each
	DHOW_UINT8 = 2,
	DHOW_UINT16 = 3,
	DHOW_UINT32 = 4,
	DHOW_UINT64 = 5,
	DHOW_INT8 = 6,
	DHOW_INT16 = 7,
	DHOW_INT32 = 8,
	DHOW_INT64 = 9,
	DHOW_FP16 = 10,
	DHOW_FP32 = 11,
	DHOW_FP64 = 12,
	DHOW_BYTES = 13, // strings: each a 32-bit length and its bytes
	DHOW_BF16 = 14,
} dhow_datatype;

enum {
	DHOW_MAX_TENSORS = 64,
	DHOW_MAX_RANK = 16,
	DHOW_MAX_NAME = 256,
	DHOW_MAX_LIST = 1 << 30,
	DHOW_MAX_MESSAGE = 1024, // bytes of an error's sentence; what is beyond is cut off
};

// dhow_bytes is a view: a string without a zero at its end.
typedef struct {
	const uint8_t *data;
	uint32_t size;
} dhow_bytes;

// dhow_tensor is an input: all pointers lead into the request.
typedef struct {
	dhow_bytes name;
	dhow_datatype type;
	uint32_t rank;         // 0 is a scalar
	const uint64_t *shape; // rank dimensions, none above 2^63
	uint32_t elements;     // their product
	const void *data;      // row-major, aligned to 8
	uint32_t size;         // bytes of data
} dhow_tensor;

typedef struct {
	uint32_t count;
	dhow_tensor tensors[DHOW_MAX_TENSORS]; // their names differ
} dhow_request;

typedef struct dhow_response dhow_response;

// What a step defines.

// dhow_process answers a request. Outputs may stay unfinished when it returns an error.
dhow_status dhow_process(const dhow_request *request, dhow_response *response);

// dhow_configure, which a step may define, is handed the bundle's configuration (the labels file as it is; it may be
// empty) once for each instance, before the first request. The bytes stay valid. false refuses it, and with it the
// bundle; dhow_log says why.
bool dhow_configure(dhow_bytes configuration);

// Inputs.

// dhow_input finds an input by its name; NULL if there is none.
const dhow_tensor *dhow_input(const dhow_request *request, const char *name);

// dhow_size is the bytes of one element; 0 for DHOW_BYTES and unknown types.
uint32_t dhow_size(dhow_datatype type);

// dhow_f32 and its like are the elements of a tensor of that type; NULL for a tensor of another type, and for NULL.
#define DHOW_VIEW(name, ctype, datatype) \
	static inline const ctype *name(const dhow_tensor *t) { return t && t->type == datatype ? (const ctype *)t->data : NULL; }
DHOW_VIEW(dhow_bool, uint8_t, DHOW_BOOL)
DHOW_VIEW(dhow_u8, uint8_t, DHOW_UINT8)
DHOW_VIEW(dhow_u16, uint16_t, DHOW_UINT16)
DHOW_VIEW(dhow_u32, uint32_t, DHOW_UINT32)
DHOW_VIEW(dhow_u64, uint64_t, DHOW_UINT64)
DHOW_VIEW(dhow_i8, int8_t, DHOW_INT8)
DHOW_VIEW(dhow_i16, int16_t, DHOW_INT16)
DHOW_VIEW(dhow_i32, int32_t, DHOW_INT32)
DHOW_VIEW(dhow_i64, int64_t, DHOW_INT64)
DHOW_VIEW(dhow_f16, uint16_t, DHOW_FP16) // see dhow_from_f16
DHOW_VIEW(dhow_f32, float, DHOW_FP32)
DHOW_VIEW(dhow_f64, double, DHOW_FP64)
DHOW_VIEW(dhow_bf16, uint16_t, DHOW_BF16) // see dhow_from_bf16
#undef DHOW_VIEW

// dhow_next takes the next string of a DHOW_BYTES tensor; false when there is none left. A walk starts with a cursor of
// zero: uint32_t at = 0; dhow_bytes s; while (dhow_next(t, &at, &s)) ...
bool dhow_next(const dhow_tensor *t, uint32_t *cursor, dhow_bytes *string);

bool dhow_equal(dhow_bytes a, const char *b);

// Half precision and bfloat16; to them numbers are rounded to the nearest, halves to even.
float dhow_from_f16(uint16_t h);
uint16_t dhow_to_f16(float f);
float dhow_from_bf16(uint16_t h);
uint16_t dhow_to_bf16(float f);

// Outputs. Each call adds an output and returns where its elements belong; they are not zeroed. NULL means that a bound
// of the contract was broken or memory has run out: the response is then an error that says so, whatever dhow_process
// returns. The pointers are valid until dhow_process returns.

// dhow_output adds a tensor of numbers. shape may be NULL where rank is 0.
void *dhow_output(dhow_response *response, const char *name, dhow_datatype type, uint32_t rank, const uint64_t *shape);

// dhow_output_rows shortens the output that was added last to its first rows rows: for results whose number is not known
// before they are there. It must be a tensor of numbers with a first dimension of at least rows.
bool dhow_output_rows(dhow_response *response, uint64_t rows);

// dhow_output_strings adds a DHOW_BYTES tensor of as many strings as the shape says.
bool dhow_output_strings(dhow_response *response, const char *name, uint32_t rank, const uint64_t *shape, const dhow_bytes *strings);

// dhow_output_like adds a tensor with t's name, type, shape and length in bytes, for what goes through a step as it is.
void *dhow_output_like(dhow_response *response, const dhow_tensor *t);

// Errors: return dhow_input_error(response, "no photo"). The sentence, UTF-8, is copied. An error cannot be taken back.
dhow_status dhow_input_error(dhow_response *response, const char *sentence);
dhow_status dhow_guest_error(dhow_response *response, const char *sentence);

// dhow_text builds a sentence: dhow_text t = {0}; dhow_add(dhow_add_number(dhow_add(&t, "got "), 3), " samples");
// t.text is what the error functions and dhow_log take. What does not fit is left out.
typedef struct {
	uint32_t size;
	char text[DHOW_MAX_MESSAGE + 1];
} dhow_text;

dhow_text *dhow_add(dhow_text *t, const char *s);
dhow_text *dhow_add_bytes(dhow_text *t, dhow_bytes b);
dhow_text *dhow_add_number(dhow_text *t, int64_t n);

// Memory.

// dhow_alloc takes n bytes, aligned to 8 and not zeroed; NULL if there is no room.
void *dhow_alloc(size_t n);

// What a step reports. Names must be declared in bundle.yaml; others are dropped.

void dhow_emit_feature(const char *name, double value); // a number about this input, for drift
void dhow_emit_count(const char *name, uint64_t n);

enum { DHOW_DEBUG = 0, DHOW_INFO = 1, DHOW_WARNING = 2, DHOW_ERROR = 3 };

void dhow_log(uint32_t level, const char *line); // limited in length and rate

#ifdef __cplusplus
}
#endif

#endif

// dhow.c: the contract between Dhow and a WASM guest, version 1, for steps written in C. See dhow.h.
//
// Exports are named here and imports below; everything in between reads a tensor list, hands it to dhow_process and
// finishes the list that dhow_process has built. One request at a time.
#include "dhow.h"

// In dhow_text.c; compilers know them.
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);

#ifndef __wasm_bulk_memory__
#error "build with -mbulk-memory: memory is copied and filled by WASM's own instructions"
#endif

#define EXPORT(name) __attribute__((export_name(name)))
#define IMPORT(name) __attribute__((import_module("dhow"), import_name(name)))

enum { page = 1 << 16, max_batch = 256 };

IMPORT("emit_feature") extern void import_emit_feature(const char *name, size_t n, double value);
IMPORT("emit_count") extern void import_emit_count(const char *name, size_t n, uint64_t count);
IMPORT("log") extern void import_log(uint32_t level, const char *line, size_t n);

// The arena grows upwards from the end of the program's own data. top is where it ends, kept where the part of
// dhow_configure ends.

extern uint8_t __heap_base;

static uint8_t *top = &__heap_base, *kept = &__heap_base;

void *dhow_alloc(size_t n) {
	uint64_t start = ((uint64_t)(uintptr_t)top + 7) & ~(uint64_t)7, end = start + n;
	uint64_t have = (uint64_t)__builtin_wasm_memory_size(0) * page;
	if (n > DHOW_MAX_LIST || end >= (uint64_t)1 << 32)
		return NULL;
	if (end > have && __builtin_wasm_memory_grow(0, (end - have + page - 1) / page) == (size_t)-1)
		return NULL;
	top = (uint8_t *)(uintptr_t)end;
	return (void *)(uintptr_t)start;
}

// padded is n rounded up to a multiple of 8.
static uint32_t padded(uint32_t n) { return (n + 7) & ~7u; }

// The request.

uint32_t dhow_size(dhow_datatype type) {
	static const uint8_t sizes[] = {0, 1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 0, 2};
	return (uint32_t)type < sizeof sizes ? sizes[type] : 0;
}

static bool known(uint32_t type) { return type >= DHOW_BOOL && type <= DHOW_BF16; }

// product multiplies dimensions as the host does: false for what cannot be.
static bool product(uint32_t rank, const uint64_t *shape, uint64_t *elements) {
	uint64_t n = 1;
	bool zero = false;
	for (uint32_t i = 0; i < rank; i++) {
		uint64_t d = shape[i];
		if (d > INT64_MAX || (d > 0 && n > INT64_MAX / 16 / d))
			return false;
		if (d == 0)
			zero = true;
		else
			n *= d;
	}
	*elements = zero ? 0 : n;
	return true;
}

static bool zeros(const uint8_t *p, const uint8_t *end) {
	while (p < end)
		if (*p++)
			return false;
	return true;
}

static uint32_t word(const uint8_t *p) {
	uint32_t v;
	__builtin_memcpy(&v, p, 4);
	return v;
}

bool dhow_next(const dhow_tensor *t, uint32_t *cursor, dhow_bytes *string) {
	const uint8_t *data = t->data;
	if (t->type != DHOW_BYTES || *cursor >= t->size || t->size - *cursor < 4)
		return false;
	uint32_t n = word(data + *cursor);
	if (n > t->size - *cursor - 4)
		return false;
	string->data = data + *cursor + 4;
	string->size = n;
	*cursor += 4 + n;
	return true;
}

// strings_are reports whether the data of a DHOW_BYTES tensor are exactly n strings.
static bool strings_are(const dhow_tensor *t, uint64_t n) {
	uint32_t at = 0;
	dhow_bytes string;
	while (dhow_next(t, &at, &string)) {
		if (n == 0)
			return false;
		n--;
	}
	return n == 0 && at == t->size;
}

// read_tensor takes one tensor from the list's rest and returns where the next begins, or NULL and why not.
static const uint8_t *read_tensor(dhow_tensor *t, const uint8_t *at, const uint8_t *end, const char **why) {
	*why = "the list ends inside it";
	if (end - at < 8)
		return NULL;
	uint32_t type = at[0], rank = at[1], name = at[2] | at[3] << 8, size = word(at + 4);
	if (rank > DHOW_MAX_RANK) {
		*why = "it has too many dimensions";
		return NULL;
	}
	if (name == 0 || name > DHOW_MAX_NAME) {
		*why = "its name has no length of 1 to 256 bytes";
		return NULL;
	}
	at += 8;
	if ((uint32_t)(end - at) < 8 * rank + padded(name))
		return NULL;
	t->type = (dhow_datatype)type;
	t->rank = rank;
	t->shape = (const uint64_t *)at;
	at += 8 * rank;
	t->name.data = at;
	t->name.size = name;
	at += padded(name);
	if (size > (uint32_t)(end - at) || padded(size) > (uint32_t)(end - at))
		return NULL;
	t->data = at;
	t->size = size;
	at += padded(size);
	if (!zeros(t->name.data + name, t->name.data + padded(name)) || !zeros((const uint8_t *)t->data + size, at)) {
		*why = "padding is not zero";
		return NULL;
	}
	uint64_t elements;
	if (!known(type) || !product(rank, t->shape, &elements)) {
		*why = "its datatype or shape is none";
		return NULL;
	}
	if (type == DHOW_BYTES ? !strings_are(t, elements) : elements * dhow_size(t->type) != size) {
		*why = "its data do not fit its shape";
		return NULL;
	}
	t->elements = (uint32_t)elements;
	return at;
}

// read_list fills request from a whole list; the reason why not, or NULL.
static const char *read_list(dhow_request *request, const uint8_t *list, uint32_t size) {
	const uint8_t *at = list + 8, *end = list + size;
	if (size < 8 || size > DHOW_MAX_LIST || word(list + 4) != size)
		return "the list has another length than it says";
	uint32_t count = word(list);
	if (count > DHOW_MAX_TENSORS)
		return "the list has too many tensors";
	for (request->count = 0; request->count < count; request->count++) {
		dhow_tensor *t = &request->tensors[request->count];
		const char *why;
		if (!(at = read_tensor(t, at, end, &why)))
			return why;
		for (uint32_t i = 0; i < request->count; i++) {
			dhow_bytes other = request->tensors[i].name;
			if (other.size == t->name.size && memcmp(other.data, t->name.data, other.size) == 0)
				return "two tensors have one name";
		}
	}
	return at == end ? NULL : "bytes follow the last tensor";
}

const dhow_tensor *dhow_input(const dhow_request *request, const char *name) {
	for (uint32_t i = 0; i < request->count; i++)
		if (dhow_equal(request->tensors[i].name, name))
			return &request->tensors[i];
	return NULL;
}

// The response. Outputs lie in the arena in the order in which they were added. Where nothing was taken in between, that
// is already the list; gaps are closed when dhow_process has returned, so that the pointers it was given stay valid.

struct dhow_response {
	dhow_status status;
	uint32_t count;
	uint8_t *header; // of the list; NULL before the first output
	struct {
		uint8_t *start;
		uint32_t size; // padding included
	} outputs[DHOW_MAX_TENSORS];
	dhow_text message;
};

static dhow_status fail(dhow_response *r, dhow_status status, const char *sentence) {
	if (r->status == DHOW_OK) { // the first error is the cause of those that follow
		r->status = status;
		dhow_add(&r->message, sentence);
	}
	return r->status;
}

dhow_status dhow_input_error(dhow_response *r, const char *sentence) { return fail(r, DHOW_INPUT_ERROR, sentence); }
dhow_status dhow_guest_error(dhow_response *r, const char *sentence) { return fail(r, DHOW_GUEST_ERROR, sentence); }

static void *no_output(dhow_response *r, dhow_bytes name, const char *why) {
	dhow_text t;
	t.size = 0;
	if (name.size > DHOW_MAX_NAME)
		name.size = DHOW_MAX_NAME;
	dhow_add(dhow_add(dhow_add_bytes(dhow_add(&t, "cannot add the output \""), name), "\": "), why);
	fail(r, DHOW_GUEST_ERROR, t.text);
	return NULL;
}

// output adds a tensor and returns where its size bytes of data belong.
static void *output(dhow_response *r, dhow_bytes name, uint32_t type, uint32_t rank, const uint64_t *shape, uint32_t size) {
	if (r->count == DHOW_MAX_TENSORS)
		return no_output(r, name, "there are 64 already");
	if (name.size == 0 || name.size > DHOW_MAX_NAME)
		return no_output(r, name, "a name has 1 to 256 bytes");
	for (uint32_t i = 0; i < r->count; i++) {
		const uint8_t *other = r->outputs[i].start;
		if ((uint32_t)(other[2] | other[3] << 8) == name.size && memcmp(other + 8 + 8 * other[1], name.data, name.size) == 0)
			return no_output(r, name, "there is one of that name");
	}
	if (size > DHOW_MAX_LIST)
		return no_output(r, name, "it is too large");
	if (!r->header && !(r->header = dhow_alloc(8)))
		return no_output(r, name, "memory has run out");
	uint32_t before = 8 + 8 * rank + padded(name.size), whole = before + padded(size);
	uint8_t *start = dhow_alloc(whole);
	if (!start)
		return no_output(r, name, "memory has run out");
	start[0] = (uint8_t)type;
	start[1] = (uint8_t)rank;
	start[2] = (uint8_t)name.size;
	start[3] = (uint8_t)(name.size >> 8);
	__builtin_memcpy(start + 4, &size, 4);
	if (rank > 0)
		__builtin_memcpy(start + 8, shape, 8 * rank);
	__builtin_memset(start + before - 8, 0, 8); // the padding; the name goes over the rest
	__builtin_memcpy(start + 8 + 8 * rank, name.data, name.size);
	__builtin_memset(start + before + size, 0, padded(size) - size);
	r->outputs[r->count].start = start;
	r->outputs[r->count++].size = whole;
	return start + before;
}

static dhow_bytes text(const char *s) {
	dhow_bytes b = {(const uint8_t *)s, (uint32_t)strlen(s)};
	return b;
}

void *dhow_output(dhow_response *r, const char *name, dhow_datatype type, uint32_t rank, const uint64_t *shape) {
	uint64_t elements;
	if (!dhow_size(type))
		return no_output(r, text(name), "its datatype is no number's");
	if (rank > DHOW_MAX_RANK || !product(rank, shape, &elements))
		return no_output(r, text(name), "its shape is none");
	if (elements > DHOW_MAX_LIST / dhow_size(type))
		return no_output(r, text(name), "it is too large");
	return output(r, text(name), type, rank, shape, (uint32_t)elements * dhow_size(type));
}

bool dhow_output_rows(dhow_response *r, uint64_t rows) {
	if (r->count == 0)
		return fail(r, DHOW_GUEST_ERROR, "there is no output to shorten"), false;
	uint8_t *start = r->outputs[r->count - 1].start;
	uint32_t rank = start[1], name = start[2] | start[3] << 8, size = dhow_size((dhow_datatype)start[0]);
	uint32_t before = 8 + 8 * rank + padded(name);
	uint64_t shape[DHOW_MAX_RANK], elements;
	__builtin_memcpy(shape, start + 8, 8 * rank);
	if (rank == 0 || size == 0 || rows > shape[0])
		return fail(r, DHOW_GUEST_ERROR, "the output has not so many rows to be shortened to"), false;
	shape[0] = rows;
	product(rank, shape, &elements);
	size *= (uint32_t)elements; // no more than before
	__builtin_memcpy(start + 4, &size, 4);
	__builtin_memcpy(start + 8, shape, 8);
	__builtin_memset(start + before + size, 0, padded(size) - size);
	uint32_t whole = before + padded(size);
	if (top == start + r->outputs[r->count - 1].size)
		top = start + whole;
	r->outputs[r->count - 1].size = whole;
	return true;
}

bool dhow_output_strings(dhow_response *r, const char *name, uint32_t rank, const uint64_t *shape, const dhow_bytes *strings) {
	uint64_t elements, size = 0;
	if (rank > DHOW_MAX_RANK || !product(rank, shape, &elements))
		return no_output(r, text(name), "its shape is none"), false;
	if (elements > DHOW_MAX_LIST / 4)
		return no_output(r, text(name), "it is too large"), false;
	for (uint64_t i = 0; i < elements; i++)
		size += 4 + (uint64_t)strings[i].size;
	if (size > DHOW_MAX_LIST)
		return no_output(r, text(name), "it is too large"), false;
	uint8_t *at = output(r, text(name), DHOW_BYTES, rank, shape, (uint32_t)size);
	if (!at)
		return false;
	for (uint64_t i = 0; i < elements; at += strings[i++].size) {
		__builtin_memcpy(at, &strings[i].size, 4);
		__builtin_memcpy(at += 4, strings[i].data, strings[i].size);
	}
	return true;
}

void *dhow_output_like(dhow_response *r, const dhow_tensor *t) {
	return output(r, t->name, t->type, t->rank, t->shape, t->size);
}

// finish makes the outputs a list without gaps and returns where it ends.
static uint8_t *finish(dhow_response *r, uint8_t *header) {
	uint8_t *end = header + 8;
	for (uint32_t i = 0; i < r->count; i++) {
		if (end != r->outputs[i].start) // gaps only close: it moves down
			__builtin_memmove(end, r->outputs[i].start, r->outputs[i].size);
		end += r->outputs[i].size;
	}
	uint32_t size = end - header;
	__builtin_memcpy(header, &r->count, 4);
	__builtin_memcpy(header + 4, &size, 4);
	return end;
}

static dhow_request request;
static dhow_response response;

// answer runs the step on a list; the status and, in response, what goes with it. A result's header is there after it.
static void answer(const uint8_t *list, uint32_t size) {
	response.status = DHOW_OK;
	response.count = 0;
	response.header = NULL;
	response.message.size = 0;
	const char *why = read_list(&request, list, size);
	if (why) {
		dhow_add(dhow_add(&response.message, "cannot read the request: "), why);
		response.status = DHOW_GUEST_ERROR;
		return;
	}
	dhow_status status = dhow_process(&request, &response);
	if (response.status == DHOW_OK && status == DHOW_OK) {
		uint64_t whole = 8;
		for (uint32_t i = 0; i < response.count; i++)
			whole += response.outputs[i].size;
		if (whole > DHOW_MAX_LIST)
			fail(&response, DHOW_GUEST_ERROR, "the result is too large");
		else if (!response.header && !(response.header = dhow_alloc(8)))
			fail(&response, DHOW_GUEST_ERROR, "memory has run out");
	} else if (response.status == DHOW_OK) {
		fail(&response, status == DHOW_INPUT_ERROR ? status : DHOW_GUEST_ERROR, "the step gave no reason");
	}
}

static uint32_t area[3];

static uint32_t *returned(dhow_status status, const void *at, uint32_t size) {
	area[0] = status;
	area[1] = (uint32_t)(uintptr_t)at;
	area[2] = size;
	return area;
}

EXPORT("process") uint32_t *export_process(const uint8_t *list, uint32_t size) {
	answer(list, size);
	if (response.status != DHOW_OK)
		return returned(response.status, response.message.text, response.message.size);
	return returned(DHOW_OK, response.header, finish(&response, response.header) - response.header);
}

static uint32_t *refuse_batch(const char *sentence) { return returned(DHOW_GUEST_ERROR, sentence, strlen(sentence)); }

// Each answer is moved to the end of those before it, and what its request took of the arena is free for the next one.
EXPORT("process_batch") uint32_t *export_process_batch(const uint8_t *batch, uint32_t size) {
	const uint8_t *at = batch + 8, *end = batch + size;
	if (size < 8 || size > DHOW_MAX_LIST || word(batch + 4) != size)
		return refuse_batch("cannot read the batch: it has another length than it says");
	uint32_t count = word(batch);
	if (count < 1 || count > max_batch)
		return refuse_batch("cannot read the batch: it has no length of 1 to 256 items");
	for (uint32_t i = 0; i < count; i++) {
		if (end - at < 8 || word(at + 4) > (uint32_t)(end - at - 8) || padded(word(at + 4)) > (uint32_t)(end - at - 8))
			return refuse_batch("cannot read the batch: it ends inside an item");
		const uint8_t *payload = at + 8, *next = payload + padded(word(at + 4));
		if (word(at) > DHOW_GUEST_ERROR || !zeros(payload + word(at + 4), next))
			return refuse_batch("cannot read the batch: an item has an unknown status, or padding that is not zero");
		at = next;
	}
	if (at != end)
		return refuse_batch("cannot read the batch: bytes follow the last item");
	uint8_t *answers = dhow_alloc(8);
	if (!answers)
		return refuse_batch("cannot answer the batch: memory has run out");
	at = batch + 8;
	for (uint32_t i = 0; i < count; i++) {
		uint8_t *item = dhow_alloc(8);
		// There is room for any sentence, so that a request which used up the memory can still be told.
		if (!item || !dhow_alloc(sizeof response.message.text))
			return refuse_batch("cannot answer the batch: memory has run out");
		top = item + 8;
		uint32_t length = word(at + 4);
		answer(at + 8, length);
		at += 8 + padded(length);
		uint8_t *done;
		if (response.status == DHOW_OK) {
			done = finish(&response, item + 8);
		} else {
			__builtin_memcpy(item + 8, response.message.text, response.message.size);
			done = item + 8 + response.message.size;
		}
		uint32_t payload = done - item - 8;
		__builtin_memset(done, 0, padded(payload) - payload);
		__builtin_memcpy(item, &response.status, 4);
		__builtin_memcpy(item + 4, &payload, 4);
		top = item + 8 + padded(payload);
		if ((uint32_t)(top - answers) > DHOW_MAX_LIST)
			return refuse_batch("cannot answer the batch: the answers are too large");
	}
	uint32_t whole = top - answers;
	__builtin_memcpy(answers, &count, 4);
	__builtin_memcpy(answers + 4, &whole, 4);
	return returned(DHOW_OK, answers, whole);
}

EXPORT("cabi_post_process") void export_post_process(uint32_t *ret) {
	(void)ret;
	top = kept;
}

EXPORT("cabi_realloc") void *export_realloc(void *old, uint32_t old_size, uint32_t align, uint32_t size) {
	return old || old_size || align > 8 ? NULL : dhow_alloc(size);
}

EXPORT("dhow_abi_version") uint32_t export_abi_version(void) { return 1; }

__attribute__((weak)) bool dhow_configure(dhow_bytes configuration) {
	(void)configuration;
	return true;
}

EXPORT("configure") uint32_t export_configure(const uint8_t *data, uint32_t size) {
	dhow_bytes configuration = {data, size};
	bool ok = dhow_configure(configuration);
	kept = top;
	return ok ? 0 : 1;
}

// The constructors of C++ run once. Without a caller of their own the linker would run them at every export.
extern void __wasm_call_ctors(void);

EXPORT("_initialize") void export_initialize(void) { __wasm_call_ctors(); }

void dhow_emit_feature(const char *name, double value) { import_emit_feature(name, strlen(name), value); }
void dhow_emit_count(const char *name, uint64_t n) { import_emit_count(name, strlen(name), n); }
void dhow_log(uint32_t level, const char *line) { import_log(level, line, strlen(line)); }

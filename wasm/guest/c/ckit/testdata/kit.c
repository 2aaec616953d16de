// A step for tests: does what the first input's name says.
#include "dhow.h"
#include "dhow_math.h"

static uint32_t calls;
static dhow_bytes configured;

bool dhow_configure(dhow_bytes configuration) {
	configured = configuration;
	if (dhow_equal(configuration, "refuse me")) {
		dhow_log(DHOW_ERROR, "invalid configuration");
		return false;
	}
	return true;
}

static dhow_status echo(const dhow_request *in, dhow_response *out) {
	for (uint32_t i = 0; i < in->count; i++) {
		const dhow_tensor *t = &in->tensors[i];
		void *to = dhow_output_like(out, t);
		if (!to)
			return DHOW_GUEST_ERROR;
		__builtin_memcpy(to, t->data, t->size);
	}
	return DHOW_OK;
}

// gaps is echo with memory taken, and dirtied, before, between and after the outputs.
static dhow_status gaps(const dhow_request *in, dhow_response *out) {
	for (uint32_t i = 0; i < in->count; i++) {
		uint32_t n = 1 + 977 * i;
		uint8_t *scratch = dhow_alloc(n);
		__builtin_memset(scratch, 0xee, n);
		const dhow_tensor *t = &in->tensors[i];
		void *to = dhow_output_like(out, t);
		if (!scratch || !to)
			return DHOW_GUEST_ERROR;
		__builtin_memcpy(to, t->data, t->size);
		__builtin_memset(dhow_alloc(13), 0xee, 13);
	}
	return DHOW_OK;
}

// next is every element and one more; true and false change places.
#define NEXT(view, ctype) \
	if (view(t)) { \
		ctype *to = dhow_output(out, name, t->type, t->rank, t->shape); \
		for (uint32_t j = 0; to && j < t->elements; j++) \
			to[j] = (ctype)(view(t)[j] + 1); \
		continue; \
	}

static dhow_status next(const dhow_request *in, dhow_response *out) {
	static const char *names[] = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15"};
	for (uint32_t i = 1; i < in->count && i < 16; i++) {
		const dhow_tensor *t = &in->tensors[i];
		const char *name = names[i];
		NEXT(dhow_u8, uint8_t)
		NEXT(dhow_u16, uint16_t)
		NEXT(dhow_u32, uint32_t)
		NEXT(dhow_u64, uint64_t)
		NEXT(dhow_i8, int8_t)
		NEXT(dhow_i16, int16_t)
		NEXT(dhow_i32, int32_t)
		NEXT(dhow_i64, int64_t)
		NEXT(dhow_f32, float)
		NEXT(dhow_f64, double)
		if (dhow_bool(t)) {
			uint8_t *to = dhow_output(out, name, t->type, t->rank, t->shape);
			for (uint32_t j = 0; to && j < t->elements; j++)
				to[j] = !dhow_bool(t)[j];
		} else if (t->type == DHOW_FP16 || t->type == DHOW_BF16) {
			uint16_t *to = dhow_output(out, name, t->type, t->rank, t->shape);
			for (uint32_t j = 0; to && j < t->elements; j++)
				to[j] = dhow_f16(t) ? dhow_to_f16(dhow_from_f16(dhow_f16(t)[j]) + 1) : dhow_to_bf16(dhow_from_bf16(dhow_bf16(t)[j]) + 1);
		} else { // the strings from the last to the first
			dhow_bytes *strings = dhow_alloc(t->elements * sizeof *strings);
			uint32_t at = 0;
			for (uint32_t j = t->elements; j-- > 0;)
				dhow_next(t, &at, &strings[j]);
			dhow_output_strings(out, name, t->rank, t->shape, strings);
		}
	}
	return DHOW_OK;
}

// rows keeps what is above zero of a column of numbers, twice.
static dhow_status rows(const dhow_request *in, dhow_response *out) {
	const dhow_tensor *t = dhow_input(in, "x");
	const float *x = dhow_f32(t);
	if (!x || t->rank != 1)
		return dhow_input_error(out, "x must be FP32 of one dimension");
	for (int i = 0; i < 2; i++) {
		uint64_t n = 0, shape[2] = {t->elements, 3};
		float *y = dhow_output(out, i ? "second" : "first", DHOW_FP32, 2, shape);
		for (uint32_t j = 0; y && j < t->elements; j++)
			if (x[j] > 0) {
				y[3 * n] = x[j];
				y[3 * n + 1] = 2 * x[j];
				y[3 * n++ + 2] = (float)j;
			}
		dhow_output_rows(out, n);
	}
	return DHOW_OK;
}

static dhow_status math(const dhow_request *in, dhow_response *out) {
	static double (*const functions[])(double) = {dhow_exp, dhow_ln, dhow_sin, dhow_cos};
	static const char *names[] = {"exp", "ln", "sin", "cos"};
	const dhow_tensor *t = dhow_input(in, "x");
	const double *x = dhow_f64(t);
	if (!x)
		return dhow_input_error(out, "x must be FP64");
	for (int i = 0; i < 4; i++) {
		double *y = dhow_output(out, names[i], DHOW_FP64, t->rank, t->shape);
		for (uint32_t j = 0; y && j < t->elements; j++)
			y[j] = functions[i](x[j]);
	}
	return DHOW_OK;
}

// half takes floats to both kinds of 16 bits, and 16 bits of both kinds to floats.
static dhow_status half(const dhow_request *in, dhow_response *out) {
	const dhow_tensor *f = dhow_input(in, "f"), *h = dhow_input(in, "h");
	if (!dhow_f32(f) || !dhow_u16(h))
		return dhow_input_error(out, "f must be FP32, h UINT16");
	uint16_t *f16 = dhow_output(out, "f16", DHOW_FP16, f->rank, f->shape), *bf16 = dhow_output(out, "bf16", DHOW_BF16, f->rank, f->shape);
	float *from = dhow_output(out, "from f16", DHOW_FP32, h->rank, h->shape), *from_b = dhow_output(out, "from bf16", DHOW_FP32, h->rank, h->shape);
	if (!from_b)
		return DHOW_GUEST_ERROR;
	for (uint32_t i = 0; i < f->elements; i++) {
		f16[i] = dhow_to_f16(dhow_f32(f)[i]);
		bf16[i] = dhow_to_bf16(dhow_f32(f)[i]);
	}
	for (uint32_t i = 0; i < h->elements; i++) {
		from[i] = dhow_from_f16(dhow_u16(h)[i]);
		from_b[i] = dhow_from_bf16(dhow_u16(h)[i]);
	}
	return DHOW_OK;
}

static dhow_status wrong(const dhow_request *in, dhow_response *out) {
	const dhow_tensor *t = &in->tensors[0];
	static char long_name[300];
	uint64_t one = 1, many = 1 << 29, negative = (uint64_t)-1, both[2] = {1ull << 40, 1ull << 40};
	switch (dhow_u8(t) && t->elements ? dhow_u8(t)[0] : 255) {
	case 0:
		return dhow_input_error(out, dhow_add(dhow_add_number(dhow_add(&(dhow_text){0}, "got "), INT64_MIN), " samples")->text);
	case 1:
		return dhow_guest_error(out, "lost");
	case 2: // an error that is not returned
		dhow_input_error(out, "first");
		dhow_guest_error(out, "second");
		return DHOW_OK;
	case 3:
		return DHOW_INPUT_ERROR;
	case 4:
		return (dhow_status)7;
	case 5:
		for (int i = 0; i < 65; i++)
			dhow_output(out, dhow_add_number(&(dhow_text){0}, i)->text, DHOW_UINT8, 1, &one);
		return DHOW_OK;
	case 6:
		dhow_output(out, "twice", DHOW_UINT8, 0, NULL);
		dhow_output(out, "twice", DHOW_UINT8, 0, NULL);
		return DHOW_OK;
	case 7:
		dhow_output(out, "", DHOW_UINT8, 0, NULL);
		return DHOW_OK;
	case 8:
		__builtin_memset(long_name, 'n', 257);
		dhow_output(out, long_name, DHOW_UINT8, 0, NULL);
		return DHOW_OK;
	case 9:
		dhow_output(out, "large", DHOW_FP64, 1, &many);
		return DHOW_OK;
	case 10:
		dhow_output(out, "negative", DHOW_FP64, 1, &negative);
		return DHOW_OK;
	case 11:
		dhow_output(out, "product", DHOW_FP64, 2, both);
		return DHOW_OK;
	case 12:
		dhow_output(out, "strings", DHOW_BYTES, 1, &one);
		return DHOW_OK;
	case 13:
		dhow_output_rows(out, 1);
		return DHOW_OK;
	case 14:
		dhow_output(out, "rows", DHOW_UINT8, 1, &one);
		dhow_output_rows(out, 2);
		return DHOW_OK;
	case 15:
		while (dhow_alloc(1 << 20))
			;
		dhow_output(out, "late", DHOW_UINT8, 1, (uint64_t[]){2 << 20});
		return DHOW_OK;
	case 16: { // a sentence beyond the bound, cut before the character that does not fit
		dhow_text long_text = {0};
		for (int i = 0; i < 2000; i++)
			dhow_add(&long_text, i ? "\xd9\x86" : "x");
		return dhow_input_error(out, long_text.text);
	}
	case 17:
		__builtin_trap();
	}
	return DHOW_OK;
}

dhow_status dhow_process(const dhow_request *in, dhow_response *out) {
	calls++;
	if (in->count == 0)
		return DHOW_OK;
	dhow_bytes name = in->tensors[0].name;
	if (dhow_equal(name, "gaps"))
		return gaps(in, out);
	if (dhow_equal(name, "next"))
		return next(in, out);
	if (dhow_equal(name, "rows"))
		return rows(in, out);
	if (dhow_equal(name, "math"))
		return math(in, out);
	if (dhow_equal(name, "half"))
		return half(in, out);
	if (dhow_equal(name, "wrong"))
		return wrong(in, out);
	if (dhow_equal(name, "calls")) {
		uint32_t *n = dhow_output(out, "calls", DHOW_UINT32, 0, NULL);
		if (n)
			*n = calls;
		return DHOW_OK;
	}
	if (dhow_equal(name, "configuration")) {
		dhow_output_strings(out, "configuration", 0, NULL, &configured);
		return DHOW_OK;
	}
	if (dhow_equal(name, "emit")) {
		dhow_emit_feature("bright", 0.5);
		dhow_emit_count("known", 3);
		dhow_emit_count("unknown", 3);
		dhow_log(DHOW_WARNING, "a line");
		return DHOW_OK;
	}
	return echo(in, out);
}

// A step in C++: a template over the numbers, and an object whose constructor must have run once.
#include "dhow.h"

namespace {

struct Counter {
	uint32_t made, requests = 0;
	Counter() { made = ++constructed; }
	static uint32_t constructed;
};

uint32_t Counter::constructed = 40;
Counter counter;

template <typename T> void negate(T *to, const T *from, uint32_t n) {
	for (uint32_t i = 0; i < n; i++)
		to[i] = -from[i];
}

} // namespace

dhow_status dhow_process(const dhow_request *request, dhow_response *response) {
	counter.requests++;
	const dhow_tensor *x = dhow_input(request, "x");
	if (!dhow_f64(x))
		return dhow_input_error(response, "x must be FP64");
	double *y = static_cast<double *>(dhow_output(response, "y", DHOW_FP64, x->rank, x->shape));
	uint32_t *n = static_cast<uint32_t *>(dhow_output(response, "counts", DHOW_UINT32, 0, nullptr));
	if (!y || !n)
		return DHOW_GUEST_ERROR;
	negate(y, dhow_f64(x), x->elements);
	*n = Counter::constructed * 1000 + counter.made;
	return DHOW_OK;
}

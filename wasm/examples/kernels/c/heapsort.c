// heapsort: sorts n numbers (at most 65,536): loads, stores and branches that cannot be foreseen.
#include <stdint.h>

static uint32_t a[1 << 16];

static void sift(uint32_t root, uint32_t end) {
	uint32_t v = a[root];
	for (uint32_t child; (child = 2 * root + 1) < end; root = child) {
		if (child + 1 < end && a[child] < a[child + 1])
			child++;
		if (v >= a[child])
			break;
		a[root] = a[child];
	}
	a[root] = v;
}

__attribute__((export_name("run"))) int64_t run(int32_t n) {
	uint32_t count = n < 0 ? 0 : n > 1 << 16 ? 1 << 16 : n;
	uint32_t x = 1;
	for (uint32_t i = 0; i < count; i++)
		a[i] = x = x * 1664525 + 1013904223;
	for (uint32_t i = count / 2; i-- > 0;)
		sift(i, count);
	for (uint32_t end = count; end > 1;) {
		uint32_t largest = a[0];
		a[0] = a[--end];
		a[end] = largest;
		sift(0, end);
	}
	uint64_t sum = 0;
	for (uint32_t i = 0; i < count; i++)
		sum = sum * 31 + a[i];
	return (int64_t)sum;
}

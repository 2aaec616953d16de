// xorshift: n steps of a random number generator, a tight loop of dependent integer instructions without memory.
#include <stdint.h>

__attribute__((export_name("run"))) int64_t run(int32_t n) {
	uint64_t x = 88172645463325252;
	for (int32_t i = 0; i < n; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
	}
	return (int64_t)x;
}

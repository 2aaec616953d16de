// addloop: n additions, the smallest loop there is and so the worst case of a charge at every turn. The empty assembly
// keeps the compiler from working out the sum, the pragma from doing several turns in one.
#include <stdint.h>

__attribute__((export_name("run"))) int64_t run(int32_t n) {
	int64_t sum = 0;
#pragma clang loop unroll(disable)
	for (int32_t i = 0; i < n; i++) {
		sum += i;
		__asm__ volatile("" : "+r"(sum));
	}
	return sum;
}

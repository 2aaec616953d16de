// chase: n steps along a random ring through 32 MiB, each a load that misses the caches and that the next one waits for:
// the slowest instructions there are. The first run lays the ring, which takes far longer than its steps.
#include <stdint.h>

enum { count = 1 << 23 };

static uint32_t next[count];

static void lay(void) {
	for (uint32_t i = 0; i < count; i++)
		next[i] = i;
	uint64_t x = 88172645463325252;
	for (uint32_t i = count - 1; i > 0; i--) { // Sattolo's shuffle: a single ring
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		uint32_t j = (uint32_t)(((x >> 32) * i) >> 32), v = next[i];
		next[i] = next[j];
		next[j] = v;
	}
}

__attribute__((export_name("run"))) int64_t run(int32_t n) {
	if (next[0] == next[1]) // two elements of a ring never lead to the same place
		lay();
	uint32_t at = 0;
	for (int32_t i = 0; i < n; i++)
		at = next[at];
	return at;
}

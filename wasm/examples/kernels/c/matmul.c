// matmul: n times the product of two 128x128 matrices of 64-bit floats, three plain loops.
#include <stdint.h>

enum { size = 128 };

static double a[size][size], b[size][size], c[size][size];

__attribute__((noinline)) static void multiply(void) {
	for (int i = 0; i < size; i++)
		for (int j = 0; j < size; j++) {
			double sum = 0;
			for (int k = 0; k < size; k++)
				sum += a[i][k] * b[k][j];
			c[i][j] = sum;
		}
}

__attribute__((export_name("run"))) int64_t run(int32_t n) {
	for (int i = 0; i < size; i++)
		for (int j = 0; j < size; j++) {
			a[i][j] = (i * 7 + j * 3) % 17 - 8;
			b[i][j] = (i * 5 + j * 11) % 13 - 6;
			c[i][j] = 0;
		}
	for (int32_t i = 0; i < n; i++)
		multiply();
	int64_t sum = 0;
	for (int i = 0; i < size; i++)
		for (int j = 0; j < size; j++)
			sum = (int64_t)((uint64_t)sum * 31 + (uint64_t)(int64_t)c[i][j]);
	return sum;
}

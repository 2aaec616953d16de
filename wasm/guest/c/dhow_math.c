// dhow_math.c: numbers for steps written in C. Each function reduces its argument to a small range, where the first terms
// of a series (Abramowitz and Stegun 4.1.27, 4.2.1, 4.3.65, 4.3.66) are exact to the last bits of a double.
#include "dhow_math.h"

#include "dhow.h"

static uint64_t bits_of(double x) {
	uint64_t b;
	__builtin_memcpy(&b, &x, 8);
	return b;
}

static double of_bits(uint64_t b) {
	double x;
	__builtin_memcpy(&x, &b, 8);
	return x;
}

// ln 2 in two parts, of which the first has so few bits that its products with exponents are exact.
static const double ln2_high = 0x1.62e42fefa3800p-1, ln2_low = 0x1.ef35793c76730p-45;

double dhow_exp(double x) {
	if (x != x)
		return x;
	if (x > 709.79)
		return __builtin_inf();
	if (x < -745.14)
		return 0;
	int k = (int)__builtin_floor(x * 1.4426950408889634 + 0.5);
	double r = (x - k * ln2_high) - k * ln2_low, sum = 1;
	for (int n = 14; n > 0; n--)
		sum = 1 + sum * r / n;
	int half = k / 2; // in two steps: 2^k alone may lie outside what a double can be
	return sum * of_bits((uint64_t)(half + 1023) << 52) * of_bits((uint64_t)(k - half + 1023) << 52);
}

double dhow_ln(double x) {
	if (x != x || x == __builtin_inf())
		return x;
	if (x < 0)
		return __builtin_nan("");
	if (x == 0)
		return -__builtin_inf();
	int e = 0;
	if (x < 0x1p-1022) {
		x *= 0x1p54;
		e = -54;
	}
	uint64_t b = bits_of(x);
	e += (int)(b >> 52) - 1023;
	double m = of_bits((b & 0xfffffffffffff) | 0x3ff0000000000000); // 1 to 2
	if (m > 1.4142135623730951) {
		m /= 2;
		e++;
	}
	double s = (m - 1) / (m + 1), q = s * s, sum = 0;
	for (int n = 21; n > 1; n -= 2)
		sum = (sum + 1.0 / n) * q;
	// log m = 2s + 2s*sum, written around m - 1, which is exact.
	double f = m - 1, rest = s * (2 * sum - f);
	return e * ln2_high + (f + (rest + e * ln2_low));
}

// reduce finds x = k * pi/2 + r with |r| <= pi/4. The products with the first two parts of pi/2 are exact.
static double reduce(double x, int64_t *k) {
	double n = __builtin_nearbyint(x * 0.6366197723675814);
	*k = (int64_t)n;
	return ((x - n * 0x1.921fb40000000p+0) - n * 0x1.4442d00000000p-24) - n * 0x1.8469898cc5170p-48;
}

static double sine(double r) {
	double q = r * r, sum = 1;
	for (int n = 17; n > 1; n -= 2)
		sum = 1 - sum * q / (n * (n - 1));
	return r * sum;
}

static double cosine(double r) {
	double q = r * r, sum = 1;
	for (int n = 18; n > 0; n -= 2)
		sum = 1 - sum * q / (n * (n - 1));
	return sum;
}

static double turned(double x, int quarters) {
	int64_t k;
	if (!(__builtin_fabs(x) <= 0x1p30))
		return __builtin_nan("");
	double r = reduce(x, &k);
	switch ((k + quarters) & 3) {
	case 0:
		return sine(r);
	case 1:
		return cosine(r);
	case 2:
		return -sine(r);
	default:
		return -cosine(r);
	}
}

double dhow_sin(double x) { return turned(x, 0); }
double dhow_cos(double x) { return turned(x, 1); }

float dhow_from_bf16(uint16_t h) {
	uint32_t bits = (uint32_t)h << 16;
	float f;
	__builtin_memcpy(&f, &bits, 4);
	return f;
}

uint16_t dhow_to_bf16(float f) {
	uint32_t bits;
	__builtin_memcpy(&bits, &f, 4);
	if (f != f)
		return (uint16_t)(bits >> 16 | 0x40); // what is left of a NaN must not become an infinity
	return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float dhow_from_f16(uint16_t h) {
	uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023, bits;
	float f;
	if (exponent == 0) {
		f = (float)fraction * 0x1p-24f;
		return sign ? -f : f;
	}
	bits = sign | (exponent == 31 ? 0x7f800000 : (exponent + 112) << 23) | fraction << 13;
	__builtin_memcpy(&f, &bits, 4);
	return f;
}

uint16_t dhow_to_f16(float f) {
	uint32_t bits;
	__builtin_memcpy(&bits, &f, 4);
	uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
	uint32_t size = bits & 0x7fffffff;
	if (size > 0x7f800000)
		return sign | 0x7e00; // NaN
	if (size >= 0x477ff000) // 65,520: halfway to what would follow the largest number
		return sign | 0x7c00;
	if (size < 0x38800000) { // below 2^-14 the distance between numbers is 2^-24: adding 0.5 rounds to that
		float shifted = __builtin_fabsf(f) + 0.5f;
		__builtin_memcpy(&bits, &shifted, 4);
		return sign | (uint16_t)(bits - 0x3f000000);
	}
	size += 0xfff + (size >> 13 & 1);
	return sign | (uint16_t)((size - 0x38000000) >> 13);
}

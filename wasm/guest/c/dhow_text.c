// dhow_text.c: bytes and texts for steps written in C.
#include "dhow.h"

// What compilers call by themselves, and what a step may define better.

__attribute__((weak)) void *memcpy(void *restrict to, const void *restrict from, size_t n) { return __builtin_memcpy(to, from, n); }
__attribute__((weak)) void *memmove(void *to, const void *from, size_t n) { return __builtin_memmove(to, from, n); }
__attribute__((weak)) void *memset(void *to, int c, size_t n) { return __builtin_memset(to, c, n); }

__attribute__((weak)) int memcmp(const void *a, const void *b, size_t n) {
	const uint8_t *x = a, *y = b;
	for (; n > 0; n--, x++, y++)
		if (*x != *y)
			return *x - *y;
	return 0;
}

__attribute__((weak)) size_t strlen(const char *s) {
	size_t n = 0;
	while (s[n])
		n++;
	return n;
}

dhow_text *dhow_add_bytes(dhow_text *t, dhow_bytes b) {
	uint32_t n = DHOW_MAX_MESSAGE - t->size;
	if (b.size <= n)
		n = b.size;
	else
		while (n > 0 && (b.data[n] & 0xc0) == 0x80) // not through the middle of a character
			n--;
	__builtin_memcpy(t->text + t->size, b.data, n);
	t->size += n;
	t->text[t->size] = 0;
	return t;
}

dhow_text *dhow_add(dhow_text *t, const char *s) {
	dhow_bytes b = {(const uint8_t *)s, (uint32_t)strlen(s)};
	return dhow_add_bytes(t, b);
}

dhow_text *dhow_add_number(dhow_text *t, int64_t v) {
	char digits[21];
	uint32_t at = sizeof digits;
	uint64_t u = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
	do
		digits[--at] = '0' + u % 10;
	while (u /= 10);
	if (v < 0)
		digits[--at] = '-';
	dhow_bytes b = {(const uint8_t *)digits + at, sizeof digits - at};
	return dhow_add_bytes(t, b);
}

bool dhow_equal(dhow_bytes a, const char *b) { return a.size == strlen(b) && memcmp(a.data, b, a.size) == 0; }

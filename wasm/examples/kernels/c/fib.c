// fib: Fibonacci's number by two calls of itself: little but calls. Built without turning calls into loops.
#include <stdint.h>

__attribute__((noinline)) static int64_t fib(int32_t n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }

__attribute__((export_name("run"))) int64_t run(int32_t n) { return fib(n); }

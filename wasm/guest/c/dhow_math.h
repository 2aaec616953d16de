// dhow_math.h: the few functions of mathematics that pre- and post-processing ask for, without a C library. Results are
// within 2 units in the last place, are the same on every machine, and follow IEEE 754 for NaN and infinities.
#ifndef DHOW_MATH_H
#define DHOW_MATH_H

#ifdef __cplusplus
extern "C" {
#endif

double dhow_exp(double x);
double dhow_ln(double x); // natural
double dhow_sin(double x); // radians; NaN beyond 2^30 either way, where a turn is no longer told apart well
double dhow_cos(double x);

static inline double dhow_sqrt(double x) { return __builtin_sqrt(x); }
static inline double dhow_floor(double x) { return __builtin_floor(x); }
static inline double dhow_fabs(double x) { return __builtin_fabs(x); }

#ifdef __cplusplus
}
#endif

#endif

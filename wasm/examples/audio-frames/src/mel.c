// mel.c: see mel.h. The transform works on half the size: even samples are the real, odd ones the imaginary parts.
#include "mel.h"

#include "dhow.h"
#include "dhow_math.h"

static const double pi = 3.141592653589793;

static double mel(double hz) { return 1127 * dhow_ln(1 + hz / 700); }

static bool between(double v, double low, double high) { return v >= low && v <= high; } // not so for NaN

// tables_of_transform makes the factors and the order of a transform of size plan->size.
static bool tables_of_transform(mel_plan *plan) {
	uint32_t half = plan->size / 2, bits = 0;
	while (1u << bits < half)
		bits++;
	plan->cosines = dhow_alloc(half * sizeof(double));
	plan->sines = dhow_alloc(half * sizeof(double));
	plan->turn_cosines = dhow_alloc(half * sizeof(double));
	plan->turn_sines = dhow_alloc(half * sizeof(double));
	plan->order = dhow_alloc(half * sizeof(uint16_t));
	if (!plan->cosines || !plan->sines || !plan->turn_cosines || !plan->turn_sines || !plan->order)
		return false;
	for (uint32_t i = 0; i < half; i++) {
		uint32_t r = 0;
		for (uint32_t b = 0; b < bits; b++)
			r |= (i >> b & 1) << (bits - 1 - b);
		plan->order[i] = (uint16_t)r;
		plan->turn_cosines[i] = dhow_cos(-2 * pi * i / plan->size);
		plan->turn_sines[i] = dhow_sin(-2 * pi * i / plan->size);
	}
	uint32_t at = 0;
	for (uint32_t width = 1; width < half; at += width, width *= 2)
		for (uint32_t j = 0; j < width; j++) {
			plan->cosines[at + j] = dhow_cos(-pi * j / width);
			plan->sines[at + j] = dhow_sin(-pi * j / width);
		}
	return true;
}

// tables_of_bands finds for each band the bins that it takes in, and how much of each.
static bool tables_of_bands(mel_plan *plan) {
	const mel_settings *s = &plan->settings;
	uint32_t bins = plan->size / 2 + 1, taken = 0;
	double low = mel(s->low_hz), step = (mel(s->high_hz) - low) / (s->bands + 1);
	plan->first = dhow_alloc(s->bands * sizeof(uint32_t));
	plan->weights_at = dhow_alloc((s->bands + 1) * sizeof(uint32_t));
	plan->weights = dhow_alloc(2 * (bins + s->bands) * sizeof(double)); // a bin belongs to two bands at most
	if (!plan->first || !plan->weights_at || !plan->weights)
		return false;
	for (uint32_t b = 0; b < s->bands; b++) {
		double left = low + b * step, right = left + 2 * step;
		plan->first[b] = 0;
		plan->weights_at[b] = taken;
		for (uint32_t k = 0; k < bins; k++) {
			double m = mel(k * s->rate / plan->size);
			if (m <= left || m >= right)
				continue;
			if (taken == plan->weights_at[b])
				plan->first[b] = k;
			double rising = (m - left) / step, falling = (right - m) / step;
			plan->weights[taken++] = rising < falling ? rising : falling;
		}
	}
	plan->weights_at[s->bands] = taken;
	return true;
}

const char *mel_prepare(mel_plan *plan, mel_settings s) {
	if (!between(s.rate, 1000, 384000))
		return "rate must be 1000 to 384000";
	if (!between(s.frame_ms, 1, 1000) || !between(s.hop_ms, 0.1, 1000))
		return "frame_ms must be 1 to 1000, hop_ms 0.1 to 1000";
	if (s.bands < 1 || s.bands > mel_max_bands)
		return "bands must be 1 to 256";
	if (s.high_hz == 0)
		s.high_hz = s.rate / 2;
	if (!between(s.low_hz, 0, s.high_hz - 1) || !between(s.high_hz, 1, s.rate / 2))
		return "low_hz must be below high_hz, and high_hz not above half the rate";
	plan->settings = s;
	plan->frame = (uint32_t)dhow_floor(s.rate * s.frame_ms / 1000 + 0.5);
	plan->hop = (uint32_t)dhow_floor(s.rate * s.hop_ms / 1000 + 0.5);
	if (plan->frame < 4 || plan->frame > mel_max_frame || plan->hop < 1)
		return "a frame must have 4 to 16384 samples, and a hop at least one";
	for (plan->size = 4; plan->size < plan->frame;)
		plan->size *= 2;
	plan->window = dhow_alloc(plan->frame * sizeof(double));
	plan->real = dhow_alloc(plan->size * sizeof(double));
	plan->imaginary = dhow_alloc(plan->size / 2 * sizeof(double));
	plan->power = dhow_alloc((plan->size / 2 + 1) * sizeof(double));
	if (!plan->window || !plan->real || !plan->imaginary || !plan->power || !tables_of_transform(plan) || !tables_of_bands(plan))
		return "memory has run out";
	for (uint32_t b = 0; b < s.bands; b++)
		if (plan->weights_at[b] == plan->weights_at[b + 1])
			return "bands are so many that one of them is narrower than the spectrum's steps; take fewer or longer frames";
	for (uint32_t i = 0; i < plan->frame; i++)
		plan->window[i] = 0.5 - 0.5 * dhow_cos(2 * pi * i / plan->frame);
	return NULL;
}

uint32_t mel_frames(const mel_plan *plan, uint32_t n) {
	return n < plan->frame ? 0 : 1 + (n - plan->frame) / plan->hop;
}

// butterflies is one group of one stage: a and b are width numbers each, w their factors.
static void butterflies(double *restrict ar, double *restrict ai, double *restrict br, double *restrict bi,
	const double *restrict wr, const double *restrict wi, uint32_t width) {
	for (uint32_t j = 0; j < width; j++) {
		double r = br[j] * wr[j] - bi[j] * wi[j], i = br[j] * wi[j] + bi[j] * wr[j];
		br[j] = ar[j] - r;
		bi[j] = ai[j] - i;
		ar[j] += r;
		ai[j] += i;
	}
}

// spectrum transforms the windowed samples in plan->real into plan->power.
static void spectrum(mel_plan *plan) {
	uint32_t half = plan->size / 2, at = 0;
	double *re = plan->real + half, *im = plan->imaginary; // the upper half of real is free from here on
	double *samples = plan->power;                        // and power is not in use yet
	__builtin_memcpy(samples, plan->real + half, half * sizeof(double));
	for (uint32_t i = 0; i < half; i++) {
		uint32_t from = 2 * plan->order[i];
		const double *pair = from < half ? plan->real + from : samples + (from - half);
		re[i] = pair[0];
		im[i] = pair[1];
	}
	for (uint32_t width = 1; width < half; at += width, width *= 2)
		for (uint32_t i = 0; i < half; i += 2 * width)
			butterflies(re + i, im + i, re + i + width, im + i + width, plan->cosines + at, plan->sines + at, width);
	plan->power[0] = (re[0] + im[0]) * (re[0] + im[0]);
	plan->power[half] = (re[0] - im[0]) * (re[0] - im[0]);
	for (uint32_t k = 1; k < half; k++) {
		double even_r = (re[k] + re[half - k]) / 2, even_i = (im[k] - im[half - k]) / 2;
		double odd_r = (im[k] + im[half - k]) / 2, odd_i = (re[half - k] - re[k]) / 2;
		double r = even_r + odd_r * plan->turn_cosines[k] - odd_i * plan->turn_sines[k];
		double i = even_i + odd_r * plan->turn_sines[k] + odd_i * plan->turn_cosines[k];
		plan->power[k] = r * r + i * i;
	}
}

void mel_frame(mel_plan *plan, float *bands) {
	for (uint32_t i = 0; i < plan->frame; i++)
		plan->real[i] *= plan->window[i];
	for (uint32_t i = plan->frame; i < plan->size; i++)
		plan->real[i] = 0;
	spectrum(plan);
	for (uint32_t b = 0; b < plan->settings.bands; b++) {
		const double *power = plan->power + plan->first[b], *weight = plan->weights + plan->weights_at[b];
		uint32_t n = plan->weights_at[b + 1] - plan->weights_at[b];
		double sum = 0;
		for (uint32_t k = 0; k < n; k++)
			sum += weight[k] * power[k];
		bands[b] = (float)dhow_ln(sum > 1e-10 ? sum : 1e-10);
	}
}

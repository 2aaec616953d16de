// step.c: sound in, log-mel spectrogram out, for models of speech and sound.
//
//	input   audio  INT16 or FP32 (full scale is 1), mono, [samples] or [1, samples]
//	        rate   optional: samples a second, one INT32 or INT64, instead of the configuration's
//	output  mel    FP32 [frames, bands] or [1, frames, bands]
//
// The configuration is lines of "name = number": rate (16000), frame_ms (25), hop_ms (10), bands (80), low_hz (20), high_hz
// (half the rate). Lines that are empty or begin with # say nothing.
//
// Features, for drift: level_db (of all samples, 0 is full scale), clipped (the share of samples at full scale), seconds.
#include "dhow.h"
#include "dhow_math.h"
#include "mel.h"

static mel_settings settings = {.rate = 16000, .frame_ms = 25, .hop_ms = 10, .low_hz = 20, .bands = 80};
static mel_plan configured;

static bool space(uint8_t c) { return c == ' ' || c == '\t' || c == '\r'; }

static dhow_bytes trimmed(const uint8_t *from, const uint8_t *to) {
	while (from < to && space(*from))
		from++;
	while (to > from && space(to[-1]))
		to--;
	dhow_bytes b = {from, (uint32_t)(to - from)};
	return b;
}

// number reads digits with at most one point among them, and nothing else.
static bool number(dhow_bytes b, double *v) {
	double sum = 0, unit = 0;
	bool digits = false;
	if (b.size > 12)
		return false;
	for (uint32_t i = 0; i < b.size; i++) {
		if (b.data[i] == '.' && unit == 0) {
			unit = 1;
			continue;
		}
		if (b.data[i] < '0' || b.data[i] > '9')
			return false;
		sum = sum * 10 + (b.data[i] - '0');
		unit *= 10;
		digits = true;
	}
	*v = unit > 1 ? sum / unit : sum;
	return digits;
}

static bool set(dhow_bytes name, dhow_bytes value) {
	double v;
	if (!number(value, &v))
		return false;
	if (dhow_equal(name, "rate"))
		settings.rate = v;
	else if (dhow_equal(name, "frame_ms"))
		settings.frame_ms = v;
	else if (dhow_equal(name, "hop_ms"))
		settings.hop_ms = v;
	else if (dhow_equal(name, "low_hz"))
		settings.low_hz = v;
	else if (dhow_equal(name, "high_hz"))
		settings.high_hz = v;
	else if (dhow_equal(name, "bands") && v <= mel_max_bands && v == (uint32_t)v)
		settings.bands = (uint32_t)v;
	else
		return false;
	return true;
}

bool dhow_configure(dhow_bytes configuration) {
	const uint8_t *at = configuration.data, *end = at + configuration.size;
	for (int64_t line = 1; at < end; line++) {
		const uint8_t *stop = at, *equals = NULL;
		for (; stop < end && *stop != '\n'; stop++)
			if (*stop == '=' && !equals)
				equals = stop;
		dhow_bytes whole = trimmed(at, stop);
		if (whole.size > 0 && whole.data[0] != '#' && (!equals || !set(trimmed(at, equals), trimmed(equals + 1, stop)))) {
			dhow_text t = {0};
			dhow_add_bytes(dhow_add(dhow_add_number(dhow_add(&t, "configuration, line "), line), ": no setting: "), whole);
			dhow_log(DHOW_ERROR, t.text);
			return false;
		}
		at = stop < end ? stop + 1 : end;
	}
	const char *wrong = mel_prepare(&configured, settings);
	if (wrong)
		dhow_log(DHOW_ERROR, wrong);
	return !wrong;
}

// sound is the samples of a request, of which one pointer is set.
typedef struct {
	const int16_t *integers;
	const float *floats;
	uint32_t n;
} sound;

// take copies the samples from at on, n of them, to where the transform wants them.
static void take(const sound *s, uint32_t at, uint32_t n, double *to) {
	if (s->integers)
		for (uint32_t i = 0; i < n; i++)
			to[i] = s->integers[at + i] / 32768.0;
	else
		for (uint32_t i = 0; i < n; i++)
			to[i] = s->floats[at + i];
}

// report emits the features; false if there is a sample that is no number.
static bool report(const sound *s, double rate) {
	double squares = 0;
	uint32_t clipped = 0;
	for (uint32_t i = 0; i < s->n; i++) {
		double v = s->integers ? s->integers[i] / 32768.0 : s->floats[i];
		squares += v * v;
		clipped += v >= 32767 / 32768.0 || v <= -1;
	}
	// Neither NaN nor infinity adds up to a number; the largest float squared, 2^30 times, does.
	if (!(squares <= 0x1p1000))
		return false;
	dhow_emit_feature("level_db", 10 / 2.302585092994046 * dhow_ln(squares / s->n + 1e-12));
	dhow_emit_feature("clipped", (double)clipped / s->n);
	dhow_emit_feature("seconds", s->n / rate);
	return true;
}

// rate_of reads the input rate. NULL, or what is wrong with it.
static const char *rate_of(const dhow_tensor *t, double *rate) {
	if (t->elements != 1 || !(dhow_i32(t) || dhow_i64(t)))
		return "rate must be one INT32 or INT64";
	*rate = dhow_i32(t) ? dhow_i32(t)[0] : (double)dhow_i64(t)[0];
	return NULL;
}

dhow_status dhow_process(const dhow_request *request, dhow_response *response) {
	const dhow_tensor *audio = dhow_input(request, "audio");
	sound s = {dhow_i16(audio), dhow_f32(audio), audio ? audio->elements : 0};
	if (!s.integers && !s.floats)
		return dhow_input_error(response, "the input audio must be INT16 or FP32");
	if (audio->rank < 1 || audio->rank > 2 || audio->shape[audio->rank - 1] != s.n)
		return dhow_input_error(response, "the input audio must have the shape [samples] or [1, samples]: one channel");

	// Tables for another rate lie in memory that is gone with the request, so the configured plan must not point there.
	mel_plan own, *plan = &configured;
	mel_settings wanted = settings;
	const dhow_tensor *rate = dhow_input(request, "rate");
	const char *wrong = rate ? rate_of(rate, &wanted.rate) : NULL;
	if (!wrong && wanted.rate != settings.rate)
		wrong = mel_prepare(plan = &own, wanted);
	if (wrong)
		return dhow_input_error(response, wrong);
	uint32_t frames = mel_frames(plan, s.n);
	if (frames == 0) {
		dhow_text t = {0};
		dhow_add_number(dhow_add(dhow_add_number(dhow_add(&t, "the input audio has "), s.n), " samples, a frame needs "), plan->frame);
		return dhow_input_error(response, t.text);
	}
	if (!report(&s, plan->settings.rate))
		return dhow_input_error(response, "the input audio has a sample that is no number");

	uint64_t shape[3] = {1, frames, plan->settings.bands};
	float *mel = dhow_output(response, "mel", DHOW_FP32, audio->rank + 1, audio->rank == 1 ? shape + 1 : shape);
	if (!mel)
		return DHOW_GUEST_ERROR;
	for (uint32_t f = 0; f < frames; f++) {
		take(&s, f * plan->hop, plan->frame, plan->real);
		mel_frame(plan, mel + f * plan->settings.bands);
	}
	return DHOW_OK;
}

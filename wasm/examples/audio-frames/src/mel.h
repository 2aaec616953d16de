// mel.h: log-mel spectrograms of sound, frame by frame, and their tables.
//
// A frame is multiplied by a Hann window (periodic, as long as the frame), filled up with zeros to a power of two and
// transformed. A band is a triangle over the power spectrum, whose corners are as far apart as its neighbours' middles on
// the mel scale, 1127 ln(1 + f/700) (HTK's); the bands share low to high Hz. What comes out is the natural logarithm of a
// band's power, no less than that of 1e-10.
#ifndef MEL_H
#define MEL_H

#include <stdbool.h>
#include <stdint.h>

enum { mel_max_frame = 1 << 14, mel_max_bands = 256 };

typedef struct {
	double rate;            // samples a second
	double frame_ms, hop_ms;
	double low_hz, high_hz; // high_hz 0 is half the rate
	uint32_t bands;
} mel_settings;

typedef struct {
	mel_settings settings;
	uint32_t frame, hop; // samples
	uint32_t size;       // of the transform
	double *window;      // frame numbers
	double *cosines, *sines; // of each stage of the transform, one after the other
	uint16_t *order;     // of the samples before the first stage
	double *turn_cosines, *turn_sines;
	uint32_t *first;     // the first bin of each band, and with first[bands] its end
	uint32_t *weights_at;
	double *weights;
	double *real, *imaginary, *power; // room for one frame
} mel_plan;

// mel_prepare makes the tables for settings, in memory from dhow_alloc. It returns NULL, or says what is wrong with them.
const char *mel_prepare(mel_plan *plan, mel_settings settings);

// mel_frames is the number of whole frames in n samples.
uint32_t mel_frames(const mel_plan *plan, uint32_t n);

// mel_frame turns one frame, whose samples are in plan->real, into bands.
void mel_frame(mel_plan *plan, float *bands);

#endif

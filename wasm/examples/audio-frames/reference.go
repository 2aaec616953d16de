// Package audioframes is an example of a step written in C: sound becomes the log-mel spectrogram that models of speech
// read. The step is in src; this package has the same in Go, written for clarity and not for speed, with which the tests
// compare it.
//
//	wasm/guest/c/build pre.wasm wasm/examples/audio-frames/src/*.c
//
// What goes in and out, and the settings, stand at the top of src/step.c, the definitions in src/mel.h. The package does
// no I/O and keeps no state.
package audioframes

import (
	"math"
	"math/cmplx"
)

// Settings are those of the step.
type Settings struct {
	Rate, FrameMS, HopMS, LowHz, HighHz float64 // HighHz 0 is half the rate
	Bands                               int
}

// Default is what the step does without configuration.
var Default = Settings{Rate: 16000, FrameMS: 25, HopMS: 10, LowHz: 20, Bands: 80}

// Spectrogram returns the natural logarithms of the bands' powers, frame by frame, and false for settings with which a
// band would have no part of the spectrum.
func Spectrogram(samples []float64, s Settings) ([][]float64, bool) {
	if s.HighHz == 0 {
		s.HighHz = s.Rate / 2
	}
	frame, hop := int(math.Floor(s.Rate*s.FrameMS/1000+0.5)), int(math.Floor(s.Rate*s.HopMS/1000+0.5))
	size := 4
	for size < frame {
		size *= 2
	}
	weights := filters(s, size)
	for _, w := range weights {
		if len(w) == 0 {
			return nil, false
		}
	}
	var out [][]float64
	for at := 0; at+frame <= len(samples); at += hop {
		padded := make([]complex128, size)
		for i := range frame {
			padded[i] = complex(samples[at+i]*(0.5-0.5*math.Cos(2*math.Pi*float64(i)/float64(frame))), 0)
		}
		spectrum := transform(padded)
		bands := make([]float64, s.Bands)
		for b := range bands {
			sum := 0.0
			for k, w := range weights[b] {
				sum += w * math.Pow(cmplx.Abs(spectrum[k]), 2)
			}
			bands[b] = math.Log(math.Max(sum, 1e-10))
		}
		out = append(out, bands)
	}
	return out, true
}

// filters returns for each band the weights of the bins in it.
func filters(s Settings, size int) []map[int]float64 {
	mel := func(hz float64) float64 { return 1127 * math.Log(1+hz/700) }
	low := mel(s.LowHz)
	step := (mel(s.HighHz) - low) / float64(s.Bands+1)
	out := make([]map[int]float64, s.Bands)
	for b := range out {
		out[b] = map[int]float64{}
		middle := low + float64(b+1)*step
		for k := range size/2 + 1 {
			if w := 1 - math.Abs(mel(float64(k)*s.Rate/float64(size))-middle)/step; w > 0 {
				out[b][k] = w
			}
		}
	}
	return out
}

// transform is the discrete Fourier transform of a power of two of numbers, by halves.
func transform(x []complex128) []complex128 {
	n := len(x)
	if n == 1 {
		return x
	}
	even, odd := make([]complex128, n/2), make([]complex128, n/2)
	for i := range n / 2 {
		even[i], odd[i] = x[2*i], x[2*i+1]
	}
	even, odd = transform(even), transform(odd)
	out := make([]complex128, n)
	for k := range n / 2 {
		turned := cmplx.Rect(1, -2*math.Pi*float64(k)/float64(n)) * odd[k]
		out[k], out[k+n/2] = even[k]+turned, even[k]-turned
	}
	return out
}

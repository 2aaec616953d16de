package models

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/dhowfleet/dhow/test/conformance/wire"
)

// recording reads a WAV file of 16-bit mono samples.
func recording(t *testing.T, elements ...string) (samples []float64, rate int) {
	t.Helper()
	b := read(t, fetched(t, elements...))
	if len(b) < 12 || string(b[:4]) != "RIFF" || string(b[8:12]) != "WAVE" {
		t.Fatal("it is no WAV file")
	}
	for b = b[12:]; len(b) >= 8; {
		kind, size := string(b[:4]), int(binary.LittleEndian.Uint32(b[4:]))
		data := b[8:min(len(b), 8+size)]
		switch kind {
		case "fmt ":
			if binary.LittleEndian.Uint16(data) != 1 || binary.LittleEndian.Uint16(data[2:]) != 1 || binary.LittleEndian.Uint16(data[14:]) != 16 {
				t.Fatal("it is not 16-bit mono")
			}
			rate = int(binary.LittleEndian.Uint32(data[4:]))
		case "data":
			for i := 0; i+1 < len(data); i += 2 {
				samples = append(samples, float64(int16(binary.LittleEndian.Uint16(data[i:])))/32768)
			}
		}
		b = b[min(len(b), 8+size+size%2):]
	}
	return samples, rate
}

// third takes a recording of 48 kHz to 16 kHz: a low-pass filter (windowed sinc, below 7.2 kHz), then every third sample.
func third(in []float64) []float32 {
	const taps, cutoff = 96, 7200.0 / 48000
	var kernel [taps + 1]float64
	for i := range kernel {
		x := float64(i) - taps/2
		k := 2 * cutoff
		if x != 0 {
			k = math.Sin(2*math.Pi*cutoff*x) / (math.Pi * x)
		}
		kernel[i] = k * (0.54 - 0.46*math.Cos(2*math.Pi*float64(i)/taps))
	}
	out := make([]float32, 0, len(in)/3+1)
	for at := 0; at < len(in); at += 3 {
		sum := 0.0
		for i, k := range kernel {
			if j := at + i - taps/2; j >= 0 && j < len(in) {
				sum += k * in[j]
			}
		}
		out = append(out, float32(sum))
	}
	return out
}

// speech asks the detector for each window of 32 ms, handing its state from one request to the next, and returns how
// likely each window is to be speech. v5 and later want the last 64 samples of the window before in front.
func (c *client) speech(t *testing.T, model string, sound []float32) []float64 {
	t.Helper()
	const window, context = 512, 64
	state := f32("state", []int64{2, 1, 128}, make([]float32, 256))
	before := make([]float32, context)
	var out []float64
	for at := 0; at+window <= len(sound); at += window {
		input := slices.Concat(before, sound[at:at+window])
		before = sound[at+window-context : at+window]
		a := c.ask(t, model, f32("input", []int64{1, window + context}, input), state, i64("sr", []int64{}, 16000))
		out = append(out, numbers(t, a, "output")[0])
		next := a.Find("stateN")
		state = wire.Value{Name: "state", Datatype: "FP32", Shape: next.Shape, Raw: next.Raw}
	}
	return out
}

func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(max(1, len(values)))
}

// TestVoices: in a recording of someone who says where a loudspeaker stands, between a second of silence before and one
// after, the detector finds the speech and nothing else.
func TestVoices(t *testing.T) {
	for _, version := range []string{"v5", "v6"} {
		path := fetched(t, "vad-web", "dist", "silero_vad_"+version+".onnx")
		c := start(t)
		c.load(t, "voice", path)
		for _, name := range []string{"Front_Center", "Side_Left"} {
			samples, rate := recording(t, "alsa", name+".wav")
			if rate != 48000 {
				t.Fatalf("%s has %d Hz", name, rate)
			}
			t.Run(fmt.Sprint(version, " ", name), func(t *testing.T) {
				loud := third(samples)
				quiet := make([]float32, 16000)
				p := c.speech(t, "voice", slices.Concat(quiet, loud, quiet))
				windows := len(loud) / 512
				before, during, after := p[:28], p[31:31+windows], p[len(p)-16:]
				t.Logf("speech is likely by %.3f before, %.3f during, %.3f at the end", mean(before), mean(during), mean(after))
				if slices.Max(before) > 0.2 || slices.Max(after) > 0.2 || slices.Max(during) < 0.9 || mean(during) < 5*mean(before) {
					t.Errorf("before %.2f\nduring %.2f\nafter %.2f", before, during, after)
				}
			})
		}
		if noise, _ := recording(t, "alsa", "Noise.wav"); mean(c.speech(t, "voice", third(noise))) > 0.5 {
			t.Errorf("%s takes noise for speech", version)
		}
	}
}

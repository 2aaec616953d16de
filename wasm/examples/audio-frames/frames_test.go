package audioframes

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
	"github.com/dhowfleet/dhow/wasm/guest/c/ckit"
	"github.com/dhowfleet/dhow/wasm/host"
)

// near is how far a band may be from the reference: the rounding of numbers up to 30 to FP32, and a little for the order
// of additions.
const near = 4e-6

func step(t testing.TB) []byte {
	t.Helper()
	return ckit.Build(t, "src/step.c", "src/mel.c")
}

func compile(t testing.TB, configuration string) (*host.Module, error) {
	t.Helper()
	r, err := host.NewRuntime(context.Background(), host.Config{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := r.Compile(context.Background(), step(t), host.Options{
		Name: "pre.wasm", Configuration: []byte(configuration), Features: []string{"level_db", "clipped", "seconds"},
	})
	if err == nil {
		t.Cleanup(func() { _ = m.Close() })
	}
	return m, err
}

func module(t testing.TB, configuration string) *host.Module {
	t.Helper()
	m, err := compile(t, configuration)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func integers(shape []int64, samples []float64) tensor.Tensor {
	a := tensor.Tensor{Name: "audio", Datatype: tensor.Int16, Shape: shape}
	for _, v := range samples {
		a.Data = binary.LittleEndian.AppendUint16(a.Data, uint16(int16(v*32768)))
	}
	return a
}

func floats(shape []int64, samples []float64) tensor.Tensor {
	values := make([]float32, len(samples))
	for i, v := range samples {
		values[i] = float32(v)
	}
	return tensor.FromFloat32("audio", shape, values)
}

func flat(samples []float64) []int64 { return []int64{int64(len(samples))} }

func rate(n int32) tensor.Tensor {
	return tensor.Tensor{Name: "rate", Datatype: tensor.Int32, Shape: []int64{1}, Data: binary.LittleEndian.AppendUint32(nil, uint32(n))}
}

// rounded is the samples as 16 bits hold them.
func rounded(samples []float64) []float64 {
	out := make([]float64, len(samples))
	for i, v := range samples {
		out[i] = float64(int16(v*32768)) / 32768
	}
	return out
}

// compare holds the step's answer against the reference.
func compare(t *testing.T, out []tensor.Tensor, samples []float64, s Settings) {
	t.Helper()
	want, ok := Spectrogram(samples, s)
	if !ok || len(out) != 1 || out[0].Name != "mel" || !reflect.DeepEqual(out[0].Shape, []int64{int64(len(want)), int64(s.Bands)}) {
		t.Fatalf("%d outputs, %v, want %d frames of %d bands", len(out), out[0].Shape, len(want), s.Bands)
	}
	got, worst := out[0].Float32s(), 0.0
	for f := range want {
		for b, w := range want[f] {
			worst = max(worst, math.Abs(float64(got[f*s.Bands+b])-w))
		}
	}
	t.Logf("%d frames of %d bands, at most %.2g from the reference", len(want), s.Bands, worst)
	if !(worst <= near) {
		t.Errorf("it is up to %g from the reference, allowed are %g", worst, near)
	}
}

func process(t *testing.T, m *host.Module, in ...tensor.Tensor) []tensor.Tensor {
	t.Helper()
	out, err := m.Process(context.Background(), in, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// recording reads the samples of a WAV file of 16 bits, 48 kHz, mono.
func recording(t *testing.T, name string) []float64 {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "..", ".cache", "models", "alsa", name))
	if os.IsNotExist(err) {
		t.Skipf("there is no recording %s: make testdata fetches it", name)
	}
	if err != nil {
		t.Fatal(err)
	}
	var samples []float64
	for b = b[12:]; len(b) >= 8; {
		size := int(binary.LittleEndian.Uint32(b[4:]))
		data := b[8:min(len(b), 8+size)]
		if string(b[:4]) == "fmt " && (binary.LittleEndian.Uint16(data[2:]) != 1 || binary.LittleEndian.Uint32(data[4:]) != 48000) {
			t.Fatal("it is not 48 kHz mono")
		}
		if string(b[:4]) == "data" {
			for i := 0; i+1 < len(data); i += 2 {
				samples = append(samples, float64(int16(binary.LittleEndian.Uint16(data[i:])))/32768)
			}
		}
		b = b[min(len(b), 8+size+size%2):]
	}
	if len(samples) < 48000 {
		t.Fatalf("it has %d samples", len(samples))
	}
	return samples
}

// TestAVoice: someone says where a loudspeaker stands.
func TestAVoice(t *testing.T) {
	samples := recording(t, "Front_Center.wav")
	s := Default
	s.Rate = 48000
	m := module(t, "")
	compare(t, process(t, m, integers(flat(samples), samples), rate(48000)), samples, s)
	// Every third sample, as if recorded at 16 kHz: what lies above 8 kHz folds over, which is the same for both.
	var third []float64
	for i := 0; i < len(samples); i += 3 {
		third = append(third, samples[i])
	}
	compare(t, process(t, m, integers(flat(third), third)), third, Default)
	compare(t, process(t, m, floats(flat(third), third)), third, Default)
}

func sweep(n int, rate, from, to float64) []float64 {
	out := make([]float64, n)
	for i := range out {
		x := float64(i) / rate
		out[i] = 0.8 * math.Sin(2*math.Pi*(from*x+(to-from)*x*x/2/(float64(n)/rate)))
	}
	return out
}

// TestSettings with a sweep through all frequencies, noise and silence.
func TestSettings(t *testing.T) {
	random := rand.New(rand.NewSource(1))
	for _, s := range []Settings{
		Default,
		{16000, 25, 10, 20, 7600, 40},
		{8000, 25, 10, 0, 0, 40},
		{22050, 23.2, 11.6, 0, 8000, 80},
		{44100, 25, 10, 20, 20000, 128},
		{16000, 64, 16, 0, 8000, 120},
		{48000, 100, 50, 30, 0, 1},
		{1000, 4, 1, 0, 500, 1},
	} {
		t.Run(fmt.Sprintf("%v Hz, %d bands", s.Rate, s.Bands), func(t *testing.T) {
			m := module(t, fmt.Sprintf("# settings\n\nrate = %v\r\nframe_ms=%v\nhop_ms =%v\nlow_hz= %v\n high_hz = %v \nbands = %d", s.Rate, s.FrameMS, s.HopMS, s.LowHz, s.HighHz, s.Bands))
			samples := sweep(int(s.Rate/2), s.Rate, 0, s.Rate/2)
			compare(t, process(t, m, integers(flat(samples), samples)), rounded(samples), s)
			for i := range samples {
				samples[i] = float64(float32(random.NormFloat64() / 4))
			}
			compare(t, process(t, m, floats(flat(samples), samples)), samples, s)
			clear(samples)
			compare(t, process(t, m, integers(flat(samples), samples)), samples, s)
		})
	}
}

// TestATonePeaksInItsBand, independently of the reference.
func TestATonePeaksInItsBand(t *testing.T) {
	m := module(t, "")
	mel := func(hz float64) float64 { return 1127 * math.Log(1+hz/700) }
	for _, hz := range []float64{250, 440, 1000, 3000, 7000} {
		out := process(t, m, floats([]int64{4000}, sweep(4000, 16000, hz, hz)))
		bands, best := out[0].Float32s()[:80], 0
		for b := range bands {
			if bands[b] > bands[best] {
				best = b
			}
		}
		middle := (mel(hz)-mel(20))/(mel(8000)-mel(20))*81 - 1
		if math.Abs(float64(best)-middle) > 1 {
			t.Errorf("%g Hz peaks in band %d, not about %.1f", hz, best, middle)
		}
	}
}

func TestWhatIsRefused(t *testing.T) {
	m := module(t, "")
	sound := floats([]int64{400}, make([]float64, 400))
	nan := append([]float64(nil), make([]float64, 400)...)
	nan[399] = math.NaN()
	infinite := append([]float64(nil), make([]float64, 400)...)
	infinite[0] = math.Inf(1)
	other := sound
	other.Name = "sound"
	long := rate(16000)
	long.Shape, long.Data = []int64{2}, append(long.Data, long.Data...)
	for what, c := range map[string]struct {
		in   []tensor.Tensor
		text string
	}{
		"nothing":          {nil, "audio must be INT16 or FP32"},
		"another name":     {[]tensor.Tensor{other}, "audio must be INT16 or FP32"},
		"a datatype":       {[]tensor.Tensor{{Name: "audio", Datatype: tensor.Int32, Shape: []int64{400}, Data: make([]byte, 1600)}}, "audio must be INT16 or FP32"},
		"text":             {[]tensor.Tensor{tensor.FromStrings("audio", "la")}, "audio must be INT16 or FP32"},
		"no sample":        {[]tensor.Tensor{integers([]int64{0}, nil)}, "has 0 samples, a frame needs 400"},
		"no sample, 1x0":   {[]tensor.Tensor{floats([]int64{1, 0}, nil)}, "has 0 samples, a frame needs 400"},
		"short":            {[]tensor.Tensor{floats([]int64{399}, make([]float64, 399))}, "has 399 samples, a frame needs 400"},
		"short at 48 kHz":  {[]tensor.Tensor{floats([]int64{1199}, make([]float64, 1199)), rate(48000)}, "has 1199 samples, a frame needs 1200"},
		"two channels":     {[]tensor.Tensor{floats([]int64{2, 400}, make([]float64, 800))}, "one channel"},
		"a scalar":         {[]tensor.Tensor{floats(nil, []float64{1})}, "one channel"},
		"three dimensions": {[]tensor.Tensor{floats([]int64{1, 1, 400}, make([]float64, 400))}, "one channel"},
		"NaN":              {[]tensor.Tensor{floats([]int64{400}, nan)}, "a sample that is no number"},
		"infinity":         {[]tensor.Tensor{floats([]int64{400}, infinite)}, "a sample that is no number"},
		"rate 0":           {[]tensor.Tensor{sound, rate(0)}, "rate must be 1000 to 384000"},
		"rate below 0":     {[]tensor.Tensor{sound, rate(-16000)}, "rate must be 1000 to 384000"},
		"a vast rate":      {[]tensor.Tensor{sound, rate(math.MaxInt32)}, "rate must be 1000 to 384000"},
		"two rates":        {[]tensor.Tensor{sound, long}, "rate must be one INT32 or INT64"},
		"a rate of text":   {[]tensor.Tensor{sound, tensor.FromStrings("rate", "16000")}, "rate must be one INT32 or INT64"},
		"a low rate":       {[]tensor.Tensor{sound, rate(2000)}, "bands are so many"},
	} {
		t.Run(what, func(t *testing.T) {
			_, err := m.Process(context.Background(), c.in, nil)
			var guestErr *host.GuestError
			if !errors.As(err, &guestErr) || !guestErr.Input || !strings.Contains(guestErr.Message, c.text) {
				t.Errorf("%v", err)
			}
		})
	}
	one := process(t, m, floats([]int64{1, 400}, make([]float64, 400)))
	if !reflect.DeepEqual(one[0].Shape, []int64{1, 1, 80}) || one[0].Float32s()[0] != float32(math.Log(1e-10)) {
		t.Errorf("one frame of silence: %v", one[0])
	}
}

func TestConfigurationsThatAreRefused(t *testing.T) {
	for configuration, text := range map[string]string{
		"rate = 16000\nspeed = 3":          "refuses its configuration",
		"rate":                             "refuses its configuration",
		"rate = ":                          "refuses its configuration",
		"rate = .":                         "refuses its configuration",
		"rate = 1.6.0":                     "refuses its configuration",
		"rate = 16 kHz":                    "refuses its configuration",
		"rate = -1":                        "refuses its configuration",
		"rate = 999":                       "refuses its configuration",
		"bands = 0":                        "refuses its configuration",
		"bands = 257":                      "refuses its configuration",
		"bands = 2.5":                      "refuses its configuration",
		"bands = 256":                      "refuses its configuration",
		"low_hz = 8000":                    "refuses its configuration",
		"high_hz = 8001":                   "refuses its configuration",
		"frame_ms = 0":                     "refuses its configuration",
		"frame_ms = 1000\nrate = 384000":   "refuses its configuration",
		"hop_ms = 0":                       "refuses its configuration",
		"hop_ms = 99999999999999999999":    "refuses its configuration",
		"ن = 1":                            "refuses its configuration",
		strings.Repeat("x", 2000) + " = 1": "refuses its configuration",
	} {
		if _, err := compile(t, configuration); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", configuration, err)
		}
	}
}

type features map[string]float64

func (f features) Feature(name string, value float64) { f[name] = value }
func (f features) Count(string, uint64)               {}

func TestFeatures(t *testing.T) {
	m := module(t, "")
	samples := make([]float64, 1600)
	for i := range samples {
		samples[i] = []float64{0.5, -0.5}[i%2]
	}
	for i := range 16 {
		samples[i] = -1
	}
	got := features{}
	if _, err := m.Process(context.Background(), []tensor.Tensor{integers(flat(samples), samples)}, got); err != nil {
		t.Fatal(err)
	}
	if want := 10 * math.Log10((16+1584*0.25)/1600); math.Abs(got["level_db"]-want) > 1e-6 || got["clipped"] != 0.01 || got["seconds"] != 0.1 {
		t.Errorf("%v, want a level of %g", got, want)
	}
	clear(samples)
	if _, err := m.Process(context.Background(), []tensor.Tensor{integers(flat(samples), samples)}, got); err != nil {
		t.Fatal(err)
	}
	if math.Abs(got["level_db"]+120) > 1e-6 || got["clipped"] != 0 {
		t.Errorf("silence: %v", got)
	}
}

// TestRatesDoNotMix: a request with a rate of its own, in an instance whose memory nobody restores, leaves the configured
// tables as they were, within a batch too.
func TestRatesDoNotMix(t *testing.T) {
	g := ckit.Start(t, step(t))
	if answer := g.Call(abi.ExportConfigure, uint64(g.Put(nil)), 0); answer != 0 {
		t.Fatal("it refuses its configuration")
	}
	samples := sweep(4800, 16000, 100, 7000)
	plain, fast := []tensor.Tensor{integers(flat(samples), samples)}, []tensor.Tensor{integers(flat(samples), samples), rate(48000)}
	ask := func(in []tensor.Tensor) string {
		b, err := abi.Encode(in)
		if err != nil {
			t.Fatal(err)
		}
		status, payload := g.Ask(abi.ExportProcess, b)
		if status != abi.StatusTensors {
			t.Fatalf("%s", payload)
		}
		return string(payload)
	}
	first, second := ask(plain), ask(fast)
	if first == second {
		t.Fatal("the rate changes nothing")
	}
	requests := [][]tensor.Tensor{plain, fast, plain, fast, fast, plain}
	size, err := abi.BatchSize(requests)
	if err != nil {
		t.Fatal(err)
	}
	batch := make([]byte, size)
	if err := abi.PutBatch(batch, requests); err != nil {
		t.Fatal(err)
	}
	_, payload := g.Ask(abi.ExportBatch, batch)
	items, err := abi.DecodeBatch(payload)
	if err != nil || len(items) != len(requests) {
		t.Fatal(err)
	}
	for i, item := range items {
		want := first
		if len(requests[i]) == 2 {
			want = second
		}
		if string(item.Payload) != want {
			t.Errorf("item %d is another answer than the same request alone", i)
		}
	}
	if ask(plain) != first || ask(fast) != second {
		t.Error("the answers are others than before")
	}
}

// BenchmarkSecond is a second of sound at 16 kHz: 98 frames of 80 bands.
func BenchmarkSecond(b *testing.B) {
	m := module(b, "")
	samples := sweep(16000, 16000, 0, 8000)
	in := []tensor.Tensor{integers(flat(samples), samples)}
	for b.Loop() {
		if _, err := m.Process(context.Background(), in, nil); err != nil {
			b.Fatal(err)
		}
	}
}

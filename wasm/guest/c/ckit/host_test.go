package ckit

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host"
)

// module compiles a step with the agent's own host.
func module(t *testing.T, code []byte, options host.Options) *host.Module {
	t.Helper()
	r, err := host.NewRuntime(context.Background(), host.Config{Logger: options.Logger})
	if err != nil {
		t.Fatal(err)
	}
	options.Name = "step.wasm"
	m, err := r.Compile(context.Background(), code, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func kit(t *testing.T) *host.Module {
	t.Helper()
	return module(t, Build(t, "testdata/kit.c"), host.Options{Limits: host.Limits{Memory: 8 << 20}})
}

func TestThroughTheHost(t *testing.T) {
	m := kit(t)
	rapid.Check(t, func(r *rapid.T) {
		in := tensors(r)
		if len(in) > 0 {
			in[0].Name = rapid.SampledFrom([]string{"EXACT", "gaps"}).Draw(r, "first")
		}
		out, err := m.Process(context.Background(), in, nil)
		if err != nil {
			r.Fatal(err)
		}
		if !bytes.Equal(encode(r, in), encode(r, out)) {
			r.Fatalf("%v became %v", in, out)
		}
	})
}

// TestMegabytes go through too, and again, since the memory of one request serves the next.
func TestMegabytes(t *testing.T) {
	m := kit(t)
	in := []tensor.Tensor{{Name: "image", Datatype: tensor.FP32, Shape: []int64{3, 500_000 / 3}, Data: make([]byte, 4*(500_000/3)*3)}}
	for i := range in[0].Data {
		in[0].Data[i] = byte(i * 7)
	}
	for range 20 {
		out, err := m.Process(context.Background(), in, nil)
		if err != nil || len(out) != 1 || !bytes.Equal(out[0].Data, in[0].Data) {
			t.Fatal(err)
		}
	}
	big := []tensor.Tensor{{Name: "image", Datatype: tensor.Uint8, Shape: []int64{5 << 20}, Data: make([]byte, 5<<20)}}
	_, err := m.Process(context.Background(), big, nil)
	var guestErr *host.GuestError
	if !errors.As(err, &guestErr) || guestErr.Input || !strings.Contains(err.Error(), `cannot add the output "image": memory has run out`) {
		t.Errorf("a result beyond the memory: %v", err)
	}
	if _, err := m.Process(context.Background(), in, nil); err != nil {
		t.Errorf("the next request: %v", err)
	}
}

// TestFaultsAreToldApart: the request's from the step's, and none of them passes for a result.
func TestFaultsAreToldApart(t *testing.T) {
	m := kit(t)
	for what, want := range []struct {
		input bool
		text  string
	}{
		{true, "got -9223372036854775808 samples"},
		{false, "lost"},
		{true, "first"},
		{true, "the step gave no reason"},
		{false, "the step gave no reason"},
		{false, `cannot add the output "64": there are 64 already`},
		{false, `cannot add the output "twice": there is one of that name`},
		{false, `cannot add the output "": a name has 1 to 256 bytes`},
		{false, `cannot add the output "nnn`},
		{false, `cannot add the output "large": it is too large`},
		{false, `cannot add the output "negative": its shape is none`},
		{false, `cannot add the output "product": its shape is none`},
		{false, `cannot add the output "strings": its datatype is no number's`},
		{false, "there is no output to shorten"},
		{false, "the output has not so many rows to be shortened to"},
		{false, `cannot add the output "late": memory has run out`},
		{true, "x" + strings.Repeat("ن", 511)},
	} {
		t.Run(strconv.Itoa(what), func(t *testing.T) {
			_, err := m.Process(context.Background(), []tensor.Tensor{{Name: "wrong", Datatype: tensor.Uint8, Shape: []int64{1}, Data: []byte{byte(what)}}}, nil)
			var guestErr *host.GuestError
			if !errors.As(err, &guestErr) || guestErr.Input != want.input || !strings.HasPrefix(guestErr.Message, want.text) {
				t.Fatalf("%v", err)
			}
			if strings.HasPrefix(want.text, "x") && guestErr.Message != want.text {
				t.Errorf("%d bytes: %q", len(guestErr.Message), guestErr.Message)
			}
		})
	}
	_, err := m.Process(context.Background(), []tensor.Tensor{{Name: "wrong", Datatype: tensor.Uint8, Shape: []int64{1}, Data: []byte{17}}}, nil)
	if !errors.Is(err, host.ErrTrap) {
		t.Errorf("a trap: %v", err)
	}
	if out, err := m.Process(context.Background(), nil, nil); err != nil || len(out) != 0 {
		t.Errorf("no tensors after it: %v, %v", out, err)
	}
}

func TestRowsAreCutToWhatIsThere(t *testing.T) {
	m := kit(t)
	for _, x := range [][]float32{{}, {-1, -2}, {1, -1, 2, -3, 5}, {1, 2, 3}} {
		var want []float32
		for i, v := range x {
			if v > 0 {
				want = append(want, v, 2*v, float32(i))
			}
		}
		out, err := m.Process(context.Background(), []tensor.Tensor{
			{Name: "rows", Datatype: tensor.Bool, Data: []byte{0}}, tensor.FromFloat32("x", []int64{int64(len(x))}, x),
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i, name := range []string{"first", "second"} {
			shape := []int64{int64(len(want) / 3), 3}
			if out[i].Name != name || !reflect.DeepEqual(out[i].Shape, shape) || !bytes.Equal(out[i].Data, tensor.FromFloat32("", shape, want).Data) {
				t.Errorf("%v gives %s %v %v, want %v %v", x, out[i].Name, out[i].Shape, out[i].Float32s(), shape, want)
			}
		}
	}
}

type sink map[string]float64

func (s sink) Feature(name string, value float64) { s[name] = value }
func (s sink) Count(name string, n uint64)        { s[name] = float64(n) }

func TestReportsAndConfiguration(t *testing.T) {
	var logged bytes.Buffer
	m := module(t, Build(t, "testdata/kit.c"), host.Options{
		Configuration: []byte("كلب\nقط\n"), Counters: []string{"known"}, Features: []string{"bright"}, Logger: slog.New(slog.NewTextHandler(&logged, nil)),
	})
	got := sink{}
	if _, err := m.Process(context.Background(), []tensor.Tensor{{Name: "emit", Datatype: tensor.Bool, Data: []byte{0}}}, got); err != nil {
		t.Fatal(err)
	}
	if want := (sink{"bright": 0.5, "known": 3}); !reflect.DeepEqual(got, want) {
		t.Errorf("it reported %v, want %v", got, want)
	}
	if !strings.Contains(logged.String(), "a line") {
		t.Errorf("it logged %q", logged.String())
	}
	for range 2 {
		out, err := m.Process(context.Background(), []tensor.Tensor{{Name: "configuration", Datatype: tensor.Bool, Data: []byte{0}}}, nil)
		if err != nil || len(out) != 1 || string(out[0].Data[4:]) != "كلب\nقط\n" {
			t.Errorf("configuration: %v, %v", out, err)
		}
		// What this one writes over is not the configuration.
		if _, err := m.Process(context.Background(), []tensor.Tensor{{Name: "gaps", Datatype: tensor.Uint8, Shape: []int64{4000}, Data: make([]byte, 4000)}}, nil); err != nil {
			t.Fatal(err)
		}
	}

	r, err := host.NewRuntime(context.Background(), host.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Compile(context.Background(), Build(t, "testdata/kit.c"), host.Options{Name: "step.wasm", Configuration: []byte("refuse me")}); err == nil || !strings.Contains(err.Error(), "refuses its configuration") {
		t.Errorf("a configuration that it refuses: %v", err)
	}
}

// TestCPlusPlus: what the language needs before the first request happens once.
func TestCPlusPlus(t *testing.T) {
	m := module(t, Build(t, "testdata/plus.cc"), host.Options{})
	for range 3 {
		out, err := m.Process(context.Background(), []tensor.Tensor{{Name: "x", Datatype: tensor.FP64, Shape: []int64{2}, Data: float64s([]float64{1.5, -2})}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out[0].Data, float64s([]float64{-1.5, 2})) {
			t.Errorf("%x", out[0].Data)
		}
		if n := binary.LittleEndian.Uint32(out[1].Data); n != 41_041 {
			t.Errorf("constructors ran so that there is %d, want 41041", n)
		}
	}
}

func TestBuildsAreReproducible(t *testing.T) {
	first := Build(t, "testdata/kit.c")
	built.mu.Lock()
	built.modules = nil
	built.mu.Unlock()
	if !bytes.Equal(first, Build(t, "testdata/kit.c")) {
		t.Error("two builds differ")
	}
}

// TestWithoutAToolChain: it is said, and told apart from a step that does not compile.
func TestWithoutAToolChain(t *testing.T) {
	out := filepath.Join(t.TempDir(), "step.wasm")
	cmd := exec.Command(script(t), out, "testdata/kit.c")
	cmd.Env = append(os.Environ(), "CLANG=clang-that-is-not-there")
	text, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != exitMissing || string(text) != "c: clang-that-is-not-there is missing; install clang and lld (apt install clang lld)\n" {
		t.Errorf("%v: %s", err, text)
	}
	Build(t, "testdata/kit.c") // skips where there is none
	if err := exec.Command(script(t), out, "testdata/none.c").Run(); err == nil {
		t.Error("a source that is not there was built")
	} else if exists(out) {
		t.Error("a module of nothing is there")
	}
}

// TestStateIsForgottenUnlessItIsToBeKept: a counter in the step says how many requests it remembers.
func TestStateIsForgottenUnlessItIsToBeKept(t *testing.T) {
	for state, want := range map[host.State]uint32{host.Reset: 1, host.Keep: 5} {
		m := module(t, Build(t, "testdata/kit.c"), host.Options{State: state, Instances: 1})
		var last uint32
		for range 5 {
			out, err := m.Process(context.Background(), []tensor.Tensor{{Name: "calls", Datatype: tensor.Bool, Data: []byte{0}}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			last = binary.LittleEndian.Uint32(out[0].Data)
		}
		if last != want {
			t.Errorf("state %v: it remembers %d requests, want %d", state, last, want)
		}
	}
}

// TestBatchesThroughTheHost: each request gets its own answer or error.
func TestBatchesThroughTheHost(t *testing.T) {
	m := kit(t)
	requests := [][]tensor.Tensor{
		{tensor.FromStrings("EXACT", "first")},
		{{Name: "wrong", Datatype: tensor.Uint8, Shape: []int64{1}, Data: []byte{0}}},
		{tensor.FromStrings("gaps", "third", ""), tensor.FromFloat32("b", nil, []float32{1})},
	}
	answers := m.Batch(context.Background(), requests, nil)
	for i, a := range answers {
		var guestErr *host.GuestError
		switch {
		case i == 1:
			if !errors.As(a.Err, &guestErr) || !guestErr.Input || a.Tensors != nil {
				t.Errorf("answer 1: %v, %v", a.Tensors, a.Err)
			}
		case a.Err != nil || !bytes.Equal(encode(t, a.Tensors), encode(t, requests[i])):
			t.Errorf("answer %d: %v, %v", i, a.Tensors, a.Err)
		}
	}
	if len(answers) != 3 {
		t.Errorf("%d answers", len(answers))
	}
}

func BenchmarkEcho(b *testing.B) {
	r, err := host.NewRuntime(context.Background(), host.Config{})
	if err != nil {
		b.Fatal(err)
	}
	m, err := r.Compile(context.Background(), Build(b, "testdata/kit.c"), host.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	for _, size := range []int{4 << 10, 602_112} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			in := []tensor.Tensor{{Name: "EXACT", Datatype: tensor.Uint8, Shape: []int64{int64(size)}, Data: make([]byte, size)}}
			b.ReportAllocs()
			for b.Loop() {
				if err := m.View(context.Background(), in, nil, func([]tensor.Tensor) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

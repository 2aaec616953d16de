package host

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tetratelabs/wazero"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
	"github.com/dhowfleet/dhow/wasm/wasmtest"
)

// echo answers with the request itself, where it lies.
func echo(pages uint64) *wasmtest.Guest {
	g := wasmtest.NewGuest()
	g.Memory(pages, wasmtest.NoMax)
	store := func(offset uint32, value wasmtest.Code) wasmtest.Code {
		return wasmtest.Seq(wasmtest.I32Const(wasmtest.AnswerAt), value, wasmtest.I32Store(offset))
	}
	return g.Answering(store(0, wasmtest.I32Const(0)), store(4, wasmtest.LocalGet(0)), store(8, wasmtest.LocalGet(1)))
}

func module(t testing.TB, g *wasmtest.Guest, o Options) *Module {
	t.Helper()
	r, err := NewRuntime(context.Background(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := r.Compile(context.Background(), g.Bytes(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func bytesOf(size int) []tensor.Tensor {
	return []tensor.Tensor{{Name: "x", Datatype: tensor.Uint8, Shape: []int64{int64(size)}, Data: make([]byte, size)}}
}

func nothing([]tensor.Tensor) error { return nil }

// TestAViewAllocatesNothing: not the call, not the meter, not reading the answer, not the reset.
func TestAViewAllocatesNothing(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	for _, o := range []Options{{}, {State: Keep}, {Limits: Limits{Fuel: 1 << 40}}} {
		m := module(t, echo(1), o)
		in := bytesOf(4096)
		if n := testing.AllocsPerRun(100, func() {
			if err := m.View(ctx, in, nil, nothing); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%+v: %v allocations a call", o, n)
		}
	}
}

func BenchmarkView(b *testing.B) {
	for _, c := range []struct {
		size  int
		pages uint64
		state State
	}{{4 << 10, 1, Keep}, {4 << 10, 1, Reset}, {602112, 11, Keep}, {602112, 11, Reset}, {4 << 10, 64, Reset}} {
		b.Run(fmt.Sprintf("%dB %dKiB state %d", c.size, c.pages*64, c.state), func(b *testing.B) {
			m := module(b, echo(c.pages), Options{State: c.state})
			in := bytesOf(c.size)
			b.ReportAllocs()
			for b.Loop() {
				if err := m.View(context.Background(), in, nil, nothing); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkMeter compares one call of an export in rounds that take turns: wazero alone, and with the meter before it.
// It reports medians.
func BenchmarkMeter(b *testing.B) {
	g := wasmtest.NewGuest()
	r := wazero.NewRuntime(context.Background())
	defer func() { _ = r.Close(context.Background()) }()
	plain, err := r.Instantiate(context.Background(), g.Bytes())
	if err != nil {
		b.Fatal(err)
	}
	f := plain.ExportedFunction(abi.ExportPostProcess)
	m := module(b, g, Options{})
	in, err := m.acquire(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	defer m.settle(in, nil)
	speaks := in.speaks.(*reactorGuest)
	deadline, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	var stack [4]uint64
	const calls = 1000
	kinds := []func(){
		func() { _ = f.CallWithStack(context.Background(), stack[:]) },
		func() { in.call.begin(context.Background(), time.Second, 1<<40); _ = speaks.done(); in.call.end() },
		func() { in.call.begin(deadline, time.Second, 1<<40); _ = speaks.done(); in.call.end() },
	}
	times := make([][]float64, len(kinds))
	for b.Loop() {
		for k, call := range kinds {
			t := time.Now()
			for range calls {
				call()
			}
			times[k] = append(times[k], float64(time.Since(t).Nanoseconds())/calls)
		}
	}
	for k, name := range []string{"plain-ns", "metered-ns", "deadline-ns"} {
		slices.Sort(times[k])
		b.ReportMetric(times[k][len(times[k])/2], name)
	}
}

func benchmark(b *testing.B, m *Module, size int) {
	in := bytesOf(size)
	b.ReportAllocs()
	b.SetBytes(int64(size))
	for b.Loop() {
		if _, err := m.Process(context.Background(), in, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEchoGo4KiB(b *testing.B)  { benchmark(b, goModule(b), 4<<10) }
func BenchmarkEchoGo602KB(b *testing.B) { benchmark(b, goModule(b), 602112) }

func BenchmarkStartGo(b *testing.B) {
	m := goModule(b)
	for b.Loop() {
		in, err := m.start(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		in.discard()
	}
}

func BenchmarkCompileGoCached(b *testing.B) {
	code := goGuest(b)
	goModule(b)
	for b.Loop() {
		m, err := ready.runtime.Compile(context.Background(), code, Options{})
		if err != nil {
			b.Fatal(err)
		}
		_ = m.Close()
	}
}

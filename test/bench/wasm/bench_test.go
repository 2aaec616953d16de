package main

import (
	"bytes"
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/wasm/examples/kernels"
	"github.com/dhowfleet/dhow/wasm/host"
	"github.com/dhowfleet/dhow/wasm/metering"
	. "github.com/dhowfleet/dhow/wasm/wasmtest" //nolint:revive // instructions read as a listing
)

func TestPercentilesAreOfWhatWasMeasured(t *testing.T) {
	for _, c := range []struct {
		in   []time.Duration
		p    int
		want time.Duration
	}{{[]time.Duration{3}, 50, 3}, {[]time.Duration{4, 1, 3, 2}, 50, 2}, {[]time.Duration{5, 1, 4, 2, 3}, 99, 4}, {[]time.Duration{2, 1}, 0, 1}} {
		if got := percentile(c.in, c.p); got != c.want {
			t.Errorf("%d%% of %v is %v, want %v", c.p, c.in, got, c.want)
		}
	}
}

// A sheet says what misses its goal, in its row and at the end.
func TestVerdictsAreCounted(t *testing.T) {
	var out bytes.Buffer
	r := report{out: &out}
	s := r.sheet("what", "figure")
	s.row(goals{atMost("", 1.2, 1.25)}, "good", "1.20x")
	s.row(goals{atMost("a", 1, 2), within("b", 3*time.Millisecond, 2*time.Millisecond)}, "bad", "3 ms")
	s.row(nil, "none")
	s.note("absent", "no compiler")
	if err := s.flush(); err != nil {
		t.Fatal(err)
	}
	r.summary()
	for _, want := range []string{"<= 1.25x   holds", "a <= 2.00x, b <= 2 ms  MISSES", "absent was not judged: no compiler", "1 figures hold, 1 miss their goal", "MISSES bad  3 ms  goal a <="} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	if r.held != 1 || r.missed != 1 {
		t.Errorf("%d hold, %d miss", r.held, r.missed)
	}
}

// Every contender does its work in every round, and the first that fails ends it by name.
func TestContendersTakeTurns(t *testing.T) {
	var order strings.Builder
	work := func(name string) contender {
		return contender{name, func(n int) error {
			order.WriteString(name)
			for end := threadTime() + minimal; threadTime() < end; { // one piece of work is enough
			}
			return nil
		}}
	}
	took, err := compare(t.Context(), 3, []contender{work("a"), work("b")})
	if err != nil || len(took) != 2 || took[0] < minimal {
		t.Fatalf("%v, %v", took, err)
	}
	if got := order.String(); got != "abababab" {
		t.Errorf("the order is %s", got)
	}
	_, err = compare(t.Context(), 3, []contender{{"broken", func(int) error { return errors.New("so") }}})
	if err == nil || err.Error() != "broken: so" {
		t.Errorf("%v", err)
	}
}

// Every guest that is put together by hand does what its kind is measured for.
func TestEchoesEcho(t *testing.T) {
	b := &bench{scratch: t.TempDir()}
	all, err := b.echoes(t.Context(), 100_003) // not a multiple of eight
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		for range 3 {
			if err := e.call(); err != nil {
				t.Errorf("%s: %v", e.name, err)
			}
		}
	}
	for _, e := range all {
		e.close()
	}
}

func TestAnUnknownTableIsRefused(t *testing.T) {
	b := &bench{report: report{out: &bytes.Buffer{}}}
	if err := b.runAll(context.Background(), "kernels,none"); err == nil || !strings.Contains(err.Error(), `no table "none"`) {
		t.Errorf("%v", err)
	}
}

// A percentile of a histogram is the upper end of its bucket, so that no wait is told shorter than it was.
func TestStopsAreSummarisedUpwards(t *testing.T) {
	edges := []float64{0, 1e-6, 1e-3, 1, math.Inf(1)}
	for _, c := range []struct {
		counts []uint64
		want   stops
	}{
		{[]uint64{0, 0, 0, 0}, stops{}},
		{[]uint64{99, 1, 0, 0}, stops{100, time.Microsecond, time.Microsecond, time.Millisecond}},
		{[]uint64{49, 49, 2, 0}, stops{100, time.Millisecond, time.Second, time.Second}},
		{[]uint64{0, 0, 0, 1}, stops{1, time.Second, time.Second, time.Second}},
	} {
		if got := summarise(edges, c.counts); got != c.want {
			t.Errorf("%v gives %+v, want %+v", c.counts, got, c.want)
		}
	}
}

// The guests that should never answer never do, and are stopped by their deadline and by nothing else.
func TestHostileGuestsAreStoppedByTheirDeadline(t *testing.T) {
	b := &bench{scratch: t.TempDir()}
	for _, h := range hostileGuests() {
		m, err := b.startHostile(t.Context(), h, time.Millisecond, hostileQuantum)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Process(t.Context(), nil, nil); !errors.Is(err, host.ErrDeadline) {
			t.Errorf("%s: %v", h.name, err)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Fuel is counted over refills: what is left in the global at the end is not spent.
func TestFuelIsTheSameWhateverTheQuantum(t *testing.T) {
	g := NewGuest()
	f := g.Func(Sig{Params: []Type{I32}, Results: []Type{I64}},
		Loop(Empty, LocalGet(0), I32Const(1), I32Sub, LocalTee(0), BrIf(0)),
		I64Const(7))
	g.Export("run", KindFunction, f.Index)
	r, meter, err := startMetered(t.Context(), g.Bytes(), metering.Yield, quantum)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	values, _, err := fuels(r, meter, kernels.Kernel{Export: "run", N: 2_000_000, Native: func(int32) int64 { return 7 }})
	if err != nil || len(values) != 4 {
		t.Fatalf("%v, %v", values, err)
	}
	for _, v := range values {
		if v != values[0] || v < 300_000 {
			t.Errorf("it took %v", values)
		}
	}
	if _, _, err := fuels(r, meter, kernels.Kernel{Export: "run", N: 20, Native: func(int32) int64 { return 8 }}); err == nil {
		t.Error("another result than Go's is accepted")
	}
}

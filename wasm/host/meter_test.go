package host

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/wasm/wasmtest"
)

// counting is a guest that goes n times around a loop.
func counting(n int32) *wasmtest.Guest {
	g := wasmtest.NewGuest()
	g.Process.Locals(wasmtest.I32)
	return g.Answering(wasmtest.I32Const(n), wasmtest.LocalSet(2), wasmtest.Loop(wasmtest.Empty,
		wasmtest.LocalGet(2), wasmtest.I32Const(-1), wasmtest.Raw(0x6a), wasmtest.LocalTee(2), wasmtest.BrIf(0)))
}

func measure(t testing.TB, m *Module) (Usage, error) {
	t.Helper()
	_, u, err := m.Measure(context.Background(), request("x"), nil)
	return u, err
}

// TestFuelIsTheSameOnEveryRun, whatever the quantum, and the budget ends at exactly what the call takes.
func TestFuelIsTheSameOnEveryRun(t *testing.T) {
	want, err := measure(t, module(t, counting(100_000), Options{}))
	if err != nil || want.Fuel < 300_000 || want.Memory != 1<<16 {
		t.Fatalf("%+v, %v", want, err)
	}
	for _, quantum := range []int64{0, leastQuantum, 1000, 12_345, mostQuantum} {
		m := module(t, counting(100_000), Options{Limits: Limits{Quantum: quantum}})
		for range 3 {
			if u, err := measure(t, m); err != nil || u.Fuel != want.Fuel {
				t.Errorf("with a quantum of %d it took %d, want %d: %v", quantum, u.Fuel, want.Fuel, err)
			}
		}
		exact := module(t, counting(100_000), Options{Limits: Limits{Quantum: quantum, Fuel: want.Fuel}})
		if u, err := measure(t, exact); err != nil || u.Fuel != want.Fuel {
			t.Errorf("with as much fuel as it takes: %+v, %v", u, err)
		}
		short := module(t, counting(100_000), Options{Limits: Limits{Quantum: quantum, Fuel: want.Fuel - 1}})
		for range 2 {
			u, err := measure(t, short)
			if !errors.Is(err, ErrFuel) || !strings.Contains(err.Error(), decimal(u.Fuel)+" used; raise fuel") {
				t.Errorf("with less: %+v, %v", u, err)
			}
		}
		if s := short.Stats(); s.FuelTraps != 2 || s.Resets != 2 || s.Discarded != 0 {
			t.Errorf("%+v", s)
		}
	}
}

// TestWhoseTimeIsUp: the module's limit, the request's deadline and the request's end are told apart, also where the
// request's own timer has not fired.
func TestWhoseTimeIsUp(t *testing.T) {
	spin := wasmtest.NewGuest().Answering(wasmtest.Forever())
	m := module(t, spin, Options{Limits: Limits{Timeout: time.Hour}, Instances: 1})
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Millisecond)
	defer cancel()
	if _, err := m.Process(ctx, request("x"), nil); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrDeadline) {
		t.Errorf("a request whose time is up: %v", err)
	}
	ctx, cancel = context.WithCancel(context.Background())
	time.AfterFunc(2*time.Millisecond, cancel)
	if _, err := m.Process(ctx, request("x"), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a request that left: %v", err)
	}
	if _, err := m.Process(timerless{context.Background(), time.Now().Add(time.Millisecond)}, request("x"), nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a deadline without a timer: %v", err)
	}
	if s := m.Stats(); s.DeadlineTraps != 0 || s.Started != 1 {
		t.Errorf("%+v", s)
	}
}

// timerless is a context whose deadline passes unnoticed.
type timerless struct {
	context.Context
	at time.Time
}

func (c timerless) Deadline() (time.Time, bool) { return c.at, true }

// TestAGuestThatDoesNotGetStarted: everything that runs before the first request is metered too.
func TestAGuestThatDoesNotGetStarted(t *testing.T) {
	for what, prepare := range map[string]func(g *wasmtest.Guest){
		"start":      func(g *wasmtest.Guest) { g.Start(g.Func(wasmtest.Sig{}, wasmtest.Forever()).Index) },
		"initialize": func(g *wasmtest.Guest) { g.Initialize(wasmtest.Forever()) },
		"version":    func(g *wasmtest.Guest) { g.Version.Body(wasmtest.Forever(), wasmtest.I32Const(1)) },
		"realloc": func(g *wasmtest.Guest) {
			g.Realloc.Body(wasmtest.Forever(), wasmtest.I32Const(8))
			g.Configure(wasmtest.I32Const(0))
		},
		"configure": func(g *wasmtest.Guest) { g.Configure(wasmtest.Forever(), wasmtest.I32Const(0)) },
	} {
		t.Run(what, func(t *testing.T) {
			g := wasmtest.NewGuest()
			prepare(g)
			r, err := NewRuntime(context.Background(), Config{})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
			defer cancel()
			m, err := r.Compile(ctx, g.Bytes(), Options{})
			if err == nil {
				_ = m.Close()
			}
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestAFloodOfHostCallsRunsOutOfFuel sooner than its own instructions would have it, because what the host does is
// charged; and nothing of it is kept.
func TestAFloodOfHostCallsRunsOutOfFuel(t *testing.T) {
	line := wasmtest.Seq(wasmtest.I32Const(3), wasmtest.I32Const(0), wasmtest.I32Const(1024), wasmtest.Call(0))
	name := wasmtest.Seq(wasmtest.I32Const(0), wasmtest.I32Const(256), wasmtest.I64Const(1), wasmtest.Call(0))
	for what, c := range map[string]struct {
		imported wasmtest.Import
		body     wasmtest.Code
		each     int64
	}{
		"lines": {wasmtest.Log, line, 1024 / lineBytesForFuel},
		"emits": {wasmtest.EmitCount, name, 256 / bytesForFuel},
	} {
		t.Run(what, func(t *testing.T) {
			fuel := func(times int) int64 {
				g := wasmtest.NewGuest(c.imported).Answering(wasmtest.Times(times, c.body))
				u, err := measure(t, module(t, g, Options{}))
				if err != nil {
					t.Fatal(err)
				}
				return u.Fuel
			}
			if each := (fuel(20) - fuel(10)) / 10; each < 100+c.each {
				t.Errorf("a call takes %d, want at least %d", each, 100+c.each)
			}
			m := module(t, wasmtest.NewGuest(c.imported).Answering(wasmtest.Forever(c.body)), Options{Limits: Limits{Fuel: 10_000_000, Timeout: time.Hour}})
			s := &sink{}
			if _, err := m.Process(context.Background(), request("x"), s); !errors.Is(err, ErrFuel) || len(s.got) != 0 {
				t.Errorf("%v, and %d emits", err, len(s.got))
			}
			if len(m.idle) != 1 || len(m.idle[0].emitted) != 0 {
				t.Error("emits of a call that failed are kept")
			}
		})
	}
}

// TestChargesOfTheHost: they add up with the guest's own, end the call where the budget ends, and cannot be negative.
func TestChargesOfTheHost(t *testing.T) {
	m := module(t, counting(1), Options{Limits: Limits{Fuel: 1000}})
	in, err := m.acquire(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { m.settle(in, nil) }()
	c := &in.call
	c.begin(context.Background(), time.Hour, 1000)
	c.Charge(400)
	c.Charge(-100)
	c.Charge(600)
	if got := c.used(); got != 1000 {
		t.Errorf("used %d", got)
	}
	func() {
		defer func() {
			if r, ok := recover().(error); !ok || !errors.Is(r, ErrFuel) {
				t.Errorf("recovered %v", r)
			}
		}()
		c.Charge(math.MaxInt64)
	}()
	if got := c.used(); got != 1000+math.MaxInt32 {
		t.Errorf("used %d", got)
	}
}

// TestTheQuantumFollowsTheClock: it shrinks while guests run long between two looks at the clock, grows while they do
// not, and stays within its bounds.
func TestTheQuantumFollowsTheClock(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		most := rapid.Int64Range(leastQuantum, mostQuantum).Draw(rt, "most")
		c := &call{in: &instance{module: &Module{limits: Limits{Quantum: most}}}, quantum: min(firstQuantum, most)}
		for range 50 {
			before := c.quantum
			took := time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(rt, "took"))
			if rapid.Bool().Draw(rt, "short") {
				took %= longestRun * 2
			}
			c.adapt(took)
			switch {
			case c.quantum < leastQuantum || c.quantum > most:
				rt.Fatalf("%d is not between %d and %d", c.quantum, leastQuantum, most)
			case took > longestRun && c.quantum > before, took < shortestRun && c.quantum < before:
				rt.Fatalf("from %d to %d after %s", before, c.quantum, took)
			case took >= shortestRun && took <= longestRun && c.quantum != before:
				rt.Fatalf("from %d to %d after %s, which is just right", before, c.quantum, took)
			}
		}
		// A guest of one speed comes to rest between the two.
		perFuel := rapid.Float64Range(0.01, 100).Draw(rt, "nanoseconds for a unit")
		for range 60 {
			c.adapt(time.Duration(float64(c.quantum) * perFuel))
		}
		if run := time.Duration(float64(c.quantum) * perFuel); run > longestRun && c.quantum > leastQuantum {
			rt.Fatalf("it runs for %s, with a quantum of %d", run, c.quantum)
		}
	})
}

// TestWhatHostFunctionsSeeOfARequest: its end, and none of its values.
func TestWhatHostFunctionsSeeOfARequest(t *testing.T) {
	m := module(t, counting(1), Options{})
	in := m.idle[0]
	type key struct{}
	ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), key{}, "secret"), time.Hour)
	in.call.begin(ctx, time.Hour, math.MaxInt64)
	deadline, ok := in.call.Deadline()
	if want, _ := ctx.Deadline(); !ok || deadline != want || in.call.Value(key{}) != nil || callOf(&in.call) != &in.call {
		t.Error("the context is not the request's, or shows its values")
	}
	if callOf(context.WithValue(&in.call, key{}, 1)) != &in.call {
		t.Error("the call is not found behind another context")
	}
	cancel()
	<-in.call.Done()
	if !errors.Is(in.call.Err(), context.Canceled) {
		t.Error(in.call.Err())
	}
	in.call.end()
	if in.call.Err() != nil {
		t.Error("the request is kept after the call")
	}
}

func TestNumbersAreReadable(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -1234567: "-1,234,567", -100: "-100", math.MaxInt64: "9,223,372,036,854,775,807"} {
		if got := decimal(n); got != want {
			t.Errorf("%d is written %s", n, got)
		}
	}
}

// TestManyGuestsAtOnce: calls side by side, some of which are stopped, each with its own fuel and its own answer.
func TestManyGuestsAtOnce(t *testing.T) {
	m := module(t, echo(2), Options{Instances: 3, Limits: Limits{Timeout: time.Minute}})
	spinning := module(t, wasmtest.NewGuest().Answering(wasmtest.Forever()), Options{Instances: 2, Limits: Limits{Fuel: 1_000_000, Timeout: time.Minute}})
	want, err := measure(t, m)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			for i := range 50 {
				if g == 0 {
					if _, err := spinning.Process(context.Background(), request("x"), nil); !errors.Is(err, ErrFuel) {
						t.Error(err)
					}
					continue
				}
				name := fmt.Sprint(g, "/", i)
				out, u, err := m.Measure(context.Background(), request(name), nil)
				if err != nil || len(out) != 1 || out[0].Name != name || u.Fuel != want.Fuel {
					t.Errorf("%v, %+v, %v", out, u, err)
				}
			}
		})
	}
	wg.Wait()
	if s := m.Stats(); s.Started > 3 || s.Discarded != 0 || s.Resets != 251 {
		t.Errorf("%+v", s)
	}
}

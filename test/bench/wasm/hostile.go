package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"runtime/metrics"
	"slices"
	"time"

	"github.com/dhowfleet/dhow/wasm/abi"
	"github.com/dhowfleet/dhow/wasm/host"
	"github.com/dhowfleet/dhow/wasm/metering"
	. "github.com/dhowfleet/dhow/wasm/wasmtest" //nolint:revive,staticcheck // instructions read as a listing
)

const (
	overshootDeadline = 50 * time.Millisecond
	overshootBound    = 2 * time.Millisecond
	pauseBound        = 300 * time.Microsecond // p50
	pauseWorstBound   = 3 * time.Millisecond   // p99
	hostileQuantum    = 10_000                 // for code that nobody vouches for
	hostileMemory     = 64 << 20
)

// hostileGuest never answers.
type hostileGuest struct {
	name string
	code []byte
}

// hostileGuests loop in each way that takes the host something else to stop.
func hostileGuests() []hostileGuest {
	all := []hostileGuest{}
	const size = hostileMemory
	add := func(name string, build func(g *Guest), imports ...Import) {
		g := NewGuest(imports...)
		build(g)
		all = append(all, hostileGuest{name, g.Bytes()})
	}
	// Those that need much memory have it from the start; putting it back to zeroes counts as lateness.
	whole := func(g *Guest) { g.Memory(size/pageSize, size/pageSize) }
	add("empty loop", func(g *Guest) { g.Answering(Forever()) })
	add("loop by br_table", func(g *Guest) { g.Answering(Loop(Empty, I32Const(0), BrTable(0, 0))) })
	add("integer division", func(g *Guest) {
		g.Answering(Forever(I64Const(math.MaxInt64), I64Const(3), I64DivU, Drop))
	})
	add("indirect calls", func(g *Guest) {
		f := g.Func(Sig{})
		g.Table(FuncRef, 1, 1)
		g.Elements(0, f.Index)
		g.Answering(Forever(I32Const(0), CallIndirect(g.Type(Sig{}), 0)))
	})
	add("straight line of cache misses", func(g *Guest) {
		whole(g)
		// Each load says where the next one is, so none begins before the one before has ended.
		g.Process.Locals(I32)
		g.Answering(Forever(
			Times(1000,
				LocalGet(2), I32Load(0), I32Const(1664525), I32Mul, LocalGet(2), I32Add, I32Const(1013904223), I32Add,
				I32Const(size-64), I32And, LocalSet(2)),
		))
	})
	add("memory.fill of all memory", func(g *Guest) {
		whole(g)
		g.Answering(Forever(I32Const(1<<16), I32Const(1), I32Const(size-1<<16), MemoryFill))
	})
	add("memory.copy of half the memory", func(g *Guest) {
		whole(g)
		g.Answering(Forever(I32Const(size/2), I32Const(0), I32Const(size/2), MemoryCopy))
	})
	add("memory.grow without room", func(g *Guest) { whole(g); g.Answering(Forever(I32Const(1), MemoryGrow, Drop)) })
	add("flood of emits", func(g *Guest) {
		g.Answering(Forever(I32Const(0), I32Const(8), I64Const(1), Call(0)))
	}, EmitCount)
	add("flood of log lines", func(g *Guest) {
		g.Answering(Forever(I32Const(1), I32Const(0), I32Const(1024), Call(0)))
	}, Log)
	return all
}

func (b *bench) startHostile(ctx context.Context, h hostileGuest, timeout time.Duration, quantum int64) (*host.Module, error) {
	m, err := b.compile(ctx, h.code, host.Options{
		Name:   h.name,
		Limits: host.Limits{Timeout: timeout, Memory: hostileMemory, Quantum: quantum},
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.name, err)
	}
	return m, nil
}

// overshootTable measures how long after its deadline a guest is stopped.
func (b *bench) overshootTable(ctx context.Context) error {
	s := b.report.sheet("a deadline of "+span(overshootDeadline), "overshoot p50", "worst", "longest stretch without a look at the clock")
	control := b.control()
	busy := slices.Max(control) > overshootBound/2
	s.row(nil, "a loop in Go that looks itself, for comparison", span(median(control)), span(slices.Max(control)))
	for _, h := range hostileGuests() {
		m, err := b.startHostile(ctx, h, overshootDeadline, hostileQuantum)
		if err != nil {
			return err
		}
		var over []time.Duration
		for range b.rounds(20) {
			begin := time.Now()
			_, err := m.Process(ctx, nil, nil)
			over = append(over, time.Since(begin)-overshootDeadline)
			if !errors.Is(err, host.ErrDeadline) {
				_ = m.Close()
				return fmt.Errorf("%s ends with %w, and should run past its deadline", h.name, err)
			}
		}
		if err := m.Close(); err != nil {
			return err
		}
		stretch, err := longestStretch(ctx, h)
		if err != nil {
			return fmt.Errorf("%s: %w", h.name, err)
		}
		p50, worst := median(over), slices.Max(over)
		g := goals{within("stretch", stretch, overshootBound)}
		if !busy {
			g = append(g, within("worst", worst, overshootBound))
		}
		s.row(g, h.name, span(p50), span(worst), span(stretch))
	}
	if busy {
		s.note("lateness", "this machine has other work, so that even a loop in Go was late; the longest stretch alone was judged")
	}
	return s.flush()
}

// control is how late this machine lets anybody be: a loop that only looks at the clock notices its deadline too late
// where it was not given the processor.
func (b *bench) control() []time.Duration {
	var over []time.Duration
	for range b.rounds(20) {
		begin := time.Now()
		for time.Since(begin) < overshootDeadline { //nolint:revive // looking is all that it does
		}
		over = append(over, time.Since(begin)-overshootDeadline)
	}
	return over
}

// longestStretch is the most processor time that passed between two refills, which is how late a guest can be stopped on
// a machine that does nothing else.
func longestStretch(ctx context.Context, h hostileGuest) (time.Duration, error) {
	runtime.LockOSThread() // whose time is taken
	defer runtime.UnlockOSThread()
	r, g, err := startMetered(ctx, h.code, metering.Yield, hostileQuantum)
	if err != nil {
		return 0, err
	}
	defer r.close()
	g.deadline = time.Now().Add(overshootDeadline)
	var longest time.Duration
	last := threadTime()
	g.watch = func() {
		now := threadTime()
		longest, last = max(longest, now-last), now
	}
	if err := r.function(abi.ExportProcess)([]uint64{0, 0}); !errors.Is(err, errDeadline) {
		return 0, fmt.Errorf("it ends with %w", err)
	}
	return longest, nil
}

// pauseTable measures how long a stop of the world takes while a hostile guest runs: the guest's thread has to come back
// to the Go scheduler first, which it does when it asks for more fuel.
func (b *bench) pauseTable(ctx context.Context) error {
	s := b.report.sheet("beside a guest", "quantum", "stops", "p50", "p99", "longest")
	quiet, err := b.stops(ctx)
	if err != nil {
		return err
	}
	busy := quiet.p99 > pauseWorstBound/2
	s.row(nil, "none", "-", fmt.Sprint(quiet.n), span(quiet.p50), span(quiet.p99), span(quiet.worst))
	for _, h := range hostileGuests() {
		for _, q := range []int64{hostileQuantum, quantum} {
			if b.short && q == quantum {
				continue
			}
			found, err := b.stopsBeside(ctx, h, q)
			if err != nil {
				return err
			}
			var g goals
			if q == hostileQuantum {
				g = goals{within("p50", found.p50, pauseBound)}
				if !busy {
					g = append(g, within("p99", found.p99, pauseWorstBound))
				}
			}
			s.row(g, h.name, fmt.Sprint(q), fmt.Sprint(found.n), span(found.p50), span(found.p99), span(found.worst))
		}
	}
	if busy {
		s.note("p99", "this machine has other work, so that stops wait beside no guest too; p50 alone was judged")
	}
	return s.flush()
}

func (b *bench) stopsBeside(ctx context.Context, h hostileGuest, quantum int64) (stops, error) {
	m, err := b.startHostile(ctx, h, time.Minute, quantum)
	if err != nil {
		return stops{}, err
	}
	inner, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		_, err := m.Process(inner, nil, nil)
		ended <- err
	}()
	time.Sleep(5 * time.Millisecond) // it runs by then, or a few stops are those beside nothing
	found, err := b.stops(ctx)
	cancel()
	if ended := <-ended; err == nil && !errors.Is(ended, context.Canceled) {
		err = fmt.Errorf("%s ended by itself: %w", h.name, ended)
	}
	return found, errors.Join(err, m.Close())
}

// stops are the stops of the world in a while.
type stops struct {
	n               uint64
	p50, p99, worst time.Duration
}

// pauses is what the runtime says of its stops: from the decision to stop until all runs again.
var pauses = []string{"/sched/pauses/total/gc:seconds", "/sched/pauses/total/other:seconds"}

// stops stops the world for some time, by collections and by reading the state of memory.
func (b *bench) stops(ctx context.Context) (stops, error) {
	before := histograms()
	var state runtime.MemStats
	for range b.rounds(150) {
		if ctx.Err() != nil {
			return stops{}, ctx.Err()
		}
		runtime.GC()
		for range 3 {
			runtime.ReadMemStats(&state)
			time.Sleep(100 * time.Microsecond)
		}
	}
	after := histograms()
	var buckets []float64
	var counts []uint64
	for i, h := range after {
		buckets = h.Buckets // all have the same
		if counts == nil {
			counts = make([]uint64, len(h.Counts))
		}
		for j, n := range h.Counts {
			counts[j] += n - before[i].Counts[j]
		}
	}
	return summarise(buckets, counts), nil
}

func histograms() []*metrics.Float64Histogram {
	samples := make([]metrics.Sample, len(pauses))
	for i, name := range pauses {
		samples[i].Name = name
	}
	metrics.Read(samples)
	var out []*metrics.Float64Histogram
	for _, s := range samples {
		h := s.Value.Float64Histogram()
		out = append(out, &metrics.Float64Histogram{Counts: slices.Clone(h.Counts), Buckets: h.Buckets})
	}
	return out
}

// summarise takes the upper end of the bucket in which a percentile lies.
func summarise(buckets []float64, counts []uint64) stops {
	var s stops
	for _, n := range counts {
		s.n += n
	}
	at := func(share float64) time.Duration {
		seen := uint64(0)
		for i, n := range counts {
			if seen += n; n > 0 && float64(seen) >= share*float64(s.n) {
				upper := buckets[i+1]
				if math.IsInf(upper, 1) {
					upper = buckets[i]
				}
				return time.Duration(upper * float64(time.Second))
			}
		}
		return 0
	}
	s.p50, s.p99, s.worst = at(0.5), at(0.99), at(1)
	return s
}

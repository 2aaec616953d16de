package ensemble

import (
	"context"
	"fmt"
	"math/bits"
	"runtime/debug"
	"sync"

	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/wasm/host"
)

// flight is a request some of whose steps run at the same time.
type flight struct {
	e      *Ensemble
	plan   *plan
	state  *state
	sink   host.Sink
	ctx    context.Context
	cancel context.CancelFunc
	timing *statistics.Timing // the request's; nil when it has none

	workers  sync.WaitGroup
	mu       sync.Mutex
	waiting  uint64 // tasks of the plan that nobody has taken, by their places in it
	done     uint64 // steps that have their results
	running  int    // workers
	err      error
	panicked any
}

// runParallel runs the steps on the caller's goroutine and, while more than one can go on, on others beside it. It
// returns when all have ended.
func (e *Ensemble) runParallel(ctx context.Context, p *plan, s *state, sink host.Sink) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := &flight{e: e, plan: p, state: s, ctx: ctx, cancel: cancel, timing: statistics.Of(ctx), running: 1}
	f.waiting = 1<<len(p.steps) - 1 // also where there are 64
	if sink != nil {
		f.sink = &guarded{sink: sink}
	}
	f.work(f.next())
	f.workers.Wait()
	if f.panicked != nil {
		panic(f.panicked) // on the goroutine of the request, whose caller knows what to do about it
	}
	return f.err
}

// work runs a task and what becomes ready after it, and starts workers for what could run beside it.
func (f *flight) work(t *task) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for ; t != nil; t = f.next() {
		for f.running < f.e.parallel {
			beside := f.next()
			if beside == nil {
				break
			}
			f.running++
			f.workers.Go(func() { f.work(beside) })
		}
		f.mu.Unlock()
		timing, panicked, err := f.run(t)
		f.mu.Lock()
		f.done |= 1 << t.step
		if f.timing != nil {
			add(f.timing, &timing)
		}
		if f.err == nil && f.panicked == nil && (err != nil || panicked != nil) {
			f.err, f.panicked, f.waiting = err, panicked, 0
			f.cancel()
		}
	}
	f.running--
}

// next takes a task whose inputs are there, or returns nil.
func (f *flight) next() *task {
	for w := f.waiting; w != 0; w &= w - 1 {
		i := bits.TrailingZeros64(w)
		if t := &f.plan.steps[i]; t.needs&^f.done == 0 {
			f.waiting &^= 1 << i
			return t
		}
	}
	return nil
}

// run computes one step with a timing of its own, since a Timing belongs to one goroutine.
func (f *flight) run(t *task) (timing statistics.Timing, panicked any, err error) {
	defer func() {
		if p := recover(); p != nil {
			panicked = fmt.Sprintf("step %s: %v\n%s", f.e.graph.Steps[t.step].Name, p, debug.Stack())
		}
	}()
	ctx := f.ctx
	if f.timing != nil {
		timing.Rows = f.timing.Rows
		ctx = context.WithValue(ctx, statistics.Key, &timing)
	}
	err = f.e.runStep(ctx, t, f.state, f.sink)
	return timing, nil, err
}

// add adds the times of a step to those of its request, which are sums over what ran at the same time too.
func add(to, t *statistics.Timing) {
	to.Queue += t.Queue
	to.Input += t.Input
	to.Infer += t.Infer
	to.Output += t.Output
	to.Lookup += t.Lookup
	to.Executed = max(to.Executed, t.Executed)
}

// guarded lets several steps emit.
type guarded struct {
	mu   sync.Mutex
	sink host.Sink
}

func (g *guarded) Feature(name string, value float64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sink.Feature(name, value)
}

func (g *guarded) Count(name string, n uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sink.Count(name, n)
}

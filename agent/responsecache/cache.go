// Package responsecache answers a request that was answered before without computing it again.
//
// A Cache is one budget of bytes for all models, least recently used answers leave first. Wrap puts it before a Runner.
// The key of an answer is the SHA-256 of everything that it depends on: the wrapped runner (a model that is loaded anew
// begins with nothing), the inputs by name, and which outputs are wanted. Equal requests that come while the first of
// them computes wait for its answer. If that one's request ends, or it did not get a place to compute, one of the others
// computes; an error of the model itself is the answer of all that waited, and is not kept.
//
// What the WASM steps of a runner emitted is kept with the answer and emitted again with each hit, so that counts and
// features say what was answered, not what was computed. Models whose answer depends on more than the request (random
// numbers, the time) must not be wrapped.
//
// The tensors of a hit share their data with the cache and with each other: whoever is handed them neither changes nor
// reuses it. Everything is safe for concurrent use. Infer blocks for a place and for the computation, or for that of an
// equal request, until its context ends.
package responsecache

import (
	"container/list"
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/agent/telemetry"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host"
)

// Options of a cache.
type Options struct {
	// MaxBytes bounds what all answers take, with what it costs to keep them.
	MaxBytes int64
	// Places are where misses wait to compute, and Priority says how urgent a request is. With Places, a runner that does
	// not queue by itself is wrapped into one that does, so that a hit waits for nobody; without, Wrap changes nothing of
	// how the runner is scheduled.
	Places interface {
		Acquire(ctx context.Context, priority uint64) error
		Release()
	}
	Priority func(context.Context) uint64 // nil: none has a priority
}

// Cache keeps answers.
type Cache struct {
	options Options
	owners  atomic.Uint64

	mu      sync.Mutex
	entries map[key]*list.Element // of *entry
	order   *list.List            // most recently used first
	bytes   int64
	flights map[key]*flight
	stats   Stats
}

// Stats of a cache. Hits are also those that waited for the answer of an equal request.
type Stats struct {
	Hits, Misses, Evicted uint64
	Entries               int
	Bytes                 int64
}

type key [sha256.Size]byte

// entry is an answer; it is not changed after it was made.
type entry struct {
	key     key
	owner   uint64
	outputs []tensor.Tensor
	emitted emissions
	bytes   int64
}

// flight is a request that computes while equal ones wait.
type flight struct {
	done chan struct{}
	// answer is what came of it, err why nothing did, both nil when the next one should try. Set before done is closed.
	answer *entry
	err    error
}

// New returns an empty cache.
func New(o Options) *Cache {
	return &Cache{options: o, entries: map[key]*list.Element{}, order: list.New(), flights: map[key]*flight{}}
}

// Stats returns the figures of now.
func (c *Cache) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Entries, s.Bytes = c.order.Len(), c.bytes
	return s
}

// Wrap puts the cache before a runner, which is the wrapper's to close from here on.
func (c *Cache) Wrap(model, version string, r serving.Runner) serving.Runner {
	w := &cached{cache: c, model: model, version: version, inner: r, owner: c.owners.Add(1)}
	s, ok := r.(interface{ Scheduled() bool })
	w.scheduled = ok && s.Scheduled()
	if !w.scheduled && c.options.Places != nil {
		w.scheduled, w.places = true, true
	}
	return w
}

// cached is a runner with the cache before it.
type cached struct {
	cache          *Cache
	model, version string
	inner          serving.Runner
	owner          uint64
	scheduled      bool
	places         bool // it takes the places that the table no longer takes
	closed         bool // under the cache's mu: what comes now is not kept
}

func (w *cached) Inputs() []tensor.Spec  { return w.inner.Inputs() }
func (w *cached) Outputs() []tensor.Spec { return w.inner.Outputs() }

// Scheduled says whether the table leaves it to the runner to find a place to compute.
func (w *cached) Scheduled() bool { return w.scheduled }

// Unwrap returns the runner behind the cache.
func (w *cached) Unwrap() serving.Runner { return w.inner }

// Close forgets the runner's answers and closes it.
func (w *cached) Close() error {
	w.cache.forget(w)
	return w.inner.Close()
}

// Infer answers from the cache, or computes.
func (w *cached) Infer(ctx context.Context, in []tensor.Tensor, wanted []string, sink host.Sink) ([]tensor.Tensor, error) {
	start := time.Now()
	c := w.cache
	k := w.key(in, wanted)
	timing := statistics.Of(ctx)
	for {
		e, f, leads := c.find(k)
		switch {
		case leads:
			if timing != nil {
				timing.Missed, timing.Lookup = true, timing.Lookup+time.Since(start)
			}
			return w.lead(ctx, k, f, in, wanted, sink)
		case e == nil:
			select {
			case <-f.done:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			if f.err != nil {
				return nil, f.err
			}
			if e = f.answer; e == nil {
				continue
			}
			c.counted(&c.stats.Hits)
		}
		if timing != nil {
			timing.Hit, timing.Lookup = true, timing.Lookup+time.Since(start)
		}
		e.emitted.replay(sink)
		return slices.Clone(e.outputs), nil
	}
}

// lead computes the answer for this request and those that wait for it.
func (w *cached) lead(ctx context.Context, k key, f *flight, in []tensor.Tensor, wanted []string, sink host.Sink) (out []tensor.Tensor, err error) {
	c := w.cache
	record := recorder{sink: sink}
	var answer *entry
	var shared error
	// When the runner panics, the next one tries.
	defer func() { c.land(w, k, f, answer, shared) }()
	if w.places {
		waited := time.Now()
		var priority uint64
		if c.options.Priority != nil {
			priority = c.options.Priority(ctx)
		}
		err := c.options.Places.Acquire(ctx, priority)
		if t := statistics.Of(ctx); t != nil {
			t.Queue += time.Since(waited)
		}
		if err != nil {
			return nil, err
		}
		defer c.options.Places.Release()
	}
	out, err = w.inner.Infer(ctx, in, wanted, &record)
	if err == nil {
		answer = keep(k, w.owner, out, record.emissions)
		return out, nil
	}
	if ctx.Err() == nil && isTheModels(err) {
		shared = err
	}
	return nil, err
}

// isTheModels is whether an equal request would fail in the same way.
func isTheModels(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	switch serving.CodeOf(err) {
	case telemetry.InvalidInput, telemetry.ModelError, telemetry.WasmError:
		return true
	}
	return false
}

// find returns the answer, or the flight of an equal request, or a flight that is the caller's to end by land.
func (c *Cache) find(k key) (e *entry, f *flight, leads bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at := c.entries[k]; at != nil {
		c.order.MoveToFront(at)
		c.stats.Hits++
		return at.Value.(*entry), nil, false
	}
	if f = c.flights[k]; f != nil {
		return nil, f, false
	}
	c.stats.Misses++
	f = &flight{done: make(chan struct{})}
	c.flights[k] = f
	return nil, f, true
}

func (c *Cache) counted(n *uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*n++
}

// land ends a flight and keeps its answer, if there is one.
func (c *Cache) land(w *cached, k key, f *flight, answer *entry, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.answer, f.err = answer, err
	delete(c.flights, k)
	close(f.done)
	if answer == nil || answer.bytes > c.options.MaxBytes || w.closed {
		return
	}
	c.entries[k] = c.order.PushFront(answer)
	for c.bytes += answer.bytes; c.bytes > c.options.MaxBytes; {
		c.remove(c.order.Back())
		c.stats.Evicted++
	}
}

// remove is called with mu held.
func (c *Cache) remove(at *list.Element) {
	e := c.order.Remove(at).(*entry)
	delete(c.entries, e.key)
	c.bytes -= e.bytes
}

// forget drops what a runner answered; nobody asks that runner any more.
func (c *Cache) forget(w *cached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w.closed = true
	for at := c.order.Front(); at != nil; {
		next := at.Next()
		if at.Value.(*entry).owner == w.owner {
			c.remove(at)
		}
		at = next
	}
}

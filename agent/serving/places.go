package serving

import (
	"context"
	"math"
	"sync"
)

// Places are the cores that compute. Who holds one may compute; the others wait, the most urgent first, and among
// equally urgent ones the one that came first. Acquiring a free place takes no allocation.
type Places struct {
	mu    sync.Mutex
	free  int
	first *waiter // in the order in which they will be served
}

type waiter struct {
	priority uint64
	given    chan struct{}
	next     *waiter
}

// NewPlaces returns n free places.
func NewPlaces(n int) *Places { return &Places{free: n} }

// Acquire waits for a place until ctx ends, and returns its error then. Priority 1 is the most urgent one; 0, for those
// that have none, comes after all that have.
func (p *Places) Acquire(ctx context.Context, priority uint64) error {
	if p.TryAcquire() {
		if err := ctx.Err(); err != nil {
			p.Release()
			return err
		}
		return nil
	}
	return p.wait(ctx, priority)
}

// TryAcquire takes a place that is free. Nobody waits while one is.
func (p *Places) TryAcquire() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.free == 0 {
		return false
	}
	p.free--
	return true
}

func (p *Places) wait(ctx context.Context, priority uint64) error {
	if priority == 0 {
		priority = math.MaxUint64 - 1 // the copies made for shadows come last
	}
	w := &waiter{priority: priority, given: make(chan struct{})}
	done := ctx.Done()
	p.mu.Lock()
	if p.free > 0 {
		p.free--
		p.mu.Unlock()
		return nil
	}
	at := &p.first
	for *at != nil && (*at).priority <= priority {
		at = &(*at).next
	}
	w.next, *at = *at, w
	p.mu.Unlock()
	select {
	case <-w.given:
		if err := ctx.Err(); err != nil {
			p.Release()
			return err
		}
		return nil
	case <-done:
		if !p.leave(w) {
			p.Release() // it was given in the same moment
		}
		return ctx.Err()
	}
}

// leave takes w out of the queue and reports whether it was still there.
func (p *Places) leave(w *waiter) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for at := &p.first; *at != nil; at = &(*at).next {
		if *at == w {
			*at = w.next
			return true
		}
	}
	return false
}

// Release gives a place back, to the first who waits.
func (p *Places) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.first
	if w == nil {
		p.free++
		return
	}
	p.first = w.next
	close(w.given)
}

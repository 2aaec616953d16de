package host

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/dhowfleet/dhow/wasm/host/compiled"
	"github.com/dhowfleet/dhow/wasm/host/lines"
	"github.com/dhowfleet/dhow/wasm/host/memory"
	"github.com/dhowfleet/dhow/wasm/metering"
	"github.com/dhowfleet/dhow/wasm/wasi"
)

// Module is compiled code and its instances.
type Module struct {
	name          string
	limits        Limits
	state         State
	kind          protocolOf
	grants        wasi.Grants
	restorable    bool // instances can be put back to the image
	batches       bool // the guest takes several requests in one call
	configuration []byte
	features      map[string]string // name to itself, so that a guest's bytes become a string without a copy
	counters      map[string]string
	lines         *lines.Log

	code *compiled.Code

	slots  chan struct{} // one for each call in flight, so that there are never more instances
	closed chan struct{}

	mu       sync.Mutex
	info     Info
	image    *memory.Image // of the latest instance; most share it
	idle     []*instance   // the last one used is taken first: its memory is warm
	stats    Stats
	isClosed bool
}

// Info is what is known of a module.
type Info struct {
	metering.Info
	Cached       bool          // its compiled code was there already
	CompileTime  time.Duration // or what loading it from the cache took
	InstanceTime time.Duration // the start of the latest instance
	ImageBytes   int64         // memory that a call starts with
	Restorable   bool          // instances are put back after a call, not replaced
	Batches      bool          // the guest takes several requests in one call
}

// Info returns what is known now.
func (m *Module) Info() Info {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := m.info
	i.Cached, i.CompileTime, i.Restorable, i.Batches = m.code.Cached, m.code.Took, m.restorable, m.batches
	if m.image != nil {
		i.ImageBytes = m.image.Size()
	}
	return i
}

// Stats of a module since it was compiled.
type Stats struct {
	Idle          int    // instances waiting
	Started       uint64 // instances
	Discarded     uint64 // instances
	Resets        uint64 // of instances, to the image
	DroppedEmits  uint64 // emits of names that are not declared, beyond abi.MaxEmits, or not a number
	DroppedLines  uint64 // log lines beyond the rate
	MappedBytes   int64  // address space of all instances' memory
	Traps         uint64 // calls that ended with ErrTrap
	DeadlineTraps uint64 // calls that ran past their time
	FuelTraps     uint64 // calls that ran out of fuel
	StackTraps    uint64 // calls that ran out of stack
}

// Stats returns the figures of now.
func (m *Module) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.stats
	s.Idle = len(m.idle)
	s.DroppedLines = m.lines.Dropped()
	return s
}

// acquire returns an instance for one call. The caller gives it back with settle, or discards it and leaves.
func (m *Module) acquire(ctx context.Context) (*instance, error) {
	select {
	case m.slots <- struct{}{}: // by itself, this costs a fifth of a choice between three
	default:
		select {
		case m.slots <- struct{}{}:
		case <-m.closed:
			return nil, ErrClosed
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	in, err := m.take(ctx)
	if err != nil {
		m.leave()
	}
	return in, err
}

// leave gives back the slot of a call.
func (m *Module) leave() { <-m.slots }

// take returns an idle instance or starts one. The caller holds a slot.
func (m *Module) take(ctx context.Context) (*instance, error) {
	if err := ctx.Err(); err != nil {
		return nil, err // before it costs an instance
	}
	m.mu.Lock()
	if m.isClosed {
		m.mu.Unlock()
		return nil, ErrClosed
	}
	n := len(m.idle)
	if n == 0 {
		m.mu.Unlock()
		return m.start(ctx)
	}
	in := m.idle[n-1]
	m.idle = m.idle[:n-1]
	m.mu.Unlock()
	return in, nil
}

// keptStack is a limit of the stack up to which an instance that reached it is kept with the native stack that it grew to, at
// most a few times as much: starting another costs more, and lets it grow again.
const keptStack = 1 << 20

// settle puts an instance back after a call, or replaces it; err is what the guest failed by.
func (m *Module) settle(in *instance, err error) {
	reset := false
	switch {
	case errors.Is(err, ErrStack) && m.limits.Stack > keptStack: // the native stack that it took goes with it
	case err == nil && m.state == Keep && !in.guest.IsClosed():
		m.put(in, 0)
		return
	default:
		reset = in.reset()
	}
	switch {
	case reset:
		m.put(in, 1)
	case err == nil:
		in.discard()
		go m.renew() // the next request need not wait for it
	default:
		in.discard()
		m.leave()
	}
}

// put makes an instance available and gives back the slot of its call.
func (m *Module) put(in *instance, resets uint64) {
	m.mu.Lock()
	m.idle = append(m.idle, in)
	m.stats.Resets += resets
	m.mu.Unlock()
	m.leave()
}

// renew starts an instance on the slot of a call that has ended. If it fails, the next call will say why.
func (m *Module) renew() {
	in, err := m.take(context.Background())
	if err != nil {
		m.leave()
		return
	}
	m.put(in, 0)
}

// Close waits for the calls in flight and gives back everything the module held.
func (m *Module) Close() error {
	m.mu.Lock()
	if m.isClosed {
		m.mu.Unlock()
		return nil
	}
	m.isClosed = true
	close(m.closed)
	m.mu.Unlock()
	for range cap(m.slots) {
		m.slots <- struct{}{}
	}
	for _, in := range m.idle {
		in.discard()
	}
	m.idle = nil
	return m.code.Close()
}

package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dhowfleet/dhow/models/tensor"
)

// Usage is what a call took.
type Usage struct {
	Fuel    int64         // the same on every run with the same request
	Refills int64         // how often the guest asked for more, which depends on the machine
	Memory  int64         // bytes that the guest's memory had at the most
	Time    time.Duration // of the guest and of writing the request, not of waiting for an instance
}

// Process hands in to a guest and returns what it makes of it. The result belongs to the caller. sink, which may be
// nil, gets what the guest emitted, also when the guest answered with an error.
//
// The error is a *GuestError, or matches ErrDeadline, ErrFuel, ErrStack, ErrTrap or ErrClosed, or is the context's.
func (m *Module) Process(ctx context.Context, in []tensor.Tensor, sink Sink) ([]tensor.Tensor, error) {
	var out []tensor.Tensor
	err := m.call(ctx, in, sink, nil, false, func(answer []tensor.Tensor) error {
		out = clone(answer)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// View is Process without the copy: use sees the result where it lies in the guest's memory. It must not change it or
// keep any of it. It holds an instance meanwhile; its time does not count as the guest's. Its error is View's.
func (m *Module) View(ctx context.Context, in []tensor.Tensor, sink Sink, use func([]tensor.Tensor) error) error {
	return m.call(ctx, in, sink, nil, true, use)
}

// Measure is Process and says what the call took, also when it failed.
func (m *Module) Measure(ctx context.Context, in []tensor.Tensor, sink Sink) ([]tensor.Tensor, Usage, error) {
	var out []tensor.Tensor
	var usage Usage
	err := m.call(ctx, in, sink, &usage, false, func(answer []tensor.Tensor) error {
		out = clone(answer)
		return nil
	})
	if err != nil {
		return nil, usage, err
	}
	return out, usage, nil
}

// clone copies tensors and what they hold, with one allocation for all data and one for all shapes.
func clone(ts []tensor.Tensor) []tensor.Tensor {
	data, dims := 0, 0
	for i := range ts {
		data, dims = data+len(ts[i].Data), dims+len(ts[i].Shape)
	}
	out := slices.Clone(ts)
	all, shapes := make([]byte, 0, data), make([]int64, 0, dims)
	for i := range out {
		t := &out[i]
		for rest := t.Data; len(rest) > 0; rest = rest[min(len(rest), piece):] {
			all = appendPiece(all, rest[:min(len(rest), piece)])
		}
		t.Data = all[len(all)-len(t.Data) : len(all) : len(all)]
		shapes = append(shapes, t.Shape...)
		t.Shape = shapes[len(shapes)-len(t.Shape) : len(shapes) : len(shapes)]
	}
	return out
}

// piece is copied at once: the Go runtime cannot stop a goroutine within a copy, but it can at a call.
const piece = 256 << 10

//go:noinline
func appendPiece(to, b []byte) []byte { return append(to, b...) }

// call runs one request. usage may be nil. lent says that use may take its time.
func (m *Module) call(ctx context.Context, list []tensor.Tensor, sink Sink, usage *Usage, lent bool, use func([]tensor.Tensor) error) error {
	size, err := m.kind.size(list)
	if err != nil {
		return &GuestError{Input: true, Message: err.Error()}
	}
	if int64(size) > m.limits.Memory {
		return m.tooLarge(size)
	}
	in, err := m.acquire(ctx)
	if err != nil {
		return err
	}
	settled := false
	defer func() {
		if !settled { // use panicked
			in.discard()
			m.leave()
		}
	}()
	in.output.Reset()
	in.call.begin(ctx, m.limits.Timeout, m.limits.Fuel)
	out, failed := in.speaks.ask(list, size)
	var verdict error
	if failed == nil && lent {
		since := now()
		verdict = use(out)
		in.call.extend(now() - since)
	} else if failed == nil {
		verdict = use(out)
	} else if isGuestError(failed) {
		verdict, failed = failed, nil
	}
	if failed == nil {
		failed = in.speaks.done()
	}
	if usage != nil {
		*usage = in.usage()
	}
	failed = in.conclude(failed, size, sink)
	settled = true
	m.settle(in, failed)
	if failed != nil {
		return failed
	}
	return verdict
}

// conclude ends a call that failed by err, or did not: the sink gets what was emitted, and the figures what went wrong.
func (in *instance) conclude(err error, size int, sink Sink) error {
	m := in.module
	if err == nil {
		in.call.end()
		in.flush(sink)
		return nil
	}
	if errors.Is(err, errNoRoom) {
		err = m.tooLarge(size)
	} else {
		err = in.failure(err)
	}
	in.call.end()
	in.flush(nil)
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case errors.Is(err, ErrDeadline):
		m.stats.DeadlineTraps++
	case errors.Is(err, ErrFuel):
		m.stats.FuelTraps++
	case errors.Is(err, ErrStack):
		m.stats.StackTraps++
	case errors.Is(err, ErrTrap):
		m.stats.Traps++
	}
	return err
}

// usage is what the call took up to now.
func (in *instance) usage() Usage {
	return Usage{Fuel: in.call.used(), Refills: in.call.refills, Memory: int64(in.guest.Memory().Size()), Time: now() - in.call.began}
}

// errNoRoom stays inside the package: the guest has no room for a request of this size.
var errNoRoom = errors.New("no room for the request")

func (m *Module) tooLarge(size int) error {
	return &GuestError{Input: true, Message: fmt.Sprintf("the request has %d bytes, more than fit into the %d KiB of memory of %s", size, m.limits.Memory>>10, m.name)}
}

func isGuestError(err error) bool {
	var g *GuestError
	return errors.As(err, &g)
}

package host

import (
	"context"
	"errors"
	"fmt"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
)

// Process hands in to a guest and returns what it makes of it. The result belongs to the caller. sink, which may be
// nil, gets what the guest emitted, also when the guest answered with an error.
//
// The error is a *GuestError, or matches ErrDeadline, ErrTrap or ErrClosed, or is the context's.
func (m *Module) Process(ctx context.Context, in []tensor.Tensor, sink Sink) ([]tensor.Tensor, error) {
	size, err := abi.Size(in)
	if err != nil {
		return nil, &GuestError{Input: true, Message: err.Error()}
	}
	if int64(size) > m.limits.Memory {
		return nil, m.tooLarge(size)
	}
	select {
	case <-m.closed:
		return nil, ErrClosed
	default:
	}
	select {
	case m.slots <- struct{}{}:
	case <-m.closed:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-m.slots }()
	if m.isShut() {
		return nil, ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, err // before it costs an instance
	}

	for attempt := 0; ; attempt++ {
		out, err := m.attempt(ctx, in, size, sink)
		if errors.Is(err, errStale) && attempt < 2 {
			continue
		}
		if errors.Is(err, errStale) {
			return nil, fmt.Errorf("%w: %v", ErrTrap, err)
		}
		return out, err
	}
}

func (m *Module) attempt(ctx context.Context, list []tensor.Tensor, size int, sink Sink) ([]tensor.Tensor, error) {
	in, err := m.take(ctx)
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, m.limits.Timeout)
	defer cancel()
	in.output.reset()
	out, err := in.run(context.WithValue(limited, instanceKey{}, in), list, size)
	var guestErr *GuestError
	if err == nil || errors.As(err, &guestErr) {
		in.flush(sink)
		m.put(in)
		return out, err
	}
	if errors.Is(err, errNoRoom) {
		err = m.tooLarge(size)
	}
	err = in.failure(ctx, limited, err)
	if errors.Is(err, ErrDeadline) {
		m.mu.Lock()
		m.stats.DeadlineTraps++
		m.mu.Unlock()
		err = fmt.Errorf("%w of %s", ErrDeadline, m.limits.Timeout)
	}
	in.discard()
	return nil, err
}

func (m *Module) tooLarge(size int) error {
	return &GuestError{Input: true, Message: fmt.Sprintf("the request has %d bytes, more than fit into the %d KiB of memory of %s", size, m.limits.Memory>>10, m.name)}
}

func (m *Module) isShut() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.isClosed
}

// take returns an idle instance or starts one. The caller holds a slot.
func (m *Module) take(ctx context.Context) (*instance, error) {
	for {
		m.mu.Lock()
		n := len(m.idle)
		if n == 0 {
			m.mu.Unlock()
			return m.start(ctx)
		}
		in := m.idle[n-1]
		m.idle = m.idle[:n-1]
		m.mu.Unlock()
		if !in.guest.IsClosed() {
			return in, nil
		}
		in.discard()
	}
}

func (m *Module) put(in *instance) {
	if in.guest.IsClosed() {
		in.discard()
		return
	}
	m.mu.Lock()
	m.idle = append(m.idle, in)
	m.mu.Unlock()
}

// flush hands what the guest emitted to sink.
func (in *instance) flush(sink Sink) {
	if in.dropped > 0 {
		in.module.mu.Lock()
		in.module.stats.DroppedEmits += in.dropped
		in.module.mu.Unlock()
	}
	if sink != nil {
		for i := range in.emitted {
			if e := &in.emitted[i]; e.feature {
				sink.Feature(e.name, e.value)
			} else {
				sink.Count(e.name, e.count)
			}
		}
	}
	in.emitted, in.dropped = in.emitted[:0], 0
}

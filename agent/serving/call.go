package serving

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/agent/telemetry"
)

// maxEmitted bounds what a WASM step can add to one request's record.
const maxEmitted = 64

// call is a request's context, sink and record, reused by a later request.
//
// As a context it ends at its deadline, with its parent, or with the request. It exists since context.WithTimeout costs
// each request several allocations and a timer, while most runners only ask for Err or Deadline: the channel and the
// timer are made when Done is called, and a call whose Done was called is not reused.
type call struct {
	parent   context.Context
	deadline time.Time
	priority uint64
	timing   statistics.Timing

	mu         sync.Mutex
	done       chan struct{}
	err        error
	timer      *time.Timer
	stopParent func() bool

	counts   []telemetry.Count
	features []telemetry.Feature
	observed telemetry.Observation
}

var calls = sync.Pool{New: func() any { return new(call) }}

func newCall(parent context.Context, deadline time.Time) *call {
	c := calls.Get().(*call)
	c.parent, c.deadline = parent, deadline
	c.timing = statistics.Timing{Rows: 1}
	if d, ok := parent.Deadline(); ok && d.Before(deadline) {
		c.deadline = d
	}
	return c
}

// end ends the context and gives the call back.
func (c *call) end() {
	c.mu.Lock()
	if c.done != nil {
		c.finish(context.Canceled)
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	clear(c.counts)
	clear(c.features)
	c.counts, c.features = c.counts[:0], c.features[:0]
	c.observed = telemetry.Observation{}
	c.parent = nil
	calls.Put(c)
}

// finish is called with mu held and done made.
func (c *call) finish(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	close(c.done)
	c.timer.Stop()
	c.stopParent()
}

func (c *call) Deadline() (time.Time, bool) { return c.deadline, true }

func (c *call) Value(key any) any {
	switch key {
	case statistics.Key:
		return &c.timing
	case priorityKey:
		return &c.priority
	}
	return c.parent.Value(key)
}

type priorityKeyType struct{}

var priorityKey any = priorityKeyType{}

// PriorityOf returns the priority of the request that ctx belongs to, 0 when it has none.
func PriorityOf(ctx context.Context) uint64 {
	if p, ok := ctx.Value(priorityKey).(*uint64); ok {
		return *p
	}
	return 0
}

func (c *call) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	if err := c.parent.Err(); err != nil {
		return err
	}
	if !time.Now().Before(c.deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

func (c *call) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done != nil {
		return c.done
	}
	c.done = make(chan struct{})
	c.stopParent = context.AfterFunc(c.parent, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.finish(c.parent.Err())
	})
	c.timer = time.AfterFunc(time.Until(c.deadline), func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.finish(context.DeadlineExceeded)
	})
	return c.done
}

// Feature implements host.Sink.
func (c *call) Feature(name string, value float64) {
	if len(c.features) < maxEmitted {
		c.features = append(c.features, telemetry.Feature{Name: name, Value: value})
	}
}

// Count implements host.Sink.
func (c *call) Count(name string, n uint64) {
	for i := range c.counts {
		if c.counts[i].Name == name {
			c.counts[i].N += n
			return
		}
	}
	if len(c.counts) < maxEmitted {
		c.counts = append(c.counts, telemetry.Count{Name: name, N: n})
	}
}

// CodeOf says how a request ended, by the error that Infer returned. An error of a runner may say it itself by a method
// Code() telemetry.Code.
func CodeOf(err error) telemetry.Code {
	if err == nil {
		return telemetry.OK
	}
	var coded interface{ Code() telemetry.Code }
	var input *inference.InputError
	var panicked *PanicError
	switch {
	case errors.As(err, &coded):
		return coded.Code()
	case errors.As(err, &input):
		return telemetry.InvalidInput
	case errors.Is(err, ErrOverloaded):
		return telemetry.Overloaded
	case errors.Is(err, context.DeadlineExceeded):
		return telemetry.Deadline
	case errors.Is(err, context.Canceled):
		return telemetry.Canceled
	case errors.As(err, &panicked):
		return telemetry.Internal
	}
	return telemetry.ModelError
}

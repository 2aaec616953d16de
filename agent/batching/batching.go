// Package batching answers many requests with one run of a model.
//
// A Batcher wraps the instances of a model and is an inference.Model itself. A request that finds an instance and a place free and
// nobody waiting runs at once on its caller's goroutine, on the caller's own memory: at one client nothing is added.
// Otherwise it waits in the queue, until an instance and a place to compute are free; then as many as fit together leave
// the queue as one batch. What they bring is laid one behind the other into a buffer, and each is given its own rows of
// the result, which are views of it and not copies: whoever keeps an output for long copies it.
//
// The queue is in order of priority and then of arrival. A batch is formed last, when all that it needs is there, of the
// first request and those behind it that have the same shapes apart from their rows and want the same outputs; the first
// of these that does not fit ends it, so that requests of a kind never overtake each other. Instances and places that are
// free at that moment share what waits, unless there are preferred sizes or a delay. With MaxDelay an instance
// that is free waits so long for a preferred size, or for MaxBatch rows. Without, it waits after a batch of several for
// as many as that one had, at most an eighth of the time that it took: the clients that were answered together come back
// one after the other, and the first of them would run alone while the others wait behind it.
//
// A request leaves when its context ends: out of the queue without being computed, out of a running batch while the
// batch goes on for the others. A batch whose requests have all left is stopped. When a batch of several fails, each is
// run by itself, so that one bad request fails alone. A model whose outputs cannot be parted by rows, or that fails
// several batches of which every request can be answered alone, is no longer given batches.
//
// Run blocks until its request is answered. Close refuses new requests, waits for those that it has, and closes the
// instances. Everything is safe for concurrent use; a goroutine exists only while a batch is formed and run.
package batching

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/agent/telemetry"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/models/triton"
)

// Places are what is needed to compute; serving.Places are such. A batch takes one, however many requests it has.
type Places interface {
	// TryAcquire takes a place that is free.
	TryAcquire() bool
	// Acquire waits for a place until ctx ends; priority 1 is the most urgent, 0 none.
	Acquire(ctx context.Context, priority uint64) error
	Release()
}

// DefaultQueue is how many requests wait at most where Options do not say.
const DefaultQueue = 1024

// Options of a Batcher.
type Options struct {
	// Places to compute on; nil means that there is always one.
	Places Places
	// MaxBatch is how many rows a batch has at most, and a request too. Less than 2 joins none: the instances are taken
	// in turn then.
	MaxBatch int
	// Preferred are sizes in rows at which a batch does not wait for more.
	Preferred []int
	// MaxDelay is how long an instance that is free waits for a preferred size.
	MaxDelay time.Duration
	// MaxQueue is how many requests wait at most; further ones are refused. 0 means DefaultQueue.
	MaxQueue int
	// PriorityLevels is the number of priorities, of which 1 is the most urgent. 0 has none.
	PriorityLevels uint64
	// DefaultPriority is that of requests that have none, or one that there is not.
	DefaultPriority uint64
	// Policy bounds the queue of each priority, save those that are in Policies. A request's own time limit is the
	// deadline of its context, which holds beside the policy's.
	Policy   triton.QueuePolicy
	Policies map[uint64]triton.QueuePolicy
	// Priority says which a request has; nil means that none has one.
	Priority func(context.Context) uint64
	// Logger is told when batches are given up; nil tells nobody.
	Logger *slog.Logger
}

// Configured returns the options that a model's configuration asks for, and whether it asks for batches at all. The
// parts of a process (Places, MaxQueue, Priority, Logger) are the caller's to fill in.
func Configured(c *triton.Config) (Options, bool) {
	if c == nil || c.DynamicBatching == nil || c.MaxBatchSize < 2 {
		return Options{}, false
	}
	d := c.DynamicBatching
	return Options{
		MaxBatch: c.MaxBatchSize, Preferred: d.Preferred, MaxDelay: d.MaxQueueDelay,
		PriorityLevels: d.PriorityLevels, DefaultPriority: d.DefaultPriorityLevel,
		Policy: d.QueuePolicy, Policies: d.PriorityPolicies,
	}, true
}

// Joinable returns why requests to the model cannot be joined by rows, or nil when its description allows it: every
// input and output begins with a dimension that varies.
func Joinable(m inference.Model) error {
	for _, s := range m.Inputs() {
		if len(s.Shape) == 0 || s.Shape[0] >= 0 {
			return fmt.Errorf("cannot join requests: the model's input %q has shape %v, whose first dimension is not free", s.Name, s.Shape)
		}
	}
	for _, s := range m.Outputs() {
		if len(s.Shape) > 0 && s.Shape[0] >= 0 { // one without a declared shape shows at the first batch
			return fmt.Errorf("cannot join requests: the model's output %q has shape %v, whose first dimension is not free", s.Name, s.Shape)
		}
	}
	if len(m.Inputs()) == 0 {
		return errors.New("cannot join requests: the model has no inputs")
	}
	return nil
}

// FullError refuses a request because too many wait already.
type FullError struct{ Limit int }

func (e *FullError) Error() string {
	return fmt.Sprintf("%d requests to the model are waiting already; try again later", e.Limit)
}

// Code classes the error for agent/serving.
func (e *FullError) Code() telemetry.Code { return telemetry.Overloaded }

// TimeoutError says that a request waited longer than its queue's policy allows.
type TimeoutError struct{ After time.Duration }

func (e *TimeoutError) Error() string {
	return fmt.Sprintf("the request waited in the model's queue for %v, which is its limit", e.After)
}

// Code classes the error for agent/serving.
func (e *TimeoutError) Code() telemetry.Code { return telemetry.Deadline }

// Batcher joins requests; it implements inference.Model.
type Batcher struct {
	first    inference.Model
	inputs   []tensor.Spec
	options  Options
	all      []*instance
	maxWhole int // the largest preferred size, or MaxBatch

	mu       sync.Mutex
	idle     []*instance
	queue    queue
	starting bool   // someone holds an instance and is about to form a batch
	off      string // why requests are no longer joined; "" when they are
	misfires int    // batches in a row that failed though each of their requests can be answered
	closed   bool
	drained  chan struct{} // closed when closed and all is answered
	timer    *time.Timer
	armed    bool
	free     []*item

	// Those that were answered together and have not come back, when the last of these batches ended, and how long they
	// are waited for.
	expected int
	ended    time.Time
	grace    time.Duration
}

// instance is one copy of the model that runs one batch at a time, and what it needs for that.
type instance struct {
	model  inference.Model
	inputs []tensor.Tensor
	shapes []int64
	slabs  []*slab
}

// New returns a Batcher over instances, of which there is at least one; the first describes them all. The same model may
// be given several times to run so often at once. The Batcher closes them.
func New(instances []inference.Model, o Options) *Batcher {
	b := &Batcher{first: instances[0], inputs: instances[0].Inputs(), drained: make(chan struct{})}
	if o.MaxQueue <= 0 {
		o.MaxQueue = DefaultQueue
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Priority == nil {
		o.Priority = func(context.Context) uint64 { return 0 }
	}
	b.options = o
	b.maxWhole = o.MaxBatch
	if len(o.Preferred) > 0 {
		b.maxWhole = 0
		for _, p := range o.Preferred {
			b.maxWhole = max(b.maxWhole, min(p, o.MaxBatch))
		}
	}
	if o.MaxBatch < 2 {
		b.off = "the largest batch has one row"
	} else if err := Joinable(b.first); err != nil {
		b.off = err.Error()
		o.Logger.Warn("requests to the model are run one by one", "reason", b.off)
	}
	for _, m := range instances {
		b.all = append(b.all, &instance{model: m, inputs: make([]tensor.Tensor, len(b.inputs))})
	}
	b.idle = append(b.idle, b.all...)
	b.queue.init(&b.options)
	b.timer = time.AfterFunc(time.Hour, b.wake)
	b.timer.Stop()
	return b
}

// Inputs implements inference.Model.
func (b *Batcher) Inputs() []tensor.Spec { return b.inputs }

// Outputs implements inference.Model.
func (b *Batcher) Outputs() []tensor.Spec { return b.first.Outputs() }

// Unserved implements inference.Model.
func (b *Batcher) Unserved() []string { return b.first.Unserved() }

// Provider implements inference.Model.
func (b *Batcher) Provider() string { return b.first.Provider() }

// Off is why requests are run one by one, or "" when they are joined.
func (b *Batcher) Off() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.off
}

// Waiting is the number of requests in the queue.
func (b *Batcher) Waiting() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.queue.n
}

// Run implements inference.Model. Beside the model's own errors it returns a *FullError or *TimeoutError for the queue.
// The request's statistics.Timing gets what it waited, its rows, and its share of the execution.
func (b *Batcher) Run(ctx context.Context, in []tensor.Tensor, wanted []string) ([]tensor.Tensor, error) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil, inference.ErrClosed
	}
	rows, err := b.rows(in)
	if err != nil {
		b.mu.Unlock()
		return nil, err
	}
	if b.queue.n == 0 && len(b.idle) > 0 && !b.expecting() && (b.options.Places == nil || b.options.Places.TryAcquire()) {
		inst := b.takeIdle()
		b.mu.Unlock()
		return b.alone(ctx, in, wanted, rows, inst)
	}
	it := b.newItem()
	off := b.off != ""
	b.mu.Unlock()
	if err := it.set(ctx, b, in, wanted, rows, off); err != nil {
		b.recycle(it)
		return nil, err
	}
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil, inference.ErrClosed
	}
	if err := b.queue.push(it); err != nil {
		b.mu.Unlock()
		b.recycle(it)
		return nil, err
	}
	b.dispatch(it.at)
	b.mu.Unlock()
	return b.wait(it)
}

// rows counts the rows of a request, which is refused when it has more than a batch may have. What does not fit the
// model otherwise, or has no rows, counts as one: the model will say what is wrong with it.
func (b *Batcher) rows(in []tensor.Tensor) (int, error) {
	if b.off != "" && b.options.MaxBatch < 2 || len(in) == 0 || len(in[0].Shape) == 0 || in[0].Shape[0] < 1 || len(b.inputs[0].Shape) == 0 || b.inputs[0].Shape[0] >= 0 {
		return 1, nil
	}
	n := in[0].Shape[0]
	if limit := int64(b.options.MaxBatch); limit > 1 && n > limit {
		return 0, inference.Inputf("the request has %d rows, the model takes at most %d", n, limit)
	}
	return int(n), nil
}

// alone runs a request on its caller's goroutine, which holds inst and a place.
func (b *Batcher) alone(ctx context.Context, in []tensor.Tensor, wanted []string, rows int, inst *instance) ([]tensor.Tensor, error) {
	defer b.done(inst)
	out, err := inst.model.Run(ctx, in, wanted)
	if timing := statistics.Of(ctx); timing != nil && err == nil {
		timing.Rows, timing.Executed = rows, rows
	}
	return out, err
}

// done gives back what alone held, to those who wait.
func (b *Batcher) done(inst *instance) {
	b.release()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.putIdle(inst)
}

func (b *Batcher) takeIdle() *instance {
	inst := b.idle[len(b.idle)-1]
	b.idle = b.idle[:len(b.idle)-1]
	return inst
}

// putIdle is called with mu held.
func (b *Batcher) putIdle(inst *instance) {
	b.idle = append(b.idle, inst)
	if b.queue.n > 0 {
		b.dispatch(time.Now())
	}
	b.checkDrained()
}

// checkDrained is called with mu held.
func (b *Batcher) checkDrained() {
	if b.closed && b.queue.n == 0 && len(b.idle) == len(b.all) {
		select {
		case <-b.drained:
		default:
			close(b.drained)
		}
	}
}

// Close implements inference.Model.
func (b *Batcher) Close() error {
	b.mu.Lock()
	b.closed = true
	b.dispatch(time.Now()) // nobody else will come to fill a batch
	b.checkDrained()
	b.mu.Unlock()
	<-b.drained
	b.mu.Lock()
	b.timer.Stop()
	b.mu.Unlock()
	var errs []error
	for _, inst := range b.all {
		errs = append(errs, inst.model.Close())
	}
	return errors.Join(errs...)
}

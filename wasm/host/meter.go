package host

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/tetratelabs/wazero/api"
)

// How long a guest runs between two looks at the clock. Machine code cannot be interrupted, so this is also how long
// the collector waits for it. The quantum follows: fuel is charged by instruction, and an instruction that misses the
// caches takes a hundred times as long as one that does not.
const (
	shortestRun  = 20 * time.Microsecond
	longestRun   = 50 * time.Microsecond
	firstQuantum = 10_000
	leastQuantum = 256
)

// epoch is what times are measured from: reading the monotonic clock alone takes half as long as time.Now.
var epoch = time.Now()

func now() time.Duration { return time.Since(epoch) }

// call is the meter of what runs in an instance, and the context that wazero hands to host functions: there is one for
// each instance, used again for every call, so that a call allocates nothing. It carries the request's deadline and
// end, and none of its values.
type call struct {
	in      *instance
	request context.Context

	fuel, stack api.MutableGlobal // nil while the instance starts
	budget      int64             // of fuel for this call
	granted     int64             // what fuel was set to last
	spent       int64             // before that
	refills     int64
	quantum     int64

	began, looked time.Duration // when the call began, when the meter last looked at the clock
	deadline      time.Duration
	timeout       time.Duration
	over          error // why the meter ended the call
}

// begin meters a new call.
func (c *call) begin(ctx context.Context, timeout time.Duration, budget int64) {
	t := now()
	c.request, c.timeout, c.over = ctx, timeout, nil
	c.began, c.looked = t, t
	c.deadline = t + min(timeout, math.MaxInt64-t)
	if d, ok := ctx.Deadline(); ok {
		c.deadline = min(c.deadline, d.Sub(epoch)) // its timer may be late when guests keep the cores busy
	}
	c.spent, c.refills, c.budget, c.granted = 0, 0, budget, 0
	if c.fuel != nil {
		c.granted = min(c.quantum, budget)
		c.fuel.Set(uint64(c.granted))
		c.stack.Set(uint64(c.in.module.limits.Stack))
	}
}

// extend gives the guest time that others took. The request's own deadline stays: guests look at it through Err.
func (c *call) extend(by time.Duration) {
	c.began, c.looked = c.began+by, c.looked+by
	if c.deadline < math.MaxInt64-by {
		c.deadline += by
	}
}

// used is the fuel that the call took up to now.
func (c *call) used() int64 {
	if c.fuel == nil {
		return c.spent
	}
	return c.spent + c.granted - int64(c.fuel.Get())
}

// end lets go of the request.
func (c *call) end() { c.request = context.Background() }

// refill is called by a guest whose fuel or stack is below zero. It returns the new fuel, or ends the call by a panic,
// which wazero hands to whoever called the guest.
func (c *call) refill(fuel, stack int64) int64 {
	c.spent, c.granted = c.spent+c.granted-fuel, fuel
	c.refills++
	c.check(stack)
	c.granted = min(c.quantum, c.budget-c.spent)
	return c.granted
}

// check ends the call by a panic if one of its bounds is reached.
func (c *call) check(stack int64) {
	t := now()
	c.adapt(t - c.looked)
	c.looked = t
	switch {
	case stack < 0:
		c.over = fmt.Errorf("%w of %s bytes: it recurses too deeply; if it must, raise stack in bundle.yaml", ErrStack, decimal(c.in.module.limits.Stack))
	case c.spent > c.budget:
		c.over = fmt.Errorf("%w: %s used; raise fuel in bundle.yaml or let it do less for a request", ErrFuel, decimal(c.spent))
	case c.request.Err() != nil:
		c.over = c.request.Err()
	case t >= c.deadline:
		c.over = c.late(t)
	}
	if c.over != nil {
		panic(c.over)
	}
}

// late says whose time is up: the request's, or the module's.
func (c *call) late(t time.Duration) error {
	if t-c.began < c.timeout {
		return context.DeadlineExceeded
	}
	return fmt.Errorf("%w of %s; raise timeout in bundle.yaml or let it do less for a request", ErrDeadline, c.timeout)
}

// adapt sets the quantum by how long the last one took.
func (c *call) adapt(took time.Duration) {
	switch {
	case took > longestRun:
		// At most to an eighth at once: the time may have gone to other processes.
		c.quantum = max(leastQuantum, c.quantum/8, int64(float64(c.quantum)*float64(shortestRun)/float64(took)))
	case took < shortestRun:
		c.quantum = min(2*c.quantum, c.in.module.limits.Quantum)
	}
}

// Charge takes fuel for work that the host does for the guest, and may end the call by a panic.
func (c *call) Charge(fuel int64) {
	fuel = min(max(fuel, 0), math.MaxInt32)
	if c.fuel == nil { // the guest's start function runs, and its globals cannot be reached yet
		c.spent += fuel
		c.check(0)
		return
	}
	left := int64(c.fuel.Get()) - fuel
	c.fuel.Set(uint64(left))
	if left < 0 {
		c.fuel.Set(uint64(c.refill(left, 0)))
	}
}

// Deadline implements context.Context, as do Done and Err: they are the request's.
func (c *call) Deadline() (time.Time, bool) { return c.request.Deadline() }

// Done implements context.Context.
func (c *call) Done() <-chan struct{} { return c.request.Done() }

// Err implements context.Context.
func (c *call) Err() error { return c.request.Err() }

// Value implements context.Context. It knows the instance and nothing of the request.
func (c *call) Value(key any) any {
	if _, ok := key.(instanceKey); ok {
		return c
	}
	return nil
}

// instanceKey finds the call in the context that wazero hands to host functions.
type instanceKey struct{}

func callOf(ctx context.Context) *call {
	if c, ok := ctx.(*call); ok {
		return c
	}
	return ctx.Value(instanceKey{}).(*call) // while an instance starts
}

func refill(ctx context.Context, stack []uint64) {
	stack[0] = uint64(callOf(ctx).refill(int64(stack[0]), int64(stack[1])))
}

// decimal writes n with a comma every three digits.
func decimal(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

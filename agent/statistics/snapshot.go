package statistics

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/dhowfleet/dhow/agent/telemetry"
)

// Snapshot is what the counters of one version said at one time. It belongs to the caller.
type Snapshot struct {
	Name, Version string

	// LastInference is when a request was last answered by computing, to the millisecond; zero when none was.
	LastInference time.Time
	// InferenceCount is the number of rows of the requests that were answered by computing, ExecutionCount how often
	// the model ran for them. Their quotient is the average batch.
	InferenceCount, ExecutionCount uint64

	// Success and Fail count every request and how long it took in all. Queue is of the successful ones; ComputeInput,
	// ComputeInfer and ComputeOutput of those among them that the response cache did not answer; CacheHit and CacheMiss
	// are the time spent in that cache.
	Success, Fail, Queue, ComputeInput, ComputeInfer, ComputeOutput, CacheHit, CacheMiss Duration

	Batches  []Batch   // by size
	Failures []Failure // one for each reason, in the order of Reasons
	// Errors are the failures that are not the sender's doing (an invalid request, or one that was given up).
	Errors  uint64
	Pending int64 // requests that came and have not ended

	// Latency is of successful requests, Waiting is the time in queues of all. An answer is one message, so that the
	// time to the first response is Latency too.
	Latency, Waiting Histogram

	// Recent is about the last one or two minutes, Minutes the last hour, oldest first; the last one is under way.
	Recent  Recent
	Minutes []Minute
}

// Duration counts events and adds up how long they took.
type Duration struct{ Count, Nanos uint64 }

func (d *Duration) add(t time.Duration) {
	d.Count++
	d.Nanos += uint64(max(t, 0))
}

func (d *Duration) merge(o Duration) {
	d.Count += o.Count
	d.Nanos += o.Nanos
}

// Mean is the average; 0 when there is nothing.
func (d Duration) Mean() time.Duration {
	if d.Count == 0 {
		return 0
	}
	return time.Duration(d.Nanos / d.Count)
}

// Batch is what executions of one size took. Only so many sizes are told apart; those of all others are under size 0.
type Batch struct {
	Size                                      int
	ComputeInput, ComputeInfer, ComputeOutput Duration
}

// Failure counts the failures for one reason.
type Failure struct {
	Reason string
	Count  uint64
}

// Reasons are why requests fail, by the names that Triton's metrics have for them.
var Reasons = [...]string{"REJECTED", "CANCELED", "BACKEND", "OTHER"}

// reason classes a code that is not OK, as an index of Reasons: a full queue and a time limit are limits of the
// scheduling, as in Triton.
func reason(c telemetry.Code) int {
	switch c {
	case telemetry.Overloaded, telemetry.Deadline:
		return 0
	case telemetry.Canceled:
		return 1
	case telemetry.ModelError, telemetry.WasmError:
		return 2
	}
	return 3
}

// isError reports whether a request that ended so speaks against the model copy.
func isError(c telemetry.Code) bool {
	return c != telemetry.OK && c != telemetry.InvalidInput && c != telemetry.Canceled
}

// Snapshot returns the counters of every version, by name and version.
func (r *Registry) Snapshot() []Snapshot {
	r.mu.Lock()
	models := make([]*Model, 0, len(r.models))
	for _, m := range r.models {
		models = append(models, m)
	}
	r.mu.Unlock()
	slices.SortFunc(models, func(a, b *Model) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), compareVersions(a.Version, b.Version))
	})
	out := make([]Snapshot, len(models))
	for i, m := range models {
		out[i] = m.Snapshot()
	}
	return out
}

// compareVersions orders 2 before 10, and otherwise as text.
func compareVersions(a, b string) int {
	if number(a) && number(b) {
		a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
		return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
	}
	return strings.Compare(a, b)
}

func number(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// Snapshot returns the version's counters.
func (m *Model) Snapshot() Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	clock := time.Now()
	now, wall := clock.Sub(m.epoch), clock.Round(0)
	var c counts
	m.sum(&c)
	m.roll(&c, minuteOf(now))
	s := Snapshot{
		Name: m.Name, Version: m.Version,
		InferenceCount: c.rows, ExecutionCount: c.executions,
		Success: c.success, Fail: c.fail, Queue: c.queue,
		ComputeInput: c.input, ComputeInfer: c.infer, ComputeOutput: c.output, CacheHit: c.hit, CacheMiss: c.miss,
		Errors: c.errors, Pending: max(m.pending.Load(), 0),
		Latency: c.latency, Waiting: c.waiting,
	}
	if c.last > 0 {
		// Counted back from now: a clock that was set after the request would put it elsewhere.
		s.LastInference = wall.Add(c.last - now).Truncate(time.Millisecond)
	}
	for i, name := range Reasons {
		s.Failures = append(s.Failures, Failure{Reason: name, Count: c.failures[i]})
	}
	for i, b := range c.batch {
		if b.ComputeInfer.Count == 0 {
			continue
		}
		if i < maxSizes {
			b.Size = int(m.sizes[i].Load())
		}
		s.Batches = append(s.Batches, b)
	}
	slices.SortFunc(s.Batches, func(a, b Batch) int { return cmp.Compare(a.Size, b.Size) })
	s.Minutes, s.Recent = m.recent(&c, now, wall)
	return s
}

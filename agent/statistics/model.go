package statistics

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dhowfleet/dhow/agent/telemetry"
)

// Registry has the counters of every model version.
type Registry struct {
	epoch  time.Time // what times are counted from; monotonic, so that no setting of the clock moves a minute
	shards int
	mu     sync.Mutex
	models map[key]*Model
}

type key struct{ name, version string }

// maxShards bounds what a version takes in memory on a machine of many cores: a shard has 5 KiB.
const maxShards = 8

// New returns an empty registry.
func New() *Registry {
	shards := 1
	for shards < min(runtime.GOMAXPROCS(0), maxShards) {
		shards *= 2
	}
	// An epoch in the past keeps the time of a request that ended at once above zero, which stands for none.
	return &Registry{epoch: time.Now().Add(-time.Nanosecond), shards: shards, models: map[key]*Model{}}
}

// Model returns the counters of a version; they begin at zero and are the same for every caller until Forget.
func (r *Registry) Model(name, version string) *Model {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := key{name, version}
	m := r.models[k]
	if m == nil {
		m = &Model{Name: name, Version: version, epoch: r.epoch, born: time.Since(r.epoch), shards: make([]shard, r.shards)}
		m.minute.Store(minuteOf(m.born))
		r.models[k] = m
	}
	return m
}

// Forget drops the counters of a version that is no longer served.
func (r *Registry) Forget(name, version string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.models, key{name, version})
}

// Model has the counters of one version.
//
// Requests add to one of a few shards, each with a lock of its own, and pass by a shard that is taken: adding to twenty
// plain numbers under a lock that is free costs less than one atomic addition for each of them.
type Model struct {
	Name, Version string

	epoch   time.Time
	born    time.Duration // after epoch
	shards  []shard
	_       [64]byte // what follows changes with each request, what is above never
	pending atomic.Int64
	_       [56]byte

	minute atomic.Int64 // that is under way; changed with mu held
	// sizes are the batch sizes that are told apart, in the order in which they came; 0 where none has come yet.
	sizes [maxSizes]atomic.Int64

	mu   sync.Mutex // of the snapshots and the minutes, never waited for by a request
	past history
}

// maxSizes is how many batch sizes are told apart.
const maxSizes = 32

type shard struct {
	mu sync.Mutex
	counts
	_ [64]byte // the next one is on another cache line
}

// counts is what is added up.
type counts struct {
	success, fail, queue, input, infer, output, hit, miss Duration

	rows, executions, errors uint64
	failures                 [len(Reasons)]uint64
	last                     time.Duration // of the last computed answer, after epoch; 0: none
	latency, waiting         Histogram
	batch                    [maxSizes + 1]Batch // as Model.sizes numbers them, the last for all others
}

// Begin counts a request that came.
func (m *Model) Begin() { m.pending.Add(1) }

// none is the timing of a request that has none.
var none Timing

// End counts how a request ended, total after it came. The timing is the caller's again when End returns.
func (m *Model) End(code telemetry.Code, total time.Duration, t *Timing) {
	m.pending.Add(-1)
	now := time.Since(m.epoch)
	// One request turns the page when a minute is over; those that meet it at that go on.
	if minute := minuteOf(now); minute != m.minute.Load() && m.mu.TryLock() {
		var c counts
		m.sum(&c)
		m.roll(&c, minute)
		m.mu.Unlock()
	}
	if t == nil {
		t = &none
	}
	total = max(total, 0)
	s := m.take()
	s.waiting.add(max(t.Queue, 0))
	if code == telemetry.OK {
		s.success.add(total)
		s.latency.add(total)
		s.queue.add(t.Queue)
		if !t.Hit {
			s.rows += uint64(max(t.Rows, 1))
			s.input.add(t.Input)
			s.infer.add(t.Infer)
			s.output.add(t.Output)
			s.last = max(s.last, now)
		}
	} else {
		s.fail.add(total)
		s.failures[reason(code)]++
		if isError(code) {
			s.errors++
		}
	}
	if t.Hit {
		s.hit.add(t.Lookup)
	}
	if t.Missed {
		s.miss.add(t.Lookup)
	}
	if t.Executed > 0 {
		s.executions++
		b := &s.batch[m.size(int64(t.Executed))]
		b.ComputeInput.add(t.Input)
		b.ComputeInfer.add(t.Infer)
		b.ComputeOutput.add(t.Output)
	}
	s.mu.Unlock()
}

// take locks a shard that nobody has, or waits for one when all are taken.
func (m *Model) take() *shard {
	n := uint32(len(m.shards))
	i := rand.Uint32() & (n - 1)
	for j := range n {
		if s := &m.shards[(i+j)&(n-1)]; s.mu.TryLock() {
			return s
		}
	}
	s := &m.shards[i]
	s.mu.Lock()
	return s
}

// size returns the index of a batch size.
func (m *Model) size(n int64) int {
	for i := range m.sizes {
		have := m.sizes[i].Load()
		if have == 0 {
			if m.sizes[i].CompareAndSwap(0, n) {
				return i
			}
			have = m.sizes[i].Load()
		}
		if have == n {
			return i
		}
	}
	return maxSizes
}

// sum adds up the shards.
func (m *Model) sum(c *counts) {
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		c.merge(&s.counts)
		s.mu.Unlock()
	}
}

func (c *counts) merge(o *counts) {
	c.success.merge(o.success)
	c.fail.merge(o.fail)
	c.queue.merge(o.queue)
	c.input.merge(o.input)
	c.infer.merge(o.infer)
	c.output.merge(o.output)
	c.hit.merge(o.hit)
	c.miss.merge(o.miss)
	c.rows += o.rows
	c.executions += o.executions
	c.errors += o.errors
	for i, n := range &o.failures {
		c.failures[i] += n
	}
	c.last = max(c.last, o.last)
	c.latency.merge(&o.latency)
	c.waiting.merge(&o.waiting)
	for i := range o.batch {
		c.batch[i].ComputeInput.merge(o.batch[i].ComputeInput)
		c.batch[i].ComputeInfer.merge(o.batch[i].ComputeInfer)
		c.batch[i].ComputeOutput.merge(o.batch[i].ComputeOutput)
	}
}

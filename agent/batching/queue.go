package batching

import (
	"context"
	"hash/maphash"
	"slices"
	"time"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/models/triton"
)

// maxLevels bounds the priorities that are kept apart; less urgent ones share the last.
const maxLevels = 256

// state says where a request is.
type state uint8

const (
	queued  state = iota
	running       // in a batch
	ended         // its answer or its turn has been sent to ready
	left          // its caller has gone while the batch runs
)

// item is a request that waits, or is in a batch. The Batcher's mu guards what is not set once.
type item struct {
	ctx      context.Context
	in       []tensor.Tensor
	wanted   []string
	order    []int // in[order[i]] is the model's input i
	rows     int
	kind     uint64 // hash of what must be equal for requests to be joined
	alone    bool   // joins none
	priority uint64
	level    int
	at       time.Time // when it came

	next, prev *item
	list       *list
	state      state
	batch      *batch
	retry      *retry

	// What ready brings: a turn to run by itself on an instance and a place, or an answer.
	ready    chan struct{}
	turn     *instance
	out      []tensor.Tensor
	err      error
	waited   time.Duration
	executed int
}

const maxFree = 256

// newItem is called with mu held.
func (b *Batcher) newItem() *item {
	if n := len(b.free); n > 0 {
		it := b.free[n-1]
		b.free = b.free[:n-1]
		return it
	}
	return &item{ready: make(chan struct{}, 1)}
}

// recycle takes an item that nobody else has.
func (b *Batcher) recycle(it *item) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.free) < maxFree {
		*it = item{ready: it.ready, order: it.order[:0]}
		b.free = append(b.free, it)
	}
}

var seed = maphash.MakeSeed()

// set fills in a request, and refuses one that does not fit the model before it can spoil a batch.
func (it *item) set(ctx context.Context, b *Batcher, in []tensor.Tensor, wanted []string, rows int, alone bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	it.ctx, it.in, it.wanted, it.rows, it.alone = ctx, in, wanted, rows, alone
	it.priority = b.options.Priority(ctx)
	it.level = b.queue.level(it.priority)
	it.at = time.Now()
	if alone {
		return nil
	}
	var err error
	if it.order, err = inference.Check(b.inputs, in, it.order); err != nil {
		return err
	}
	var h maphash.Hash
	h.SetSeed(seed)
	for _, name := range wanted {
		_, _ = h.WriteString(name)
		_ = h.WriteByte(0)
	}
	for _, j := range it.order {
		shape := in[j].Shape
		it.alone = it.alone || shape[0] != int64(rows)
		for _, d := range shape[1:] {
			maphash.WriteComparable(&h, d)
		}
		_ = h.WriteByte(0)
	}
	it.kind = h.Sum64()
	return nil
}

// joins reports whether two requests may be run as one.
func (it *item) joins(other *item) bool {
	if it.alone || other.alone || it.kind != other.kind || !slices.Equal(it.wanted, other.wanted) {
		return false
	}
	for i := range it.order {
		if !slices.Equal(it.in[it.order[i]].Shape[1:], other.in[other.order[i]].Shape[1:]) {
			return false
		}
	}
	return true
}

// list is a queue of items, first come first.
type list struct {
	first, last *item
	n           int
}

func (l *list) pushBack(it *item) {
	it.list, it.prev, it.next = l, l.last, nil
	if l.last == nil {
		l.first = it
	} else {
		l.last.next = it
	}
	l.last = it
	l.n++
}

func (l *list) pushFront(it *item) {
	it.list, it.prev, it.next = l, nil, l.first
	if l.first == nil {
		l.last = it
	} else {
		l.first.prev = it
	}
	l.first = it
	l.n++
}

func (l *list) remove(it *item) {
	if it.prev == nil {
		l.first = it.next
	} else {
		it.prev.next = it.next
	}
	if it.next == nil {
		l.last = it.prev
	} else {
		it.next.prev = it.prev
	}
	it.list, it.prev, it.next = nil, nil, nil
	l.n--
}

// level is the queue of one priority: those that are in time, and behind them those whose time in the queue is over but
// that are run all the same.
type level struct {
	policy  triton.QueuePolicy
	waiting list
	late    list
}

// queue is what waits, by priority.
type queue struct {
	options *Options
	levels  []level
	n       int
}

func (q *queue) init(o *Options) {
	q.options = o
	q.levels = make([]level, max(1, min(o.PriorityLevels, maxLevels)))
	for i := range q.levels {
		policy, ok := o.Policies[uint64(i)+1]
		if !ok || o.PriorityLevels == 0 {
			policy = o.Policy
		}
		q.levels[i].policy = policy
	}
}

func (q *queue) level(priority uint64) int {
	if q.options.PriorityLevels == 0 {
		return 0
	}
	if priority == 0 || priority > q.options.PriorityLevels {
		priority = max(1, min(q.options.DefaultPriority, q.options.PriorityLevels))
	}
	return int(min(priority, maxLevels)) - 1
}

// push puts a request behind the others of its priority, unless there are too many.
func (q *queue) push(it *item) error {
	l := &q.levels[it.level]
	if q.n >= q.options.MaxQueue {
		return &FullError{Limit: q.options.MaxQueue}
	}
	if limit := l.policy.MaxQueueSize; limit > 0 && l.waiting.n+l.late.n >= limit {
		return &FullError{Limit: limit}
	}
	it.state = queued
	l.waiting.pushBack(it)
	q.n++
	return nil
}

// pushFront puts a request before the others of its priority; it has been let in before.
func (q *queue) pushFront(it *item) {
	it.state = queued
	q.levels[it.level].waiting.pushFront(it)
	q.n++
}

func (q *queue) remove(it *item) {
	it.list.remove(it)
	q.n--
}

// head is the request whose turn it is.
func (q *queue) head() *item {
	for i := range q.levels {
		if l := &q.levels[i]; l.waiting.first != nil {
			return l.waiting.first
		} else if l.late.first != nil {
			return l.late.first
		}
	}
	return nil
}

// each goes through all in the order of their turns, until yield returns false.
func (q *queue) each(yield func(*item) bool) {
	for i := range q.levels {
		for _, l := range []*list{&q.levels[i].waiting, &q.levels[i].late} {
			for it := l.first; it != nil; it = it.next {
				if !yield(it) {
					return
				}
			}
		}
	}
}

// expire ends the time in the queue of those that waited as long as their policy allows: they are rejected, or go
// behind the others. What is run again after a batch failed has had its turn in time and stays.
func (q *queue) expire(now time.Time, reject func(*item, error)) {
	for i := range q.levels {
		l := &q.levels[i]
		if l.policy.DefaultTimeout <= 0 {
			continue
		}
		for it := l.waiting.first; it != nil; {
			next := it.next
			if it.retry == nil {
				if now.Sub(it.at) < l.policy.DefaultTimeout {
					break
				}
				if l.policy.Delay {
					l.waiting.remove(it)
					l.late.pushBack(it)
				} else {
					q.remove(it)
					reject(it, &TimeoutError{After: l.policy.DefaultTimeout})
				}
			}
			it = next
		}
	}
}

// nextReject is when the next request will be rejected, if it is not run before; zero when none will.
func (q *queue) nextReject() (next time.Time) {
	for i := range q.levels {
		l := &q.levels[i]
		if l.policy.DefaultTimeout <= 0 || l.policy.Delay {
			continue
		}
		it := l.waiting.first
		for it != nil && it.retry != nil {
			it = it.next
		}
		if it == nil {
			continue
		}
		if at := it.at.Add(l.policy.DefaultTimeout); next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return next
}

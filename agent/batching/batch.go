package batching

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/models/tensor"
)

const (
	// graceShare is the part of the last run's time that is waited for its clients to come back, at most maxGrace.
	graceShare = 8
	maxGrace   = 5 * time.Millisecond
	// maxMisfires is how many batches in a row may fail though each of their requests can be answered alone.
	maxMisfires = 3
)

// batch is what runs as one.
type batch struct {
	items   []*item
	rows    int
	started time.Time
	copied  chan struct{} // closed when the requests' own memory is no longer read
	gone    int           // members that left
	stop    context.CancelFunc
	timing  statistics.Timing // of all, written by who runs it before the members are told
}

// batchContext ends when all members have left. What the model notes of its time is the batch's.
type batchContext struct {
	context.Context
	timing *statistics.Timing
}

func (c batchContext) Value(key any) any {
	if key == statistics.Key {
		return c.timing
	}
	return c.Context.Value(key)
}

// retry is a batch that failed, while its members are run one by one.
type retry struct {
	left   int
	failed bool
}

// expecting reports whether a request that finds an instance should wait for others: those that were answered together
// a moment ago come back one after the other. It is called with mu held.
func (b *Batcher) expecting() bool {
	return b.off == "" && b.expected > 1 && !b.closed && time.Since(b.ended) < b.window()
}

// window is how long an instance that is free waits for more requests.
func (b *Batcher) window() time.Duration {
	if b.options.MaxDelay > 0 {
		return b.options.MaxDelay
	}
	return b.grace
}

// pick returns those whose turn it is as one batch. When they should wait for more, it returns none and until when,
// unless they must not wait. It is called with mu held.
func (b *Batcher) pick(now time.Time, must bool) (items []*item, due time.Time) {
	head := b.queue.head()
	if head == nil {
		return nil, time.Time{}
	}
	if head.alone || b.off != "" {
		return []*item{head}, time.Time{}
	}
	rows, best, whole, oldest := 0, 0, must || b.closed, head.at
	b.queue.each(func(it *item) bool {
		if it != head && !head.joins(it) {
			whole = true // what is of another kind shall not wait for these to be many
			return true
		}
		if rows+it.rows > b.options.MaxBatch {
			whole = true
			return false
		}
		items, rows = append(items, it), rows+it.rows
		if it.at.Before(oldest) {
			oldest = it.at
		}
		if slices.Contains(b.options.Preferred, rows) {
			best = len(items)
		}
		return rows < b.options.MaxBatch
	})
	switch {
	case best > 0:
		return items[:best], time.Time{}
	case whole || rows >= b.maxWhole:
		return items, time.Time{}
	case b.options.MaxDelay > 0:
		due = oldest.Add(b.options.MaxDelay)
	case len(items) < b.expected:
		due = b.ended.Add(b.grace)
	}
	if !now.Before(due) {
		return items, time.Time{}
	}
	return nil, due
}

// dispatch lets an instance that is free form a batch when one is due, and sees that it is called again when time alone
// makes one due. It is called with mu held, whenever something came, ended, or its time came.
func (b *Batcher) dispatch(now time.Time) {
	b.queue.expire(now, func(it *item, err error) {
		it.err = err
		b.answer(it)
	})
	next := b.queue.nextReject()
	if b.queue.n > 0 && len(b.idle) > 0 && !b.starting {
		items, due := b.pick(now, false)
		if items != nil {
			b.starting = true
			go b.work(b.takeIdle())
		} else if next.IsZero() || due.Before(next) {
			next = due
		}
	}
	if !next.IsZero() {
		b.armed = true
		b.timer.Reset(next.Sub(now))
	} else if b.armed {
		b.armed = false
		b.timer.Stop()
	}
}

// wake is the timer's.
func (b *Batcher) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dispatch(time.Now())
	b.checkDrained()
}

// answer tells an item that it ended. It is called with mu held, once for each time that the item is queued.
func (b *Batcher) answer(it *item) {
	it.state = ended
	it.ready <- struct{}{} // has room for it
}

// work waits for a place, forms one batch of those that are there then, and runs it on inst.
func (b *Batcher) work(inst *instance) {
	if b.options.Places != nil {
		b.mu.Lock()
		priority := uint64(0)
		if head := b.queue.head(); head != nil {
			priority = head.priority
		}
		b.mu.Unlock()
		// It waits for other models' runs and for nothing else: they end.
		if err := b.options.Places.Acquire(context.Background(), priority); err != nil {
			b.refuse(inst, err)
			return
		}
	}
	b.form(inst, false)
}

// share is how many of those that are picked one instance takes, when others are free: on two cores, two batches of half
// the size are answered sooner than one. Sizes that were asked for, and waited for, are kept.
func (b *Batcher) share(items []*item) int {
	n := len(items)
	if n < 2 || len(b.options.Preferred) > 0 || b.options.MaxDelay > 0 || len(b.idle) == 0 || b.options.Places != nil && !b.options.Places.TryAcquire() {
		return n
	}
	n = (n + len(b.idle)) / (1 + len(b.idle))
	b.starting = true
	go b.form(b.takeIdle(), true)
	return n
}

// form takes the next batch out of the queue and runs it on inst and a place.
func (b *Batcher) form(inst *instance, must bool) {
	b.mu.Lock()
	now := time.Now()
	b.starting = false
	items, _ := b.pick(now, must)
	if items == nil { // those that waited have left or were run by another
		b.release()
		b.putIdle(inst)
		b.mu.Unlock()
		return
	}
	items = items[:b.share(items)]
	for _, it := range items {
		b.queue.remove(it)
		it.waited = now.Sub(it.at)
	}
	b.expected = max(0, b.expected-len(items))
	if len(items) == 1 {
		items[0].turn = inst
		b.answer(items[0])
		b.dispatch(now)
		b.mu.Unlock()
		return
	}
	bt := &batch{items: items, started: now, copied: make(chan struct{})}
	for _, it := range items {
		bt.rows += it.rows
		it.state, it.batch = running, bt
	}
	ctx, stop := context.WithCancel(context.Background())
	bt.stop = stop
	b.dispatch(now) // for what is left
	b.mu.Unlock()
	defer stop()
	b.run(batchContext{ctx, &bt.timing}, bt, inst)
}

func (b *Batcher) release() {
	if b.options.Places != nil {
		b.options.Places.Release()
	}
}

// refuse ends all that wait, since there will be no place.
func (b *Batcher) refuse(inst *instance, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.starting = false
	for it := b.queue.head(); it != nil; it = b.queue.head() {
		b.queue.remove(it)
		it.err = err
		b.answer(it)
	}
	b.putIdle(inst)
}

// run runs a batch and tells its members.
func (b *Batcher) run(ctx context.Context, bt *batch, inst *instance) {
	in := inst.join(bt.items)
	close(bt.copied)
	joined := time.Now()
	bt.timing.Input += joined.Sub(bt.started)
	out, err := execute(ctx, inst, in, bt.items[0].wanted)
	computed := time.Now()
	inst.drop()
	b.release()
	var parted bool
	var answers [][]tensor.Tensor
	if err == nil {
		answers, err = part(out, bt.items, bt.rows)
		parted = err == nil
		bt.timing.Output += time.Since(computed)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if now.Sub(b.ended) >= b.window() {
		b.expected = 0 // who has not come back by now does not
	}
	b.expected += len(bt.items)
	b.ended, b.grace = now, min(computed.Sub(joined)/graceShare, maxGrace)
	switch {
	case parted:
		b.misfires = 0
		b.deliver(bt, answers)
	case out != nil:
		b.giveUp(err.Error())
		b.again(bt)
	default:
		b.again(bt)
	}
	b.putIdle(inst)
}

// execute runs the model, whose panic is an error here: it shall meet the request that causes it, when that is run by
// itself on its own goroutine.
func execute(ctx context.Context, inst *instance, in []tensor.Tensor, wanted []string) (out []tensor.Tensor, err error) {
	defer func() {
		if p := recover(); p != nil {
			out, err = nil, fmt.Errorf("the model panicked: %v\n%s", p, debug.Stack())
		}
	}()
	return inst.model.Run(ctx, in, wanted)
}

// deliver gives each member that is still there its answer. The first of them stands for the execution.
func (b *Batcher) deliver(bt *batch, answers [][]tensor.Tensor) {
	executed := bt.rows
	for i, it := range bt.items {
		if it.state == left {
			continue
		}
		it.out, it.executed = answers[i], executed
		executed = 0
		b.answer(it)
	}
}

// again has each member that is still there run by itself, before all others.
func (b *Batcher) again(bt *batch) {
	r := &retry{}
	for _, it := range slices.Backward(bt.items) {
		if it.state == left {
			r.failed = true // it is not known what would have become of it
			continue
		}
		r.left++
		it.alone, it.retry, it.batch = true, r, nil
		b.queue.pushFront(it)
	}
}

// retried counts one of those that are run again after their batch failed. It is called with mu held.
func (b *Batcher) retried(r *retry, failed bool) {
	r.left--
	r.failed = r.failed || failed
	if r.left > 0 || b.off != "" {
		return
	}
	if r.failed {
		b.misfires = 0
		return
	}
	if b.misfires++; b.misfires >= maxMisfires {
		b.giveUp("its batches fail, while each of their requests can be answered alone")
	}
}

// giveUp ends the joining of requests for good. It is called with mu held.
func (b *Batcher) giveUp(why string) {
	if b.off == "" {
		b.off = why
		b.options.Logger.Warn("requests to the model are run one by one from now on; take dynamic batching out of its configuration, or give the model a batch dimension", "reason", why)
	}
}

// wait returns the answer of a request that was queued.
func (b *Batcher) wait(it *item) ([]tensor.Tensor, error) {
	ctx := it.ctx
	select {
	case <-it.ready:
		return b.end(it)
	case <-ctx.Done():
	}
	for {
		b.mu.Lock()
		switch it.state {
		case queued:
			b.queue.remove(it)
			if it.retry != nil {
				b.retried(it.retry, true)
			}
			b.checkDrained()
			waited := time.Since(it.at)
			b.mu.Unlock()
			b.recycle(it)
			noteQueue(ctx, waited)
			return nil, ctx.Err()
		case running:
			bt := it.batch
			select {
			case <-bt.copied:
			default: // the caller's memory is being read
				b.mu.Unlock()
				<-bt.copied
				continue
			}
			it.state = left
			if bt.gone++; bt.gone == len(bt.items) {
				bt.stop()
			}
			b.mu.Unlock()
			noteQueue(ctx, it.waited)
			return nil, ctx.Err()
		}
		b.mu.Unlock()
		<-it.ready
		return b.end(it)
	}
}

func noteQueue(ctx context.Context, waited time.Duration) {
	if timing := statistics.Of(ctx); timing != nil {
		timing.Queue += waited
	}
}

// end takes what ready brought, and runs the request where that is its turn.
func (b *Batcher) end(it *item) ([]tensor.Tensor, error) {
	defer b.recycle(it)
	timing := statistics.Of(it.ctx)
	if it.err != nil {
		noteQueue(it.ctx, time.Since(it.at))
		return nil, it.err
	}
	noteQueue(it.ctx, it.waited)
	if it.turn != nil {
		out, err := b.alone(it.ctx, it.in, it.wanted, it.rows, it.turn)
		if it.retry != nil {
			b.mu.Lock()
			b.retried(it.retry, err != nil)
			b.mu.Unlock()
		}
		return out, err
	}
	if timing != nil {
		all := &it.batch.timing
		timing.Input, timing.Infer, timing.Output = timing.Input+all.Input, timing.Infer+all.Infer, timing.Output+all.Output
		timing.Rows, timing.Executed = it.rows, it.executed
	}
	return it.out, nil
}

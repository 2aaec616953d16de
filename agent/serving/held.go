package serving

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/models/triton"
)

// held is a variant as one entry has it. A runner that stays over a Set is in two of them, which share its count.
type held struct {
	version string
	role    uint8
	share   uint32
	timeout time.Duration
	runner  Runner
	config  *triton.Config
	labels  map[string][]string
	stats   *statistics.Model // nil where nothing is counted
	places  *Places           // nil when the runner takes them itself
	own     *Places           // bounds how many of places this version has; nil where nothing does
	most    int64             // requests that may be inside, waiting ones included
	*count
}

func (t *Table) newHeld(model string, v Variant, before *entry) *held {
	h := &held{
		version: v.Version, role: v.Role, share: v.ShareMillionths, timeout: v.Timeout, runner: v.Runner,
		config: v.Config, labels: v.Labels, places: t.places, count: before.find(v.Runner),
	}
	if h.timeout <= 0 {
		h.timeout = t.timeout
	}
	if s, ok := v.Runner.(Scheduler); ok && s.Scheduled() {
		h.places = nil
	}
	h.most = int64(v.Queue)
	if h.most <= 0 {
		h.most = t.queue
	}
	h.most += t.computing
	if v.Concurrency > 0 && h.places != nil {
		h.own = NewPlaces(v.Concurrency)
		h.most += int64(v.Concurrency) - t.computing
	}
	if t.statistics != nil {
		h.stats = t.statistics.Model(model, v.Version)
	}
	return h
}

// enter waits for a place to compute on, which exit gives back.
func (h *held) enter(c *call) error {
	if h.inside.Add(1) > h.most {
		h.inside.Add(-1)
		return ErrOverloaded
	}
	err := c.Err()
	if err == nil && h.places != nil {
		err = h.wait(c)
	}
	if err != nil {
		h.inside.Add(-1)
	}
	return err
}

func (h *held) wait(c *call) error {
	begun := time.Now()
	if h.own != nil {
		if err := h.own.Acquire(c, c.priority); err != nil {
			return err
		}
	}
	if err := h.places.Acquire(c, c.priority); err != nil {
		if h.own != nil {
			h.own.Release()
		}
		return err
	}
	c.timing.Queue += time.Since(begun)
	return nil
}

func (h *held) exit() {
	if h.places != nil {
		h.places.Release()
		if h.own != nil {
			h.own.Release()
		}
	}
	h.inside.Add(-1)
}

// count is the number of requests that use a runner.
type count struct {
	inside atomic.Int64 // requests that run or wait for a place
	users  atomic.Int64 // requests, plus leaving once the table has let go
	close  sync.Once
	closed chan struct{}
	err    error // of closing the runner; read after closed
}

const leaving = 1 << 62

// hold counts a request in, unless the runner is leaving.
func (h *held) hold() bool {
	if h.users.Add(1)&leaving == 0 {
		return true
	}
	h.release()
	return false
}

func (h *held) release() {
	if h.users.Add(-1) == leaving {
		h.finish()
	}
}

func (h *held) leave() {
	if h.users.Add(leaving) == leaving {
		h.finish()
	}
}

// finish closes the runner beside the request that was its last, which should not wait for it.
func (h *held) finish() {
	h.close.Do(func() {
		go func() {
			h.err = h.runner.Close()
			close(h.closed)
		}()
	})
}

// find returns the count of a runner that the entry has, or a new one.
func (e *entry) find(r Runner) *count {
	if e != nil {
		for _, h := range e.all {
			if h.runner == r {
				return h.count
			}
		}
	}
	return &count{closed: make(chan struct{})}
}

// version returns the first variant of that version.
func (e *entry) version(version string) *held {
	if e == nil {
		return nil
	}
	for _, h := range e.all {
		if h.version == version {
			return h
		}
	}
	return nil
}

func (e *entry) versions() []string {
	out := make([]string, len(e.all))
	for i, h := range e.all {
		out[i] = h.version
	}
	return out
}

// main is the variant that describes the model: the one with the points that no candidate has.
func (e *entry) main() *held {
	if len(e.routed) == 0 {
		return e.all[0]
	}
	return e.routed[e.split.Rest()]
}

func (e *entry) info(h *held) Info {
	out := Info{
		Name: e.name, Inputs: h.runner.Inputs(), Outputs: h.runner.Outputs(),
		Version: h.version, Role: h.role, Config: h.config, Labels: h.labels, Platform: triton.PlatformONNX,
	}
	if h.config != nil && h.config.Platform != "" {
		out.Platform = h.config.Platform
	}
	for _, v := range e.all {
		out.Variants = append(out.Variants, VariantInfo{Version: v.version, Role: v.role, ShareMillionths: v.share})
	}
	return out
}

// retire lets go of what before has and after has not.
func retire(before, after *entry) *Drain {
	d := &Drain{}
	if before == nil {
		return d
	}
	for _, h := range before.all {
		stays := false
		if after != nil {
			for _, a := range after.all {
				stays = stays || a.count == h.count
			}
		}
		if !stays {
			h.leave()
			d.counts = append(d.counts, h.count)
		}
	}
	return d
}

// Drain is what a Set has taken out.
type Drain struct{ counts []*count }

// Wait returns when the last request of every variant that was taken out has ended and its runner is closed, with the
// first error of closing. When ctx ends before, Wait returns its error, and the variants still close in their time.
func (d *Drain) Wait(ctx context.Context) error {
	var first error
	for _, c := range d.counts {
		select {
		case <-c.closed:
			if first == nil {
				first = c.err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return first
}

package batching

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/models/triton"
)

// arrival is one request of a scenario.
type arrival struct {
	at, cancel  time.Duration // cancel 0: never
	rows, width int
	bad         bool
	wanted      []string
	priority    uint64
}

// scenario is a load and the Batcher that gets it.
type scenario struct {
	options   Options
	instances int
	places    int // 0: none
	takes     time.Duration
	arrivals  []arrival
}

func milliseconds(t *rapid.T, most int, label string) time.Duration {
	return time.Duration(rapid.IntRange(0, most).Draw(t, label)) * time.Millisecond
}

func drawScenario(t *rapid.T) scenario {
	s := scenario{
		options: Options{
			MaxBatch:        rapid.IntRange(1, 8).Draw(t, "max batch"),
			Preferred:       rapid.SliceOfN(rapid.IntRange(1, 9), 0, 2).Draw(t, "preferred"),
			MaxDelay:        milliseconds(t, 6, "delay"),
			MaxQueue:        rapid.SampledFrom([]int{0, 0, 3}).Draw(t, "queue"),
			PriorityLevels:  rapid.Uint64Range(0, 3).Draw(t, "levels"),
			DefaultPriority: rapid.Uint64Range(0, 3).Draw(t, "default priority"),
			Policy:          drawPolicy(t),
			Priority:        priorityOf,
		},
		instances: rapid.IntRange(1, 3).Draw(t, "instances"),
		places:    rapid.IntRange(0, 3).Draw(t, "places"),
		takes:     milliseconds(t, 12, "takes"),
	}
	if rapid.Bool().Draw(t, "policy of level 2") {
		s.options.Policies = map[uint64]triton.QueuePolicy{2: drawPolicy(t)}
	}
	s.arrivals = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) arrival {
		a := arrival{
			at: milliseconds(t, 40, "at"), rows: rapid.IntRange(1, 4).Draw(t, "rows"), width: rapid.IntRange(1, 2).Draw(t, "width"),
			bad: rapid.IntRange(0, 9).Draw(t, "bad") == 0, priority: rapid.Uint64Range(0, 4).Draw(t, "priority"),
			wanted: rapid.SampledFrom([][]string{nil, nil, nil, {"s", "y"}, {"s"}}).Draw(t, "wanted"),
		}
		if rapid.IntRange(0, 3).Draw(t, "leaves") == 0 {
			a.cancel = 500*time.Microsecond + milliseconds(t, 30, "cancel")
		}
		return a
	}), 1, 24).Draw(t, "arrivals")
	return s
}

func drawPolicy(t *rapid.T) triton.QueuePolicy {
	return triton.QueuePolicy{
		Delay:          rapid.Bool().Draw(t, "late ones wait on"),
		DefaultTimeout: rapid.SampledFrom([]time.Duration{0, 0, 7 * time.Millisecond}).Draw(t, "timeout"),
		MaxQueueSize:   rapid.SampledFrom([]int{0, 0, 2}).Draw(t, "size"),
	}
}

// outcome is what became of an arrival.
type outcome struct {
	err     error
	wrong   error // the answer is not its own
	started time.Time
	ended   time.Time
}

// play runs a scenario and returns what is wrong with what it saw.
func play(s scenario) []error {
	o := s.options
	var taken *places
	if s.places > 0 {
		taken = newPlaces(s.places)
		o.Places = taken
	}
	var models []inference.Model
	var fakes []*fake
	for range s.instances {
		f := &fake{takes: s.takes}
		fakes, models = append(fakes, f), append(models, f)
	}
	b := New(models, o)
	outcomes := make([]outcome, len(s.arrivals))
	var requests sync.WaitGroup
	for i, a := range s.arrivals {
		requests.Go(func() {
			time.Sleep(a.at + time.Duration(i)*time.Microsecond) // no two at once, so that there is an order
			ctx, cancel := context.WithCancel(context.WithValue(context.Background(), priorityKey{}, a.priority))
			defer cancel()
			if a.cancel > 0 {
				defer time.AfterFunc(a.cancel, cancel).Stop()
			}
			in := question(a.tag(i), a.rows, a.width)
			outcomes[i].started = time.Now()
			out, err := b.Run(ctx, in, a.wanted)
			outcomes[i].ended, outcomes[i].err = time.Now(), err
			if err == nil {
				outcomes[i].wrong = check(out, in, a.wanted)
			}
			clear(in[0].Data) // who has an answer uses the memory again
		})
	}
	requests.Wait()
	var wrong []error
	note := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	if n := b.Waiting(); n != 0 {
		note("%d requests wait when all are answered", n)
	}
	if off := b.Off(); off != "" && o.MaxBatch > 1 {
		note("batches were given up: %s", off)
	}
	if err := b.Close(); err != nil {
		note("close: %v", err)
	}
	if _, err := b.Run(context.Background(), question(1, 1, 1), nil); !errors.Is(err, inference.ErrClosed) {
		note("after close: %v", err)
	}
	if taken != nil && taken.n != 0 {
		note("%d places did not come back", taken.n)
	}
	for _, f := range fakes {
		if f.most > 1 {
			note("an instance ran %d at once", f.most)
		}
		if !f.closed {
			note("an instance was not closed")
		}
	}
	return append(wrong, judge(s, outcomes, fakes)...)
}

func (a *arrival) tag(i int) uint32 {
	if a.bad {
		return uint32(bad + i)
	}
	return uint32(i)
}

// judge holds what became of the requests against what may become of them.
func judge(s scenario, outcomes []outcome, fakes []*fake) (wrong []error) {
	note := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	first := make([]time.Time, len(outcomes)) // when each was run first
	for _, f := range fakes {
		for _, r := range f.runs {
			members := map[uint32]int{}
			for _, tag := range r.tags {
				members[tag]++
			}
			if len(r.tags) > s.options.MaxBatch && len(members) > 1 {
				note("a batch had %d rows", len(r.tags))
			}
			for tag, n := range members {
				i := int(tag % bad)
				a := &s.arrivals[i]
				if n != a.rows || int64(a.width) != r.width {
					note("request %d ran with %d rows of width %d", i, n, r.width)
				}
				if first[i].IsZero() || r.start.Before(first[i]) {
					first[i] = r.start
				}
				if r.start.After(outcomes[i].ended) {
					note("request %d was run after it had ended", i)
				}
			}
		}
	}
	for i, o := range outcomes {
		a := &s.arrivals[i]
		var full *FullError
		var late *TimeoutError
		var input *inference.InputError
		policy := s.policy(a)
		switch {
		case o.wrong != nil:
			note("request %d got %v", i, o.wrong)
		case o.err == nil && a.bad, errors.Is(o.err, errBad) && !a.bad:
			note("request %d, bad %v: %v", i, a.bad, o.err)
		case o.err == nil, errors.Is(o.err, errBad):
		case errors.Is(o.err, context.Canceled) && a.cancel > 0:
			if took := o.ended.Sub(o.started); took != a.cancel {
				note("request %d left after %v instead of %v", i, took, a.cancel)
			}
		case errors.As(o.err, &full) && (s.options.MaxQueue > 0 || policy.MaxQueueSize > 0):
		case errors.As(o.err, &input) && a.rows > s.options.MaxBatch && s.options.MaxBatch > 1:
		case errors.As(o.err, &late) && policy.DefaultTimeout > 0 && !policy.Delay:
			if took := o.ended.Sub(o.started); took != policy.DefaultTimeout {
				note("request %d was rejected after %v instead of %v", i, took, policy.DefaultTimeout)
			}
			if !first[i].IsZero() {
				note("request %d was rejected after it was run", i)
			}
		default:
			note("request %d: %v", i, o.err)
		}
		for j := range outcomes {
			b := &s.arrivals[j]
			if !first[i].IsZero() && !first[j].IsZero() && o.started.Before(outcomes[j].started) && first[j].Before(first[i]) && s.sameLine(a, b) {
				note("request %d overtook request %d", j, i)
			}
		}
	}
	return wrong
}

func (s *scenario) levelOf(a *arrival) uint64 {
	levels := s.options.PriorityLevels
	switch {
	case levels == 0:
		return 0
	case a.priority == 0 || a.priority > levels:
		return max(1, min(s.options.DefaultPriority, levels))
	}
	return a.priority
}

func (s *scenario) policy(a *arrival) triton.QueuePolicy {
	if p, ok := s.options.Policies[s.levelOf(a)]; ok && s.options.PriorityLevels > 0 {
		return p
	}
	return s.options.Policy
}

// sameLine says whether two requests wait in one line, in which none overtakes.
func (s *scenario) sameLine(a, b *arrival) bool {
	p := s.policy(a)
	late := p.Delay && p.DefaultTimeout > 0
	return !late && s.levelOf(a) == s.levelOf(b) && a.width == b.width && fmt.Sprint(a.wanted) == fmt.Sprint(b.wanted)
}

// TestEveryRequestIsAnsweredOnceWithItsOwnRows plays random loads: arrivals, sizes, shapes, priorities, clients that
// leave, rows that fail, queues that are full or too slow.
func TestEveryRequestIsAnsweredOnceWithItsOwnRows(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		s := drawScenario(r)
		var wrong []error
		synctest.Test(t, func(*testing.T) { wrong = play(s) })
		if len(wrong) > 0 {
			r.Fatal(errors.Join(wrong...))
		}
	})
}

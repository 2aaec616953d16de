package batching

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/models/triton"
)

var _ Places = (*serving.Places)(nil)

// at asks after so long and returns when it was answered, counted from the same moment.
type asked struct {
	after time.Duration
	rows  int
	width int
	tag   uint32
	ctx   context.Context
}

// ask sends requests to b and returns when each was answered, and with what error.
func ask(t *testing.T, b *Batcher, requests ...asked) (took []time.Duration, errs []error) {
	t.Helper()
	took, errs = make([]time.Duration, len(requests)), make([]error, len(requests))
	begin := time.Now()
	var all sync.WaitGroup
	for i, r := range requests {
		if r.ctx == nil {
			r.ctx = t.Context()
		}
		all.Go(func() {
			time.Sleep(r.after)
			in := question(r.tag, max(r.rows, 1), max(r.width, 1))
			out, err := b.Run(r.ctx, in, nil)
			took[i], errs[i] = time.Since(begin), err
			if err == nil {
				if err := check(out, in, nil); err != nil {
					t.Errorf("request %d: %v", i, err)
				}
			}
		})
	}
	all.Wait()
	return took, errs
}

// sizes are the rows of each run, in the order of their start.
func (f *fake) sizes() (out []int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	runs := slices.Clone(f.runs)
	slices.SortFunc(runs, func(a, b ran) int { return a.start.Compare(b.start) })
	for _, r := range runs {
		out = append(out, len(r.tags))
	}
	return out
}

const ms = time.Millisecond

func TestWhenBatchesAreFormed(t *testing.T) {
	for name, c := range map[string]struct {
		options  Options
		requests []asked
		sizes    []int
		took     []time.Duration
	}{
		"an instance that is free takes one at once, whatever the delay": {
			Options{MaxBatch: 8, MaxDelay: time.Hour}, []asked{{}}, []int{1}, []time.Duration{10 * ms},
		},
		"all that came meanwhile go together": {
			Options{MaxBatch: 8}, []asked{{}, {after: 1 * ms}, {after: 2 * ms}, {after: 3 * ms, rows: 3}}, []int{1, 5},
			[]time.Duration{10 * ms, 20 * ms, 20 * ms, 20 * ms},
		},
		"no batch has more rows than allowed": {
			Options{MaxBatch: 4}, []asked{{}, {after: 1 * ms, rows: 3}, {after: 2 * ms, rows: 2}, {after: 3 * ms, rows: 2}}, []int{1, 3, 4},
			[]time.Duration{10 * ms, 20 * ms, 30 * ms, 30 * ms},
		},
		"fewer than preferred wait as long as they may": {
			Options{MaxBatch: 8, Preferred: []int{4}, MaxDelay: 15 * ms}, []asked{{}, {after: 2 * ms}, {after: 12 * ms}}, []int{1, 2},
			[]time.Duration{10 * ms, 27 * ms, 27 * ms},
		},
		"as many as preferred do not wait": {
			Options{MaxBatch: 8, Preferred: []int{2, 4}, MaxDelay: time.Hour}, []asked{{}, {after: 2 * ms}, {after: 12 * ms}}, []int{1, 2},
			[]time.Duration{10 * ms, 22 * ms, 22 * ms},
		},
		"the largest preferred size is taken, what is left waits its time": {
			Options{MaxBatch: 8, Preferred: []int{2, 4}, MaxDelay: 30 * ms}, []asked{{}, {after: 1 * ms, rows: 2}, {after: 2 * ms, rows: 2}, {after: 3 * ms}}, []int{1, 4, 1},
			[]time.Duration{10 * ms, 20 * ms, 20 * ms, 43 * ms},
		},
		"requests of other shapes do not wait for each other": {
			Options{MaxBatch: 8, Preferred: []int{8}, MaxDelay: time.Hour}, []asked{{}, {after: 1 * ms}, {after: 2 * ms, width: 2}, {after: 3 * ms}, {after: 4 * ms, rows: 8}}, []int{1, 2, 1, 8},
			[]time.Duration{10 * ms, 20 * ms, 30 * ms, 20 * ms, 40 * ms},
		},
		"clients that were answered together are waited for": {
			Options{MaxBatch: 8}, []asked{{}, {after: 1 * ms}, {after: 2 * ms}, {after: 20*ms + 100*time.Microsecond}, {after: 20*ms + 200*time.Microsecond}}, []int{1, 2, 2},
			[]time.Duration{10 * ms, 20 * ms, 20 * ms, 30*ms + 200*time.Microsecond, 30*ms + 200*time.Microsecond},
		},
		"but not for long": {
			Options{MaxBatch: 8}, []asked{{}, {after: 1 * ms}, {after: 2 * ms}, {after: 20*ms + 100*time.Microsecond}}, []int{1, 2, 1},
			[]time.Duration{10 * ms, 20 * ms, 20 * ms, 30*ms + 10*ms/graceShare},
		},
		"and not by one who comes later": {
			Options{MaxBatch: 8}, []asked{{}, {after: 1 * ms}, {after: 2 * ms}, {after: 25 * ms}}, []int{1, 2, 1},
			[]time.Duration{10 * ms, 20 * ms, 20 * ms, 35 * ms},
		},
		"without batches the queue alone remains": {
			Options{MaxBatch: 1}, []asked{{}, {after: 1 * ms, rows: 3}, {after: 2 * ms}}, []int{1, 3, 1},
			[]time.Duration{10 * ms, 20 * ms, 30 * ms},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{takes: 10 * ms}
				b := New([]inference.Model{f}, c.options)
				defer b.Close()
				took, errs := ask(t, b, c.requests...)
				if err := errors.Join(errs...); err != nil {
					t.Fatal(err)
				}
				if sizes := f.sizes(); !slices.Equal(sizes, c.sizes) || !slices.Equal(took, c.took) {
					t.Errorf("runs of %v rows, answers after %v; want %v and %v", sizes, took, c.sizes, c.took)
				}
			})
		})
	}
}

// TestABatchIsFormedWhenItsPlaceIsFree: what comes while other models compute is joined too.
func TestABatchIsFormedWhenItsPlaceIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serving.NewPlaces(1)
		f := &fake{takes: 10 * ms}
		b := New([]inference.Model{f, f}, Options{MaxBatch: 8, Places: p})
		defer b.Close()
		if !p.TryAcquire() {
			t.Fatal("no place")
		}
		time.AfterFunc(5*ms, p.Release)
		took, errs := ask(t, b, asked{}, asked{after: 2 * ms}, asked{after: 4 * ms})
		if err := errors.Join(errs...); err != nil || !slices.Equal(f.sizes(), []int{3}) || took[0] != 15*ms {
			t.Errorf("%v, runs of %v, answers after %v", err, f.sizes(), took)
		}
		if !p.TryAcquire() {
			t.Error("the place did not come back")
		}
	})
}

// TestFreeInstancesShareWhatWaits, unless somebody asked for sizes.
func TestFreeInstancesShareWhatWaits(t *testing.T) {
	for _, c := range []struct {
		options Options
		sizes   []int
	}{
		{Options{MaxBatch: 8}, []int{3, 2}},
		{Options{MaxBatch: 8, Preferred: []int{5}}, []int{5}},
		{Options{MaxBatch: 8, MaxDelay: ms}, []int{5}},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := serving.NewPlaces(2)
			c.options.Places = p
			f := &fake{takes: 10 * ms}
			b := New([]inference.Model{f, f}, c.options)
			defer b.Close()
			for range 2 {
				if !p.TryAcquire() {
					t.Fatal("no places")
				}
			}
			time.AfterFunc(5*ms, func() { p.Release(); p.Release() })
			_, errs := ask(t, b, asked{}, asked{after: 1 * ms}, asked{after: 2 * ms}, asked{after: 3 * ms}, asked{after: 4 * ms})
			sizes := f.sizes()
			slices.SortFunc(sizes, func(a, b int) int { return b - a })
			if err := errors.Join(errs...); err != nil || !slices.Equal(sizes, c.sizes) {
				t.Errorf("%v, runs of %v rows instead of %v", err, sizes, c.sizes)
			}
			for range 2 {
				if !p.TryAcquire() {
					t.Error("a place did not come back")
				}
			}
		})
	}
}

type noPlaces struct{ error }

func (noPlaces) TryAcquire() bool                        { return false }
func (p noPlaces) Acquire(context.Context, uint64) error { return p.error }
func (noPlaces) Release()                                { panic("a place that was never given") }

func TestWithoutAPlaceRequestsEnd(t *testing.T) {
	gone := errors.New("no place will ever be free")
	f := &fake{}
	b := New([]inference.Model{f}, Options{MaxBatch: 8, Places: noPlaces{gone}})
	if _, err := b.Run(t.Context(), question(1, 1, 1), nil); !errors.Is(err, gone) {
		t.Error(err)
	}
	if err := b.Close(); err != nil || len(f.runs) > 0 {
		t.Error(err, f.runs)
	}
}

func TestWhoLeavesABatchDoesNotStopItForTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{takes: 10 * ms}
		b := New([]inference.Model{f}, Options{MaxBatch: 8})
		defer b.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 15*ms)
		defer cancel()
		took, errs := ask(t, b, asked{}, asked{after: 1 * ms, ctx: ctx}, asked{after: 1 * ms, tag: 7})
		if !errors.Is(errs[1], context.DeadlineExceeded) || took[1] != 15*ms || errs[2] != nil || took[2] != 20*ms {
			t.Errorf("%v after %v", errs, took)
		}
		if !slices.Equal(f.sizes(), []int{1, 2}) {
			t.Error(f.sizes())
		}
	})
}

func TestABatchThatAllHaveLeftIsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{takes: time.Hour}
		b := New([]inference.Model{f}, Options{MaxBatch: 8})
		defer b.Close()
		first, cancel := context.WithTimeout(t.Context(), 10*ms)
		defer cancel()
		ctx, cancel := context.WithTimeout(t.Context(), 20*ms)
		defer cancel()
		took, errs := ask(t, b, asked{ctx: first}, asked{after: 1 * ms, ctx: ctx}, asked{after: 2 * ms, ctx: ctx})
		if !errors.Is(errors.Join(errs...), context.DeadlineExceeded) || took[1] != 20*ms || took[2] != 20*ms {
			t.Errorf("%v after %v", errs, took)
		}
		synctest.Wait()
		if len(f.runs) != 2 || !errors.Is(f.runs[1].ctx, context.Canceled) || time.Since(f.runs[1].start) != 10*ms {
			t.Errorf("%v", f.runs)
		}
	})
}

func TestOneBadRequestFailsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{takes: 10 * ms}
		b := New([]inference.Model{f}, Options{MaxBatch: 8})
		defer b.Close()
		for range 2 * maxMisfires {
			_, errs := ask(t, b, asked{}, asked{after: 1 * ms}, asked{after: 2 * ms, tag: bad}, asked{after: 3 * ms})
			if errs[0] != nil || errs[1] != nil || !errors.Is(errs[2], errBad) || errs[3] != nil {
				t.Fatal(errs)
			}
		}
		if !slices.Equal(f.sizes()[:5], []int{1, 3, 1, 1, 1}) || b.Off() != "" {
			t.Errorf("runs of %v rows; %s", f.sizes(), b.Off())
		}
	})
}

func TestBatchesAreGivenUp(t *testing.T) {
	for name, c := range map[string]struct {
		model  *fake
		rounds int
		why    string
	}{
		"one row out of several": {&fake{takes: 10 * ms, spoil: func(out []tensor.Tensor) {
			if out[0].Shape[0] > 1 {
				out[0].Shape = []int64{1, out[0].Shape[0]}
			}
		}}, 1, `"y" with the shape [1 2], which cannot be parted by rows`},
		"bytes missing": {&fake{takes: 10 * ms, spoil: func(out []tensor.Tensor) {
			if out[0].Shape[0] > 1 {
				out[1].Data = out[1].Data[:len(out[1].Data)-1]
			}
		}}, 1, `"s" with fewer bytes`},
		"a batch too large for the model": {&fake{takes: 10 * ms, fail: func(rows int) error {
			if rows > 1 {
				return errors.New("out of memory")
			}
			return nil
		}}, maxMisfires, "can be answered alone"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var said bytes.Buffer
				b := New([]inference.Model{c.model}, Options{MaxBatch: 8, Logger: slog.New(slog.NewTextHandler(&said, nil))})
				defer b.Close()
				for i := range c.rounds + 1 {
					if off := b.Off() != ""; off != (i == c.rounds) {
						t.Fatalf("before round %d: given up is %v", i, off)
					}
					if _, errs := ask(t, b, asked{}, asked{after: 1 * ms}, asked{after: 2 * ms}); errors.Join(errs...) != nil {
						t.Fatal(errs)
					}
				}
				if !strings.Contains(b.Off(), c.why) || strings.Count(said.String(), "one by one from now on") != 1 {
					t.Errorf("%s; %s", b.Off(), said.String())
				}
				if sizes := c.model.sizes(); !slices.Equal(sizes[len(sizes)-3:], []int{1, 1, 1}) {
					t.Errorf("runs of %v rows", sizes)
				}
			})
		})
	}
}

// TestAPanicMeetsTheRequestThatCausesIt: agent/serving catches it there.
func TestAPanicMeetsTheRequestThatCausesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{takes: 10 * ms, spoil: func(out []tensor.Tensor) {
			if bytes.Contains(out[1].Data, []byte("666")) {
				panic("number of the beast")
			}
		}}
		b := New([]inference.Model{f}, Options{MaxBatch: 8, Places: newPlaces(1)})
		var panicked any
		var all sync.WaitGroup
		for i, tag := range []uint32{1, 2, 666, 3} {
			all.Go(func() {
				defer func() {
					if p := recover(); p != nil {
						panicked = p
					}
				}()
				time.Sleep(time.Duration(i) * ms)
				out, err := b.Run(t.Context(), question(tag, 1, 1), nil)
				if err == nil {
					err = check(out, question(tag, 1, 1), nil)
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if panicked != "number of the beast" {
			t.Error(panicked)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestTimings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{takes: 10 * ms}
		b := New([]inference.Model{f}, Options{MaxBatch: 8})
		defer b.Close()
		timings := make([]statistics.Timing, 4)
		var requests []asked
		for i := range timings {
			ctx := context.WithValue(t.Context(), statistics.Key, &timings[i])
			if i == 1 { // the first of the batch leaves it
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 12*ms)
				defer cancel()
			}
			requests = append(requests, asked{after: time.Duration(i) * ms, rows: i + 1, ctx: ctx})
		}
		ask(t, b, requests...)
		want := []statistics.Timing{
			{Rows: 1, Executed: 1},
			{Queue: 9 * ms},
			{Queue: 8 * ms, Rows: 3, Executed: 5},
			{Queue: 17*ms + 10*ms/graceShare, Rows: 4, Executed: 4}, // it did not fit, and was waited with
		}
		if !slices.Equal(timings, want) {
			t.Errorf("%+v\nwant\n%+v", timings, want)
		}
	})
}

func TestWhatIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{takes: 10 * ms}
		b := New([]inference.Model{f}, Options{MaxBatch: 4, MaxQueue: 1})
		defer b.Close()
		_, errs := ask(t, b, asked{}, asked{after: 1 * ms}, asked{after: 2 * ms}, asked{rows: 5, after: 3 * ms})
		var full *FullError
		var input *inference.InputError
		if errs[0] != nil || errs[1] != nil || !errors.As(errs[2], &full) || !errors.As(errs[3], &input) || !strings.Contains(errs[3].Error(), "5 rows") {
			t.Error(errs)
		}
		// What does not fit the model is refused before it waits.
		var all sync.WaitGroup
		all.Go(func() { _, _ = b.Run(t.Context(), question(1, 1, 1), nil) })
		synctest.Wait()
		if _, err := b.Run(t.Context(), []tensor.Tensor{tensor.FromFloat32("x", []int64{1, 1}, []float32{1})}, nil); !errors.As(err, &input) || b.Waiting() != 0 {
			t.Errorf("%v, %d wait", err, b.Waiting())
		}
		all.Wait()
		for _, in := range [][]tensor.Tensor{nil, {{Name: "x", Datatype: tensor.Uint32}}} {
			if _, err := b.Run(t.Context(), in, nil); !errors.As(err, &input) {
				t.Error(err)
			}
		}
		if serving.CodeOf(full).String() != "overloaded" || serving.CodeOf(&TimeoutError{}).String() != "deadline" {
			t.Error("the codes")
		}
	})
}

// TestMoreUrgentRequestsGoFirst, and one that has waited too long goes last or away.
func TestMoreUrgentRequestsGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{takes: 10 * ms}
		b := New([]inference.Model{f}, Options{
			MaxBatch: 1, Priority: priorityOf, PriorityLevels: 3, DefaultPriority: 2,
			Policy:   triton.QueuePolicy{DefaultTimeout: 25 * ms},
			Policies: map[uint64]triton.QueuePolicy{3: {DefaultTimeout: 5 * ms, Delay: true}},
		})
		defer b.Close()
		with := func(priority uint64) context.Context { return context.WithValue(t.Context(), priorityKey{}, priority) }
		took, errs := ask(t, b,
			asked{ctx: with(1)}, asked{after: 1 * ms, ctx: with(3)}, asked{after: 2 * ms, ctx: with(0)}, asked{after: 3 * ms, ctx: with(1)},
			asked{after: 4 * ms, ctx: with(2)}, asked{after: 28 * ms, ctx: with(3)})
		want := []time.Duration{10 * ms, 50 * ms, 30 * ms, 20 * ms, 29 * ms, 40 * ms}
		var late *TimeoutError
		if !slices.Equal(took, want) || !errors.As(errs[4], &late) {
			t.Errorf("answers after %v, %v", took, errs)
		}
	})
}

func TestConfigured(t *testing.T) {
	if _, ok := Configured(nil); ok {
		t.Error("no configuration")
	}
	if _, ok := Configured(&triton.Config{MaxBatchSize: 8}); ok {
		t.Error("not asked for")
	}
	if _, ok := Configured(&triton.Config{DynamicBatching: &triton.DynamicBatching{}}); ok {
		t.Error("no batch dimension")
	}
	o, ok := Configured(&triton.Config{MaxBatchSize: 8, DynamicBatching: &triton.DynamicBatching{
		Preferred: []int{4}, MaxQueueDelay: ms, PriorityLevels: 2, DefaultPriorityLevel: 1, QueuePolicy: triton.QueuePolicy{MaxQueueSize: 3},
	}})
	if !ok || o.MaxBatch != 8 || o.Preferred[0] != 4 || o.MaxDelay != ms || o.PriorityLevels != 2 || o.DefaultPriority != 1 || o.Policy.MaxQueueSize != 3 {
		t.Errorf("%+v", o)
	}
	b := New([]inference.Model{&fake{}}, Options{MaxBatch: 2, PriorityLevels: 1 << 60, DefaultPriority: 1 << 50})
	if len(b.queue.levels) != maxLevels || b.queue.level(0) != maxLevels-1 {
		t.Errorf("%d levels, %d", len(b.queue.levels), b.queue.level(0))
	}
}

type described struct {
	fake
	in, out []tensor.Spec
}

func (d *described) Inputs() []tensor.Spec  { return d.in }
func (d *described) Outputs() []tensor.Spec { return d.out }

func TestJoinable(t *testing.T) {
	spec := func(name string, shape ...int64) []tensor.Spec {
		return []tensor.Spec{{Name: name, Datatype: tensor.FP32, Shape: shape}}
	}
	for want, m := range map[string]*described{
		"":           {in: spec("x", -1, 3), out: spec("y", -1)},
		`input "x"`:  {in: spec("x", 1, 3), out: spec("y", -1)},
		`input "z"`:  {in: spec("z"), out: spec("y", -1)},
		`output "y"`: {in: spec("x", -1), out: spec("y", 3)},
		"no inputs":  {out: spec("y", -1)},
	} {
		err := Joinable(m)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
		if b := New([]inference.Model{m}, Options{MaxBatch: 4}); (b.Off() == "") != (want == "") {
			t.Errorf("%q: %q", want, b.Off())
		}
	}
}

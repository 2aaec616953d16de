package serving

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/telemetry"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host"
)

const (
	baseline  = 1
	candidate = 2
	shadow    = 3
)

// fake is a Runner that answers with its own name and notices being used after Close.
type fake struct {
	name   string
	run    func(context.Context, host.Sink) error
	out    []tensor.Tensor
	closed atomic.Bool
	close  error
}

func newFake(name string) *fake {
	return &fake{name: name, out: []tensor.Tensor{tensor.FromStrings("name", name)}}
}

func (f *fake) Infer(ctx context.Context, in []tensor.Tensor, wanted []string, sink host.Sink) ([]tensor.Tensor, error) {
	if f.closed.Load() {
		return nil, inference.ErrClosed
	}
	if f.run != nil {
		if err := f.run(ctx, sink); err != nil {
			return nil, err
		}
	}
	if f.closed.Load() {
		return nil, errors.New("closed while a request ran")
	}
	return f.out, nil
}

func (f *fake) Inputs() []tensor.Spec  { return []tensor.Spec{{Name: "in " + f.name}} }
func (f *fake) Outputs() []tensor.Spec { return []tensor.Spec{{Name: "name"}} }

func (f *fake) Close() error {
	if f.closed.Swap(true) {
		return errors.New("closed twice")
	}
	return f.close
}

type recorder struct {
	mu   sync.Mutex
	seen []telemetry.Observation
}

func (r *recorder) Record(o *telemetry.Observation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := *o
	c.Counts = append([]telemetry.Count(nil), o.Counts...)
	c.Features = append([]telemetry.Feature(nil), o.Features...)
	r.seen = append(r.seen, c)
}

func (r *recorder) last() telemetry.Observation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen[len(r.seen)-1]
}

func infer(t *testing.T, table *Table, req Request) string {
	t.Helper()
	res, err := table.Infer(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	name, err := tensor.SplitBytes(res.Outputs[0].Data)
	if err != nil || string(name[0]) != res.Version {
		t.Fatalf("version %q was answered by %q", res.Version, name)
	}
	return res.Version
}

func TestRequestsFollowTheShares(t *testing.T) {
	rec := &recorder{}
	table := NewTable(Options{Recorder: rec})
	table.Set("m", []Variant{
		{Version: "1", Role: baseline, ShareMillionths: 900_000, Runner: newFake("1")},
		{Version: "2", Role: candidate, ShareMillionths: 100_000, Runner: newFake("2")},
		{Version: "3", Role: shadow, ShareMillionths: 500_000, Runner: newFake("3")},
	})
	seen := map[string]int{}
	for i := range 5000 {
		id := fmt.Sprint(i)
		v := infer(t, table, Request{Model: "m", ID: id})
		seen[v]++
		if again := infer(t, table, Request{Model: "m", ID: id}); again != v {
			t.Fatalf("id %s met %s, then %s", id, v, again)
		}
	}
	if seen["3"] != 0 || seen["2"] < 350 || seen["2"] > 650 {
		t.Errorf("%v", seen)
	}
	random := map[string]int{}
	for range 5000 {
		random[infer(t, table, Request{Model: "m"})]++
	}
	if random["3"] != 0 || random["2"] < 350 || random["2"] > 650 {
		t.Errorf("without an id: %v", random)
	}
	if got := infer(t, table, Request{Model: "m", Version: "3", ID: "x"}); got != "3" {
		t.Error(got)
	}
	if o := rec.last(); o.Model != "m" || o.Version != "3" || o.Role != shadow || o.RequestID != "x" || o.Code != telemetry.OK || o.At.IsZero() || o.Duration <= 0 {
		t.Errorf("%+v", o)
	}
}

func TestWhatIsNotThere(t *testing.T) {
	rec := &recorder{}
	table := NewTable(Options{Recorder: rec})
	table.Set("m", []Variant{{Version: "1", Role: baseline, Runner: newFake("1")}})
	table.Set("s", []Variant{{Version: "1", Role: shadow, Runner: newFake("1")}})
	for _, c := range []struct {
		req  Request
		want string
	}{
		{Request{Model: "M"}, `there is no model "M"`},
		{Request{Model: "m", Version: "2"}, `model "m" has no version "2", but ["1"]`},
		{Request{Model: "s"}, `only shadows ["1"]`},
	} {
		_, err := table.Infer(t.Context(), c.req)
		var missing *NotFoundError
		if !errors.As(err, &missing) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v", c.req, err)
		}
		if err := table.Has(c.req.Model, c.req.Version); !errors.As(err, &missing) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v", c.req, err)
		}
		if _, err := table.Lookup(c.req.Model, c.req.Version); c.req.Model != "s" && !errors.As(err, &missing) {
			t.Errorf("%v: %v", c.req, err)
		}
	}
	if err := errors.Join(table.Has("m", ""), table.Has("m", "1"), table.Has("s", "1")); err != nil {
		t.Error(err)
	}
	if len(rec.seen) != 0 {
		t.Errorf("recorded %v", rec.seen)
	}
}

func TestModelsAreDescribed(t *testing.T) {
	table := NewTable(Options{})
	table.Set("b", []Variant{{Version: "1", Role: baseline, Runner: newFake("1")}})
	table.Set("a", []Variant{
		{Version: "2", Role: candidate, ShareMillionths: 10, Runner: newFake("2")},
		{Version: "1", Role: baseline, ShareMillionths: 999_990, Runner: newFake("1")},
	})
	all := table.Models()
	if len(all) != 2 || all[0].Name != "a" || all[1].Name != "b" || all[0].Inputs[0].Name != "in 1" || len(all[0].Variants) != 2 || all[0].Variants[0] != (VariantInfo{"2", candidate, 10}) {
		t.Errorf("%+v", all)
	}
	if i, err := table.Lookup("a", "2"); err != nil || i.Inputs[0].Name != "in 2" {
		t.Errorf("%+v %v", i, err)
	}
	if err := table.Set("a", nil).Wait(t.Context()); err != nil {
		t.Error(err)
	}
	if all = table.Models(); len(all) != 1 {
		t.Errorf("%+v", all)
	}
}

func TestASwapClosesOnlyWhatLeaves(t *testing.T) {
	table := NewTable(Options{})
	one, two := newFake("1"), newFake("2")
	two.close = errors.New("cannot close")
	table.Set("m", []Variant{{Version: "1", Role: baseline, Runner: one}, {Version: "2", Role: candidate, ShareMillionths: 1, Runner: two}})
	// Roles and shares change, runners stay.
	if err := table.Set("m", []Variant{{Version: "1", Role: baseline, Runner: one}, {Version: "2", Role: candidate, ShareMillionths: 1_000_000, Runner: two}}).Wait(t.Context()); err != nil || one.closed.Load() || two.closed.Load() {
		t.Fatal(err)
	}
	if got := infer(t, table, Request{Model: "m"}); got != "2" {
		t.Error(got)
	}
	if err := table.Set("m", []Variant{{Version: "1", Role: baseline, Runner: one}}).Wait(t.Context()); err == nil || err.Error() != "cannot close" {
		t.Error(err)
	}
	if one.closed.Load() || !two.closed.Load() {
		t.Error("the wrong runner was closed")
	}
	if err := table.Close(t.Context()); err != nil || !one.closed.Load() {
		t.Error(err)
	}
	late := newFake("3")
	if err := table.Set("m", []Variant{{Version: "3", Runner: late}}).Wait(t.Context()); err != nil || !late.closed.Load() || len(table.Models()) != 0 {
		t.Error("a closed table took a model")
	}
}

func TestDrainWaitsForTheLastRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := NewTable(Options{})
		f := newFake("1")
		f.run = func(context.Context, host.Sink) error { time.Sleep(10 * time.Second); return nil }
		table.Set("m", []Variant{{Version: "1", Role: baseline, Runner: f}})
		result := make(chan error, 1)
		go func() {
			_, err := table.Infer(context.Background(), Request{Model: "m"})
			result <- err
		}()
		synctest.Wait()
		drain := table.Set("m", []Variant{{Version: "2", Role: baseline, Runner: newFake("2")}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := drain.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) || f.closed.Load() {
			t.Errorf("%v, closed %v", err, f.closed.Load())
		}
		if got := infer(t, table, Request{Model: "m"}); got != "2" {
			t.Error(got)
		}
		if err := drain.Wait(t.Context()); err != nil || !f.closed.Load() {
			t.Error(err)
		}
		if err := <-result; err != nil {
			t.Error(err)
		}
	})
}

// TestNoRequestFailsWhileModelsAreSwapped changes versions, roles and shares as fast as it can under load.
func TestNoRequestFailsWhileModelsAreSwapped(t *testing.T) {
	table := NewTable(Options{Queue: 1 << 20})
	runner := newFake("0")
	table.Set("m", []Variant{{Version: "0", Role: baseline, ShareMillionths: 1_000_000, Runner: runner}})
	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	var answered atomic.Int64
	for g := range 8 {
		load.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if _, err := table.Infer(context.Background(), Request{Model: "m", ID: fmt.Sprint(g, i)}); err != nil {
					t.Error(err)
					return
				}
				answered.Add(1)
			}
		})
	}
	old := []*fake{runner}
	for i := 1; i <= 60; i++ {
		next := newFake(fmt.Sprint(i))
		// A swap that no request sees proves nothing: the loads may not have been scheduled yet.
		for seen := answered.Load(); answered.Load() == seen && !t.Failed(); {
			runtime.Gosched()
		}
		for share := uint32(0); share <= 1_000_000; share += 250_000 {
			table.Set("m", []Variant{
				{Version: runner.name, Role: baseline, ShareMillionths: 1_000_000 - share, Runner: runner},
				{Version: next.name, Role: candidate, ShareMillionths: share, Runner: next},
			})
		}
		if err := table.Set("m", []Variant{{Version: next.name, Role: baseline, ShareMillionths: 1_000_000, Runner: next}}).Wait(t.Context()); err != nil {
			t.Error(err)
		}
		runner = next
		old = append(old, next)
	}
	stop()
	load.Wait()
	if err := table.Close(t.Context()); err != nil {
		t.Error(err)
	}
	for _, f := range old {
		if !f.closed.Load() {
			t.Errorf("%s was never closed", f.name)
		}
	}
	if answered.Load() < 60 {
		t.Errorf("only %d requests", answered.Load())
	}
}

func TestAdmissionIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		table := NewTable(Options{Concurrency: 2, Queue: 3, Recorder: rec})
		f := newFake("1")
		var running, most atomic.Int64
		f.run = func(context.Context, host.Sink) error {
			most.Store(max(most.Load(), running.Add(1)))
			time.Sleep(time.Second)
			running.Add(-1)
			return nil
		}
		table.Set("m", []Variant{{Version: "1", Role: baseline, Runner: f}})
		errs := make(chan error, 7)
		for range 7 {
			go func() {
				_, err := table.Infer(context.Background(), Request{Model: "m"})
				errs <- err
			}()
			synctest.Wait()
		}
		counts := map[telemetry.Code]int{}
		for range 7 {
			counts[CodeOf(<-errs)]++
		}
		if counts[telemetry.Overloaded] != 2 || counts[telemetry.OK] != 5 || most.Load() != 2 {
			t.Errorf("%v, at most %d ran", counts, most.Load())
		}
		recorded := map[telemetry.Code]int{}
		for _, o := range rec.seen {
			recorded[o.Code]++
		}
		if fmt.Sprint(recorded) != fmt.Sprint(counts) {
			t.Errorf("recorded %v, were %v", recorded, counts)
		}
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := NewTable(Options{Concurrency: 1, Timeout: time.Minute})
		f, quick := newFake("1"), newFake("2")
		wait := func(ctx context.Context, _ host.Sink) error {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Hour):
				return nil
			}
		}
		f.run, quick.run = wait, wait
		table.Set("m", []Variant{{Version: "1", Role: baseline, Runner: f}, {Version: "2", Timeout: time.Second, Runner: quick}})
		took := func(ctx context.Context, version string, code telemetry.Code) time.Duration {
			start := time.Now()
			_, err := table.Infer(ctx, Request{Model: "m", Version: version})
			if CodeOf(err) != code {
				t.Errorf("%v, want %v", err, code)
			}
			return time.Since(start)
		}
		if d := took(t.Context(), "1", telemetry.Deadline); d != time.Minute {
			t.Errorf("the table's deadline came after %v", d)
		}
		if d := took(t.Context(), "2", telemetry.Deadline); d != time.Second {
			t.Errorf("the variant's deadline came after %v", d)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if d := took(short, "1", telemetry.Deadline); d != time.Millisecond {
			t.Errorf("the caller's deadline came after %v", d)
		}
		gone, leave := context.WithCancel(t.Context())
		time.AfterFunc(5*time.Millisecond, leave)
		if d := took(gone, "1", telemetry.Canceled); d != 5*time.Millisecond {
			t.Errorf("the caller's leaving was noticed after %v", d)
		}
		// Waiting for a place counts too.
		var other sync.WaitGroup
		other.Go(func() { _, _ = table.Infer(context.Background(), Request{Model: "m"}) })
		synctest.Wait()
		if d := took(t.Context(), "2", telemetry.Deadline); d != time.Second {
			t.Errorf("in the queue the deadline came after %v", d)
		}
		other.Wait()
	})
}

func TestEmittedValuesAreRecordedAndForgotten(t *testing.T) {
	rec := &recorder{}
	table := NewTable(Options{Recorder: rec})
	f := newFake("1")
	emit := true
	f.run = func(_ context.Context, s host.Sink) error {
		if emit {
			s.Count("png", 1)
			s.Count("png", 2)
			for i := range 100 {
				s.Feature("brightness", float64(i))
				s.Count(fmt.Sprint(i), 1)
			}
		}
		return nil
	}
	table.Set("m", []Variant{{Version: "1", Role: baseline, Runner: f}})
	infer(t, table, Request{Model: "m"})
	if o := rec.last(); len(o.Counts) != maxEmitted || o.Counts[0] != (telemetry.Count{Name: "png", N: 3}) || len(o.Features) != maxEmitted || o.Features[1].Value != 1 {
		t.Errorf("%+v", o)
	}
	emit = false
	infer(t, table, Request{Model: "m"})
	if o := rec.last(); len(o.Counts) != 0 || len(o.Features) != 0 {
		t.Errorf("%+v", o)
	}
}

type coded struct{}

func (coded) Error() string        { return "a step failed" }
func (coded) Code() telemetry.Code { return telemetry.WasmError }

func TestErrorsHaveCodes(t *testing.T) {
	rec := &recorder{}
	table := NewTable(Options{Recorder: rec})
	f := newFake("1")
	var fail func() error
	f.run = func(context.Context, host.Sink) error { return fail() }
	table.Set("m", []Variant{{Version: "1", Role: baseline, Runner: f}})
	for _, c := range []struct {
		fail func() error
		want telemetry.Code
	}{
		{func() error { return nil }, telemetry.OK},
		{func() error { return fmt.Errorf("x: %w", inference.Inputf("bad")) }, telemetry.InvalidInput},
		{func() error { return fmt.Errorf("x: %w", coded{}) }, telemetry.WasmError},
		{func() error { return errors.New("the model failed") }, telemetry.ModelError},
		{func() error { return context.DeadlineExceeded }, telemetry.Deadline},
		{func() error { panic("a bug") }, telemetry.Internal},
		{func() error { return nil }, telemetry.OK},
	} {
		fail = c.fail
		res, err := table.Infer(t.Context(), Request{Model: "m"})
		if CodeOf(err) != c.want || rec.last().Code != c.want || res.Version != "1" {
			t.Errorf("%v: %v, %+v", err, c.want, rec.last())
		}
	}
}

type discard struct{}

func (discard) Record(*telemetry.Observation) {}

func TestARequestAllocatesNothing(t *testing.T) {
	table := NewTable(Options{Recorder: discard{}})
	one, two := newFake("1"), newFake("2")
	emit := func(ctx context.Context, s host.Sink) error {
		s.Count("png", 1)
		s.Feature("brightness", 1)
		return ctx.Err()
	}
	one.run, two.run = emit, emit
	table.Set("m", []Variant{{Version: "1", Role: baseline, Runner: one}, {Version: "2", Role: candidate, ShareMillionths: 500_000, Runner: two}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req := Request{Model: "m", ID: "7e57d004", Inputs: []tensor.Tensor{tensor.FromStrings("photo", "x")}}
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := table.Infer(ctx, req); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkInfer(b *testing.B) {
	table := NewTable(Options{Recorder: discard{}})
	table.Set("m", []Variant{{Version: "1", Role: baseline, Runner: newFake("1")}, {Version: "2", Role: candidate, ShareMillionths: 500_000, Runner: newFake("2")}})
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		_, _ = table.Infer(ctx, Request{Model: "m", ID: "7e57d004-2b97-0e7a-b45f-5387367791cd"})
	}
}

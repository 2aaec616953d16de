package statistics

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/agent/telemetry"
)

// event is one request.
type event struct {
	code   telemetry.Code
	total  time.Duration
	timing Timing
}

func events() *rapid.Generator[event] {
	return rapid.Custom(func(t *rapid.T) event {
		d := rapid.Custom(func(t *rapid.T) time.Duration {
			return time.Duration(rapid.Int64Range(-5, 2_000_000_000_000).Draw(t, "ns") >> rapid.IntRange(0, 40).Draw(t, "shift"))
		})
		e := event{code: telemetry.Code(rapid.IntRange(0, 8).Draw(t, "code")), total: d.Draw(t, "total")}
		e.timing = Timing{
			Queue: d.Draw(t, "queue"), Input: d.Draw(t, "input"), Infer: d.Draw(t, "infer"), Output: d.Draw(t, "output"),
			Rows: rapid.IntRange(0, 9).Draw(t, "rows"), Executed: rapid.IntRange(0, 50).Draw(t, "executed"), Lookup: d.Draw(t, "lookup"),
		}
		switch rapid.IntRange(0, 3).Draw(t, "cache") {
		case 0:
			e.timing.Hit = true
		case 1:
			e.timing.Missed = true
		}
		return e
	})
}

// naive adds events up one after the other, as the words of Snapshot say.
type naive struct {
	Snapshot
	batches map[int]*Batch
	reasons map[string]uint64
}

func (n *naive) add(e event) {
	put := func(d *Duration, t time.Duration) {
		d.Count++
		d.Nanos += uint64(max(t, 0))
	}
	switch e.code {
	case telemetry.OK:
		put(&n.Success, e.total)
		put(&n.Queue, e.timing.Queue)
		if !e.timing.Hit {
			n.InferenceCount += uint64(max(1, e.timing.Rows))
			put(&n.ComputeInput, e.timing.Input)
			put(&n.ComputeInfer, e.timing.Infer)
			put(&n.ComputeOutput, e.timing.Output)
		}
	case telemetry.Overloaded, telemetry.Deadline:
		n.reasons["REJECTED"]++
	case telemetry.Canceled:
		n.reasons["CANCELED"]++
	case telemetry.ModelError, telemetry.WasmError:
		n.reasons["BACKEND"]++
	default:
		n.reasons["OTHER"]++
	}
	if e.code != telemetry.OK {
		put(&n.Fail, e.total)
		if e.code != telemetry.InvalidInput && e.code != telemetry.Canceled {
			n.Errors++
		}
	}
	if e.timing.Hit {
		put(&n.CacheHit, e.timing.Lookup)
	}
	if e.timing.Missed {
		put(&n.CacheMiss, e.timing.Lookup)
	}
	if size := e.timing.Executed; size > 0 {
		n.ExecutionCount++
		if n.batches[size] == nil {
			n.batches[size] = &Batch{Size: size}
		}
		put(&n.batches[size].ComputeInput, e.timing.Input)
		put(&n.batches[size].ComputeInfer, e.timing.Infer)
		put(&n.batches[size].ComputeOutput, e.timing.Output)
	}
}

// TestASnapshotIsTheSumOfItsRequests lets several goroutines count at once and compares with adding up.
func TestASnapshotIsTheSumOfItsRequests(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(events(), 0, 60).Draw(t, "events")
		workers := rapid.IntRange(1, 8).Draw(t, "workers")
		want := naive{batches: map[int]*Batch{}, reasons: map[string]uint64{}}
		for _, e := range all {
			want.add(e)
		}
		m := New().Model("m", "1")
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				for i := w; i < len(all); i += workers {
					m.Begin()
					timing := all[i].timing
					m.End(all[i].code, all[i].total, &timing)
					if s := m.Snapshot(); s.Success.Count+s.Fail.Count > uint64(len(all)) {
						panic("more requests than there were")
					}
				}
			})
		}
		m.Begin()
		wg.Wait()
		got := m.Snapshot()
		if got.Pending != 1 {
			t.Fatalf("%d requests are pending", got.Pending)
		}
		for _, c := range []struct {
			name      string
			got, want any
		}{
			{"success", got.Success, want.Success}, {"fail", got.Fail, want.Fail}, {"queue", got.Queue, want.Queue},
			{"input", got.ComputeInput, want.ComputeInput}, {"infer", got.ComputeInfer, want.ComputeInfer}, {"output", got.ComputeOutput, want.ComputeOutput},
			{"hits", got.CacheHit, want.CacheHit}, {"misses", got.CacheMiss, want.CacheMiss},
			{"rows", got.InferenceCount, want.InferenceCount}, {"executions", got.ExecutionCount, want.ExecutionCount}, {"errors", got.Errors, want.Errors},
			{"latencies", got.Latency.Count, want.Success.Count}, {"latency", uint64(got.Latency.Sum), want.Success.Nanos},
			{"waits", got.Waiting.Count, want.Success.Count + want.Fail.Count},
			{"never inferred", got.LastInference.IsZero(), want.InferenceCount == 0},
			{"recent", got.Recent.Requests, uint64(len(all))},
		} {
			if c.got != c.want {
				t.Fatalf("%s: %v, should be %v", c.name, c.got, c.want)
			}
		}
		for _, f := range got.Failures {
			if f.Count != want.reasons[f.Reason] {
				t.Fatalf("%s: %d, should be %d", f.Reason, f.Count, want.reasons[f.Reason])
			}
		}
		var executions uint64
		for i, b := range got.Batches {
			executions += b.ComputeInfer.Count
			if b.Size > 0 && b != *want.batches[b.Size] || i > 0 && got.Batches[i-1].Size >= b.Size {
				t.Fatalf("batches of %d: %+v, should be %+v", b.Size, b, want.batches[b.Size])
			}
		}
		if executions != want.ExecutionCount || len(got.Batches) != min(len(want.batches), maxSizes+1) {
			t.Fatalf("%d executions in %d sizes, should be %d in %d", executions, len(got.Batches), want.ExecutionCount, len(want.batches))
		}
	})
}

func TestTheLastHourByMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New().Model("m", "1")
		start := time.Now()
		timing := Timing{Rows: 1}
		end := func(code telemetry.Code, total time.Duration) {
			m.Begin()
			m.End(code, total, &timing)
		}
		minutes := func() []Minute { return m.Snapshot().Minutes }
		if got := minutes(); len(got) != 1 || got[0].Requests != 0 || !got[0].Start.Equal(start) {
			t.Fatalf("at first: %+v", got)
		}
		end(telemetry.OK, 10*time.Millisecond)
		end(telemetry.ModelError, time.Second)
		end(telemetry.InvalidInput, time.Second)
		time.Sleep(70 * time.Second)
		end(telemetry.OK, 500*time.Millisecond)
		got := minutes()
		if len(got) != 2 || got[0].Requests != 3 || got[0].Errors != 1 || got[0].P95 > 11*time.Millisecond || got[1].Requests != 1 || got[1].P50 < 400*time.Millisecond {
			t.Fatalf("after a minute: %+v", got)
		}
		if r := m.Snapshot().Recent; r.Requests != 4 || r.Errors != 1 || r.Window.Round(time.Second) != 70*time.Second || r.P99 < 400*time.Millisecond {
			t.Errorf("%+v", r)
		}
		// Nobody asks, and nobody looks, for five minutes.
		time.Sleep(5 * time.Minute)
		if got = minutes(); len(got) != 7 || got[1].Requests != 1 || got[2].Requests+got[5].Requests+got[6].Requests != 0 {
			t.Fatalf("after a pause: %+v", got)
		}
		if r := m.Snapshot().Recent; r.Requests != 0 || r.P50 != 0 || r.PerSecond() != 0 {
			t.Errorf("%+v", r)
		}
		// A request a second for two hours.
		for range 7200 {
			time.Sleep(time.Second)
			end(telemetry.OK, time.Millisecond)
		}
		got = minutes()
		if len(got) != hour {
			t.Fatalf("%d minutes are remembered", len(got))
		}
		for i, minute := range got[:hour-1] {
			if minute.Requests != 60 || minute.Errors != 0 {
				t.Errorf("minute %d: %+v", i, minute)
			}
			if next := got[i+1].Start; next.Sub(minute.Start) != time.Minute {
				t.Errorf("minute %d begins at %v, the next at %v", i, minute.Start, next)
			}
		}
		if rate := m.Snapshot().Recent.PerSecond(); rate < 0.95 || rate > 1.05 {
			t.Errorf("%v requests a second", rate)
		}
		if last := m.Snapshot().LastInference; !last.Equal(time.Now().Truncate(time.Millisecond)) {
			t.Errorf("the last inference was at %v, it is %v", last, time.Now())
		}
		// A week of silence is as cheap as a minute.
		time.Sleep(7 * 24 * time.Hour)
		if got = minutes(); len(got) != hour || got[0].Requests != 0 {
			t.Errorf("after a week: %d minutes, %+v", len(got), got[0])
		}
	})
}

// TestNoRequestIsLostBetweenMinutes lets many requests end while minutes turn, and others look.
func TestNoRequestIsLostBetweenMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New().Model("m", "1")
		const workers, each = 8, 300
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				for i := range each {
					m.Begin()
					code := telemetry.OK
					if i%3 == 0 {
						code = telemetry.Internal
					}
					m.End(code, time.Millisecond, nil)
					if i%7 == w {
						m.Snapshot()
					}
					time.Sleep(10 * time.Second)
				}
			})
		}
		wg.Wait()
		var requests, errors uint64
		minutes := m.Snapshot().Minutes
		for _, minute := range minutes {
			requests += minute.Requests
			errors += minute.Errors
		}
		// 300 requests of each take 50 minutes.
		if requests != workers*each || errors != workers*each/3 || len(minutes) != 51 {
			t.Errorf("%d requests and %d errors in %d minutes", requests, errors, len(minutes))
		}
	})
}

func TestVersionsAreListedInOrder(t *testing.T) {
	r := New()
	for _, v := range []string{"10", "2", "beta", "1", "09"} {
		r.Model("m", v)
	}
	r.Model("a", "3")
	r.Model("gone", "1")
	r.Forget("gone", "1")
	if once, twice := r.Model("m", "2"), r.Model("m", "2"); once != twice {
		t.Error("a version has two sets of counters")
	}
	var got []string
	for _, s := range r.Snapshot() {
		got = append(got, s.Name+s.Version)
	}
	if fmt.Sprint(got) != "[a3 m1 m2 m09 m10 mbeta]" {
		t.Error(got)
	}
}

func TestForgettingBeginsAtZero(t *testing.T) {
	r := New()
	old := r.Model("m", "1")
	old.Begin()
	r.Forget("m", "1")
	old.End(telemetry.OK, time.Second, nil)
	if s := r.Model("m", "1").Snapshot(); s.Success.Count != 0 || s.Pending != 0 {
		t.Errorf("%+v", s)
	}
	if s := old.Snapshot(); s.Success.Count != 1 || s.InferenceCount != 1 {
		t.Errorf("%+v", s)
	}
}

func TestATimingIsFoundInItsContext(t *testing.T) {
	timing := &Timing{}
	if Of(t.Context()) != nil || Of(context.WithValue(t.Context(), Key, timing)) != timing {
		t.Error("the timing is not the context's")
	}
}

func TestCountingAllocatesNothing(t *testing.T) {
	m := New().Model("m", "1")
	timing := Timing{Queue: time.Microsecond, Infer: time.Millisecond, Rows: 1, Executed: 3, Missed: true}
	if n := testing.AllocsPerRun(1000, func() {
		m.Begin()
		m.End(telemetry.OK, 2*time.Millisecond, &timing)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkEnd(b *testing.B) {
	m := New().Model("m", "1")
	timing := Timing{Queue: time.Microsecond, Infer: time.Millisecond, Rows: 1, Executed: 1}
	b.ReportAllocs()
	for b.Loop() {
		m.Begin()
		m.End(telemetry.OK, 2*time.Millisecond, &timing)
	}
}

func BenchmarkEndParallel(b *testing.B) {
	m := New().Model("m", "1")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		timing := Timing{Queue: time.Microsecond, Infer: time.Millisecond, Rows: 1, Executed: 1}
		for pb.Next() {
			m.Begin()
			m.End(telemetry.OK, 2*time.Millisecond, &timing)
		}
	})
}

func BenchmarkSnapshot(b *testing.B) {
	m := New().Model("m", "1")
	m.End(telemetry.OK, time.Millisecond, nil)
	b.ReportAllocs()
	for b.Loop() {
		m.Snapshot()
	}
}

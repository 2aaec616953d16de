package responsecache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host"
)

// echo answers its input's data as "y" and counts how often it did.
type echo struct {
	calls  atomic.Int64
	closed atomic.Bool
	run    func(ctx context.Context, n int64) error // nil: nothing more
	emit   bool
}

func (e *echo) Inputs() []tensor.Spec  { return nil }
func (e *echo) Outputs() []tensor.Spec { return nil }
func (e *echo) Close() error           { e.closed.Store(true); return nil }

func (e *echo) Infer(ctx context.Context, in []tensor.Tensor, _ []string, sink host.Sink) ([]tensor.Tensor, error) {
	n := e.calls.Add(1)
	if e.run != nil {
		if err := e.run(ctx, n); err != nil {
			return nil, err
		}
	}
	if e.emit {
		sink.Count("seen", 2)
		sink.Feature("brightness", 0.5)
	}
	return []tensor.Tensor{{Name: "y", Datatype: tensor.Uint8, Shape: []int64{int64(len(in[0].Data))}, Data: bytes.Clone(in[0].Data)}}, nil
}

func request(data ...byte) []tensor.Tensor {
	return []tensor.Tensor{{Name: "x", Datatype: tensor.Uint8, Shape: []int64{int64(len(data))}, Data: data}}
}

func infer(t testing.TB, r serving.Runner, in []tensor.Tensor) []byte {
	t.Helper()
	out, err := r.Infer(t.Context(), in, nil, nil)
	if err != nil || len(out) != 1 {
		t.Fatal(out, err)
	}
	return out[0].Data
}

func TestTheSecondTimeNothingIsComputed(t *testing.T) {
	c, e := New(Options{MaxBytes: 1 << 20}), &echo{emit: true}
	r := c.Wrap("m", "1", e)
	for i := range 3 {
		s := &sink{}
		timing := statistics.Timing{}
		ctx := context.WithValue(t.Context(), statistics.Key, &timing)
		out, err := r.Infer(ctx, request(1, 2), nil, s)
		if err != nil || !bytes.Equal(out[0].Data, []byte{1, 2}) {
			t.Fatal(out, err)
		}
		if !slices.Equal(s.lines, []string{"seen 2", "brightness 0.5"}) {
			t.Errorf("emitted %q", s.lines)
		}
		if timing.Hit != (i > 0) || timing.Missed != (i == 0) {
			t.Errorf("%+v", timing)
		}
		out[0].Name = "spoilt" // the slice is the caller's
		if i == 0 {
			out[0].Data[0] = 9 // so is what was computed for it
		}
	}
	if s := c.Stats(); e.calls.Load() != 1 || s.Hits != 2 || s.Misses != 1 || s.Entries != 1 || s.Bytes <= 0 {
		t.Errorf("%d calls, %+v", e.calls.Load(), s)
	}
	if err := r.Close(); err != nil || !e.closed.Load() {
		t.Error(err)
	}
	if s := c.Stats(); s.Entries != 0 || s.Bytes != 0 {
		t.Errorf("after Close: %+v", s)
	}
}

type sink struct{ lines []string }

func (s *sink) Feature(name string, v float64) { s.lines = append(s.lines, fmt.Sprint(name, " ", v)) }
func (s *sink) Count(name string, n uint64)    { s.lines = append(s.lines, fmt.Sprint(name, " ", n)) }

// TestWhatDiffersIsNotMixedUp: requests that would be equal if their parts were written one behind the other.
func TestWhatDiffersIsNotMixedUp(t *testing.T) {
	c := New(Options{MaxBytes: 1 << 20})
	e := &echo{}
	r := c.Wrap("m", "1", e)
	x := tensor.Tensor{Name: "x", Datatype: tensor.Uint8, Shape: []int64{2}, Data: []byte{1, 2}}
	with := func(change func(*tensor.Tensor)) tensor.Tensor { y := x; change(&y); return y }
	other := tensor.Tensor{Name: "a", Datatype: tensor.Uint8, Shape: []int64{1}, Data: []byte{7}}
	for i, q := range []struct {
		in     []tensor.Tensor
		wanted []string
	}{
		{[]tensor.Tensor{x}, nil},
		{[]tensor.Tensor{with(func(t *tensor.Tensor) { t.Name = "z" })}, nil},
		{[]tensor.Tensor{with(func(t *tensor.Tensor) { t.Datatype = tensor.Int8 })}, nil},
		{[]tensor.Tensor{with(func(t *tensor.Tensor) { t.Shape = []int64{1, 2} })}, nil},
		{[]tensor.Tensor{with(func(t *tensor.Tensor) { t.Shape = []int64{2, 1} })}, nil},
		{[]tensor.Tensor{with(func(t *tensor.Tensor) { t.Data = []byte{1, 3} })}, nil},
		{[]tensor.Tensor{x, other}, nil},
		{[]tensor.Tensor{x}, []string{"y"}},
		{[]tensor.Tensor{x}, []string{"y", "z"}},
		{[]tensor.Tensor{x}, []string{"yz"}},
	} {
		if _, err := r.Infer(t.Context(), q.in, q.wanted, nil); err != nil || e.calls.Load() != int64(i+1) {
			t.Errorf("request %d was taken for another one (%v)", i, err)
		}
	}
	n := e.calls.Load()
	if _, err := r.Infer(t.Context(), []tensor.Tensor{other, x}, nil, nil); err != nil || e.calls.Load() != n {
		t.Error("the order of the inputs matters", err)
	}
	second := &echo{}
	infer(t, c.Wrap("m", "1", second), []tensor.Tensor{x})
	if second.calls.Load() != 1 {
		t.Error("a model loaded anew was answered by what came before it")
	}
}

// TestEqualRequestsWaitForOne, and the answer is each one's.
func TestEqualRequestsWaitForOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &echo{emit: true, run: func(context.Context, int64) error { time.Sleep(time.Second); return nil }}
		r := New(Options{MaxBytes: 1 << 20}).Wrap("m", "1", e)
		var wg sync.WaitGroup
		start := time.Now()
		for range 10 {
			wg.Go(func() {
				s := &sink{}
				out, err := r.Infer(t.Context(), request(5), nil, s)
				if err != nil || out[0].Data[0] != 5 || len(s.lines) != 2 {
					t.Error(out, err, s.lines)
				}
			})
		}
		wg.Wait()
		if e.calls.Load() != 1 || time.Since(start) != time.Second {
			t.Errorf("%d calls, %v", e.calls.Load(), time.Since(start))
		}
	})
}

// TestTheEndOfOneRequestIsNotTheOthers: when the one that computes is given up, one of those that wait computes.
func TestTheEndOfOneRequestIsNotTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &echo{run: func(ctx context.Context, _ int64) error {
			select {
			case <-time.After(time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}}
		c := New(Options{MaxBytes: 1 << 20})
		r := c.Wrap("m", "1", e)
		leader, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := r.Infer(leader, request(5), nil, nil); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		synctest.Wait()
		for range 5 {
			wg.Go(func() { infer(t, r, request(5)) })
		}
		impatient, end := context.WithTimeout(t.Context(), time.Millisecond)
		defer end()
		wg.Go(func() {
			if _, err := r.Infer(impatient, request(5), nil, nil); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		})
		time.Sleep(500 * time.Millisecond)
		cancel()
		wg.Wait()
		if s := c.Stats(); e.calls.Load() != 2 || s.Misses != 2 || s.Hits != 4 {
			t.Errorf("%d calls, %+v", e.calls.Load(), s)
		}
	})
}

// TestErrorsAreNotKept: those of the model are shared with who waited, and tried again later.
func TestErrorsAreNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			err   error
			calls int64 // of the three that came at once
		}{{inference.Inputf("no"), 1}, {errors.New("kernel failed"), 1}, {serving.ErrOverloaded, 3}, {context.DeadlineExceeded, 3}} {
			e := &echo{run: func(context.Context, int64) error { time.Sleep(time.Second); return c.err }}
			r := New(Options{MaxBytes: 1 << 20}).Wrap("m", "1", e)
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					if _, err := r.Infer(t.Context(), request(5), nil, nil); !errors.Is(err, c.err) {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if e.calls.Load() != c.calls {
				t.Errorf("%v: %d calls", c.err, e.calls.Load())
			}
			e.run = nil
			infer(t, r, request(5))
		}
	})
}

func TestAPanicLeavesNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &echo{run: func(_ context.Context, n int64) error {
			time.Sleep(time.Second)
			if n == 1 {
				panic("ouch")
			}
			return nil
		}}
		places := serving.NewPlaces(1)
		r := New(Options{MaxBytes: 1 << 20, Places: places}).Wrap("m", "1", e)
		var wg sync.WaitGroup
		var panics, answers atomic.Int64
		for range 3 {
			wg.Go(func() {
				defer func() {
					if recover() != nil {
						panics.Add(1)
					}
				}()
				infer(t, r, request(5))
				answers.Add(1)
			})
		}
		wg.Wait()
		if panics.Load() != 1 || answers.Load() != 2 {
			t.Errorf("%d panics, %d answers", panics.Load(), answers.Load())
		}
		if err := places.Acquire(t.Context(), 0); err != nil { // would block for ever if the panic had kept the place
			t.Error(err)
		}
	})
}

// TestAHitWaitsForNoPlace, and a miss says how long it did.
func TestAHitWaitsForNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		places := serving.NewPlaces(1)
		asked := 0
		c := New(Options{MaxBytes: 1 << 20, Places: places, Priority: func(context.Context) uint64 { asked++; return 1 }})
		e := &echo{}
		r := c.Wrap("m", "1", e)
		if !r.(interface{ Scheduled() bool }).Scheduled() {
			t.Error("the table would take a place for a hit")
		}
		infer(t, r, request(1))
		if err := places.Acquire(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		infer(t, r, request(1))
		time.AfterFunc(time.Second, places.Release)
		timing := statistics.Timing{}
		if _, err := r.Infer(context.WithValue(t.Context(), statistics.Key, &timing), request(2), nil, nil); err != nil || timing.Queue != time.Second || timing.Lookup != 0 {
			t.Errorf("%v, %+v", err, timing)
		}
		if err := places.Acquire(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.Infer(ctx, request(3), nil, nil); !errors.Is(err, context.DeadlineExceeded) || e.calls.Load() != 2 || asked != 3 {
			t.Error(err, e.calls.Load(), asked)
		}
		if s := New(Options{}).Wrap("m", "1", e).(interface{ Scheduled() bool }).Scheduled(); s {
			t.Error("without places, the table must take one")
		}
	})
}

// TestBytesAreBounded against a plain list of what should be there.
func TestBytesAreBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most := int64(rapid.IntRange(0, 6000).Draw(t, "most"))
		c := New(Options{MaxBytes: most})
		e := &echo{}
		r := c.Wrap("m", "1", e)
		var model []byte // most recently used last
		cost := func(b byte) int64 { return entryBytes + tensorBytes + 1 + 8 + int64(b)*100 }
		bytesOf := func() (sum int64) {
			for _, b := range model {
				sum += cost(b)
			}
			return sum
		}
		for range rapid.IntRange(1, 60).Draw(t, "requests") {
			b := rapid.ByteRange(0, 9).Draw(t, "request")
			before := e.calls.Load()
			out, err := r.Infer(context.Background(), request(bytes.Repeat([]byte{b}, int(b)*100)...), nil, nil)
			if err != nil || len(out[0].Data) != int(b)*100 {
				t.Fatal(out, err)
			}
			at := slices.Index(model, b)
			if hit := e.calls.Load() == before; hit != (at >= 0) {
				t.Fatalf("request %d: hit %v, but there should be %v", b, hit, model)
			}
			if at >= 0 {
				model = append(slices.Delete(model, at, at+1), b)
			} else if cost(b) <= most {
				for model = append(model, b); bytesOf() > most; {
					model = model[1:]
				}
			}
			if s := c.Stats(); s.Bytes != bytesOf() || s.Entries != len(model) || s.Bytes > most && s.Entries > 0 {
				t.Fatalf("%+v, want %d bytes in %d", s, bytesOf(), len(model))
			}
		}
	})
}

// TestManyAtOnce is for the race detector: few keys, a small cache, requests that end, and a model that is replaced.
func TestManyAtOnce(t *testing.T) {
	c := New(Options{MaxBytes: 3000})
	var wg sync.WaitGroup
	for model := range 2 {
		r := c.Wrap(fmt.Sprint(model), "1", &echo{emit: true})
		for g := range 4 {
			wg.Go(func() {
				for i := range 300 {
					ctx, cancel := context.WithCancel(t.Context())
					if (i+g)%7 == 0 {
						cancel()
					}
					b := byte((i * (g + 1)) % 5)
					out, err := r.Infer(ctx, request(b), nil, &sink{})
					if err == nil && out[0].Data[0] != b {
						t.Errorf("%d was answered with %d", b, out[0].Data[0])
					}
					if err != nil && !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
					cancel()
				}
			})
		}
		if model == 1 {
			_ = r.Close()
		}
	}
	wg.Wait()
	if s := c.Stats(); s.Bytes > 3000 {
		t.Errorf("%+v", s)
	}
}

func BenchmarkHit4KiB(b *testing.B) {
	r := New(Options{MaxBytes: 1 << 20}).Wrap("m", "1", &echo{})
	in := request(make([]byte, 4096)...)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Infer(context.Background(), in, nil, nil); err != nil {
			b.Fatal(err)
		}
	}
}

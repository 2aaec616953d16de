package ensemble

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/agent/telemetry"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host"
)

var (
	_ serving.Runner = (*Ensemble)(nil)
	_ Caller         = serving.Runner(nil)
)

// part is a step whose function the test writes. Its answers are those asked for, as of any Runner.
type part struct {
	in, out []tensor.Spec
	run     func(ctx context.Context, in []tensor.Tensor, wanted []string, sink host.Sink) ([]tensor.Tensor, error)
	calls   atomic.Int64
}

func (p *part) Inputs() []tensor.Spec  { return p.in }
func (p *part) Outputs() []tensor.Spec { return p.out }

func (p *part) Infer(ctx context.Context, in []tensor.Tensor, wanted []string, sink host.Sink) ([]tensor.Tensor, error) {
	p.calls.Add(1)
	return p.run(ctx, in, wanted, sink)
}

func fp32(name string, shape ...int64) tensor.Spec {
	return tensor.Spec{Name: name, Datatype: tensor.FP32, Shape: shape}
}

func vector(name string, values ...float32) tensor.Tensor {
	return tensor.FromFloat32(name, []int64{int64(len(values))}, values)
}

// apply is a step y = f(x) for each element.
func apply(f func(float32) float32) *part {
	p := &part{in: []tensor.Spec{fp32("x", -1)}, out: []tensor.Spec{fp32("y", -1)}}
	p.run = func(_ context.Context, in []tensor.Tensor, _ []string, _ host.Sink) ([]tensor.Tensor, error) {
		v := in[0].Float32s()
		for i := range v {
			v[i] = f(v[i])
		}
		return []tensor.Tensor{vector("y", v...)}, nil
	}
	return p
}

func link(name, from, to string, c Caller) Step {
	return Step{Name: name, Inputs: map[string]string{"x": from}, Outputs: map[string]string{"y": to}, Caller: c}
}

func newEnsemble(t testing.TB, outputs []tensor.Spec, steps ...Step) *Ensemble {
	t.Helper()
	e, err := New(Spec{Inputs: []tensor.Spec{fp32("in", -1)}, Outputs: outputs, Steps: steps})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func double(v float32) float32 { return 2 * v }
func inc(v float32) float32    { return v + 1 }

func TestAChain(t *testing.T) {
	// Given in the wrong order, which does not matter.
	e := newEnsemble(t, []tensor.Spec{fp32("out", -1)}, link("second", "mid", "out", apply(inc)), link("first", "in", "mid", apply(double)))
	for range 3 {
		out, err := e.Infer(t.Context(), []tensor.Tensor{vector("in", 1, 2, 3)}, nil, nil)
		if err != nil || len(out) != 1 || out[0].Name != "out" || !slices.Equal(out[0].Float32s(), []float32{3, 5, 7}) {
			t.Fatal(out, err)
		}
	}
	if e.whole.branches {
		t.Error("a chain would run beside itself")
	}
	if !e.Scheduled() || len(e.Inputs()) != 1 || len(e.Outputs()) != 1 {
		t.Error("it does not say what it is")
	}
}

func TestOnlyWhatIsWantedRuns(t *testing.T) {
	a, b, unused := apply(double), apply(inc), apply(inc)
	two := &part{in: []tensor.Spec{fp32("x", -1)}, out: []tensor.Spec{fp32("left", -1), fp32("right", -1)}}
	var asked [][]string
	two.run = func(_ context.Context, in []tensor.Tensor, wanted []string, _ host.Sink) ([]tensor.Tensor, error) {
		asked = append(asked, wanted)
		if wanted == nil {
			wanted = []string{"left", "right"}
		}
		var out []tensor.Tensor
		for _, w := range wanted {
			out = append(out, vector(w, in[0].Float32s()...))
		}
		return out, nil
	}
	e := newEnsemble(t, []tensor.Spec{fp32("a", -1), fp32("b", -1)},
		Step{Name: "two", Inputs: map[string]string{"x": "in"}, Outputs: map[string]string{"left": "l", "right": "r"}, Caller: two},
		link("a", "l", "a", a), link("b", "r", "b", b), link("unused", "r", "nothing", unused))
	in := []tensor.Tensor{vector("in", 4)}
	out, err := e.Infer(t.Context(), in, []string{"b"}, nil)
	if err != nil || len(out) != 1 || out[0].Float32s()[0] != 5 {
		t.Fatal(out, err)
	}
	if out, err = e.Infer(t.Context(), in, []string{"b", "a"}, nil); err != nil || out[0].Name != "b" || out[1].Float32s()[0] != 8 {
		t.Fatal(out, err)
	}
	if a.calls.Load() != 1 || b.calls.Load() != 2 || unused.calls.Load() != 0 {
		t.Errorf("calls %d %d %d", a.calls.Load(), b.calls.Load(), unused.calls.Load())
	}
	if len(asked) != 2 || !slices.Equal(asked[0], []string{"right"}) || asked[1] != nil {
		t.Errorf("asked for %q", asked)
	}
	var misfit *inference.InputError
	if _, err = e.Infer(t.Context(), in, []string{"c"}, nil); !errors.As(err, &misfit) {
		t.Error(err)
	}
	if _, err = e.Infer(t.Context(), []tensor.Tensor{vector("other", 1)}, nil, nil); !errors.As(err, &misfit) {
		t.Error(err)
	}
}

func TestWhatCannotBeIsRefused(t *testing.T) {
	in, out := []tensor.Spec{fp32("in", -1)}, []tensor.Spec{fp32("out", -1)}
	for words, steps := range map[string][]Step{
		"nothing computes step 1 (a)":               {{Name: "a"}},
		"these steps wait for each other: a, b":     {link("a", "m", "out", apply(inc)), link("b", "out", "m", apply(inc))},
		`output "out" is made by no step`:           {link("a", "in", "m", apply(inc))},
		`step a takes "nowhere", which neither the`: {link("a", "nowhere", "out", apply(inc))},
	} {
		if _, err := New(Spec{Inputs: in, Outputs: out, Steps: steps}); err == nil || !strings.Contains(err.Error(), "cannot make an ensemble: "+words) {
			t.Errorf("%v, want %q", err, words)
		}
	}
}

// TestWhoseFaultItIs: a step that saw the request may blame it, one that did not may not.
func TestWhoseFaultItIs(t *testing.T) {
	picky := apply(inc)
	inner := picky.run
	picky.run = func(ctx context.Context, in []tensor.Tensor, wanted []string, sink host.Sink) ([]tensor.Tensor, error) {
		if in[0].Float32s()[0] < 0 {
			return nil, inference.Inputf("too small")
		}
		return inner(ctx, in, wanted, sink)
	}
	first := newEnsemble(t, []tensor.Spec{fp32("out", -1)}, link("picky", "in", "mid", picky), link("b", "mid", "out", apply(inc)))
	second := newEnsemble(t, []tensor.Spec{fp32("out", -1)}, link("a", "in", "mid", apply(inc)), link("picky", "mid", "out", picky))
	in := []tensor.Tensor{vector("in", -5)}
	for _, c := range []struct {
		e    *Ensemble
		code telemetry.Code
	}{{first, telemetry.InvalidInput}, {second, telemetry.ModelError}} {
		_, err := c.e.Infer(t.Context(), in, nil, nil)
		var failed *Error
		var misfit *inference.InputError
		if !errors.As(err, &failed) || failed.Step != "picky" || serving.CodeOf(err) != c.code || !strings.Contains(err.Error(), "too small") {
			t.Errorf("%v, code %v", err, serving.CodeOf(err))
		}
		if errors.As(err, &misfit) != (c.code == telemetry.InvalidInput) {
			t.Errorf("%v", err)
		}
	}
}

func TestStepsThatBreakTheirWord(t *testing.T) {
	for _, c := range []struct {
		words string
		code  telemetry.Code
		out   []tensor.Tensor
	}{
		{"step b: it was asked for 1 tensors and returned 0", telemetry.Internal, nil},
		{`step b: it was asked for "y" and returned "z"`, telemetry.Internal, []tensor.Tensor{vector("z", 1)}},
		{`step b: output "out" came as INT64 [1], FP32 [-1] was promised`, telemetry.ModelError, []tensor.Tensor{{Name: "y", Datatype: tensor.Int64, Shape: []int64{1}, Data: make([]byte, 8)}}},
	} {
		b := &part{in: []tensor.Spec{{Name: "x"}}, out: []tensor.Spec{{Name: "y"}}}
		b.run = func(context.Context, []tensor.Tensor, []string, host.Sink) ([]tensor.Tensor, error) {
			return c.out, nil
		}
		e := newEnsemble(t, []tensor.Spec{fp32("out", -1)}, link("a", "in", "mid", apply(inc)), link("b", "mid", "out", b))
		if _, err := e.Infer(t.Context(), []tensor.Tensor{vector("in", 1)}, nil, nil); err == nil || err.Error() != c.words || serving.CodeOf(err) != c.code {
			t.Errorf("%v (%v), want %s", err, serving.CodeOf(err), c.words)
		}
	}
}

// TestTheEndOfTheRequestStopsTheRest for a chain and for branches.
func TestTheEndOfTheRequestStopsTheRest(t *testing.T) {
	for _, branches := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			slow := apply(inc)
			slow.run = func(ctx context.Context, _ []tensor.Tensor, _ []string, _ host.Sink) ([]tensor.Tensor, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			after := apply(inc)
			steps := []Step{link("slow", "in", "mid", slow), link("after", "mid", "out", after)}
			outputs := []tensor.Spec{fp32("out", -1)}
			if branches {
				steps = append(steps, link("beside", "in", "other", apply(inc)))
				outputs = append(outputs, fp32("other", -1))
			}
			e := newEnsemble(t, outputs, steps...)
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_, err := e.Infer(ctx, []tensor.Tensor{vector("in", 1)}, nil, nil)
			if !errors.Is(err, context.DeadlineExceeded) || serving.CodeOf(err) != telemetry.Deadline || after.calls.Load() != 0 {
				t.Errorf("%v, %d calls after", err, after.calls.Load())
			}
			if _, err := e.Infer(ctx, []tensor.Tensor{vector("in", 1)}, nil, nil); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		})
	}
}

// TestBranchesRunBesideEachOther: as many as allowed at once, each with its own timing, and an error ends the others.
func TestBranchesRunBesideEachOther(t *testing.T) {
	for _, limit := range []int{0, 1, 2} {
		synctest.Test(t, func(t *testing.T) {
			fail := errors.New("broken")
			var failing atomic.Bool
			var now, most atomic.Int64
			var steps []Step
			var outputs []tensor.Spec
			for i := range 6 {
				p := apply(inc)
				inner := p.run
				p.run = func(ctx context.Context, in []tensor.Tensor, wanted []string, sink host.Sink) ([]tensor.Tensor, error) {
					if n := now.Add(1); n > most.Load() {
						most.Store(n)
					}
					defer now.Add(-1)
					sink.Count("ran", 1)
					wait := time.Second
					if failing.Load() && i == 3 {
						wait /= 2
					}
					select {
					case <-time.After(wait):
					case <-ctx.Done():
						return nil, ctx.Err()
					}
					statistics.Of(ctx).Infer += time.Second
					if failing.Load() && i == 3 {
						return nil, fail
					}
					return inner(ctx, in, wanted, sink)
				}
				out := fmt.Sprint("out", i)
				steps = append(steps, link(fmt.Sprint("s", i), "in", out, p))
				outputs = append(outputs, fp32(out, -1))
			}
			e, err := New(Spec{Inputs: []tensor.Spec{fp32("in", -1)}, Outputs: outputs, Steps: steps, Parallel: limit})
			if err != nil {
				t.Fatal(err)
			}
			want := map[int]int64{0: 6, 1: 1, 2: 2}[limit]
			timing := statistics.Timing{Rows: 1}
			ctx := context.WithValue(context.Background(), statistics.Key, &timing)
			counted := counts{}
			start := time.Now()
			out, err := e.Infer(ctx, []tensor.Tensor{vector("in", 1)}, nil, counted)
			if err != nil || len(out) != 6 || out[5].Name != "out5" || out[5].Float32s()[0] != 2 {
				t.Fatal(out, err)
			}
			if took := time.Since(start); took != time.Duration(6/want)*time.Second || most.Load() != want {
				t.Errorf("took %v, %d at once", took, most.Load())
			}
			if timing.Infer != 6*time.Second || counted["ran"] != 6 {
				t.Errorf("%+v, %v", timing, counted)
			}
			failing.Store(true)
			if _, err = e.Infer(ctx, []tensor.Tensor{vector("in", 1)}, nil, counted); !errors.Is(err, fail) || now.Load() != 0 {
				t.Errorf("%v, %d still run", err, now.Load())
			}
		})
	}
}

type counts map[string]uint64

func (c counts) Feature(string, float64)       {}
func (c counts) Count(name string, add uint64) { c[name] += add }

// TestAPanicBesideReachesTheCaller, who knows what to do about it: on another goroutine it would end the process.
func TestAPanicBesideReachesTheCaller(t *testing.T) {
	bad := apply(func(float32) float32 { panic("ouch") })
	e := newEnsemble(t, []tensor.Spec{fp32("a", -1), fp32("b", -1)}, link("good", "in", "a", apply(inc)), link("bad", "in", "b", bad))
	defer func() {
		if p, _ := recover().(string); !strings.Contains(p, "step bad: ouch") {
			t.Errorf("recovered %q", p)
		}
	}()
	_, err := e.Infer(t.Context(), []tensor.Tensor{vector("in", 1)}, nil, nil)
	t.Errorf("no panic but %v", err)
}

func TestCloseOnce(t *testing.T) {
	closed := 0
	e, err := New(Spec{
		Inputs: []tensor.Spec{fp32("in", -1)}, Outputs: []tensor.Spec{fp32("out", -1)},
		Steps: []Step{link("a", "in", "out", apply(inc))}, Close: func() error { closed++; return errors.New("late") },
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := e.Close(); err == nil || closed != 1 {
			t.Error(err, closed)
		}
	}
	if err := newEnsemble(t, []tensor.Spec{fp32("out", -1)}, link("a", "in", "out", apply(inc))).Close(); err != nil {
		t.Error(err)
	}
}

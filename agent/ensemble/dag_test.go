package ensemble

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host"
)

// sum is a step with n inputs and two outputs: "sum", weighted by position, and "next", which is the sum plus one.
func sum(n int) *part {
	p := &part{out: []tensor.Spec{fp32("sum", -1), fp32("next", -1)}}
	for i := range n {
		p.in = append(p.in, fp32(fmt.Sprint("x", i), -1))
	}
	p.run = func(_ context.Context, in []tensor.Tensor, wanted []string, _ host.Sink) ([]tensor.Tensor, error) {
		var total float32
		for i := range in {
			if in[i].Name != p.in[i].Name {
				return nil, fmt.Errorf("input %d is %q", i, in[i].Name)
			}
			total += float32(i+1) * in[i].Float32s()[0]
		}
		if wanted == nil {
			wanted = []string{"sum", "next"}
		}
		var out []tensor.Tensor
		for _, w := range wanted {
			v := total
			if w == "next" {
				v++
			}
			out = append(out, vector(w, remainder(v)))
		}
		return out, nil
	}
	return p
}

// remainder keeps the numbers small enough to be exact.
func remainder(v float32) float32 { return float32(int64(v) % 9973) }

// TestAnyGraphIsComputedAsByHand: random graphs of sums, in random order, asked for random outputs, against values
// computed in the order in which they were drawn.
func TestAnyGraphIsComputedAsByHand(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := map[string]float32{}
		var names []string
		var inputs []tensor.Spec
		var request []tensor.Tensor
		for i := range rapid.IntRange(1, 3).Draw(t, "inputs") {
			name := fmt.Sprint("in", i)
			values[name] = float32(rapid.IntRange(0, 100).Draw(t, name))
			inputs, names = append(inputs, fp32(name, -1)), append(names, name)
			request = append(request, vector(name, values[name]))
		}
		var steps []Step
		var parts []*part
		var made []tensor.Spec
		needs := map[string][]string{} // output -> the inputs of its step, and the step
		for i := range rapid.IntRange(1, 20).Draw(t, "steps") {
			n := rapid.IntRange(1, 4).Draw(t, "fan-in")
			s := Step{Name: fmt.Sprint("s", i), Inputs: map[string]string{}, Outputs: map[string]string{}}
			var total float32
			var from []string
			for j := range n {
				source := rapid.SampledFrom(names).Draw(t, "source")
				s.Inputs[fmt.Sprint("x", j)] = source
				from = append(from, source)
				total += float32(j+1) * values[source]
			}
			out := fmt.Sprint("t", i)
			s.Outputs["sum"], values[out] = out, remainder(total)
			names, made, needs[out] = append(names, out), append(made, fp32(out, -1)), append(from, s.Name)
			if rapid.Bool().Draw(t, "next is used") {
				s.Outputs["next"], values[out+"+"] = out+"+", remainder(total+1)
				names, made, needs[out+"+"] = append(names, out+"+"), append(made, fp32(out+"+", -1)), needs[out]
			}
			p := sum(n)
			s.Caller = p
			parts, steps = append(parts, p), append(steps, s)
		}
		outputs := rapid.SliceOfNDistinct(rapid.SampledFrom(made), 1, 4, func(s tensor.Spec) string { return s.Name }).Draw(t, "outputs")
		shuffled := slices.Clone(steps)
		seed := rapid.Uint64().Draw(t, "order")
		rand.New(rand.NewPCG(seed, 1)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		e, err := New(Spec{Inputs: inputs, Outputs: outputs, Steps: shuffled, Parallel: rapid.IntRange(0, 3).Draw(t, "parallel")})
		if err != nil {
			t.Fatal(err)
		}
		var wanted []string
		for _, o := range outputs {
			if rapid.Bool().Draw(t, "wanted") {
				wanted = append(wanted, o.Name)
			}
		}
		out, err := e.Infer(context.Background(), request, wanted, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(wanted) == 0 {
			for _, o := range outputs {
				wanted = append(wanted, o.Name)
			}
		}
		for i, w := range wanted {
			if out[i].Name != w || out[i].Float32s()[0] != values[w] {
				t.Fatalf("%s is %v, want %v", w, out[i].Float32s(), values[w])
			}
		}
		// Each step that is needed ran once, the others not at all.
		run := map[string]bool{}
		var visit func(name string)
		visit = func(name string) {
			if n := needs[name]; n != nil {
				run[n[len(n)-1]] = true
				for _, from := range n[:len(n)-1] {
					visit(from)
				}
			}
		}
		for _, w := range wanted {
			visit(w)
		}
		for i, p := range parts {
			want := int64(0)
			if run[steps[i].Name] {
				want = 1
			}
			if p.calls.Load() != want {
				t.Fatalf("step %s ran %d times, want %d", steps[i].Name, p.calls.Load(), want)
			}
		}
	})
}

// still returns its input as its output without an allocation of its own.
type still struct{ in, out []tensor.Spec }

func (s *still) Inputs() []tensor.Spec  { return s.in }
func (s *still) Outputs() []tensor.Spec { return s.out }

var kept = []tensor.Tensor{vector("y", 1)}

func (s *still) Infer(context.Context, []tensor.Tensor, []string, host.Sink) ([]tensor.Tensor, error) {
	return kept, nil
}

func chain(t testing.TB, n int) *Ensemble {
	t.Helper()
	var steps []Step
	from := "in"
	for i := range n {
		to := fmt.Sprint("t", i)
		steps = append(steps, link(to, from, to, &still{[]tensor.Spec{fp32("x", -1)}, []tensor.Spec{fp32("y", -1)}}))
		from = to
	}
	return newEnsemble(t, []tensor.Spec{fp32(from, -1)}, steps...)
}

// TestAChainAllocatesOnlyItsAnswer: the one slice that the caller keeps.
func TestAChainAllocatesOnlyItsAnswer(t *testing.T) {
	e, in := chain(t, 3), []tensor.Tensor{vector("in", 1)}
	if n := testing.AllocsPerRun(200, func() {
		if _, err := e.Infer(context.Background(), in, nil, nil); err != nil {
			t.Fatal(err)
		}
	}); n > 1 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkChainOfThree(b *testing.B) {
	e, in := chain(b, 3), []tensor.Tensor{vector("in", 1)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Infer(context.Background(), in, nil, nil); err != nil {
			b.Fatal(err)
		}
	}
}

package dataflow

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/models/tensor"
)

func fp32(name string, shape ...int64) tensor.Spec {
	return tensor.Spec{Name: name, Datatype: tensor.FP32, Shape: shape}
}

// link is a step with an input x and an output y.
func link(name, from, to string, x, y tensor.Spec) Step {
	return Step{Name: name, Takes: []tensor.Spec{x}, Gives: []tensor.Spec{y}, Inputs: map[string]string{"x": from}, Outputs: map[string]string{"y": to}}
}

func good(name, from, to string) Step { return link(name, from, to, fp32("x", -1), fp32("y", -1)) }

type chain struct {
	Inputs, Outputs []tensor.Spec
	Steps           []Step
}

func TestTheOrderIsWorkedOut(t *testing.T) {
	two := Step{
		Name: "two", Takes: []tensor.Spec{{Name: "b"}, {Name: "a"}}, Gives: []tensor.Spec{{Name: "unused"}, {Name: "y"}},
		Inputs: map[string]string{"a": "in", "b": "m"}, Outputs: map[string]string{"y": "out"},
	}
	g, err := Connect([]tensor.Spec{fp32("in", -1)}, []tensor.Spec{fp32("out", -1)}, []Step{two, good("one", "in", "m")})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(g.Order, []int{1, 0}) || g.Wires != 3 || g.Inputs != 3 || !slices.Equal(g.Outputs, []int{1}) {
		t.Errorf("%+v", g)
	}
	s := g.Steps[0]
	if !slices.Equal(s.In, []Wire{{"b", 2}, {"a", 0}}) || !slices.Equal(s.Out, []Wire{{"unused", -1}, {"y", 1}}) || !s.Direct || s.Needs != 2 || g.Steps[1].First != 2 {
		t.Errorf("%+v", g.Steps)
	}
}

func TestWhatCannotBeIsRefused(t *testing.T) {
	one := func(s Step, change func(*Step)) []Step { change(&s); return []Step{s} }
	ints := func(name, from, to string) Step {
		return link(name, from, to, tensor.Spec{Name: "x", Datatype: tensor.Int64, Shape: []int64{-1}}, fp32("y", -1))
	}
	wide := func(name, from, to string) Step { return link(name, from, to, fp32("x", 3), fp32("y", 5)) }
	in, out := []tensor.Spec{fp32("in", -1)}, []tensor.Spec{fp32("out", -1)}
	many := make([]Step, MaxSteps+1)
	for i := range many {
		many[i] = good(fmt.Sprint(i), "in", fmt.Sprint("t", i))
	}
	for _, c := range []struct {
		name, words string
		spec        chain
	}{
		{"no steps", "no steps", chain{Inputs: in, Outputs: out}},
		{"too many steps", "65 steps", chain{Inputs: in, Outputs: out, Steps: many}},
		{"no outputs", "no outputs", chain{Inputs: in, Steps: []Step{good("a", "in", "out")}}},
		{"input without datatype", `input "in" has no datatype`, chain{Inputs: []tensor.Spec{{Name: "in"}}, Outputs: out, Steps: []Step{good("a", "in", "out")}}},
		{"output without datatype", `output "out" has no datatype`, chain{Inputs: in, Outputs: []tensor.Spec{{Name: "out"}}, Steps: []Step{good("a", "in", "out")}}},
		{"input twice", `"in" is made twice, by the request and by the request`, chain{Inputs: append(in, in...), Outputs: out, Steps: []Step{good("a", "in", "out")}}},
		{"output twice", `two outputs "out"`, chain{Inputs: in, Outputs: append(out, out...), Steps: []Step{good("a", "in", "out")}}},
		{"step without name", "step 1 has no name", chain{Inputs: in, Outputs: out, Steps: []Step{good("", "in", "out")}}},
		{"same step twice", "two steps are called a", chain{Inputs: in, Outputs: out, Steps: []Step{good("a", "in", "out"), good("a", "in", "b")}}},
		{"made twice", `"out" is made twice, by step a and by step b`, chain{Inputs: in, Outputs: out, Steps: []Step{good("a", "in", "out"), good("b", "in", "out")}}},
		{"makes an input", `"in" is made twice, by the request and by step a`, chain{Inputs: in, Outputs: out, Steps: []Step{good("a", "in", "in")}}},
		{"no outputs of a step", "step a has no outputs", chain{Inputs: in, Outputs: out, Steps: one(good("a", "in", "out"), func(s *Step) { s.Outputs = nil })}},
		{"unknown output of a step", `step a has no output "z"; it has "y"`, chain{Inputs: in, Outputs: out, Steps: one(good("a", "in", "out"), func(s *Step) { s.Outputs = map[string]string{"z": "out"} })}},
		{"unknown input of a step", `step a has no input "w"; it has "x"`, chain{Inputs: in, Outputs: out, Steps: one(good("a", "in", "out"), func(s *Step) { s.Inputs = map[string]string{"w": "in"} })}},
		{"missing input of a step", `step a needs the input "x"`, chain{Inputs: in, Outputs: out, Steps: one(good("a", "in", "out"), func(s *Step) { s.Inputs = nil })}},
		{"unknown name", `step a takes "nowhere"`, chain{Inputs: in, Outputs: out, Steps: []Step{good("a", "nowhere", "out")}}},
		{"output not made", `output "out" is made by no step`, chain{Inputs: in, Outputs: out, Steps: []Step{good("a", "in", "b")}}},
		{"output is an input", `output "in" is made by no step`, chain{Inputs: in, Outputs: in, Steps: []Step{good("a", "in", "b")}}},
		{"datatypes", `"in" comes from the request as FP32 [-1], but step a takes INT64 [-1]`, chain{Inputs: in, Outputs: out, Steps: []Step{ints("a", "in", "out")}}},
		{"shapes", `"m" comes from step a as FP32 [5], but step b takes FP32 [3]`, chain{Inputs: in, Outputs: out, Steps: []Step{wide("a", "in", "m"), wide("b", "m", "out")}}},
		{"promised", `output "out" comes from step a as FP32 [5], FP32 [4] is promised`, chain{Inputs: in, Outputs: []tensor.Spec{fp32("out", 4)}, Steps: []Step{wide("a", "in", "out")}}},
		{"a cycle", "these steps wait for each other: b, c", chain{Inputs: in, Outputs: out, Steps: []Step{good("a", "b", "out"), good("b", "c", "b"), good("c", "b", "c")}}},
		{"a cycle of one", "these steps wait for each other: a", chain{Inputs: in, Outputs: out, Steps: []Step{good("a", "out", "out")}}},
		{"a tensor without a name", "a tensor has no name", chain{Inputs: in, Outputs: out, Steps: []Step{good("a", "in", "")}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Connect(c.spec.Inputs, c.spec.Outputs, c.spec.Steps); err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v, want %q", err, c.words)
			}
		})
	}
}

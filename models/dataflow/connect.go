// Package dataflow works out how the steps of a chain fit together: which takes what from which, and in which order they
// can run.
//
// A step has its own names for its tensors; maps say by which names the chain knows them. Connect wants each name of the
// chain made exactly once, each input of a step known, no step waiting for itself, and datatypes and shapes that go
// together as far as steps say them: a datatype of tensor.Invalid is open, and so is a shape without dimensions. The
// errors are sentences for whoever wrote the chain.
//
// The package is pure. A Graph is not changed after it was made.
package dataflow

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dhowfleet/dhow/models/tensor"
)

// Bounds of a chain.
const (
	MaxSteps   = 64 // sets of steps are the bits of a number
	MaxTensors = 1024
)

// Step is one step as it describes itself.
type Step struct {
	Name string // unique
	// Takes are the inputs that it must be given, Gives the outputs that it can give, by its own names.
	Takes, Gives []tensor.Spec
	// Inputs and Outputs map its own names to the chain's. Outputs that are not in the map are not used.
	Inputs, Outputs map[string]string
}

// Graph is a chain whose names are resolved.
type Graph struct {
	Steps   []Connected // as they were given
	Order   []int       // of Steps: each after those that it needs, otherwise as they were given
	Wires   int         // names; the first are the chain's inputs
	Inputs  int         // of all steps together
	Outputs []int       // the wires of the chain's outputs
}

// Connected is a step whose names are resolved.
type Connected struct {
	Name   string
	In     []Wire // as in Takes
	Out    []Wire // as in Gives; Wire is -1 for an output that is not used
	First  int    // the number of inputs that the steps before it have
	Direct bool   // it takes an input of the chain
	Needs  uint64 // the steps whose outputs it takes, in one bit each
}

// Wire connects a step's own name of a tensor with the number of the chain's name.
type Wire struct {
	Name string
	Wire int
}

// name is what is known of one of the chain's tensors.
type name struct {
	spec tensor.Spec
	by   int // the step that makes it, -1 for an input of the chain
}

type builder struct {
	graph Graph
	names []name
	index map[string]int
}

// Connect works out a chain that turns inputs into outputs.
func Connect(inputs, outputs []tensor.Spec, steps []Step) (*Graph, error) {
	b := &builder{index: map[string]int{}}
	if err := b.build(inputs, outputs, steps); err != nil {
		return nil, err
	}
	return &b.graph, nil
}

func (b *builder) build(inputs, outputs []tensor.Spec, steps []Step) error {
	switch {
	case len(steps) == 0:
		return fmt.Errorf("it has no steps")
	case len(steps) > MaxSteps:
		return fmt.Errorf("it has %d steps, at most %d are allowed", len(steps), MaxSteps)
	case len(outputs) == 0:
		return fmt.Errorf("it has no outputs")
	}
	for _, in := range inputs {
		if !in.Datatype.Valid() {
			return fmt.Errorf("input %q has no datatype", in.Name)
		}
		if err := b.add(in.Name, name{spec: in, by: -1}); err != nil {
			return err
		}
	}
	for i := range steps {
		if err := b.outputsOf(i, &steps[i]); err != nil {
			return err
		}
	}
	b.graph.Wires = len(b.names)
	for i := range steps {
		if err := b.inputsOf(i, &steps[i]); err != nil {
			return err
		}
	}
	if err := b.promised(outputs); err != nil {
		return err
	}
	return b.order()
}

func (b *builder) add(as string, n name) error {
	if as == "" {
		return fmt.Errorf("a tensor has no name")
	}
	if at, ok := b.index[as]; ok {
		return fmt.Errorf("%q is made twice, by %s and by %s", as, b.source(b.names[at].by), b.source(n.by))
	}
	if len(b.names) == MaxTensors {
		return fmt.Errorf("it has more than %d tensors", MaxTensors)
	}
	b.index[as] = len(b.names)
	b.names = append(b.names, n)
	return nil
}

func (b *builder) source(by int) string {
	if by < 0 {
		return "the request"
	}
	return "step " + b.graph.Steps[by].Name
}

// outputsOf enters a step with the names that it makes.
func (b *builder) outputsOf(i int, s *Step) error {
	if s.Name == "" {
		return fmt.Errorf("step %d has no name", i+1)
	}
	if slices.ContainsFunc(b.graph.Steps, func(o Connected) bool { return o.Name == s.Name }) {
		return fmt.Errorf("two steps are called %s", s.Name)
	}
	b.graph.Steps = append(b.graph.Steps, Connected{Name: s.Name})
	st := &b.graph.Steps[i]
	if len(s.Outputs) == 0 {
		return fmt.Errorf("step %s has no outputs", s.Name)
	}
	for _, own := range slices.Sorted(maps.Keys(s.Outputs)) {
		if !slices.ContainsFunc(s.Gives, func(t tensor.Spec) bool { return t.Name == own }) {
			return fmt.Errorf("step %s has no output %q; it has %s", s.Name, own, list(s.Gives))
		}
	}
	for _, c := range s.Gives {
		w := Wire{c.Name, -1}
		if as, mapped := s.Outputs[c.Name]; mapped {
			if err := b.add(as, name{spec: c, by: i}); err != nil {
				return err
			}
			w.Wire = b.index[as]
		}
		st.Out = append(st.Out, w)
	}
	return nil
}

// inputsOf connects a step with what it takes.
func (b *builder) inputsOf(i int, s *Step) error {
	st := &b.graph.Steps[i]
	for _, own := range slices.Sorted(maps.Keys(s.Inputs)) {
		if !slices.ContainsFunc(s.Takes, func(t tensor.Spec) bool { return t.Name == own }) {
			return fmt.Errorf("step %s has no input %q; it has %s", s.Name, own, list(s.Takes))
		}
	}
	st.First = b.graph.Inputs
	for _, w := range s.Takes {
		from, mapped := s.Inputs[w.Name]
		if !mapped {
			return fmt.Errorf("step %s needs the input %q, which nothing gives it", s.Name, w.Name)
		}
		at, known := b.index[from]
		if !known {
			return fmt.Errorf("step %s takes %q, which neither the request nor a step has", s.Name, from)
		}
		n := &b.names[at]
		if n.by < 0 {
			st.Direct = true
		} else {
			st.Needs |= 1 << n.by
		}
		if !goTogether(&n.spec, &w) {
			return fmt.Errorf("%q comes from %s as %s %v, but step %s takes %s %v", from, b.source(n.by), n.spec.Datatype, n.spec.Shape, s.Name, w.Datatype, w.Shape)
		}
		st.In = append(st.In, Wire{w.Name, at})
	}
	b.graph.Inputs += len(st.In)
	return nil
}

// promised finds the chain's outputs.
func (b *builder) promised(outputs []tensor.Spec) error {
	for i := range outputs {
		o := &outputs[i]
		if !o.Datatype.Valid() {
			return fmt.Errorf("output %q has no datatype", o.Name)
		}
		if slices.ContainsFunc(outputs[:i], func(t tensor.Spec) bool { return t.Name == o.Name }) {
			return fmt.Errorf("it has two outputs %q", o.Name)
		}
		at, known := b.index[o.Name]
		if !known || b.names[at].by < 0 {
			return fmt.Errorf("output %q is made by no step", o.Name)
		}
		if n := &b.names[at]; !goTogether(&n.spec, o) {
			return fmt.Errorf("output %q comes from %s as %s %v, %s %v is promised", o.Name, b.source(n.by), n.spec.Datatype, n.spec.Shape, o.Datatype, o.Shape)
		}
		b.graph.Outputs = append(b.graph.Outputs, at)
	}
	return nil
}

// goTogether is whether a tensor as one may be a tensor as the other. A shape without dimensions says nothing: runtimes
// describe a tensor of unknown rank so.
func goTogether(a, b *tensor.Spec) bool {
	if !a.Datatype.Valid() || !b.Datatype.Valid() {
		return true
	}
	if a.Datatype != b.Datatype {
		return false
	}
	if len(a.Shape) == 0 || len(b.Shape) == 0 {
		return true
	}
	if len(a.Shape) != len(b.Shape) {
		return false
	}
	for i := range a.Shape {
		if a.Shape[i] >= 0 && b.Shape[i] >= 0 && a.Shape[i] != b.Shape[i] {
			return false
		}
	}
	return true
}

// order sorts the steps so that each comes after those that it needs, and otherwise as they were given.
func (b *builder) order() error {
	order := &b.graph.Order
	var done uint64
	for len(*order) < len(b.graph.Steps) {
		found := false
		for i := range b.graph.Steps {
			if done>>i&1 == 0 && b.graph.Steps[i].Needs&^done == 0 {
				*order, done, found = append(*order, i), done|1<<i, true
				break
			}
		}
		if !found {
			return fmt.Errorf("these steps wait for each other: %s", strings.Join(b.cycle(done), ", "))
		}
	}
	return nil
}

// cycle walks from a step that never got its inputs to the ones that it waits for, until one comes again.
func (b *builder) cycle(done uint64) []string {
	var path []int
	at := slices.IndexFunc(b.graph.Steps, func(s Connected) bool { return s.Needs&^done != 0 })
	for !slices.Contains(path, at) {
		path = append(path, at)
		for i := range b.graph.Steps {
			if (b.graph.Steps[at].Needs&^done)>>i&1 == 1 {
				at = i
				break
			}
		}
	}
	var out []string
	for _, i := range path[slices.Index(path, at):] {
		out = append(out, b.graph.Steps[i].Name)
	}
	return out
}

func list(specs []tensor.Spec) string {
	const most = 8
	var out []string
	for i := range specs[:min(len(specs), most)] {
		out = append(out, fmt.Sprintf("%q", specs[i].Name))
	}
	if len(specs) > most {
		out = append(out, fmt.Sprintf("and %d more", len(specs)-most))
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ", ")
}

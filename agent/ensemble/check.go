package ensemble

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dhowfleet/dhow/models/tensor"
)

// wire connects a step's own name of a tensor with the ensemble's, which goes by its number.
type wire struct {
	name string
	wire int
}

// step is a Step with its names resolved.
type step struct {
	name    string
	caller  Caller
	in, out []wire
	first   int    // where its inputs lie in a state
	direct  bool   // it takes an input of the ensemble
	needs   uint64 // the steps that must run before it, in one bit each
}

// name is what the ensemble knows of one of its tensors.
type name struct {
	spec tensor.Spec // datatype Invalid where it is not known
	by   int         // the step that makes it, -1 for an input of the ensemble
}

// builder makes an Ensemble.
type builder struct {
	e     *Ensemble
	names []name
	index map[string]int
}

// New checks an ensemble and makes it. The sentences of its errors are for whoever wrote the configuration.
func New(s Spec) (*Ensemble, error) {
	b := &builder{e: &Ensemble{inputs: s.Inputs, outputs: s.Outputs, close: s.Close, parallel: s.Parallel}, index: map[string]int{}}
	if b.e.parallel <= 0 {
		b.e.parallel = defaultParallel
	}
	if err := b.build(s); err != nil {
		return nil, fmt.Errorf("cannot make an ensemble: %w", err)
	}
	return b.e, nil
}

func (b *builder) build(s Spec) error {
	switch {
	case len(s.Steps) == 0:
		return fmt.Errorf("it has no steps")
	case len(s.Steps) > MaxSteps:
		return fmt.Errorf("it has %d steps, at most %d are allowed", len(s.Steps), MaxSteps)
	case len(s.Outputs) == 0:
		return fmt.Errorf("it has no outputs")
	}
	for _, in := range s.Inputs {
		if !in.Datatype.Valid() {
			return fmt.Errorf("input %q has no datatype", in.Name)
		}
		if err := b.add(in.Name, name{spec: in, by: -1}); err != nil {
			return err
		}
	}
	for i := range s.Steps {
		if err := b.outputsOf(i, &s.Steps[i]); err != nil {
			return err
		}
	}
	b.e.wires = len(b.names)
	for i := range s.Steps {
		if err := b.inputsOf(i, &s.Steps[i]); err != nil {
			return err
		}
	}
	if err := b.promised(s.Outputs); err != nil {
		return err
	}
	order, err := b.order()
	if err != nil {
		return err
	}
	b.e.whole = b.e.plan(order, nil)
	return nil
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
	return "step " + b.e.steps[by].name
}

// outputsOf enters a step with the names that it makes.
func (b *builder) outputsOf(i int, s *Step) error {
	if s.Name == "" || s.Caller == nil {
		return fmt.Errorf("step %d has no name or nothing that computes it", i+1)
	}
	if slices.ContainsFunc(b.e.steps, func(o step) bool { return o.name == s.Name }) {
		return fmt.Errorf("two steps are called %s", s.Name)
	}
	b.e.steps = append(b.e.steps, step{name: s.Name, caller: s.Caller})
	st := &b.e.steps[i]
	if len(s.Outputs) == 0 {
		return fmt.Errorf("step %s has no outputs", s.Name)
	}
	can := s.Caller.Outputs()
	for own := range s.Outputs {
		if !slices.ContainsFunc(can, func(t tensor.Spec) bool { return t.Name == own }) {
			return fmt.Errorf("step %s has no output %q; it has %s", s.Name, own, list(can))
		}
	}
	for _, c := range can {
		w := wire{c.Name, -1}
		if as, mapped := s.Outputs[c.Name]; mapped {
			if err := b.add(as, name{spec: c, by: i}); err != nil {
				return err
			}
			w.wire = b.index[as]
		}
		st.out = append(st.out, w)
	}
	return nil
}

// inputsOf connects a step with what it takes.
func (b *builder) inputsOf(i int, s *Step) error {
	st := &b.e.steps[i]
	wants := s.Caller.Inputs()
	for _, own := range slices.Sorted(maps.Keys(s.Inputs)) {
		if !slices.ContainsFunc(wants, func(t tensor.Spec) bool { return t.Name == own }) {
			return fmt.Errorf("step %s has no input %q; it has %s", s.Name, own, list(wants))
		}
	}
	st.first = b.e.segments
	for _, w := range wants {
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
			st.direct = true
		} else {
			st.needs |= 1 << n.by
		}
		if !goTogether(&n.spec, &w) {
			return fmt.Errorf("%q comes from %s as %s %v, but step %s takes %s %v", from, b.source(n.by), n.spec.Datatype, n.spec.Shape, s.Name, w.Datatype, w.Shape)
		}
		st.in = append(st.in, wire{w.Name, at})
	}
	b.e.segments += len(st.in)
	return nil
}

// promised finds the ensemble's outputs.
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
		b.e.outputWires = append(b.e.outputWires, at)
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
func (b *builder) order() ([]int, error) {
	var order []int
	var done uint64
	for len(order) < len(b.e.steps) {
		found := false
		for i := range b.e.steps {
			if done>>i&1 == 0 && b.e.steps[i].needs&^done == 0 {
				order, done, found = append(order, i), done|1<<i, true
				break
			}
		}
		if !found {
			return nil, fmt.Errorf("these steps wait for each other: %s", strings.Join(b.cycle(done), ", "))
		}
	}
	return order, nil
}

// cycle walks from a step that never got its inputs to the ones that it waits for, until one comes again.
func (b *builder) cycle(done uint64) []string {
	var path []int
	at := slices.IndexFunc(b.e.steps, func(s step) bool { return s.needs&^done != 0 })
	for !slices.Contains(path, at) {
		path = append(path, at)
		for i := range b.e.steps {
			if (b.e.steps[at].needs&^done)>>i&1 == 1 {
				at = i
				break
			}
		}
	}
	var out []string
	for _, i := range path[slices.Index(path, at):] {
		out = append(out, b.e.steps[i].name)
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

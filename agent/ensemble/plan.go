package ensemble

import (
	"slices"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/models/dataflow"
)

// plan is what runs for a set of wanted outputs.
type plan struct {
	steps    []task // each after those that it needs
	branches bool   // some steps do not need each other
}

// task is one step of a plan.
type task struct {
	step  int
	needs uint64 // steps
	// ask is what the step is asked for, nil for all that it has; take says where each tensor of its answer goes.
	ask  []string
	take []dataflow.Wire
}

// planFor returns the plan of a request.
func (e *Ensemble) planFor(wanted []string) (*plan, error) {
	for _, w := range wanted {
		if e.output(w) < 0 {
			return nil, inference.Inputf("the model has no output %q", w)
		}
	}
	if len(wanted) == 0 || !slices.ContainsFunc(e.graph.Outputs, func(at int) bool {
		return !slices.ContainsFunc(wanted, func(w string) bool { return e.graph.Outputs[e.output(w)] == at })
	}) {
		return e.whole, nil
	}
	order := make([]int, len(e.whole.steps))
	for i := range order {
		order[i] = e.whole.steps[i].step
	}
	return e.plan(order, wanted), nil
}

// plan keeps the steps of order, which is sorted, that the wanted outputs need.
func (e *Ensemble) plan(order []int, wanted []string) *plan {
	used := make([]bool, e.graph.Wires)
	for i := range e.outputs {
		if len(wanted) == 0 || slices.Contains(wanted, e.outputs[i].Name) {
			used[e.graph.Outputs[i]] = true
		}
	}
	p := &plan{}
	for _, i := range slices.Backward(order) {
		st := &e.graph.Steps[i]
		t := task{step: i, needs: st.Needs}
		for _, w := range st.Out {
			if w.Wire >= 0 && used[w.Wire] {
				t.ask, t.take = append(t.ask, w.Name), append(t.take, w)
			}
		}
		if len(t.take) == 0 {
			continue
		}
		if len(t.take) == len(st.Out) {
			t.ask = nil
		}
		for _, w := range st.In {
			used[w.Wire] = true
		}
		p.steps = append(p.steps, t)
	}
	slices.Reverse(p.steps)
	// In a chain, every step needs the one before it, if only through others.
	var before [MaxSteps]uint64 // all that a step needs, through others too
	for i := range p.steps {
		t := &p.steps[i]
		for j := range i {
			if k := p.steps[j].step; t.needs>>k&1 == 1 {
				before[t.step] |= before[k] | 1<<k
			}
		}
		if i > 0 && before[t.step]>>p.steps[i-1].step&1 == 0 {
			p.branches = true
		}
	}
	return p
}

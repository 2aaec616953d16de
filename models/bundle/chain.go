package bundle

import (
	"fmt"
	"io/fs"

	"github.com/dhowfleet/dhow/models/dataflow"
	"github.com/dhowfleet/dhow/models/graph"
)

// modules lists the WASM steps, wherever they stand.
func (s *Spec) modules() []*Step {
	var out []*Step
	for _, step := range []*Step{s.Pre, s.Post} {
		if step != nil {
			out = append(out, step)
		}
	}
	for i := range s.Stages {
		if s.Stages[i].Module != nil {
			out = append(out, s.Stages[i].Module)
		}
	}
	return out
}

// checkStages reads the models of a list and checks, for every variant, that the stages fit together.
func (b *Bundle) checkStages(fsys fs.FS) error {
	graphs := map[string]*graph.Graph{}
	for _, v := range b.Spec.Variants {
		var steps []dataflow.Step
		var need uint64
		var models int
		for i := range b.Spec.Stages {
			st := &b.Spec.Stages[i]
			file := st.Runs(v)
			if file == "" {
				steps = append(steps, st.Step(nil, nil))
				continue
			}
			g := graphs[file]
			if g == nil {
				var err error
				if g, err = b.readModel(fsys, file, "step "+st.Name); err != nil {
					return err
				}
				graphs[file] = g
			}
			for _, in := range g.Inputs {
				if in.Kind != graph.Tensor || !in.Spec.Datatype.Valid() {
					return fmt.Errorf("input %q of %s is a %s of a type that cannot be served", in.Spec.Name, file, in.Kind)
				}
			}
			need += g.MemoryEstimate()
			models++
			steps = append(steps, st.Step(tensors(g.Inputs), tensors(g.Outputs)))
		}
		need -= uint64(models-1) * graph.ProcessBytes // one process holds them all
		if need > uint64(b.Spec.Budgets.Memory) {
			return fmt.Errorf("the models of the pipeline need about %s of memory, but budgets.memory is %s", FormatSize(int64(need)), FormatSize(b.Spec.Budgets.Memory))
		}
		if _, err := dataflow.Connect(b.Spec.Inputs, b.Spec.Outputs, steps); err != nil {
			return fmt.Errorf("the pipeline does not fit together: %w", err)
		}
	}
	return nil
}

// readModel reads a model file that by names, and checks that its external data is there.
func (b *Bundle) readModel(fsys fs.FS, file, by string) (*graph.Graph, error) {
	f, err := b.named(file, by, MaxFileBytes)
	if err != nil {
		return nil, err
	}
	g, err := readGraph(fsys, f)
	if err != nil {
		return nil, err
	}
	return g, b.checkExternal(file, g)
}

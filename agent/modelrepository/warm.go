package modelrepository

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"

	"github.com/dhowfleet/dhow/agent/modelrepository/invented"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/models/triton"
)

// warm makes the requests that a configuration asks for before the model serves.
func warm(ctx context.Context, dir string, c *triton.Config, runner serving.Runner) error {
	for i := range c.Warmup {
		w := &c.Warmup[i]
		in, err := warmupInputs(dir, c, w)
		if err != nil {
			return fmt.Errorf("model_warmup %q: %w", w.Name, err)
		}
		for range max(w.Count, 1) {
			if _, err := runner.Infer(ctx, in, nil, nil); err != nil {
				return fmt.Errorf("model_warmup %q: %w", w.Name, err)
			}
		}
	}
	return nil
}

func warmupInputs(dir string, c *triton.Config, w *triton.Warmup) ([]tensor.Tensor, error) {
	var out []tensor.Tensor
	random := rand.New(rand.NewPCG(1, uint64(len(w.Inputs))))
	for i := range w.Inputs {
		in := &w.Inputs[i]
		shape := slices.Clone(in.Dims)
		if c.MaxBatchSize > 0 {
			shape = slices.Insert(shape, 0, int64(max(w.BatchSize, 1)))
		}
		t := tensor.Tensor{Name: in.Name, Datatype: triton.Datatype(in.DataType), Shape: shape}
		var err error
		if in.File == "" {
			err = invented.Fill(&t, random, in.Zero)
		} else if t.Data, err = readFile(filepath.Join(dir, "warmup", filepath.FromSlash(in.File)), invented.MaxBytes); err == nil {
			err = t.Validate()
		}
		if err != nil {
			return nil, fmt.Errorf("input %q: %w", in.Name, err)
		}
		out = append(out, t)
	}
	return out, nil
}

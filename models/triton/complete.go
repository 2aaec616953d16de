package triton

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/dhowfleet/dhow/models/graph"
	"github.com/dhowfleet/dhow/models/tensor"
)

// DefaultMaxBatch is the max_batch_size of a model that could take batches and whose configuration does not speak of it.
const DefaultMaxBatch = 4

// Completed says what Complete took from the model file, and not from the text.
type Completed struct {
	MaxBatchSize    bool // the first dimensions vary, which is no proof that they are a batch
	DynamicBatching bool
}

// Complete takes what the text leaves out from the model file, and checks what it says against the file.
//
// Inputs, outputs, types and dims that are not said are the file's. When max_batch_size is not said and the first
// dimension of all inputs and outputs varies, it becomes DefaultMaxBatch with dynamic batching, unless the text lists
// tensors with all their dimensions. An explicit 0 stays 0. Outputs of the file that are no tensors are left out. When
// the text lists outputs, only those are served; inputs are needed, so that those it does not list are added.
func (c *Config) Complete(g *graph.Graph) (Completed, error) {
	var done Completed
	for i := range g.Inputs {
		if v := &g.Inputs[i]; v.Kind != graph.Tensor || !v.Spec.Datatype.Valid() {
			return done, fmt.Errorf("the model's input %q is a %s of a type that cannot be served", v.Spec.Name, v.Kind)
		}
	}
	if !c.MaxBatchSaid && c.MaxBatchSize == 0 && takesBatches(g) && !c.listsAllDims(g) {
		c.MaxBatchSize, done.MaxBatchSize = DefaultMaxBatch, true
		if c.DynamicBatching == nil {
			c.DynamicBatching, done.DynamicBatching = &DynamicBatching{}, true
		}
	}
	for i := range c.Inputs {
		in := &c.Inputs[i]
		if err := c.match("input", g.Inputs, in.Name, &in.DataType, &in.Dims, in.Reshape); err != nil {
			return done, err
		}
	}
	for i := range g.Inputs {
		v := &g.Inputs[i]
		if slices.ContainsFunc(c.Inputs, func(in Input) bool { return in.Name == v.Spec.Name }) {
			continue
		}
		in := Input{Name: v.Spec.Name}
		if err := c.match("input", g.Inputs, in.Name, &in.DataType, &in.Dims, nil); err != nil {
			return done, err
		}
		c.Inputs = append(c.Inputs, in)
	}
	if len(c.Outputs) == 0 {
		for i := range g.Outputs {
			if v := &g.Outputs[i]; v.Kind == graph.Tensor && v.Spec.Datatype.Valid() {
				c.Outputs = append(c.Outputs, Output{Name: v.Spec.Name})
			}
		}
		if len(c.Outputs) == 0 {
			return done, fmt.Errorf("none of the model's outputs is a tensor that can be served")
		}
	}
	for i := range c.Outputs {
		out := &c.Outputs[i]
		if err := c.match("output", g.Outputs, out.Name, &out.DataType, &out.Dims, out.Reshape); err != nil {
			return done, err
		}
	}
	return done, nil
}

// takesBatches reports whether the first dimension of everything varies.
func takesBatches(g *graph.Graph) bool {
	for _, values := range [][]graph.Value{g.Inputs, g.Outputs} {
		for i := range values {
			v := &values[i]
			if v.Kind != graph.Tensor || !v.Ranked || len(v.Spec.Shape) == 0 || v.Spec.Shape[0] >= 0 {
				return false
			}
		}
	}
	return len(g.Inputs) > 0
}

// listsAllDims reports whether the text has a tensor with as many dims as the file, so that no batch dimension is left
// out.
func (c *Config) listsAllDims(g *graph.Graph) bool {
	whole := func(values []graph.Value, name string, dims []int64, reshape *[]int64) bool {
		if reshape != nil {
			dims = *reshape
		}
		return (len(dims) > 0 || reshape != nil) && slices.ContainsFunc(values, func(v graph.Value) bool {
			return v.Spec.Name == name && len(v.Spec.Shape) == len(dims)
		})
	}
	return slices.ContainsFunc(c.Inputs, func(in Input) bool { return whole(g.Inputs, in.Name, in.Dims, in.Reshape) }) ||
		slices.ContainsFunc(c.Outputs, func(out Output) bool { return whole(g.Outputs, out.Name, out.Dims, out.Reshape) })
}

// match completes a tensor from the file's of that name, or compares it.
func (c *Config) match(what string, values []graph.Value, name string, datatype *string, dims *[]int64, reshape *[]int64) error {
	at := slices.IndexFunc(values, func(v graph.Value) bool { return v.Spec.Name == name })
	if at < 0 {
		return fmt.Errorf("the model has no %s %q, which the configuration has; it has %s", what, name, listed(values))
	}
	v := &values[at]
	if v.Kind != graph.Tensor {
		return fmt.Errorf("%s %q of the model is a %s; only tensors can be served", what, name, v.Kind)
	}
	if !v.Spec.Datatype.Valid() {
		return fmt.Errorf("%s %q of the model has an element type that the protocol does not have", what, name)
	}
	if *datatype == "" {
		*datatype = TypeName(v.Spec.Datatype)
	}
	if Datatype(*datatype) != v.Spec.Datatype {
		return fmt.Errorf("%s %q is %s in the configuration, the model has %s", what, name, *datatype, TypeName(v.Spec.Datatype))
	}
	shape := v.Spec.Shape
	if c.MaxBatchSize > 0 && v.Ranked {
		if len(shape) == 0 || shape[0] >= 0 {
			return fmt.Errorf("max_batch_size is %d, but %s %q of the model has the shape %v, whose first dimension does not vary: export the model with one that does, or set max_batch_size to 0 and list all dims", c.MaxBatchSize, what, name, shape)
		}
		shape = shape[1:]
	}
	if len(*dims) == 0 { // which the text format cannot tell from not saying any
		if !v.Ranked {
			return fmt.Errorf("%s %q of the model has a shape that the file does not tell: list its dims in the configuration", what, name)
		}
		if reshape != nil {
			return fmt.Errorf("%s %q has a reshape but no dims: say what clients send", what, name)
		}
		*dims = append([]int64{}, shape...)
		return nil
	}
	said, key := *dims, "dims"
	if reshape != nil {
		said, key = *reshape, "reshape"
	}
	if v.Ranked && !fits(said, shape, what == "output") {
		note := ""
		if c.MaxBatchSize > 0 {
			note = " without the batch"
		}
		return fmt.Errorf("%s %q has the %s %v in the configuration, the model has %v%s (-1 varies)", what, name, key, said, shape, note)
	}
	return nil
}

// fits compares what a text says with the file's shape. Where the file is fixed, the text must say the same, or may
// leave it open in what it promises of an output.
func fits(said, file []int64, output bool) bool {
	if len(said) != len(file) {
		return false
	}
	for i, d := range said {
		if file[i] >= 0 && d != file[i] && (d >= 0 || !output) {
			return false
		}
	}
	return true
}

func listed(values []graph.Value) string {
	const most = 8
	var names []string
	for i := range values[:min(len(values), most)] {
		names = append(names, strconv.Quote(values[i].Spec.Name))
	}
	if len(values) > most {
		names = append(names, fmt.Sprintf("and %d more", len(values)-most))
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// Specs are the tensors that clients see: dims with -1 for the batch before them where the model has one.
func (c *Config) Specs() (inputs, outputs []tensor.Spec) {
	for i := range c.Inputs {
		in := &c.Inputs[i]
		inputs = append(inputs, tensor.Spec{Name: in.Name, Datatype: Datatype(in.DataType), Shape: c.shape(in.Dims)})
	}
	for i := range c.Outputs {
		out := &c.Outputs[i]
		outputs = append(outputs, tensor.Spec{Name: out.Name, Datatype: Datatype(out.DataType), Shape: c.shape(out.Dims)})
	}
	return inputs, outputs
}

func (c *Config) shape(dims []int64) []int64 {
	shape := make([]int64, 0, len(dims)+1)
	if c.MaxBatchSize > 0 {
		shape = append(shape, -1)
	}
	return append(shape, dims...)
}

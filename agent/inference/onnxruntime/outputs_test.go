package onnxruntime

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/models/tensor"
)

// TestAnswersKeepTheirMemory: outputs are written where they are handed out, each time somewhere else.
func TestAnswersKeepTheirMemory(t *testing.T) {
	m := load(t, write(t, onnxtest.Negate(-1)))
	var kept []tensor.Tensor
	var want [][]float32
	for i, width := range []int{3, 3, 3, 5, 5, 3, 1, 1, 1000, 1000, 0, 0, 1} {
		values, negated := make([]float32, width), make([]float32, width)
		for j := range values {
			values[j], negated[j] = float32(i*1000+j), -float32(i*1000+j)
		}
		kept, want = append(kept, run(t, m, nil, f32("x", values...))...), append(want, negated)
	}
	for i := range kept {
		if got := kept[i].Float32s(); !slices.Equal(got, want[i]) || kept[i].Shape[1] != int64(len(want[i])) {
			t.Errorf("answer %d is %v %v, was %v", i, kept[i].Shape, got, want[i])
		}
	}
	if m.(*model).unforeseen.Load() {
		t.Error("the shapes could be foreseen")
	}
}

// TestOutputsWhoseShapeDependsOnValues are computed again where they were foreseen wrongly, once.
func TestOutputsWhoseShapeDependsOnValues(t *testing.T) {
	m := load(t, write(t, &onnxtest.Graph{
		Inputs:  []onnxtest.Value{{Name: "x", Type: onnxtest.Float, Dims: []int64{1, 4}}},
		Outputs: []onnxtest.Value{{Name: "at", Type: onnxtest.Int64, Dims: []int64{2, -1}}, {Name: "y", Type: onnxtest.Float, Dims: []int64{1, 4}}},
		Nodes: []onnxtest.Node{
			{Op: "NonZero", Inputs: []string{"x"}, Outputs: []string{"at"}},
			{Op: "Neg", Inputs: []string{"x"}, Outputs: []string{"y"}},
		},
	}))
	for i, values := range [][]float32{{1, 0, 2, 0}, {0, 3, 0, 4}, {5, 6, 7, 0}, {0, 0, 0, 0}, {0, 0, 0, 8}, {0, 0, 0, 8}} {
		out := run(t, m, nil, f32("x", values...))
		var columns []int
		for column, v := range values {
			if v != 0 {
				columns = append(columns, column)
			}
			if got := out[1].Float32s()[column]; got != -v {
				t.Errorf("run %d: %v", i, out[1].Float32s())
			}
		}
		var got []int
		for at := out[0].Data[len(out[0].Data)/2:]; len(at) > 0; at = at[8:] {
			got = append(got, int(binary.LittleEndian.Uint64(at)))
		}
		if !slices.Equal(got, columns) {
			t.Errorf("run %d: %v instead of %v", i, got, columns)
		}
		if unforeseen := m.(*model).unforeseen.Load(); unforeseen != (i >= 2) {
			t.Errorf("run %d: unforeseen is %v", i, unforeseen)
		}
	}
}

// TestAFailureIsNoOtherShape: a value that the model refuses does not end the foreseeing, and a request that does not fit
// leaves nothing that the next one would believe.
func TestAFailureIsNoOtherShape(t *testing.T) {
	m := load(t, write(t, &onnxtest.Graph{
		Inputs:  []onnxtest.Value{{Name: "x", Type: onnxtest.Float, Dims: []int64{1, -1}}, {Name: "i", Type: onnxtest.Int64, Dims: []int64{1}}},
		Outputs: []onnxtest.Value{{Name: "y", Type: onnxtest.Float, Dims: []int64{-2}}, {Name: "z", Type: onnxtest.Float, Dims: []int64{1, -1}}},
		Nodes: []onnxtest.Node{
			{Op: "Gather", Inputs: []string{"x", "i"}, Outputs: []string{"g"}, Attributes: []onnxtest.Attribute{{Name: "axis", I: 1}}},
			{Op: "Squeeze", Inputs: []string{"g"}, Outputs: []string{"y"}},
			{Op: "Neg", Inputs: []string{"x"}, Outputs: []string{"z"}},
		},
	}))
	index := func(i int64) tensor.Tensor {
		return tensor.Tensor{Name: "i", Datatype: tensor.Int64, Shape: []int64{1}, Data: binary.LittleEndian.AppendUint64(nil, uint64(i))}
	}
	for range 3 {
		if out := run(t, m, nil, f32("x", 1, 2, 3), index(2)); out[0].Float32s()[0] != 3 || len(out[1].Float32s()) != 3 {
			t.Error(out)
		}
		if _, err := m.Run(t.Context(), []tensor.Tensor{f32("x", 1, 2, 3), index(7)}, nil); err == nil {
			t.Error("an index outside was answered")
		}
		var input *inference.InputError
		if _, err := m.Run(t.Context(), []tensor.Tensor{f32("x", 1, 2), index(1)}, []string{"none"}); !errors.As(err, &input) {
			t.Error(err)
		}
		if out := run(t, m, nil, f32("x", 1, 2), index(1)); out[0].Float32s()[0] != 2 || len(out[1].Float32s()) != 2 {
			t.Error(out)
		}
	}
	if m.(*model).unforeseen.Load() {
		t.Error("failures were taken for outputs of other shapes")
	}
}

// TestOutputsThatAreInputs: what a graph passes through may not be written where it was read.
func TestOutputsThatAreInputs(t *testing.T) {
	m := load(t, write(t, &onnxtest.Graph{
		Inputs:    []onnxtest.Value{{Name: "x", Type: onnxtest.Float, Dims: []int64{1, 2}}},
		Outputs:   []onnxtest.Value{{Name: "a", Type: onnxtest.Float, Dims: []int64{1, 2}}, {Name: "b", Type: onnxtest.Float, Dims: []int64{1, 2}}, {Name: "c", Type: onnxtest.Float, Dims: []int64{1, 2}}},
		Constants: []onnxtest.Constant{{Name: "k", Type: onnxtest.Float, Dims: []int64{1, 2}, Data: f32("k", 7, 8).Data}},
		Nodes: []onnxtest.Node{
			{Op: "Identity", Inputs: []string{"x"}, Outputs: []string{"a"}},
			{Op: "Identity", Inputs: []string{"a"}, Outputs: []string{"b"}},
			{Op: "Identity", Inputs: []string{"k"}, Outputs: []string{"c"}},
		},
	}))
	for i := range 4 {
		x := f32("x", float32(i), 1)
		out := run(t, m, nil, x)
		clear(out[0].Data)
		if !slices.Equal(x.Float32s(), []float32{float32(i), 1}) || !slices.Equal(out[1].Float32s(), x.Float32s()) || !slices.Equal(out[2].Float32s(), []float32{7, 8}) {
			t.Errorf("run %d: %v of %v", i, out, x.Float32s())
		}
		clear(out[2].Data)
	}
}

func TestRunSaysWhereItsTimeWent(t *testing.T) {
	m := load(t, write(t, onnxtest.Matrix(64, 8)))
	var timing statistics.Timing
	ctx := context.WithValue(t.Context(), statistics.Key, &timing)
	if _, err := m.Run(ctx, []tensor.Tensor{tensor.FromFloat32("x", []int64{1, 64}, make([]float32, 64))}, nil); err != nil {
		t.Fatal(err)
	}
	if timing.Input <= 0 || timing.Infer <= 0 || timing.Output <= 0 {
		t.Errorf("%+v", timing)
	}
}

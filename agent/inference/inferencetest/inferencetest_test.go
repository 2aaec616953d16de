package inferencetest

import (
	"context"
	"errors"
	"testing"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/models/tensor"
)

func TestTheFakeKeepsTheContract(t *testing.T) {
	var e Engine
	var _ inference.Engine = &e
	spec := []tensor.Spec{{Name: "x", Datatype: tensor.FP32, Shape: []int64{-1}}}
	e.Define("a", Definition{Inputs: spec, Outputs: []tensor.Spec{{Name: "y", Datatype: tensor.FP32, Shape: []int64{-1, 2}}, {Name: "s", Datatype: tensor.Bytes, Shape: []int64{1}}}})
	if _, err := e.Load(t.Context(), "b", inference.Options{}); err == nil {
		t.Fatal("an unknown path was loaded")
	}
	m, err := e.Load(t.Context(), "a", inference.Options{})
	if err != nil {
		t.Fatal(err)
	}
	in := []tensor.Tensor{tensor.FromFloat32("x", []int64{1}, []float32{1})}
	out, err := m.Run(t.Context(), in, nil)
	if err != nil || len(out) != 2 {
		t.Fatal(out, err)
	}
	for i := range out {
		if err := out[i].Validate(); err != nil {
			t.Error(err)
		}
	}
	if out, err = m.Run(t.Context(), in, []string{"s"}); err != nil || len(out) != 1 || out[0].Name != "s" {
		t.Fatal(out, err)
	}
	var input *inference.InputError
	if _, err = m.Run(t.Context(), in, []string{"z"}); !errors.As(err, &input) {
		t.Fatal(err)
	}
	if _, err = m.Run(t.Context(), nil, nil); !errors.As(err, &input) {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = m.Run(ctx, in, nil); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if e.Open() != 1 {
		t.Fatal(e.Open())
	}
	_, _ = m.Close(), m.Close()
	if _, err = m.Run(t.Context(), in, nil); !errors.Is(err, inference.ErrClosed) || e.Open() != 0 {
		t.Fatal(err, e.Open())
	}
}

package invented

import (
	"context"
	"errors"
	"math"
	"testing"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/inferencetest"
	"github.com/dhowfleet/dhow/models/tensor"
)

func TestNumbersOfSixteenBitsAreRead(t *testing.T) {
	for _, c := range []struct {
		bits byte2
		want float64
	}{
		{byte2{0x00, 0x3c}, 1}, {byte2{0x00, 0xc0}, -2}, {byte2{0x01, 0x00}, 0x1p-24}, {byte2{0xff, 0x7b}, 65504}, {byte2{0x00, 0x7c}, math.Inf(1)},
	} {
		if got, ok := float(tensor.FP16, c.bits[:]); !ok || got != c.want {
			t.Errorf("%x is %v, want %v", c.bits, got, c.want)
		}
	}
	if x, _ := float(tensor.FP16, []byte{0x01, 0x7c}); !math.IsNaN(x) {
		t.Error(x)
	}
	if x, _ := float(tensor.BF16, []byte{0x80, 0x3f}); x != 1 {
		t.Error(x)
	}
}

type byte2 [2]byte

// TestRows tries models of which is known whether rows depend on each other.
func TestRows(t *testing.T) {
	each := func(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
		return []tensor.Tensor{{Name: "y", Datatype: in[0].Datatype, Shape: in[0].Shape, Data: in[0].Data}}, nil
	}
	sum := func(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
		values := in[0].Float32s()
		for i := 1; i < len(values); i++ {
			values[i] += values[i-1]
		}
		return []tensor.Tensor{tensor.FromFloat32("y", in[0].Shape, values)}, nil
	}
	picky := func(ctx context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
		if in[0].Shape[1] < 16 {
			return nil, errors.New("too short")
		}
		return each(ctx, in)
	}
	for _, c := range []struct {
		name     string
		datatype tensor.Datatype
		shape    []int64
		run      inferencetest.RunFunc
		want     Verdict
	}{
		{"numbers", tensor.FP32, []int64{-1, 3}, each, Apart},
		{"halves", tensor.FP16, []int64{-1, 3}, each, Apart},
		{"indices", tensor.Int64, []int64{-1, -1}, each, Apart},
		{"texts", tensor.Bytes, []int64{-1}, each, Apart},
		{"truths", tensor.Bool, []int64{-1, 2}, each, Apart},
		{"a sum over rows", tensor.FP32, []int64{-1, 3}, sum, Mixed},
		{"one that wants length", tensor.FP32, []int64{-1, -1}, picky, Apart},
		{"one that never runs", tensor.FP32, []int64{-1, 2}, picky, Unknown},
		{"one answer for all", tensor.FP32, []int64{-1, 3}, func(context.Context, []tensor.Tensor) ([]tensor.Tensor, error) {
			return []tensor.Tensor{tensor.FromFloat32("y", []int64{1}, []float32{1})}, nil
		}, Mixed},
		{"only even batches", tensor.FP32, []int64{-1, 3}, func(ctx context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
			if in[0].Shape[0]%2 == 1 {
				return nil, errors.New("odd")
			}
			return each(ctx, in)
		}, Mixed},
		{"a scalar", tensor.FP32, []int64{}, each, Unknown},
		{"too large to invent", tensor.FP32, []int64{-1, 1 << 40}, each, Unknown},
	} {
		engine := &inferencetest.Engine{}
		spec := func(name string) []tensor.Spec {
			return []tensor.Spec{{Name: name, Datatype: c.datatype, Shape: c.shape}}
		}
		engine.Define("", inferencetest.Definition{Inputs: spec("x"), Outputs: spec("y"), Run: c.run})
		m, err := engine.Load(context.Background(), "", inference.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := Rows(context.Background(), m); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

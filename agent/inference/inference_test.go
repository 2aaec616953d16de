package inference_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/models/tensor"
)

func f32(name string, shape ...int64) tensor.Tensor {
	n, _ := tensor.Elements(shape)
	return tensor.FromFloat32(name, shape, make([]float32, n))
}

func TestCheckNamesWhatIsWrong(t *testing.T) {
	specs := []tensor.Spec{
		{Name: "a", Datatype: tensor.FP32, Shape: []int64{-1, 2}},
		{Name: "b", Datatype: tensor.FP32, Shape: []int64{}},
	}
	short := f32("a", 3, 2)
	short.Data = short.Data[:20]
	for _, c := range []struct {
		name string
		in   []tensor.Tensor
		want string
	}{
		{"in order", []tensor.Tensor{f32("a", 3, 2), f32("b")}, ""},
		{"in another order", []tensor.Tensor{f32("b"), f32("a", 1, 2)}, ""},
		{"missing", []tensor.Tensor{f32("a", 3, 2)}, `input "b" is missing`},
		{"twice", []tensor.Tensor{f32("a", 3, 2), f32("b"), f32("a", 3, 2)}, `input "a" is given twice`},
		{"unknown", []tensor.Tensor{f32("a", 3, 2), f32("b"), f32("c")}, `no input "c"`},
		{"case", []tensor.Tensor{f32("A", 3, 2), f32("b")}, `no input "A"; it wants "a", "b"`},
		{"shape", []tensor.Tensor{f32("a", 3, 3), f32("b")}, `"a" has shape [3 3], the model wants [-1 2]`},
		{"bytes", []tensor.Tensor{short, f32("b")}, `needs 24 bytes, got 20`},
		{"negative", []tensor.Tensor{{Name: "a", Datatype: tensor.FP32, Shape: []int64{-1, 2}}, f32("b")}, "negative"},
	} {
		order, err := inference.Check(specs, c.in, nil)
		if c.want == "" {
			if err != nil || c.in[order[0]].Name != "a" || c.in[order[1]].Name != "b" {
				t.Errorf("%s: %v, %v", c.name, order, err)
			}
			continue
		}
		var input *inference.InputError
		if !errors.As(err, &input) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestCheckAllocatesNothing(t *testing.T) {
	specs := []tensor.Spec{{Name: "a", Datatype: tensor.FP32, Shape: []int64{-1, 2}}}
	in := []tensor.Tensor{f32("a", 3, 2)}
	var order [4]int
	if n := testing.AllocsPerRun(100, func() {
		if _, err := inference.Check(specs, in, order[:0]); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

package probe

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
	"github.com/dhowfleet/dhow/models/bundle"
)

// swelling is a small model that makes so many times sixteen megabytes when it is loaded. hidden takes a way to the
// size that the estimate of package graph does not follow.
func swelling(times int64, hidden bool) []byte {
	long := func(name string, values ...int64) onnxtest.Constant {
		var data []byte
		for _, v := range values {
			data = binary.LittleEndian.AppendUint64(data, uint64(v))
		}
		return onnxtest.Constant{Name: name, Type: onnxtest.Int64, Dims: []int64{int64(len(values))}, Data: data}
	}
	size := "n"
	g := onnxtest.Graph{
		Inputs:    []onnxtest.Value{{Name: "x", Type: onnxtest.Float, Dims: []int64{-1, 3}}},
		Outputs:   []onnxtest.Value{{Name: "y", Type: onnxtest.Float, Dims: []int64{-1, 3}}},
		Constants: []onnxtest.Constant{long("n", times, 4<<20), long("first", 0)},
	}
	if hidden {
		g.Nodes = append(g.Nodes, onnxtest.Node{Op: "Mod", Inputs: []string{"n", "large"}, Outputs: []string{"m"}})
		g.Constants = append(g.Constants, long("large", 1<<40))
		size = "m"
	}
	g.Nodes = append(g.Nodes,
		onnxtest.Node{Op: "ConstantOfShape", Inputs: []string{size}, Outputs: []string{"zeros"}},
		onnxtest.Node{Op: "ReduceMax", Inputs: []string{"zeros"}, Outputs: []string{"zero"}, Attributes: []onnxtest.Attribute{{Name: "keepdims"}}},
		onnxtest.Node{Op: "Add", Inputs: []string{"x", "zero"}, Outputs: []string{"y"}})
	return g.Model()
}

// TestModelsThatSwell: what the estimate sees is not loaded at all, the rest is stopped near its budget.
func TestModelsThatSwell(t *testing.T) {
	const budget = 128 << 20
	limited := strings.Replace(spec, "variants:", "budgets: {memory: 128MiB}\nvariants:", 1)
	for _, c := range []struct {
		name   string
		times  int64
		hidden bool
		reason string
	}{
		{"seen in the file", 64, false, BundleInvalid},
		{"at one go", 64, true, MemoryLimit},
		{"far beyond the machine", 1 << 20, true, MemoryLimit},
		{"a little too much", 12, true, MemoryLimit},
	} {
		t.Run(c.name, func(t *testing.T) {
			model := swelling(c.times, c.hidden)
			res := try(t, Request{Dir: folder(t, map[string]string{"bundle.yaml": limited, "model.onnx": string(model), "golden/one.json": ""}), MemoryBytes: budget})
			t.Logf("%d bytes of model asked for %s: %s, peak %s", len(model), bundle.FormatSize(c.times*16<<20), res.Message, bundle.FormatSize(res.PeakBytes))
			if res.OK || res.Reason != c.reason {
				t.Errorf("%+v", res)
			}
			if res.PeakBytes > budget+192<<20 {
				t.Errorf("it got %s", bundle.FormatSize(res.PeakBytes))
			}
		})
	}
}

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dhowfleet/dhow/models/graph"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/test/conformance/wire"
	"github.com/dhowfleet/dhow/test/operators/tensorproto"
)

// sets are the folders of the package that hold tests.
var sets = []string{"node", "simple", "pytorch-operator", "pytorch-converted"}

// test is one operator test: a model, and what it must return for what.
type test struct {
	set, name string
	dir       string
}

func (t *test) model() string { return filepath.Join(t.dir, "model.onnx") }

// find lists the tests under dir, by set and name.
func find(dir string) ([]test, error) {
	var out []test
	for _, set := range sets {
		entries, err := os.ReadDir(filepath.Join(dir, set))
		if err != nil {
			return nil, fmt.Errorf("cannot list the tests: %w; run test/operators/fetch", err)
		}
		for _, e := range entries {
			t := test{set: set, name: e.Name(), dir: filepath.Join(dir, set, e.Name())}
			if _, err := os.Stat(t.model()); err == nil {
				out = append(out, t)
			}
		}
	}
	return out, nil
}

// values reads the tensors of "input" or "output". Where the graph says a tensor's name, it is that one's place that
// counts: the files are numbered in the order of the graph.
func (t *test) values(what string, described []graph.Value) ([]wire.Value, error) {
	var out []wire.Value
	for i := range described {
		b, err := os.ReadFile(filepath.Join(t.dir, "test_data_set_0", fmt.Sprintf("%s_%d.pb", what, i)))
		if os.IsNotExist(err) && i > 0 {
			break
		}
		if err != nil {
			return nil, err
		}
		if described[i].Kind != graph.Tensor {
			continue
		}
		v, err := tensorproto.Read(b)
		if err != nil {
			return nil, fmt.Errorf("%s_%d.pb: %w", what, i, err)
		}
		v.Name = described[i].Spec.Name
		if v.Datatype == "UINT16" && described[i].Spec.Datatype == tensor.BF16 {
			v.Datatype = "BF16" // these files were made when NumPy had no such type; they hold its bits
		}
		out = append(out, *v)
	}
	return out, nil
}

// notTensors names the inputs or outputs that are no tensors, with their kinds.
func notTensors(what string, described []graph.Value) []string {
	var out []string
	for _, v := range described {
		if v.Kind != graph.Tensor {
			out = append(out, fmt.Sprintf("%s %s is %s", what, v.Spec.Name, article(v.Kind)))
		}
	}
	return out
}

func article(k graph.Kind) string {
	if k == graph.Optional {
		return "an optional value"
	}
	return "a " + k.String()
}

// random are the operators whose answers are drawn anew each time; only datatypes and shapes are compared.
var random = []string{"test_bernoulli", "test_training_dropout"}

func (t *test) isRandom() bool {
	return slices.ContainsFunc(random, func(prefix string) bool { return strings.HasPrefix(t.name, prefix) }) &&
		!strings.Contains(t.name, "zero_ratio") // drops nothing
}

// otherwise are the tests of which it is known that ONNX Runtime computes something else than their expected outputs, and
// why that is so.
var otherwise = map[string]string{
	"test_cast_FLOAT_to_STRING":                          floatText,
	"test_castlike_FLOAT_to_STRING":                      floatText,
	"test_castlike_FLOAT_to_STRING_expanded":             floatText,
	"test_cast_FLOAT_to_BFLOAT16":                        "BF16 is rounded to the nearest, the expected outputs were cut",
	"test_resize_downsample_scales_cubic_align_corners":  corners,
	"test_resize_downsample_scales_linear_align_corners": corners,
	"test_maxunpool_export_with_output_shape":            "indices count in the given output shape, the expected outputs took them for those of the default one",
	"test_stft":             zeros,
	"test_stft_with_window": zeros,
	"test_dft":              zeros,
	"test_dft_axis":         zeros,
	"test_dft_inverse":      zeros,
}

const (
	floatText = "floats are written with eight digits, the expected texts have as many as NumPy needed"
	corners   = "corners are aligned by the output's size, the expected outputs by the scale"
	zeros     = "zero is expected where sums of large terms in single precision leave a rest below 2e-4"
)

package triton

import (
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/models/graph"
	"github.com/dhowfleet/dhow/models/tensor"
)

func ranked(name string, d tensor.Datatype, shape ...int64) graph.Value {
	return graph.Value{Spec: tensor.Spec{Name: name, Datatype: d, Shape: append([]int64{}, shape...)}, Kind: graph.Tensor, Ranked: true}
}

// images is a model with a batch, a scalar for each row among its outputs, and one output that is no tensor.
func images() *graph.Graph {
	return &graph.Graph{
		Inputs: []graph.Value{ranked("x", tensor.FP32, -1, 3, 8), ranked("n", tensor.Int64, -1)},
		Outputs: []graph.Value{
			ranked("p", tensor.FP32, -1, 10), {Spec: tensor.Spec{Name: "s"}, Kind: graph.Sequence}, ranked("t", tensor.Bytes, -1, -1),
		},
	}
}

func tensorsOnly(g *graph.Graph) *graph.Graph {
	g.Outputs = append(g.Outputs[:1], g.Outputs[2])
	return g
}

func parse(t *testing.T, text string) *Config {
	t.Helper()
	c, _, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Fill("m"); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestWhatIsLeftOutIsTheModels(t *testing.T) {
	for _, c := range []struct {
		name, text string
		graph      *graph.Graph
		batch      int
		joined     bool
		done       Completed
		inputs     []tensor.Spec
	}{
		{"nothing said", "", tensorsOnly(images()), 4, true, Completed{true, true},
			[]tensor.Spec{{Name: "x", Datatype: tensor.FP32, Shape: []int64{-1, 3, 8}}, {Name: "n", Datatype: tensor.Int64, Shape: []int64{-1}}}},
		{"an output that is no tensor cannot be joined", "", images(), 0, false, Completed{},
			[]tensor.Spec{{Name: "x", Datatype: tensor.FP32, Shape: []int64{-1, 3, 8}}, {Name: "n", Datatype: tensor.Int64, Shape: []int64{-1}}}},
		{"an explicit 0 stays", "max_batch_size: 0", tensorsOnly(images()), 0, false, Completed{},
			[]tensor.Spec{{Name: "x", Datatype: tensor.FP32, Shape: []int64{-1, 3, 8}}, {Name: "n", Datatype: tensor.Int64, Shape: []int64{-1}}}},
		{"a size that is said stays", "max_batch_size: 16", tensorsOnly(images()), 16, false, Completed{},
			[]tensor.Spec{{Name: "x", Datatype: tensor.FP32, Shape: []int64{-1, 3, 8}}, {Name: "n", Datatype: tensor.Int64, Shape: []int64{-1}}}},
		{"all dims are listed", "input { name: \"x\" dims: [-1, 3, 8] }", tensorsOnly(images()), 0, false, Completed{},
			[]tensor.Spec{{Name: "x", Datatype: tensor.FP32, Shape: []int64{-1, 3, 8}}, {Name: "n", Datatype: tensor.Int64, Shape: []int64{-1}}}},
		{"dims without the batch are listed", "input { name: \"x\" dims: [3, 8] }", tensorsOnly(images()), 4, true, Completed{true, true},
			[]tensor.Spec{{Name: "x", Datatype: tensor.FP32, Shape: []int64{-1, 3, 8}}, {Name: "n", Datatype: tensor.Int64, Shape: []int64{-1}}}},
		{"batching is said", "dynamic_batching { max_queue_delay_microseconds: 5 }", tensorsOnly(images()), 4, true, Completed{true, false},
			[]tensor.Spec{{Name: "x", Datatype: tensor.FP32, Shape: []int64{-1, 3, 8}}, {Name: "n", Datatype: tensor.Int64, Shape: []int64{-1}}}},
		{"a fixed first dimension", "", &graph.Graph{Inputs: []graph.Value{ranked("x", tensor.FP32, 1, 2)}, Outputs: []graph.Value{ranked("p", tensor.FP32, -1)}}, 0, false, Completed{},
			[]tensor.Spec{{Name: "x", Datatype: tensor.FP32, Shape: []int64{1, 2}}}},
		{"a scalar", "", &graph.Graph{Inputs: []graph.Value{ranked("x", tensor.FP32)}, Outputs: []graph.Value{ranked("p", tensor.FP32)}}, 0, false, Completed{},
			[]tensor.Spec{{Name: "x", Datatype: tensor.FP32, Shape: []int64{}}}},
	} {
		config := parse(t, c.text)
		done, err := config.Complete(c.graph)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if err := config.Validate(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		inputs, _ := config.Specs()
		if config.MaxBatchSize != c.batch || (config.DynamicBatching != nil) != c.joined || done != c.done || !reflect.DeepEqual(inputs, c.inputs) {
			t.Errorf("%s: max_batch_size %d, batching %v, completed %+v, inputs %+v", c.name, config.MaxBatchSize, config.DynamicBatching, done, inputs)
		}
		for _, o := range config.Outputs {
			if o.Name == "s" {
				t.Errorf("%s: an output that is no tensor is served", c.name)
			}
		}
	}
}

func TestWhatDisagreesWithTheModel(t *testing.T) {
	unranked := &graph.Graph{Inputs: []graph.Value{{Spec: tensor.Spec{Name: "x", Datatype: tensor.FP32}, Kind: graph.Tensor}}, Outputs: []graph.Value{ranked("p", tensor.FP32, 1)}}
	for _, c := range []struct {
		text  string
		graph *graph.Graph
		want  string
	}{
		{`input { name: "y" }`, images(), `the model has no input "y", which the configuration has; it has "x", "n"`},
		{`input { name: "x" data_type: TYPE_INT64 }`, images(), `input "x" is TYPE_INT64 in the configuration, the model has TYPE_FP32`},
		{`max_batch_size: 4 input { name: "x" dims: [8, 3] }`, tensorsOnly(images()), `input "x" has the dims [8 3] in the configuration, the model has [3 8] without the batch`},
		{`max_batch_size: 4 input { name: "x" dims: [-1, 8] }`, tensorsOnly(images()), "the model has [3 8]"},
		{`output { name: "s" }`, images(), "is a sequence; only tensors"},
		{`output { name: "p" reshape { shape: 10 } }`, images(), "a reshape but no dims"},
		{`max_batch_size: 4`, &graph.Graph{Inputs: []graph.Value{ranked("x", tensor.FP32, 1, 2)}, Outputs: []graph.Value{ranked("p", tensor.FP32, -1)}}, "whose first dimension does not vary"},
		{``, unranked, "list its dims"},
		{``, &graph.Graph{Inputs: []graph.Value{{Spec: tensor.Spec{Name: "x"}, Kind: graph.Map}}}, "cannot be served"},
		{``, &graph.Graph{Outputs: []graph.Value{{Spec: tensor.Spec{Name: "x"}, Kind: graph.Map}}}, "none of the model's outputs"},
		{``, &graph.Graph{Inputs: []graph.Value{ranked("x", tensor.Invalid, 1)}}, "cannot be served"},
	} {
		_, err := parse(t, c.text).Complete(c.graph)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.text, err, c.want)
		}
	}
	ok := parse(t, `output { name: "p" dims: [-1] }`) // promises less of an output than the model does
	if _, err := ok.Complete(&graph.Graph{Outputs: []graph.Value{ranked("p", tensor.FP32, 10)}}); err != nil {
		t.Error(err)
	}
	dims := parse(t, `input { name: "x" dims: [2, 5] }`)
	if _, err := dims.Complete(unranked); err != nil || !reflect.DeepEqual(dims.Inputs[0].Dims, []int64{2, 5}) {
		t.Error(dims.Inputs, err)
	}
}

const tensors = `input { name: "x" data_type: TYPE_FP32 dims: [2, 3] } output { name: "y" data_type: TYPE_FP32 dims: 6 } `

func TestConfigurationsThatMakeNoSense(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{`output { name: "y" data_type: TYPE_FP32 dims: 6 } backend: "wasm"`, "no input"},
		{`input { name: "x" data_type: TYPE_FP32 dims: 6 }`, "no output"},
		{tensors + `input { name: "x" data_type: TYPE_FP32 dims: 1 }`, `input "x" is said twice`},
		{tensors + `output { name: "y" data_type: TYPE_FP32 dims: 1 }`, `output "y" is said twice`},
		{tensors + `input { data_type: TYPE_FP32 dims: 1 }`, "an input has no name"},
		{tensors + `input { name: "z" dims: 1 }`, "no data_type"},
		{tensors + `input { name: "z" data_type: TYPE_FP32 }`, "no dims"},
		{tensors + `input { name: "z" data_type: TYPE_FP32 dims: [2, 3] reshape { shape: 5 } }`, "do not hold as many"},
		{tensors + `input { name: "z" data_type: TYPE_FP32 dims: [-1, 3] reshape { shape: 3 } }`, "do not hold as many"},
		{tensors + `output { name: "z" data_type: TYPE_FP32 dims: 1 label_filename: "../x" }`, "no file in the model's folder"},
		{tensors + `default_model_filename: "/etc/passwd"`, "no file in the version's folder"},
		{tensors + `dynamic_batching { preferred_batch_size: 9 } max_batch_size: 8`, "preferred_batch_size 9"},
		{tensors + `dynamic_batching { priority_levels: 2 }`, "default_priority_level 0"},
		{tensors + `dynamic_batching { priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 3 value {} } }`, "the level 3"},
		{tensors + `instance_group { kind: KIND_CPU gpus: 0 }`, "does not go with gpus"},
		{tensors + `instance_group [ { count: 200 }, { count: 200 } ]`, "400 instances"},
		{tensors + `model_warmup { name: "w" batch_size: 2 inputs { key: "x" value { data_type: TYPE_FP32 dims: 1 zero_data: true } } }`, "batch_size 2 is more"},
		{tensors + `model_warmup { name: "w" inputs { key: "z" value { data_type: TYPE_FP32 dims: 1 zero_data: true } } }`, `no input "z"`},
		{tensors + `model_warmup { name: "w" inputs { key: "x" value { data_type: TYPE_INT8 dims: 1 zero_data: true } } }`, "the model takes TYPE_FP32"},
		{tensors + `model_warmup { name: "w" inputs { key: "x" value { data_type: TYPE_FP32 dims: -1 zero_data: true } } }`, "do not vary"},
		{tensors + `model_warmup { name: "w" inputs { key: "x" value { data_type: TYPE_FP32 dims: 1 input_data_file: "/etc/passwd" } } }`, "no file in the model's folder warmup"},
		{tensors + `model_warmup { name: "w" }`, `input "x" is missing`},
		{tensors + `platform: "ensemble"`, "wants ensemble_scheduling"},
		{tensors + `backend: "onnxruntime" ensemble_scheduling { step { model_name: "a" } }`, "is for the platform"},
		{tensors + `platform: "ensemble" instance_group { count: 1 } ensemble_scheduling { step { model_name: "a" } }`, "no instances of its own"},
		{tensors + `ensemble_scheduling { step { model_name: "a" } }`, "wants both"},
		{tensors + `ensemble_scheduling { step { model_name: "m" input_map { key: "a" value: "x" } output_map { key: "b" value: "y" } } }`, "the ensemble itself"},
		{tensors + `ensemble_scheduling { step { input_map { key: "a" value: "x" } output_map { key: "b" value: "y" } } }`, "no model_name"},
		{tensors + `ensemble_scheduling { step { model_name: "a" input_map { key: "a" value: "q" } output_map { key: "b" value: "y" } } }`, `takes the tensor "q"`},
		{tensors + `ensemble_scheduling { step { model_name: "a" input_map { key: "a" value: "x" } output_map { key: "b" value: "x" } } }`, `"x" is made twice`},
		{tensors + `ensemble_scheduling { step { model_name: "a" input_map { key: "a" value: "x" } output_map { key: "b" value: "z" } } }`, `no step makes the output "y"`},
	} {
		err := parse(t, c.text).Validate()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", strings.TrimPrefix(c.text, tensors), err, c.want)
		}
	}
	if err := parse(t, tensors+`input { name: "z" data_type: TYPE_BF16 dims: [-1, 2, 3] reshape { shape: [1, -1, 6] } }`).Validate(); err != nil {
		t.Error(err)
	}
}

func TestWhatServesAModel(t *testing.T) {
	for _, c := range []struct{ text, platform, backend, file, want string }{
		{"", PlatformONNX, BackendONNX, "model.onnx", ""},
		{`platform: "onnxruntime_onnx"`, PlatformONNX, BackendONNX, "model.onnx", ""},
		{`backend: "onnxruntime" default_model_filename: "a.onnx"`, PlatformONNX, BackendONNX, "a.onnx", ""},
		{`backend: "wasm"`, "", BackendWASM, "model.wasm", ""},
		{`default_model_filename: "a.wasm"`, "", BackendWASM, "a.wasm", ""},
		{`ensemble_scheduling { step { model_name: "a" } }`, PlatformEnsemble, "", "", ""},
		{`backend: "ensemble"`, PlatformEnsemble, "", "", ""},
		{`backend: "tensorrt"`, "", "", "", `"tensorrt" is not served`},
		{`platform: "pytorch_libtorch"`, "", "", "", `"pytorch_libtorch" is not served`},
		{`platform: "onnxruntime_onnx" backend: "python"`, "", "", "", "does not go with"},
		{`name: "other"`, "", "", "", "must be the same"},
	} {
		config, _, err := Parse([]byte(c.text))
		if err != nil {
			t.Fatal(err)
		}
		err = config.Fill("m")
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %q", c.text, err, c.want)
			}
		} else if err != nil || config.Platform != c.platform || config.Backend != c.backend || config.DefaultFile != c.file || config.VersionPolicy.Latest != 1 {
			t.Errorf("%s: %+v, %v", c.text, config, err)
		}
	}
}

func TestTypeNames(t *testing.T) {
	for d := tensor.Bool; d.Valid(); d++ {
		if Datatype(TypeName(d)) != d {
			t.Errorf("%v is %s, which is %v", d, TypeName(d), Datatype(TypeName(d)))
		}
	}
	for _, s := range []string{"", "TYPE_", "TYPE_INVALID", "FP32", "TYPE_BYTES", "type_fp32"} {
		if d := Datatype(s); d.Valid() {
			t.Errorf("%q is %v", s, d)
		}
	}
}

// TestCompletedIsAgreed holds that what was taken from a model agrees with it, whatever the model is like.
func TestCompletedIsAgreed(t *testing.T) {
	values := func(t *rapid.T, prefix string, least int) (out []graph.Value) {
		for i := range rapid.IntRange(least, 3).Draw(t, prefix) {
			shape := rapid.SliceOfN(rapid.SampledFrom([]int64{-1, -1, 1, 2, 7}), 0, 4).Draw(t, "shape")
			out = append(out, ranked(prefix+string(rune('a'+i)), tensor.Datatype(rapid.IntRange(1, 14).Draw(t, "type")), shape...))
		}
		return out
	}
	rapid.Check(t, func(t *rapid.T) {
		g := &graph.Graph{Inputs: values(t, "in", 0), Outputs: values(t, "out", 1)}
		c := &Config{}
		if err := c.Fill("m"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Complete(g); err != nil {
			t.Fatal(err)
		}
		if err := c.Validate(); err != nil {
			t.Fatal(err)
		}
		inputs, outputs := c.Specs()
		for i, v := range g.Inputs {
			if !reflect.DeepEqual(inputs[i], v.Spec) {
				t.Fatalf("input %+v became %+v", v.Spec, inputs[i])
			}
		}
		for i, v := range g.Outputs {
			if !reflect.DeepEqual(outputs[i], v.Spec) {
				t.Fatalf("output %+v became %+v", v.Spec, outputs[i])
			}
		}
		// What was completed and written down is complete.
		again, warnings, err := Parse(Format(c))
		if err != nil || len(warnings) != 0 {
			t.Fatal(err, warnings)
		}
		if done, err := again.Complete(g); err != nil || done != (Completed{}) {
			t.Fatalf("%v, completed once more: %+v of\n%s", err, done, Format(c))
		}
	})
}

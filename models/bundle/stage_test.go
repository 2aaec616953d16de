package bundle

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/dhowfleet/dhow/models/tensor"
)

const listSpec = `apiVersion: dhow/v1
name: reader
version: "1"
inputs: [{name: photo, datatype: BYTES, shape: [1]}]
outputs: [{name: text, datatype: BYTES, shape: [-1]}, {name: score, datatype: FP32, shape: [-1, 1]}]
pipeline:
  - {name: prepare, module: pre.wasm, timeout: 200ms, memory: 32MiB, gives: [x]}
  - {name: detect, model: det.onnx, outputs: {"sigmoid_0.tmp:0": map}}
  - {name: cut, module: cut.wasm, takes: [photo, map], gives: [crops]}
  - {name: read, model: rec.onnx, inputs: {x: crops}, outputs: {y: letters, s: score}}
  - {name: spell, module: post.wasm, takes: [letters], outputs: {words: text}}
budgets: {memory: 256MiB}
`

func reader() fstest.MapFS {
	regular := func(data []byte) *fstest.MapFile { return &fstest.MapFile{Data: data, Mode: 0o644} }
	wasm := regular([]byte("\x00asm\x01\x00\x00\x00"))
	x := tensor.Spec{Name: "x", Datatype: tensor.FP32, Shape: []int64{-1, 4}}
	out := func(name string) tensor.Spec {
		return tensor.Spec{Name: name, Datatype: tensor.FP32, Shape: []int64{-1, 1}}
	}
	return fstest.MapFS{
		SpecFile:    regular([]byte(listSpec)),
		"det.onnx":  regular(onnx([]tensor.Spec{x}, []tensor.Spec{out("sigmoid_0.tmp:0"), out("y")})),
		"rec.onnx":  regular(onnx([]tensor.Spec{x}, []tensor.Spec{out("y"), out("s")}, "weights.data")),
		"pre.wasm":  wasm,
		"cut.wasm":  wasm,
		"post.wasm": wasm, "weights.data": regular(make([]byte, 16)),
	}
}

func TestAListIsRead(t *testing.T) {
	s, err := ParseSpec([]byte(listSpec))
	if err != nil {
		t.Fatal(err)
	}
	if s.Pre != nil || s.Post != nil || len(s.Stages) != 5 || !slices.Equal(s.Variants, []Variant{{"default", "det.onnx"}}) {
		t.Fatalf("%+v", s)
	}
	same := func(names ...string) (out []Port) {
		for _, n := range names {
			out = append(out, Port{n, n})
		}
		return out
	}
	for i, want := range []Stage{
		{Name: "prepare", Module: module("pre.wasm", 200*time.Millisecond, 32<<20), Inputs: same("photo"), Outputs: same("x")},
		{Name: "detect", Model: "det.onnx", Outputs: []Port{{"sigmoid_0.tmp:0", "map"}}},
		{Name: "cut", Module: module("cut.wasm", DefaultStepTimeout, DefaultStepMemory), Inputs: same("photo", "map"), Outputs: same("crops")},
		{Name: "read", Model: "rec.onnx", Inputs: []Port{{"x", "crops"}}, Outputs: []Port{{"y", "letters"}, {"s", "score"}}},
		{Name: "spell", Module: module("post.wasm", DefaultStepTimeout, DefaultStepMemory), Inputs: same("letters"), Outputs: []Port{{"words", "text"}}},
	} {
		got := s.Stages[i]
		if got.Name != want.Name || got.Model != want.Model || !slices.Equal(got.Inputs, want.Inputs) || !slices.Equal(got.Outputs, want.Outputs) ||
			(got.Module == nil) != (want.Module == nil) || want.Module != nil && *got.Module != *want.Module {
			t.Errorf("step %d is %+v, want %+v", i, got, want)
		}
	}
	b, err := Load(reader())
	if err != nil || len(b.Files) != 7 {
		t.Errorf("%+v, %v", b, err)
	}
}

// TestAListWithVariants: the last module gives the outputs, and the variant stands in the middle.
func TestAListWithVariants(t *testing.T) {
	text := strings.Replace(fullSpec, "pipeline: {pre: {module: pre.wasm, timeout: 500ms, memory: 64MiB}, post: {module: post.wasm}}", `pipeline:
  - {name: prepare, module: pre.wasm, gives: [image]}
  - {name: classify, variant: true}
  - {name: name, module: post.wasm, takes: [probabilities]}`, 1)
	m := full()
	m[SpecFile].Data = []byte(text)
	b, err := Load(m)
	if err != nil {
		t.Fatal(err)
	}
	last := b.Spec.Stages[2]
	if !slices.Equal(last.Outputs, []Port{{"label", "label"}, {"score", "score"}}) || len(b.Spec.Variants) != 2 {
		t.Errorf("%+v", b.Spec)
	}
	if b.Spec.Stages[1].Runs(b.Spec.Variants[1]) != "small/model.onnx" || last.Runs(b.Spec.Variants[1]) != "" {
		t.Error("the wrong file would run")
	}
}

func TestAListSaysWhatIsWrongAndWhere(t *testing.T) {
	for _, c := range []struct{ from, to, want string }{
		{"name: cut, module", "name: detect, module", `line 9: two steps of the pipeline are called "detect"`},
		{"name: cut, module", "name: Cut, module", "line 9: step name"},
		{"module: cut.wasm, ", "", "line 9: step cut must have one of module"},
		{"module: cut.wasm, ", "module: cut.wasm, model: a.onnx, ", "line 9: step cut must have one of module"},
		{"module: cut.wasm", "module: ../cut.wasm", "line 9: step cut: module: path"},
		{"model: det.onnx", "model: /det.onnx", "line 8: step detect: model: path"},
		{"model: det.onnx", "variant: true", "line 7: a step of the pipeline runs the variant, but the bundle has no variants"},
		{"model: det.onnx", "variant: yes", "line 8: step detect: variant: write true"},
		{"model: det.onnx", "model: det.onnx, timeout: 1s", "line 8: step detect: takes, gives and the limits of a call are for modules"},
		{"model: det.onnx", "model: det.onnx, takes: [x]", "line 8: step detect: takes, gives and the limits of a call are for modules"},
		{"timeout: 200ms", "timeout: 2h", "line 7: step prepare: timeout: 2h is outside"},
		{"timeout: 200ms", "timeuot: 2h", `line 7: unknown key "timeuot"`},
		{"takes: [photo, map]", "takes: [photo, photo]", `line 9: step cut: takes: "photo" occurs twice`},
		{"takes: [photo, map]", "takes: []", "line 9: step cut: takes is empty"},
		{"takes: [photo, map], ", "", "line 9: step cut needs takes"},
		{"takes: [photo, map]", "takes: [photo], inputs: {map: map}", "line 9: step cut: inputs: the same is said by another key"},
		{", gives: [crops]", "", "line 9: step cut needs gives"},
		{"inputs: {x: crops}", "inputs: {x: crops, x: letters}", `line 10: step read: inputs: "x" occurs twice`},
		{"inputs: {x: crops}", "inputs: [crops]", "line 10: step read: inputs must map"},
		{"inputs: {x: crops}", `inputs: {x: ""}`, "line 10: step read: inputs"},
		{"pipeline:\n", "variants: [{name: a, file: det.onnx}]\npipeline:\n", "line 8: the bundle has variants, but no step"},
	} {
		text := strings.Replace(listSpec, c.from, c.to, 1)
		if _, err := ParseSpec([]byte(text)); text == listSpec || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s -> %s: %v, want %q", c.from, c.to, err, c.want)
		}
	}
	head := listSpec[:strings.Index(listSpec, "pipeline:")]
	for text, want := range map[string]string{
		"pipeline: []\n":  "line 6: pipeline is empty",
		"pipeline: [x]\n": "line 6: a step of the pipeline must be a mapping",
		"pipeline: x\n":   "line 6: pipeline must be a mapping",
		"":                `"variants" is missing`,
		"pipeline: [{name: a, module: a.wasm}]\n":                                                               "line 6: the pipeline has no model",
		"pipeline: [" + strings.Repeat("{name: a, model: a.onnx}, ", MaxStages+1) + "]\n":                       "pipeline has 33 entries, at most 32",
		"variants: [{name: a, file: a.onnx}]\npipeline: [{name: a, variant: true}, {name: b, variant: true}]\n": "2 steps of the pipeline run the variant",
	} {
		if _, err := ParseSpec([]byte(head + text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestAListMustFitTogether(t *testing.T) {
	for _, c := range []struct{ from, to, want string }{
		{`"sigmoid_0.tmp:0": map`, "nothing: map", `the pipeline does not fit together: step detect has no output "nothing"; it has "sigmoid_0.tmp:0", "y"`},
		{"gives: [x]", "gives: [z]", `step detect takes "x", which neither the request nor a step has`},
		{"inputs: {x: crops}", "inputs: {w: crops}", `step read has no input "w"; it has "x"`},
		{"s: score", "s: map", `"map" is made twice, by step detect and by step read`},
		{"takes: [photo, map]", "takes: [photo, letters]", "these steps wait for each other: cut, read"},
		{"s: score", "s: points", `output "score" is made by no step`},
		{"datatype: FP32, shape: [-1, 1]", "datatype: FP32, shape: [-1, 3]", `output "score" comes from step read as FP32 [-1 1], FP32 [-1 3] is promised`},
		{"model: det.onnx", "model: other.onnx", "step detect names other.onnx, which is not in the bundle"},
		{"module: cut.wasm", "module: det.onnx", "det.onnx is no WebAssembly module"},
		{"module: cut.wasm", "module: no.wasm", "no.wasm, which is not in the bundle"},
		{"memory: 256MiB", "memory: 16MiB", "the models of the pipeline need about 32.0MiB of memory, but budgets.memory is 16MiB"},
	} {
		m := reader()
		text := strings.Replace(listSpec, c.from, c.to, 1)
		m[SpecFile].Data = []byte(text)
		if _, err := Load(m); text == listSpec || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s -> %s: %v, want %q", c.from, c.to, err, c.want)
		}
	}
	m := reader()
	m["weights.data"].Data = nil
	if _, err := Load(m); err == nil || !strings.Contains(err.Error(), "weights.data has 0 bytes") {
		t.Error(err)
	}
}

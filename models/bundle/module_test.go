package bundle

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// module is a step with the defaults of what is not named.
func module(file string, timeout time.Duration, memory int64) *Step {
	s := defaultStep()
	s.Module, s.Timeout, s.Memory = file, timeout, memory
	return &s
}

const aroundStep = "apiVersion: dhow/v1\nname: m\nversion: '1'\nvariants: [{name: a, file: m.onnx}]\n" +
	"inputs: [{name: x, datatype: FP32, shape: [-1]}]\noutputs: [{name: y, datatype: FP32, shape: [-1]}]\n"

func TestAStepSaysWhatBoundsItsModule(t *testing.T) {
	s, err := ParseSpec([]byte(aroundStep + `pipeline:
  pre: {module: p.wasm, timeout: 20ms, memory: 1MiB, stack: 64KiB, table: 100, fuel: 5000000, state: keep, allow: [random, clock], files: data}
  post: {module: q.wasm, kind: extism, function: answer, format: json}
`))
	if err != nil {
		t.Fatal(err)
	}
	pre := Step{
		Module: "p.wasm", Kind: KindReactor, Format: FormatTensors, Timeout: 20 * time.Millisecond, Fuel: 5_000_000,
		Memory: 1 << 20, Stack: 64 << 10, Table: 100, Keep: true, Clock: true, Random: true, Files: "data",
	}
	if *s.Pre != pre {
		t.Errorf("pre is %+v, want %+v", *s.Pre, pre)
	}
	post := *module("q.wasm", DefaultStepTimeout, DefaultStepMemory)
	post.Kind, post.Function, post.Format = KindExtism, "answer", FormatJSON
	if *s.Post != post {
		t.Errorf("post is %+v, want %+v", *s.Post, post)
	}
	list, err := ParseSpec([]byte(aroundStep + `pipeline:
  - {name: one, module: p.wasm, timeout: 20ms, memory: 1MiB, stack: 64KiB, table: 100, fuel: 5000000, state: keep, allow: [random, clock], files: data, gives: [z]}
  - {name: two, variant: true, inputs: {x: z}}
`))
	if err != nil {
		t.Fatal(err)
	}
	if *list.Stages[0].Module != pre {
		t.Errorf("a stage has %+v, want %+v", *list.Stages[0].Module, pre)
	}
}

func TestAStepsMistakesAreNamed(t *testing.T) {
	for text, want := range map[string]string{
		"stack: 1KiB":                            "pre.stack: 1KiB is outside of 16KiB to 16MiB",
		"table: 0":                               `pre.table: "0" is no number from 1 to 1048576`,
		"fuel: 10":                               `pre.fuel: "10" is no number from 1000 to`,
		"state: clean":                           `pre.state: "clean" is none of reset, keep`,
		"allow: [network]":                       "no module gets a network",
		"allow: [files]":                         `"files" is none of clock, random`,
		"files: ../x":                            "pre.files",
		"kind: wasi":                             `"wasi" is none of dhow, extism, command`,
		"kind: extism":                           "an Extism plug-in needs function",
		"function: f":                            "function is for kind: extism",
		"format: raw":                            "format is for the kinds extism and command",
		"kind: command, state: keep":             "only modules of Dhow's own contract can keep their state",
		"kind: extism, function: f, format: xml": `"xml" is none of tensors, raw, json`,
	} {
		_, err := ParseSpec([]byte(aroundStep + "pipeline: {pre: {module: p.wasm, " + text + "}}\n"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	_, err := ParseSpec([]byte(aroundStep + "pipeline: [{name: a, variant: true, fuel: 5000}]\n"))
	if err == nil || !strings.Contains(err.Error(), "limits of a call are for modules") {
		t.Errorf("a model with fuel: %v", err)
	}
}

func TestAModulesFolderHasToBeThere(t *testing.T) {
	fsys := fstest.MapFS{"p.wasm": {Data: []byte("\x00asm\x01\x00\x00\x00")}, "data/a": {}, "database": {}}
	files, err := list(fsys)
	if err != nil {
		t.Fatal(err)
	}
	b := &Bundle{Files: files}
	for folder, ok := range map[string]bool{"": true, "data": true, "dat": false, "database": false, "none": false} {
		s := module("p.wasm", time.Second, 1<<20)
		s.Files = folder
		if err := b.checkModule(fsys, s); (err == nil) != ok {
			t.Errorf("files: %q: %v", folder, err)
		}
	}
}

package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/inferencetest"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/agent/telemetry"
	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host"
)

var _ serving.Runner = (*Pipeline)(nil)

// plain is a bundle without WASM steps, and the model of it.
func plain() (bundle.Spec, inferencetest.Definition) {
	in, out := []tensor.Spec{spec(tensor.FP32, "x", -1, 2)}, []tensor.Spec{spec(tensor.FP32, "y", -1), spec(tensor.Int64, "z", 1)}
	return bundle.Spec{Variants: []bundle.Variant{{Name: "a", File: "a.onnx"}, {Name: "b", File: "b.onnx"}}, Inputs: in, Outputs: out},
		inferencetest.Definition{Inputs: in, Outputs: out}
}

// fake is the demo's model with fixed probabilities.
func fake() inferencetest.Definition {
	return inferencetest.Definition{
		Inputs: []tensor.Spec{spec(tensor.FP32, "image", -1, 1, 28, 28)}, Outputs: []tensor.Spec{spec(tensor.FP32, "probabilities", -1, 10)},
		Run: func(context.Context, []tensor.Tensor) ([]tensor.Tensor, error) {
			return []tensor.Tensor{tensor.FromFloat32("probabilities", []int64{1, 10}, []float32{0, .125, 0, .5, 0, 0, 0, .25, 0, 0})}, nil
		},
	}
}

func open(t testing.TB, d inferencetest.Definition, dir string, s bundle.Spec) (*Pipeline, *inferencetest.Engine, error) {
	t.Helper()
	engine := &inferencetest.Engine{}
	engine.Define("", d)
	deps := Deps{Engine: engine}
	if s.Pre != nil || s.Post != nil {
		deps.Wasm = wasm(t)
	}
	p, err := Open(context.Background(), deps, dir, s, "")
	if err == nil {
		t.Cleanup(func() { _ = p.Close() })
	}
	return p, engine, err
}

func photo(t testing.TB, size int) tensor.Tensor {
	t.Helper()
	m := image.NewGray(image.Rect(0, 0, size, size))
	m.SetGray(size/2, size/2, color.Gray{255})
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return tensor.FromStrings("photo", b.String())
}

// code returns the class of an error of the package.
func code(t testing.TB, err error) telemetry.Code {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("%v is no *Error", err)
	}
	if got := serving.CodeOf(err); got != e.Code() {
		t.Fatalf("serving sees %v in an error of class %v", got, e.Code())
	}
	return e.Code()
}

func TestAModelAlone(t *testing.T) {
	s, d := plain()
	p, engine, err := open(t, d, "", s)
	if err != nil {
		t.Fatal(err)
	}
	x := []tensor.Tensor{tensor.FromFloat32("x", []int64{1, 2}, []float32{1, 2})}
	for _, wanted := range [][]string{nil, {"y", "z"}, {"z"}, {"z", "y"}} {
		out, err := p.Infer(context.Background(), x, wanted, nil)
		if err != nil {
			t.Fatal(err)
		}
		want := wanted
		if want == nil {
			want = []string{"y", "z"}
		}
		var got []string
		for i := range out {
			got = append(got, out[i].Name)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("asked for %v, got %v", wanted, got)
		}
	}
	for what, c := range map[string]struct {
		in     []tensor.Tensor
		wanted []string
		text   string
	}{
		"an unknown output": {x, []string{"y", "w"}, `no output "w"`},
		"no input":          {nil, nil, `"x" is missing`},
		"another shape":     {[]tensor.Tensor{tensor.FromFloat32("x", []int64{1, 3}, make([]float32, 3))}, nil, "shape"},
	} {
		_, err := p.Infer(context.Background(), c.in, c.wanted, nil)
		if code(t, err) != telemetry.InvalidInput || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if engine.Open() != 0 {
		t.Error("the model is still open")
	}
	if _, err := p.Infer(context.Background(), x, nil, nil); code(t, err) != telemetry.Internal {
		t.Errorf("after Close: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
}

// TestTheBundleMayBeStricterThanTheModel: what it declares counts, and outputs that it does not declare are not given.
func TestTheBundleMayBeStricterThanTheModel(t *testing.T) {
	s, d := plain()
	s.Inputs = []tensor.Spec{spec(tensor.FP32, "x", 1, 2)}
	s.Outputs = s.Outputs[1:]
	p, _, err := open(t, d, "", s)
	if err != nil {
		t.Fatal(err)
	}
	two := []tensor.Tensor{tensor.FromFloat32("x", []int64{2, 2}, make([]float32, 4))}
	if _, err := p.Infer(context.Background(), two, nil, nil); code(t, err) != telemetry.InvalidInput {
		t.Error(err)
	}
	one := []tensor.Tensor{tensor.FromFloat32("x", []int64{1, 2}, make([]float32, 2))}
	out, err := p.Infer(context.Background(), one, nil, nil)
	if err != nil || len(out) != 1 || out[0].Name != "z" {
		t.Errorf("%v, %v", out, err)
	}
	if _, err := p.Infer(context.Background(), one, []string{"y"}, nil); code(t, err) != telemetry.InvalidInput {
		t.Errorf("an output that is not declared: %v", err)
	}
}

// TestAModelAloneCostsNoAllocation beyond its own.
func TestAModelAloneCostsNoAllocation(t *testing.T) {
	for name, narrow := range map[string]bool{"as the model": false, "stricter": true} {
		t.Run(name, func(t *testing.T) {
			s, d := plain()
			if narrow {
				s.Inputs = []tensor.Spec{spec(tensor.FP32, "x", 1, 2)}
			}
			answer := []tensor.Tensor{}
			d.Run = func(context.Context, []tensor.Tensor) ([]tensor.Tensor, error) { return answer, nil }
			p, _, err := open(t, d, "", s)
			if err != nil {
				t.Fatal(err)
			}
			x := []tensor.Tensor{tensor.FromFloat32("x", []int64{1, 2}, []float32{1, 2})}
			ctx := context.Background()
			bare := testing.AllocsPerRun(100, func() { _, _ = p.model.Run(ctx, x, nil) })
			ours := testing.AllocsPerRun(100, func() {
				if _, err := p.Infer(ctx, x, nil, nil); err != nil {
					t.Fatal(err)
				}
			})
			if ours != bare {
				t.Errorf("%v allocations, the model alone makes %v", ours, bare)
			}
		})
	}
}

func TestErrorsOfTheModel(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	late, cancel := context.WithDeadline(context.Background(), time.Unix(1, 0))
	defer cancel()
	for what, c := range map[string]struct {
		ctx  context.Context
		err  error
		want telemetry.Code
	}{
		"its own":    {context.Background(), errors.New("no memory"), telemetry.ModelError},
		"a deadline": {late, nil, telemetry.Deadline},
		"a client":   {ended, nil, telemetry.Canceled},
	} {
		s, d := plain()
		d.Run = func(context.Context, []tensor.Tensor) ([]tensor.Tensor, error) { return nil, c.err }
		p, _, err := open(t, d, "", s)
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.Infer(c.ctx, []tensor.Tensor{tensor.FromFloat32("x", []int64{1, 2}, []float32{1, 2})}, nil, nil)
		if got := code(t, err); got != c.want || !strings.HasPrefix(err.Error(), "a.onnx: ") {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
}

func TestBundlesThatDoNotFitTogether(t *testing.T) {
	for what, c := range map[string]struct {
		change func(s *bundle.Spec, d *inferencetest.Definition)
		text   string
	}{
		"a missing input": {func(s *bundle.Spec, _ *inferencetest.Definition) { s.Inputs = nil }, "the model has 1 inputs, bundle.yaml declares 0"},
		"an unknown input": {func(s *bundle.Spec, _ *inferencetest.Definition) {
			s.Inputs = []tensor.Spec{spec(tensor.FP32, "w", -1, 2)}
		}, `no input "w"`},
		"another datatype": {func(s *bundle.Spec, _ *inferencetest.Definition) {
			s.Inputs = []tensor.Spec{spec(tensor.FP64, "x", -1, 2)}
		}, "declares FP64 [-1 2]"},
		"another rank": {func(s *bundle.Spec, _ *inferencetest.Definition) { s.Inputs = []tensor.Spec{spec(tensor.FP32, "x", 2)} }, "declares FP32 [2]"},
		"another dimension": {func(s *bundle.Spec, _ *inferencetest.Definition) {
			s.Inputs = []tensor.Spec{spec(tensor.FP32, "x", 1, 3)}
		}, "declares FP32 [1 3]"},
		"an unknown output": {func(s *bundle.Spec, _ *inferencetest.Definition) {
			s.Outputs = []tensor.Spec{spec(tensor.FP32, "w", 1)}
		}, `no output "w"`},
		"an output no one can serve": {func(s *bundle.Spec, d *inferencetest.Definition) {
			s.Outputs = []tensor.Spec{spec(tensor.FP32, "map", 1)}
			d.Unserved = []string{"map"}
		}, "is no tensor"},
		"a model that is none": {func(_ *bundle.Spec, d *inferencetest.Definition) { d.Err = &inference.LoadError{Message: "truncated"} }, "a.onnx: truncated"},
	} {
		s, d := plain()
		c.change(&s, &d)
		_, engine, err := open(t, d, "", s)
		if err == nil || code(t, err) != telemetry.ModelError || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want %q", what, err, c.text)
		}
		if engine.Open() != 0 {
			t.Errorf("%s: the model was left open", what)
		}
	}
	s, _ := plain()
	if _, err := Open(context.Background(), Deps{Engine: &inferencetest.Engine{}}, "", s, "c"); err == nil || !strings.Contains(err.Error(), `no variant "c"`) {
		t.Errorf("%v", err)
	}
}

func TestVariants(t *testing.T) {
	s, d := plain()
	engine := &inferencetest.Engine{}
	engine.Define(filepath.Join("dir", "b.onnx"), d)
	p, err := Open(context.Background(), Deps{Engine: engine}, "dir", s, "b")
	if err != nil {
		t.Fatal(err)
	}
	_ = p.Close()
	if _, err := Open(context.Background(), Deps{Engine: engine}, "dir", s, ""); err == nil {
		t.Error("the default variant was not asked for")
	}
}

func TestPreModelPost(t *testing.T) {
	p, engine, err := open(t, fake(), folder(t), fashion())
	if err != nil {
		t.Fatal(err)
	}
	s := newSink()
	out, err := p.Infer(context.Background(), []tensor.Tensor{photo(t, 40)}, nil, s)
	if err != nil || len(out) != 2 || out[0].Name != "label" || out[1].Name != "score" {
		t.Fatalf("%v, %v", out, err)
	}
	labels, err := tensor.SplitBytes(out[0].Data)
	if err != nil || fmt.Sprintf("%s %v", labels, out[1].Float32s()) != "[three seven one] [0.5 0.25 0.125]" {
		t.Errorf("%s %v %v", labels, out[1].Float32s(), err)
	}
	if s.counts["photo_png"] != 1 || len(s.counts) != 1 || len(s.features) != 2 || s.features["contrast"] <= 0 {
		t.Errorf("%+v", s)
	}
	out, err = p.Infer(context.Background(), []tensor.Tensor{photo(t, 40)}, []string{"score"}, nil)
	if err != nil || len(out) != 1 || out[0].Name != "score" {
		t.Errorf("only the score: %v, %v", out, err)
	}
	for what, c := range map[string]struct {
		in   []tensor.Tensor
		text string
	}{
		"no photo":         {[]tensor.Tensor{tensor.FromStrings("photo", "hello")}, "photo 0 is neither PNG nor JPEG"},
		"two photos":       {[]tensor.Tensor{tensor.FromStrings("photo", "a", "b")}, "shape [2]"},
		"an unknown input": {[]tensor.Tensor{photo(t, 4), tensor.FromStrings("more", "a")}, `no input "more"`},
	} {
		runs := engine.Runs()
		_, err := p.Infer(context.Background(), c.in, nil, nil)
		if code(t, err) != telemetry.InvalidInput || !strings.Contains(err.Error(), c.text) || engine.Runs() != runs {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestWhoseFaultItIsInAPipeline: a step that does not fit the model or the bundle is at fault, not the request.
func TestWhoseFaultItIsInAPipeline(t *testing.T) {
	for what, c := range map[string]struct {
		change func(s *bundle.Spec, d *inferencetest.Definition)
		want   error
		step   string
		text   string
	}{
		"a model of another size": {func(_ *bundle.Spec, d *inferencetest.Definition) {
			d.Inputs = []tensor.Spec{spec(tensor.FP32, "image", -1, 1, 32, 32)}
		}, nil, "pre.wasm", "it returned what the model does not take"},
		"a model of more classes": {func(_ *bundle.Spec, d *inferencetest.Definition) {
			d.Run = func(context.Context, []tensor.Tensor) ([]tensor.Tensor, error) {
				return []tensor.Tensor{tensor.FromFloat32("probabilities", []int64{1, 11}, make([]float32, 11))}, nil
			}
		}, nil, "post.wasm", "11 classes"},
		"an output that no step makes": {func(s *bundle.Spec, _ *inferencetest.Definition) {
			s.Outputs = append(s.Outputs, spec(tensor.FP32, "box", 4))
		}, nil, "post.wasm", `no tensor "box"`},
		"an output of another shape": {func(s *bundle.Spec, _ *inferencetest.Definition) {
			s.Outputs = []tensor.Spec{spec(tensor.FP32, "score", 5)}
		}, nil, "post.wasm", `"score" as FP32 [3], bundle.yaml declares FP32 [5]`},
		"a step that takes too long": {func(s *bundle.Spec, _ *inferencetest.Definition) {
			s.Pre.Timeout = time.Microsecond
		}, host.ErrDeadline, "pre.wasm", "time limit of 1µs"},
	} {
		t.Run(what, func(t *testing.T) {
			s, d := fashion(), fake()
			c.change(&s, &d)
			p, _, err := open(t, d, folder(t), s)
			if err != nil {
				t.Fatal(err)
			}
			_, err = p.Infer(context.Background(), []tensor.Tensor{photo(t, 600)}, nil, nil)
			var e *Error
			if code(t, err) != telemetry.WasmError || !errors.As(err, &e) || e.Step != c.step || !strings.Contains(err.Error(), c.text) {
				t.Fatalf("%v, want %s with %q", err, c.step, c.text)
			}
			if c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("%v is not %v", err, c.want)
			}
		})
	}
	// A request that ends is not the step's fault.
	p, _, err := open(t, fake(), folder(t), fashion())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if _, err := p.Infer(ctx, []tensor.Tensor{photo(t, 1500)}, nil, nil); code(t, err) != telemetry.Deadline {
		t.Errorf("a request whose time is up: %v", err)
	}
}

func TestStepsThatAreRefused(t *testing.T) {
	for what, c := range map[string]struct {
		change func(dir string, s *bundle.Spec)
		text   string
	}{
		"a step that is missing": {func(dir string, _ *bundle.Spec) { _ = os.Remove(filepath.Join(dir, "post.wasm")) }, "post.wasm: "},
		"a step that is none": {func(dir string, _ *bundle.Spec) {
			_ = os.Remove(filepath.Join(dir, "pre.wasm"))
			write(t, dir, "pre.wasm", []byte("#!/bin/sh\n"))
		}, "pre.wasm: cannot compile pre.wasm: cannot accept the WASM module (not wasm)"},
		"too little memory":    {func(_ string, s *bundle.Spec) { s.Pre.Memory = 1 << 20 }, "its limit is 1024 KiB"},
		"no labels":            {func(_ string, s *bundle.Spec) { s.Labels = "" }, "it refuses its configuration: the labels file has 0 names"},
		"labels that are gone": {func(dir string, _ *bundle.Spec) { _ = os.Remove(filepath.Join(dir, "labels.txt")) }, "labels.txt: "},
	} {
		t.Run(what, func(t *testing.T) {
			dir, s := folder(t), fashion()
			c.change(dir, &s)
			_, engine, err := open(t, fake(), dir, s)
			if err == nil || code(t, err) != telemetry.WasmError || !strings.Contains(err.Error(), c.text) {
				t.Fatalf("%v, want %q", err, c.text)
			}
			if engine.Open() != 0 {
				t.Error("the model was left open")
			}
		})
	}
	engine := &inferencetest.Engine{}
	engine.Define("", fake())
	if _, err := Open(context.Background(), Deps{Engine: engine}, folder(t), fashion(), ""); err == nil || code(t, err) != telemetry.Internal {
		t.Errorf("without a WASM runtime: %v", err)
	}
}

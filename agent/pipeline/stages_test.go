package pipeline

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/inferencetest"
	"github.com/dhowfleet/dhow/agent/inference/onnxruntime"
	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/agent/telemetry"
	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/models/tensor"
)

// fashionList is the demo's bundle with its pipeline written as a list.
func fashionList(t testing.TB) bundle.Spec {
	t.Helper()
	spec, err := bundle.ParseSpec([]byte(`apiVersion: dhow/v1
name: fashion
version: "1"
variants: [{name: float32, file: model.onnx}]
inputs: [{name: photo, datatype: BYTES, shape: [1]}]
outputs: [{name: label, datatype: BYTES, shape: [3]}, {name: score, datatype: FP32, shape: [3]}]
pipeline:
  - {name: prepare, module: pre.wasm, timeout: 5s, memory: 64MiB, gives: [image]}
  - {name: classify, variant: true}
  - {name: name, module: post.wasm, timeout: 5s, takes: [probabilities]}
labels: labels.txt
counters: [photo_png, photo_jpeg]
features: [brightness, contrast]
`))
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// TestAListAnswersAsItsOtherForm on the demo's real photos: the same tensors, the same counts and features.
func TestAListAnswersAsItsOtherForm(t *testing.T) {
	plain := demo(t)
	dir := folder(t)
	for _, name := range []string{"model.onnx", "labels.txt"} {
		data, err := read(example, name, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir, name, data)
	}
	list, err := Open(t.Context(), Deps{Engine: onnxruntime.New(""), Wasm: wasm(t)}, dir, fashionList(t), "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := list.Close(); err != nil {
			t.Error(err)
		}
	}()
	if list.Provider() != plain.Provider() || len(list.Inputs()) != 1 || len(list.Outputs()) != 2 {
		t.Errorf("%s, %v, %v", list.Provider(), list.Inputs(), list.Outputs())
	}
	for _, photo := range photos(t)[:40] {
		for _, wanted := range [][]string{nil, {"score"}, {"score", "label"}} {
			one, two := newSink(), newSink()
			want, err := plain.Infer(t.Context(), photo.in, wanted, one)
			if err != nil {
				t.Fatal(err)
			}
			timing := statistics.Timing{}
			got, err := list.Infer(context.WithValue(t.Context(), statistics.Key, &timing), photo.in, wanted, two)
			if err != nil || len(got) != len(want) {
				t.Fatal(got, err)
			}
			for i := range want {
				if got[i].Name != want[i].Name || !slices.Equal(got[i].Shape, want[i].Shape) || !slices.Equal(got[i].Data, want[i].Data) {
					t.Errorf("%s: %s differs", photo.file, want[i].Name)
				}
			}
			if len(one.counts) == 0 || one.counts["photo_png"] != two.counts["photo_png"] || one.features["brightness"] != two.features["brightness"] {
				t.Errorf("%s: %v and %v", photo.file, one, two)
			}
			if timing.Input <= 0 || timing.Infer <= 0 || timing.Output <= 0 {
				t.Errorf("%+v", timing)
			}
		}
	}
	// The errors are of the same class, and name the same file.
	bad := []tensor.Tensor{tensor.FromStrings("photo", "no photo")}
	_, e1 := plain.Infer(t.Context(), bad, nil, nil)
	_, e2 := list.Infer(t.Context(), bad, nil, nil)
	var p1, p2 *Error
	if !errors.As(e1, &p1) || !errors.As(e2, &p2) || p1.Code() != telemetry.InvalidInput || p2.Code() != p1.Code() || p2.Step != p1.Step || e1.Error() != e2.Error() {
		t.Errorf("%v (%+v) and %v (%+v)", e1, p1, e2, p2)
	}
}

func twoModels(t *testing.T, engine *inferencetest.Engine) (string, bundle.Spec) {
	t.Helper()
	spec, err := bundle.ParseSpec([]byte(`apiVersion: dhow/v1
name: chain
version: "1"
inputs: [{name: in, datatype: FP32, shape: [-1, 2]}]
outputs: [{name: out, datatype: FP32, shape: [-1, 2]}]
pipeline:
  - {name: first, model: a.onnx, inputs: {x: in}, outputs: {y: mid}}
  - {name: again, model: a.onnx, inputs: {x: mid}, outputs: {y: mid2}}
  - {name: second, model: b.onnx, inputs: {x: mid2}, outputs: {y: out}}
`))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	define := func(name string, run inferencetest.RunFunc) {
		engine.Define(filepath.Join(dir, name), inferencetest.Definition{
			Inputs:  []tensor.Spec{{Name: "x", Datatype: tensor.FP32, Shape: []int64{-1, 2}}},
			Outputs: []tensor.Spec{{Name: "y", Datatype: tensor.FP32, Shape: []int64{-1, 2}}},
			Run:     run,
		})
	}
	double := func(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
		v := in[0].Float32s()
		for i := range v {
			v[i] *= 2
		}
		return []tensor.Tensor{tensor.FromFloat32("y", in[0].Shape, v)}, nil
	}
	define("a.onnx", double)
	define("b.onnx", func(ctx context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
		switch in[0].Float32s()[0] {
		case 4:
			return nil, inference.Inputf("b takes no 4")
		case 8:
			return nil, errors.New("b broke")
		case 12:
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return double(ctx, in)
	})
	return dir, spec
}

func TestAListOfModels(t *testing.T) {
	engine := &inferencetest.Engine{}
	dir, spec := twoModels(t, engine)
	p, err := Open(t.Context(), Deps{Engine: engine}, dir, spec, "")
	if err != nil {
		t.Fatal(err)
	}
	if engine.Open() != 2 {
		t.Errorf("%d models are open, a file that runs twice is loaded once", engine.Open())
	}
	in := func(v float32) []tensor.Tensor {
		return []tensor.Tensor{tensor.FromFloat32("in", []int64{1, 2}, []float32{v, 1})}
	}
	out, err := p.Infer(t.Context(), in(5), nil, nil)
	if err != nil || out[0].Name != "out" || !slices.Equal(out[0].Float32s(), []float32{40, 8}) {
		t.Error(out, err)
	}
	for _, c := range []struct {
		v           float32
		step, words string
		code        telemetry.Code
	}{
		{1, "b.onnx", "b takes no 4", telemetry.ModelError}, // it never saw the request
		{2, "b.onnx", "b broke", telemetry.ModelError},
		{3, "b.onnx", "deadline exceeded", telemetry.Deadline},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		_, err := p.Infer(ctx, in(c.v), nil, nil)
		var failed *Error
		if !errors.As(err, &failed) || failed.Step != c.step || failed.Code() != c.code || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%+v: %v", c, err)
		}
		cancel()
	}
	for _, wrong := range []struct {
		in     []tensor.Tensor
		wanted []string
	}{{in(5), []string{"mid"}}, {nil, nil}, {[]tensor.Tensor{tensor.FromStrings("in", "x")}, nil}} {
		var failed *Error
		if _, err := p.Infer(t.Context(), wrong.in, wrong.wanted, nil); !errors.As(err, &failed) || failed.Code() != telemetry.InvalidInput || failed.Step != "" {
			t.Error(err)
		}
	}
	if err := p.Close(); err != nil || engine.Open() != 0 {
		t.Error(err, engine.Open())
	}
	if _, err := p.Infer(t.Context(), in(5), nil, nil); codeOf(err) != telemetry.Internal {
		t.Error(err)
	}
}

func codeOf(err error) telemetry.Code {
	var failed *Error
	if errors.As(err, &failed) {
		return failed.Code()
	}
	return 0
}

// TestAListThatCannotBeOpened leaves nothing open.
func TestAListThatCannotBeOpened(t *testing.T) {
	engine := &inferencetest.Engine{}
	dir, spec := twoModels(t, engine)
	engine.Define(filepath.Join(dir, "b.onnx"), inferencetest.Definition{Err: &inference.LoadError{Message: "no such operator"}})
	_, err := Open(t.Context(), Deps{Engine: engine}, dir, spec, "")
	var failed *Error
	if !errors.As(err, &failed) || failed.Step != "b.onnx" || failed.Code() != telemetry.ModelError || engine.Open() != 0 {
		t.Error(err, engine.Open())
	}
	engine.Define(filepath.Join(dir, "b.onnx"), inferencetest.Definition{
		Inputs:  []tensor.Spec{{Name: "x", Datatype: tensor.Int64, Shape: []int64{-1}}},
		Outputs: []tensor.Spec{{Name: "y", Datatype: tensor.FP32, Shape: []int64{-1, 2}}},
	})
	if _, err = Open(t.Context(), Deps{Engine: engine}, dir, spec, ""); !errors.As(err, &failed) || !strings.Contains(err.Error(), `"mid2" comes from step again as FP32 [-1 2], but step second takes INT64 [-1]`) || engine.Open() != 0 {
		t.Error(err, engine.Open())
	}
	spec = fashionList(t)
	if _, err = Open(t.Context(), Deps{Engine: engine}, folder(t), spec, ""); !errors.As(err, &failed) || failed.Step != "pre.wasm" || engine.Open() != 0 {
		t.Error(err)
	}
}

package modelrepository

import (
	"bytes"
	"context"
	"errors"
	"image"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/inferencetest"
	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host"
)

const photoConfig = `backend: "wasm"
input { name: "photo" data_type: TYPE_STRING dims: -1 }
output { name: "image" data_type: TYPE_FP32 dims: [-1, 1, 28, 28] }
parameters { key: "timeout" value { string_value: "5s" } } parameters { key: "memory_bytes" value { string_value: "67108864" } }
parameters { key: "counters" value { string_value: "photo_png, photo_jpeg" } }
`

const photoChain = `platform: "ensemble"
input { name: "photo" data_type: TYPE_STRING dims: -1 } output { name: "sum" data_type: TYPE_FP32 dims: [-1, 2] }
ensemble_scheduling {
  step { model_name: "see" model_version: -1 input_map { key: "photo" value: "photo" } output_map { key: "image" value: "seen" } }
  step { model_name: "classify" model_version: -1 input_map { key: "image" value: "seen" } output_map { key: "sum" value: "sum" } }
}`

type counts map[string]uint64

func (c counts) Feature(string, float64)     {}
func (c counts) Count(name string, n uint64) { c[name] += n }

// oneImage is the file of a model that takes images.
func oneImage() []byte {
	g := onnxtest.Graph{
		Inputs:  []onnxtest.Value{{Name: "image", Type: onnxtest.Float, Dims: []int64{-1, 1, 28, 28}}},
		Outputs: []onnxtest.Value{{Name: "sum", Type: onnxtest.Float, Dims: []int64{-1, 2}}},
		Nodes:   []onnxtest.Node{{Op: "Identity", Inputs: []string{"image"}, Outputs: []string{"sum"}}},
	}
	return g.Model()
}

// TestAModuleIsAModelAndAStep serves the pre-processing of the demo by itself and before a model.
func TestAModuleIsAModelAndAStep(t *testing.T) {
	wasm, err := host.NewRuntime(context.Background(), host.Config{})
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, Config{Mode: Explicit, Wasm: wasm})
	file := filepath.Join(b.dir, "see", "1", "model.wasm")
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w", "-o", file, "../../wasm/examples/fashion-pre")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	b.write("see/config.pbtxt", photoConfig)
	b.write("classify/1/model.onnx", string(oneImage()))
	spec := tensor.Spec{Name: "image", Datatype: tensor.FP32, Shape: []int64{-1, 1, 28, 28}}
	b.engine.Define("", inferencetest.Definition{
		Inputs: []tensor.Spec{spec}, Outputs: []tensor.Spec{{Name: "sum", Datatype: tensor.FP32, Shape: []int64{-1, 2}}},
		Run: func(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
			rows := in[0].Shape[0]
			return []tensor.Tensor{tensor.FromFloat32("sum", []int64{rows, 2}, make([]float32, 2*rows))}, nil
		},
	})
	b.write("classify/config.pbtxt", "max_batch_size: 0")
	b.write("whole/config.pbtxt", photoChain)
	b.load("whole")

	var picture bytes.Buffer
	if err := png.Encode(&picture, image.NewGray(image.Rect(0, 0, 40, 40))); err != nil {
		t.Fatal(err)
	}
	photo := tensor.FromStrings("photo", picture.String(), picture.String())
	out, err := infer(b, "see", photo)
	if err != nil || out.Name != "image" || out.Shape[0] != 2 {
		t.Fatalf("%+v, %v", out.Shape, err)
	}
	if out, err = infer(b, "whole", photo); err != nil || out.Name != "sum" || out.Shape[0] != 2 {
		t.Fatalf("%+v, %v", out.Shape, err)
	}
	for _, model := range []string{"see", "whole"} {
		_, err = infer(b, model, tensor.FromStrings("photo", "no picture"))
		wants(t, err, "photo 0")
		if !errors.As(err, new(*inference.InputError)) {
			t.Errorf("%s: %v is not called the request's fault", model, err)
		}
	}
	_, err = b.table.Infer(context.Background(), serving.Request{Model: "see", Inputs: []tensor.Tensor{photo}, Outputs: []string{"z"}})
	wants(t, err, `no output "z"`)
	sink := counts{}
	if _, err := b.repo.models["see"].loaded[0].runner.Infer(context.Background(), []tensor.Tensor{photo}, nil, sink); err != nil || sink["photo_png"] != 2 {
		t.Error(sink, err)
	}

	// What the module returns is held against what its configuration says.
	b.write("see/config.pbtxt", photoConfig+`output { name: "more" data_type: TYPE_FP32 dims: 1 }`)
	b.load("see")
	_, err = infer(b, "see", photo)
	wants(t, err, `returned no tensor "more"`)
	for _, c := range []struct{ parameter, value, want string }{
		{"timeout", "-1s", "no time"}, {"memory_bytes", "x", "no number"}, {"configuration", "../x", "no file"}, {"configuration", "missing", "cannot read"},
	} {
		b.write("bad/1/model.wasm", "no module")
		config := `backend: "wasm" input { name: "x" data_type: TYPE_FP32 dims: 1 } output { name: "y" data_type: TYPE_FP32 dims: 1 }
parameters { key: "` + c.parameter + `" value { string_value: "` + c.value + `" } }`
		b.write("bad/config.pbtxt", config)
		wants(t, b.repo.Load(context.Background(), "bad", nil), c.want)
	}
	b.write("bad/config.pbtxt", `backend: "wasm" input { name: "x" data_type: TYPE_FP32 dims: 1 } output { name: "y" data_type: TYPE_FP32 dims: 1 }`)
	wants(t, b.repo.Load(context.Background(), "bad", nil), "model.wasm")
}

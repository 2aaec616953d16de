package modelrepository

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/onnxruntime"
	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/tensor"
)

// realBench is a bench with ONNX Runtime.
func realBench(t *testing.T) *bench {
	t.Helper()
	if _, err := onnxruntime.Find(""); err != nil {
		t.Skip("ONNX Runtime is not here:", err)
	}
	return newBench(t, Config{Mode: Explicit, Engine: onnxruntime.New("")})
}

func infer(b *bench, model string, in ...tensor.Tensor) (tensor.Tensor, error) {
	res, err := b.table.Infer(context.Background(), serving.Request{Model: model, Inputs: in})
	if err != nil {
		return tensor.Tensor{}, err
	}
	return res.Outputs[0], nil
}

func ramp(rows, width int64) tensor.Tensor {
	values := make([]float32, rows*width)
	for i := range values {
		values[i] = float32(i)
	}
	return tensor.FromFloat32("x", []int64{rows, width}, values)
}

func TestARealModelWithoutConfiguration(t *testing.T) {
	b := realBench(t)
	b.write("m/1/model.onnx", string(onnxtest.Negate(3).Model()))
	b.load("m")
	info, err := b.table.Lookup("m", "")
	if err != nil || info.Config == nil || info.Config.MaxBatchSize != 4 || info.Config.DynamicBatching == nil || info.Platform != "onnxruntime_onnx" {
		t.Fatalf("%+v, %+v, %v", info, info.Config, err)
	}
	if !reflect.DeepEqual(info.Inputs, []tensor.Spec{vectorX}) || !reflect.DeepEqual(info.Config.Inputs[0].Dims, []int64{3}) {
		t.Errorf("%+v", info.Inputs)
	}
	// Nobody chose the 4, so that more than that is answered too.
	for _, rows := range []int64{1, 4, 9} {
		out, err := infer(b, "m", ramp(rows, 3))
		if err != nil || out.Shape[0] != rows || out.Float32s()[rows*3-1] != -float32(rows*3-1) {
			t.Errorf("%d rows: %v, %v", rows, out, err)
		}
	}
}

// total adds its input up over all rows, so that requests must not be joined.
func total() *onnxtest.Graph {
	dims := []int64{-1, 3}
	return &onnxtest.Graph{
		Inputs:    []onnxtest.Value{{Name: "x", Type: onnxtest.Float, Dims: dims}},
		Outputs:   []onnxtest.Value{{Name: "y", Type: onnxtest.Float, Dims: dims}},
		Nodes:     []onnxtest.Node{{Op: "CumSum", Inputs: []string{"x", "axis"}, Outputs: []string{"y"}}},
		Constants: []onnxtest.Constant{{Name: "axis", Type: onnxtest.Int64, Dims: []int64{}, Data: make([]byte, 8)}},
	}
}

func TestRowsThatDependOnEachOtherAreNotJoined(t *testing.T) {
	b := realBench(t)
	b.write("m/1/model.onnx", string(total().Model()))
	b.load("m")
	info, err := b.table.Lookup("m", "")
	if err != nil || info.Config.MaxBatchSize != 0 || info.Config.DynamicBatching != nil || !reflect.DeepEqual(info.Inputs, []tensor.Spec{vectorX}) {
		t.Fatalf("%+v, %+v, %v", info.Inputs, info.Config, err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				out, err := infer(b, "m", ramp(2, 3))
				if err != nil || !reflect.DeepEqual(out.Float32s(), []float32{0, 1, 2, 3, 5, 7}) {
					t.Error(out.Float32s(), err)
				}
			}
		})
	}
	wg.Wait()
}

func TestWhatTheConfigurationAsksFor(t *testing.T) {
	b := realBench(t)
	b.write("m/1/net.onnx", string(onnxtest.Negate(6).Model()))
	b.write("m/labels.txt", "shirt\r\nbag\nshoe\n")
	b.write("m/warmup/x.raw", strings.Repeat("\x00\x00\x80\x3f", 6))
	b.write("m/config.pbtxt", `default_model_filename: "net.onnx" max_batch_size: 2
input { name: "x" data_type: TYPE_FP32 dims: [2, 3] reshape { shape: 6 } }
output { name: "y" dims: [3, 2] reshape { shape: 6 } label_filename: "labels.txt" }
dynamic_batching { preferred_batch_size: 2 max_queue_delay_microseconds: 50 }
instance_group { count: 2 kind: KIND_CPU }
model_warmup [
  { name: "zero" inputs { key: "x" value { data_type: TYPE_FP32 dims: [2, 3] zero_data: true } } },
  { name: "random" batch_size: 2 count: 3 inputs { key: "x" value { data_type: TYPE_FP32 dims: [2, 3] random_data: true } } },
  { name: "file" batch_size: 1 inputs { key: "x" value { data_type: TYPE_FP32 dims: [2, 3] input_data_file: "x.raw" } } } ]
parameters { key: "intra_op_thread_count" value { string_value: "1" } }`)
	b.load("m")
	info, err := b.table.Lookup("m", "")
	if err != nil || !reflect.DeepEqual(info.Labels, map[string][]string{"y": {"shirt", "bag", "shoe"}}) {
		t.Fatalf("%+v, %v", info, err)
	}
	if want := (tensor.Spec{Name: "x", Datatype: tensor.FP32, Shape: []int64{-1, 2, 3}}); !reflect.DeepEqual(info.Inputs[0], want) {
		t.Errorf("%+v, want %+v", info.Inputs[0], want)
	}
	in := ramp(2, 6)
	in.Shape = []int64{2, 2, 3}
	out, err := infer(b, "m", in)
	if err != nil || !reflect.DeepEqual(out.Shape, []int64{2, 3, 2}) || out.Float32s()[11] != -11 {
		t.Fatalf("%+v, %v", out, err)
	}
	if !reflect.DeepEqual(in.Shape, []int64{2, 2, 3}) {
		t.Error("the request was changed:", in.Shape)
	}
	for _, c := range []struct {
		shape []int64
		want  string
	}{{[]int64{3, 2, 3}, "max_batch_size is 2"}, {[]int64{1, 3, 2}, "the model wants [-1 2 3]"}, {[]int64{6}, "the model wants"}} {
		n, err := tensor.Elements(c.shape)
		if err != nil {
			t.Fatal(err)
		}
		_, err = infer(b, "m", tensor.FromFloat32("x", c.shape, make([]float32, n)))
		wants(t, err, c.want)
		if !errors.As(err, new(*inference.InputError)) {
			t.Errorf("%v is not called the request's fault", err)
		}
	}
	_, err = b.table.Infer(context.Background(), serving.Request{Model: "m", Inputs: []tensor.Tensor{in}, Outputs: []string{"z"}})
	wants(t, err, `no output "z"`)
}

func TestARealEnsemble(t *testing.T) {
	b := realBench(t)
	b.write("n/1/model.onnx", string(onnxtest.Negate(3).Model()))
	b.write("e/config.pbtxt", chain("n", "n", "n"))
	b.load("e")
	out, err := infer(b, "e", ramp(2, 3))
	if err != nil || out.Name != "y" || out.Float32s()[5] != -5 {
		t.Fatal(out, err)
	}
}

func TestAHostileFileDoesNotReachTheRuntime(t *testing.T) {
	b := realBench(t)
	b.write("m/1/model.onnx", string(withExternal("../../../../etc/passwd")))
	err := b.repo.Load(context.Background(), "m", nil)
	wants(t, err, "cannot load")
	if errors.As(err, new(*inference.LoadError)) {
		t.Error("the runtime was asked:", err)
	}
}

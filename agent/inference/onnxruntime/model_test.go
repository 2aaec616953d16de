package onnxruntime

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
	"github.com/dhowfleet/dhow/models/tensor"
)

func TestRunNegates(t *testing.T) {
	m := load(t, write(t, onnxtest.Negate(3)))
	if in := m.Inputs(); len(in) != 1 || in[0].Name != "x" || in[0].Datatype != tensor.FP32 || !slices.Equal(in[0].Shape, []int64{-1, 3}) {
		t.Fatalf("inputs %v", in)
	}
	out := run(t, m, nil, f32("x", 1, -2, 0.5))
	if got := out[0].Float32s(); len(out) != 1 || out[0].Name != "y" || !slices.Equal(got, []float32{-1, 2, -0.5}) {
		t.Errorf("%v", out)
	}
	if m.Provider() != "CPUExecutionProvider" || engine(t).Version() != Pinned && os.Getenv(Variable) == "" {
		t.Errorf("provider %q, version %q", m.Provider(), engine(t).Version())
	}
}

// TestInputsNeedNoAlignment: a tensor inside a request's body lies where the text before it ends.
func TestInputsNeedNoAlignment(t *testing.T) {
	m := load(t, write(t, onnxtest.Negate(3)))
	whole := make([]byte, 64)
	for shift := range 8 {
		in := f32("x", 1, 2, 3)
		copy(whole[shift:], in.Data)
		in.Data = whole[shift : shift+12]
		if got := run(t, m, nil, in)[0].Float32s(); !slices.Equal(got, []float32{-1, -2, -3}) {
			t.Errorf("shift %d: %v", shift, got)
		}
	}
}

// identities passes one value of each kind through, so that what comes out must be what went in.
func identities(values ...onnxtest.Value) *onnxtest.Graph {
	g := &onnxtest.Graph{}
	for _, v := range values {
		out := v
		out.Name += "_out"
		g.Inputs, g.Outputs = append(g.Inputs, v), append(g.Outputs, out)
		g.Nodes = append(g.Nodes, onnxtest.Node{Op: "Identity", Inputs: []string{v.Name}, Outputs: []string{out.Name}})
	}
	return g
}

func TestEveryKindOfTensorPassesUnchanged(t *testing.T) {
	m := load(t, write(t, identities(
		onnxtest.Value{Name: "half", Type: onnxtest.Float16, Dims: []int64{-1, 3}},
		onnxtest.Value{Name: "scalar", Type: onnxtest.Int64, Dims: []int64{}},
		onnxtest.Value{Name: "half_scalar", Type: onnxtest.Float16, Dims: []int64{}},
		onnxtest.Value{Name: "text", Type: onnxtest.String, Dims: []int64{-2}},
		onnxtest.Value{Name: "empty", Type: onnxtest.Double, Dims: []int64{-3, 4}},
		onnxtest.Value{Name: "flag", Type: onnxtest.Bool, Dims: []int64{2}},
		onnxtest.Value{Name: "loose", Type: onnxtest.Float, NoShape: true},
	)))
	in := []tensor.Tensor{
		{Name: "half", Datatype: tensor.FP16, Shape: []int64{2, 3}, Data: []byte{0, 0x3c, 0, 0x40, 0, 0x42, 0, 0x44, 0, 0x45, 0, 0x46}},
		{Name: "scalar", Datatype: tensor.Int64, Shape: nil, Data: []byte{1, 2, 3, 4, 5, 6, 7, 0x80}},
		{Name: "half_scalar", Datatype: tensor.FP16, Shape: nil, Data: []byte{0x55, 0x35}},
		tensor.FromStrings("text", "a\x00b", "", "\xff\xfe not UTF-8", strings.Repeat("long ", 1000)),
		{Name: "empty", Datatype: tensor.FP64, Shape: []int64{0, 4}},
		{Name: "flag", Datatype: tensor.Bool, Shape: []int64{2}, Data: []byte{1, 0}},
		tensor.FromFloat32("loose", []int64{1, 2, 1}, []float32{1, float32(math.Inf(1))}),
	}
	out := run(t, m, nil, in...)
	for i := range in {
		if out[i].Name != in[i].Name+"_out" || out[i].Datatype != in[i].Datatype || !slices.Equal(out[i].Shape, in[i].Shape) || !bytes.Equal(out[i].Data, in[i].Data) {
			t.Errorf("%s: %v %v %x, was %v %x", in[i].Name, out[i].Name, out[i].Shape, out[i].Data, in[i].Shape, in[i].Data)
		}
	}
}

// TestStringsOfNothing: no element, and elements without a byte.
func TestStringsOfNothing(t *testing.T) {
	m := load(t, write(t, identities(onnxtest.Value{Name: "text", Type: onnxtest.String, Dims: []int64{-2}})))
	for _, in := range []tensor.Tensor{tensor.FromStrings("text"), tensor.FromStrings("text", "", "")} {
		if out := run(t, m, nil, in); !bytes.Equal(out[0].Data, in.Data) || !slices.Equal(out[0].Shape, in.Shape) {
			t.Errorf("%v came back as %v", in, out[0])
		}
	}
}

// TestInputsMayShareMemory: all tensors of a binary request lie in its body, at any offset.
func TestInputsMayShareMemory(t *testing.T) {
	m := load(t, write(t, identities(
		onnxtest.Value{Name: "a", Type: onnxtest.Float, Dims: []int64{1, 2}},
		onnxtest.Value{Name: "b", Type: onnxtest.Double, Dims: []int64{1}},
		onnxtest.Value{Name: "c", Type: onnxtest.String, Dims: []int64{1}},
	)))
	for shift := range 4 {
		body := append(make([]byte, shift), "01234567ABCDEFGH\x03\x00\x00\x00xyz"...)
		at := body[shift:]
		out := run(t, m, nil,
			tensor.Tensor{Name: "a", Datatype: tensor.FP32, Shape: []int64{1, 2}, Data: at[:8]},
			tensor.Tensor{Name: "b", Datatype: tensor.FP64, Shape: []int64{1}, Data: at[8:16]},
			tensor.Tensor{Name: "c", Datatype: tensor.Bytes, Shape: []int64{1}, Data: at[16:]})
		if got := string(out[0].Data) + string(out[1].Data) + string(out[2].Data); got != string(at) {
			t.Errorf("shift %d: %q", shift, got)
		}
	}
}

func TestOnlyTheWantedOutputsComeInTheOrderWanted(t *testing.T) {
	m := load(t, write(t, identities(
		onnxtest.Value{Name: "a", Type: onnxtest.Float, Dims: []int64{1, 1}},
		onnxtest.Value{Name: "b", Type: onnxtest.Float, Dims: []int64{1, 1}},
		onnxtest.Value{Name: "c", Type: onnxtest.Float, Dims: []int64{1, 1}},
	)))
	in := []tensor.Tensor{f32("c", 3), f32("a", 1), f32("b", 2)}
	for range 3 { // the state of a call is reused
		out := run(t, m, []string{"c_out", "a_out"}, in...)
		if len(out) != 2 || out[0].Name != "c_out" || out[0].Float32s()[0] != 3 || out[1].Name != "a_out" || out[1].Float32s()[0] != 1 {
			t.Fatalf("%v", out)
		}
		if out = run(t, m, nil, in...); len(out) != 3 {
			t.Fatalf("%v", out)
		}
	}
	for wanted, sentence := range map[string]string{"d": `no output "d"`, "c_out": "twice"} {
		_, err := m.Run(t.Context(), in, []string{"c_out", wanted})
		var input *inference.InputError
		if !errors.As(err, &input) || !strings.Contains(err.Error(), sentence) {
			t.Errorf("%q: %v", wanted, err)
		}
	}
}

// TestOutputsThatAreNoTensorsAreNamed: a random forest of scikit-learn returns a label and a sequence of maps.
func TestOutputsThatAreNoTensorsAreNamed(t *testing.T) {
	m := load(t, bindingModel(t, "sklearn_randomforest.onnx"))
	if got := m.Unserved(); !slices.Equal(got, []string{"output_probability"}) {
		t.Errorf("unserved %q", got)
	}
	in := tensor.FromFloat32("X", []int64{2, 4}, []float32{5.1, 3.5, 1.4, 0.2, 6.2, 3.4, 5.4, 2.3})
	out := run(t, m, nil, in)
	if len(out) != 1 || out[0].Datatype != tensor.Int64 || binary.LittleEndian.Uint64(out[0].Data) != 0 || binary.LittleEndian.Uint64(out[0].Data[8:]) != 2 {
		t.Errorf("%v", out)
	}
	if _, err := m.Run(t.Context(), []tensor.Tensor{in}, []string{"output_probability"}); err == nil || !strings.Contains(err.Error(), "cannot be served") {
		t.Error(err)
	}
}

func TestRealModels(t *testing.T) {
	for name, in := range map[string][]tensor.Tensor{
		"example_0_dim_output.onnx": {{Name: "x", Datatype: tensor.FP32, Shape: []int64{2, 8}, Data: make([]byte, 64)}},
		"example_float16.onnx":      nil,
		"example_multitype.onnx":    nil,
		"example_big_fanout.onnx":   nil,
	} {
		m := load(t, bindingModel(t, name))
		if in == nil {
			for _, s := range m.Inputs() {
				shape := make([]int64, len(s.Shape))
				for i, d := range s.Shape {
					shape[i] = max(d, 1)
				}
				n, _ := tensor.Elements(shape)
				size := max(s.Datatype.Size(), 4)
				if s.Datatype != tensor.Bytes {
					size = s.Datatype.Size()
				}
				in = append(in, tensor.Tensor{Name: s.Name, Datatype: s.Datatype, Shape: shape, Data: make([]byte, int(n)*size)})
			}
		}
		if out := run(t, m, nil, in...); len(out) != len(m.Outputs()) {
			t.Errorf("%s: %v", name, out)
		}
	}
}

func TestFilesThatAreNoModels(t *testing.T) {
	dir := t.TempDir()
	good := onnxtest.Negate(3).Model()
	lfs := "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"
	inputs := onnxtest.Negate(3)
	inputs.Inputs[0].Sequence = true
	outputs := onnxtest.Negate(3)
	outputs.Nodes[0].Op = "NoSuchOperator"
	for name, content := range map[string][]byte{
		"empty.onnx": nil, "pointer.onnx": []byte(lfs), "short.onnx": good[:len(good)/2], "noise.onnx": bytes.Repeat([]byte{0xa5}, 4096),
		"sequence.onnx": inputs.Model(), "operator.onnx": outputs.Model(),
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := engine(t).Load(t.Context(), path, inference.Options{})
		var load *inference.LoadError
		if !errors.As(err, &load) || !strings.HasPrefix(err.Error(), "cannot load "+name+": ") || strings.Contains(err.Error(), ".cc:") {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
	if _, err := engine(t).Load(t.Context(), filepath.Join(dir, "none.onnx"), inference.Options{}); err == nil {
		t.Error("a file that is not there was loaded")
	}
	run(t, load(t, write(t, onnxtest.Negate(3))), nil, f32("x", 1, 2, 3)) // the process is none the worse
}

func TestRequestsThatDoNotFit(t *testing.T) {
	m := load(t, write(t, &onnxtest.Graph{
		Inputs:  []onnxtest.Value{{Name: "a", Type: onnxtest.Float, Dims: []int64{-1}}, {Name: "b", Type: onnxtest.Float, Dims: []int64{-2}}, {Name: "f", Type: onnxtest.Bool, Dims: []int64{1}}},
		Outputs: []onnxtest.Value{{Name: "y", Type: onnxtest.Float, Dims: []int64{-3}}, {Name: "g", Type: onnxtest.Bool, Dims: []int64{1}}},
		Nodes: []onnxtest.Node{
			{Op: "Add", Inputs: []string{"a", "b"}, Outputs: []string{"y"}},
			{Op: "Not", Inputs: []string{"f"}, Outputs: []string{"g"}},
		},
	}))
	vector := func(name string, n int) tensor.Tensor {
		return tensor.FromFloat32(name, []int64{int64(n)}, make([]float32, n))
	}
	flag := tensor.Tensor{Name: "f", Datatype: tensor.Bool, Shape: []int64{1}, Data: []byte{1}}
	run(t, m, nil, vector("a", 2), vector("b", 2), flag)
	odd := flag
	odd.Data = []byte{2}
	for _, c := range []struct {
		in   []tensor.Tensor
		want string
	}{
		{[]tensor.Tensor{vector("a", 2), vector("b", 2), odd}, "a BOOL is 0 or 1"},
		{[]tensor.Tensor{vector("a", 2), flag}, `"b" is missing`},
	} {
		var input *inference.InputError
		if _, err := m.Run(t.Context(), c.in, nil); !errors.As(err, &input) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
	// Only the operator itself sees that these two cannot be added.
	_, err := m.Run(t.Context(), []tensor.Tensor{vector("a", 2), vector("b", 3), flag}, nil)
	if err == nil || strings.Contains(err.Error(), ".cc") {
		t.Error(err)
	}
	run(t, m, nil, vector("a", 2), vector("b", 2), flag)
}

func TestRunStopsWhenItsContextEnds(t *testing.T) {
	m := load(t, write(t, onnxtest.Matrix(512, 200)))
	in := []tensor.Tensor{tensor.FromFloat32("x", []int64{1024, 512}, make([]float32, 1024*512))}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := m.Run(ctx, in, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a call of many seconds returned %v", err)
	}
	if _, err := m.Run(ctx, in, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("an ended context: %v", err)
	}
}

// TestAStoppedCallLeavesNothingBehind: the state that was stopped is the one that the next call uses.
func TestAStoppedCallLeavesNothingBehind(t *testing.T) {
	m := load(t, write(t, onnxtest.Matrix(256, 400))).(*model)
	in := []tensor.Tensor{tensor.FromFloat32("x", []int64{256, 256}, make([]float32, 256*256))}
	small := []tensor.Tensor{tensor.FromFloat32("x", []int64{1, 256}, make([]float32, 256))}
	for len(m.idle) == 0 { // on a busy machine the context may end before the call begins
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(5*time.Millisecond, cancel)
		if _, err := m.Run(ctx, in, nil); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	alive, stop := context.WithCancel(t.Context())
	defer stop()
	if _, err := m.Run(alive, small, nil); err != nil {
		t.Fatal(err)
	}
}

func TestCloseWaitsForCalls(t *testing.T) {
	m := load(t, write(t, onnxtest.Matrix(128, 50)))
	in := []tensor.Tensor{tensor.FromFloat32("x", []int64{32, 128}, make([]float32, 32*128))}
	var calls sync.WaitGroup
	started := make(chan struct{}, 4)
	for range 4 {
		calls.Go(func() {
			for first := true; ; first = false {
				_, err := m.Run(context.Background(), in, nil)
				if first {
					started <- struct{}{}
				}
				if errors.Is(err, inference.ErrClosed) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 4 {
		<-started
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	calls.Wait()
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

func TestConcurrentCallsKeepApart(t *testing.T) {
	m := load(t, write(t, onnxtest.Negate(64)))
	var calls sync.WaitGroup
	for g := range 8 {
		calls.Go(func() {
			values := make([]float32, 64)
			for i := range 300 {
				values[i%64] = float32(g*1000 + i)
				out, err := m.Run(context.Background(), []tensor.Tensor{f32("x", values...)}, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if got := out[0].Float32s()[i%64]; got != -values[i%64] {
					t.Errorf("got %v, want %v", got, -values[i%64])
					return
				}
			}
		})
	}
	calls.Wait()
}

func BenchmarkRunNegate1024(b *testing.B) {
	m := load(b, write(b, onnxtest.Negate(1024)))
	in := []tensor.Tensor{tensor.FromFloat32("x", []int64{1, 1024}, make([]float32, 1024))}
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Run(ctx, in, nil); err != nil {
			b.Fatal(err)
		}
	}
}

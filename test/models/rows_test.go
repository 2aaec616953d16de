package models

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/models/graph"
	"github.com/dhowfleet/dhow/test/conformance/wire"
)

// ramp are numbers that differ, from -1 to 1.
func ramp(n int) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(math.Sin(float64(i)))
	}
	return out
}

// TestReviews: two outputs; the probabilities are such, and padding that the mask covers changes nothing.
func TestReviews(t *testing.T) {
	c := start(t)
	c.load(t, "reviews", "testdata/review_text_int64.onnx")
	ids, mask := []int64{12, 7, 99, 4}, []int64{1, 1, 1, 1}
	short := c.ask(t, "reviews", i64("input_ids", []int64{1, 4}, ids...), i64("attention_mask", []int64{1, 4}, mask...))
	p := numbers(t, short, "probabilities")
	if len(p) != 2 || math.Abs(p[0]+p[1]-1) > 1e-5 || len(numbers(t, short, "embedding")) != 48 {
		t.Errorf("probabilities %v", p)
	}
	long := c.ask(t, "reviews", i64("input_ids", []int64{1, 6}, append(ids, 0, 0)...), i64("attention_mask", []int64{1, 6}, append(mask, 0, 0)...))
	if q := numbers(t, long, "probabilities"); math.Abs(p[0]-q[0]) > 1e-4 {
		t.Errorf("with padding the probabilities are %v, without %v", q, p)
	}
}

// TestAWakeWord: '::' in the input's name, a number for the output's.
func TestAWakeWord(t *testing.T) {
	path := fetched(t, "openwakeword", "models", "hello_deepa.onnx")
	c := start(t)
	c.load(t, "wake::word", path)
	// The input is what another model makes of a sound, so that nothing is known of the answer to these but its range.
	var answers []float64
	for _, x := range [][]float32{make([]float32, 25*96), ramp(25 * 96)} {
		answers = append(answers, numbers(t, c.ask(t, "wake::word", f32("onnx::Flatten_0", []int64{1, 25, 96}, x)), "39")...)
	}
	if len(answers) != 2 || slices.Min(answers) < 0 || slices.Max(answers) > 1 || answers[0] == answers[1] {
		t.Errorf("answers %v", answers)
	}
}

// TestAnOlderVoiceDetector: scalars and two states beside the sound.
func TestAnOlderVoiceDetector(t *testing.T) {
	path := fetched(t, "vad-web", "dist", "silero_vad_legacy.onnx")
	c := start(t)
	c.load(t, "voice", path)
	state := make([]float32, 128)
	a := c.ask(t, "voice", f32("input", []int64{1, 1536}, make([]float32, 1536)), i64("sr", []int64{}, 16000), f32("h", []int64{2, 1, 64}, state), f32("c", []int64{2, 1, 64}, state))
	if p := numbers(t, a, "output"); len(p) != 1 || p[0] > 0.3 {
		t.Errorf("silence is speech by %v", p)
	}
	if !slices.Equal(a.Find("hn").Shape, []int64{2, 1, 64}) || !slices.Equal(a.Find("cn").Shape, []int64{2, 1, 64}) {
		t.Errorf("states of shape %v and %v", a.Find("hn").Shape, a.Find("cn").Shape)
	}
}

// TestAForestWithAMap: one output is a sequence of maps. It is named, the label is served.
func TestAForestWithAMap(t *testing.T) {
	path := fetched(t, "onnxruntime_go", "sklearn_randomforest.onnx")
	c := start(t)
	if unserved := c.load(t, "iris", path); !slices.Equal(unserved, []string{"output_probability"}) {
		t.Errorf("not served: %q", unserved)
	}
	flowers := []float32{5.1, 3.5, 1.4, 0.2, 7.0, 3.2, 4.7, 1.4, 6.3, 3.3, 6.0, 2.5}
	if labels := numbers(t, c.ask(t, "iris", f32("X", []int64{3, 4}, flowers)), "output_label"); !slices.Equal(labels, []float64{0, 1, 2}) {
		t.Errorf("labels %v", labels)
	}
	call := wire.Call{Inputs: []wire.Value{f32("X", []int64{3, 4}, flowers)}, Outputs: []map[string]any{{"name": "output_probability"}}}
	if status, body := c.post(t, "iris", call); status != 400 || !strings.Contains(body, "output_probability") {
		t.Errorf("asked for the map, the answer is %d %s", status, body)
	}
}

func TestSums(t *testing.T) {
	path := fetched(t, "onnxruntime_go", "example_dynamic_axes.onnx")
	c := start(t)
	c.load(t, "sums", path)
	for _, batch := range []int64{1, 7, 123} {
		x := ramp(int(batch) * 10)
		got := numbers(t, c.ask(t, "sums", f32("input_vectors", []int64{batch, 10}, x)), "output_scalars")
		for i := range got {
			want := 0.0
			for _, v := range x[10*i : 10*i+10] {
				want += float64(v)
			}
			if math.Abs(got[i]-want) > 1e-5 || int64(len(got)) != batch {
				t.Fatalf("row %d of %d is %v, want %v", i, len(got), got[i], want)
			}
		}
	}
}

// TestMixedTypes: bytes and doubles in, 16 and 64 bit integers out.
func TestMixedTypes(t *testing.T) {
	path := fetched(t, "onnxruntime_go", "example_multitype.onnx")
	c := start(t)
	c.load(t, "types", path)
	b := wire.Fill("InputB", "FP64", []int64{1, 2, 2}, true)
	a := c.ask(t, "types", wire.Value{Name: "InputA", Datatype: "UINT8", Shape: []int64{1, 1, 1}, Raw: []byte{200}}, b)
	if x, y := numbers(t, a, "OutputA"), numbers(t, a, "OutputB"); !slices.Equal(x, []float64{-312, -312, -312, -312}) || !slices.Equal(y, []float64{246800}) {
		t.Error(x, y)
	}
}

// TestAnAnswerWithoutElements: a dimension of the answer is 0.
func TestAnAnswerWithoutElements(t *testing.T) {
	path := fetched(t, "onnxruntime_go", "example_0_dim_output.onnx")
	c := start(t)
	c.load(t, "none", path)
	a := c.ask(t, "none", f32("x", []int64{2, 8}, make([]float32, 16)))
	if y := a.Find("y"); !slices.Equal(y.Shape, []int64{2, 0, 8}) || len(y.Raw) != 0 {
		t.Errorf("%+v", y)
	}
	ones := slices.Repeat([]float32{1}, 16)
	if y := c.ask(t, "none", f32("x", []int64{2, 8}, ones)).Find("y"); !slices.Equal(y.Shape, []int64{2, 2, 8}) {
		t.Errorf("with ones the shape is %v", y.Shape)
	}
	call := wire.Call{Inputs: []wire.Value{f32("x", []int64{2, 8}, make([]float32, 16))}}
	if status, body := c.post(t, "none", call); status != 200 || !strings.Contains(body, `"data":[]`) {
		t.Errorf("in JSON: %d %s", status, body)
	}
}

// TestManyBranches: a hundred products, added up: the answer is linear in the input.
func TestManyBranches(t *testing.T) {
	path := fetched(t, "onnxruntime_go", "example_big_fanout.onnx")
	c := start(t)
	c.load(t, "branches", path)
	ask := func(x ...float32) []float64 {
		return numbers(t, c.ask(t, "branches", f32("input", []int64{1, 4}, x)), "output")
	}
	one, three := ask(1, 2, 3, 4), ask(3, 6, 9, 12)
	for i := range one {
		if math.Abs(3*one[i]-three[i]) > 1e-3*math.Abs(three[i]) || one[i] == 0 {
			t.Errorf("%v and %v", one, three)
		}
	}
}

// TestRowsAreIndependent: models of several inputs and of steps in time answer a row of a batch as they do the row alone.
func TestRowsAreIndependent(t *testing.T) {
	for _, m := range []struct {
		file   string
		inputs []description
		output string
	}{
		{"mlp.onnx", []description{{"data_input", []int64{-1, 3}, 0}}, "preds"},
		{"scaler.onnx", []description{{"X", []int64{-1, 3}, 0}}, "variable"},
		{"gru.onnx", []description{{"data_input", []int64{-1, 6, 3}, 0}, {"init_hidden", []int64{1, -1, 5}, 1}}, "hidden_out"},
		{"ndm.onnx", []description{{"sensor_input", []int64{-1, 5, 4}, 0}, {"setpoint_input", []int64{-1, 1}, 0}}, "optimal_supply_temp"},
	} {
		t.Run(m.file, func(t *testing.T) {
			path := fetched(t, "gonnx", m.file)
			c := start(t)
			c.load(t, m.file, path)
			const rows = 3
			var together []wire.Value
			for _, d := range m.inputs {
				together = append(together, d.value(rows, ramp(d.size()*rows)))
			}
			whole := numbers(t, c.ask(t, m.file, together...), m.output)
			each := len(whole) / rows
			for row := range rows {
				var alone []wire.Value
				for _, d := range m.inputs {
					alone = append(alone, d.value(1, ramp(d.size() * rows)[row*d.size():(row+1)*d.size()]))
				}
				got := numbers(t, c.ask(t, m.file, alone...), m.output)
				for i, v := range got {
					if w := whole[row*each+i]; len(got) != each || math.Abs(v-w) > 1e-4*(1+math.Abs(w)) || math.IsNaN(v) {
						t.Fatalf("row %d is %v alone and %v in the batch", row, got, whole)
					}
				}
			}
		})
	}
}

// description is an input; -1 is its batch dimension, before which all dimensions are 1.
type description struct {
	name  string
	shape []int64
	batch int
}

func (d *description) size() int {
	n := 1
	for _, s := range d.shape {
		n *= int(max(s, 1))
	}
	return n
}

func (d *description) value(rows int64, x []float32) wire.Value {
	shape := slices.Clone(d.shape)
	shape[d.batch] = rows
	return f32(d.name, shape, x)
}

// TestAPointerInsteadOfAModel: a checkout without its large files has a text where the model should be. It is refused
// before and by the runtime, in a sentence without a path, and what served goes on.
func TestAPointerInsteadOfAModel(t *testing.T) {
	pointer := fetched(t, "gonnx", "mnist-8-opset13.onnx")
	if !strings.HasPrefix(string(read(t, pointer)), "version https://git-lfs") {
		t.Fatal("the file is no pointer any more")
	}
	c := start(t)
	c.load(t, "fashion", "testdata/fashion_cnn_ext.onnx")
	_, err := c.server.Load(t.Context(), "fashion", pointer)
	var refused *inference.LoadError
	if !errors.As(err, &refused) || !strings.HasPrefix(refused.Message, "cannot load mnist-8-opset13.onnx: ") || strings.Contains(refused.Message, ".cache") {
		t.Errorf("%v", err)
	}
	if _, err := graph.Read(read(t, pointer)); err == nil {
		t.Error("package graph takes it for a model")
	} else {
		t.Log(err)
	}
	if got := c.ask(t, "fashion", f32("image", []int64{1, 1, 28, 28}, ramp(784))); len(numbers(t, got, "probabilities")) != 10 {
		t.Error("the model that served does not answer any more")
	}
}

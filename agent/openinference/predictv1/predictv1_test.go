package predictv1

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/models/tensor"
)

// heap is memory without a bound.
type heap struct{}

func (heap) Grow(data []byte, size int64) ([]byte, error) {
	return append(make([]byte, 0, size), data...), nil
}

func spec(name string, datatype tensor.Datatype, shape ...int64) tensor.Spec {
	return tensor.Spec{Name: name, Datatype: datatype, Shape: shape}
}

var (
	single = []tensor.Spec{spec("x", tensor.FP32, -1, 2)}
	scalar = []tensor.Spec{spec("n", tensor.Int64, -1)}
	texts  = []tensor.Spec{spec("t", tensor.Bytes, -1)}
	pair   = []tensor.Spec{spec("x", tensor.FP32, -1, 2), spec("t", tensor.Bytes, -1)}
	open   = []tensor.Spec{spec("x", tensor.FP32, -1, -1, -1)}
	fixed  = []tensor.Spec{spec("x", tensor.FP32, 2, 2)}
	whole  = []tensor.Spec{spec("x", tensor.FP32)}
	half   = []tensor.Spec{spec("x", tensor.FP16, -1)}
)

// TestWhatIsAskedComesBack sends bodies through a model that returns its inputs.
func TestWhatIsAskedComesBack(t *testing.T) {
	for _, c := range []struct {
		specs      []tensor.Spec
		body, want string
	}{
		{single, `{"instances":[[1,2],[3,4.5]]}`, `{"predictions":[[1,2],[3,4.5]]}`},
		{single, `{"instances":[{"x":[1,2]},[3,4]]}`, `{"predictions":[[1,2],[3,4]]}`},
		{single, `{"signature_name":"serving_default","instances":[[1,2]],"other":{"a":[1]}}`, `{"predictions":[[1,2]]}`},
		{single, `{"inputs":[[1,2],[3,4]]}`, `{"outputs":[[1,2],[3,4]]}`},
		{single, `{"inputs":{"x":[[1,2]]}}`, `{"outputs":[[1,2]]}`},
		{single, `{"inputs":[]}`, `{"outputs":[]}`},
		{scalar, `{"instances":[1,-2,3]}`, `{"predictions":[1,-2,3]}`},
		{texts, `{"instances":["a",{"b64":"aGk="}]}`, `{"predictions":["a","hi"]}`},
		{texts, `{"instances":[{"b64":"aGk="},{"t":"b"},{"t":{"b64":""}}]}`, `{"predictions":["hi","b",""]}`},
		{texts, `{"inputs":{"t":["a","b"]}}`, `{"outputs":["a","b"]}`},
		{pair, `{"instances":[{"x":[1,2],"t":"a"},{"t":"b","x":[3,4]}]}`, `{"predictions":[{"x":[1,2],"t":"a"},{"x":[3,4],"t":"b"}]}`},
		{pair, `{"inputs":{"t":["a","b"],"x":[[1,2],[3,4]]}}`, `{"outputs":{"x":[[1,2],[3,4]],"t":["a","b"]}}`},
		{open, `{"instances":[[[1,2,3],[4,5,6]],[[7,8,9],[1,1,1]]]}`, `{"predictions":[[[1,2,3],[4,5,6]],[[7,8,9],[1,1,1]]]}`},
		{open, `{"instances":[[],[]]}`, `{"predictions":[[],[]]}`},
		{fixed, `{"instances":[[1,2],[3,4]]}`, `{"predictions":[[1,2],[3,4]]}`},
		{whole, `{"inputs":{"x":7}}`, `{"outputs":7}`},
		{whole, `{"inputs":7}`, `{"outputs":7}`},
	} {
		r, err := Parse([]byte(c.body), c.specs, heap{})
		if err != nil {
			t.Errorf("%s: %v", c.body, err)
			continue
		}
		got, err := AppendResponse(nil, r, r.Inputs)
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %s, %v, want %s", c.body, got, err, c.want)
		}
	}
}

func TestWhatIsWrongIsSaid(t *testing.T) {
	for _, c := range []struct {
		specs      []tensor.Spec
		body, want string
	}{
		{single, ``, "it ends where an object should be"},
		{single, `[]`, "a list at byte 0, where an object should be"},
		{single, `{}`, `no "instances"`},
		{single, `{"instances":[]}`, `"instances" is empty`},
		{single, `{"instances":{}}`, "an object at byte 13, where a list should be"},
		{single, `{"instances":null}`, "null at byte 13, where a list should be"},
		{single, `{"instances":[[1,2]],"inputs":[[1,2]]}`, "more than one"},
		{single, `{"instances":[[1,2]],"instances":[[1,2]]}`, "more than one"},
		{single, `{"instances":[[1,2]]} x`, "something follows"},
		{single, `{"instances":[1,2]}`, "a number at byte 14, where a list should be"},
		{single, `{"instances":[[1,2,3]]}`, "dimension 1 of data has more than the 2 entries"},
		{single, `{"instances":[[1]]}`, "dimension 1 of data has 1 and not the 2 entries"},
		{single, `{"instances":[[1,"2"]]}`, "a string at byte 17, where a number should be"},
		{single, `{"instances":[[1,null]]}`, "null at byte 17, where a number should be"},
		{single, `{"instances":[[[1,2]]]}`, "a list at byte 15, where a number should be"},
		{single, `{"instances":[{"y":[1,2]}]}`, `no input "y", but ["x"]`},
		{single, `{"instances":[{}]}`, `instance 0 has no "x"`},
		{single, `{"instances":[{"x":[1,2]},{"x":[1,2],"x":[1,2]}]}`, `instance 1 has "x" twice`},
		{single, `{"instances":[{"b64":"aGk="}]}`, `no input "b64"`},
		{single, `{"inputs":{"x":[[1,2]],"x":[[1,2]]}}`, `"x" is given twice`},
		{pair, `{"instances":[[1,2]]}`, "instance 0 is no object, but the model has 2 inputs"},
		{pair, `{"instances":[{"x":[1,2]}]}`, `instance 0 has no "t"`},
		{pair, `{"inputs":{"x":[[1,2]]}}`, `input "t" is missing`},
		{pair, `{"inputs":[[1,2]]}`, `"inputs" is no object, but the model has 2 inputs`},
		{open, `{"instances":[[[1,2],[3]]]}`, "dimension 2 of data has 1 and not the 2 entries"},
		{open, `{"instances":[[[1]],[[1],[2]]]}`, "dimension 1 of data has more than the 1 entries"},
		{fixed, `{"instances":[[1,2]]}`, "1 instances, the model takes 2"},
		{whole, `{"instances":[1]}`, `no dimension for instances; send whole inputs as "inputs"`},
		{scalar, `{"instances":[1.5]}`, "1.5 is no INT64"},
		{scalar, `{"instances":[9223372036854775808]}`, "is no INT64"},
		{texts, `{"instances":[{"b64":"?"}]}`, "is no base64"},
		{texts, `{"instances":[{"b64":7}]}`, "a number at byte 21, where a string should be"},
		{texts, `{"instances":[{"b64":"","x":""}]}`, `a string or {"b64": "..."}`},
		{texts, `{"instances":[{"t":{}}]}`, `a string or {"b64": "..."}`},
		{texts, `{"instances":["` + "\xff" + `"]}`, "not UTF-8"},
		{half, `{"instances":[1]}`, "FP16 has no form in JSON"},
		{nil, `{"instances":[1]}`, "the model has 0 inputs"},
	} {
		_, err := Parse([]byte(c.body), c.specs, heap{})
		var input *inference.InputError
		if !errors.As(err, &input) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.body, err, c.want)
		}
	}
}

func TestAnswersThatDoNotFit(t *testing.T) {
	rows := &Request{Instances: 2}
	x := tensor.FromFloat32("x", []int64{2, 1}, []float32{1, 2})
	one := tensor.FromFloat32("n", []int64{1}, []float32{3})
	for _, c := range []struct {
		outputs []tensor.Tensor
		want    string
	}{
		{[]tensor.Tensor{one}, `{"predictions":[3]}`},
		{[]tensor.Tensor{tensor.FromFloat32("n", nil, []float32{3})}, `{"predictions":3}`},
		{[]tensor.Tensor{x, one}, `cannot: output "n" has shape [1] and not a row for each of the 2 instances`},
		{nil, "cannot: the model returned no output"},
		{[]tensor.Tensor{{Name: "x", Datatype: tensor.FP32, Shape: []int64{2}}}, "cannot: the model returned what does not hold"},
		{[]tensor.Tensor{{Name: "x", Datatype: tensor.FP16, Shape: []int64{1}, Data: []byte{0, 0}}}, `cannot: output "x": FP16 has no form in JSON; ask by /v2`},
		{[]tensor.Tensor{tensor.FromStrings("s", "\xff", "")}, "cannot: output \"s\" holds bytes that are not UTF-8"},
	} {
		got, err := AppendResponse(nil, rows, c.outputs)
		if err != nil {
			got = []byte("cannot: " + err.Error())
		}
		if !strings.HasPrefix(string(got), c.want) {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
}

// TestFormsAgree: rows, rows by name and whole inputs mean the same tensors.
func TestFormsAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, width := rapid.IntRange(1, 4).Draw(t, "n"), rapid.IntRange(0, 3).Draw(t, "width")
		rows := make([][]int32, n)
		named := make([]map[string][]int32, n)
		for i := range rows {
			rows[i] = rapid.SliceOfN(rapid.Int32(), width, width).Draw(t, "row")
			if rows[i] == nil {
				rows[i] = []int32{}
			}
			named[i] = map[string][]int32{"x": rows[i]}
		}
		specs := []tensor.Spec{spec("x", tensor.Int32, -1, -1)}
		var first tensor.Tensor
		for i, form := range []any{map[string]any{"instances": rows}, map[string]any{"instances": named}, map[string]any{"inputs": rows}, map[string]any{"inputs": map[string]any{"x": rows}}} {
			body, err := json.Marshal(form)
			if err != nil {
				t.Fatal(err)
			}
			r, err := Parse(body, specs, heap{})
			if err != nil {
				t.Fatalf("%s: %v", body, err)
			}
			if err := r.Inputs[0].Validate(); err != nil {
				t.Fatalf("%s: %v", body, err)
			}
			if i == 0 {
				first = r.Inputs[0]
				continue
			}
			if got := r.Inputs[0]; !slices.Equal(got.Shape, first.Shape) || !slices.Equal(got.Data, first.Data) {
				t.Fatalf("%s is %v, want %v", body, got, first)
			}
		}
	})
}

// FuzzPredict: what is accepted is JSON, makes tensors that hold, and can be answered with JSON.
func FuzzPredict(f *testing.F) {
	models := [][]tensor.Spec{single, scalar, texts, pair, open, fixed, whole}
	for _, seed := range []string{
		`{"instances":[[1,2],[3,4]]}`, `{"instances":[1,2]}`, `{"instances":["a",{"b64":"aGk="}]}`, `{"instances":[{"x":[1,2],"t":"a"}]}`,
		`{"inputs":{"t":["a"],"x":[[1,2]]}}`, `{"inputs":[[[1],[2]]]}`, `{"inputs":7}`, `{"instances":[[[]]],"a":null}`, `{"instances":[{"x":[1e300,-0]}]}`,
	} {
		for i := range models {
			f.Add([]byte(seed), uint8(i))
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, which uint8) {
		specs := models[int(which)%len(models)]
		r, err := Parse(body, specs, heap{})
		if err != nil {
			var input *inference.InputError
			if !errors.As(err, &input) {
				t.Fatalf("%q: %v is no fault of the sender's", body, err)
			}
			return
		}
		if !json.Valid(body) {
			t.Fatalf("accepted what is no JSON: %q", body)
		}
		for i := range r.Inputs {
			if err := r.Inputs[i].Validate(); err != nil {
				t.Fatalf("%q: %v", body, err)
			}
			if err := specs[i].Accepts(&r.Inputs[i]); err != nil {
				t.Fatalf("%q: %v", body, err)
			}
		}
		answer, err := AppendResponse(nil, r, r.Inputs)
		if err == nil && !json.Valid(answer) {
			t.Fatalf("%q was answered with %q", body, answer)
		}
	})
}

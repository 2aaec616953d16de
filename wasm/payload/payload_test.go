package payload

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
)

// requests draws tensors that every format but Raw can hold.
var requests = rapid.Custom(func(t *rapid.T) []tensor.Tensor {
	var out []tensor.Tensor
	for i := range rapid.IntRange(0, 3).Draw(t, "tensors") {
		name := fmt.Sprint(i, rapid.StringN(0, 10, 20).Draw(t, "name"))
		shape := rapid.SliceOfN(rapid.Int64Range(0, 3), 0, 3).Draw(t, "shape")
		n, _ := tensor.Elements(shape)
		in := tensor.Tensor{Name: name, Shape: shape}
		switch in.Datatype = rapid.SampledFrom([]tensor.Datatype{tensor.Bool, tensor.Uint8, tensor.Int64, tensor.FP32, tensor.Bytes}).Draw(t, "datatype"); in.Datatype {
		case tensor.Bytes:
			for range n {
				in.Data = tensor.AppendBytes(in.Data, rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "element"))
			}
		case tensor.FP32:
			values := rapid.SliceOfN(rapid.Float32(), int(n), int(n)).Draw(t, "elements")
			in.Data = tensor.FromFloat32(name, shape, values).Data
		case tensor.Bool:
			for range n {
				in.Data = append(in.Data, byte(rapid.IntRange(0, 1).Draw(t, "element")))
			}
		default:
			size := int(n) * in.Datatype.Size()
			in.Data = rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, "elements")
		}
		out = append(out, in)
	}
	return out
})

// TestRoundTrips: what is written for a program, and handed back as it is, comes back the same.
func TestRoundTrips(t *testing.T) {
	for _, f := range []Format{Tensors, JSON} {
		t.Run(f.String(), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				in := requests.Draw(t, "request")
				size, err := f.Size(in)
				if err != nil {
					t.Fatal(err)
				}
				b, err := f.Append([]byte("before"), in)
				if err != nil {
					t.Skip(err) // NaN
				}
				b = b[len("before"):]
				if f == Tensors && len(b) != size {
					t.Fatalf("%d bytes, said %d", len(b), size)
				}
				if f == JSON {
					if !json.Valid(b) {
						t.Fatalf("%q is no JSON", b)
					}
					b = []byte(strings.Replace(string(b), `"inputs"`, `"outputs"`, 1))
				}
				out, err := f.Decode(b, in, math.MaxInt64)
				if err != nil {
					t.Fatalf("%q: %v", b, err)
				}
				if len(out) != len(in) {
					t.Fatalf("%d tensors of %d", len(out), len(in))
				}
				for i := range in {
					if out[i].Name != in[i].Name || out[i].Datatype != in[i].Datatype || fmt.Sprint(out[i].Shape) != fmt.Sprint(in[i].Shape) || string(out[i].Data) != string(in[i].Data) {
						t.Fatalf("%v came back as %v", in[i], out[i])
					}
				}
			})
		})
	}
}

func TestRaw(t *testing.T) {
	in := []tensor.Tensor{tensor.FromStrings("x", "some text")}
	b, err := Raw.Append(nil, in)
	if size, sizeErr := Raw.Size(in); err != nil || string(b) != "some text" || size != len(b) || sizeErr != nil {
		t.Errorf("%q, %v; %d, %v", b, err, size, sizeErr)
	}
	out, err := Raw.Decode([]byte("other"), in, 100)
	if err != nil || fmt.Sprint(out) != fmt.Sprint([]tensor.Tensor{tensor.FromStrings("x", "other")}) {
		t.Errorf("%v, %v", out, err)
	}
	if _, err := Raw.Decode(make([]byte, 100), in, 100); err == nil {
		t.Error("an answer longer than the limit was taken")
	}
	for _, wrong := range [][]tensor.Tensor{
		nil,
		{tensor.FromStrings("x", "a", "b")},
		{tensor.FromFloat32("x", []int64{1}, []float32{1})},
		{tensor.FromStrings("x", "a"), tensor.FromStrings("y", "b")},
	} {
		if _, err := Raw.Size(wrong); err == nil {
			t.Errorf("%v was taken", wrong)
		}
		if _, err := Raw.Append(nil, wrong); err == nil {
			t.Errorf("%v was written", wrong)
		}
	}
}

// TestAnswersInJSON: members in any order, unknown ones passed over, and sentences about what is wrong.
func TestAnswersInJSON(t *testing.T) {
	for text, want := range map[string]string{
		`{"outputs":[{"data":[1,2],"shape":[2],"datatype":"INT32","name":"y","more":{}}],"id":"7"}`: "",
		`{"outputs":[{"name":"y","data":[[1],[2]],"shape":[2,1],"datatype":"FP32"}]}`:               "",
		`{"outputs":[{"name":"y","data":[{"b64":"AAE="}],"shape":[1],"datatype":"BYTES"}]}`:         "",
		`{"outputs":[]}`: "",
		`{}`:             `no "outputs"`,
		``:               "JSON is broken",
		`{"outputs":[{"name":"y","shape":[1],"datatype":"INT32"}]}`:                                                                   "lacks",
		`{"outputs":[{"data":[1],"shape":[1],"datatype":"INT32"}]}`:                                                                   "name",
		`{"outputs":[{"name":"y","data":[1],"shape":[2],"datatype":"INT32"}]}`:                                                        "2",
		`{"outputs":[{"name":"y","data":[1],"shape":[-1],"datatype":"INT32"}]}`:                                                       "dimension",
		`{"outputs":[{"name":"y","data":[1],"shape":[1.5],"datatype":"INT32"}]}`:                                                      "dimension",
		`{"outputs":[{"name":"y","data":[1],"shape":[1],"datatype":"INT33"}]}`:                                                        "INT33",
		`{"outputs":[{"name":"y","data":[1],"shape":[9000000000,9000000000,9000000000],"datatype":"INT32"}]}`:                         "",
		`{"outputs":[{"name":"y","data":[1],"shape":[1],"datatype":"INT32"},{"name":"y","data":[1],"shape":[1],"datatype":"INT32"}]}`: "twice",
		`{"outputs":[],"outputs":[]}`: "twice",
		`{"outputs":[{"name":"y","data":[` + strings.Repeat("1,", 99) + `1],"shape":[100],"datatype":"FP64"}]}`: "more memory",
	} {
		out, err := JSON.Decode([]byte(text), nil, 500)
		refused := err != nil
		if strings.Contains(text, "9000000000") {
			if !refused {
				t.Errorf("%s: %v", text, out)
			}
			continue
		}
		if refused != (want != "") || refused && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v, want %q", text, out, err, want)
		}
	}
	half := []tensor.Tensor{{Name: "x", Datatype: tensor.FP16, Shape: []int64{1}, Data: []byte{0, 0}}}
	if _, err := JSON.Size(half); err == nil {
		t.Error("FP16 was taken")
	}
}

func TestNames(t *testing.T) {
	for _, f := range []Format{Tensors, Raw, JSON} {
		if got, err := Parse(f.String()); err != nil || got != f {
			t.Errorf("%s: %v, %v", f, got, err)
		}
	}
	if _, err := Parse("xml"); err == nil {
		t.Error("xml was taken")
	}
}

// FuzzDecode: any answer is tensors within the limit, or a sentence.
func FuzzDecode(f *testing.F) {
	f.Add(uint8(JSON), []byte(`{"outputs":[{"data":[1,2],"shape":[2],"datatype":"INT32","name":"y","parameters":{"content_type":"base64"}}]}`))
	f.Add(uint8(JSON), []byte(`{"outputs":[{"data":["a",{"b64":"AA=="}],"shape":[2],"datatype":"BYTES","name":"y"}]}`))
	f.Add(uint8(Raw), []byte(`anything`))
	f.Add(uint8(Tensors), []byte{0, 0, 0, 0, 8, 0, 0, 0})
	request := []tensor.Tensor{tensor.FromStrings("x", "a")}
	f.Fuzz(func(t *testing.T, format uint8, answer []byte) {
		const limit = 1 << 16
		out, err := Format(format%3).Decode(answer, request, limit)
		if err != nil {
			return
		}
		if _, err := abi.Size(out); err != nil {
			t.Fatalf("%v: %v", out, err)
		}
		total := 0
		for i := range out {
			if err := out[i].Validate(); err != nil {
				t.Fatalf("%v: %v", out[i], err)
			}
			total += len(out[i].Data)
		}
		if total > max(limit, len(answer)) {
			t.Fatalf("%d bytes of tensors", total)
		}
	})
}

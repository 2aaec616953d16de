package openinference

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/models/tensor"
)

// heap is memory without a bound.
type heap struct{}

func (heap) Grow(data []byte, size int64) ([]byte, error) {
	return append(make([]byte, 0, size), data...), nil
}

func parse(body []byte, header int) (*request, error) {
	r := &request{}
	return r, r.parse(body, header, heap{})
}

// plainParse reads a request by encoding/json and a walk over its values: slow, and easy to be sure of.
func plainParse(t *testing.T, body []byte) (id string, inputs []tensor.Tensor) {
	t.Helper()
	decode := func(data []byte, v any) {
		t.Helper()
		d := json.NewDecoder(bytes.NewReader(data))
		d.UseNumber()
		if err := d.Decode(v); err != nil {
			t.Fatalf("encoding/json: %v in %q", err, data)
		}
	}
	var top map[string]json.RawMessage
	decode(body, &top)
	if raw, ok := top["id"]; ok {
		decode(raw, &id)
	}
	var list []map[string]json.RawMessage
	decode(top["inputs"], &list)
	for _, in := range list {
		var out tensor.Tensor
		var datatype string
		decode(in["name"], &out.Name)
		decode(in["datatype"], &datatype)
		out.Datatype, _ = tensor.ParseDatatype(datatype)
		decode(in["shape"], &out.Shape)
		parameters := map[string]any{}
		if raw, ok := in["parameters"]; ok {
			decode(raw, &parameters)
		}
		var data any
		decode(in["data"], &data)
		flatten(t, data, &out, parameters["content_type"] == "base64")
		inputs = append(inputs, out)
	}
	return id, inputs
}

func flatten(t *testing.T, v any, out *tensor.Tensor, encoded bool) {
	t.Helper()
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			flatten(t, e, out, encoded)
		}
	case bool:
		b := byte(0)
		if v {
			b = 1
		}
		out.Data = append(out.Data, b)
	case string:
		e := []byte(v)
		if encoded {
			var err error
			if e, err = base64.StdEncoding.DecodeString(v); err != nil {
				t.Fatal(err)
			}
		}
		out.Data = tensor.AppendBytes(out.Data, e)
	case json.Number:
		var err error
		switch out.Datatype {
		case tensor.FP32:
			var f float64
			f, err = strconv.ParseFloat(string(v), 32)
			out.Data = binary.LittleEndian.AppendUint32(out.Data, math.Float32bits(float32(f)))
		case tensor.FP64:
			var f float64
			f, err = strconv.ParseFloat(string(v), 64)
			out.Data = binary.LittleEndian.AppendUint64(out.Data, math.Float64bits(f))
		default:
			var u uint64
			if out.Datatype >= tensor.Int8 {
				var i int64
				i, err = strconv.ParseInt(string(v), 10, 8*out.Datatype.Size())
				u = uint64(i)
			} else if v != "-0" { // which strconv does not take for unsigned
				u, err = strconv.ParseUint(string(v), 10, 8*out.Datatype.Size())
			}
			out.Data = append(out.Data, binary.LittleEndian.AppendUint64(nil, u)[:out.Datatype.Size()]...)
		}
		if err != nil {
			t.Fatalf("%s as %s: %v", v, out.Datatype, err)
		}
	default:
		t.Fatalf("%T is no tensor's element", v)
	}
}

// FuzzParse: what parse accepts is JSON, and means what encoding/json says it means.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{"id":"a","inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[[1,2],[3.5,-4e-3]]}]}`,
		`{"inputs":[{"data":[[1,2],[3,4]],"name":"x","datatype":"INT8","shape":[2,2]}],"outputs":[{"name":"y","parameters":{"binary_data":true}}]}`,
		`{"inputs":[{"name":"s","shape":[2],"datatype":"BYTES","data":["a\n\u00e9\ud83d\ude00","\ud800"]}],"parameters":{"binary_data_output":false,"other":[1,{}]}}`,
		`{"inputs":[{"name":"s","shape":[1],"datatype":"BYTES","data":["AAEC"],"parameters":{"content_type":"base64"}}]}`,
		`{"inputs":[{"name":"b","shape":[3],"datatype":"BOOL","data":[true,false,true]},{"name":"e","shape":[0,3],"datatype":"FP64","data":[]}]}`,
		`{"inputs":[{"name":"u","shape":[],"datatype":"UINT64","data":[18446744073709551615]}],"id":null}`,
		`{"inputs":[{"name":"i","shape":[1],"datatype":"INT64","data":[-9223372036854775808]}]} `,
		`{"inputs":[{"name":"h","shape":[1],"datatype":"FP16","data":[1]}]}`,
		`{"inputs":[{"name":"x","shape":[1],"datatype":"UINT8","data":[-0]}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := parse(body, len(body))
		if err != nil {
			return
		}
		if !json.Valid(body) {
			t.Fatalf("accepted what is no JSON: %q", body)
		}
		for i := range r.inputs {
			if err := r.inputs[i].Validate(); err != nil {
				t.Fatal(err)
			}
		}
		if !utf8.Valid(body) { // encoding/json replaces what is not UTF-8, here it stays in names
			return
		}
		var top map[string]json.RawMessage
		if err := json.Unmarshal(body, &top); err != nil {
			t.Fatal(err)
		}
		id, inputs := plainParse(t, body)
		if r.id != id || len(inputs) != len(r.inputs) {
			t.Fatalf("%q: id %q and %d inputs, want %q and %d", body, r.id, len(r.inputs), id, len(inputs))
		}
		for i, want := range inputs {
			got := r.inputs[i]
			if got.Name != want.Name || got.Datatype != want.Datatype || !slices.Equal(got.Shape, want.Shape) || !bytes.Equal(got.Data, want.Data) {
				t.Fatalf("%q: %+v, want %+v", body, got, want)
			}
		}
	})
}

func TestWhatIsWrongIsSaid(t *testing.T) {
	x := func(rest string) string { return `{"inputs":[{"name":"x",` + rest + `}]}` }
	for _, c := range []struct{ body, want string }{
		{``, "it ends where an object should be"},
		{`[]`, `a list at byte 0, where an object should be`},
		{`{}`, `no "inputs"`},
		{`{"inputs":[]} x`, "byte 14: something follows"},
		{`{"inputs":[],"inputs":[]}`, `"inputs" is given twice`},
		{`{"inputs":[{}]}`, "an input has no name"},
		{`{"inputs":[{"name":"x"}]}`, `input "x" has no datatype`},
		{x(`"datatype":"FLOAT"`), `datatype "FLOAT" is not one`},
		{x(`"datatype":"FP32"`), `input "x" has no shape`},
		{x(`"datatype":"FP32","shape":[-1]`), "dimension -1 of shape is no size"},
		{x(`"datatype":"FP32","shape":[1.5]`), "dimension 1.5 of shape is no size"},
		{x(`"datatype":"FP32","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]`), "more than 16 dimensions"},
		{x(`"datatype":"FP32","shape":[1]`), "neither data nor binary_data_size"},
		{x(`"datatype":"FP32","shape":[1099511627776],"data":[1]`), "has 1099511627776 elements, data has fewer"},
		{x(`"datatype":"FP32","shape":[9223372036854775807,3],"data":[1]`), "too many elements"},
		{x(`"datatype":"FP32","shape":[3],"data":[1,2]`), "data has 2 elements, shape [3] wants 3"},
		{x(`"datatype":"FP32","shape":[2],"data":[1,2,3]`), "more elements than the 2 of shape [2]"},
		{x(`"datatype":"FP32","shape":[2,2],"data":[[1,2],[3]]`), "dimension 1 of data has 1 and not the 2 entries"},
		{x(`"datatype":"FP32","shape":[2,2],"data":[[1,2],[3,4],[5,6]]`), "dimension 0 of data has more than the 2 entries"},
		{x(`"datatype":"FP32","shape":[2,2],"data":[[1,2],3]`), "a number at byte 69, where a list should be"},
		{x(`"datatype":"FP32","shape":[2,2],"data":[1,[2]]`), "a list at byte 65, where a number should be"},
		{x(`"datatype":"FP32","shape":[4],"data":[[1,2,3,4]]`), "data is nested, but shape [4] is not"},
		{x(`"datatype":"FP32","shape":[1],"data":["1"]`), `a string at byte 61, where a number should be`},
		{x(`"datatype":"FP32","shape":[1],"data":[NaN]`), "'N' is where a number should be"},
		{x(`"datatype":"FP32","shape":[1],"data":[1e39]`), "1e39 is no FP32"},
		{x(`"datatype":"INT64","shape":[1],"data":[1.0]`), "1.0 is no INT64"},
		{x(`"datatype":"INT8","shape":[1],"data":[128]`), "128 is no INT8"},
		{x(`"datatype":"INT8","shape":[1],"data":[-129]`), "-129 is no INT8"},
		{x(`"datatype":"UINT8","shape":[1],"data":[-1]`), "-1 is no UINT8"},
		{x(`"datatype":"UINT64","shape":[1],"data":[18446744073709551616]`), "18446744073709551616 is no UINT64"},
		{x(`"datatype":"BOOL","shape":[1],"data":[1]`), "a number at byte 61, where true or false should be"},
		{x(`"datatype":"FP16","shape":[1],"data":[1]`), "FP16 has no form in JSON; send it as binary"},
		{x(`"datatype":"BYTES","shape":[1],"data":["` + "\xff" + `"]`), "a string is not UTF-8"},
		{x(`"datatype":"BYTES","shape":[1],"data":["?"],"parameters":{"content_type":"base64"}`), "a string is no base64"},
		{x(`"datatype":"FP32","shape":[1],"data":[1],"parameters":{"content_type":"base64"}`), "base64 is for BYTES"},
		{x(`"datatype":"FP32","shape":[1],"data":[1],"data":[1]`), "data is given twice"},
		{x(`"datatype":"FP32","shape":[1],"data":[1],"parameters":{"binary_data_size":0}`), "both data and binary_data_size"},
		{x(`"datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}`), "only 0 bytes follow the JSON (see the header Inference-Header-Content-Length)"},
		{x(`"datatype":"FP32","shape":[1],"parameters":{"binary_data_size":-4}`), "binary_data_size -4 is no size"},
		{`{"inputs":[],"outputs":[{}]}`, "an output has no name"},
		{`{"inputs":[],"outputs":[{"name":"y","parameters":{"classification":0}}]}`, "asks for no class"},
		{`{"inputs":[],"outputs":[{"name":"y","parameters":{"classification":-1}}]}`, "classification is -1, which is no whole number"},
		{`{"inputs":[],"outputs":[{"name":"y","parameters":{"classification":"3"}}]}`, "a string at byte 67, where a number should be"},
		{`{"inputs":[],"outputs":[{"name":"y"},{"name":"y"}]}`, `output "y" is asked for twice`},
		{`{"inputs":[],"outputs":[{"name":"y","parameters":{"shared_memory_region":"r"}}]}`, `output "y": shared memory is not served`},
		{`{"inputs":[{"name":"x","parameters":{"shared_memory_region":"r"}}]}`, `input "x": shared memory is not served`},
		{`{"inputs":[],"parameters":{"priority":1.5}}`, "priority is 1.5, which is no whole number"},
		{`{"inputs":[],"parameters":{"timeout":-1}}`, "timeout is -1, which is no whole number"},
		{`{"inputs":[],"parameters":{"sequence_id":7}}`, "sequences are not served"},
		{`{"inputs":[],"parameters":{"sequence_id":"a"}}`, "sequences are not served"},
		{`{"inputs":[],"parameters":{"sequence_start":true}}`, "leave sequence_start out"},
		{`{"id":"` + strings.Repeat("x", maxID+1) + `","inputs":[]}`, "at most 1024"},
		{`{"inputs":[` + strings.Repeat(`{"name":"x","datatype":"FP32","shape":[0],"data":[]},`, maxTensors) + `{}]}`, "more than 256 inputs"},
		{`{"x":` + strings.Repeat(`[`, 1000) + `}`, "nested more than 64 deep"},
	} {
		_, err := parse([]byte(c.body), len(c.body))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.80s: %v, want %q", c.body, err, c.want)
		}
	}
}

func TestBinaryTensorsFollowInOrder(t *testing.T) {
	header := `{"inputs":[
		{"name":"a","shape":[1],"datatype":"FP16","parameters":{"binary_data_size":2}},
		{"name":"b","shape":[2],"datatype":"UINT8","data":[7,8]},
		{"parameters":{"binary_data_size":3},"name":"c","shape":[3],"datatype":"INT8"}]}`
	body := append([]byte(header), 1, 2, 3, 4, 5)
	r, err := parse(body, len(header))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range [][]byte{{1, 2}, {7, 8}, {3, 4, 5}} {
		if got := r.inputs[i].Data; !bytes.Equal(got, want) || cap(got) != len(got) && i != 1 {
			t.Errorf("input %d: %v (cap %d), want %v", i, got, cap(got), want)
		}
	}
	if _, err := parse(append(body, 6), len(header)); err == nil || !strings.Contains(err.Error(), "1 bytes follow") {
		t.Error(err)
	}
	if _, err := parse(body[:len(body)-1], len(header)); err == nil || !strings.Contains(err.Error(), `input "c": binary_data_size is 3, but only 2 bytes follow`) {
		t.Error(err)
	}
}

// FuzzBinary: whatever the header of the length says, the tensors of an accepted request are the bytes behind the JSON,
// all of them, once and in order.
func FuzzBinary(f *testing.F) {
	for _, seed := range []string{
		`{"inputs":[{"name":"x","shape":[2],"datatype":"FP16","parameters":{"binary_data_size":4}}]}`,
		`{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":2}},{"name":"y","shape":[0],"datatype":"FP32","parameters":{"binary_data_size":0}},{"name":"z","shape":[1],"datatype":"BF16","parameters":{"binary_data_size":2}}]}`,
		`{"inputs":[{"parameters":{"binary_data_size":3},"name":"c","shape":[3],"datatype":"INT8"},{"name":"b","shape":[1],"datatype":"UINT8","data":[7]}],"parameters":{"binary_data_output":true}}`,
		`{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","parameters":{"binary_data_size":9223372036854775807}}]}`,
	} {
		f.Add([]byte(seed+"\x01\x02\x03\x04"), len(seed))
		f.Add([]byte(seed+"\x01\x02\x03"), len(seed)+1)
	}
	f.Fuzz(func(t *testing.T, body []byte, header int) {
		if header < 0 || header > len(body) { // which is refused before
			return
		}
		r, err := parse(body, header)
		if err != nil {
			var api *apiError
			var input *inference.InputError
			if !errors.As(err, &api) && !errors.As(err, &input) {
				t.Fatalf("%q: %v is no fault of the sender's", body, err)
			}
			return
		}
		var top struct {
			Inputs []struct {
				Parameters map[string]any
			}
		}
		if !json.Valid(body[:header]) {
			t.Fatalf("accepted what is no JSON: %q", body[:header])
		}
		rest := body[header:]
		if json.Unmarshal(body[:header], &top) != nil || len(top.Inputs) != len(r.inputs) {
			return // keys in another case, which encoding/json takes for the same
		}
		for i := range r.inputs {
			size, ok := top.Inputs[i].Parameters["binary_data_size"].(float64)
			if !ok {
				continue
			}
			if len(r.inputs[i].Data) != int(size) {
				return // as above
			}
			if len(rest) < int(size) || !bytes.Equal(r.inputs[i].Data, rest[:int(size)]) {
				t.Fatalf("%q: input %d is %x, next are %x", body[:header], i, r.inputs[i].Data, rest)
			}
			rest = rest[int(size):]
		}
	})
}

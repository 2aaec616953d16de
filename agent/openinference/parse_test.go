package openinference

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/models/tensor"
)

func free(int64) error { return nil }

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
		r, err := parse(body, len(body), free)
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

// FuzzSkip: the scanner takes exactly what is JSON, but for its bound on nesting.
func FuzzSkip(f *testing.F) {
	for _, seed := range []string{`{"a":[1,-2.5e+7,true,null,"\u12aB\\\"/"],"b":{}}`, `01`, `-`, `1.`, `"\x"`, "\"\t\"", `[1,]`, `{"a"}`, ` tru`, `1e5 x`, `""`, `0.0E0`, `[[[[]]]]`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &scanner{data: data}
		err := s.skip(0)
		if err == nil {
			err = s.end()
		}
		if err != nil && strings.Contains(err.Error(), "nested") {
			return
		}
		if (err == nil) != json.Valid(data) {
			t.Fatalf("%q: %v, encoding/json says %v", data, err, json.Valid(data))
		}
	})
}

// TestTextRoundTrip: what appendText writes is JSON, and the scanner and encoding/json read the text back.
func TestTextRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Draw(t, "text")
		written := appendText(nil, []byte(text))
		var plain string
		if err := json.Unmarshal(written, &plain); err != nil || plain != text {
			t.Fatalf("%q was written as %s: %v", text, written, err)
		}
		got, err := (&scanner{data: written}).text()
		if err != nil || string(got) != text {
			t.Fatalf("%q came back as %q: %v", text, got, err)
		}
		escaped, _ := json.Marshal(text)
		if got, err := (&scanner{data: escaped}).text(); err != nil || string(got) != text {
			t.Fatalf("%s came back as %q: %v", escaped, got, err)
		}
	})
}

// TestDataRoundTrip: every tensor that JSON can hold comes back from its text with the same bytes, flat and nested.
func TestDataRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := tensor.Tensor{Name: "x", Datatype: tensor.Datatype(rapid.IntRange(int(tensor.Bool), int(tensor.Bytes)).Draw(t, "datatype"))}
		if in.Datatype == tensor.FP16 {
			in.Datatype = tensor.FP32
		}
		in.Shape = rapid.SliceOfN(rapid.Int64Range(0, 4), 0, 4).Draw(t, "shape")
		n, _ := tensor.Elements(in.Shape)
		for range n {
			switch in.Datatype {
			case tensor.Bytes:
				in.Data = tensor.AppendBytes(in.Data, []byte(rapid.String().Draw(t, "element")))
			case tensor.Bool:
				in.Data = append(in.Data, byte(rapid.IntRange(0, 1).Draw(t, "element")))
			case tensor.FP32:
				in.Data = binary.LittleEndian.AppendUint32(in.Data, math.Float32bits(rapid.Float32().Draw(t, "element")))
			case tensor.FP64:
				in.Data = binary.LittleEndian.AppendUint64(in.Data, math.Float64bits(rapid.Float64().Draw(t, "element")))
			default:
				in.Data = append(in.Data, rapid.SliceOfN(rapid.Byte(), in.Datatype.Size(), in.Datatype.Size()).Draw(t, "element")...)
			}
		}
		data, err := appendData(nil, &in)
		if err != nil {
			return // NaN, infinity
		}
		data = append(append([]byte{'['}, data...), ']')
		if !json.Valid(data) {
			t.Fatalf("wrote %s", data)
		}
		for _, text := range [][]byte{data, nest(t, data, in.Shape)} {
			out := tensor.Tensor{Name: "x", Datatype: in.Datatype, Shape: in.Shape}
			s := &scanner{data: text}
			if err := decodeData(s, &out, false, free); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			if !bytes.Equal(out.Data, in.Data) {
				t.Fatalf("%s came back as %x, was %x", text, out.Data, in.Data)
			}
		}
	})
}

// nest writes flat data in the nested form of a shape.
func nest(t *rapid.T, flat []byte, shape []int64) []byte {
	var elements []json.RawMessage
	if err := json.Unmarshal(flat, &elements); err != nil {
		t.Fatal(err)
	}
	var level func(shape []int64) any
	level = func(shape []int64) any {
		if len(shape) == 0 {
			e := elements[0]
			elements = elements[1:]
			return e
		}
		out := make([]any, shape[0])
		for i := range out {
			out[i] = level(shape[1:])
		}
		return out
	}
	if len(shape) == 0 {
		return flat
	}
	out, err := json.Marshal(level(shape))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestFloatsAreRoundedOnce compares with strconv, which rounds correctly, numbers of all lengths and those that lie
// between two float32s, where rounding twice goes wrong.
func TestFloatsAreRoundedOnce(t *testing.T) {
	check := func(t interface{ Fatalf(string, ...any) }, text string) {
		for _, datatype := range []tensor.Datatype{tensor.FP32, tensor.FP64} {
			bits := 8 * datatype.Size()
			want, failed := strconv.ParseFloat(text, bits)
			out := tensor.Tensor{Name: "x", Datatype: datatype, Shape: []int64{1}}
			err := decodeData(&scanner{data: []byte("[" + text + "]")}, &out, false, free)
			if (err == nil) != (failed == nil) {
				t.Fatalf("%s: %v, strconv says %v", text, err, failed)
			}
			if err != nil {
				continue
			}
			var got uint64
			expect := math.Float64bits(want)
			if bits == 32 {
				got, expect = uint64(binary.LittleEndian.Uint32(out.Data)), uint64(math.Float32bits(float32(want)))
			} else {
				got = binary.LittleEndian.Uint64(out.Data)
			}
			if got != expect {
				t.Fatalf("%s as %s is %x, want %x", text, datatype, got, expect)
			}
		}
	}
	for _, text := range []string{"0", "-0", "-0.0", "1", "0.1", "16777217", "16777219", "9007199254740993", "0.30000001192092896",
		"340282356779733661637539395458142568447", "340282346638528859811704183484516925440", "1e-46", "1.17549435e-38",
		"0.000000000000000001", "1234567890123456789", "12345678901234567890", "99999999999999999999.9", "7.1234567890123456789"} {
		check(t, text)
	}
	rapid.Check(t, func(t *rapid.T) {
		check(t, rapid.StringMatching(`-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,22})?([eE][+-]?[0-9]{1,2})?`).Draw(t, "text"))
		// Between two neighbours, and a little beside.
		f := rapid.Float32Range(1e-3, 1e6).Draw(t, "f")
		middle := (float64(f) + float64(math.Nextafter32(f, 1e7))) / 2
		beside := math.Float64bits(middle) + uint64(rapid.IntRange(-2, 2).Draw(t, "beside"))
		check(t, strconv.FormatFloat(math.Float64frombits(beside), 'f', rapid.IntRange(1, 16).Draw(t, "digits"), 64))
		check(t, strconv.FormatFloat(middle, 'f', -1, 64))
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
		{`{"inputs":[],"outputs":[{"name":"y","parameters":{"classification":3}}]}`, "classification is not supported"},
		{`{"id":"` + strings.Repeat("x", maxID+1) + `","inputs":[]}`, "at most 1024"},
		{`{"inputs":[` + strings.Repeat(`{"name":"x","datatype":"FP32","shape":[0],"data":[]},`, maxTensors) + `{}]}`, "more than 256 inputs"},
		{`{"x":` + strings.Repeat(`[`, 1000) + `}`, "nested more than 64 deep"},
	} {
		_, err := parse([]byte(c.body), len(c.body), free)
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
	r, err := parse(body, len(header), free)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range [][]byte{{1, 2}, {7, 8}, {3, 4, 5}} {
		if got := r.inputs[i].Data; !bytes.Equal(got, want) || cap(got) != len(got) && i != 1 {
			t.Errorf("input %d: %v (cap %d), want %v", i, got, cap(got), want)
		}
	}
	if _, err := parse(append(body, 6), len(header), free); err == nil || !strings.Contains(err.Error(), "1 bytes follow") {
		t.Error(err)
	}
	if _, err := parse(body[:len(body)-1], len(header), free); err == nil || !strings.Contains(err.Error(), `input "c": binary_data_size is 3, but only 2 bytes follow`) {
		t.Error(err)
	}
}

func BenchmarkParseFloats(b *testing.B) {
	values := make([]string, 1024)
	for i := range values {
		values[i] = strconv.FormatFloat(math.Sin(float64(i)), 'g', 8, 32)
	}
	body := []byte(`{"inputs":[{"name":"x","shape":[1,1024],"datatype":"FP32","data":[[` + strings.Join(values, ",") + `]]}]}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parse(body, len(body), free); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseFloatsByEncodingJSON(b *testing.B) {
	values := make([]string, 1024)
	for i := range values {
		values[i] = strconv.FormatFloat(math.Sin(float64(i)), 'g', 8, 32)
	}
	body := []byte(`{"inputs":[{"name":"x","shape":[1,1024],"datatype":"FP32","data":[` + strings.Join(values, ",") + `]}]}`)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		var r struct {
			Inputs []struct {
				Name, Datatype string
				Shape          []int64
				Data           []float32
			}
		}
		if err := json.Unmarshal(body, &r); err != nil {
			b.Fatal(err)
		}
	}
}

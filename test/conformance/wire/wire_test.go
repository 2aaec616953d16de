package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestWhatIsSentIsRead: a request's tensors, put into an answer, come back as they were, in every form.
func TestWhatIsSentIsRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kinds := []string{"BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP32", "FP64", "FP16", "BF16", "BYTES"}
		shape := rapid.SliceOfN(rapid.Int64Range(0, 4), 0, 4).Draw(t, "shape")
		v := Fill("x", rapid.SampledFrom(kinds).Draw(t, "datatype"), shape, rapid.Bool().Draw(t, "one"))
		if rapid.Bool().Draw(t, "vary") {
			v = Vary("x", v.Datatype, shape)
		}
		c := Call{Inputs: []Value{v}, ID: "i", Nest: rapid.Bool().Draw(t, "nested")}
		if v.Textual() != "" || rapid.Bool().Draw(t, "binary") {
			c.Binary = All
		}
		body, length, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		p := Reply{Status: 200, Header: http.Header{}}
		p.Body = bytes.Replace(body, []byte(`"inputs"`), []byte(asOutputs), 1)
		if length >= 0 {
			p.Header.Set(LengthName, strconv.Itoa(length+len(asOutputs)-len(`"inputs"`)))
		}
		a, err := p.Answer()
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Outputs[0].Same(&v); err != nil {
			t.Fatal(err)
		}
		if a.Binary["x"] != (length >= 0) || a.ID != "i" {
			t.Fatal(a)
		}
	})
}

// asOutputs makes a request's body an answer's: what are inputs there are outputs here, and a model has answered.
const asOutputs = `"model_name":"m","outputs"`

// TestSame: close is the same, and only for floats.
func TestSame(t *testing.T) {
	fp32 := func(x float32) *Value {
		return &Value{Name: "y", Datatype: "FP32", Shape: []int64{1}, Raw: binary.LittleEndian.AppendUint32(nil, math.Float32bits(x))}
	}
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, c := range []struct {
		a, b *Value
		same bool
	}{
		{fp32(1), fp32(1.000001), true}, {fp32(1), fp32(1.001), false}, {fp32(inf), fp32(inf), true}, {fp32(inf), fp32(-inf), false},
		{fp32(inf), fp32(1), false}, {fp32(1), fp32(inf), false}, {fp32(nan), fp32(nan), true}, {fp32(nan), fp32(0), false}, {fp32(0), fp32(float32(math.Copysign(0, -1))), true},
		{&Value{Name: "y", Datatype: "INT8", Shape: []int64{1}, Raw: []byte{1}}, &Value{Name: "y", Datatype: "INT8", Shape: []int64{1}, Raw: []byte{2}}, false},
		{&Value{Name: "y", Datatype: "INT8", Shape: []int64{1}, Raw: []byte{1}}, &Value{Name: "y", Datatype: "UINT8", Shape: []int64{1}, Raw: []byte{1}}, false},
		{&Value{Name: "y", Datatype: "INT8", Shape: []int64{1}, Raw: []byte{1}}, &Value{Name: "y", Datatype: "INT8", Shape: []int64{1, 1}, Raw: []byte{1}}, false},
	} {
		if err := c.a.Same(c.b); (err == nil) != c.same {
			t.Errorf("%v and %v: %v", c.a, c.b, err)
		}
	}
}

func TestHalf(t *testing.T) {
	for bits, want := range map[uint16]float64{0: 0, 0x3c00: 1, 0xc000: -2, 0x7bff: 65504, 0x0001: math.Ldexp(1, -24), 0x7c00: math.Inf(1), 0xfc00: math.Inf(-1), 0x3555: 0.333251953125} {
		if got := half(bits); got != want {
			t.Errorf("%#x is %v, want %v", bits, got, want)
		}
	}
	if !math.IsNaN(half(0x7e00)) {
		t.Error("0x7e00 is a number")
	}
}

func TestWrongAnswersAreSeen(t *testing.T) {
	for _, c := range []struct{ body, length, says string }{
		{`{}`, "", "model_name"},
		{`{"model_name":"m"} {}`, "", "follows"},
		{`{"model_name":"m","outputs":[{"name":"y","datatype":"F","shape":[1],"data":[1]}]}`, "", "datatype"},
		{`{"model_name":"m","outputs":[{"name":"y","datatype":"FP32","shape":[-1],"data":[1]}]}`, "", "dimensions"},
		{`{"model_name":"m","outputs":[{"name":"y","datatype":"FP32","shape":[2],"data":[1]}]}`, "", "elements"},
		{`{"model_name":"m","outputs":[{"name":"y","datatype":"FP32","shape":[1],"data":1}]}`, "", "no list"},
		{`{"model_name":"m","outputs":[{"name":"y","datatype":"UINT8","shape":[1],"data":[256]}]}`, "", "no JSON form"},
		{`{"model_name":"m","outputs":[{"name":"y","datatype":"FP32","shape":[1],"data":[true]}]}`, "", "no JSON form"},
		{`{"model_name":"m","outputs":[{"name":"y","datatype":"FP16","shape":[1],"data":[1]}]}`, "", "no JSON form"},
		{`{"model_name":"m","outputs":[{"name":"y","datatype":"FP32","shape":[1]}]}`, "", "neither"},
		{`{"model_name":"m","outputs":[{"name":"y","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}}]}`, "", "bytes are left"},
		{`{"model_name":"m","outputs":[]}`, "1000", "1000"},
		{`{"model_name":"m","outputs":[]}`, "-1", "-1"},
		{`{"model_name":"m","outputs":[]}xx`, "31", "follow"},
	} {
		p := Reply{Status: 200, Header: http.Header{}, Body: []byte(c.body)}
		if c.length != "" {
			p.Header.Set(LengthName, c.length)
		}
		if _, err := p.Answer(); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.body, err)
		}
	}
}

// FuzzAnswer: whatever a server sends, the program says what is wrong with it or has tensors that hold their shapes.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"model_name":"m","outputs":[{"name":"y","datatype":"FP32","shape":[1],"data":[1]}]}`), 0)
	f.Add([]byte(`{"model_name":"m","outputs":[{"name":"y","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":5}}]}\x01\x00\x00\x00a`), 92)
	f.Fuzz(func(t *testing.T, body []byte, length int) {
		p := Reply{Status: 200, Header: http.Header{}, Body: body}
		if length > 0 {
			p.Header.Set(LengthName, strconv.Itoa(length))
		}
		a, err := p.Answer()
		if err != nil {
			return
		}
		for i := range a.Outputs {
			if err := a.Outputs[i].Each(func(int64, []byte) {}); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestNothingReachesTheTerminal: what a server says is printed, not obeyed.
func TestNothingReachesTheTerminal(t *testing.T) {
	text := Shown("200", nil, []byte("a\x1b[2Jb\xff\u202e"))
	if bytes.ContainsAny([]byte(text), "\x1b\u202e") || !json.Valid([]byte(strconv.Quote(text))) {
		t.Errorf("%q", text)
	}
}

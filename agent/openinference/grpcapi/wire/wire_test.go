package wire

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/models/tensor"
	inferencepb "github.com/dhowfleet/dhow/protocol/gen/inference"
)

type contents = inferencepb.InferTensorContents

// sample is a tensor of two elements, raw and, where there is one, typed.
type sample struct {
	datatype string
	raw      []byte
	typed    *contents
}

// samples has one for each datatype.
func samples() []sample {
	all := []sample{
		{"BOOL", nil, &contents{BoolContents: []bool{true, false}}},
		{"UINT8", nil, &contents{UintContents: []uint32{255, 0}}}, {"UINT16", nil, &contents{UintContents: []uint32{65535, 1}}},
		{"UINT32", nil, &contents{UintContents: []uint32{math.MaxUint32, 1}}}, {"UINT64", nil, &contents{Uint64Contents: []uint64{math.MaxUint64, 1}}},
		{"INT8", nil, &contents{IntContents: []int32{-128, 127}}}, {"INT16", nil, &contents{IntContents: []int32{-32768, 32767}}},
		{"INT32", nil, &contents{IntContents: []int32{math.MinInt32, 7}}}, {"INT64", nil, &contents{Int64Contents: []int64{math.MinInt64, 7}}},
		{"FP16", []byte{0, 0x3c, 0xff, 0xfb}, nil}, {"BF16", []byte{0x80, 0x3f, 0, 0}, nil},
		{"FP32", nil, &contents{Fp32Contents: []float32{1.5, float32(math.Inf(-1))}}}, {"FP64", nil, &contents{Fp64Contents: []float64{1.5, math.MaxFloat64}}},
		{"BYTES", nil, &contents{BytesContents: [][]byte{[]byte("é\x00"), {}}}},
	}
	for i := range all {
		if all[i].typed != nil {
			d, _ := tensor.ParseDatatype(all[i].datatype)
			all[i].raw = expected(d, all[i].typed)
		}
	}
	return all
}

func free(int64) error { return nil }

func int64Param(v int64) *inferencepb.InferParameter {
	return &inferencepb.InferParameter{ParameterChoice: &inferencepb.InferParameter_Int64Param{Int64Param: v}}
}

// unpack writes every packed field of contents as single elements.
func unpack(t *testing.T, contents []byte) []byte {
	var out []byte
	err := fields(contents, func(number protowire.Number, kind protowire.Type, b []byte, n uint64) error {
		if kind != protowire.BytesType {
			t.Fatalf("field %d is not packed", number)
		}
		if number == 8 {
			out = appendBytes(out, number, b)
			return nil
		}
		for len(b) > 0 {
			element := protowire.VarintType
			switch number {
			case 6:
				element = protowire.Fixed32Type
			case 7:
				element = protowire.Fixed64Type
			}
			size := protowire.ConsumeFieldValue(number, element, b)
			if size < 0 {
				t.Fatal("contents do not parse")
			}
			out = append(protowire.AppendTag(out, number, element), b[:size]...)
			b = b[size:]
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// same compares what decode made of a message with what the generated code makes of it.
func same(t interface{ Fatalf(string, ...any) }, r *Request, m *inferencepb.ModelInferRequest) {
	if r.Model != m.GetModelName() || r.Version != m.GetModelVersion() || r.ID != m.GetId() || len(r.Inputs) != len(m.GetInputs()) || len(r.Outputs) != len(m.GetOutputs()) {
		t.Fatalf("decoded %+v, the message is %v", r, m)
	}
	for i, in := range m.GetInputs() {
		got := &r.Inputs[i]
		if got.Name != in.GetName() || got.Datatype.String() != in.GetDatatype() || !slices.Equal(got.Shape, in.GetShape()) {
			t.Fatalf("input %d is %v, the message says %v", i, got, in)
		}
		if err := got.Validate(); err != nil {
			t.Fatalf("input %d: %v", i, err)
		}
		if len(m.GetRawInputContents()) > 0 && !bytes.Equal(got.Data, m.GetRawInputContents()[i]) {
			t.Fatalf("input %d has %x, the message %x", i, got.Data, m.GetRawInputContents()[i])
		}
		if c := in.GetContents(); c != nil {
			n, err := tensor.Elements(got.Shape)
			if err != nil {
				t.Fatalf("input %d: %v", i, err)
			}
			if k := len(c.GetBoolContents()) + len(c.GetIntContents()) + len(c.GetInt64Contents()) + len(c.GetUintContents()) + len(c.GetUint64Contents()) + len(c.GetFp32Contents()) + len(c.GetFp64Contents()) + len(c.GetBytesContents()); int64(k) != n {
				t.Fatalf("input %d has %d elements, contents %d", i, n, k)
			}
			if !bytes.Equal(got.Data, expected(got.Datatype, c)) {
				t.Fatalf("input %d has %x of %v", i, got.Data, c)
			}
		}
	}
	for i, o := range m.GetOutputs() {
		if r.Outputs[i] != o.GetName() {
			t.Fatalf("output %d is %q, the message says %q", i, r.Outputs[i], o.GetName())
		}
	}
}

// expected is the plain way from typed contents to a tensor's data.
func expected(d tensor.Datatype, c *inferencepb.InferTensorContents) []byte {
	var out []byte
	number := func(v uint64, size int) {
		for range size {
			out = append(out, byte(v))
			v >>= 8
		}
	}
	for _, v := range c.GetBoolContents() {
		if v {
			out = append(out, 1)
		} else {
			out = append(out, 0)
		}
	}
	for _, v := range c.GetIntContents() {
		number(uint64(v), d.Size())
	}
	for _, v := range c.GetUintContents() {
		number(uint64(v), d.Size())
	}
	for _, v := range c.GetInt64Contents() {
		number(uint64(v), 8)
	}
	for _, v := range c.GetUint64Contents() {
		number(v, 8)
	}
	f32 := tensor.FromFloat32("", nil, c.GetFp32Contents())
	out = append(out, f32.Data...)
	for _, v := range c.GetFp64Contents() {
		number(math.Float64bits(v), 8)
	}
	for _, v := range c.GetBytesContents() {
		out = tensor.AppendBytes(out, v)
	}
	return out
}

// FuzzDecode: whatever comes, decode neither panics nor takes more memory than it reserves, its errors are the sender's,
// and what it accepts is what the generated code reads.
func FuzzDecode(f *testing.F) {
	for _, v := range samples() {
		for _, r := range []*inferencepb.ModelInferRequest{
			{
				ModelName: "m", Id: "1", ModelVersion: "2", RawInputContents: [][]byte{v.raw},
				Inputs:  []*inferencepb.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: v.datatype, Shape: []int64{2}}},
				Outputs: []*inferencepb.ModelInferRequest_InferRequestedOutputTensor{{Name: "y", Parameters: map[string]*inferencepb.InferParameter{"classification": int64Param(2)}}},
			},
			{
				ModelName: "m", Inputs: []*inferencepb.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: v.datatype, Shape: []int64{1, 2}, Contents: v.typed}},
				Parameters: map[string]*inferencepb.InferParameter{"priority": int64Param(1), "timeout": int64Param(5)},
			},
		} {
			b, err := proto.Marshal(r)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Add([]byte("\x0a\x01m\x2a\x0f\x0a\x01x\x12\x05INT32\x1a\x01\x02\x2a\x02\x10\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Request
		reserved := int64(0)
		err := r.Decode(b, func(n int64) error {
			reserved += n
			return nil
		})
		if reserved > 13*int64(len(b)) {
			t.Fatalf("%d bytes took %d", len(b), reserved)
		}
		if err != nil {
			if input := (*inference.InputError)(nil); !errors.As(err, &input) {
				t.Fatalf("%v is not the sender's to mend", err)
			}
			return
		}
		var m inferencepb.ModelInferRequest
		if err := proto.Unmarshal(b, &m); err != nil {
			return // stricter in what has no meaning here, such as texts in fields that are passed over
		}
		same(t, &r, &m)
	})
}

// TestDecodeReadsWhatIsWritten is the same over requests that make sense.
func TestDecodeReadsWhatIsWritten(t *testing.T) {
	all := samples()
	rapid.Check(t, func(t *rapid.T) {
		m := &inferencepb.ModelInferRequest{
			ModelName: rapid.StringN(1, 20, 80).Draw(t, "model"), ModelVersion: rapid.StringN(0, 5, 20).Draw(t, "version"),
			Id: rapid.StringN(0, 20, 80).Draw(t, "id"),
		}
		raw := rapid.Bool().Draw(t, "raw")
		for range rapid.IntRange(0, 4).Draw(t, "inputs") {
			v := all[rapid.IntRange(0, len(all)-1).Draw(t, "datatype")]
			in := &inferencepb.ModelInferRequest_InferInputTensor{Name: rapid.StringN(1, 9, 40).Draw(t, "name"), Datatype: v.datatype, Shape: []int64{2, 1}}
			if raw || v.typed == nil {
				in.Shape = rapid.SampledFrom([][]int64{{2}, {1, 2, 1}}).Draw(t, "shape")
				m.RawInputContents = append(m.RawInputContents, v.raw)
			} else {
				in.Contents = v.typed
			}
			m.Inputs = append(m.Inputs, in)
		}
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var r Request
		err = r.Decode(b, free)
		if mixed := len(m.GetRawInputContents()) > 0 && len(m.GetRawInputContents()) < len(m.GetInputs()); mixed != (err != nil) {
			t.Fatalf("mixed is %v, decode says %v", mixed, err)
		}
		if err == nil {
			same(t, &r, m)
		}
	})
}

// TestAppendWritesWhatTheGeneratedCodeReads, and size is its length.
func TestAppendWritesWhatTheGeneratedCodeReads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringN(0, 200, 800)
		r := &Response{Model: text.Draw(t, "model"), Version: text.Draw(t, "version"), ID: text.Draw(t, "id"), Final: rapid.Bool().Draw(t, "final")}
		for range rapid.IntRange(0, 3).Draw(t, "outputs") {
			r.Outputs = append(r.Outputs, tensor.Tensor{
				Name: text.Draw(t, "name"), Datatype: tensor.Datatype(rapid.IntRange(1, 14).Draw(t, "datatype")),
				Shape: rapid.SliceOfN(rapid.Int64Range(0, 1<<62), 0, 16).Draw(t, "shape"), Data: rapid.SliceOf(rapid.Byte()).Draw(t, "data"),
			})
		}
		s := &Streamed{Message: text.Draw(t, "message"), Response: r}
		b := s.Append([]byte("before"))
		if !bytes.HasPrefix(b, []byte("before")) || len(b) != 6+s.Size() {
			t.Fatalf("%d bytes, Size says %d", len(b), s.Size())
		}
		var m inferencepb.ModelStreamInferResponse
		if err := proto.Unmarshal(b[6:], &m); err != nil {
			t.Fatal(err)
		}
		got := m.GetInferResponse()
		if m.GetErrorMessage() != s.Message || got.GetModelName() != r.Model || got.GetModelVersion() != r.Version || got.GetId() != r.ID || got.GetParameters()["triton_final_response"].GetBoolParam() != r.Final || len(got.GetOutputs()) != len(r.Outputs) {
			t.Fatalf("got %v", &m)
		}
		for i := range r.Outputs {
			o, want := got.GetOutputs()[i], &r.Outputs[i]
			if o.GetName() != want.Name || o.GetDatatype() != want.Datatype.String() || !slices.Equal(o.GetShape(), want.Shape) || !bytes.Equal(got.GetRawOutputContents()[i], want.Data) {
				t.Fatalf("output %d is %v", i, o)
			}
		}
	})
}

// TestTypedContentsInPieces: elements one by one, and contents in several pieces, which are one message.
func TestTypedContentsInPieces(t *testing.T) {
	for _, v := range samples() {
		if v.typed == nil {
			continue
		}
		whole, err := proto.Marshal(v.typed)
		if err != nil {
			t.Fatal(err)
		}
		d, err := tensor.ParseDatatype(v.datatype)
		if err != nil {
			t.Fatal(err)
		}
		twice := tensor.Tensor{Name: "x", Datatype: d, Shape: []int64{2, 2}}
		if err := fillTyped(&twice, append(slices.Clone(whole), whole...), free); err != nil || !bytes.Equal(twice.Data, append(slices.Clone(v.raw), v.raw...)) {
			t.Errorf("%s: %v, %v", v.datatype, twice.Data, err)
		}
		single := tensor.Tensor{Name: "x", Datatype: d, Shape: []int64{2}}
		if err := fillTyped(&single, unpack(t, whole), free); err != nil || !bytes.Equal(single.Data, v.raw) {
			t.Errorf("%s unpacked: %v, %v", v.datatype, single.Data, err)
		}
	}
}

// BenchmarkDecode reads 3x224x224 elements.
func BenchmarkDecode(b *testing.B) {
	const n = 3 * 224 * 224
	for _, c := range []struct {
		name, datatype string
		raw            []byte
		typed          *inferencepb.InferTensorContents
	}{
		{"raw FP32", "FP32", make([]byte, 4*n), nil},
		{"typed FP32", "FP32", nil, &inferencepb.InferTensorContents{Fp32Contents: make([]float32, n)}},
		{"typed UINT8", "UINT8", nil, &inferencepb.InferTensorContents{UintContents: slices.Repeat([]uint32{7, 200}, n/2)}},
	} {
		m := &inferencepb.ModelInferRequest{ModelName: "m", Inputs: []*inferencepb.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: c.datatype, Shape: []int64{n}, Contents: c.typed}}}
		if c.raw != nil {
			m.RawInputContents = [][]byte{c.raw}
		}
		message, err := proto.Marshal(m)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(message)))
			var r Request
			for b.Loop() {
				r.Reset()
				if err := r.Decode(message, free); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

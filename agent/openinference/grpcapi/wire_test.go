package grpcapi

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
func same(t interface{ Fatalf(string, ...any) }, r *request, m *inferencepb.ModelInferRequest) {
	if r.model != m.GetModelName() || r.version != m.GetModelVersion() || r.id != m.GetId() || len(r.inputs) != len(m.GetInputs()) || len(r.names) != len(m.GetOutputs()) {
		t.Fatalf("decoded %+v, the message is %v", r, m)
	}
	for i, in := range m.GetInputs() {
		got := &r.inputs[i]
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
		if r.names[i] != o.GetName() {
			t.Fatalf("output %d is %q, the message says %q", i, r.names[i], o.GetName())
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
		var r request
		reserved := int64(0)
		err := r.decode(b, func(n int64) error {
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
		var r request
		err = r.decode(b, free)
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
		r := &response{model: text.Draw(t, "model"), version: text.Draw(t, "version"), id: text.Draw(t, "id"), final: rapid.Bool().Draw(t, "final")}
		for range rapid.IntRange(0, 3).Draw(t, "outputs") {
			r.outputs = append(r.outputs, tensor.Tensor{
				Name: text.Draw(t, "name"), Datatype: tensor.Datatype(rapid.IntRange(1, 14).Draw(t, "datatype")),
				Shape: rapid.SliceOfN(rapid.Int64Range(0, 1<<62), 0, 16).Draw(t, "shape"), Data: rapid.SliceOf(rapid.Byte()).Draw(t, "data"),
			})
		}
		s := &streamed{message: text.Draw(t, "message"), response: r}
		b, err := codec{"proto"}.MarshalAppend([]byte("before"), s)
		if err != nil || !bytes.HasPrefix(b, []byte("before")) || len(b) != 6+s.size() {
			t.Fatalf("%d bytes, size says %d: %v", len(b), s.size(), err)
		}
		var m inferencepb.ModelStreamInferResponse
		if err := proto.Unmarshal(b[6:], &m); err != nil {
			t.Fatal(err)
		}
		got := m.GetInferResponse()
		if m.GetErrorMessage() != s.message || got.GetModelName() != r.model || got.GetModelVersion() != r.version || got.GetId() != r.id || got.GetParameters()["triton_final_response"].GetBoolParam() != r.final || len(got.GetOutputs()) != len(r.outputs) {
			t.Fatalf("got %v", &m)
		}
		for i := range r.outputs {
			if o := tensorOf(got, i); o.Name != r.outputs[i].Name || o.Datatype != r.outputs[i].Datatype || !slices.Equal(o.Shape, r.outputs[i].Shape) || !bytes.Equal(o.Data, r.outputs[i].Data) {
				t.Fatalf("output %d is %v", i, o)
			}
		}
	})
}

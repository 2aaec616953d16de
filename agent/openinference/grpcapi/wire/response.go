package wire

import (
	"math/bits"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/dhowfleet/dhow/models/tensor"
)

// Response is a ModelInferResponse. Outputs are copied only into the message that is sent.
type Response struct {
	Model, Version, ID string
	Outputs            []tensor.Tensor
	Final              bool // says that it is the request's last answer, which clients of streams look for
}

// finalParameter is parameters["triton_final_response"] = true.
var finalParameter = func() []byte {
	value := protowire.AppendVarint(protowire.AppendTag(nil, kindBool, protowire.VarintType), 1)
	b := appendBytes(nil, 1, []byte("triton_final_response"))
	return appendBytes(b, 2, value)
}()

func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

// appendText leaves an empty text out.
func appendText(b []byte, field protowire.Number, v string) []byte {
	if v == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), v)
}

// sizeField is the size of a field that has a length of n, its tag of one byte included.
func sizeField(n int) int { return 1 + protowire.SizeBytes(n) }

func sizeText(v string) int {
	if v == "" {
		return 0
	}
	return sizeField(len(v))
}

// sizeDimension is the size of a varint that is not negative.
func sizeDimension(d int64) int { return (bits.Len64(uint64(d)|1) + 6) / 7 }

func sizeShape(shape []int64) int {
	n := 0
	for _, d := range shape {
		n += sizeDimension(d)
	}
	return n
}

// sizeOutput is the size of an InferOutputTensor.
func sizeOutput(t *tensor.Tensor) int {
	n := sizeText(t.Name) + sizeText(t.Datatype.String())
	if len(t.Shape) > 0 {
		n += sizeField(sizeShape(t.Shape))
	}
	return n
}

// Size is the length of the message.
func (r *Response) Size() int {
	n := sizeText(r.Model) + sizeText(r.Version) + sizeText(r.ID)
	if r.Final {
		n += sizeField(len(finalParameter))
	}
	for i := range r.Outputs {
		n += sizeField(sizeOutput(&r.Outputs[i])) + sizeField(len(r.Outputs[i].Data))
	}
	return n
}

// Append writes the message at the end of b.
func (r *Response) Append(b []byte) []byte {
	b = appendText(b, 1, r.Model)
	b = appendText(b, 2, r.Version)
	b = appendText(b, 3, r.ID)
	if r.Final {
		b = appendBytes(b, 4, finalParameter)
	}
	for i := range r.Outputs {
		t := &r.Outputs[i]
		b = protowire.AppendTag(b, 5, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(sizeOutput(t)))
		b = appendText(b, 1, t.Name)
		b = appendText(b, 2, t.Datatype.String())
		if len(t.Shape) > 0 {
			b = protowire.AppendTag(b, 3, protowire.BytesType)
			b = protowire.AppendVarint(b, uint64(sizeShape(t.Shape)))
			for _, d := range t.Shape {
				b = protowire.AppendVarint(b, uint64(d))
			}
		}
	}
	for i := range r.Outputs {
		b = appendBytes(b, 6, r.Outputs[i].Data)
	}
	return b
}

// Streamed is a ModelStreamInferResponse.
type Streamed struct {
	Message string // what went wrong; "" is nothing
	*Response
}

// Size is the length of the message.
func (s *Streamed) Size() int {
	return sizeText(s.Message) + sizeField(s.Response.Size())
}

// Append writes the message at the end of b.
func (s *Streamed) Append(b []byte) []byte {
	b = appendText(b, 1, s.Message)
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(s.Response.Size()))
	return s.Response.Append(b)
}

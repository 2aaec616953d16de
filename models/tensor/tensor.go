// Package tensor holds the values that go through Dhow: named, typed, shaped, little-endian bytes.
//
// A tensor's Data is exactly what the Open Inference Protocol's binary form carries, so that a request's bytes reach
// the model without being rewritten: elements row-major and little-endian, BOOL one byte each, BYTES each element as
// a 32-bit little-endian length and then its bytes. The package does no I/O and keeps no state.
package tensor

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Datatype is an element type of the Open Inference Protocol. The zero value is Invalid.
type Datatype uint8

// The datatypes; their numbers are part of the WASM guest contract (wasm/abi) and never change.
const (
	Invalid Datatype = 0
	Bool    Datatype = 1
	Uint8   Datatype = 2
	Uint16  Datatype = 3
	Uint32  Datatype = 4
	Uint64  Datatype = 5
	Int8    Datatype = 6
	Int16   Datatype = 7
	Int32   Datatype = 8
	Int64   Datatype = 9
	FP16    Datatype = 10
	FP32    Datatype = 11
	FP64    Datatype = 12
	Bytes   Datatype = 13
	BF16    Datatype = 14
)

var names = [...]string{
	Invalid: "INVALID", Bool: "BOOL", Uint8: "UINT8", Uint16: "UINT16", Uint32: "UINT32", Uint64: "UINT64",
	Int8: "INT8", Int16: "INT16", Int32: "INT32", Int64: "INT64", FP16: "FP16", FP32: "FP32", FP64: "FP64",
	Bytes: "BYTES", BF16: "BF16",
}

var sizes = [...]int{Bool: 1, Uint8: 1, Uint16: 2, Uint32: 4, Uint64: 8, Int8: 1, Int16: 2, Int32: 4, Int64: 8, FP16: 2, FP32: 4, FP64: 8, Bytes: 0, BF16: 2}

// String returns the protocol's name, such as "FP32".
func (d Datatype) String() string {
	if int(d) < len(names) {
		return names[d]
	}
	return names[Invalid]
}

// Size returns the bytes of one element, or 0 for BYTES and unknown types.
func (d Datatype) Size() int {
	if int(d) < len(sizes) {
		return sizes[d]
	}
	return 0
}

// Valid reports whether d is one of the datatypes above.
func (d Datatype) Valid() bool { return d > Invalid && int(d) < len(names) }

// ParseDatatype is the inverse of String; names are case-sensitive.
func ParseDatatype(s string) (Datatype, error) {
	for i := int(Bool); i < len(names); i++ {
		if names[i] == s {
			return Datatype(i), nil
		}
	}
	return Invalid, fmt.Errorf("datatype %q is not one of the protocol's", s)
}

// MaxRank bounds the number of dimensions; ONNX Runtime's own kernels stop at 8, protocols at nothing.
const MaxRank = 16

// Tensor is one named value. Shape entries are not negative. Data is owned by whoever made the tensor and is not
// changed by those who are handed it.
type Tensor struct {
	Name     string
	Datatype Datatype
	Shape    []int64
	Data     []byte
}

// Elements returns the number of elements of a shape; a scalar (no dimensions) has one. Negative dimensions, more than
// MaxRank of them, and products beyond the address space are errors.
func Elements(shape []int64) (int64, error) {
	if len(shape) > MaxRank {
		return 0, fmt.Errorf("shape has %d dimensions, at most %d are allowed", len(shape), MaxRank)
	}
	n, zero := int64(1), false
	for _, d := range shape {
		switch {
		case d < 0:
			return 0, fmt.Errorf("shape %v has the negative dimension %d", shape, d)
		case d == 0:
			zero = true
		case n > math.MaxInt64/16/d:
			return 0, fmt.Errorf("shape %v has too many elements", shape)
		default:
			n *= d
		}
	}
	if zero {
		return 0, nil
	}
	return n, nil
}

// Validate checks that the datatype is known and that Data holds exactly the elements of Shape.
func (t *Tensor) Validate() error {
	if !t.Datatype.Valid() {
		return fmt.Errorf("tensor %q has no valid datatype", t.Name)
	}
	n, err := Elements(t.Shape)
	if err != nil {
		return fmt.Errorf("tensor %q: %w", t.Name, err)
	}
	if t.Datatype == Bytes {
		if err := checkBytes(t.Data, n); err != nil {
			return fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		return nil
	}
	if want := n * int64(t.Datatype.Size()); int64(len(t.Data)) != want {
		return fmt.Errorf("tensor %q: shape %v of %s needs %d bytes, got %d", t.Name, t.Shape, t.Datatype, want, len(t.Data))
	}
	return nil
}

// Spec says what a model accepts or returns; -1 is a dimension that varies.
type Spec struct {
	Name     string
	Datatype Datatype
	Shape    []int64
}

// Accepts checks a tensor against the spec: datatype, rank and every fixed dimension.
func (s *Spec) Accepts(t *Tensor) error {
	if t.Datatype != s.Datatype {
		return fmt.Errorf("tensor %q has datatype %s, the model wants %s", s.Name, t.Datatype, s.Datatype)
	}
	if len(t.Shape) != len(s.Shape) {
		return fmt.Errorf("tensor %q has shape %v, the model wants %v", s.Name, t.Shape, s.Shape)
	}
	for i, d := range s.Shape {
		if d >= 0 && t.Shape[i] != d {
			return fmt.Errorf("tensor %q has shape %v, the model wants %v", s.Name, t.Shape, s.Shape)
		}
	}
	return nil
}

// AppendBytes appends one BYTES element.
func AppendBytes(dst, element []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(element)))
	return append(dst, element...)
}

// FromStrings makes a BYTES tensor of shape [len(elements)].
func FromStrings(name string, elements ...string) Tensor {
	var data []byte
	for _, e := range elements {
		data = AppendBytes(data, []byte(e))
	}
	return Tensor{Name: name, Datatype: Bytes, Shape: []int64{int64(len(elements))}, Data: data}
}

// FromFloat32 makes an FP32 tensor; the values are copied.
func FromFloat32(name string, shape []int64, values []float32) Tensor {
	data := make([]byte, 0, 4*len(values))
	for _, v := range values {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
	}
	return Tensor{Name: name, Datatype: FP32, Shape: shape, Data: data}
}

// Float32s returns the values of an FP32 tensor.
func (t *Tensor) Float32s() []float32 {
	out := make([]float32, len(t.Data)/4)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(t.Data[4*i:]))
	}
	return out
}

// SplitBytes returns the elements of a BYTES tensor's data as views into it.
func SplitBytes(data []byte) ([][]byte, error) {
	var out [][]byte
	for len(data) > 0 {
		if len(data) < 4 {
			return nil, fmt.Errorf("BYTES data ends inside a length")
		}
		n := binary.LittleEndian.Uint32(data)
		if uint64(n) > uint64(len(data)-4) {
			return nil, fmt.Errorf("BYTES element of %d bytes runs past the end of the data", n)
		}
		out = append(out, data[4:4+n:4+n])
		data = data[4+n:]
	}
	return out, nil
}

func checkBytes(data []byte, want int64) error {
	var n int64
	for len(data) > 0 {
		if len(data) < 4 {
			return fmt.Errorf("BYTES data ends inside a length")
		}
		l := binary.LittleEndian.Uint32(data)
		if uint64(l) > uint64(len(data)-4) {
			return fmt.Errorf("BYTES element of %d bytes runs past the end of the data", l)
		}
		data = data[4+l:]
		n++
	}
	if n != want {
		return fmt.Errorf("BYTES data has %d elements, the shape says %d", n, want)
	}
	return nil
}

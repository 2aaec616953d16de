// Package tensorproto reads ONNX's TensorProto, the form in which the ONNX project keeps the inputs and outputs of its
// operator tests.
//
// Read takes a file's bytes and returns the tensor as a client of the Open Inference
// Protocol has it. It is pure, keeps
// nothing of its argument, and bounds what it makes by what it was given: elements are not believed in before their bytes
// were seen.
package tensorproto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/dhowfleet/dhow/test/conformance/wire"
)

// maxRank and maxElements bound a tensor. The operator tests stay far below.
const (
	maxRank     = 16
	maxElements = 1 << 28
)

// kind is an element type: its name in the protocol, and its bytes.
type kind struct {
	name string
	size int
}

var kinds = map[uint64]kind{
	1: {"FP32", 4}, 2: {"UINT8", 1}, 3: {"INT8", 1}, 4: {"UINT16", 2}, 5: {"INT16", 2}, 6: {"INT32", 4}, 7: {"INT64", 8},
	8: {"BYTES", 0}, 9: {"BOOL", 1}, 10: {"FP16", 2}, 11: {"FP64", 8}, 12: {"UINT32", 4}, 13: {"UINT64", 8}, 16: {"BF16", 2},
}

// ErrType is wrapped where the element type has no form in the Open Inference Protocol (complex numbers).
var ErrType = errors.New("an element type that the Open Inference Protocol does not have")

// fields are those of the message, as they were found.
type fields struct {
	name    string
	dims    []int64
	kind    uint64
	floats  []byte // 4 bytes each
	doubles []byte // 8 bytes each
	ints    []uint64
	texts   [][]byte
	raw     []byte
	hasRaw  bool
}

// Read reads a tensor.
func Read(b []byte) (*wire.Value, error) {
	f, err := scan(b)
	if err != nil {
		return nil, fmt.Errorf("cannot read a tensor: %w", err)
	}
	t, err := f.tensor()
	if err != nil {
		return nil, fmt.Errorf("cannot read tensor %q: %w", f.name, err)
	}
	return t, nil
}

func scan(b []byte) (*fields, error) {
	f := &fields{}
	for len(b) > 0 {
		number, form, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		b = b[n:]
		n = protowire.ConsumeFieldValue(number, form, b)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		if err := f.field(number, form, b[:n]); err != nil {
			return nil, fmt.Errorf("field %d: %w", number, err)
		}
		b = b[n:]
	}
	return f, nil
}

// field takes one field; b is its value and holds together.
func (f *fields) field(number protowire.Number, form protowire.Type, b []byte) error {
	switch number {
	case 1:
		var dims []uint64
		if err := varints(&dims, form, b); err != nil {
			return err
		}
		for _, d := range dims {
			f.dims = append(f.dims, int64(d))
		}
		return nil
	case 4:
		return fixed(&f.floats, form, protowire.Fixed32Type, b)
	case 10:
		return fixed(&f.doubles, form, protowire.Fixed64Type, b)
	case 5, 7, 11:
		return varints(&f.ints, form, b)
	case 2:
		if form != protowire.VarintType {
			return errors.New("is no number")
		}
		f.kind, _ = protowire.ConsumeVarint(b)
	case 6, 8, 9:
		if form != protowire.BytesType {
			return errors.New("is no text")
		}
		v, _ := protowire.ConsumeBytes(b)
		switch number {
		case 6:
			f.texts = append(f.texts, v)
		case 8:
			if !utf8.Valid(v) {
				return errors.New("is no UTF-8")
			}
			f.name = string(v)
		case 9:
			f.raw, f.hasRaw = v, true
		}
	case 13, 14:
		return errors.New("the data lies in another file")
	case 3:
		return errors.New("the tensor is a part of one")
	}
	return nil
}

// varints adds a repeated field's number, or its packed ones.
func varints(to *[]uint64, form protowire.Type, b []byte) error {
	switch form {
	case protowire.VarintType:
		v, _ := protowire.ConsumeVarint(b)
		*to = append(*to, v)
		return nil
	case protowire.BytesType:
		packed, _ := protowire.ConsumeBytes(b)
		for len(packed) > 0 {
			v, n := protowire.ConsumeVarint(packed)
			if n < 0 {
				return protowire.ParseError(n)
			}
			*to = append(*to, v)
			packed = packed[n:]
		}
		return nil
	}
	return errors.New("is no number")
}

// fixed adds a repeated field's number of a fixed size, or its packed ones.
func fixed(to *[]byte, form, single protowire.Type, b []byte) error {
	switch form {
	case single:
		*to = append(*to, b...)
		return nil
	case protowire.BytesType:
		packed, _ := protowire.ConsumeBytes(b)
		*to = append(*to, packed...)
		return nil
	}
	return errors.New("is no number")
}

// tensor checks what was found against the shape, and puts it into one form.
func (f *fields) tensor() (*wire.Value, error) {
	k, known := kinds[f.kind]
	if !known {
		return nil, fmt.Errorf("element type %d: %w", f.kind, ErrType)
	}
	if len(f.dims) > maxRank {
		return nil, fmt.Errorf("it has %d dimensions, at most %d are read", len(f.dims), maxRank)
	}
	elements := int64(1)
	for _, d := range f.dims {
		if d < 0 || d > maxElements || elements*d > maxElements {
			return nil, fmt.Errorf("its shape %v is too large or negative", f.dims)
		}
		elements *= d
	}
	t := &wire.Value{Name: f.name, Datatype: k.name, Shape: append([]int64{}, f.dims...)}
	var have int64
	switch {
	case f.hasRaw:
		t.Raw, have = append(t.Raw, f.raw...), int64(len(f.raw)/max(k.size, 1))
		if k.size == 0 || len(f.raw)%k.size != 0 {
			return nil, fmt.Errorf("%d raw bytes are no elements of %s", len(f.raw), k.name)
		}
	case k.name == "BYTES":
		for _, text := range f.texts {
			t.Raw = append(binary.LittleEndian.AppendUint32(t.Raw, uint32(len(text))), text...)
		}
		have = int64(len(f.texts))
	case k.name == "FP32":
		t.Raw, have = append(t.Raw, f.floats...), int64(len(f.floats)/4)
	case k.name == "FP64":
		t.Raw, have = append(t.Raw, f.doubles...), int64(len(f.doubles)/8)
	default: // FP16 and BF16 keep their bits in int32_data
		for _, v := range f.ints {
			t.Raw = append(t.Raw, binary.LittleEndian.AppendUint64(nil, v)[:k.size]...)
		}
		have = int64(len(f.ints))
	}
	if have != elements {
		return nil, fmt.Errorf("it has %d elements, its shape %v says %d", have, f.dims, elements)
	}
	return t, nil
}

package wire

import (
	"encoding/binary"
	"math"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/dhowfleet/dhow/models/tensor"
)

// contentsOf names the fields of InferTensorContents.
var contentsOf = [...]string{1: "bool_contents", 2: "int_contents", 3: "int64_contents", 4: "uint_contents", 5: "uint64_contents", 6: "fp32_contents", 7: "fp64_contents", 8: "bytes_contents"}

// fieldOf returns the field that holds a datatype's elements, 0 where there is none.
func fieldOf(d tensor.Datatype) protowire.Number {
	switch d {
	case tensor.Bool:
		return 1
	case tensor.Int8, tensor.Int16, tensor.Int32:
		return 2
	case tensor.Int64:
		return 3
	case tensor.Uint8, tensor.Uint16, tensor.Uint32:
		return 4
	case tensor.Uint64:
		return 5
	case tensor.FP32:
		return 6
	case tensor.FP64:
		return 7
	case tensor.Bytes:
		return 8
	}
	return 0
}

// typed is the walk over an InferTensorContents.
type typed struct {
	t     *tensor.Tensor
	want  int64 // elements
	got   int64
	field protowire.Number
}

// fillTyped makes the data of t, whose datatype and shape are known, from its typed contents. Packed floats and bools
// are the tensor's own form and stay where they are.
func fillTyped(t *tensor.Tensor, contents []byte, reserve func(int64) error) error {
	want, err := tensor.Elements(t.Shape)
	if err != nil {
		return invalid("input %q: %v", t.Name, err)
	}
	w := typed{t: t, want: want, field: fieldOf(t.Datatype)}
	if w.field == 0 {
		if want == 0 && len(contents) == 0 {
			return nil
		}
		return invalid("input %q: %s has no typed contents; send it in raw_input_contents", t.Name, t.Datatype)
	}
	if w.view(contents) {
		return nil
	}
	// Every element takes a byte of the message, and a string two, so that no shape gets memory that is not paid for.
	if want > int64(len(contents)) {
		return w.misfit(contents)
	}
	size := want * int64(t.Datatype.Size())
	if t.Datatype == tensor.Bytes {
		size = int64(len(contents)) + 4*want
	}
	if err := reserve(size); err != nil {
		return err
	}
	t.Data = make([]byte, 0, size)
	if err := fields(contents, w.chunk); err != nil {
		return err
	}
	if w.got != want {
		return w.misfit(contents)
	}
	return nil
}

// view takes contents that are one packed field of the right length as they lie.
func (w *typed) view(contents []byte) bool {
	size := w.t.Datatype.Size()
	if w.field != 1 && w.field != 6 && w.field != 7 || len(contents) == 0 {
		return false
	}
	number, kind, n := protowire.ConsumeTag(contents)
	if n < 0 || number != w.field || kind != protowire.BytesType {
		return false
	}
	b, m := protowire.ConsumeBytes(contents[n:])
	if m < 0 || n+m != len(contents) || int64(len(b)) != w.want*int64(size) {
		return false
	}
	if w.field == 1 {
		for _, v := range b {
			if v > 1 {
				return false
			}
		}
	}
	w.t.Data = b
	return true
}

// misfit says that the number of elements is not the shape's.
func (w *typed) misfit(contents []byte) error {
	got := int64(0)
	count := typed{t: &tensor.Tensor{Name: w.t.Name, Datatype: w.t.Datatype}, want: math.MaxInt64, field: w.field}
	if err := fields(contents, func(number protowire.Number, kind protowire.Type, b []byte, n uint64) error {
		if number != w.field {
			return count.chunk(number, kind, b, n) // says which field is wrong
		}
		got += elements(number, kind, b)
		return nil
	}); err != nil {
		return err
	}
	return invalid("input %q: shape %v has %d elements, %s has %d", w.t.Name, w.t.Shape, w.want, contentsOf[w.field], got)
}

// elements counts what one occurrence of a field holds.
func elements(number protowire.Number, kind protowire.Type, b []byte) int64 {
	if kind != protowire.BytesType || number == 8 {
		return 1
	}
	switch number {
	case 6:
		return int64(len(b) / 4)
	case 7:
		return int64(len(b) / 8)
	}
	n := int64(0)
	for _, c := range b {
		if c < 0x80 {
			n++
		}
	}
	return n
}

// chunk takes one occurrence of a field: an element, or packed ones.
func (w *typed) chunk(number protowire.Number, kind protowire.Type, b []byte, n uint64) error {
	if number < 1 || int(number) >= len(contentsOf) {
		return nil
	}
	if number != w.field {
		if kind == protowire.BytesType && number != 8 && len(b) == 0 {
			return nil
		}
		return invalid("input %q: %s comes in %s, not in %s", w.t.Name, w.t.Datatype, contentsOf[w.field], contentsOf[number])
	}
	switch number {
	case 8:
		if kind != protowire.BytesType {
			return errMalformed
		}
		if err := w.count(1); err != nil {
			return err
		}
		w.t.Data = tensor.AppendBytes(w.t.Data, b)
		return nil
	case 6, 7:
		return w.floats(number, kind, b, n)
	}
	if kind == protowire.VarintType {
		return w.integers(protowire.AppendVarint(nil, n))
	}
	if kind != protowire.BytesType {
		return errMalformed
	}
	return w.integers(b)
}

func (w *typed) count(n int64) error {
	if w.got += n; w.got > w.want {
		return invalid("input %q: %s has more elements than the %d of shape %v", w.t.Name, contentsOf[w.field], w.want, w.t.Shape)
	}
	return nil
}

func (w *typed) floats(number protowire.Number, kind protowire.Type, b []byte, n uint64) error {
	size := 4 * int(number-5)
	switch {
	case kind == protowire.BytesType && len(b)%size == 0:
		if err := w.count(int64(len(b) / size)); err != nil {
			return err
		}
		w.t.Data = append(w.t.Data, b...)
	case number == 6 && kind == protowire.Fixed32Type:
		if err := w.count(1); err != nil {
			return err
		}
		w.t.Data = binary.LittleEndian.AppendUint32(w.t.Data, uint32(n))
	case number == 7 && kind == protowire.Fixed64Type:
		if err := w.count(1); err != nil {
			return err
		}
		w.t.Data = binary.LittleEndian.AppendUint64(w.t.Data, n)
	default:
		return errMalformed
	}
	return nil
}

// integers takes packed integers or bools. int_contents and uint_contents are 32 bits wide whatever the datatype is, so
// that a value may be none of it.
func (w *typed) integers(b []byte) error {
	if err := w.count(elements(w.field, protowire.BytesType, b)); err != nil {
		return err
	}
	low, high, unsigned := int64(0), int64(0), true
	switch w.t.Datatype {
	case tensor.Uint8:
		high = math.MaxUint8
	case tensor.Uint16:
		high = math.MaxUint16
	case tensor.Int8:
		low, high, unsigned = math.MinInt8, math.MaxInt8, false
	case tensor.Int16:
		low, high, unsigned = math.MinInt16, math.MaxInt16, false
	}
	data, size, isBool := w.t.Data, w.t.Datatype.Size(), w.t.Datatype == tensor.Bool
	for len(b) > 0 {
		v, n := uint64(b[0]), 1
		if v >= 0x80 {
			if v, n = protowire.ConsumeVarint(b); n < 0 {
				return errMalformed
			}
		}
		b = b[n:]
		switch size {
		case 8:
			data = binary.LittleEndian.AppendUint64(data, v)
			continue
		case 4:
			data = binary.LittleEndian.AppendUint32(data, uint32(v))
			continue
		}
		x := int64(int32(v))
		if unsigned {
			x = int64(uint32(v))
		}
		switch {
		case isBool:
			data = append(data, byte(min(v, 1)))
		case x < low || x > high:
			return invalid("input %q: %d is no %s", w.t.Name, x, w.t.Datatype)
		case size == 1:
			data = append(data, byte(x))
		default:
			data = binary.LittleEndian.AppendUint16(data, uint16(x))
		}
	}
	w.t.Data = data
	return nil
}

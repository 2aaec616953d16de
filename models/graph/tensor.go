package graph

import (
	"fmt"
	"math"
	"math/bits"

	"github.com/dhowfleet/dhow/models/graph/sizes"
)

// stored is what a TensorProto says of where its values are.
type stored struct {
	datatype, where    uint64
	elements           uint64
	dims               []int64
	raw, text          uint64 // bytes
	typed              uint64 // values in a field of their own type
	hasRaw, hasTyped   bool
	location           string
	offset, lengthHere uint64
}

func (t *stored) dim(v, before uint64) error {
	hi, lo := bits.Mul64(t.elements, v)
	if hi != 0 || int64(v) < 0 || int64(lo) < 0 || len(t.dims) == maxRank {
		return fmt.Errorf("a constant tensor before byte %d has an impossible shape: the file is corrupt", before)
	}
	t.elements, t.dims = lo, append(t.dims, int64(v))
	return nil
}

// tensor walks a TensorProto.
func (m *model) tensor(end int64) (*sizes.Constant, error) {
	if m.tensors++; m.tensors > MaxTensors {
		return nil, fmt.Errorf("the model has more than %d constant tensors", MaxTensors)
	}
	c := &m.in
	out := &sizes.Constant{}
	t := stored{elements: 1}
	var name string
	var raw []byte
	err := c.each(end, func(f field) (err error) {
		switch {
		case f.number == 1 && f.wire == varint:
			return t.dim(f.value, uint64(end))
		case f.number == 1 && f.wire == length:
			for c.pos < f.end {
				v, err := c.varint(f.end)
				if err == nil {
					err = t.dim(v, uint64(end))
				}
				if err != nil {
					return err
				}
			}
		case f.number == 2 && f.wire == varint:
			t.datatype = f.value
		case f.number == 6 && f.wire == length:
			t.text, t.hasTyped = t.text+uint64(f.end-c.pos), true
			t.typed++
		case f.number == 4 || f.number == 5 || f.number == 7 || f.number == 10 || f.number == 11:
			t.hasTyped = true
			err = m.typed(f, &t, &out.Values)
		case f.number == 8 && f.wire == length:
			name, err = c.text(f, MaxNameBytes)
		case f.number == 9 && f.wire == length:
			t.raw, t.hasRaw = uint64(f.end-c.pos), true
			if t.raw <= 8*sizes.MaxValues {
				raw, err = c.bytes(f)
			}
		case f.number == 13 && f.wire == length:
			err = m.externalEntry(f.end, &t.location, &t.offset, &t.lengthHere)
		case f.number == 14 && f.wire == varint:
			t.where = f.value
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if out.Name, err = m.intern(name); err != nil {
		return nil, err
	}
	out.Shape = sizes.Shape{Ranked: true, Dims: t.dims, Bits: sizes.BitsOf(t.datatype)}
	if t.hasRaw && t.where != 1 {
		out.Values = numbers(raw, t.datatype)
		m.keptValues += len(out.Values)
	}
	if uint64(len(out.Values)) != t.elements || len(out.Values) > sizes.MaxValues {
		out.Values = nil
	}
	return out, m.account(name, &t)
}

// typed counts the values of a field of their own type and keeps the first ones.
func (m *model) typed(f field, t *stored, values *[]float64) error {
	size := map[uint64]int{4: 4, 10: 8}[f.number]
	number := func(v uint64) float64 {
		switch f.number {
		case 4:
			return float64(math.Float32frombits(uint32(v)))
		case 10:
			return math.Float64frombits(v)
		}
		return float64(int64(v))
	}
	if f.wire != length {
		t.typed++
		return m.keep(values, number(f.value))
	}
	c := &m.in
	if n := f.end - c.pos; size > 0 && n > int64(size*sizes.MaxValues) {
		t.typed += uint64(n) / uint64(size)
		return nil
	}
	for c.pos < f.end {
		var v uint64
		var err error
		if size > 0 {
			v, err = c.fixed(size, f.end)
		} else {
			v, err = c.varint(f.end)
		}
		if err != nil {
			return err
		}
		if t.typed++; t.typed <= sizes.MaxValues {
			if err := m.keep(values, number(v)); err != nil {
				return err
			}
		}
	}
	return nil
}

// account checks that a tensor has as many values as its shape says, and adds its size up.
func (m *model) account(name string, t *stored) error {
	if t.datatype == 0 || t.datatype >= uint64(len(element)) {
		return nil // a type newer than this table, whose size is not known; the runtime decides
	}
	width := element[t.datatype].bits
	size := t.text
	if width > 0 {
		hi, lo := bits.Mul64(t.elements, width)
		if hi != 0 || lo > 1<<62 {
			return fmt.Errorf("constant tensor %q is larger than any memory: the file is corrupt", name)
		}
		size = (lo + 7) / 8
	}
	var err error
	switch {
	case t.where == 1:
		m.out.ExternalBytes += size
		err = m.addExternal(name, t.location, t.offset, t.lengthHere, size)
	case t.hasRaw && width > 0 && t.raw != size:
		err = fmt.Errorf("constant tensor %q has %d bytes, its shape needs %d: the file is corrupt", name, t.raw, size)
	case !t.hasRaw && !t.hasTyped && size > 0, !t.hasRaw && width == 0 && t.typed == 0 && t.elements > 0:
		err = fmt.Errorf("constant tensor %q has no values, its shape needs %d bytes: the file is corrupt", name, size)
	case t.hasTyped && !t.hasRaw && width >= 8 && t.typed != t.elements*perElement(t.datatype),
		!t.hasRaw && width == 0 && t.typed != t.elements:
		err = fmt.Errorf("constant tensor %q has %d values, its shape needs %d: the file is corrupt", name, t.typed, t.elements)
	}
	m.out.InitializerBytes += size
	if m.out.InitializerBytes > 1<<62 {
		return fmt.Errorf("the constant tensors are larger than any memory: the file is corrupt")
	}
	m.out.LargestBytes = max(m.out.LargestBytes, size)
	return err
}

// perElement is how many values a field of its own type has for each element: complex numbers have two.
func perElement(datatype uint64) uint64 {
	if datatype == 14 || datatype == 15 {
		return 2
	}
	return 1
}

package graph

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/dhowfleet/dhow/models/graph/sizes"
	"github.com/dhowfleet/dhow/models/tensor"
)

// externalEntry reads one key and value of a tensor's external_data.
func (m *model) externalEntry(end int64, location *string, offset, size *uint64) error {
	c := &m.in
	var key, value string
	err := c.each(end, func(f field) (err error) {
		if f.number == 1 {
			key, err = c.text(f, MaxNameBytes)
		} else if f.number == 2 {
			value, err = c.text(f, MaxNameBytes)
		}
		return err
	})
	if err != nil {
		return err
	}
	switch key {
	case "location":
		*location = value
	case "offset", "length":
		n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 62)
		if err != nil {
			return fmt.Errorf("external data with the %s %q: the file is corrupt", key, value)
		}
		if key == "offset" {
			*offset = n
		} else {
			*size = n
		}
	}
	return nil
}

func (m *model) addExternal(name, location string, offset, have, need uint64) error {
	if location == "" {
		return fmt.Errorf("constant tensor %q is external but names no file: the file is corrupt", name)
	}
	if have != 0 && have != need {
		return fmt.Errorf("constant tensor %q has %d bytes in %q, its shape needs %d: the file is corrupt", name, have, location, need)
	}
	if _, known := m.external[location]; !known && len(m.external) == MaxExternal {
		return fmt.Errorf("the model has more than %d files of external data", MaxExternal)
	}
	m.external[location] = max(m.external[location], offset+need)
	return nil
}

// value walks a ValueInfoProto.
func (m *model) value(end int64) (Value, error) {
	c := &m.in
	var v Value
	err := c.each(end, func(f field) (err error) {
		switch {
		case f.number == 1 && f.wire == length:
			v.Spec.Name, err = c.text(f, MaxNameBytes)
		case f.number == 2 && f.wire == length:
			err = c.each(f.end, func(f field) error {
				if f.wire != length {
					return nil
				}
				switch f.number {
				case 1:
					v.Kind = Tensor
					return m.tensorType(f.end, &v)
				case 4:
					v.Kind = Sequence
				case 5:
					v.Kind = Map
				case 7:
					v.Kind = Opaque
				case 8:
					v.Kind = SparseTensor
				case 9:
					v.Kind = Optional
				}
				return nil
			})
		}
		return err
	})
	if err == nil && sizes.Least(v.Spec.Shape) > 1<<48 {
		err = fmt.Errorf("%q has the shape %v, which is larger than any memory", v.Spec.Name, v.Spec.Shape)
	}
	return v, err
}

func (m *model) tensorType(end int64, v *Value) error {
	c := &m.in
	return c.each(end, func(f field) error {
		switch {
		case f.number == 1 && f.wire == varint && f.value < uint64(len(element)):
			v.Spec.Datatype, v.bits = element[f.value].datatype, sizes.BitsOf(f.value)
		case f.number == 2 && f.wire == length:
			v.Ranked, v.Spec.Shape = true, []int64{}
			return c.each(f.end, func(f field) error {
				if f.number != 1 || f.wire != length {
					return nil
				}
				if len(v.Spec.Shape) == tensor.MaxRank {
					return fmt.Errorf("%q has more than %d dimensions", v.Spec.Name, tensor.MaxRank)
				}
				d := int64(-1)
				err := c.each(f.end, func(f field) error {
					if f.number == 1 && f.wire == varint {
						if int64(f.value) < 0 {
							f.value = ^uint64(0) // some exporters write -1 for a dimension that varies
						}
						d = int64(f.value)
					}
					return nil
				})
				v.Spec.Shape = append(v.Spec.Shape, d)
				return err
			})
		}
		return nil
	})
}

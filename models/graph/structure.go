package graph

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/dhowfleet/dhow/models/graph/sizes"
)

// Bounds of what is kept of a graph's structure.
const (
	maxAttributes    = 4_000_000 // over all nodes
	maxKeptTotal     = 4_000_000 // values, over all
	maxFunctions     = 4096
	maxPorts         = 4_000_000 // inputs and outputs of all nodes
	maxKeptAttribute = 32        // bytes of an attribute's name that may matter
)

// intern gives a name its number.
func (m *model) intern(name string) (sizes.ID, error) {
	if name == "" {
		return 0, nil
	}
	if n, ok := m.ids[name]; ok {
		return n, nil
	}
	if m.kept += len(name); m.kept > maxNameTotal {
		return 0, fmt.Errorf("the names of the model's tensors take more than %d bytes", maxNameTotal)
	}
	m.structure.Names = append(m.structure.Names, name)
	n := sizes.ID(len(m.structure.Names))
	m.ids[name] = n
	return n, nil
}

// node walks a NodeProto.
func (m *model) node(end int64, depth int) (sizes.Node, error) {
	var n sizes.Node
	if m.nodes++; m.nodes > MaxNodes {
		return n, fmt.Errorf("the model has more than %d nodes", MaxNodes)
	}
	c := &m.in
	err := c.each(end, func(f field) (err error) {
		if f.wire != length {
			return nil
		}
		var s string
		switch f.number {
		case 1, 2:
			if m.ports++; m.ports > maxPorts {
				return fmt.Errorf("the model's nodes have more than %d inputs and outputs", maxPorts)
			}
			if s, err = c.text(f, MaxNameBytes); err != nil {
				return err
			}
			var n2 sizes.ID
			if n2, err = m.intern(s); f.number == 1 {
				n.In = append(n.In, n2)
			} else {
				n.Out = append(n.Out, n2)
			}
		case 4:
			n.Op, err = m.word(f)
		case 5:
			var a sizes.Attribute
			if a, err = m.attribute(f.end, depth); sizes.Telling[a.Name] || a.Graph != nil {
				n.Attributes = append(n.Attributes, a)
			}
		case 7:
			n.Domain, err = m.word(f)
		}
		return err
	})
	if n.Domain == "ai.onnx" {
		n.Domain = ""
	}
	return n, err
}

// word reads a text of which the file repeats a few many times.
func (m *model) word(f field) (string, error) {
	s, err := m.in.text(f, MaxNameBytes)
	if known, ok := m.words[s]; ok {
		return known, nil
	}
	if m.kept += len(s); m.kept > maxNameTotal {
		return "", fmt.Errorf("the names of the model's operators take more than %d bytes", maxNameTotal)
	}
	m.words[s] = s
	return s, err
}

// attribute walks an AttributeProto.
func (m *model) attribute(end int64, depth int) (sizes.Attribute, error) {
	var a sizes.Attribute
	if m.attributes++; m.attributes > maxAttributes {
		return a, fmt.Errorf("the model's nodes have more than %d attributes", maxAttributes)
	}
	c := &m.in
	err := c.each(end, func(f field) (err error) {
		switch {
		case f.number == 1 && f.wire == length:
			if f.end-c.pos <= maxKeptAttribute {
				a.Name, err = m.word(f)
			}
		case f.number == 2 && f.wire == fixed32:
			a.Number = float64(math.Float32frombits(uint32(f.value)))
		case f.number == 3 && f.wire == varint:
			a.Number = float64(int64(f.value))
		case f.number == 4 && f.wire == length:
			if f.end-c.pos <= maxKeptAttribute {
				a.Text, err = m.word(f)
			}
		case f.number == 7 && f.wire == fixed32:
			err = m.keep(&a.Values, float64(math.Float32frombits(uint32(f.value))))
		case f.number == 8 && f.wire == varint:
			err = m.keep(&a.Values, float64(int64(f.value)))
		case f.number == 7 && f.wire == length:
			err = m.packed(f, func() (float64, error) {
				v, err := c.fixed(4, f.end)
				return float64(math.Float32frombits(uint32(v))), err
			}, &a.Values)
		case f.number == 8 && f.wire == length:
			err = m.packed(f, func() (float64, error) {
				v, err := c.varint(f.end)
				return float64(int64(v)), err
			}, &a.Values)
		case f.number == 5 && f.wire == length:
			a.Tensor, err = m.tensor(f.end)
		case f.number == 10 && f.wire == length:
			_, err = m.tensor(f.end)
		case f.number == 6 && f.wire == length:
			a.Graph, err = m.readGraph(f.end, depth+1)
		case f.number == 11 && f.wire == length:
			_, err = m.readGraph(f.end, depth+1)
		case (f.number == 22 || f.number == 23) && f.wire == length:
			_, err = m.sparse(f.end)
		}
		return err
	})
	return a, err
}

// keep adds a value that a size may depend on. Sizes that depend on longer lists do not occur; such lists are dropped
// where they are used.
func (m *model) keep(into *[]float64, v float64) error {
	if len(*into) > sizes.MaxValues {
		return nil
	}
	if m.keptValues++; m.keptValues > maxKeptTotal {
		return fmt.Errorf("the model's attributes and small tensors have more than %d values", maxKeptTotal)
	}
	*into = append(*into, v)
	return nil
}

// packed reads a list of numbers, if it is short.
func (m *model) packed(f field, next func() (float64, error), into *[]float64) error {
	if f.end-m.in.pos > 10*sizes.MaxValues {
		return nil
	}
	for m.in.pos < f.end {
		v, err := next()
		if err == nil {
			err = m.keep(into, v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// numbers decodes raw data of a small tensor; nil where its type holds no numbers that sizes are made of.
func numbers(raw []byte, datatype uint64) []float64 {
	size := map[uint64]int{1: 4, 6: 4, 7: 8, 11: 8, 12: 4, 13: 8, 3: 1, 2: 1, 5: 2, 4: 2}[datatype]
	if size == 0 || len(raw)%size != 0 {
		return nil
	}
	out := make([]float64, 0, len(raw)/size)
	for b := range slices.Chunk(raw, size) {
		var v float64
		switch datatype {
		case 1:
			v = float64(math.Float32frombits(binary.LittleEndian.Uint32(b)))
		case 6:
			v = float64(int32(binary.LittleEndian.Uint32(b)))
		case 12:
			v = float64(binary.LittleEndian.Uint32(b))
		case 7:
			v = float64(int64(binary.LittleEndian.Uint64(b)))
		case 13:
			v = float64(binary.LittleEndian.Uint64(b))
		case 11:
			v = math.Float64frombits(binary.LittleEndian.Uint64(b))
		case 3:
			v = float64(int8(b[0]))
		case 2:
			v = float64(b[0])
		case 5:
			v = float64(int16(binary.LittleEndian.Uint16(b)))
		case 4:
			v = float64(binary.LittleEndian.Uint16(b))
		}
		out = append(out, v)
	}
	return out
}

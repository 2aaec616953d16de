package graph

import (
	"fmt"
	"maps"
	"math/bits"
	"slices"

	"github.com/dhowfleet/dhow/models/tensor"
)

// Field numbers below are those of onnx.proto.

// model collects a Graph while the file is read.
type model struct {
	in   cursor
	out  Graph
	main bool // the main graph was seen

	external map[string]uint64
	// defaults are the main graph's constants: an input of the same name need not be given.
	defaults map[string]bool

	nodes, tensors, kept int
}

// read walks a ModelProto.
func (m *model) read() error {
	c := &m.in
	return c.each(c.size, func(f field) (err error) {
		switch {
		case f.number == 1 && f.wire == varint:
			m.out.IRVersion = int64(f.value)
		case f.number == 2 && f.wire == length:
			m.out.Producer, err = c.text(f, MaxNameBytes)
		case f.number == 3 && f.wire == length:
			m.out.ProducerVersion, err = c.text(f, MaxNameBytes)
		case f.number == 7 && f.wire == length:
			if m.main {
				return fmt.Errorf("the file holds two graphs: it is corrupt or no ONNX model")
			}
			m.main = true
			err = m.readGraph(f.end, 0)
		case f.number == 8 && f.wire == length:
			err = m.opset(f.end)
		case f.number == 20 && f.wire == length: // training_info: two graphs
			err = c.each(f.end, func(f field) error {
				if (f.number == 1 || f.number == 2) && f.wire == length {
					return m.readGraph(f.end, 1)
				}
				return nil
			})
		case f.number == 25 && f.wire == length: // functions
			err = c.each(f.end, func(f field) error {
				if f.number == 7 && f.wire == length {
					return m.node(f.end, 1)
				}
				return nil
			})
		}
		return err
	})
}

// graph checks what was collected and returns it.
func (m *model) graph() (*Graph, error) {
	g := &m.out
	if !m.main || g.IRVersion <= 0 || len(g.Opsets) == 0 {
		return nil, fmt.Errorf("the file is no ONNX model: it has no graph, IR version or operator set")
	}
	g.Inputs = slices.DeleteFunc(g.Inputs, func(v Value) bool { return m.defaults[v.Spec.Name] })
	if len(g.Outputs) == 0 {
		return nil, fmt.Errorf("the model has no output")
	}
	g.Nodes, g.FileBytes = m.nodes, m.in.size
	for _, location := range slices.Sorted(maps.Keys(m.external)) {
		g.External = append(g.External, External{Location: location, End: m.external[location]})
	}
	return g, nil
}

func (m *model) opset(end int64) error {
	var o Opset
	err := m.in.each(end, func(f field) (err error) {
		switch {
		case f.number == 1 && f.wire == length:
			o.Domain, err = m.in.text(f, MaxNameBytes)
		case f.number == 2 && f.wire == varint:
			o.Version = int64(f.value)
		}
		return err
	})
	if len(m.out.Opsets) == MaxOpsets {
		return fmt.Errorf("the model imports more than %d operator sets", MaxOpsets)
	}
	if o.Domain == "ai.onnx" {
		o.Domain = "" // two names of the same
	}
	m.out.Opsets = append(m.out.Opsets, o)
	return err
}

// readGraph walks a GraphProto; only the main graph, at depth 0, gives inputs and outputs.
func (m *model) readGraph(end int64, depth int) error {
	if depth > MaxNesting {
		return fmt.Errorf("graphs are nested deeper than %d", MaxNesting)
	}
	c := &m.in
	return c.each(end, func(f field) (err error) {
		if f.wire != length {
			return nil
		}
		switch f.number {
		case 1:
			return m.node(f.end, depth)
		case 5:
			var name string
			if name, err = m.tensor(f.end); err == nil && depth == 0 {
				err = m.hasDefault(name)
			}
		case 15:
			var name string
			if name, err = m.sparse(f.end); err == nil && depth == 0 {
				err = m.hasDefault(name)
			}
		case 11, 12:
			if depth > 0 {
				return nil
			}
			var v Value
			if v, err = m.value(f.end); err != nil {
				return err
			}
			into := &m.out.Inputs
			if f.number == 12 {
				into = &m.out.Outputs
			}
			if len(*into) == MaxValues {
				return fmt.Errorf("the model has more than %d inputs or outputs", MaxValues)
			}
			if slices.ContainsFunc(*into, func(o Value) bool { return o.Spec.Name == v.Spec.Name }) {
				return fmt.Errorf("the model has two inputs or outputs called %q", v.Spec.Name)
			}
			*into = append(*into, v)
		}
		return err
	})
}

func (m *model) hasDefault(name string) error {
	if m.kept += len(name); m.kept > maxNameTotal {
		return fmt.Errorf("the names of the model's tensors take more than %d bytes", maxNameTotal)
	}
	if m.defaults == nil {
		m.defaults = map[string]bool{}
	}
	m.defaults[name] = true
	return nil
}

func (m *model) node(end int64, depth int) error {
	if m.nodes++; m.nodes > MaxNodes {
		return fmt.Errorf("the model has more than %d nodes", MaxNodes)
	}
	return m.in.each(end, func(f field) error {
		if f.number == 5 && f.wire == length {
			return m.attribute(f.end, depth)
		}
		return nil
	})
}

// attribute looks for tensors and graphs in an AttributeProto: both may hold external data.
func (m *model) attribute(end int64, depth int) error {
	return m.in.each(end, func(f field) (err error) {
		if f.wire != length {
			return nil
		}
		switch f.number {
		case 5, 10:
			_, err = m.tensor(f.end)
		case 6, 11:
			err = m.readGraph(f.end, depth+1)
		case 22, 23:
			_, err = m.sparse(f.end)
		}
		return err
	})
}

// sparse walks a SparseTensorProto, whose name is that of its values.
func (m *model) sparse(end int64) (name string, err error) {
	err = m.in.each(end, func(f field) (err error) {
		if f.wire == length && f.number == 1 {
			name, err = m.tensor(f.end)
		} else if f.wire == length && f.number == 2 {
			_, err = m.tensor(f.end)
		}
		return err
	})
	return name, err
}

// element gives, for TensorProto.DataType, the bits of an element and the protocol's datatype where it has one.
var element = [...]struct {
	bits     uint64
	datatype tensor.Datatype
}{
	1: {32, tensor.FP32}, 2: {8, tensor.Uint8}, 3: {8, tensor.Int8}, 4: {16, tensor.Uint16}, 5: {16, tensor.Int16},
	6: {32, tensor.Int32}, 7: {64, tensor.Int64}, 8: {0, tensor.Bytes}, 9: {8, tensor.Bool}, 10: {16, tensor.FP16},
	11: {64, tensor.FP64}, 12: {32, tensor.Uint32}, 13: {64, tensor.Uint64}, 14: {64, tensor.Invalid}, 15: {128, tensor.Invalid},
	16: {16, tensor.BF16}, 17: {8, tensor.Invalid}, 18: {8, tensor.Invalid}, 19: {8, tensor.Invalid}, 20: {8, tensor.Invalid},
	21: {4, tensor.Invalid}, 22: {4, tensor.Invalid}, 23: {4, tensor.Invalid}, 24: {8, tensor.Invalid}, 25: {2, tensor.Invalid}, 26: {2, tensor.Invalid},
}

// tensor walks a TensorProto and returns its name.
func (m *model) tensor(end int64) (string, error) {
	if m.tensors++; m.tensors > MaxTensors {
		return "", fmt.Errorf("the model has more than %d constant tensors", MaxTensors)
	}
	c := &m.in
	var (
		name               string
		elements           uint64 = 1
		rank               int
		datatype, where    uint64
		raw, text          uint64
		hasRaw, hasData    bool
		location           string
		offset, lengthHere uint64
	)
	dim := func(v uint64) error {
		hi, lo := bits.Mul64(elements, v)
		if rank++; hi != 0 || int64(v) < 0 || int64(lo) < 0 || rank > 64 {
			return fmt.Errorf("a constant tensor before byte %d has an impossible shape: the file is corrupt", end)
		}
		elements = lo
		return nil
	}
	err := c.each(end, func(f field) (err error) {
		switch {
		case f.number == 1 && f.wire == varint:
			return dim(f.value)
		case f.number == 1 && f.wire == length:
			for c.pos < f.end {
				v, err := c.varint(f.end)
				if err == nil {
					err = dim(v)
				}
				if err != nil {
					return err
				}
			}
		case f.number == 2 && f.wire == varint:
			datatype = f.value
		case f.number == 6 && f.wire == length:
			text, hasData = text+uint64(f.end-c.pos), true
		case f.number == 4 || f.number == 5 || f.number == 7 || f.number == 10 || f.number == 11:
			hasData = true
		case f.number == 8 && f.wire == length:
			name, err = c.text(f, MaxNameBytes)
		case f.number == 9 && f.wire == length:
			raw, hasRaw = uint64(f.end-c.pos), true
		case f.number == 13 && f.wire == length:
			err = m.externalEntry(f.end, &location, &offset, &lengthHere)
		case f.number == 14 && f.wire == varint:
			where = f.value
		}
		return err
	})
	if err != nil {
		return "", err
	}
	if datatype == 0 || datatype >= uint64(len(element)) {
		return name, nil // a type newer than this table, whose size is not known; the runtime decides
	}
	size := text
	if b := element[datatype].bits; b > 0 {
		hi, lo := bits.Mul64(elements, b)
		if hi != 0 || lo > 1<<62 {
			return "", fmt.Errorf("constant tensor %q is larger than any memory: the file is corrupt", name)
		}
		size = (lo + 7) / 8
	}
	switch {
	case where == 1:
		m.out.ExternalBytes += size
		err = m.addExternal(name, location, offset, lengthHere, size)
	case hasRaw && element[datatype].bits > 0 && raw != size:
		err = fmt.Errorf("constant tensor %q has %d bytes, its shape needs %d: the file is corrupt", name, raw, size)
	case !hasRaw && !hasData && size > 0:
		err = fmt.Errorf("constant tensor %q has no values, its shape needs %d bytes: the file is corrupt", name, size)
	}
	m.out.InitializerBytes += size
	if m.out.InitializerBytes > 1<<62 {
		return "", fmt.Errorf("the constant tensors are larger than any memory: the file is corrupt")
	}
	m.out.LargestBytes = max(m.out.LargestBytes, size)
	return name, err
}

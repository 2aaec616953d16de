package graph

import (
	"fmt"
	"maps"
	"slices"

	"github.com/dhowfleet/dhow/models/graph/sizes"
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

	nodes, tensors, attributes, ports, values, kept, keptValues int

	ids       map[string]sizes.ID
	words     map[string]string
	structure sizes.Model
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
			m.structure.Main, err = m.readGraph(f.end, 0)
		case f.number == 8 && f.wire == length:
			err = m.opset(f.end)
		case f.number == 20 && f.wire == length: // training_info: two graphs
			err = c.each(f.end, func(f field) error {
				if (f.number == 1 || f.number == 2) && f.wire == length {
					_, err := m.readGraph(f.end, 1)
					return err
				}
				return nil
			})
		case f.number == 25 && f.wire == length:
			err = m.function(f.end)
		}
		return err
	})
}

// result checks what was collected and returns it.
func (m *model) result() (*Graph, error) {
	g := &m.out
	if !m.main || g.IRVersion <= 0 || len(g.Opsets) == 0 {
		return nil, fmt.Errorf("the file is no ONNX model: it has no graph, IR version or operator set")
	}
	g.Inputs = slices.DeleteFunc(g.Inputs, func(v Value) bool { return m.defaults[v.Spec.Name] })
	if len(g.Outputs) == 0 {
		return nil, fmt.Errorf("the model has no output")
	}
	if err := m.structure.Check(); err != nil {
		return nil, err
	}
	estimate, err := m.structure.Estimate()
	if err != nil {
		return nil, err
	}
	g.ConstantBytes, g.LargestValueBytes = estimate.Constants, estimate.Largest
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
func (m *model) readGraph(end int64, depth int) (*sizes.Body, error) {
	if depth > MaxNesting {
		return nil, fmt.Errorf("graphs are nested deeper than %d", MaxNesting)
	}
	g := newBody()
	c := &m.in
	err := c.each(end, func(f field) (err error) {
		if f.wire != length {
			return nil
		}
		switch f.number {
		case 1:
			var n sizes.Node
			n, err = m.node(f.end, depth)
			g.Nodes = append(g.Nodes, n)
		case 5, 15:
			var t *sizes.Constant
			if f.number == 5 {
				t, err = m.tensor(f.end)
			} else {
				t, err = m.sparse(f.end)
			}
			if err != nil {
				return err
			}
			g.Constants[t.Name] = t
			if depth == 0 {
				m.hasDefault(t.Name)
			}
		case 11, 12, 13:
			err = m.declared(f, g, depth)
		}
		return err
	})
	return g, err
}

// declared reads an input, output or intermediate value of a graph.
func (m *model) declared(f field, g *sizes.Body, depth int) error {
	if m.values++; m.values > maxDeclared {
		return fmt.Errorf("the model describes more than %d values", maxDeclared)
	}
	v, err := m.value(f.end)
	if err != nil {
		return err
	}
	if v.Spec.Name == "" && depth == 0 && f.number != 13 {
		return fmt.Errorf("an input or output before byte %d has no name: the file is corrupt", f.end)
	}
	name, err := m.intern(v.Spec.Name)
	if err != nil {
		return err
	}
	if v.Kind == Tensor && v.Ranked {
		g.Values[name] = sizes.Shape{Ranked: true, Dims: v.Spec.Shape, Bits: v.bits}
	}
	switch f.number {
	case 11:
		g.Inputs = append(g.Inputs, name)
	case 12:
		g.Outputs = append(g.Outputs, name)
	}
	if depth > 0 || f.number == 13 {
		return nil
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
	return nil
}

func (m *model) hasDefault(name sizes.ID) {
	if m.defaults == nil {
		m.defaults = map[string]bool{}
	}
	if name > 0 {
		m.defaults[m.structure.Names[name-1]] = true
	}
}

func newBody() *sizes.Body {
	return &sizes.Body{Constants: map[sizes.ID]*sizes.Constant{}, Values: map[sizes.ID]sizes.Shape{}}
}

// function walks a FunctionProto.
func (m *model) function(end int64) error {
	if len(m.structure.Functions) == maxFunctions {
		return fmt.Errorf("the model has more than %d functions", maxFunctions)
	}
	var name sizes.FunctionName
	g := newBody()
	c := &m.in
	err := c.each(end, func(f field) (err error) {
		if f.wire != length {
			return nil
		}
		switch f.number {
		case 1:
			name.Name, err = m.word(f)
		case 4, 5:
			var s string
			if s, err = c.text(f, MaxNameBytes); err != nil {
				return err
			}
			var n sizes.ID
			if n, err = m.intern(s); f.number == 4 {
				g.Inputs = append(g.Inputs, n)
			} else {
				g.Outputs = append(g.Outputs, n)
			}
		case 7:
			var n sizes.Node
			n, err = m.node(f.end, 1)
			g.Nodes = append(g.Nodes, n)
		case 10:
			name.Domain, err = m.word(f)
		}
		return err
	})
	if name.Domain == "ai.onnx" {
		name.Domain = ""
	}
	if m.structure.Functions[name] != nil && err == nil {
		err = fmt.Errorf("the model defines the function %q twice", name.Name)
	}
	m.structure.Functions[name] = g
	return err
}

// sparse walks a SparseTensorProto, whose name is that of its values.
func (m *model) sparse(end int64) (*sizes.Constant, error) {
	t := &sizes.Constant{}
	err := m.in.each(end, func(f field) (err error) {
		if f.wire == length && f.number == 1 {
			var values *sizes.Constant
			if values, err = m.tensor(f.end); err == nil {
				t.Name = values.Name
			}
		} else if f.wire == length && f.number == 2 {
			_, err = m.tensor(f.end)
		}
		return err
	})
	return t, err
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

// Package onnxtest writes small ONNX files for tests and benchmarks that need a model with a certain shape of graph.
//
// It knows the few fields of the format that such graphs need and checks nothing: a test may want a broken file.
// Values go in, bytes come out; there is no state and no I/O.
package onnxtest

import (
	"google.golang.org/protobuf/encoding/protowire"
)

// Element types, as TensorProto.DataType numbers them.
const (
	Float   = 1
	Int64   = 7
	String  = 8
	Bool    = 9
	Float16 = 10
	Double  = 11
)

// Value is an input or output of the graph. A negative dimension gets a symbolic name of its own; equal negative
// numbers share one, as a batch dimension does.
type Value struct {
	Name string
	Type int
	Dims []int64
	// Sequence makes it a sequence of such tensors.
	Sequence bool
	// NoShape leaves the shape out.
	NoShape bool
}

// Node is one operator.
type Node struct {
	Op              string
	Inputs, Outputs []string
	Attributes      []Attribute
}

// Attribute of a node: one of I, Ints or Graph.
type Attribute struct {
	Name  string
	I     int64
	Ints  []int64
	Graph *Graph
}

// Constant is an initializer with raw little-endian data.
type Constant struct {
	Name string
	Type int
	Dims []int64
	Data []byte
	// Location names the file, beside the model's, that holds the data instead.
	Location string
}

// Graph is a model's graph.
type Graph struct {
	Inputs, Outputs []Value
	Constants       []Constant
	Nodes           []Node
}

// Model returns the file, at opset 17.
func (g *Graph) Model() []byte {
	var b []byte
	b = number(b, 1, 8) // ir_version
	b = message(b, 7, g.encode())
	return message(b, 8, number(nil, 2, 17))
}

func (g *Graph) encode() []byte {
	var b []byte
	for _, n := range g.Nodes {
		b = message(b, 1, n.encode())
	}
	b = text(b, 2, "graph")
	for _, c := range g.Constants {
		b = message(b, 5, c.encode())
	}
	for _, v := range g.Inputs {
		b = message(b, 11, v.encode())
	}
	for _, v := range g.Outputs {
		b = message(b, 12, v.encode())
	}
	return b
}

func (n *Node) encode() []byte {
	var b []byte
	for _, s := range n.Inputs {
		b = text(b, 1, s)
	}
	for _, s := range n.Outputs {
		b = text(b, 2, s)
	}
	b = text(b, 4, n.Op)
	for _, a := range n.Attributes {
		m := text(nil, 1, a.Name)
		switch {
		case a.Graph != nil:
			m = number(message(m, 6, a.Graph.encode()), 20, 5)
		case a.Ints != nil:
			for _, i := range a.Ints {
				m = number(m, 8, i)
			}
			m = number(m, 20, 7)
		default:
			m = number(number(m, 3, a.I), 20, 2)
		}
		b = message(b, 5, m)
	}
	return b
}

func (c *Constant) encode() []byte {
	var b []byte
	for _, d := range c.Dims {
		b = number(b, 1, d)
	}
	b = number(b, 2, int64(c.Type))
	b = text(b, 8, c.Name)
	if c.Location != "" {
		return number(message(b, 13, text(text(nil, 1, "location"), 2, c.Location)), 14, 1)
	}
	return message(b, 9, c.Data)
}

func (v *Value) encode() []byte {
	t := number(nil, 1, int64(v.Type))
	if !v.NoShape {
		var shape []byte
		for _, d := range v.Dims {
			if d < 0 {
				shape = message(shape, 1, text(nil, 2, "d"+string(rune('a'-d))))
			} else {
				shape = message(shape, 1, number(nil, 1, d))
			}
		}
		t = message(t, 2, shape)
	}
	typ := message(nil, 1, t)
	if v.Sequence {
		typ = message(nil, 4, message(nil, 1, typ))
	}
	return message(text(nil, 1, v.Name), 2, typ)
}

func number(b []byte, field protowire.Number, v int64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), uint64(v))
}

func message(b []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

func text(b []byte, field protowire.Number, s string) []byte { return message(b, field, []byte(s)) }

// Matrix is a graph that multiplies input "x" [batch, width] with a constant [width, width] into output "y": depth
// times, so that its cost can be chosen.
func Matrix(width, depth int) *Graph {
	weights := make([]byte, 4*width*width) // zeros
	g := &Graph{
		Inputs:    []Value{{Name: "x", Type: Float, Dims: []int64{-1, int64(width)}}},
		Outputs:   []Value{{Name: "y", Type: Float, Dims: []int64{-1, int64(width)}}},
		Constants: []Constant{{Name: "w", Type: Float, Dims: []int64{int64(width), int64(width)}, Data: weights}},
	}
	from := "x"
	for i := range depth {
		to := "y"
		if i < depth-1 {
			to = "t" + string(rune('0'+i/1000%10)) + string(rune('0'+i/100%10)) + string(rune('0'+i/10%10)) + string(rune('0'+i%10))
		}
		g.Nodes = append(g.Nodes, Node{Op: "MatMul", Inputs: []string{from, "w"}, Outputs: []string{to}})
		from = to
	}
	return g
}

// Negate is the smallest graph that computes: output "y" is the negative of input "x", both FP32 of shape
// [batch, width].
func Negate(width int) *Graph {
	dims := []int64{-1, int64(width)}
	return &Graph{
		Inputs:  []Value{{Name: "x", Type: Float, Dims: dims}},
		Outputs: []Value{{Name: "y", Type: Float, Dims: dims}},
		Nodes:   []Node{{Op: "Neg", Inputs: []string{"x"}, Outputs: []string{"y"}}},
	}
}

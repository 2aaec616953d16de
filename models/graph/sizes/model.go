// Package sizes follows the sizes of values through an ONNX graph without running it.
//
// A file of a hundred bytes can ask for a gigabyte: one operator makes a tensor of a shape that the file names. A Model is
// a file's structure, as package graph reads it. Check refuses graphs that would have to be unravelled (values made
// twice, cycles, functions that call themselves or stand for millions of nodes), Estimate finds the least that the model
// takes beyond its weights. It knows the operators that can make much out of little, and those that shapes are computed
// with; what it does not know counts as little. What gets by is for the process that tries the model and its limits.
//
// The package is pure. The work is bounded by the number of nodes, those that functions stand for included.
package sizes

// Bounds.
const (
	MaxNodes   = 500_000 // with those that functions stand for
	MaxNesting = 24      // graphs within nodes within graphs, functions that call functions
	MaxValues  = 1024    // of one constant or attribute whose values are followed
	maxRank    = 16      // of a shape that is followed
	maxKept    = 4_000_000
)

// ID is a name of a value, numbered from 1 on; 0 is the empty name, which stands for an optional tensor that is not given.
type ID int32

// Model is what a file says of its structure.
type Model struct {
	Main      *Body
	Functions map[FunctionName]*Body
	Names     []string // of the IDs, that of 1 first
}

// FunctionName names an operator that the file defines by others.
type FunctionName struct{ Domain, Name string }

// Body is a graph: the main one, one within a node, or a function's. Check reorders its nodes.
type Body struct {
	Nodes     []Node
	Constants map[ID]*Constant
	Values    map[ID]Shape // as declared: inputs, outputs and intermediate values
	Inputs    []ID
	Outputs   []ID
}

// Node is one operator.
type Node struct {
	Op, Domain string
	In, Out    []ID
	Attributes []Attribute // those that Telling names, and those with graphs
}

// Attribute is what a node says of itself.
type Attribute struct {
	Name   string
	Text   string
	Number float64
	Values []float64 // cut off after MaxValues and one more
	Tensor *Constant
	Graph  *Body
}

// Constant is a tensor of the file.
type Constant struct {
	Name ID
	Shape
	Values []float64 // all of a small tensor of numbers, nil otherwise
}

// Shape is what is known of a tensor's size.
type Shape struct {
	Ranked bool
	Dims   []int64 // -1 where it is not known
	Bits   uint64  // of an element in memory; 0 where it is not known
}

// Telling are the attributes that sizes depend on.
var Telling = map[string]bool{
	"value": true, "value_int": true, "value_ints": true, "value_float": true, "value_floats": true,
	"shape": true, "size": true, "sizes": true, "scales": true, "pads": true, "paddings": true, "repeats": true,
	"axis": true, "axes": true, "perm": true, "starts": true, "ends": true, "start": true, "end": true,
	"kernel_shape": true, "strides": true, "dilations": true, "auto_pad": true, "ceil_mode": true,
	"output_shape": true, "output_padding": true, "output_height": true, "output_width": true, "sample_size": true,
	"to": true, "dtype": true, "output_datatype": true, "keepdims": true, "allowzero": true, "transA": true, "transB": true,
	"num_scan_inputs": true, "blocksize": true, "group": true,
}

// BitsOf is what an element of a TensorProto.DataType takes in memory, roughly where a type has no fixed size.
func BitsOf(datatype uint64) uint64 {
	switch datatype {
	case 1, 6, 12:
		return 32
	case 4, 5, 10, 16:
		return 16
	case 7, 11, 13, 14:
		return 64
	case 15:
		return 128
	case 8: // a string
		return 256
	case 2, 3, 9, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26:
		return 8
	}
	return 32
}

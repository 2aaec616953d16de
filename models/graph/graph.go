// Package graph reads what an ONNX file says of itself: inputs, outputs, operator sets, external data and the size of
// its weights, without a runtime.
//
// Read walks the file's protocol buffer once. Weights are skipped, not read: a file of gigabytes costs what its nodes
// and names take and as many reads as it has tensors. Every count, name and nesting is bounded, every length is checked
// against what encloses it, and a file that is cut off or is no ONNX model ends in an error that says where. So does a
// graph that a runtime would have to unravel, and what the graph computes of its own accord is part of the estimate of
// its memory (package sizes).
//
// The package is pure and keeps no state; a Graph belongs to the caller.
package graph

import (
	"bytes"
	"fmt"
	"io"

	"github.com/dhowfleet/dhow/models/graph/sizes"
	"github.com/dhowfleet/dhow/models/tensor"
)

// Bounds. The largest models known stay far below them.
const (
	MaxNesting   = sizes.MaxNesting // graphs within nodes within graphs
	MaxNodes     = sizes.MaxNodes   // over all graphs, and over what functions stand for
	MaxTensors   = 500_000
	MaxValues    = 4096 // inputs, outputs
	MaxNameBytes = 4096
	MaxExternal  = 4096 // files of external data
	MaxOpsets    = 256
	maxNameTotal = 64 << 20  // over all names that are kept while reading
	maxDeclared  = 1_000_000 // inputs, outputs and values of all graphs
	maxRank      = 64        // of constants
)

// ProcessBytes is the share of MemoryEstimate that a process has once, whatever the number of its models.
const ProcessBytes = 32 << 20

const nodeBytes = 4 << 10 // measured with ONNX Runtime on long chains

// Graph is what the file says of itself.
type Graph struct {
	IRVersion                 int64
	Producer, ProducerVersion string
	// Opsets are the operator sets that the model imports; the domain "" is ONNX's own.
	Opsets []Opset
	// Inputs are those that a request must bring: inputs with a default inside the file are not listed.
	Inputs, Outputs []Value
	// Nodes counts the operators of all graphs and functions.
	Nodes int
	// External lists the files that hold weights outside of the model file, sorted by path.
	External []External
	// InitializerBytes is the size of all constant tensors, ExternalBytes of those that lie in External, LargestBytes of
	// the largest one.
	InitializerBytes, ExternalBytes, LargestBytes uint64
	// ConstantBytes is the size of all values that follow from constants alone, which a runtime computes when it loads the
	// model; LargestValueBytes that of the largest other value, as far as its size can be known without a request. Both are
	// lower bounds.
	ConstantBytes, LargestValueBytes uint64
	// FileBytes is the size of the model file itself.
	FileBytes int64
}

// Opset is an operator set.
type Opset struct {
	Domain  string
	Version int64
}

// Kind is the kind of a value. Only tensors can be served.
type Kind uint8

// The kinds.
const (
	Tensor Kind = iota + 1
	Sequence
	Map
	Optional
	SparseTensor
	Opaque
)

var kinds = [...]string{Tensor: "tensor", Sequence: "sequence", Map: "map", Optional: "optional", SparseTensor: "sparse tensor", Opaque: "opaque value"}

// String names the kind in messages.
func (k Kind) String() string {
	if int(k) < len(kinds) && k != 0 {
		return kinds[k]
	}
	return "value of unknown kind"
}

// Value is an input or output.
type Value struct {
	// Spec holds the name; datatype and shape too when Kind is Tensor. A dimension that varies is -1. The datatype is
	// tensor.Invalid for element types that the Open Inference Protocol does not have.
	Spec tensor.Spec
	Kind Kind
	bits uint64 // of an element in memory
	// Ranked is false when the file does not even say how many dimensions the tensor has.
	Ranked bool
}

// External is a file of weights beside the model file.
type External struct {
	// Location is as written in the model file: relative to the model file's folder. It is not checked here.
	Location string
	// End is the least size that the file must have for the tensors that lie in it.
	End uint64
}

// MemoryEstimate is a guess, in bytes, of what a process needs to hold the model loaded: everything in the file (trees
// keep their weights in attributes, not in tensors) and beside it, once more the largest tensor (kernels repack one at a
// time), what is computed from constants, the largest other value and what it is computed from, what a runtime keeps of
// each node, and a fixed share for the runtime.
func (g *Graph) MemoryEstimate() uint64 {
	const most = 1 << 58 // each, so that the sum has a place
	sum := uint64(ProcessBytes) + uint64(g.Nodes)*nodeBytes
	for _, n := range []uint64{uint64(g.FileBytes), g.ExternalBytes, g.LargestBytes, g.ConstantBytes, 2 * min(g.LargestValueBytes, most)} {
		sum += min(n, most)
	}
	return sum
}

// Read reads a model held in memory.
func Read(data []byte) (*Graph, error) { return ReadFrom(bytes.NewReader(data), int64(len(data))) }

// ReadFrom reads a model of size bytes.
func ReadFrom(r io.ReaderAt, size int64) (*Graph, error) {
	if size == 0 {
		return nil, fmt.Errorf("the file is empty")
	}
	m := newModel(r, size)
	if err := m.read(); err != nil {
		return nil, err
	}
	return m.result()
}

func newModel(r io.ReaderAt, size int64) *model {
	return &model{
		in: cursor{r: r, size: size}, external: map[string]uint64{},
		ids: map[string]sizes.ID{}, words: map[string]string{},
		structure: sizes.Model{Functions: map[sizes.FunctionName]*sizes.Body{}},
	}
}

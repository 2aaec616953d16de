package sizes

import (
	"fmt"
	"math"
)

// value is what is known of a value before anything runs.
type value struct {
	Shape
	values   []float64 // of a small tensor of numbers that is the same in every run; nil otherwise
	constant bool      // the same in every run: a runtime may compute it when it loads the model
}

const huge = 1 << 62 // elements and bytes are counted up to this

// Least is the number of elements that a shape has at least: a dimension that is not known may be 1.
func Least(dims []int64) uint64 {
	n := uint64(1)
	for _, d := range dims {
		switch {
		case d == 0:
			return 0
		case d > 0:
			n = times(n, uint64(d))
		}
	}
	return n
}

func times(a, b uint64) uint64 {
	if a != 0 && b > huge/a {
		return huge
	}
	return min(a*b, huge)
}

func plus(a, b uint64) uint64 { return min(a+b, huge) } // both are at most huge

func (s *Shape) bytes() uint64 {
	if !s.Ranked {
		return 0
	}
	width := s.Bits
	if width == 0 {
		width = 32
	}
	return times(Least(s.Dims), width) / 8
}

// scope is the values of a graph and those around it.
type scope struct {
	values map[ID]value
	around *scope
}

func (s *scope) find(name ID) (value, bool) {
	for ; s != nil; s = s.around {
		if v, ok := s.values[name]; ok {
			return v, true
		}
	}
	return value{}, false
}

// Estimate is what the model makes of its own accord, in bytes.
type Estimate struct {
	// Constants is the size of all values that follow from constants alone: a runtime computes them when it loads the
	// model. Largest is that of the largest other value, as far as it can be known without a request.
	Constants, Largest uint64
	// Outputs are the shapes of the model's outputs.
	Outputs []Shape
}

// Estimate follows the sizes of values through the graph, which Check has passed. Where an operator is not known, or a
// size depends on the request, the shape that the file declares counts, and if there is none, nothing: the estimate is a
// lower bound.
func (m *Model) Estimate() (Estimate, error) {
	r := &reckoning{model: m}
	out, err := r.evaluate(m.Main, nil, nil, 0)
	for i := range out {
		r.sum.Outputs = append(r.sum.Outputs, out[i].Shape)
	}
	return r.sum, err
}

// reckoning is one estimate while it is made.
type reckoning struct {
	model *Model
	sum   Estimate
	kept  int // values of all values
}

// evaluate follows a graph whose inputs are given (or as declared) and returns its outputs.
func (r *reckoning) evaluate(b *Body, given []value, around *scope, depth int) ([]value, error) {
	if depth > 2*MaxNesting {
		return nil, fmt.Errorf("graphs and functions are nested deeper than %d", 2*MaxNesting)
	}
	s := &scope{values: make(map[ID]value, len(b.Nodes)), around: around}
	for i, name := range b.Inputs {
		v := value{Shape: b.Values[name]}
		if i < len(given) {
			v = given[i]
		}
		s.values[name] = v
	}
	for name, c := range b.Constants {
		s.values[name] = value{Shape: c.Shape, values: c.Values, constant: true}
	}
	for i := range b.Nodes {
		if err := r.run(&b.Nodes[i], b, s, depth); err != nil {
			return nil, err
		}
	}
	out := make([]value, len(b.Outputs))
	for i, name := range b.Outputs {
		out[i], _ = s.find(name)
	}
	return out, nil
}

// run follows one node.
func (r *reckoning) run(n *Node, b *Body, s *scope, depth int) error {
	c := call{node: n}
	constant := len(n.In) > 0 && !random[n.Op]
	for _, name := range n.In {
		v, _ := s.find(name)
		c.in = append(c.in, v)
		constant = constant && (v.constant || name == 0)
	}
	var out []value
	var err error
	switch f := r.model.Functions[FunctionName{n.Domain, n.Op}]; {
	case f != nil:
		out, err = r.evaluate(f, fill(c.in, len(f.Inputs)), nil, depth+1)
	case n.Domain == "" && (n.Op == "If" || n.Op == "Loop" || n.Op == "Scan"):
		constant = false
		out, err = r.inner(&c, s, depth)
	case n.Domain == "" && n.Op == "Constant":
		out = []value{c.constant()}
		constant = false // it lies in the file, which is counted
	default:
		out = c.shapes()
		for _, a := range n.Attributes {
			if a.Graph != nil { // an operator that is not known
				if _, err := r.evaluate(a.Graph, nil, s, depth+1); err != nil {
					return err
				}
			}
		}
	}
	if err != nil {
		return err
	}
	for i, name := range n.Out {
		v := value{}
		if i < len(out) {
			v = out[i]
		}
		if !v.Ranked {
			v.Shape = b.Values[name]
		}
		if v.Bits == 0 {
			v.Bits = b.Values[name].Bits
		}
		v.constant = constant || n.Op == "Constant"
		if !v.constant || uint64(len(v.values)) != Least(v.Dims) || !v.Ranked || len(v.values) > MaxValues {
			if n.Op != "Shape" && n.Op != "Size" { // what they return is fixed by shapes alone
				v.values = nil
			}
		}
		if r.kept += len(v.values); r.kept > maxKept {
			v.values = nil
		}
		if len(v.Dims) > maxRank {
			v.Shape = Shape{Bits: v.Bits}
		}
		if v.values != nil {
			v.constant = true
		}
		if name != 0 {
			s.values[name] = v
		}
		size := v.bytes()
		if constant {
			r.sum.Constants = plus(r.sum.Constants, size)
		} else if n.Op != "Constant" {
			r.sum.Largest = max(r.sum.Largest, size)
		}
	}
	return nil
}

func fill(in []value, n int) []value {
	for len(in) < n {
		in = append(in, value{})
	}
	return in[:n]
}

// inner follows the graphs within a node.
func (r *reckoning) inner(c *call, s *scope, depth int) ([]value, error) {
	var out []value
	for i := range c.node.Attributes {
		a := &c.node.Attributes[i]
		if a.Graph == nil {
			continue
		}
		given := make([]value, len(a.Graph.Inputs)) // of an iteration: nothing is known but the shapes
		states, turns := 0, int64(-1)
		switch c.node.Op {
		case "Loop":
			states = len(c.in) - 2
			for j := range a.Graph.Inputs[min(2, len(a.Graph.Inputs)):] {
				given[j+2].Shape = c.arg(j + 2).Shape
			}
			if trips := c.arg(0).values; len(trips) == 1 {
				turns = dimension(trips[0])
			}
		case "Scan":
			states = len(c.in) - int(c.number("num_scan_inputs", 0))
			for j := range given {
				v := c.arg(j)
				if given[j].Bits = v.Bits; j < states {
					given[j].Shape = v.Shape
				} else if v.Ranked && len(v.Dims) > 0 {
					given[j].Shape = Shape{true, v.Dims[1:], v.Bits}
					turns = max(v.Dims[0], turns)
				}
			}
		}
		results, err := r.evaluate(a.Graph, given, s, depth+1)
		if err != nil {
			return nil, err
		}
		if c.node.Op == "Loop" && len(results) > 0 {
			results = results[1:] // the condition
		}
		for j := range results {
			results[j].values = nil
			if c.node.Op != "If" && j >= states && results[j].Ranked { // one for each iteration
				results[j].Dims = append([]int64{turns}, results[j].Dims...)
			} else if c.node.Op != "If" {
				results[j].Shape = Shape{Bits: results[j].Bits} // it may change from one iteration to the next
			}
			if j >= len(out) {
				out = append(out, results[j])
			} else if results[j].bytes() > out[j].bytes() {
				out[j] = results[j]
			}
		}
	}
	return out, nil
}

// dimension turns a number of the file into a dimension; -1 where it is none.
func dimension(v float64) int64 {
	if !(v >= 0) || math.IsInf(v, 0) {
		return -1
	}
	return int64(min(v, 1<<52))
}

package sizes

import (
	"fmt"
	"slices"
)

// Check refuses graphs that a runtime would have to unravel: values that are made twice, nodes that wait for
// each other, functions that call themselves or stand for too many nodes. It leaves every graph's nodes in an order in
// which they can be computed.
func (m *Model) Check() error {
	counted := map[FunctionName]expansion{}
	for name := range m.Functions {
		if err := m.expand(name, counted); err != nil {
			return err
		}
	}
	if n := m.nodes(m.Main, counted); n > MaxNodes {
		return fmt.Errorf("the model's functions stand for more than %d nodes", MaxNodes)
	}
	for _, f := range m.Functions {
		if _, err := m.sort(f); err != nil {
			return err
		}
	}
	_, err := m.sort(m.Main)
	return err
}

// expansion is what a function stands for.
type expansion struct {
	nodes    uint64
	depth    int // of functions that it calls
	counting bool
}

func (m *Model) name(n ID) string {
	if n <= 0 || int(n) > len(m.Names) {
		return ""
	}
	return m.Names[n-1]
}

// expand counts the nodes that a function stands for.
func (m *Model) expand(name FunctionName, counted map[FunctionName]expansion) error {
	if e, known := counted[name]; known {
		if e.counting {
			return fmt.Errorf("the model's function %q calls itself", name.Name)
		}
		return nil
	}
	counted[name] = expansion{counting: true}
	var e expansion
	var calls func(b *Body) error
	calls = func(b *Body) error {
		for i := range b.Nodes {
			n := &b.Nodes[i]
			callee := FunctionName{n.Domain, n.Op}
			if m.Functions[callee] != nil {
				if err := m.expand(callee, counted); err != nil {
					return err
				}
				e.depth = max(e.depth, counted[callee].depth+1)
			}
			for _, a := range n.Attributes {
				if a.Graph != nil {
					if err := calls(a.Graph); err != nil {
						return err
					}
				}
			}
		}
		return nil
	}
	b := m.Functions[name]
	if err := calls(b); err != nil {
		return err
	}
	if e.depth > MaxNesting {
		return fmt.Errorf("the model's functions call each other deeper than %d", MaxNesting)
	}
	e.nodes = m.count(b, counted)
	counted[name] = e
	return nil
}

// count adds up what it costs to follow a graph within a node or a function, in nodes.
func (m *Model) count(b *Body, counted map[FunctionName]expansion) uint64 {
	return m.nodes(b, counted) + uint64(len(b.Constants)+len(b.Inputs)+len(b.Outputs))
}

// nodes adds up the nodes of a graph and of the functions that they call, up to a little more than allowed.
func (m *Model) nodes(b *Body, counted map[FunctionName]expansion) uint64 {
	var total uint64
	for i := range b.Nodes {
		n := &b.Nodes[i]
		total += 1 + uint64(len(n.In)+len(n.Out))/16 + counted[FunctionName{n.Domain, n.Op}].nodes
		for _, a := range n.Attributes {
			if a.Graph != nil {
				total += m.count(a.Graph, counted)
			}
		}
		if total > MaxNodes {
			return MaxNodes + 1
		}
	}
	return total
}

// sort orders a graph's nodes and those of the graphs in them, and returns the names that the graph takes from around it.
func (m *Model) sort(b *Body) ([]ID, error) {
	made := make(map[ID]int32, len(b.Nodes))
	for i := range b.Nodes {
		for _, out := range b.Nodes[i].Out {
			if out == 0 {
				continue
			}
			if _, twice := made[out]; twice {
				return nil, fmt.Errorf("two nodes of a graph make the value %q", m.name(out))
			}
			made[out] = int32(i)
		}
	}
	free := map[ID]bool{}
	needs := make([]int32, len(b.Nodes)) // nodes that must come before
	then := make([][]int32, len(b.Nodes))
	for i := range b.Nodes {
		n := &b.Nodes[i]
		uses := n.In
		for _, a := range n.Attributes {
			if a.Graph == nil {
				continue
			}
			inner, err := m.sort(a.Graph)
			if err != nil {
				return nil, err
			}
			uses = append(slices.Clip(uses), inner...)
		}
		for _, u := range uses {
			if by, ok := made[u]; ok {
				needs[i]++
				then[by] = append(then[by], int32(i))
			} else if u != 0 {
				free[u] = true
			}
		}
	}
	var order []int32
	for i, n := range needs {
		if n == 0 {
			order = append(order, int32(i))
		}
	}
	for at := 0; at < len(order); at++ {
		for _, next := range then[order[at]] {
			if needs[next]--; needs[next] == 0 {
				order = append(order, next)
			}
		}
	}
	if len(order) < len(b.Nodes) {
		i := slices.IndexFunc(needs, func(n int32) bool { return n > 0 })
		return nil, fmt.Errorf("nodes of a graph wait for each other, %q among them: a graph has no cycles", b.Nodes[i].Op)
	}
	sorted := make([]Node, len(order))
	for i, at := range order {
		sorted[i] = b.Nodes[at]
	}
	b.Nodes = sorted
	for name := range b.Constants {
		delete(free, name)
	}
	for _, out := range b.Outputs { // a branch may return a value from around it
		if _, ok := made[out]; !ok && out != 0 && b.Constants[out] == nil {
			free[out] = true
		}
	}
	for _, name := range b.Inputs {
		delete(free, name)
	}
	names := make([]ID, 0, len(free))
	for name := range free {
		names = append(names, name)
	}
	return names, nil
}

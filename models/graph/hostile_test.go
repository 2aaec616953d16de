package graph

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/dhowfleet/dhow/models/graph/sizes"
)

// op is a NodeProto; the attributes are AttributeProtos.
func op(kind string, in, out []string, attributes ...[]byte) []byte {
	var b []byte
	for _, s := range in {
		b = str(b, 1, s)
	}
	for _, s := range out {
		b = str(b, 2, s)
	}
	b = str(b, 4, kind)
	for _, a := range attributes {
		b = sub(b, 5, a)
	}
	return b
}

func names(s string) []string { return strings.Fields(s) }

func ints(name string, values ...int64) []byte {
	b := str(nil, 1, name)
	for _, v := range values {
		b = num(b, 8, uint64(v))
	}
	return b
}

func graphIn(name string, g []byte) []byte { return sub(str(nil, 1, name), 6, g) }

// longs is a constant of INT64.
func longs(name string, values ...int64) []byte {
	b := num(num(nil, 1, uint64(len(values))), 2, 7)
	var raw []byte
	for _, v := range values {
		raw = binary.LittleEndian.AppendUint64(raw, uint64(v))
	}
	return sub(str(b, 8, name), 9, raw)
}

// floats is a constant of FP32 in a field of its own type.
func floats(name string, values ...float32) []byte {
	b := num(num(nil, 1, uint64(len(values))), 2, 1)
	var packed []byte
	for _, v := range values {
		packed = protowire.AppendFixed32(packed, math.Float32bits(v))
	}
	return str(sub(b, 4, packed), 8, name)
}

// scalar is a constant of INT64 without dimensions.
func scalar(name string, v int64) []byte { return str(num(num(nil, 2, 7), 7, uint64(v)), 8, name) }

// with makes a model of nodes and constants whose input is x [-1, 4] and whose output is y.
func withNodes(nodes [][]byte, constants ...[]byte) []byte {
	var g []byte
	for _, n := range nodes {
		g = sub(g, 1, n)
	}
	for _, c := range constants {
		g = sub(g, 5, c)
	}
	g = sub(g, 11, value("x", 1, -1, 4))
	return file(sub(g, 12, sub(str(nil, 1, "y"), 2, sub(nil, 1, num(nil, 1, 1)))))
}

// swelling are models of a few hundred bytes that would take a gigabyte or more.
func swelling() map[string][]byte {
	one := func(node []byte, constants ...[]byte) []byte { return withNodes([][]byte{node}, constants...) }
	xy := func(kind string, in string, attributes ...[]byte) []byte {
		return op(kind, names(in), names("y"), attributes...)
	}
	many := longs("n", 1<<14, 1<<14)
	loop := sub(nil, 1, op("Identity", names("c"), names("c2")))
	loop = sub(sub(loop, 1, op("ConstantOfShape", names("outer"), names("z"))), 11, value("i", 7))
	loop = sub(sub(sub(loop, 11, value("c", 9)), 12, value("c2", 9)), 12, value("z", 1))
	branch := sub(sub(nil, 1, op("ConstantOfShape", names("n"), names("z"))), 12, value("z", 1))
	function := func(name string, node []byte) []byte {
		return str(sub(str(str(str(nil, 1, name), 4, "a"), 5, "b"), 7, node), 10, "mine")
	}
	called := sub(one(str(op("F", names("n"), names("y")), 7, "mine"), many), 25, function("F", op("ConstantOfShape", names("a"), names("b"))))
	return map[string][]byte{
		"ConstantOfShape":       one(xy("ConstantOfShape", "n"), many),
		"of a huge dimension":   one(xy("ConstantOfShape", "n"), longs("n", math.MaxInt64)),
		"of many dimensions":    one(xy("ConstantOfShape", "n"), longs("n", 1<<31, 1<<31, 1<<31)),
		"Expand":                one(xy("Expand", "x n"), longs("n", 1<<28, 4)),
		"Expand of a constant":  one(xy("Expand", "c n"), floats("c", 1), many),
		"Tile":                  one(xy("Tile", "x n"), longs("n", 1<<26, 1)),
		"Range":                 one(xy("Range", "a b c"), scalar("a", 0), scalar("b", 1<<28), scalar("c", 1)),
		"RandomNormal":          one(xy("RandomNormal", "", ints("shape", 1<<14, 1<<14))),
		"Pad":                   one(xy("Pad", "x p"), longs("p", 1<<26, 0, 0, 0)),
		"Pad with an attribute": one(xy("Pad", "x", ints("pads", 0, 0, 0, 1<<28))),
		"Resize":                one(xy("Resize", "x    s"), floats("s", 1<<14, 1<<14)),
		"Upsample":              one(xy("Upsample", "x s"), floats("s", 1<<14, 1<<14)),
		"OneHot":                one(xy("OneHot", "x d v"), scalar("d", 1<<27), floats("v", 0, 1)),
		"HannWindow":            one(xy("HannWindow", "d"), scalar("d", 1<<29)),
		"adding crosswise":      one(xy("Add", "a b"), constant("a", 1<<15, 1), constant("b", 1, 1<<15)),
		"multiplying crosswise": one(xy("MatMul", "a b"), constant("a", 1<<15, 1), constant("b", 1, 1<<15)),
		"Gemm":                  one(xy("Gemm", "a b"), constant("a", 1<<15, 1), constant("b", 1, 1<<15)),
		"Conv with pads":        one(xy("Conv", "w w", ints("pads", 1<<15, 1<<15, 1<<15, 1<<15)), constant("w", 1, 1, 1, 1)),
		"pooling with pads":     one(xy("MaxPool", "w", ints("kernel_shape", 1, 1), ints("pads", 1<<15, 1<<15, 1<<15, 1<<15)), constant("w", 1, 1, 1, 1)),
		"ConvTranspose":         one(xy("ConvTranspose", "w w", ints("strides", 1<<15, 1<<15)), constant("w", 1, 1, 2, 2)),
		"Gather":                one(xy("Gather", "c i"), constant("c", 1, 1<<16), constant("i", 1<<14)),
		"a computed shape":      withNodes([][]byte{op("Mul", names("n n"), names("m")), xy("ConstantOfShape", "m")}, longs("n", 1<<15)),
		"a shape in pieces":     withNodes([][]byte{op("Concat", names("n n"), names("m"), num(str(nil, 1, "axis"), 3, 0)), xy("ConstantOfShape", "m")}, longs("n", 1<<14)),
		"a shape of a shape":    withNodes([][]byte{op("Shape", names("w"), names("s")), op("Mul", names("s n"), names("m")), xy("Expand", "w m")}, constant("w", 1, 1), many),
		"nodes out of order":    withNodes([][]byte{xy("ConstantOfShape", "m"), op("Identity", names("n"), names("m"))}, many),
		"a Constant's value":    withNodes([][]byte{op("Constant", nil, names("m"), sub(str(nil, 1, "value"), 5, many)), xy("ConstantOfShape", "m")}),
		"a Constant's integers": withNodes([][]byte{op("Constant", nil, names("m"), ints("value_ints", 1<<14, 1<<14)), xy("ConstantOfShape", "m")}),
		"within If":             one(xy("If", "x", graphIn("then_branch", branch), graphIn("else_branch", branch)), many),
		"piled up by Loop":      one(xy("Loop", "trips ", graphIn("body", loop)), scalar("trips", 1<<20), longs("outer", 1<<10)),
		"within a function":     called,
		"many middling ones":    withNodes(middling(), longs("n", 1<<12, 1<<10)),
	}
}

// middling makes sixty times sixteen megabytes.
func middling() [][]byte {
	var nodes [][]byte
	sum := make([]string, 60)
	for i := range sum {
		sum[i] = "t" + string(rune('A'+i))
		nodes = append(nodes, op("ConstantOfShape", names("n"), []string{sum[i]}))
	}
	return append(nodes, op("Sum", sum, names("y")))
}

func TestSmallFilesThatTakeMuchAreSeen(t *testing.T) {
	for name, data := range swelling() {
		t.Run(name, func(t *testing.T) {
			g, err := Read(data)
			if err != nil {
				t.Fatal(err)
			}
			if n := g.MemoryEstimate(); n < 900<<20 {
				t.Errorf("%d bytes are thought to take %d (constants %d, largest %d)", len(data), n, g.ConstantBytes, g.LargestValueBytes)
			}
		})
	}
	g, err := Read(withNodes([][]byte{op("ConstantOfShape", names("n"), names("y"))}, longs("n", 16, 4)))
	if err != nil || g.ConstantBytes != 256 || g.MemoryEstimate() > 40<<20 {
		t.Errorf("a harmless one: %+v, %v", g, err)
	}
}

func TestGraphsThatMustBeUnravelledAreRefused(t *testing.T) {
	in := func(nodes ...[]byte) []byte { return withNodes(nodes) }
	function := func(name string, nodes ...[]byte) []byte {
		b := str(str(str(str(nil, 1, name), 4, "a"), 5, "b"), 10, "mine")
		for _, n := range nodes {
			b = sub(b, 7, n)
		}
		return b
	}
	call := func(name, from, to string) []byte { return str(op(name, names(from), names(to)), 7, "mine") }
	// Each function calls the next one twice: 2^30 nodes in a few hundred bytes.
	laughs := in(call("A", "x", "y"))
	for c := byte('A'); c < 'A'+20; c++ {
		next := string(rune(c + 1))
		laughs = sub(laughs, 25, function(string(rune(c)), call(next, "a", "t"), call(next, "t", "b")))
	}
	chain := in(call("A", "x", "y"))
	for i := range MaxNesting + 3 {
		chain = sub(chain, 25, function("A"+strings.Repeat("x", i), call("A"+strings.Repeat("x", i+1), "a", "b")))
	}
	chain = sub(chain, 25, function("A"+strings.Repeat("x", MaxNesting+3), op("Neg", names("a"), names("b"))))
	inner := sub(sub(nil, 1, op("Neg", names("y"), names("z"))), 12, value("z", 1))
	for _, c := range []struct {
		name, want string
		data       []byte
	}{
		{"a node that waits for itself", `wait for each other, "Neg" among them`, in(op("Neg", names("y"), names("y")))},
		{"two nodes that wait for each other", "wait for each other", in(op("Add", names("x b"), names("y")), op("Neg", names("y"), names("b")))},
		{"a cycle through a branch", "wait for each other", in(op("If", names("x"), names("y"), graphIn("then_branch", inner)))},
		{"a cycle in a branch", "wait for each other", in(op("If", names("x"), names("y"), graphIn("then_branch", sub(nil, 1, op("Neg", names("a"), names("a"))))))},
		{"made twice", `make the value "y"`, in(op("Neg", names("x"), names("y")), op("Abs", names("x"), names("y")))},
		{"a function that calls itself", `"F" calls itself`, sub(in(call("F", "x", "y")), 25, function("F", call("F", "a", "b")))},
		{"functions that call each other", "calls itself", sub(sub(in(call("F", "x", "y")), 25, function("F", call("G", "a", "b"))), 25, function("G", call("F", "a", "b")))},
		{"a cycle in a function", "wait for each other", sub(in(call("F", "x", "y")), 25, function("F", op("Neg", names("b"), names("b"))))},
		{"the same function twice", `"F" twice`, sub(sub(in(call("F", "x", "y")), 25, function("F")), 25, function("F"))},
		{"functions of functions of functions", "stand for more than", laughs},
		{"functions nested too deep", "call each other deeper", chain},
		{"an input larger than any memory", "larger than any memory", file(sub(small(), 11, value("z", 1, 1<<40, 1<<40)))},
		{"fewer values than the shape", "has 2 values, its shape needs 3", withNodes(nil, sub(num(num(nil, 1, 3), 2, 1), 4, make([]byte, 8)))},
		{"more values than the shape", "has 4 values, its shape needs 3", withNodes(nil, sub(num(num(nil, 1, 3), 2, 7), 7, []byte{1, 2, 3, 4}))},
		{"fewer strings than the shape", "has 1 values, its shape needs 2", withNodes(nil, str(num(num(nil, 1, 2), 2, 8), 6, "a"))},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, err := Read(c.data)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %+v, %v, want an error with %q", g, err, c.want)
			}
		})
	}
}

func TestFloodsAreRefused(t *testing.T) {
	flood := func(n int, field protowire.Number, content []byte) []byte {
		one := sub(nil, field, content)
		return bytes.Repeat(one, n)
	}
	for _, c := range []struct {
		name, want string
		data       []byte
	}{
		{"nodes", "more than 500000 nodes", file(append(small(), flood(MaxNodes+1, 1, nil)...))},
		{"constants", "more than 500000 constant tensors", file(append(small(), flood(MaxTensors+1, 5, nil)...))},
		{"attributes", "more than 4000000 attributes", file(sub(small(), 1, flood(maxAttributes+1, 5, nil)))},
		{"inputs of a node", "more than 4000000 inputs and outputs", file(sub(small(), 1, flood(maxPorts+1, 1, nil)))},
		{"values", "describes more than 1000000 values", file(append(small(), flood(maxDeclared+1, 13, nil)...))},
		{"integers", "more than 4000000 values", file(sub(small(), 1, bytes.Repeat(sub(nil, 5, ints("axes", make([]int64, 1000)...)), 4001)))},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Read(c.data); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want %q", err, c.want)
			}
		})
	}
}

// TestShapesAgreeWithTheOperatorTests: what is followed to the outputs of the operators' own test models is what these
// models declare, which is what comes out.
func TestShapesAgreeWithTheOperatorTests(t *testing.T) {
	files, _ := filepath.Glob("../../.cache/operators/*/*/model.onnx")
	if len(files) == 0 {
		t.Skip("no operator test models in .cache/operators; test/models fetches them")
	}
	known, all := 0, 0
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		m := newModel(bytes.NewReader(data), int64(len(data)))
		if err := m.read(); err != nil {
			t.Errorf("%s: %v", f, err)
			continue
		}
		if err := m.structure.Check(); err != nil {
			t.Errorf("%s: %v", f, err)
			continue
		}
		main := m.structure.Main
		declared := map[sizes.ID]sizes.Shape{}
		for _, name := range main.Outputs {
			declared[name] = main.Values[name]
			delete(main.Values, name)
		}
		e, err := m.structure.Estimate()
		if err != nil {
			t.Errorf("%s: %v", f, err)
		}
		for i, got := range e.Outputs {
			want := declared[main.Outputs[i]]
			all++
			if !got.Ranked || !want.Ranked {
				continue
			}
			same := len(got.Dims) == len(want.Dims)
			for j := 0; same && j < len(got.Dims); j++ {
				same = got.Dims[j] < 0 || want.Dims[j] < 0 || got.Dims[j] == want.Dims[j]
			}
			if !same || got.Bits != 0 && want.Bits != 0 && got.Bits != want.Bits {
				t.Errorf("%s: output %d is followed as %v (%d bits), declared is %v (%d bits)", filepath.Base(filepath.Dir(f)), i, got.Dims, got.Bits, want.Dims, want.Bits)
			}
			if !slices.Contains(got.Dims, -1) {
				known++
			}
		}
	}
	t.Logf("%d models, %d outputs, %d followed to their whole shape", len(files), all, known)
	if known < all/4 {
		t.Errorf("only %d of %d shapes are known", known, all)
	}
}

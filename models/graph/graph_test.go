package graph

import (
	"encoding/binary"
	"io"
	"math"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/models/tensor"
)

// The writers below make small ONNX files field by field.

func num(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func sub(b []byte, field protowire.Number, content []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), content)
}

func str(b []byte, field protowire.Number, s string) []byte { return sub(b, field, []byte(s)) }

// value is a ValueInfoProto of a tensor; a dimension of -1 gets a symbol.
func value(name string, datatype uint64, dims ...int64) []byte {
	var shape []byte
	for _, d := range dims {
		if d < 0 {
			shape = sub(shape, 1, str(nil, 2, "batch"))
		} else {
			shape = sub(shape, 1, num(nil, 1, uint64(d)))
		}
	}
	t := sub(num(nil, 1, datatype), 2, shape)
	return sub(str(nil, 1, name), 2, sub(nil, 1, t))
}

// constant is a TensorProto of FP32 with raw data.
func constant(name string, dims ...uint64) []byte {
	var b []byte
	n := uint64(4)
	for _, d := range dims {
		b, n = num(b, 1, d), n*d
	}
	return sub(str(num(b, 2, 1), 8, name), 9, make([]byte, n))
}

// outside is a TensorProto of FP32 whose data lies in another file.
func outside(name, location, offset, size string, dims ...uint64) []byte {
	var b []byte
	for _, d := range dims {
		b = num(b, 1, d)
	}
	b = str(num(b, 2, 1), 8, name)
	for _, kv := range [][2]string{{"location", location}, {"offset", offset}, {"length", size}} {
		if kv[1] != "" {
			b = sub(b, 13, str(str(nil, 1, kv[0]), 2, kv[1]))
		}
	}
	return num(b, 14, 1)
}

// file is a ModelProto around the fields of a graph.
func file(graph []byte) []byte {
	b := str(num(nil, 1, 8), 2, "test")
	b = sub(b, 7, graph)
	return sub(b, 8, num(nil, 2, 17))
}

func small() []byte {
	g := sub(nil, 1, str(nil, 4, "Add"))
	g = sub(g, 5, constant("w", 3, 5))
	g = sub(g, 11, value("x", 1, -1, 3))
	g = sub(g, 11, value("w", 1, 3, 5)) // a constant listed as an input too, as old exporters do
	return sub(g, 12, value("y", 7, -1, 5))
}

func TestReadTellsWhatTheFileSays(t *testing.T) {
	g, err := Read(file(small()))
	if err != nil {
		t.Fatal(err)
	}
	if len(g.Inputs) != 1 || g.Inputs[0].Kind != Tensor || !g.Inputs[0].Ranked ||
		g.Inputs[0].Spec.Name != "x" || g.Inputs[0].Spec.Datatype != tensor.FP32 || !slices.Equal(g.Inputs[0].Spec.Shape, []int64{-1, 3}) {
		t.Errorf("inputs are %+v", g.Inputs)
	}
	if len(g.Outputs) != 1 || g.Outputs[0].Spec.Datatype != tensor.Int64 || !slices.Equal(g.Outputs[0].Spec.Shape, []int64{-1, 5}) {
		t.Errorf("outputs are %+v", g.Outputs)
	}
	if g.Nodes != 1 || g.InitializerBytes != 60 || g.LargestBytes != 60 || g.ExternalBytes != 0 || g.IRVersion != 8 || g.Producer != "test" {
		t.Errorf("graph is %+v", g)
	}
	if !slices.Equal(g.Opsets, []Opset{{"", 17}}) {
		t.Errorf("operator sets are %v", g.Opsets)
	}
}

func TestValuesThatAreNoTensors(t *testing.T) {
	g := small()
	g = sub(g, 12, sub(str(nil, 1, "seq"), 2, sub(nil, 4, nil)))
	g = sub(g, 12, sub(str(nil, 1, "map"), 2, sub(nil, 5, nil)))
	g = sub(g, 12, sub(str(nil, 1, "unranked"), 2, sub(nil, 1, num(nil, 1, 14))))
	r, err := Read(file(g))
	if err != nil {
		t.Fatal(err)
	}
	if r.Outputs[1].Kind != Sequence || r.Outputs[2].Kind != Map {
		t.Errorf("kinds are %v and %v", r.Outputs[1].Kind, r.Outputs[2].Kind)
	}
	if v := r.Outputs[3]; v.Kind != Tensor || v.Ranked || v.Spec.Datatype != tensor.Invalid {
		t.Errorf("a complex tensor without a shape is %+v", v)
	}
}

// TestExternalDataIsFoundEverywhere looks into constants, attributes and graphs within nodes.
func TestExternalDataIsFoundEverywhere(t *testing.T) {
	inner := sub(nil, 5, outside("in", "inner.bin", "8", "16", 4))
	node := sub(str(nil, 4, "If"), 5, sub(str(nil, 1, "then_branch"), 6, inner))
	node = sub(node, 5, sub(str(nil, 1, "value"), 5, outside("attr", "attr.bin", "", "", 2)))
	g := sub(small(), 1, node)
	g = sub(g, 5, outside("a", "main.bin", "0", "40", 10))
	g = sub(g, 5, outside("b", "main.bin", "40", "", 10))
	r, err := Read(file(g))
	if err != nil {
		t.Fatal(err)
	}
	want := []External{{"attr.bin", 8}, {"inner.bin", 24}, {"main.bin", 80}}
	if !slices.Equal(r.External, want) {
		t.Errorf("external data is %v, want %v", r.External, want)
	}
	if r.ExternalBytes != 8+16+80 || r.Nodes != 2 {
		t.Errorf("%d external bytes, %d nodes", r.ExternalBytes, r.Nodes)
	}
	if len(r.Inputs) != 1 {
		t.Errorf("a constant of an inner graph changed the inputs: %+v", r.Inputs)
	}
}

func TestWhatCannotBeIsRefused(t *testing.T) {
	with := func(tensor []byte) []byte { return file(sub(small(), 5, tensor)) }
	deep := small()
	for range MaxNesting + 2 {
		deep = sub(small(), 1, sub(nil, 5, sub(nil, 6, deep)))
	}
	for _, c := range []struct {
		name, want string
		data       []byte
	}{
		{"empty", "empty", nil},
		{"html", "no ONNX model", []byte("<html>404</html>")},
		{"pointer", "no ONNX model", []byte("version https://git-lfs.github.com/spec/v1\n")},
		{"no graph", "no graph", num(nil, 1, 8)},
		{"no output", "no output", file(sub(nil, 1, nil))},
		{"two graphs", "two graphs", sub(file(small()), 7, small())},
		{"negative dimension", "impossible shape", with(num(nil, 1, math.MaxUint64))},
		{"shape beyond memory", "impossible shape", with(num(num(nil, 1, 1<<40), 1, 1<<40))},
		{"bytes beyond memory", "larger than any memory", with(num(num(nil, 1, 1<<61), 2, 11))},
		{"too little data", "its shape needs 12", with(sub(num(num(nil, 1, 3), 2, 1), 9, make([]byte, 11)))},
		{"no data", "no values", with(num(num(nil, 1, 3), 2, 1))},
		{"external without file", "names no file", with(outside("w", "", "0", "12", 3))},
		{"external of a wrong length", "its shape needs 12", with(outside("w", "x", "0", "13", 3))},
		{"external with a wrong offset", "offset", with(outside("w", "x", "-1", "12", 3))},
		{"nameless output", "no name", file(sub(small(), 12, nil))},
		{"same output twice", "called \"y\"", file(sub(small(), 12, value("y", 1)))},
		{"nested too deep", "nested deeper", file(deep)},
		{"name too long", "longer than", file(sub(small(), 12, str(nil, 1, strings.Repeat("x", MaxNameBytes+1))))},
		{"rank too high", "dimensions", file(sub(small(), 12, value("z", 1, make([]int64, tensor.MaxRank+1)...)))},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, err := Read(c.data)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %+v, %v, want an error with %q", g, err, c.want)
			}
		})
	}
}

// TestEveryTruncationIsNoticed cuts a model at every byte. Only a cut between fields of the outermost message can look
// whole, and then a graph or an operator set is missing.
func TestEveryTruncationIsNoticed(t *testing.T) {
	data := file(sub(small(), 5, outside("a", "main.bin", "0", "40", 10)))
	for n := range data {
		if g, err := Read(data[:n]); err == nil {
			t.Fatalf("cut at %d of %d bytes, read %+v", n, len(data), g)
		}
	}
}

// counting counts what is read.
type counting struct {
	io.ReaderAt
	bytes int
}

func (c *counting) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.ReaderAt.ReadAt(p, off)
	c.bytes += n
	return n, err
}

func TestWeightsAreSkipped(t *testing.T) {
	data := string(file(sub(small(), 5, constant("big", 1<<20))))
	r := counting{ReaderAt: strings.NewReader(data)}
	if _, err := ReadFrom(&r, int64(len(data))); err != nil {
		t.Fatal(err)
	}
	if r.bytes > 32<<10 {
		t.Errorf("%d of %d bytes were read", r.bytes, len(data))
	}
}

// TestWindowsAgree reads the same file in one piece and through a reader that gives few bytes at a time.
func TestWindowsAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := small()
		for i := range rapid.IntRange(0, 20).Draw(t, "constants") {
			g = sub(g, 5, constant("c"+string(rune('a'+i)), uint64(rapid.IntRange(0, 3000).Draw(t, "n"))))
		}
		data := file(g)
		whole, err := Read(data)
		if err != nil {
			t.Fatal(err)
		}
		pieces, err := ReadFrom(short{strings.NewReader(string(data)), rapid.IntRange(1, 64).Draw(t, "piece")}, int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		if whole.InitializerBytes != pieces.InitializerBytes || whole.LargestBytes != pieces.LargestBytes || len(whole.Inputs) != len(pieces.Inputs) {
			t.Fatalf("%+v\n%+v", whole, pieces)
		}
	})
}

// short is a ReaderAt that returns at most n bytes and, as io.ReaderAt wants it, an error with them.
type short struct {
	r io.ReaderAt
	n int
}

func (s short) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.r.ReadAt(p[:min(len(p), s.n)], off)
	if err == nil && n < len(p) {
		err = io.ErrNoProgress
	}
	return n, err
}

func FuzzRead(f *testing.F) {
	f.Add(file(small()))
	f.Add(file(sub(small(), 5, outside("a", "../x", "0", "40", 10))))
	f.Add([]byte("<html>"))
	for _, data := range swelling() {
		f.Add(data)
	}
	f.Add(binary.AppendUvarint(nil, math.MaxUint64))
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := Read(data)
		if err != nil {
			return
		}
		if len(g.Outputs) == 0 || g.LargestBytes > g.InitializerBytes || g.ExternalBytes > g.InitializerBytes {
			t.Fatalf("%+v", g)
		}
		for _, v := range slices.Concat(g.Inputs, g.Outputs) {
			if v.Spec.Name == "" || len(v.Spec.Shape) > tensor.MaxRank {
				t.Fatalf("%+v", v)
			}
		}
	})
}

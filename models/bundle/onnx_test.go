package bundle

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/dhowfleet/dhow/models/tensor"
)

// Small ONNX files, written field by field.

func num(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func sub(b []byte, field protowire.Number, content []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), content)
}

func str(b []byte, field protowire.Number, s string) []byte { return sub(b, field, []byte(s)) }

var onnxType = map[tensor.Datatype]uint64{tensor.FP32: 1, tensor.Int64: 7, tensor.Bytes: 8, tensor.FP16: 10}

func value(s tensor.Spec) []byte {
	var shape []byte
	for _, d := range s.Shape {
		if d < 0 {
			shape = sub(shape, 1, str(nil, 2, "n"))
		} else {
			shape = sub(shape, 1, num(nil, 1, uint64(d)))
		}
	}
	return sub(str(nil, 1, s.Name), 2, sub(nil, 1, sub(num(nil, 1, onnxType[s.Datatype]), 2, shape)))
}

// onnx writes a model with the given inputs and outputs; each external file holds 16 bytes of its weights.
func onnx(in, out []tensor.Spec, external ...string) []byte {
	return file(graphOf(in, out, external...))
}

// onnxWithSequence adds an output that is no tensor.
func onnxWithSequence(in, out []tensor.Spec, name string) []byte {
	return file(sub(graphOf(in, out), 12, sub(str(nil, 1, name), 2, sub(nil, 4, nil))))
}

func file(graph []byte) []byte { return sub(sub(num(nil, 1, 8), 7, graph), 8, num(nil, 2, 17)) }

func graphOf(in, out []tensor.Spec, external ...string) []byte {
	g := sub(nil, 1, str(nil, 4, "Op"))
	for _, location := range external {
		t := str(num(num(nil, 1, 4), 2, 1), 8, "w")
		t = sub(t, 13, str(str(nil, 1, "location"), 2, location))
		g = sub(g, 5, num(t, 14, 1))
	}
	for _, s := range in {
		g = sub(g, 11, value(s))
	}
	for _, s := range out {
		g = sub(g, 12, value(s))
	}
	return g
}

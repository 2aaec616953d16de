// Package invented makes up requests, to warm models up and to try what their files do not say.
//
// Fill makes the data of one tensor. Rows runs a model on two made-up rows, alone and together, to see whether requests
// to it may be joined. Both are bounded in memory; Rows blocks for a few runs of the model. There is no state.
package invented

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/models/tensor"
)

// MaxBytes bounds the data of a tensor.
const MaxBytes = 256 << 20

// Fill fills a tensor with zeros or with random values: numbers from 0 up to 1, whole numbers 0 or 1, which are
// indices of most things, texts of one letter.
func Fill(t *tensor.Tensor, random *rand.Rand, zero bool) error {
	n, err := tensor.Elements(t.Shape)
	if err != nil {
		return err
	}
	size := int64(t.Datatype.Size())
	if t.Datatype == tensor.Bytes {
		size = 5
	}
	if n > MaxBytes/max(size, 1) {
		return fmt.Errorf("the shape %v has more than %d bytes", t.Shape, MaxBytes)
	}
	t.Data = make([]byte, 0, n*size)
	for range n {
		x := 0.0
		if !zero {
			x = random.Float64()
		}
		t.Data = appendNumber(t.Data, t.Datatype, x, zero)
	}
	return nil
}

func appendNumber(b []byte, d tensor.Datatype, x float64, zero bool) []byte {
	switch d {
	case tensor.FP32:
		return binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(x)))
	case tensor.FP64:
		return binary.LittleEndian.AppendUint64(b, math.Float64bits(x))
	case tensor.BF16:
		return binary.LittleEndian.AppendUint16(b, uint16(math.Float32bits(float32(x))>>16))
	case tensor.FP16:
		if zero {
			return append(b, 0, 0)
		}
		return binary.LittleEndian.AppendUint16(b, 0x3800|uint16(x*1024)) // the exponent of 0.5 and any fraction
	case tensor.Bytes:
		if zero {
			return tensor.AppendBytes(b, nil)
		}
		return tensor.AppendBytes(b, []byte{byte('a' + int(x*26))})
	}
	one := byte(0)
	if x >= 0.5 {
		one = 1
	}
	b = append(b, one)
	return append(b, make([]byte, max(d.Size()-1, 0))...)
}

// Verdict on whether the first dimension of a model is one of rows that do not depend on each other.
type Verdict uint8

// The verdicts.

const (
	Unknown Verdict = iota // it does not run with invented data
	Apart                  // rows are answered alike alone and together
	Mixed                  // they are not
)

// lengths are tried for dimensions that vary.
var lengths = []int64{1, 4, 16, 64, 224}

// Rows tries it: two invented rows alone and together, with different lengths of what else varies.
func Rows(ctx context.Context, m inference.Model) Verdict {
	for i, length := range lengths {
		if i > 0 && !slices.ContainsFunc(m.Inputs(), func(s tensor.Spec) bool { return len(s.Shape) > 1 && slices.Min(s.Shape[1:]) < 0 }) {
			break // nothing else varies
		}
		both, ok := inventRows(m, length)
		if !ok {
			break
		}
		together, err := m.Run(ctx, both, nil)
		if err != nil {
			continue
		}
		var alone [2][]tensor.Tensor
		for row := range alone {
			if alone[row], err = m.Run(ctx, half(both, row), nil); err != nil {
				return Mixed // it takes no single row
			}
		}
		return compare(together, alone)
	}
	return Unknown
}

// inventRows makes an input of two rows.
func inventRows(m inference.Model, length int64) ([]tensor.Tensor, bool) {
	random := rand.New(rand.NewPCG(2, uint64(length)))
	var out []tensor.Tensor
	for _, s := range m.Inputs() {
		t := tensor.Tensor{Name: s.Name, Datatype: s.Datatype, Shape: slices.Clone(s.Shape)}
		if len(t.Shape) == 0 {
			return nil, false
		}
		for i, d := range t.Shape {
			if d < 0 {
				t.Shape[i] = length
			}
		}
		t.Shape[0] = 2
		if Fill(&t, random, false) != nil {
			return nil, false
		}
		out = append(out, t)
	}
	return out, true
}

// half returns the first or second of two rows, which take as many bytes each.
func half(both []tensor.Tensor, row int) []tensor.Tensor {
	out := slices.Clone(both)
	for i := range out {
		out[i].Shape = slices.Clone(out[i].Shape)
		out[i].Shape[0] = 1
		n := len(out[i].Data) / 2
		out[i].Data = out[i].Data[row*n : (row+1)*n]
	}
	return out
}

// compare holds the outputs of two rows together against those of each alone.
func compare(together []tensor.Tensor, alone [2][]tensor.Tensor) Verdict {
	for i := range together {
		t := &together[i]
		if len(t.Shape) == 0 || t.Shape[0] != 2 || len(alone[0]) != len(together) || len(alone[1]) != len(together) {
			return Mixed
		}
		for row := range alone {
			a := &alone[row][i]
			if len(a.Shape) != len(t.Shape) || a.Shape[0] != 1 || !slices.Equal(a.Shape[1:], t.Shape[1:]) {
				return Mixed
			}
		}
		if !alike(t.Datatype, t.Data, slices.Concat(alone[0][i].Data, alone[1][i].Data)) {
			return Mixed
		}
	}
	return Apart
}

// alike compares data; floating-point numbers may differ as far as another order of adding them up makes them.
func alike(d tensor.Datatype, a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := 0; i < len(a); i += max(d.Size(), 1) {
		x, isFloat := float(d, a[i:])
		if !isFloat {
			return slices.Equal(a, b)
		}
		y, _ := float(d, b[i:])
		tolerance := 1e-3
		if d.Size() == 2 {
			tolerance = 2e-2
		}
		if x != y && math.Abs(x-y) > tolerance*(1+math.Abs(x)) || math.IsNaN(x) != math.IsNaN(y) {
			return false
		}
	}
	return true
}

// float reads a floating-point number.
func float(d tensor.Datatype, b []byte) (float64, bool) {
	switch d {
	case tensor.FP32:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(b))), true
	case tensor.FP64:
		return math.Float64frombits(binary.LittleEndian.Uint64(b)), true
	case tensor.BF16:
		return float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(b)) << 16)), true
	case tensor.FP16:
		// Moved to where float32 has its exponent and fraction, it is the number times 2^-112; what has the highest
		// exponent is infinite or no number.
		h := uint32(binary.LittleEndian.Uint16(b))
		x := float64(math.Float32frombits(h&0x7fff<<13)) * 0x1p112
		if h&0x7c00 == 0x7c00 {
			x = math.Inf(1)
			if h&0x3ff != 0 {
				x = math.NaN()
			}
		}
		if h&0x8000 != 0 {
			x = -x
		}
		return x, true
	}
	return 0, false
}

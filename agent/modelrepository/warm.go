package modelrepository

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/models/triton"
)

// maxInvented bounds the bytes of a tensor that is made up.
const maxInvented = 256 << 20

// warm makes the requests that a configuration asks for before the model serves.
func warm(ctx context.Context, dir string, c *triton.Config, runner serving.Runner) error {
	for i := range c.Warmup {
		w := &c.Warmup[i]
		in, err := warmupInputs(dir, c, w)
		if err != nil {
			return fmt.Errorf("model_warmup %q: %w", w.Name, err)
		}
		for range max(w.Count, 1) {
			if _, err := runner.Infer(ctx, in, nil, nil); err != nil {
				return fmt.Errorf("model_warmup %q: %w", w.Name, err)
			}
		}
	}
	return nil
}

func warmupInputs(dir string, c *triton.Config, w *triton.Warmup) ([]tensor.Tensor, error) {
	var out []tensor.Tensor
	random := rand.New(rand.NewPCG(1, uint64(len(w.Inputs))))
	for i := range w.Inputs {
		in := &w.Inputs[i]
		shape := slices.Clone(in.Dims)
		if c.MaxBatchSize > 0 {
			shape = slices.Insert(shape, 0, int64(max(w.BatchSize, 1)))
		}
		t := tensor.Tensor{Name: in.Name, Datatype: triton.Datatype(in.DataType), Shape: shape}
		var err error
		if in.File == "" {
			err = invent(&t, random, in.Zero)
		} else if t.Data, err = readFile(filepath.Join(dir, "warmup", filepath.FromSlash(in.File)), maxInvented); err == nil {
			err = t.Validate()
		}
		if err != nil {
			return nil, fmt.Errorf("input %q: %w", in.Name, err)
		}
		out = append(out, t)
	}
	return out, nil
}

// invent fills a tensor with zeros or with random values: numbers from 0 up to 1, whole numbers 0 or 1, which are
// indices of most things, texts of one letter.
func invent(t *tensor.Tensor, random *rand.Rand, zero bool) error {
	n, err := tensor.Elements(t.Shape)
	if err != nil {
		return err
	}
	size := int64(t.Datatype.Size())
	if t.Datatype == tensor.Bytes {
		size = 5
	}
	if n > maxInvented/max(size, 1) {
		return fmt.Errorf("the shape %v has more than %d bytes", t.Shape, maxInvented)
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

// verdict on whether the first dimension of a model is one of rows that do not depend on each other.
type verdict uint8

const (
	unknown verdict = iota // it does not run with invented data
	apart                  // rows are answered alike alone and together
	mixed                  // they are not
)

// lengths are tried for dimensions that vary.
var lengths = []int64{1, 4, 16, 64, 224}

// rowsApart tries it: two invented rows alone and together, with different lengths of what else varies.
func rowsApart(ctx context.Context, m inference.Model) verdict {
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
				return mixed // it takes no single row
			}
		}
		return compare(together, alone)
	}
	return unknown
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
		if invent(&t, random, false) != nil {
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
func compare(together []tensor.Tensor, alone [2][]tensor.Tensor) verdict {
	for i := range together {
		t := &together[i]
		if len(t.Shape) == 0 || t.Shape[0] != 2 || len(alone[0]) != len(together) || len(alone[1]) != len(together) {
			return mixed
		}
		for row := range alone {
			a := &alone[row][i]
			if len(a.Shape) != len(t.Shape) || a.Shape[0] != 1 || !slices.Equal(a.Shape[1:], t.Shape[1:]) {
				return mixed
			}
		}
		if !alike(t.Datatype, t.Data, slices.Concat(alone[0][i].Data, alone[1][i].Data)) {
			return mixed
		}
	}
	return apart
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

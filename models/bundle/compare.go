package bundle

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/dhowfleet/dhow/models/tensor"
)

// Compare checks an answer against the sample's. The error names output, element and numbers, never text: it may be
// shown outside of the node.
func (g *Golden) Compare(got []tensor.Tensor) error {
	for i := range g.Outputs {
		want := &g.Outputs[i]
		at := slices.IndexFunc(got, func(t tensor.Tensor) bool { return t.Name == want.Name })
		if at < 0 {
			return fmt.Errorf("sample %s: output %q is missing", g.Name, want.Name)
		}
		if err := compareTensor(want, &got[at], g.Tolerance); err != nil {
			return fmt.Errorf("sample %s: output %q %w", g.Name, want.Name, err)
		}
	}
	return nil
}

func compareTensor(want, got *tensor.Tensor, tolerance float64) error {
	if want.Datatype != got.Datatype || !slices.Equal(want.Shape, got.Shape) {
		return fmt.Errorf("is %s %v, expected %s %v", got.Datatype, got.Shape, want.Datatype, want.Shape)
	}
	if err := got.Validate(); err != nil {
		return err
	}
	if want.Datatype == tensor.Bytes {
		a, err := tensor.SplitBytes(want.Data)
		if err != nil {
			return err
		}
		b, err := tensor.SplitBytes(got.Data)
		if err != nil {
			return err
		}
		for i := range a {
			if !bytes.Equal(a[i], b[i]) {
				return fmt.Errorf("differs at element %d", i)
			}
		}
		return nil
	}
	size := want.Datatype.Size()
	for i := 0; i*size < len(want.Data); i++ {
		a, b := want.Data[i*size:(i+1)*size], got.Data[i*size:(i+1)*size]
		x, float := number(a, want.Datatype)
		if !float {
			if !bytes.Equal(a, b) {
				return fmt.Errorf("differs at element %d", i)
			}
			continue
		}
		y, _ := number(b, want.Datatype)
		if x == y || math.IsNaN(x) && math.IsNaN(y) {
			continue
		}
		if diff := math.Abs(x - y); !(diff <= tolerance) || math.IsInf(x, 0) || math.IsInf(y, 0) {
			return fmt.Errorf("is %.6g at element %d, expected %.6g within %g", y, i, x, tolerance)
		}
	}
	return nil
}

// number reads a floating-point element.
func number(b []byte, d tensor.Datatype) (float64, bool) {
	switch d {
	case tensor.FP64:
		return math.Float64frombits(binary.LittleEndian.Uint64(b)), true
	case tensor.FP32:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(b))), true
	case tensor.BF16:
		return float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(b)) << 16)), true
	case tensor.FP16:
		return half(binary.LittleEndian.Uint16(b)), true
	}
	return 0, false
}

// half widens an IEEE 754 binary16.
func half(h uint16) float64 {
	exponent, fraction := int(h>>10&0x1f), float64(h&0x3ff)
	var v float64
	switch {
	case exponent == 0x1f && fraction != 0:
		return math.NaN()
	case exponent == 0x1f:
		v = math.Inf(1)
	case exponent == 0:
		v = math.Ldexp(fraction, -24)
	default:
		v = math.Ldexp(1024+fraction, exponent-25)
	}
	if h&0x8000 != 0 {
		return -v
	}
	return v
}

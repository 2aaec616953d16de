package main

import (
	"bytes"
	"fmt"
	"math"
	"slices"

	"github.com/dhowfleet/dhow/test/conformance/wire"
)

// The tolerances of ONNX's own runner.
const (
	relative = 1e-3
	absolute = 1e-7
)

// compare holds an answer against the expected outputs. Floats are equal within the tolerances, NaN equals NaN; all
// else must be the same bytes. With shapes alone, elements are not looked at.
func compare(got *wire.Answer, want []wire.Value, shapesAlone bool) error {
	if len(got.Outputs) != len(want) {
		return fmt.Errorf("%d outputs came, %d are expected", len(got.Outputs), len(want))
	}
	for i := range want {
		w := &want[i]
		v := got.Find(w.Name)
		if v == nil {
			return fmt.Errorf("output %q is missing", w.Name)
		}
		if v.Datatype != w.Datatype || !slices.Equal(v.Shape, w.Shape) && len(v.Shape)+len(w.Shape) > 0 {
			return fmt.Errorf("output %q is %s %v, expected is %s %v", w.Name, v.Datatype, v.Shape, w.Datatype, w.Shape)
		}
		if shapesAlone || bytes.Equal(v.Raw, w.Raw) {
			continue
		}
		if err := near(v, w); err != nil {
			return err
		}
	}
	return nil
}

func near(v, w *wire.Value) error {
	var expected [][]byte
	if err := w.Each(func(_ int64, e []byte) { expected = append(expected, e) }); err != nil {
		return err
	}
	var first error
	err := v.Each(func(i int64, e []byte) {
		if first != nil || bytes.Equal(e, expected[i]) {
			return
		}
		switch v.Datatype {
		case "FP16", "BF16", "FP32", "FP64":
			a, b := wire.Number(v.Datatype, e), wire.Number(v.Datatype, expected[i])
			if math.IsNaN(a) && math.IsNaN(b) || a == b || !math.IsInf(b, 0) && math.Abs(a-b) <= absolute+relative*math.Abs(b) {
				return
			}
			first = fmt.Errorf("output %q: element %d is %v, expected is %v", v.Name, i, a, b)
		case "BYTES":
			first = fmt.Errorf("output %q: element %d is %q, expected is %q", v.Name, i, e, expected[i])
		default:
			first = fmt.Errorf("output %q: element %d is %v, expected is %v", v.Name, i, wire.Number(v.Datatype, e), wire.Number(v.Datatype, expected[i]))
		}
	})
	if err != nil {
		return err
	}
	return first
}

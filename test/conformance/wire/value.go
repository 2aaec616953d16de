// Package wire holds the Open Inference Protocol's tensors, requests and answers as a client writes and reads them.
//
// A Value's Raw is the protocol's binary form; Encode makes a request's body out of values, in JSON or binary; Answer
// reads one, checks that it keeps to the protocol, and gives values back, so that answers in different forms can be
// compared. The package is written from the protocol's text and shares no code with a server. It does no I/O and keeps
// no state; sizes that an answer states are checked against what came before they are used.
package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"
)

// Sizes are the bytes of one element of each datatype; 0 is BYTES, whose elements say their own.
var Sizes = map[string]int{
	"BOOL": 1, "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8, "INT8": 1, "INT16": 2, "INT32": 4, "INT64": 8,
	"FP16": 2, "FP32": 4, "FP64": 8, "BYTES": 0, "BF16": 2,
}

// Value is a tensor: raw is the protocol's binary form of its elements.
type Value struct {
	Name, Datatype string
	Shape          []int64
	Raw            []byte
}

func Elements(shape []int64) int64 {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	return n
}

// Fill makes a tensor whose elements are all 0 or all 1; BYTES get the texts "0" and "1", which models that read numbers
// out of texts take as well.
func Fill(name, datatype string, shape []int64, one bool) Value {
	v := Value{Name: name, Datatype: datatype, Shape: shape}
	bit := byte(0)
	if one {
		bit = 1
	}
	var element []byte
	switch datatype {
	case "BYTES":
		element = []byte{1, 0, 0, 0, '0' + bit}
	case "FP16":
		element = binary.LittleEndian.AppendUint16(nil, uint16(bit)*0x3c00)
	case "BF16":
		element = binary.LittleEndian.AppendUint16(nil, uint16(bit)*0x3f80)
	case "FP32":
		element = binary.LittleEndian.AppendUint32(nil, math.Float32bits(float32(bit)))
	case "FP64":
		element = binary.LittleEndian.AppendUint64(nil, math.Float64bits(float64(bit)))
	default:
		element = make([]byte, Sizes[datatype])
		element[0] = bit
	}
	v.Raw = bytes.Repeat(element, int(Elements(shape)))
	return v
}

// Vary makes a tensor of the numbers 0, 1, 2, 0, 1, 2, and so on: elements that can be told apart, and that models which
// take indices take too.
func Vary(name, datatype string, shape []int64) Value {
	v := Value{Name: name, Datatype: datatype, Shape: shape}
	for i := range Elements(shape) {
		zero, one := Fill("", datatype, []int64{1}, false).Raw, Fill("", datatype, []int64{1}, true).Raw
		switch {
		case i%3 == 0:
			v.Raw = append(v.Raw, zero...)
		case i%3 == 1 || datatype == "BOOL":
			v.Raw = append(v.Raw, one...)
		default:
			v.Raw = append(v.Raw, two(datatype, one)...)
		}
	}
	return v
}

func two(datatype string, one []byte) []byte {
	switch datatype {
	case "BYTES":
		one[4] = '2'
	case "FP16", "BF16":
		return binary.LittleEndian.AppendUint16(nil, 0x4000) // in both
	case "FP32":
		return binary.LittleEndian.AppendUint32(nil, math.Float32bits(2))
	case "FP64":
		return binary.LittleEndian.AppendUint64(nil, math.Float64bits(2))
	default:
		one[0] = 2
	}
	return one
}

// Each calls f with each element's bytes, those of BYTES without their length. It checks that raw holds the shape.
func (v *Value) Each(f func(i int64, element []byte)) error {
	size, known := Sizes[v.Datatype]
	if !known {
		return fmt.Errorf("%q has the datatype %q, which the protocol does not have", v.Name, v.Datatype)
	}
	n, rest := Elements(v.Shape), v.Raw
	for i := range n {
		if v.Datatype == "BYTES" {
			if len(rest) < 4 {
				return fmt.Errorf("%q ends before its element %d of %d", v.Name, i, n)
			}
			size = int(binary.LittleEndian.Uint32(rest))
			rest = rest[4:]
		}
		if size < 0 || len(rest) < size {
			return fmt.Errorf("%q ends before its element %d of %d", v.Name, i, n)
		}
		f(i, rest[:size])
		rest = rest[size:]
	}
	if len(rest) > 0 {
		return fmt.Errorf("%q has %d bytes more than its shape %v needs", v.Name, len(rest), v.Shape)
	}
	return nil
}

// Number reads an element as a float; exact for all but large 64-bit integers.
func Number(datatype string, b []byte) float64 {
	switch datatype {
	case "BOOL", "UINT8":
		return float64(b[0])
	case "INT8":
		return float64(int8(b[0]))
	case "UINT16":
		return float64(binary.LittleEndian.Uint16(b))
	case "INT16":
		return float64(int16(binary.LittleEndian.Uint16(b)))
	case "UINT32":
		return float64(binary.LittleEndian.Uint32(b))
	case "INT32":
		return float64(int32(binary.LittleEndian.Uint32(b)))
	case "UINT64":
		return float64(binary.LittleEndian.Uint64(b))
	case "INT64":
		return float64(int64(binary.LittleEndian.Uint64(b)))
	case "FP16":
		return half(binary.LittleEndian.Uint16(b))
	case "BF16":
		return float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(b)) << 16))
	case "FP32":
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(b)))
	case "FP64":
		return math.Float64frombits(binary.LittleEndian.Uint64(b))
	}
	return math.NaN()
}

// half is the value of a 16-bit float of IEEE 754.
func half(h uint16) float64 {
	sign, exponent, fraction := 1.0, int(h>>10)&31, float64(h&1023)
	if h>>15 != 0 {
		sign = -1
	}
	switch exponent {
	case 0:
		return sign * math.Ldexp(fraction, -24)
	case 31:
		if fraction != 0 {
			return math.NaN()
		}
		return math.Inf(int(sign))
	}
	return sign * math.Ldexp(1024+fraction, exponent-25)
}

// Textual says why JSON cannot carry the tensor, or "" when it can.
func (v *Value) Textual() string {
	if v.Datatype == "FP16" || v.Datatype == "BF16" {
		return fmt.Sprintf("%q is %s, which has no JSON form", v.Name, v.Datatype)
	}
	why := ""
	err := v.Each(func(_ int64, e []byte) {
		switch {
		case v.Datatype == "BYTES" && !utf8.Valid(e):
			why = fmt.Sprintf("%q holds bytes that are not UTF-8", v.Name)
		case v.Datatype == "FP32" || v.Datatype == "FP64":
			if f := Number(v.Datatype, e); math.IsNaN(f) || math.IsInf(f, 0) {
				why = fmt.Sprintf("%q holds %v, which JSON cannot carry", v.Name, f)
			}
		}
	})
	if err != nil {
		return err.Error()
	}
	return why
}

// List returns the elements as JSON values, row-major.
func (v *Value) List() []any {
	out := make([]any, 0, Elements(v.Shape))
	_ = v.Each(func(_ int64, e []byte) { // made by fill, so that raw fits the shape
		switch v.Datatype {
		case "BYTES":
			out = append(out, string(e))
		case "BOOL":
			out = append(out, e[0] != 0)
		case "UINT64":
			out = append(out, binary.LittleEndian.Uint64(e))
		case "INT64":
			out = append(out, int64(binary.LittleEndian.Uint64(e)))
		default:
			out = append(out, Number(v.Datatype, e))
		}
	})
	return out
}

// Nested folds a row-major list into lists of lists; a scalar stays the list of one that it is in the flat form.
func Nested(flat []any, shape []int64) []any {
	if len(shape) <= 1 {
		return flat
	}
	rows := shape[0]
	out := make([]any, 0, rows)
	step := int64(len(flat)) / max(rows, 1)
	for i := range rows {
		out = append(out, Nested(flat[i*step:(i+1)*step], shape[1:]))
	}
	return out
}

// parseList makes a tensor of an answer's JSON data, nested or flat.
func parseList(name, datatype string, shape []int64, data json.RawMessage) (Value, error) {
	v := Value{Name: name, Datatype: datatype, Shape: shape}
	var parsed any
	if err := Decode(data, &parsed); err != nil {
		return v, err
	}
	top, ok := parsed.([]any)
	if !ok {
		return v, fmt.Errorf("output %q: \"data\" is no list", name)
	}
	var err error
	var count int64
	var walk func(list []any)
	walk = func(list []any) {
		for _, x := range list {
			if inner, ok := x.([]any); ok {
				walk(inner)
				continue
			}
			if err == nil {
				err = v.append(x)
			}
			count++
		}
	}
	walk(top)
	if err == nil && count != Elements(shape) {
		err = fmt.Errorf("output %q has %d elements, its shape %v says %d", name, count, shape, Elements(shape))
	}
	return v, err
}

// append adds one JSON value.
func (v *Value) append(x any) error {
	wrong := func() error {
		return fmt.Errorf("output %q: %v is no JSON form of %s", v.Name, x, v.Datatype)
	}
	switch x := x.(type) {
	case bool:
		if v.Datatype != "BOOL" {
			return wrong()
		}
		b := byte(0)
		if x {
			b = 1
		}
		v.Raw = append(v.Raw, b)
		return nil
	case string:
		if v.Datatype != "BYTES" {
			return wrong()
		}
		v.Raw = append(binary.LittleEndian.AppendUint32(v.Raw, uint32(len(x))), x...)
		return nil
	case json.Number:
		return v.appendNumber(string(x), wrong)
	}
	return wrong()
}

func (v *Value) appendNumber(text string, wrong func() error) error {
	size := Sizes[v.Datatype]
	switch v.Datatype {
	case "FP32", "FP64":
		f, err := strconv.ParseFloat(text, size*8)
		if err != nil {
			return wrong()
		}
		if size == 4 {
			v.Raw = binary.LittleEndian.AppendUint32(v.Raw, math.Float32bits(float32(f)))
		} else {
			v.Raw = binary.LittleEndian.AppendUint64(v.Raw, math.Float64bits(f))
		}
		return nil
	case "INT8", "INT16", "INT32", "INT64":
		n, err := strconv.ParseInt(text, 10, size*8)
		if err != nil {
			return wrong()
		}
		v.Raw = append(v.Raw, binary.LittleEndian.AppendUint64(nil, uint64(n))[:size]...)
		return nil
	case "UINT8", "UINT16", "UINT32", "UINT64":
		n, err := strconv.ParseUint(text, 10, size*8)
		if err != nil {
			return wrong()
		}
		v.Raw = append(v.Raw, binary.LittleEndian.AppendUint64(nil, n)[:size]...)
		return nil
	}
	return wrong()
}

// Same compares two tensors. Floats may differ in what a decimal form or another thread's order of adding changes.
func (v *Value) Same(w *Value) error {
	if v.Datatype != w.Datatype || fmt.Sprint(v.Shape) != fmt.Sprint(w.Shape) {
		return fmt.Errorf("%q is %s %v in one form and %s %v in another", v.Name, v.Datatype, v.Shape, w.Datatype, w.Shape)
	}
	if bytes.Equal(v.Raw, w.Raw) {
		return nil
	}
	tolerance := map[string]float64{"FP16": 2e-3, "BF16": 2e-2, "FP32": 1e-5, "FP64": 1e-9}[v.Datatype]
	var mine [][]byte
	if err := v.Each(func(_ int64, e []byte) { mine = append(mine, e) }); err != nil {
		return err
	}
	var differs error
	err := w.Each(func(i int64, e []byte) {
		if differs != nil || bytes.Equal(mine[i], e) {
			return
		}
		if tolerance > 0 {
			a, b := Number(v.Datatype, mine[i]), Number(v.Datatype, e)
			if a == b || math.IsNaN(a) && math.IsNaN(b) || !math.IsInf(a, 0) && math.Abs(a-b) <= tolerance*(math.Abs(a)+1e-6) {
				return
			}
			differs = fmt.Errorf("%q: element %d is %v in one form and %v in another", v.Name, i, a, b)
			return
		}
		differs = fmt.Errorf("%q: element %d is % x in one form and % x in another", v.Name, i, mine[i], e)
	})
	if err != nil {
		return err
	}
	return differs
}

package jsontensor

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/models/tensor"
)

// heap is memory without a bound.
type heap struct{}

func (heap) Grow(data []byte, size int64) ([]byte, error) {
	return append(make([]byte, 0, size), data...), nil
}

func decoder(text []byte, datatype tensor.Datatype, shape ...int64) Decoder {
	return Decoder{Scanner: scan(text), Memory: heap{}, Name: "x", Datatype: datatype, Shape: slices.Clone(shape)}
}

// TestDataRoundTrip: every tensor that JSON can hold comes back from its text with the same bytes, flat and nested.
func TestDataRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := tensor.Tensor{Name: "x", Datatype: tensor.Datatype(rapid.IntRange(int(tensor.Bool), int(tensor.Bytes)).Draw(t, "datatype"))}
		if in.Datatype == tensor.FP16 {
			in.Datatype = tensor.FP32
		}
		in.Shape = rapid.SliceOfN(rapid.Int64Range(0, 4), 0, 4).Draw(t, "shape")
		n, _ := tensor.Elements(in.Shape)
		for range n {
			switch in.Datatype {
			case tensor.Bytes:
				in.Data = tensor.AppendBytes(in.Data, []byte(rapid.String().Draw(t, "element")))
			case tensor.Bool:
				in.Data = append(in.Data, byte(rapid.IntRange(0, 1).Draw(t, "element")))
			case tensor.FP32:
				in.Data = binary.LittleEndian.AppendUint32(in.Data, math.Float32bits(rapid.Float32().Draw(t, "element")))
			case tensor.FP64:
				in.Data = binary.LittleEndian.AppendUint64(in.Data, math.Float64bits(rapid.Float64().Draw(t, "element")))
			default:
				in.Data = append(in.Data, rapid.SliceOfN(rapid.Byte(), in.Datatype.Size(), in.Datatype.Size()).Draw(t, "element")...)
			}
		}
		encoder := NewEncoder(&in, "")
		data, err := encoder.Append(nil, n)
		if err != nil {
			return // NaN, infinity
		}
		data = append(append([]byte{'['}, data...), ']')
		if !json.Valid(data) {
			t.Fatalf("wrote %s", data)
		}
		for _, text := range [][]byte{data, nest(t, data, in.Shape)} {
			out := decoder(text, in.Datatype, in.Shape...)
			if err := out.Tensor(); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			if !bytes.Equal(out.Data, in.Data) {
				t.Fatalf("%s came back as %x, was %x", text, out.Data, in.Data)
			}
			if err := out.End(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestNestedShapesAreFound: sizes that are not known come from the lists, and an encoder writes the same text again.
func TestNestedShapesAreFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shape := rapid.SliceOfN(rapid.Int64Range(1, 4), 1, 4).Draw(t, "shape")
		n, _ := tensor.Elements(shape)
		in := tensor.Tensor{Name: "x", Datatype: tensor.FP32, Shape: shape}
		for range n {
			in.Data = binary.LittleEndian.AppendUint32(in.Data, math.Float32bits(rapid.Float32Range(-1e9, 1e9).Draw(t, "element")))
		}
		encoder := NewEncoder(&in, "")
		text, err := encoder.AppendNested(nil, 1, 0)
		if err != nil {
			t.Fatal(err)
		}
		unknown := slices.Clone(shape)
		for i := range unknown {
			if rapid.Bool().Draw(t, "unknown") {
				unknown[i] = -1
			}
		}
		out := decoder(text, tensor.FP32, unknown...)
		if err := out.Value(0); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if !bytes.Equal(out.Data, in.Data) || !slices.Equal(out.Shape, shape) {
			t.Fatalf("%s came back as %x of %v, was %x of %v", text, out.Data, out.Shape, in.Data, shape)
		}
	})
}

// nest writes flat data in the nested form of a shape.
func nest(t *rapid.T, flat []byte, shape []int64) []byte {
	var elements []json.RawMessage
	if err := json.Unmarshal(flat, &elements); err != nil {
		t.Fatal(err)
	}
	var level func(shape []int64) any
	level = func(shape []int64) any {
		if len(shape) == 0 {
			e := elements[0]
			elements = elements[1:]
			return e
		}
		out := make([]any, shape[0])
		for i := range out {
			out[i] = level(shape[1:])
		}
		return out
	}
	if len(shape) == 0 {
		return flat
	}
	out, err := json.Marshal(level(shape))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestFloatsAreRoundedOnce compares with strconv, which rounds correctly, numbers of all lengths and those that lie
// between two float32s, where rounding twice goes wrong.
func TestFloatsAreRoundedOnce(t *testing.T) {
	check := func(t interface{ Fatalf(string, ...any) }, text string) {
		for _, datatype := range []tensor.Datatype{tensor.FP32, tensor.FP64} {
			bits := 8 * datatype.Size()
			want, failed := strconv.ParseFloat(text, bits)
			// Behind it stands enough for it to be read fast.
			out := decoder([]byte("["+text+", 0]"+strings.Repeat(" ", 32)), datatype, 2)
			err := out.Tensor()
			if (err == nil) != (failed == nil) {
				t.Fatalf("%s: %v, strconv says %v", text, err, failed)
			}
			if err != nil {
				continue
			}
			var got uint64
			expect := math.Float64bits(want)
			if bits == 32 {
				got, expect = uint64(binary.LittleEndian.Uint32(out.Data)), uint64(math.Float32bits(float32(want)))
			} else {
				got = binary.LittleEndian.Uint64(out.Data)
			}
			if got != expect {
				t.Fatalf("%s as %s is %x, want %x", text, datatype, got, expect)
			}
		}
	}
	for _, text := range []string{"0", "-0", "-0.0", "1", "0.1", "16777217", "16777219", "9007199254740993", "0.30000001192092896",
		"340282356779733661637539395458142568447", "340282346638528859811704183484516925440", "1e-46", "1.17549435e-38",
		"0.000000000000000001", "1234567890123456789", "12345678901234567890", "99999999999999999999.9", "7.1234567890123456789", "1e-27", "1e-28", "18446744073709551615e-27",
		"9999999999999999999e-1", "1.0000000596046448", "0.000000059604644775390625", "1e22", "1e23", "1e+05", "1E5", "-1e-5", "0e-400", "0e999"} {
		check(t, text)
	}
	rapid.Check(t, func(t *rapid.T) {
		check(t, strconv.FormatFloat(rapid.Float64().Draw(t, "any"), 'g', -1, 64))
		check(t, strconv.FormatFloat(rapid.Float64Range(-1, 1).Draw(t, "wide"), 'f', -1, 64))
		check(t, strconv.FormatFloat(float64(rapid.Float32().Draw(t, "narrow")), 'g', -1, 64))
		check(t, rapid.StringMatching(`-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,22})?([eE][+-]?[0-9]{1,2})?`).Draw(t, "text"))
		// Between two neighbours, and a little beside.
		f := rapid.Float32Range(1e-3, 1e6).Draw(t, "f")
		middle := (float64(f) + float64(math.Nextafter32(f, 1e7))) / 2
		beside := math.Float64bits(middle) + uint64(rapid.IntRange(-2, 2).Draw(t, "beside"))
		check(t, strconv.FormatFloat(math.Float64frombits(beside), 'f', rapid.IntRange(1, 16).Draw(t, "digits"), 64))
		check(t, strconv.FormatFloat(middle, 'f', -1, 64))
	})
}

// BenchmarkDecode reads a picture of 3x224x224, written as clients write them.
func BenchmarkDecode(b *testing.B) {
	const n = 3 * 224 * 224
	for _, c := range []struct {
		name     string
		datatype tensor.Datatype
		write    func(i int) string
		comma    string
	}{
		{"17digits", tensor.FP32, func(i int) string { return strconv.FormatFloat(math.Abs(math.Sin(float64(i))), 'g', 17, 64) }, ","},
		{"float64", tensor.FP32, func(i int) string { return strconv.FormatFloat(math.Sin(float64(i)), 'g', -1, 64) }, ", "},
		{"float32", tensor.FP32, func(i int) string { return strconv.FormatFloat(math.Sin(float64(i)), 'g', -1, 32) }, ","},
		{"6digits", tensor.FP32, func(i int) string { return fmt.Sprintf("%.6f", math.Sin(float64(i))) }, ","},
		{"255ths", tensor.FP32, func(i int) string { return strconv.FormatFloat(float64(i*7919%256)/255, 'g', -1, 64) }, ","},
		{"0to255", tensor.FP32, func(i int) string { return strconv.Itoa(i * 7919 % 256) }, ","},
		{"uint8", tensor.Uint8, func(i int) string { return strconv.Itoa(i * 7919 % 256) }, ","},
		{"int64", tensor.Int64, func(i int) string { return strconv.Itoa(i*7919%30000 - 5000) }, ", "},
		{"fp64", tensor.FP64, func(i int) string { return strconv.FormatFloat(math.Sin(float64(i)), 'g', -1, 64) }, ","},
	} {
		b.Run(c.name, func(b *testing.B) {
			values := make([]string, n)
			for i := range values {
				values[i] = c.write(i)
			}
			flat := []byte("[" + strings.Join(values, c.comma) + "]}]}")
			b.SetBytes(int64(len(flat)))
			b.ReportAllocs()
			data := make([]byte, 0, 8*n)
			for b.Loop() {
				d := decoder(flat, c.datatype, 1, 3, 224, 224)
				d.Memory = reused{data}
				if err := d.Tensor(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// reused is memory that was there before.
type reused struct{ data []byte }

func (r reused) Grow([]byte, int64) ([]byte, error) { return r.data, nil }

// BenchmarkEncode writes the scores of 1000 classes.
func BenchmarkEncode(b *testing.B) {
	values := make([]float32, 1000)
	for i := range values {
		values[i] = float32(math.Sin(float64(i)))
	}
	t := tensor.FromFloat32("x", []int64{1000}, values)
	var out []byte
	b.ReportAllocs()
	for b.Loop() {
		e := NewEncoder(&t, "")
		out, _ = e.Append(out[:0], 1000)
		b.SetBytes(int64(len(out)))
	}
}

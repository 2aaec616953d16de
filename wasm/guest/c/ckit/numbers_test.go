package ckit

import (
	"encoding/binary"
	"math"
	"math/rand"
	"strconv"
	"testing"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
)

// ask is process for tensors.
func (g *Guest) ask(in ...tensor.Tensor) map[string]tensor.Tensor {
	g.t.Helper()
	status, payload := g.Ask(abi.ExportProcess, encode(g.t, in))
	if status != abi.StatusTensors {
		g.t.Fatalf("status %d: %s", status, payload)
	}
	list, err := abi.Decode(payload)
	if err != nil {
		g.t.Fatal(err)
	}
	out := map[string]tensor.Tensor{}
	for _, o := range list {
		out[o.Name] = o
	}
	return out
}

func float64s(values []float64) []byte {
	var b []byte
	for _, v := range values {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
	}
	return b
}

// ulps is how many floats lie between a and b.
func ulps(a, b float64) uint64 {
	order := func(v float64) int64 {
		if bits := int64(math.Float64bits(v)); bits >= 0 {
			return bits
		}
		return math.MinInt64 - int64(math.Float64bits(v))
	}
	if math.IsNaN(a) || math.IsNaN(b) {
		if math.IsNaN(a) && math.IsNaN(b) {
			return 0
		}
		return math.MaxUint64
	}
	d := order(a) - order(b)
	if d < 0 {
		d = -d
	}
	return uint64(d)
}

// exp and ln are Go's where those are right on every machine: on some, Exp overflows too early, and Log takes the
// smallest numbers for larger ones.
func exp(x float64) float64 {
	if x > 709 && x < 709.7827 {
		return math.Exp(x-1) * math.E
	}
	return math.Exp(x)
}

func ln(x float64) float64 {
	if x > 0 && x < 0x1p-1022 {
		return math.Log(x*0x1p54) - 54*math.Ln2
	}
	return math.Log(x)
}

// TestMathematics compares with Go's, which is itself off by up to one unit in the last place.
func TestMathematics(t *testing.T) {
	g := Start(t, Build(t, "testdata/kit.c"))
	random := rand.New(rand.NewSource(1))
	x := []float64{0, math.Copysign(0, -1), 1, -1, 0.5, math.Inf(1), math.Inf(-1), math.NaN(), math.SmallestNonzeroFloat64, math.MaxFloat64,
		709.78, 709.79, 710, -708, -745.1, -745.2, -800, 0x1p-1022, 0x1p-1023, math.E, math.Pi, math.Pi / 2, 3 * math.Pi / 4, 1e-300, 1e300, 0x1p30, -0x1p30, 0x1p31}
	for range 20_000 {
		x = append(x, random.NormFloat64(), random.NormFloat64()*300, random.Float64()*math.Pow(2, random.Float64()*29), math.Exp(random.NormFloat64()*200), 1+random.NormFloat64()*1e-6)
	}
	out := g.ask(tensor.Tensor{Name: "math", Datatype: tensor.Bool, Data: []byte{0}}, tensor.Tensor{Name: "x", Datatype: tensor.FP64, Shape: []int64{int64(len(x))}, Data: float64s(x)})
	for _, f := range []struct {
		name string
		want func(float64) float64
	}{{"exp", exp}, {"ln", ln}, {"sin", math.Sin}, {"cos", math.Cos}} {
		data, worst, at := out[f.name].Data, uint64(0), 0.0
		for i, v := range x {
			got, want := math.Float64frombits(binary.LittleEndian.Uint64(data[8*i:])), f.want(v)
			if f.name == "sin" || f.name == "cos" {
				if math.Abs(v) > 0x1p30 || math.IsInf(v, 0) {
					want = math.NaN()
				}
				// Beside a multiple of pi/2 the last places say nothing: what matters there is the distance.
				if math.Abs(got-want) < 1e-19 {
					continue
				}
			}
			if d := ulps(got, want); d > worst {
				worst, at = d, v
			}
		}
		t.Logf("%s: at most %d units in the last place from Go's, at %g", f.name, worst, at)
		if worst > 3 {
			t.Errorf("%s(%g) is %d units in the last place from Go's", f.name, at, worst)
		}
	}
}

// TestNumbersOf16Bits: all of them as floats, and floats rounded to the nearest of them.
func TestNumbersOf16Bits(t *testing.T) {
	g := Start(t, Build(t, "testdata/kit.c"))
	all := make([]byte, 0, 2<<16)
	for h := range 1 << 16 {
		all = binary.LittleEndian.AppendUint16(all, uint16(h))
	}
	floats := []float32{0, float32(math.Copysign(0, -1)), 65504, 65519.99, 65520, 1e9, float32(math.Inf(1)), float32(math.Inf(-1)), 0x1p-24, 0x1p-25, 0x1.000002p-25, 0x1p-26, 0x1.8p-24, 0x1.ffcp-15, 0x1.ffep-15, 0x1.fffp-15, 0x1p-14, 1 + 0x1p-11, 1 + 0x3p-11, float32(math.NaN()), math.MaxFloat32, 0x1.ff7p127, math.SmallestNonzeroFloat32}
	random := rand.New(rand.NewSource(1))
	for range 50_000 {
		floats = append(floats, float32(random.NormFloat64()), float32(random.NormFloat64()*1e-5), math.Float32frombits(random.Uint32()))
	}
	out := g.ask(tensor.Tensor{Name: "half", Datatype: tensor.Bool, Data: []byte{0}},
		tensor.FromFloat32("f", []int64{int64(len(floats))}, floats), tensor.Tensor{Name: "h", Datatype: tensor.Uint16, Shape: []int64{1 << 16}, Data: all})

	from16, fromB := out["from f16"], out["from bf16"]
	values16, valuesB := from16.Float32s(), fromB.Float32s()
	for h := range 1 << 16 {
		if got, want := values16[h], half(uint16(h)); got != want && (got == got || want == want) || math.Signbit(float64(got)) != (h>>15 == 1) {
			t.Fatalf("half %04x is %g, want %g", h, got, want)
		}
		if got := math.Float32bits(valuesB[h]); got != uint32(h)<<16 {
			t.Fatalf("bfloat %04x is %08x", h, got)
		}
	}
	for i, f := range floats {
		h := binary.LittleEndian.Uint16(out["f16"].Data[2*i:])
		nearest(t, "half", f, h, half, 0x7c00)
		b := binary.LittleEndian.Uint16(out["bf16"].Data[2*i:])
		nearest(t, "bfloat", f, b, func(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }, 0x7f80)
	}
}

// half is the value by the definition of the format.
func half(h uint16) float32 {
	sign := 1.0
	if h>>15 == 1 {
		sign = -1
	}
	exponent, fraction := int(h>>10&31), float64(h&1023)
	switch {
	case exponent == 31 && fraction == 0:
		return float32(math.Inf(int(sign)))
	case exponent == 31:
		return float32(math.NaN())
	case exponent == 0:
		return float32(sign * math.Ldexp(fraction, -24))
	}
	return float32(sign * math.Ldexp(1+fraction/1024, exponent-15))
}

// nearest checks that no number of 16 bits is closer to f than h, and that halves went to the even one. What lies above
// the largest number counts as if numbers went on.
func nearest(t *testing.T, kind string, f float32, h uint16, value func(uint16) float32, infinity uint16) {
	t.Helper()
	if f != f {
		if v := value(h); v == v {
			t.Fatalf("%s of NaN is %g", kind, v)
		}
		return
	}
	if math.Signbit(float64(f)) != (h>>15 == 1) {
		t.Fatalf("%s of %g is %04x", kind, f, h)
	}
	size := h & 0x7fff
	at := func(n uint16) float64 {
		if n == infinity {
			largest := float64(value(infinity - 1))
			return largest + (largest - float64(value(infinity-2)))
		}
		return float64(value(n))
	}
	want := math.Abs(float64(f))
	if size == infinity && want > at(infinity) {
		return
	}
	distance := math.Abs(at(size) - want)
	if size > 0 {
		if d := math.Abs(at(size-1) - want); d < distance || d == distance && size%2 == 1 {
			t.Fatalf("%s of %g is %04x, the one below is nearer", kind, f, h)
		}
	}
	if size < infinity {
		if d := math.Abs(at(size+1) - want); d < distance || d == distance && size%2 == 1 {
			t.Fatalf("%s of %g is %04x, the one above is nearer", kind, f, h)
		}
	}
}

// TestEveryDatatypeIsReadAndWritten: each element becomes the next.
func TestEveryDatatypeIsReadAndWritten(t *testing.T) {
	g := Start(t, Build(t, "testdata/kit.c"))
	shape := []int64{3}
	in := []tensor.Tensor{
		{Name: "next", Datatype: tensor.Bool, Data: []byte{0}},
		{Name: "bool", Datatype: tensor.Bool, Shape: shape, Data: []byte{0, 1, 0}},
		{Name: "uint8", Datatype: tensor.Uint8, Shape: shape, Data: []byte{0, 1, 255}},
		{Name: "uint16", Datatype: tensor.Uint16, Shape: shape, Data: []byte{0, 0, 255, 0, 255, 255}},
		{Name: "uint32", Datatype: tensor.Uint32, Shape: shape, Data: words(4, 0, 255, math.MaxUint32)},
		{Name: "uint64", Datatype: tensor.Uint64, Shape: shape, Data: words(8, 0, math.MaxUint32, math.MaxUint64)},
		{Name: "int8", Datatype: tensor.Int8, Shape: shape, Data: []byte{0, 255, 126}},
		{Name: "int16", Datatype: tensor.Int16, Shape: shape, Data: words(2, 0, 0xffff, 255)},
		{Name: "int32", Datatype: tensor.Int32, Shape: shape, Data: words(4, 0, math.MaxUint32, 65535)},
		{Name: "int64", Datatype: tensor.Int64, Shape: shape, Data: words(8, 0, math.MaxUint64, math.MaxUint32)},
		{Name: "fp16", Datatype: tensor.FP16, Shape: shape, Data: words(2, 0, 0x3c00, 0xbc00)},
		tensor.FromFloat32("fp32", shape, []float32{0, -1, 1.5}),
		{Name: "fp64", Datatype: tensor.FP64, Shape: shape, Data: float64s([]float64{0, -1, 1.5})},
		tensor.FromStrings("bytes", "one", "", "three"),
		{Name: "bf16", Datatype: tensor.BF16, Shape: shape, Data: words(2, 0, 0x3f80, 0xbf80)},
	}
	want := [][]byte{nil, {1, 0, 1}, {1, 2, 0}, words(2, 1, 256, 0), words(4, 1, 256, 0), words(8, 1, 1<<32, 0),
		{1, 0, 127}, words(2, 1, 0, 256), words(4, 1, 0, 65536), words(8, 1, 0, 1<<32), words(2, 0x3c00, 0x4000, 0),
		tensor.FromFloat32("", shape, []float32{1, 0, 2.5}).Data, float64s([]float64{1, 0, 2.5}), tensor.FromStrings("", "three", "", "one").Data, words(2, 0x3f80, 0x4000, 0)}
	out := g.ask(in...)
	if len(out) != 14 {
		t.Fatalf("%d outputs", len(out))
	}
	for i := 1; i < len(in); i++ {
		got := out[strconv.Itoa(i)]
		if got.Datatype != in[i].Datatype || len(got.Shape) != 1 || got.Shape[0] != 3 || string(got.Data) != string(want[i]) {
			t.Errorf("%s: %s %v %x, want %x", in[i].Name, got.Datatype, got.Shape, got.Data, want[i])
		}
	}
}

// words is numbers of size bytes each.
func words(size int, values ...uint64) []byte {
	var b []byte
	for _, v := range values {
		b = append(b, binary.LittleEndian.AppendUint64(nil, v)[:size]...)
	}
	return b
}

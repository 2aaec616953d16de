package assemblyscript

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
	"github.com/dhowfleet/dhow/wasm/guest/kittest"
)

func TestEcho(t *testing.T) {
	kittest.Echo(t, kittest.Build(t, "./build", "echo/index.ts"))
}

// TestHalves: every bit pattern of the 16-bit types comes back, and what lies between two is rounded to the nearest.
func TestHalves(t *testing.T) {
	b := kittest.NewBare(t, kittest.Build(t, "./build", "echo/index.ts"), nil)
	ask := func(bits []uint32) (f16, bf16 []uint16, back16, backb []float32) {
		t.Helper()
		x := tensor.Tensor{Name: "halves", Datatype: tensor.FP32, Shape: []int64{int64(len(bits))}}
		for _, v := range bits {
			x.Data = binary.LittleEndian.AppendUint32(x.Data, v)
		}
		list, err := abi.Encode([]tensor.Tensor{x})
		if err != nil {
			t.Fatal(err)
		}
		item, err := b.Answer(abi.ExportProcess, list)
		if err != nil || item.Status != abi.StatusTensors {
			t.Fatalf("%d %q, %v", item.Status, item.Payload, err)
		}
		out, err := abi.Decode(item.Payload)
		if err != nil || len(out) != 4 || out[0].Datatype != tensor.FP16 || out[1].Datatype != tensor.BF16 {
			t.Fatalf("%v, %v", out, err)
		}
		for i := range bits {
			f16 = append(f16, binary.LittleEndian.Uint16(out[0].Data[2*i:]))
			bf16 = append(bf16, binary.LittleEndian.Uint16(out[1].Data[2*i:]))
		}
		return f16, bf16, out[2].Float32s(), out[3].Float32s()
	}
	// The values of all FP16, by their definition.
	var values []uint32
	for h := range 0x8000 {
		v := math.Ldexp(float64(h&0x3ff), -24)
		if e := h >> 10; e > 0 {
			v = math.Ldexp(float64(h&0x3ff|0x400), e-25)
		}
		if h >= 0x7c00 {
			v = math.Inf(1)
		}
		values = append(values, math.Float32bits(float32(v)))
	}
	f16, _, back, _ := ask(values)
	for h := range 0x7c01 {
		if int(f16[h]) != h || math.Float32bits(back[h]) != values[h] {
			t.Fatalf("%#x has the value %v; written as %#x, read as %v", h, math.Float32frombits(values[h]), f16[h], back[h])
		}
	}
	var between []uint32
	for h := range 0x7bff {
		middle := (float64(math.Float32frombits(values[h])) + float64(math.Float32frombits(values[h+1]))) / 2
		bits := math.Float32bits(float32(middle))
		between = append(between, bits-1, bits, bits+1|1<<31)
	}
	f16, bf16, _, backb := ask(between)
	for h := range 0x7bff {
		if got, want := f16[3*h:3*h+3], []uint16{uint16(h), uint16(h + h&1), uint16(h+1) | 1<<15}; got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
			t.Fatalf("around the middle above %#x: %#x, want %#x", h, got, want)
		}
	}
	for i, bits := range between {
		f := math.Float32frombits(bits)
		up, down := math.Float32frombits(bits&^0xffff+0x10000), math.Float32frombits(bits&^0xffff)
		nearest := down
		if d, u := math.Abs(float64(f-down)), math.Abs(float64(up-f)); u < d || u == d && bits>>16&1 == 1 {
			nearest = up
		}
		if backb[i] != nearest || math.Float32bits(nearest)>>16 != uint32(bf16[i]) {
			t.Fatalf("%v as BF16 is %v (%#x), want %v", f, backb[i], bf16[i], nearest)
		}
	}
	f16, bf16, _, _ = ask([]uint32{0x7fc00000, 0x7f800001, math.Float32bits(65520), math.Float32bits(float32(math.Inf(-1))), 0x7f7fffff})
	if f16[0]&0x7fff <= 0x7c00 || f16[1]&0x7fff <= 0x7c00 || bf16[1]&0x7fff <= 0x7f80 || f16[2] != 0x7c00 || f16[3] != 0xfc00 || bf16[4] != 0x7f80 {
		t.Errorf("%#x %#x", f16, bf16)
	}
}

// TestTheBytesDoNotDependOnThePlace: the kit is built in another folder.
func TestTheBytesDoNotDependOnThePlace(t *testing.T) {
	here := kittest.Build(t, "./build", "echo/index.ts")
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "a", "b")
	kit := filepath.Join(other, "wasm", "guest", "assemblyscript")
	if err := os.CopyFS(kit, os.DirFS(".")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(root, ".cache"), filepath.Join(other, ".cache")); err != nil {
		t.Fatal(err)
	}
	there := kittest.Build(t, filepath.Join(kit, "build"), filepath.Join(kit, "echo", "index.ts"))
	if !bytes.Equal(here, there) {
		t.Errorf("%d bytes here and other %d bytes there", len(here), len(there))
	}
}

func BenchmarkEcho(b *testing.B) { kittest.Benchmark(b, kittest.Build(b, "./build", "echo/index.ts")) }

package host

import (
	"context"
	"testing"

	"github.com/dhowfleet/dhow/models/tensor"
)

func benchmark(b *testing.B, m *Module, size int) {
	in := []tensor.Tensor{{Name: "x", Datatype: tensor.Uint8, Shape: []int64{int64(size)}, Data: make([]byte, size)}}
	b.ReportAllocs()
	b.SetBytes(int64(size))
	for b.Loop() {
		if _, err := m.Process(context.Background(), in, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEchoGo4KiB(b *testing.B)  { benchmark(b, goModule(b), 4<<10) }
func BenchmarkEchoGo602KB(b *testing.B) { benchmark(b, goModule(b), 602112) }

func BenchmarkAnswerHand(b *testing.B) {
	m, err := compile(b, assembly{}, Options{})
	if err != nil {
		b.Fatal(err)
	}
	benchmark(b, m, 4<<10)
}

func BenchmarkStartGo(b *testing.B) {
	m := goModule(b)
	for b.Loop() {
		in, err := m.start(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		in.discard()
	}
}

func BenchmarkCompileGoCached(b *testing.B) {
	code := goGuest(b)
	goModule(b)
	for b.Loop() {
		m, err := compiled.runtime.Compile(context.Background(), code, Options{})
		if err != nil {
			b.Fatal(err)
		}
		_ = m.Close()
	}
}

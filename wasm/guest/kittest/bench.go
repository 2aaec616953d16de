package kittest

import (
	"context"
	"fmt"
	"testing"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host"
)

// Benchmark is an echo guest in the host, with FP32 tensors of 4 KiB and of a picture of 224x224.
func Benchmark(b *testing.B, code []byte) {
	m := Compile(b, code, host.Options{})
	for _, elements := range []int64{1024, 3 * 224 * 224} {
		in := []tensor.Tensor{{Name: "x", Datatype: tensor.FP32, Shape: []int64{elements}, Data: make([]byte, 4*elements)}}
		b.Run(fmt.Sprintf("%d bytes", 4*elements), func(b *testing.B) {
			b.SetBytes(4 * elements)
			for b.Loop() {
				if err := m.View(context.Background(), in, nil, func([]tensor.Tensor) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

package onnxruntime

import (
	"context"
	"fmt"
	"testing"

	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
	"github.com/dhowfleet/dhow/models/tensor"
)

// BenchmarkRunSizes is a model that only negates, so that what the way of the bytes costs shows.
func BenchmarkRunSizes(b *testing.B) {
	for _, size := range []int{4 << 10, 600 << 10, 4 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			width := size / 4
			m := load(b, write(b, onnxtest.Negate(width)))
			in := []tensor.Tensor{tensor.FromFloat32("x", []int64{1, int64(width)}, make([]float32, width))}
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := m.Run(ctx, in, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

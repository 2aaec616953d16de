package batching

import (
	"context"
	"testing"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/tensor"
)

// quick answers at once with what it has.
type quick struct {
	fake
	out []tensor.Tensor
}

func (q *quick) Run(context.Context, []tensor.Tensor, []string) ([]tensor.Tensor, error) {
	return q.out, nil
}

// TestNothingIsAddedAtOneClient: no allocation, no copy, no goroutine, no timer.
func TestNothingIsAddedAtOneClient(t *testing.T) {
	m := &quick{out: question(2, 1, 1)}
	b := New([]inference.Model{m}, Options{MaxBatch: 8, Preferred: []int{8}, MaxDelay: ms, Places: serving.NewPlaces(1)})
	defer b.Close()
	in := question(1, 1, 1)
	ctx := t.Context()
	if n := testing.AllocsPerRun(1000, func() {
		if out, err := b.Run(ctx, in, nil); err != nil || &out[0].Data[0] != &m.out[0].Data[0] {
			t.Fatal("not the model's own answer", err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if len(b.free) != 0 {
		t.Error("it was queued")
	}
}

func BenchmarkOneClient(b *testing.B) {
	batcher := New([]inference.Model{&quick{out: question(2, 1, 1)}}, Options{MaxBatch: 8, Places: serving.NewPlaces(1)})
	defer batcher.Close()
	in := question(1, 1, 1)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := batcher.Run(ctx, in, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkManyClients(b *testing.B) {
	batcher := New([]inference.Model{&fake{}}, Options{MaxBatch: 32})
	defer batcher.Close()
	ctx := b.Context()
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(p *testing.PB) {
		in := question(1, 1, 1)
		for p.Next() {
			if _, err := batcher.Run(ctx, in, nil); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

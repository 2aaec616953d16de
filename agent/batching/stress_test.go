package batching

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/serving"
)

// TestManyAtOnce is for the race detector: clients on real threads, which use their memory again as soon as they are
// answered or have left.
func TestManyAtOnce(t *testing.T) {
	b := New([]inference.Model{&fake{}, &fake{}}, Options{MaxBatch: 8, Places: serving.NewPlaces(2)})
	var clients sync.WaitGroup
	for client := range 16 {
		clients.Go(func() {
			random := rand.New(rand.NewPCG(uint64(client), 1))
			rows := 1 + client%3
			in, again := question(uint32(client), rows, 64), question(uint32(client), rows, 64)
			for range 200 {
				copy(in[0].Data, again[0].Data)
				ctx, cancel := context.WithCancel(context.Background())
				if random.IntN(4) == 0 {
					go cancel()
				}
				out, err := b.Run(ctx, in, nil)
				if err == nil {
					err = check(out, again, nil)
				}
				if err != nil && !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				clear(in[0].Data)
				cancel()
			}
		})
	}
	clients.Wait()
	if n := b.Waiting(); n != 0 || b.Off() != "" {
		t.Errorf("%d wait; %s", n, b.Off())
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

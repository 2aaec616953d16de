package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/tensor"
)

// swapTable says how long it takes from the decision to roll back until no request is given to the candidate any more,
// while clients ask without a pause, and how many requests failed.
func swapTable(ctx context.Context, rounds int) error {
	table := serving.NewTable(serving.Options{Queue: 1 << 20})
	in := []tensor.Tensor{tensor.FromFloat32("x", []int64{1, width}, make([]float32, width))}
	good := &quick{in}
	only := []serving.Variant{{Version: "1", Role: 1, Runner: good}}
	table.Set("m", only)
	done, stop := context.WithCancel(ctx)
	var clients sync.WaitGroup
	var answered, failed, late atomic.Int64
	var decisions atomic.Int64 // odd while the candidate is taken out
	for range 8 {
		clients.Go(func() {
			for done.Err() == nil {
				before := decisions.Load()
				res, err := table.Infer(ctx, serving.Request{Model: "m", Inputs: in})
				answered.Add(1)
				if err != nil {
					failed.Add(1)
				}
				if before%2 == 1 && before == decisions.Load() && res.Version == "2" {
					late.Add(1)
				}
			}
		})
	}
	var times []time.Duration
	for range 200 * rounds {
		table.Set("m", append(only, serving.Variant{Version: "2", Role: 2, ShareMillionths: 500_000, Runner: &quick{in}}))
		time.Sleep(time.Millisecond)
		begun := time.Now()
		drain := table.Set("m", only)
		times = append(times, time.Since(begun))
		decisions.Add(1)
		if err := drain.Wait(ctx); err != nil {
			stop()
			return err
		}
		decisions.Add(1)
	}
	stop()
	clients.Wait()
	if err := table.Close(ctx); err != nil {
		return err
	}
	slices.Sort(times)
	fmt.Printf("\nswap: %d rollbacks under 8 clients: p50 %s, p99 %s (goal <= 1 ms); %d requests, %d failed, %d given to the candidate after it\n",
		len(times), micros(times[len(times)/2]), micros(times[len(times)*99/100]), answered.Load(), failed.Load(), late.Load())
	return nil
}

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/dhowfleet/dhow/agent/batching"
	"github.com/dhowfleet/dhow/agent/inference/onnxruntime"
	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
	"github.com/dhowfleet/dhow/agent/pipeline"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/models/tensor"
)

const (
	heavyWidth  = 2048
	heavyLayers = 4
	manyClients = 32
)

// loaded is how one kind of serving fares under so many clients that ask again as soon as they are answered.
type loaded struct {
	rate       float64 // requests a second
	p50, p99   time.Duration
	executions int64
	requests   int
}

// batchingTable compares answering requests one by one with answering them in batches, on a model of which every run
// has to read 64 MiB of weights, whatever the number of rows. The short form has less of all.
func batchingTable(ctx context.Context, short bool) error {
	dir, err := os.MkdirTemp("", "dhow-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	wide, rounds, span := heavyWidth, 5, 3*time.Second
	if short {
		wide, rounds, span = heavyWidth/4, 1, 100*time.Millisecond
	}
	if err := os.WriteFile(filepath.Join(dir, file), heavy(wide).Model(), 0o600); err != nil {
		return err
	}
	kinds := []string{"one by one", "batches"}
	clients := []int{1, manyClients}
	results := map[string][]loaded{}
	for range rounds {
		for _, kind := range kinds {
			for _, n := range clients {
				r, err := underLoad(ctx, dir, wide, kind == "batches", n, span)
				if err != nil {
					return fmt.Errorf("%s, %d clients: %w", kind, n, err)
				}
				key := fmt.Sprint(kind, n)
				results[key] = append(results[key], r)
			}
		}
	}
	fmt.Printf("\n%d layers of %d x %d FP32 (%d MiB of weights), one row a request, median of %d rounds of %v\n\n",
		heavyLayers, wide, wide, heavyLayers*wide*wide*4>>20, rounds, span)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "serving\tclients\trequests/s\tover one by one\tp50\tp99\trows a run\tgoal\t")
	for _, n := range clients {
		base := medianLoad(results[fmt.Sprint(kinds[0], n)])
		for _, kind := range kinds {
			r, goal, over := medianLoad(results[fmt.Sprint(kind, n)]), "-", "-"
			if kind != kinds[0] {
				over = fmt.Sprintf("%.2fx", r.rate/base.rate)
				if goal = "nothing added"; n > 1 {
					goal = ">= 4x"
				}
				if short {
					goal = "-" // the weights fit into caches
				}
			}
			fmt.Fprintf(w, "%s\t%d\t%.1f\t%s\t%s\t%s\t%.1f\t%s\t\n", kind, n, r.rate, over, millis(r.p50), millis(r.p99), float64(r.requests)/float64(max(r.executions, 1)), goal)
		}
	}
	return w.Flush()
}

// medianLoad is the result with the median rate.
func medianLoad(all []loaded) loaded {
	slices.SortFunc(all, func(a, b loaded) int { return int(math.Copysign(1, a.rate-b.rate)) })
	return all[(len(all)-1)/2]
}

func millis(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d)/1e6) }

// heavy is a chain of layers, each with weights of its own.
func heavy(wide int) *onnxtest.Graph {
	dims := []int64{-1, int64(wide)}
	g := &onnxtest.Graph{
		Inputs:  []onnxtest.Value{{Name: "x", Type: onnxtest.Float, Dims: dims}},
		Outputs: []onnxtest.Value{{Name: "y", Type: onnxtest.Float, Dims: dims}},
	}
	from := "x"
	for layer := range heavyLayers {
		weights := make([]byte, 4*wide*wide)
		for i := range wide * wide {
			v := float32((i*7+layer)%13-6) / float32(wide)
			binary.LittleEndian.PutUint32(weights[4*i:], math.Float32bits(v))
		}
		w, to := fmt.Sprint("w", layer), fmt.Sprint("t", layer)
		if layer == heavyLayers-1 {
			to = "y"
		}
		g.Constants = append(g.Constants, onnxtest.Constant{Name: w, Type: onnxtest.Float, Dims: []int64{int64(wide), int64(wide)}, Data: weights})
		g.Nodes = append(g.Nodes, onnxtest.Node{Op: "MatMul", Inputs: []string{from, w}, Outputs: []string{to}})
		from = to
	}
	return g
}

// underLoad serves the model in dir and asks it for some time.
func underLoad(ctx context.Context, dir string, wide int, batches bool, clients int, span time.Duration) (loaded, error) {
	places := serving.NewPlaces(2)
	shape := []int64{-1, int64(wide)}
	spec := bundle.Spec{
		Name: "heavy", Version: "1", Variants: []bundle.Variant{{Name: "float32", File: file}},
		Inputs:  []tensor.Spec{{Name: "x", Datatype: tensor.FP32, Shape: shape}},
		Outputs: []tensor.Spec{{Name: "y", Datatype: tensor.FP32, Shape: shape}},
	}
	deps := pipeline.Deps{Engine: onnxruntime.New("")}
	if batches {
		deps.Batching = &batching.Options{Places: places, MaxBatch: manyClients, Priority: serving.PriorityOf}
	}
	p, err := pipeline.Open(ctx, deps, dir, spec, "")
	if err != nil {
		return loaded{}, err
	}
	table := serving.NewTable(serving.Options{Places: places, Concurrency: 2, Queue: 2 * clients, Statistics: statistics.New()})
	table.Set("heavy", []serving.Variant{{Version: "1", Role: 1, Runner: p}})
	defer func() { _ = table.Close(context.WithoutCancel(ctx)) }()
	ask := func() (executed int, err error) {
		in := []tensor.Tensor{tensor.FromFloat32("x", []int64{1, int64(wide)}, make([]float32, wide))}
		res, err := table.Infer(ctx, serving.Request{Model: "heavy", Inputs: in})
		return res.Timing.Executed, err
	}
	for range 3 { // warm
		if _, err := ask(); err != nil {
			return loaded{}, err
		}
	}
	var mu sync.Mutex
	var out loaded
	var times []time.Duration
	var first error
	var all sync.WaitGroup
	begin := time.Now()
	for range clients {
		all.Go(func() {
			var mine []time.Duration
			executions := int64(0)
			var err error
			for time.Since(begin) < span && err == nil {
				start := time.Now()
				var executed int
				if executed, err = ask(); executed > 0 {
					executions++
				}
				mine = append(mine, time.Since(start))
			}
			mu.Lock()
			defer mu.Unlock()
			times, out.executions = append(times, mine...), out.executions+executions
			if first == nil {
				first = err
			}
		})
	}
	all.Wait()
	took := time.Since(begin)
	slices.Sort(times)
	out.requests = len(times)
	out.rate = float64(len(times)) / took.Seconds()
	out.p50, out.p99 = times[len(times)/2], times[len(times)*99/100]
	return out, first
}

package pipeline

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/agent/batching"
	"github.com/dhowfleet/dhow/agent/inference/inferencetest"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/agent/telemetry"
	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/models/tensor"
)

var _ serving.Scheduler = (*Pipeline)(nil)

// doubling is a model that takes rows, doubles them, and says how many rows a run had. Its first run says so on
// gate and waits there.
func doubling(gate chan struct{}, runs *[]int) (bundle.Spec, inferencetest.Definition) {
	in, out := []tensor.Spec{spec(tensor.FP32, "x", -1, 1)}, []tensor.Spec{spec(tensor.FP32, "y", -1, 1)}
	var mu sync.Mutex
	run := func(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
		mu.Lock()
		*runs = append(*runs, int(in[0].Shape[0]))
		first := len(*runs) == 1
		mu.Unlock()
		if first {
			gate <- struct{}{}
			<-gate
		}
		values := in[0].Float32s()
		for i := range values {
			values[i] *= 2
		}
		return []tensor.Tensor{tensor.FromFloat32("y", in[0].Shape, values)}, nil
	}
	return bundle.Spec{Variants: []bundle.Variant{{Name: "a", File: "a.onnx"}}, Inputs: in, Outputs: out},
		inferencetest.Definition{Inputs: in, Outputs: out, Run: run}
}

// TestBatchesThroughTheTable: the table has one place, held by the first request's run; those that come meanwhile are one
// batch, and one more than may wait is refused as such.
func TestBatchesThroughTheTable(t *testing.T) {
	gate, runs := make(chan struct{}), []int(nil)
	s, d := doubling(gate, &runs)
	engine := &inferencetest.Engine{}
	engine.Define("", d)
	places := serving.NewPlaces(1)
	options := batching.Options{Places: places, MaxBatch: 8, MaxQueue: 4, Priority: serving.PriorityOf}
	p, err := Open(t.Context(), Deps{Engine: engine, Batching: &options, Runs: 2}, "", s, "")
	if err != nil {
		t.Fatal(err)
	}
	if !p.Scheduled() {
		t.Error("it does not say that it schedules")
	}
	table := serving.NewTable(serving.Options{Places: places, Statistics: statistics.New()})
	table.Set("m", []serving.Variant{{Version: "1", Role: 1, Runner: p}})
	var executed, rows atomic.Int64
	infer := func(i int) error {
		res, err := table.Infer(t.Context(), serving.Request{Model: "m", Inputs: []tensor.Tensor{tensor.FromFloat32("x", []int64{1, 1}, []float32{float32(i)})}})
		if err == nil && res.Outputs[0].Float32s()[0] != float32(2*i) {
			err = fmt.Errorf("%d was doubled to %v", i, res.Outputs[0].Float32s())
		}
		executed.Add(int64(res.Timing.Executed))
		rows.Add(int64(res.Timing.Rows))
		return err
	}
	var all sync.WaitGroup
	all.Go(func() {
		if err := infer(0); err != nil {
			t.Error(err)
		}
	})
	<-gate
	queue := p.model.(*batching.Batcher)
	for i := range 4 {
		all.Go(func() {
			if err := infer(1 + i); err != nil {
				t.Error(err)
			}
		})
	}
	for queue.Waiting() < 4 {
		time.Sleep(time.Millisecond)
	}
	if err := infer(9); serving.CodeOf(err) != telemetry.Overloaded || code(t, err) != telemetry.Overloaded {
		t.Errorf("a full queue: %v", err)
	}
	gate <- struct{}{}
	all.Wait()
	if fmt.Sprint(runs) != "[1 4]" || executed.Load() != 5 || rows.Load() != 5+1 { // the refused one counts as a row that was not executed
		t.Errorf("runs of %v rows, %d executed of %d", runs, executed.Load(), rows.Load())
	}
	if err := table.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if engine.Open() != 0 || !places.TryAcquire() {
		t.Error("something was not given back")
	}
}

// TestStepsTakePlaces: with batching the WASM steps compute on places too, and a request that gets none ends in time.
func TestStepsTakePlaces(t *testing.T) {
	dir := folder(t)
	s, d := fashion(), fake()
	engine := &inferencetest.Engine{}
	engine.Define("", d)
	places := serving.NewPlaces(1)
	p, err := Open(t.Context(), Deps{Engine: engine, Wasm: wasm(t), Batching: &batching.Options{Places: places, MaxBatch: 4}, Runs: 1}, dir, s, "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	in := []tensor.Tensor{photo(t, 28)}
	var timing statistics.Timing
	if _, err := p.Infer(context.WithValue(t.Context(), statistics.Key, &timing), in, nil, nil); err != nil {
		t.Fatal(err)
	}
	if timing.Input <= 0 || timing.Output <= 0 || timing.Rows != 1 || timing.Executed != 1 {
		t.Errorf("%+v", timing)
	}
	if !places.TryAcquire() {
		t.Fatal("the place did not come back")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Infer(ctx, in, nil, nil); !errors.Is(err, context.Canceled) || code(t, err) != telemetry.Canceled {
		t.Error(err)
	}
	if engine.Runs() != 1 {
		t.Errorf("the model ran %d times", engine.Runs())
	}
}

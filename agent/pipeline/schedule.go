package pipeline

import (
	"context"
	"runtime"
	"time"

	"github.com/dhowfleet/dhow/agent/batching"
	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host"
)

// batch puts the queue that joins requests before the model.
func (p *Pipeline) batch(deps Deps) {
	if deps.Batching == nil {
		return
	}
	p.batching = deps.Batching
	runs := deps.Runs
	if runs <= 0 {
		runs = runtime.GOMAXPROCS(0)
	}
	instances := make([]inference.Model, runs)
	for i := range instances {
		instances[i] = p.model
	}
	p.model = batching.New(instances, *deps.Batching)
}

// Scheduled implements agent/serving's Scheduler.
func (p *Pipeline) Scheduled() bool { return p.batching != nil }

// process runs a WASM step, on a place of its own when the table has not given one. The wait for it counts as queue and
// not as what the step took.
func (p *Pipeline) process(ctx context.Context, s *step, in []tensor.Tensor, sink host.Sink, timing *statistics.Timing) (out []tensor.Tensor, took time.Duration, err error) {
	if p.batching != nil && p.batching.Places != nil {
		if err := p.place(ctx, timing); err != nil {
			return nil, 0, err
		}
		defer p.batching.Places.Release()
	}
	start := time.Now()
	out, err = s.module.Process(ctx, in, sink)
	return out, time.Since(start), err
}

// place waits for a place to compute.
func (p *Pipeline) place(ctx context.Context, timing *statistics.Timing) error {
	places := p.batching.Places
	if places.TryAcquire() {
		return nil
	}
	start, priority := time.Now(), uint64(0)
	if p.batching.Priority != nil {
		priority = p.batching.Priority(ctx)
	}
	err := places.Acquire(ctx, priority)
	if timing != nil {
		timing.Queue += time.Since(start)
	}
	return err
}

// rows is the batch dimension of what the model took, 1 where it has none.
func (p *Pipeline) rows(in []tensor.Tensor) int {
	specs := p.model.Inputs()
	if len(specs) == 0 || len(specs[0].Shape) == 0 || specs[0].Shape[0] >= 0 {
		return 1
	}
	for i := range in {
		if in[i].Name == specs[0].Name && len(in[i].Shape) > 0 {
			return int(in[i].Shape[0])
		}
	}
	return 1
}

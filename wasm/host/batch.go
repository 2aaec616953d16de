package host

import (
	"context"
	"math"
	"time"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
)

// Answer is what became of one request of a batch: what Process would have returned.
type Answer struct {
	Tensors []tensor.Tensor
	Err     error
}

// Batch answers several requests, with one call of the guest where it takes several, so that starting and resetting are
// paid once. The limits of time and fuel are then those of as many calls. The requests of one call may see each other.
//
// Where the guest does not take several, or they do not fit into its memory together, or their common call failed by
// anything but the guest's own word, each is asked by itself: one request cannot take the others along.
func (m *Module) Batch(ctx context.Context, in [][]tensor.Tensor, sink Sink) []Answer {
	answers := make([]Answer, len(in))
	for at := 0; at < len(in); at += abi.MaxBatch {
		end := min(at+abi.MaxBatch, len(in))
		some := answers[at:end]
		if m.together(ctx, in[at:end], sink, some) {
			continue
		}
		for i := range some {
			some[i] = Answer{}
			some[i].Tensors, some[i].Err = m.Process(ctx, in[at+i], sink)
		}
	}
	return answers
}

// together answers requests with one call; false means that each is to be asked by itself.
func (m *Module) together(ctx context.Context, requests [][]tensor.Tensor, sink Sink, answers []Answer) bool {
	if !m.batches || len(requests) < 2 {
		return false
	}
	size, err := abi.BatchSize(requests)
	if err != nil || int64(size) > m.limits.Memory {
		return false
	}
	in, err := m.acquire(ctx)
	if err != nil {
		for i := range answers {
			answers[i].Err = err
		}
		return true
	}
	n := int64(len(requests))
	in.output.Reset()
	in.call.begin(ctx, time.Duration(times(int64(m.limits.Timeout), n)), times(m.limits.Fuel, n))
	failed := in.speaks.(batcher).askAll(requests, size, answers)
	if isGuestError(failed) {
		for i := range answers {
			answers[i] = Answer{Err: failed}
		}
		failed = nil
	}
	if failed == nil {
		failed = in.speaks.done()
	}
	failed = in.conclude(failed, size, sink)
	m.settle(in, failed)
	return failed == nil
}

// times multiplies limits, which are not negative.
func times(limit, n int64) int64 {
	if limit > math.MaxInt64/n {
		return math.MaxInt64
	}
	return limit * n
}

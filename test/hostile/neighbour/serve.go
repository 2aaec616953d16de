package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dhowfleet/dhow/agent/inference/onnxruntime"
	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
	"github.com/dhowfleet/dhow/agent/pipeline"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/models/tensor"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/test/inprocess"
	"github.com/dhowfleet/dhow/wasm/host"
)

const (
	timeout = 100 * time.Millisecond // of the hostile step
	collect = 20 * time.Millisecond
)

// server serves the neighbour, and one hostile model after the other.
type server struct {
	*inprocess.Server
	dir    string
	deps   pipeline.Deps
	client *http.Client
}

func serve(ctx context.Context) (*server, error) {
	dir, err := os.MkdirTemp("", "dhow-neighbour-")
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir, client: &http.Client{Timeout: time.Minute}}
	if s.Server, err = inprocess.Start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := s.open(ctx); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *server) open(ctx context.Context) error {
	small := filepath.Join(s.dir, "neighbour.onnx")
	if err := os.WriteFile(small, onnxtest.Matrix(width, 2).Model(), 0o600); err != nil {
		return err
	}
	if _, err := s.Load(ctx, "neighbour", small); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.dir, "model.onnx"), onnxtest.Negate(4).Model(), 0o600); err != nil {
		return err
	}
	runtime, err := host.NewRuntime(ctx, host.Config{})
	s.deps = pipeline.Deps{Engine: onnxruntime.New(""), Wasm: runtime}
	return err
}

func (s *server) close() {
	_ = s.Close(context.Background()) // nothing is left to be lost
	_ = os.RemoveAll(s.dir)
}

// control is work in Go itself, that runs as long as a hostile module is let and can be interrupted anywhere: what it
// costs the neighbour is what any busy core costs on this machine.
type control struct{ *pipeline.Pipeline }

func (control) Infer(ctx context.Context, _ []tensor.Tensor, _ []string, _ host.Sink) ([]tensor.Tensor, error) {
	sum := uint32(0)
	for begin := time.Now(); time.Since(begin) < timeout && ctx.Err() == nil; {
		for n := range uint32(50_000) {
			sum = sum*31 + n
		}
	}
	return nil, fmt.Errorf("it was only to be busy, and came to %d", sum)
}

// put serves a model whose pre.wasm is the module, in the place of the one before. With busy, control runs instead of it.
func (s *server) put(ctx context.Context, module []byte, busy bool) error {
	if err := os.WriteFile(filepath.Join(s.dir, "pre.wasm"), module, 0o600); err != nil {
		return err
	}
	rows := func(name string) []tensor.Spec {
		return []tensor.Spec{{Name: name, Datatype: tensor.FP32, Shape: []int64{-1, 4}}}
	}
	p, err := pipeline.Open(ctx, s.deps, s.dir, bundle.Spec{
		Name: "hostile", Version: "1", Variants: []bundle.Variant{{Name: "only", File: "model.onnx"}},
		Inputs: rows("x"), Outputs: rows("y"), Features: []string{"feature"}, Counters: []string{"counter"},
		Pre: &bundle.Step{Module: "pre.wasm", Timeout: timeout, Memory: 64 << 20},
	}, "")
	if err != nil {
		return err
	}
	var runner serving.Runner = p
	if busy {
		runner = control{p}
	}
	return s.Table.Set("hostile", []serving.Variant{{Version: "1", Role: uint8(syncv1.Role_ROLE_BASELINE), Runner: runner}}).Wait(ctx)
}

// measured is what a window gave.
type measured struct {
	times   []time.Duration // of the neighbour's requests, sorted
	hostile int64           // requests that had their error
	pauses  histogram
}

// window lets the client ask the neighbour, beside streams of requests to the hostile model.
func (s *server) window(ctx context.Context, rate int, length time.Duration, streams int) (measured, error) {
	done, stop := context.WithCancel(ctx)
	var asked atomic.Int64
	var wg sync.WaitGroup
	for range streams {
		wg.Go(func() {
			for request := body(4); done.Err() == nil; {
				if _, err := post(done, s.client, s.URL+"/v2/models/hostile/infer", request); err == nil {
					asked.Add(1)
				}
			}
		})
	}
	wg.Go(func() {
		for tick := time.Tick(collect); done.Err() == nil; <-tick {
			runtime.GC()
		}
	})
	before := pauses()
	times, err := client(ctx, s.URL, rate, length)
	m := measured{times: times, hostile: asked.Load(), pauses: pauses()}
	m.pauses.subtract(before)
	stop()
	wg.Wait()
	return m, err
}

// histogram counts how long the world was stopped for collections, from the order to stop to the start.
type histogram struct {
	counts []uint64
	bounds []float64 // seconds; one more than counts
}

func pauses() histogram {
	sample := []metrics.Sample{{Name: "/sched/pauses/total/gc:seconds"}}
	metrics.Read(sample)
	h := sample[0].Value.Float64Histogram()
	return histogram{h.Counts, h.Buckets}
}

func (h *histogram) add(o histogram) {
	if h.counts == nil {
		h.counts, h.bounds = make([]uint64, len(o.counts)), o.bounds
	}
	for i, n := range o.counts {
		h.counts[i] += n
	}
}

func (h *histogram) subtract(o histogram) {
	for i, n := range o.counts {
		h.counts[i] -= n
	}
}

func (h *histogram) count() (n uint64) {
	for _, c := range h.counts {
		n += c
	}
	return n
}

// quantile returns the upper bound of the bucket in which the share q lies.
func (h *histogram) quantile(q float64) time.Duration {
	rank := uint64(math.Ceil(q * float64(h.count())))
	n := uint64(0)
	for i, c := range h.counts {
		if n += c; c > 0 && n >= rank {
			if bound := h.bounds[i+1]; !math.IsInf(bound, 1) {
				return time.Duration(bound * float64(time.Second))
			}
			return time.Duration(h.bounds[i] * float64(time.Second))
		}
	}
	return 0
}

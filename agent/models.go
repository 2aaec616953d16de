package agent

import (
	"context"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/dhowfleet/dhow/agent/apply"
	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/pipeline"
	"github.com/dhowfleet/dhow/agent/probe"
	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/wasm/host"
)

// models loads bundles into this process, and tries them in another one first.
type models struct {
	engine         inference.Engine
	wasm           *host.Runtime
	threads        int
	library, cache string
	probe          []string
	log            *slog.Logger
}

// probeMargin is what a probe may take beyond the bundle's own budgets, on a busy machine.
const probeMargin = 2 * time.Minute

// try probes a bundle in a child process.
func (m *models) try(ctx context.Context, dir string, spec *bundle.Spec) (apply.Verdict, error) {
	r, err := probe.Run(ctx, probe.Request{
		Dir: dir, MemoryBytes: spec.Budgets.Memory, Wall: spec.Budgets.Load + bundle.MaxGoldens*spec.Budgets.Infer/4 + probeMargin,
		Library: m.library, WasmCache: m.cache, Command: m.probe,
	})
	if err != nil {
		return apply.Verdict{}, err
	}
	m.log.Info("a bundle was probed", "model", spec.Name, "version", spec.Version, "ok", r.OK, "reason", r.Reason, "message", r.Message, "detail", r.Detail,
		"load_ms", r.LoadMillis, "median_us", r.MedianMicros, "peak_bytes", r.PeakBytes, "provider", r.Provider)
	return apply.Verdict{OK: r.OK, Reason: r.Reason, Message: r.Message}, nil
}

// open loads a bundle into this process. Loading reads whole files into memory that is not needed again.
func (m *models) open(ctx context.Context, dir string, spec *bundle.Spec) (apply.Runner, error) {
	p, err := pipeline.Open(ctx, pipeline.Deps{Engine: m.engine, Wasm: m.wasm, Model: inference.Options{Threads: m.threads}}, dir, *spec, "")
	debug.FreeOSMemory()
	if err != nil {
		return nil, err
	}
	return p, nil
}

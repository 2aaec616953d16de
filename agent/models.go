package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/dhowfleet/dhow/agent/apply"
	"github.com/dhowfleet/dhow/agent/batching"
	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/pipeline"
	"github.com/dhowfleet/dhow/agent/probe"
	"github.com/dhowfleet/dhow/agent/responsecache"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host"
)

// models loads bundles into this process, and tries them in another one first.
type models struct {
	engine         inference.Engine
	wasm           *host.Runtime
	places         *serving.Places
	responses      *responsecache.Cache // nil: no answer is given again
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
	deps := pipeline.Deps{Engine: m.engine, Wasm: m.wasm, Model: inference.Options{Threads: m.threads}, Logger: m.log}
	if b := spec.Batching; b != nil {
		deps.Batching = &batching.Options{
			Places: m.places, MaxBatch: b.Max, Preferred: b.Preferred, MaxDelay: b.Delay, MaxQueue: spec.Queue,
			Priority: serving.PriorityOf, Logger: m.log,
		}
		deps.Runs = spec.Instances
	}
	labels, err := readLabels(dir, spec)
	if err != nil {
		return nil, err
	}
	p, err := pipeline.Open(ctx, deps, dir, *spec, "")
	debug.FreeOSMemory()
	if err != nil {
		return nil, err
	}
	c := &loadedCopy{Runner: p, provider: p.Provider(), labels: labels}
	if spec.Cache && m.responses != nil {
		c.Runner = m.responses.Wrap(spec.Name, spec.Version, p)
	}
	return c, nil
}

// loadedCopy is a bundle that answers requests.
type loadedCopy struct {
	serving.Runner
	provider string
	labels   map[string][]string
}

// Provider implements apply.Runner.
func (c *loadedCopy) Provider() string { return c.provider }

// Labels are the names of the outputs' classes.
func (c *loadedCopy) Labels() map[string][]string { return c.labels }

// Scheduled implements serving.Scheduler.
func (c *loadedCopy) Scheduled() bool {
	s, ok := c.Runner.(serving.Scheduler)
	return ok && s.Scheduled()
}

// readLabels reads the bundle's names of classes, for every output that can have some.
func readLabels(dir string, spec *bundle.Spec) (map[string][]string, error) {
	if spec.Labels == "" {
		return nil, nil
	}
	f, err := os.Open(filepath.Join(dir, filepath.FromSlash(spec.Labels)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot read the labels %s: it is not there", spec.Labels)
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, bundle.MaxLabelsBytes))
	if err != nil {
		return nil, err
	}
	names := strings.Split(strings.TrimRight(string(text), "\r\n"), "\n")
	for i := range names {
		names[i] = strings.TrimSpace(names[i])
	}
	out := map[string][]string{}
	for _, o := range spec.Outputs {
		if o.Datatype != tensor.Bytes {
			out[o.Name] = names
		}
	}
	return out, nil
}

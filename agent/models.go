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
	"sync"
	"time"

	"github.com/dhowfleet/dhow/agent/admission"
	"github.com/dhowfleet/dhow/agent/apply"
	"github.com/dhowfleet/dhow/agent/batching"
	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/memory"
	"github.com/dhowfleet/dhow/agent/modelfile"
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
	concurrency    int // requests that compute at a time; 0: one a core
	library, cache string
	policy         host.Policy
	probe          []string
	memory         *memory.Account
	log            *slog.Logger

	mu    sync.Mutex
	tried map[string]int64 // by folder, what a bundle held in its probe, until it is loaded
}

// probeMargin is what a probe may take beyond the bundle's own budgets, on a busy machine.
const probeMargin = 2 * time.Minute

// try probes a bundle in a child process, if there is memory for it: what cannot be loaded afterwards is not worth the try.
func (m *models) try(ctx context.Context, dir string, spec *bundle.Spec) (apply.Verdict, error) {
	if err := m.memory.Check(spec.Name, spec.Version, m.need(dir, spec), 0); err != nil {
		return apply.Verdict{}, err
	}
	r, err := probe.Run(ctx, probe.Request{
		Dir: dir, MemoryBytes: spec.Budgets.Memory, Wall: spec.Budgets.Load + bundle.MaxGoldens*spec.Budgets.Infer/4 + probeMargin,
		Library: m.library, WasmCache: m.cache, WasmPolicy: m.policy, Command: m.probe,
	})
	if err != nil {
		return apply.Verdict{}, err
	}
	m.log.Info("a bundle was probed", "model", spec.Name, "version", spec.Version, "ok", r.OK, "reason", r.Reason, "message", r.Message, "detail", r.Detail,
		"load_ms", r.LoadMillis, "median_us", r.MedianMicros, "peak_bytes", r.PeakBytes, "held_bytes", r.HeldBytes, "provider", r.Provider)
	if r.OK && r.HeldBytes > 0 {
		m.mu.Lock()
		m.tried[dir] = r.HeldBytes
		m.mu.Unlock()
	}
	return apply.Verdict{OK: r.OK, Reason: r.Reason, Message: r.Message}, nil
}

// need is what a bundle's models take: as the probe measured it in this process' time, otherwise as its files say. What
// cannot be read says so when it is loaded.
func (m *models) need(dir string, spec *bundle.Spec) admission.Need {
	m.mu.Lock()
	held := m.tried[dir]
	m.mu.Unlock()
	if held > 0 {
		return admission.Need{Peak: held}
	}
	v, _ := spec.Variant("")
	files := []string{v.File}
	if len(spec.Stages) > 0 {
		files = nil
	}
	for i := range spec.Stages {
		if f := spec.Stages[i].Runs(v); f != "" {
			files = append(files, f)
		}
	}
	var n admission.Need
	for _, f := range files {
		if g, err := modelfile.Inspect(filepath.Join(dir, filepath.FromSlash(f))); err == nil {
			n.Estimate += memory.Of(g, 1)
		}
	}
	return n
}

// admit counts a bundle that is about to be loaded. One that served before is not asked whether it fits.
func (m *models) admit(dir string, spec *bundle.Spec, served bool) (*memory.Grant, error) {
	need := m.need(dir, spec)
	grant, err := m.memory.Admit(spec.Name, spec.Version, need, 0)
	if err != nil && served {
		m.log.Warn("a model that served before is loaded although memory is short", "model", spec.Name, "version", spec.Version, "error", err)
		return m.memory.Note(spec.Name, spec.Version, need), nil
	}
	if err == nil {
		m.mu.Lock()
		delete(m.tried, dir)
		m.mu.Unlock()
	}
	return grant, err
}

// open loads a bundle into this process. Loading reads whole files into memory that is not needed again.
func (m *models) open(ctx context.Context, dir string, spec *bundle.Spec, served bool) (_ apply.Runner, err error) {
	grant, err := m.admit(dir, spec, served)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			grant.Release()
		}
	}()
	deps := pipeline.Deps{Engine: m.engine, Wasm: m.wasm, Model: inference.Options{Threads: m.threads}, Instances: m.concurrency, Logger: m.log}
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
	c := &loadedCopy{Runner: p, provider: p.Provider(), labels: labels, release: grant.Release}
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
	release  func()
}

// Close implements serving.Runner, and gives back what the copy was admitted for.
func (c *loadedCopy) Close() error {
	err := c.Runner.Close()
	c.release()
	return err
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

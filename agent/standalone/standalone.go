// Package standalone puts together an agent without a fleet: it serves a folder of models in Triton's layout, for whoever
// wants to try Dhow, or to put it in the place of a server that such a folder is for.
//
// New opens the folder and takes the addresses; Run loads what is to be served, answers, and follows the folder, until
// its context ends. A model that cannot be loaded keeps no other from serving: the log, the index and the status page
// say why. Every model is tried in a process of its own before it is loaded into this one. Nothing is kept on disk.
package standalone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/dhowfleet/dhow/agent/config"
	"github.com/dhowfleet/dhow/agent/health"
	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/onnxruntime"
	"github.com/dhowfleet/dhow/agent/localapi"
	"github.com/dhowfleet/dhow/agent/modelrepository"
	"github.com/dhowfleet/dhow/agent/server"
	"github.com/dhowfleet/dhow/protocol/version"
	"github.com/dhowfleet/dhow/wasm/host"
)

const (
	drainWait = 10 * time.Second // for requests in flight at the end
	closeWait = 5 * time.Second  // for models to close then
)

// Deps are what the agent gets from outside; only Logger is required.
type Deps struct {
	Logger *slog.Logger
	Now    func() time.Time // nil: time.Now
	// Engine runs models; nil: ONNX Runtime.
	Engine inference.Engine
	// ProbeCommand starts the child that tries models; empty: this program with the argument "probe".
	ProbeCommand []string
	// Compiler compiles WASM modules that are not in the cache; nil: this process does, which cannot be interrupted.
	Compiler host.Compiler
}

// Agent serves a folder of models.
type Agent struct {
	config    config.Repository
	log       *slog.Logger
	startedAt time.Time
	health    *health.Registry
	server    *server.Server
	models    *modelrepository.Repository
	loaded    chan struct{} // closed when what is served from the beginning was tried
}

// New opens the folder and takes the addresses. What it took is given back by Run, or by New when it fails.
func New(ctx context.Context, c config.Repository, d Deps) (_ *Agent, err error) {
	if d.Now == nil {
		d.Now = time.Now
	}
	a := &Agent{config: c, log: d.Logger, startedAt: d.Now(), health: health.New(d.Now), loaded: make(chan struct{})}
	mode, err := modelrepository.ParseMode(c.Mode)
	if err != nil {
		return nil, err
	}
	engine := d.Engine
	if engine == nil {
		engine = onnxruntime.New(c.OnnxRuntime)
	}
	wasm, err := host.NewRuntime(ctx, host.Config{CacheDir: c.Cache, Logger: d.Logger, Compiler: d.Compiler, Policy: c.WasmPolicy()})
	if err != nil {
		return nil, err
	}
	if a.server, err = server.New(c.Serving, server.Deps{Logger: d.Logger, Health: a.health, Now: d.Now}); err != nil {
		return nil, err
	}
	o := modelrepository.Config{
		Dir: c.Dir, Mode: mode, PollInterval: c.Poll, LoadModels: c.LoadModels, ConfigName: c.ConfigName, Strict: c.Strict,
		Engine: engine, Wasm: wasm, Table: a.server.Table, Places: a.server.Places,
		Options: inference.Options{Threads: c.Threads}, Logger: d.Logger,
	}
	// A fake engine of a test is not in the trial's process.
	keeper := &door{account: a.server.Memory, library: c.OnnxRuntime, command: d.ProbeCommand, trial: d.Engine == nil || len(d.ProbeCommand) > 0, log: d.Logger}
	o.Admit = keeper.admit
	if a.server.Responses != nil {
		o.Cache = a.server.Responses
	}
	if a.models, err = modelrepository.Open(o); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

// Addr is the address of the HTTP endpoint.
func (a *Agent) Addr() string { return a.server.Addr() }

// Run serves until the context ends, and then lets requests in flight end. It is called once.
func (a *Agent) Run(ctx context.Context) error {
	defer a.close()
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	failed := make(chan error, 2)
	var parts sync.WaitGroup
	part := func(f func() error) {
		parts.Go(func() {
			if err := f(); err != nil {
				failed <- err
			}
		})
	}
	part(func() error { return a.server.Run(work) })
	part(func() error {
		return a.server.Serve(server.Fronts{Ready: a.ready, Repository: a.models, Status: a.status})
	})
	part(func() error {
		if err := a.models.Start(work); err != nil {
			if work.Err() != nil {
				return nil //nolint:nilerr // it was told to stop
			}
			var missing *inference.RuntimeError
			if errors.As(err, &missing) && missing.Code != "provider-missing" { // only models that want a GPU lack it
				return fmt.Errorf("cannot serve any model: %w", missing)
			}
			a.log.Error("not every model is served", "error", err)
		}
		close(a.loaded)
		debug.FreeOSMemory() // loading reads whole files into memory that is not needed again
		a.models.Run(work)
		return nil
	})
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	a.log.Info("stopping")
	drain, cancel := context.WithTimeout(context.Background(), drainWait)
	defer cancel()
	if shutErr := a.server.Shutdown(drain); shutErr != nil {
		a.log.Warn("requests were cut off", "error", shutErr)
	}
	stop()
	parts.Wait()
	return err
}

// ready reports whether requests are wanted: not before what is served from the beginning was tried.
func (a *Agent) ready() bool {
	select {
	case <-a.loaded:
		return true
	default:
		return false
	}
}

func (a *Agent) close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	if a.models != nil {
		if err := a.models.Close(ctx); err != nil {
			a.log.Warn("models did not close cleanly", "error", err)
		}
	}
	a.server.Close(ctx)
}

// status says how the agent is.
func (a *Agent) status(ctx context.Context) (localapi.Document, error) {
	d := localapi.Document{
		Version: version.Build, Protocol: version.Current, StartedAt: a.startedAt, Repository: a.config.Dir,
		Models: []localapi.Model{}, Warnings: []localapi.Warning{},
	}
	index, err := a.models.Index(ctx, false)
	if err != nil {
		return d, err
	}
	for _, e := range index {
		since := e.Since
		if since.IsZero() {
			since = a.startedAt
		}
		d.Models = append(d.Models, localapi.Model{Model: e.Name, Version: e.Version, State: string(e.State), Since: since, Reason: e.Reason})
	}
	for _, w := range a.health.Warnings() {
		d.Warnings = append(d.Warnings, localapi.Warning{Code: w.GetCode(), Message: w.GetMessage(), Remedy: w.GetRemedy(), Since: w.GetSince().AsTime()})
	}
	a.server.Describe(ctx, &d)
	return d, nil
}

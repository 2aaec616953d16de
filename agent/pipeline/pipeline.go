// Package pipeline runs one variant of a bundle: an optional WASM step before the model, the model, an optional WASM
// step after it; or the list of stages that the bundle writes instead, run one after the other (agent/ensemble).
//
// Open loads all parts from the bundle's folder and checks that they fit together as far as they say so themselves:
// without a step before it the model must take the bundle's inputs, without one after it the model must give the
// bundle's outputs. What a WASM step returns is only known when it runs; Infer checks it each time, and the probe's
// golden samples are where a mistake shows first.
//
// Every error of Open and Infer is an *Error, which says by a telemetry code whose fault it is and by Step which part
// failed. The pipeline keeps no request. Without WASM steps it adds no allocation to the model's own.
//
// With batching a pipeline takes its places to compute by itself: one for each WASM step while it runs, one for each
// batch (agent/batching). It holds none while it waits for another, so that pipelines cannot block each other, and a
// request that waits for its batch keeps no core from others.
//
// Infer is safe for concurrent use and blocks for the computation. Close waits for the requests in flight. A pipeline
// satisfies agent/serving's Runner and Scheduler.
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/dhowfleet/dhow/agent/batching"
	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/telemetry"
	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host"
	wasmstep "github.com/dhowfleet/dhow/wasm/step"
)

// Deps are what all pipelines of a process share.
type Deps struct {
	Engine inference.Engine
	Wasm   *host.Runtime // may be nil when no bundle has WASM steps
	// Model is handed to the engine; the zero value computes with one thread on the CPU.
	Model inference.Options
	// Batching joins requests to batches for the model; nil runs each by itself. A pipeline with it is Scheduled.
	Batching *batching.Options
	// Runs is how many runs of the model go on at a time when it has Batching; 0 means one a core. They share one
	// session, and with it the weights.
	Runs int
	// Instances bounds the instances of each WASM step; 0 means what package host thinks right.
	Instances int
	// Logger takes what the WASM steps say, with the model and its version; nil means the WASM runtime's own.
	Logger *slog.Logger
}

// Error is why a pipeline could not be opened, or a request not be answered.
type Error struct {
	Step string // the file that failed, such as "pre.wasm" or "model.onnx"; "" when the request itself is at fault
	code telemetry.Code
	err  error
}

// Code says whose fault it is. Open returns ModelError, WasmError, Deadline, Canceled or Internal.
func (e *Error) Code() telemetry.Code { return e.code }

// Unwrap returns the part's own error.
func (e *Error) Unwrap() error { return e.err }

func (e *Error) Error() string {
	if e.Step == "" {
		return e.err.Error()
	}
	return e.Step + ": " + e.err.Error()
}

// step is a WASM module and the file it came from.
type step struct {
	file   string
	module *host.Module
}

// Pipeline is one variant of a bundle, ready to answer.
type Pipeline struct {
	inputs, outputs []tensor.Spec
	names           []string // of outputs, in their order
	modelFile       string
	model           inference.Model
	pre, post       *step
	list            *stages           // the whole pipeline, when the bundle writes it as a list
	batching        *batching.Options // nil without batches
	checkInputs     bool              // the bundle is stricter than the model
	ask             []string          // outputs to ask the model for when a request names none; nil for all of the model's
}

// Open loads the variant of the bundle in dir; an empty variant means the bundle's default.
func Open(ctx context.Context, deps Deps, dir string, spec bundle.Spec, variant string) (*Pipeline, error) {
	v, ok := spec.Variant(variant)
	if !ok {
		return nil, &Error{Step: bundle.SpecFile, code: telemetry.Internal, err: fmt.Errorf("the bundle has no variant %q", variant)}
	}
	p := &Pipeline{inputs: spec.Inputs, outputs: spec.Outputs, modelFile: v.File}
	for i := range spec.Outputs {
		p.names = append(p.names, spec.Outputs[i].Name)
	}
	if err := p.open(ctx, deps, dir, &spec); err != nil {
		_ = p.Close()
		return nil, err
	}
	return p, nil
}

func (p *Pipeline) open(ctx context.Context, deps Deps, dir string, spec *bundle.Spec) error {
	if spec.Budgets.Load > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, spec.Budgets.Load)
		defer cancel()
	}
	if spec.Stages != nil {
		return p.openStages(ctx, deps, dir, spec)
	}
	var err error
	if p.model, err = deps.Engine.Load(ctx, filepath.Join(dir, filepath.FromSlash(p.modelFile)), deps.Model); err != nil {
		return p.failed(p.modelFile, telemetry.ModelError, err)
	}
	if err := p.compare(spec); err != nil {
		return p.failed(p.modelFile, telemetry.ModelError, err)
	}
	p.batch(deps)
	if spec.Pre == nil && spec.Post == nil {
		return nil
	}
	var configuration []byte
	if spec.Labels != "" {
		if configuration, err = read(dir, spec.Labels, bundle.MaxLabelsBytes); err != nil {
			return p.failed(spec.Labels, telemetry.WasmError, err)
		}
	}
	if p.pre, err = p.compile(ctx, deps, dir, spec, spec.Pre, configuration); err != nil {
		return err
	}
	p.post, err = p.compile(ctx, deps, dir, spec, spec.Post, configuration)
	return err
}

func (p *Pipeline) compile(ctx context.Context, deps Deps, dir string, spec *bundle.Spec, s *bundle.Step, configuration []byte) (*step, error) {
	if s == nil {
		return nil, nil
	}
	if deps.Wasm == nil {
		return nil, &Error{Step: s.Module, code: telemetry.Internal, err: errors.New("this agent has no WASM runtime")}
	}
	code, err := read(dir, s.Module, bundle.MaxModuleBytes)
	if err != nil {
		return nil, p.failed(s.Module, telemetry.WasmError, err)
	}
	logger := deps.Logger
	if logger != nil {
		logger = logger.With(slog.String("model", spec.Name), slog.String("version", spec.Version))
	}
	o := wasmstep.Options(dir, spec, s)
	o.Configuration, o.Instances, o.Logger = configuration, deps.Instances, logger
	module, err := deps.Wasm.Compile(ctx, code, o)
	if err != nil {
		return nil, p.failed(s.Module, telemetry.WasmError, err)
	}
	return &step{file: s.Module, module: module}, nil
}

// read reads a file of the bundle, which package bundle has checked to lie inside it.
func read(dir, name string, limit int64) ([]byte, error) {
	f, err := os.Open(filepath.Join(dir, filepath.FromSlash(name)))
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("it has more than %d bytes", limit)
	}
	return b, err
}

// compare holds the model against what the bundle declares.
func (p *Pipeline) compare(spec *bundle.Spec) error {
	if spec.Pre == nil {
		if len(spec.Inputs) != len(p.model.Inputs()) {
			return fmt.Errorf("the model has %d inputs, %s declares %d", len(p.model.Inputs()), bundle.SpecFile, len(spec.Inputs))
		}
		for i := range spec.Inputs {
			same, err := fits(&spec.Inputs[i], p.model.Inputs(), "input")
			if err != nil {
				return err
			}
			p.checkInputs = p.checkInputs || !same
		}
	} else {
		p.checkInputs = true
	}
	if spec.Post == nil {
		all := len(p.names) == len(p.model.Outputs())
		for i := range spec.Outputs {
			o := &spec.Outputs[i]
			if slices.Contains(p.model.Unserved(), o.Name) {
				return fmt.Errorf("its output %q is no tensor and cannot be served", o.Name)
			}
			if _, err := fits(o, p.model.Outputs(), "output"); err != nil {
				return err
			}
			all = all && p.model.Outputs()[i].Name == o.Name
		}
		if !all {
			p.ask = p.names
		}
	}
	return nil
}

// fits compares a declared tensor with the model's of that name; same is whether the model itself asks for as much.
func fits(declared *tensor.Spec, model []tensor.Spec, what string) (same bool, err error) {
	i := slices.IndexFunc(model, func(s tensor.Spec) bool { return s.Name == declared.Name })
	if i < 0 {
		return false, fmt.Errorf("the model has no %s %q, which %s declares", what, declared.Name, bundle.SpecFile)
	}
	m := &model[i]
	if m.Datatype != declared.Datatype || len(m.Shape) != len(declared.Shape) {
		return false, fmt.Errorf("the model's %s %q is %s %v, %s declares %s %v", what, m.Name, m.Datatype, m.Shape, bundle.SpecFile, declared.Datatype, declared.Shape)
	}
	for j, d := range declared.Shape {
		if m.Shape[j] >= 0 && d >= 0 && d != m.Shape[j] {
			return false, fmt.Errorf("the model's %s %q is %s %v, %s declares %s %v", what, m.Name, m.Datatype, m.Shape, bundle.SpecFile, declared.Datatype, declared.Shape)
		}
	}
	return slices.Equal(m.Shape, declared.Shape), nil
}

// Inputs are what a request must bring, as the bundle declares them.
func (p *Pipeline) Inputs() []tensor.Spec { return p.inputs }

// Outputs are what an answer brings, as the bundle declares them.
func (p *Pipeline) Outputs() []tensor.Spec { return p.outputs }

// Provider is the execution provider that the model runs on.
func (p *Pipeline) Provider() string {
	if p.list != nil {
		return p.list.models[0].Provider()
	}
	return p.model.Provider()
}

// Close waits for the requests in flight and frees all parts. Closing twice does no harm.
func (p *Pipeline) Close() error {
	var errs []error
	for _, s := range []*step{p.pre, p.post} {
		if s != nil {
			errs = append(errs, s.module.Close())
		}
	}
	if p.model != nil {
		errs = append(errs, p.model.Close())
	}
	if p.list != nil {
		errs = append(errs, p.list.close())
	}
	return errors.Join(errs...)
}

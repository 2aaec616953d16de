package pipeline

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/dhowfleet/dhow/agent/ensemble"
	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/agent/telemetry"
	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host"
)

// stages is a pipeline that the bundle writes as a list: an ensemble of models and WASM modules, which runs one stage
// after the other on the request's own place.
type stages struct {
	chain   *ensemble.Ensemble
	files   map[string]string // by stage
	models  []inference.Model // in the order of the list; a file that several stages run is loaded once
	modules []*step
}

func (s *stages) close() error {
	var errs []error
	for _, m := range s.modules {
		errs = append(errs, m.module.Close())
	}
	for _, m := range s.models {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// openStages loads the parts of a list and connects them.
func (p *Pipeline) openStages(ctx context.Context, deps Deps, dir string, spec *bundle.Spec) error {
	var configuration []byte
	if spec.Labels != "" {
		var err error
		if configuration, err = read(dir, spec.Labels, bundle.MaxLabelsBytes); err != nil {
			return p.failed(spec.Labels, telemetry.WasmError, err)
		}
	}
	s := &stages{files: map[string]string{}}
	p.list = s
	loaded := map[string]inference.Model{}
	var steps []ensemble.Step
	before := true // no model has run yet
	for i := range spec.Stages {
		st := &spec.Stages[i]
		file := st.Runs(bundle.Variant{File: p.modelFile})
		if file == "" {
			module, err := p.compile(ctx, deps, dir, spec, st.Module, configuration)
			if err != nil {
				return err
			}
			s.modules = append(s.modules, module)
			d := st.Step(nil, nil)
			s.files[st.Name] = st.Module.Module
			steps = append(steps, ensemble.Step{Name: st.Name, Inputs: d.Inputs, Outputs: d.Outputs, Caller: &moduleStage{p, module, d.Takes, d.Gives, before}})
			continue
		}
		m := loaded[file]
		if m == nil {
			var err error
			if m, err = deps.Engine.Load(ctx, filepath.Join(dir, filepath.FromSlash(file)), deps.Model); err != nil {
				return p.failed(file, telemetry.ModelError, err)
			}
			loaded[file], s.models = m, append(s.models, m)
		}
		before = false
		d := st.Step(m.Inputs(), m.Outputs())
		s.files[st.Name] = file
		steps = append(steps, ensemble.Step{Name: st.Name, Inputs: d.Inputs, Outputs: d.Outputs, Caller: &modelStage{p, file, m}})
	}
	var err error
	// The request has one place to compute, so its stages run one by one.
	s.chain, err = ensemble.New(ensemble.Spec{Inputs: spec.Inputs, Outputs: spec.Outputs, Steps: steps, Parallel: 1})
	if err != nil {
		return p.failed(bundle.SpecFile, telemetry.ModelError, err)
	}
	return nil
}

// infer runs the list.
func (s *stages) infer(ctx context.Context, p *Pipeline, in []tensor.Tensor, wanted []string, sink host.Sink) ([]tensor.Tensor, error) {
	out, err := s.chain.Infer(ctx, in, wanted, sink)
	if err == nil {
		return out, nil
	}
	var failed *ensemble.Error
	if !errors.As(err, &failed) {
		return nil, input(err) // the request did not reach a stage
	}
	var own *Error
	if errors.As(err, &own) {
		return nil, own // a stage's, which has named itself
	}
	var misfit *inference.InputError
	if errors.As(err, &misfit) {
		return nil, input(failed.Unwrap())
	}
	code := telemetry.ModelError
	var coded interface{ Code() telemetry.Code }
	if errors.As(err, &coded) {
		code = coded.Code()
	}
	return nil, p.failed(s.files[failed.Step], code, failed.Unwrap())
}

// modelStage is a model of a list.
type modelStage struct {
	p     *Pipeline
	file  string
	model inference.Model
}

func (m *modelStage) Inputs() []tensor.Spec  { return m.model.Inputs() }
func (m *modelStage) Outputs() []tensor.Spec { return m.model.Outputs() }

func (m *modelStage) Infer(ctx context.Context, in []tensor.Tensor, wanted []string, _ host.Sink) ([]tensor.Tensor, error) {
	out, err := m.model.Run(ctx, in, wanted) // which says itself where its time went
	if err == nil {
		return out, nil
	}
	var misfit *inference.InputError
	if errors.As(err, &misfit) {
		return nil, misfit // whose fault that is depends on where the model stands
	}
	return nil, m.p.failed(m.file, telemetry.ModelError, err)
}

// moduleStage is a WASM module of a list.
type moduleStage struct {
	p      *Pipeline
	step   *step
	takes  []tensor.Spec
	gives  []tensor.Spec
	before bool // the models
}

func (m *moduleStage) Inputs() []tensor.Spec  { return m.takes }
func (m *moduleStage) Outputs() []tensor.Spec { return m.gives }

func (m *moduleStage) Infer(ctx context.Context, in []tensor.Tensor, wanted []string, sink host.Sink) ([]tensor.Tensor, error) {
	start := time.Now()
	out, err := m.step.module.Process(ctx, in, sink)
	if timing := statistics.Of(ctx); timing != nil {
		if m.before {
			timing.Input += time.Since(start)
		} else {
			timing.Output += time.Since(start)
		}
	}
	if err != nil {
		var guest *host.GuestError
		if errors.As(err, &guest) && guest.Input {
			return nil, &inference.InputError{Message: guest.Message}
		}
		return nil, m.p.failed(m.step.file, telemetry.WasmError, err)
	}
	picked, err := m.pick(out, wanted)
	if err != nil {
		return nil, &Error{Step: m.step.file, code: telemetry.WasmError, err: err}
	}
	return picked, nil
}

// pick puts what the stages after the module take into their order.
func (m *moduleStage) pick(out []tensor.Tensor, wanted []string) ([]tensor.Tensor, error) {
	n := len(wanted)
	if n == 0 {
		n = len(m.gives)
	}
	picked := make([]tensor.Tensor, n)
	for i := range picked {
		name := m.gives[min(i, len(m.gives)-1)].Name
		if len(wanted) > 0 {
			name = wanted[i]
		}
		at := slices.IndexFunc(out, func(t tensor.Tensor) bool { return t.Name == name })
		if at < 0 {
			return nil, fmt.Errorf("it returned no tensor %q, which %s says that it gives", name, bundle.SpecFile)
		}
		picked[i] = out[at]
	}
	return picked, nil
}

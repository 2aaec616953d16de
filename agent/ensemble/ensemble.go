// Package ensemble serves several models as one: the outputs of some are the inputs of others.
//
// New takes the steps in any order and works out from the names of their tensors which needs which. Everything that the
// steps say of themselves is checked there: that each input has exactly one source, that nothing waits for itself, that
// every promised output is made, and that datatypes and shapes go together. A step may leave a tensor's datatype open
// (tensor.Invalid), as a WASM module does; then the steps that take it, and the check of the ensemble's own outputs,
// say so when it does not fit.
//
// Infer runs the steps that the wanted outputs need, each once, and asks each only for what is used. A chain runs on the
// caller's goroutine and allocates nothing but what its steps do; steps that do not need each other run at the same time,
// at most Spec.Parallel of them. The first error, or the end of the context, stops the rest. An error names its step; a
// step that takes nothing of the request itself cannot blame it, so that what it calls a wrong request is the ensemble's
// own fault.
//
// Infer is safe for concurrent use and blocks for its steps; the inputs are read until it returns, and nothing of a
// request is kept. Close returns at once, or as Spec.Close does. An Ensemble satisfies agent/serving's Runner: its steps
// queue for the places to compute, so that it needs none itself (Scheduled).
package ensemble

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/telemetry"
	"github.com/dhowfleet/dhow/models/dataflow"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host"
)

// Bounds of an ensemble.
const (
	MaxSteps        = dataflow.MaxSteps
	defaultParallel = 8
)

// Caller computes one step; agent/serving's Runner is one. Inputs lists what it must be given, Outputs what it can give.
type Caller interface {
	Infer(ctx context.Context, in []tensor.Tensor, wanted []string, sink host.Sink) ([]tensor.Tensor, error)
	Inputs() []tensor.Spec
	Outputs() []tensor.Spec
}

// Step is one model of the ensemble.
type Step struct {
	Name string // unique, for errors
	// Inputs and Outputs map the step's own tensor names to the ensemble's. Outputs that are not in the map are not used.
	Inputs, Outputs map[string]string
	Caller          Caller
}

// Spec describes an ensemble.
type Spec struct {
	Inputs, Outputs []tensor.Spec // -1 varies
	Steps           []Step
	// Parallel bounds the steps of one request that run at the same time; 0 means 8, 1 keeps a request on its goroutine.
	Parallel int
	// Close is called once, by Ensemble.Close, to close what the steps own; nil means that they are others' to close.
	Close func() error
}

// Ensemble is ready to answer.
type Ensemble struct {
	inputs, outputs []tensor.Spec
	graph           *dataflow.Graph
	callers         []Caller // of the graph's steps
	whole           *plan
	parallel        int
	pool            sync.Pool // of *state

	close     func() error
	closeOnce sync.Once
	closeErr  error
}

// New checks an ensemble and makes it. The sentences of its errors are for whoever wrote the configuration.
func New(s Spec) (*Ensemble, error) {
	e := &Ensemble{inputs: s.Inputs, outputs: s.Outputs, close: s.Close, parallel: s.Parallel}
	if e.parallel <= 0 {
		e.parallel = defaultParallel
	}
	steps := make([]dataflow.Step, len(s.Steps))
	for i, st := range s.Steps {
		if st.Caller == nil {
			return nil, fmt.Errorf("cannot make an ensemble: nothing computes step %d (%s)", i+1, st.Name)
		}
		steps[i] = dataflow.Step{Name: st.Name, Takes: st.Caller.Inputs(), Gives: st.Caller.Outputs(), Inputs: st.Inputs, Outputs: st.Outputs}
		e.callers = append(e.callers, st.Caller)
	}
	var err error
	if e.graph, err = dataflow.Connect(s.Inputs, s.Outputs, steps); err != nil {
		return nil, fmt.Errorf("cannot make an ensemble: %w", err)
	}
	e.whole = e.plan(e.graph.Order, nil)
	return e, nil
}

// Error says which step failed. It wraps the step's own error, which says whose fault it is.
type Error struct {
	Step string
	err  error
}

func (e *Error) Error() string { return "step " + e.Step + ": " + e.err.Error() }

// Unwrap returns the step's own error.
func (e *Error) Unwrap() error { return e.err }

// fault is the ensemble's verdict on a step. It wraps nothing: what a step calls the request's fault is not, when the
// step never saw the request.
type fault struct {
	code telemetry.Code
	text string
}

func (f *fault) Error() string { return f.text }

// Code is how serving.CodeOf classes it.
func (f *fault) Code() telemetry.Code { return f.code }

func faultf(step string, code telemetry.Code, format string, args ...any) error {
	return &Error{Step: step, err: &fault{code, fmt.Sprintf(format, args...)}}
}

// Inputs are what a request must bring.
func (e *Ensemble) Inputs() []tensor.Spec { return e.inputs }

// Outputs are what an answer brings.
func (e *Ensemble) Outputs() []tensor.Spec { return e.outputs }

// Scheduled says that the steps take places to compute themselves.
func (e *Ensemble) Scheduled() bool { return true }

// Close closes what the steps own, if that is the ensemble's to do. Closing twice does no harm.
func (e *Ensemble) Close() error {
	e.closeOnce.Do(func() {
		if e.close != nil {
			e.closeErr = e.close()
		}
	})
	return e.closeErr
}

// state is what one request needs, reused by later ones.
type state struct {
	wires []tensor.Tensor
	in    []tensor.Tensor // of all steps, each its own part
}

func (s *state) clear() {
	clear(s.wires)
	clear(s.in)
}

// Infer answers a request with the wanted outputs in their order, or with all. Errors are an *inference.InputError for
// a request that does not fit the ensemble, and an *Error for a step that failed. sink, which may be nil, gets what the
// steps emit, from one goroutine at a time.
func (e *Ensemble) Infer(ctx context.Context, in []tensor.Tensor, wanted []string, sink host.Sink) ([]tensor.Tensor, error) {
	p, err := e.planFor(wanted)
	if err != nil {
		return nil, err
	}
	var buffer [8]int
	order, err := inference.Check(e.inputs, in, buffer[:0])
	if err != nil {
		return nil, err
	}
	s, _ := e.pool.Get().(*state)
	if s == nil {
		s = &state{wires: make([]tensor.Tensor, e.graph.Wires), in: make([]tensor.Tensor, e.graph.Inputs)}
	}
	for i, at := range order {
		s.wires[i] = in[at] // the ensemble's inputs are its first names
	}
	if p.branches && e.parallel > 1 {
		err = e.runParallel(ctx, p, s, sink)
	} else {
		err = e.runChain(ctx, p, s, sink)
	}
	var out []tensor.Tensor
	if err == nil {
		out, err = e.collect(s, wanted)
	}
	// A step that failed to stop in time cannot still be reading: both ways of running wait for theirs.
	s.clear()
	e.pool.Put(s)
	return out, err
}

func (e *Ensemble) runChain(ctx context.Context, p *plan, s *state, sink host.Sink) error {
	for i := range p.steps {
		if err := e.runStep(ctx, &p.steps[i], s, sink); err != nil {
			return err
		}
	}
	return nil
}

// runStep computes one step whose inputs are there.
func (e *Ensemble) runStep(ctx context.Context, t *task, s *state, sink host.Sink) error {
	st := &e.graph.Steps[t.step]
	if err := ctx.Err(); err != nil {
		return &Error{Step: st.Name, err: err}
	}
	in := s.in[st.First : st.First+len(st.In)]
	for i, w := range st.In {
		in[i] = s.wires[w.Wire]
		in[i].Name = w.Name
	}
	out, err := e.callers[t.step].Infer(ctx, in, t.ask, sink)
	if err != nil {
		return failed(st, err)
	}
	if len(out) != len(t.take) {
		return faultf(st.Name, telemetry.Internal, "it was asked for %d tensors and returned %d", len(t.take), len(out))
	}
	for i, w := range t.take {
		if out[i].Name != w.Name {
			return faultf(st.Name, telemetry.Internal, "it was asked for %q and returned %q", w.Name, out[i].Name)
		}
		if w.Wire >= 0 {
			s.wires[w.Wire] = out[i]
		}
	}
	return nil
}

// failed names the step in an error.
func failed(st *dataflow.Connected, err error) error {
	if st.Direct {
		return &Error{Step: st.Name, err: err}
	}
	var misfit *inference.InputError
	var coded interface{ Code() telemetry.Code }
	if errors.As(err, &misfit) || errors.As(err, &coded) && coded.Code() == telemetry.InvalidInput {
		return faultf(st.Name, telemetry.ModelError, "it does not take what the steps before it gave: %v", err)
	}
	return &Error{Step: st.Name, err: err}
}

// collect returns the wanted outputs, checked against what the ensemble promises.
func (e *Ensemble) collect(s *state, wanted []string) ([]tensor.Tensor, error) {
	one := func(i int) (tensor.Tensor, error) {
		t := s.wires[e.graph.Outputs[i]]
		t.Name = e.outputs[i].Name
		if err := e.outputs[i].Accepts(&t); err != nil {
			by := e.graph.Steps[e.producer(e.graph.Outputs[i])].Name
			o := &e.outputs[i]
			return t, faultf(by, telemetry.ModelError, "output %q came as %s %v, %s %v was promised", t.Name, t.Datatype, t.Shape, o.Datatype, o.Shape)
		}
		return t, nil
	}
	n := len(wanted)
	if n == 0 {
		n = len(e.outputs)
	}
	out := make([]tensor.Tensor, n)
	for i := range out {
		at := i
		if len(wanted) > 0 {
			at = e.output(wanted[i])
		}
		var err error
		if out[i], err = one(at); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (e *Ensemble) output(name string) int {
	for i := range e.outputs {
		if e.outputs[i].Name == name {
			return i
		}
	}
	return -1
}

// producer returns the step that makes a name.
func (e *Ensemble) producer(wire int) int {
	for i := range e.graph.Steps {
		for _, w := range e.graph.Steps[i].Out {
			if w.Wire == wire {
				return i
			}
		}
	}
	return -1
}

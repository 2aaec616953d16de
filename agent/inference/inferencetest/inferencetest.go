// Package inferencetest is a fake of agent/inference for tests that want no model runtime.
//
// A test defines what lies at a path; loading another path fails as a broken model would. Models check their inputs as
// the real ones do, count their calls, and run a function of the test's. Everything is safe for concurrent use and
// nothing blocks but the test's own function and Close, which waits for the calls in flight.
package inferencetest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/models/tensor"
)

// RunFunc computes all outputs of a model, in the order of its definition.
type RunFunc func(ctx context.Context, in []tensor.Tensor) ([]tensor.Tensor, error)

// Definition is a model as the fake knows it.
type Definition struct {
	Inputs, Outputs []tensor.Spec
	Unserved        []string
	// Run computes the outputs; nil answers zeros of the outputs' shapes, 1 standing for a dimension that varies.
	Run RunFunc
	// Err is returned by Load instead of a model.
	Err error
}

// Engine is a fake inference.Engine. The zero value knows no model.
type Engine struct {
	mu     sync.Mutex
	models map[string]Definition
	open   atomic.Int64
	loads  atomic.Int64
	runs   atomic.Int64
}

// Define says what lies at a path, or at every path when path is "".
func (e *Engine) Define(path string, d Definition) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.models == nil {
		e.models = map[string]Definition{}
	}
	e.models[path] = d
}

// Open is the number of models loaded and not yet closed.
func (e *Engine) Open() int { return int(e.open.Load()) }

// Loads is the number of models that were loaded so far.
func (e *Engine) Loads() int { return int(e.loads.Load()) }

// Runs is the number of calls of Run that reached a model.
func (e *Engine) Runs() int { return int(e.runs.Load()) }

// Load implements inference.Engine.
func (e *Engine) Load(ctx context.Context, path string, options inference.Options) (inference.Model, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e.mu.Lock()
	d, ok := e.models[path]
	if !ok {
		d, ok = e.models[""]
	}
	e.mu.Unlock()
	if !ok {
		return nil, &inference.LoadError{Message: fmt.Sprintf("cannot load %s: no such model", path)}
	}
	if d.Err != nil {
		return nil, d.Err
	}
	provider := options.Provider
	if provider == "" {
		provider = "CPUExecutionProvider"
	}
	e.open.Add(1)
	e.loads.Add(1)
	return &model{engine: e, def: d, provider: provider}, nil
}

// Version implements inference.Engine.
func (*Engine) Version() string { return "fake" }

// Providers implements inference.Engine.
func (*Engine) Providers() []string { return []string{"CPUExecutionProvider"} }

type model struct {
	engine   *Engine
	def      Definition
	provider string
	gate     sync.RWMutex
	closed   bool
}

func (m *model) Inputs() []tensor.Spec  { return m.def.Inputs }
func (m *model) Outputs() []tensor.Spec { return m.def.Outputs }
func (m *model) Unserved() []string     { return m.def.Unserved }
func (m *model) Provider() string       { return m.provider }

func (m *model) Run(ctx context.Context, in []tensor.Tensor, wanted []string) ([]tensor.Tensor, error) {
	m.gate.RLock()
	defer m.gate.RUnlock()
	if m.closed {
		return nil, inference.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	order, err := inference.Check(m.def.Inputs, in, nil)
	if err != nil {
		return nil, err
	}
	sorted := make([]tensor.Tensor, len(order))
	for i, j := range order {
		sorted[i] = in[j]
	}
	m.engine.runs.Add(1)
	run := m.def.Run
	if run == nil {
		run = m.zeros
	}
	all, err := run(ctx, sorted)
	if err != nil || len(wanted) == 0 {
		return all, err
	}
	out := make([]tensor.Tensor, 0, len(wanted))
	for _, name := range wanted {
		found := false
		for i := range all {
			if all[i].Name == name {
				out, found = append(out, all[i]), true
				break
			}
		}
		if !found {
			return nil, inference.Inputf("the model has no output %q", name)
		}
	}
	return out, nil
}

func (m *model) zeros(context.Context, []tensor.Tensor) ([]tensor.Tensor, error) {
	out := make([]tensor.Tensor, len(m.def.Outputs))
	for i, s := range m.def.Outputs {
		shape := make([]int64, len(s.Shape))
		for j, d := range s.Shape {
			shape[j] = max(d, 1)
			if d == 0 {
				shape[j] = 0
			}
		}
		n, err := tensor.Elements(shape)
		if err != nil {
			return nil, err
		}
		size := int64(s.Datatype.Size())
		if s.Datatype == tensor.Bytes {
			size = 4 // the length of an empty element
		}
		out[i] = tensor.Tensor{Name: s.Name, Datatype: s.Datatype, Shape: shape, Data: make([]byte, n*size)}
	}
	return out, nil
}

func (m *model) Close() error {
	m.gate.Lock()
	defer m.gate.Unlock()
	if !m.closed {
		m.closed = true
		m.engine.open.Add(-1)
	}
	return nil
}

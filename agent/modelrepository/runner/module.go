package runner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/agent/telemetry"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/models/triton"
	"github.com/dhowfleet/dhow/wasm/host"
)

// Module answers requests with a WASM module.
type Module struct {
	compiled        *host.Module
	inputs, outputs []tensor.Spec
	release         func()
	once            sync.Once
}

// NewModule describes a module as its configuration says; release is called once after it is closed.
func NewModule(compiled *host.Module, c *triton.Config, release func()) *Module {
	m := &Module{compiled: compiled, release: release}
	m.inputs, m.outputs = c.Specs()
	return m
}

// Inputs are what a request must bring, as the configuration says.
func (m *Module) Inputs() []tensor.Spec { return m.inputs }

// Outputs are what an answer brings, as the configuration says.
func (m *Module) Outputs() []tensor.Spec { return m.outputs }

// moduleError is a fault of a module, and not of the request.
type moduleError struct {
	code telemetry.Code
	err  error
}

func (e *moduleError) Error() string        { return e.err.Error() }
func (e *moduleError) Unwrap() error        { return e.err }
func (e *moduleError) Code() telemetry.Code { return e.code }

// Infer implements serving.Runner.
func (m *Module) Infer(ctx context.Context, in []tensor.Tensor, wanted []string, sink host.Sink) ([]tensor.Tensor, error) {
	for _, w := range wanted {
		if !slices.ContainsFunc(m.outputs, func(s tensor.Spec) bool { return s.Name == w }) {
			return nil, inference.Inputf("the model has no output %q", w)
		}
	}
	var order [8]int
	if _, err := inference.Check(m.inputs, in, order[:0]); err != nil {
		return nil, err
	}
	begun := time.Now()
	out, err := m.compiled.Process(ctx, in, sink)
	if err != nil {
		return nil, failedModule(err)
	}
	if t := statistics.Of(ctx); t != nil {
		t.Infer += time.Since(begun)
		t.Rows, t.Executed = 1, 1
	}
	picked := make([]tensor.Tensor, 0, len(m.outputs))
	for i := range m.outputs {
		s := &m.outputs[i]
		at := slices.IndexFunc(out, func(t tensor.Tensor) bool { return t.Name == s.Name })
		if at < 0 {
			return nil, &moduleError{telemetry.WasmError, fmt.Errorf("the module returned no tensor %q, which its configuration has", s.Name)}
		}
		if s.Accepts(&out[at]) != nil {
			return nil, &moduleError{telemetry.WasmError, fmt.Errorf("the module returned %q as %s %v, its configuration has %s %v", s.Name, out[at].Datatype, out[at].Shape, s.Datatype, s.Shape)}
		}
		picked = append(picked, out[at])
	}
	if len(wanted) == 0 {
		return picked, nil
	}
	asked := make([]tensor.Tensor, len(wanted))
	for i, w := range wanted {
		asked[i] = picked[slices.IndexFunc(picked, func(t tensor.Tensor) bool { return t.Name == w })]
	}
	return asked, nil
}

// failedModule says whose fault an error of a module is.
func failedModule(err error) error {
	var guest *host.GuestError
	switch {
	case errors.As(err, &guest) && guest.Input:
		return inference.Inputf("%s", guest.Message)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, host.ErrClosed):
		return &moduleError{telemetry.Internal, err}
	}
	return &moduleError{telemetry.WasmError, err}
}

// Close implements serving.Runner.
func (m *Module) Close() error {
	err := m.compiled.Close()
	m.once.Do(m.release)
	return err
}

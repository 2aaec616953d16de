package modelrepository

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/agent/telemetry"
	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/models/triton"
	"github.com/dhowfleet/dhow/wasm/host"
)

// Bounds of what a WASM module's parameters can ask for.
const (
	maxModuleMemory  = 4 << 30
	maxModuleTimeout = 10 * time.Minute
)

// openModule opens a version that is a WASM module. Its parameters "timeout", such as "200ms", and "memory_bytes" are
// the limits of one call.
func (r *Repository) openModule(ctx context.Context, f *folder, v int64, c *triton.Config) (l loaded, err error) {
	if r.Wasm == nil {
		return l, errors.New("this server has no WASM runtime")
	}
	if err := c.Validate(); err != nil {
		return l, err
	}
	limits, err := moduleLimits(c)
	if err != nil {
		return l, err
	}
	_, file, err := r.modelFile(f, v, c)
	if err != nil {
		return l, err
	}
	code, err := readFile(file, bundle.MaxModuleBytes)
	if err != nil {
		return l, fmt.Errorf("%s: %w", c.DefaultFile, err)
	}
	release, err := r.admitted(ctx, &Candidate{Model: f.name, Version: v, File: file, Config: c, Instances: max(c.Instances(), 1)})
	if err != nil {
		return l, err
	}
	m := &module{release: release}
	m.inputs, m.outputs = c.Specs()
	m.compiled, err = r.Wasm.Compile(ctx, code, host.Options{
		Name: c.DefaultFile, Limits: limits, Instances: c.Instances(),
		Logger: r.Logger.With("model", f.name, "version", strconv.FormatInt(v, 10)),
	})
	if err != nil {
		release()
		return l, fmt.Errorf("%s: %w", c.DefaultFile, err)
	}
	return loaded{runner: m, limit: c.Instances()}, nil
}

func moduleLimits(c *triton.Config) (host.Limits, error) {
	var l host.Limits
	var err error
	if s := c.Parameter("timeout"); s != "" {
		if l.Timeout, err = time.ParseDuration(s); err != nil || l.Timeout <= 0 || l.Timeout > maxModuleTimeout {
			return l, fmt.Errorf("parameter timeout %q is no time of at most %v, such as \"200ms\"", s, maxModuleTimeout)
		}
	}
	if s := c.Parameter("memory_bytes"); s != "" {
		if l.Memory, err = strconv.ParseInt(s, 10, 64); err != nil || l.Memory <= 0 || l.Memory > maxModuleMemory {
			return l, fmt.Errorf("parameter memory_bytes %q is no number from 1 to %d", s, int64(maxModuleMemory))
		}
	}
	return l, nil
}

// module answers requests with a WASM module.
type module struct {
	compiled        *host.Module
	inputs, outputs []tensor.Spec
	release         func()
	once            sync.Once
}

func (m *module) Inputs() []tensor.Spec  { return m.inputs }
func (m *module) Outputs() []tensor.Spec { return m.outputs }

// moduleError is a fault of a module, and not of the request.
type moduleError struct {
	code telemetry.Code
	err  error
}

func (e *moduleError) Error() string        { return e.err.Error() }
func (e *moduleError) Unwrap() error        { return e.err }
func (e *moduleError) Code() telemetry.Code { return e.code }

// Infer implements serving.Runner.
func (m *module) Infer(ctx context.Context, in []tensor.Tensor, wanted []string, sink host.Sink) ([]tensor.Tensor, error) {
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
func (m *module) Close() error {
	err := m.compiled.Close()
	m.once.Do(m.release)
	return err
}

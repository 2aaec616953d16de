package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/agent/telemetry"
	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host"
)

// Infer answers a request with the wanted outputs in their order, or with all that the bundle declares. The inputs are
// read until it returns and not kept; the result is the caller's. sink, which may be nil, gets what the WASM steps emit.
func (p *Pipeline) Infer(ctx context.Context, in []tensor.Tensor, wanted []string, sink host.Sink) ([]tensor.Tensor, error) {
	if p.list != nil {
		return p.list.infer(ctx, p, in, wanted, sink)
	}
	for _, w := range wanted {
		if !slices.Contains(p.names, w) {
			return nil, input(fmt.Errorf("the model has no output %q", w))
		}
	}
	if p.checkInputs {
		var order [8]int
		if _, err := inference.Check(p.inputs, in, order[:0]); err != nil {
			return nil, input(err)
		}
	}
	timing := statistics.Of(ctx)
	switch {
	case p.pre == nil:
		return p.answer(ctx, in, wanted, sink, timing)
	case p.batching != nil:
		// A request that waits for its batch must not hold an instance of the step.
		out, took, err := p.process(ctx, p.pre, in, sink, timing)
		if err != nil {
			return nil, p.wasm(p.pre, err)
		}
		if timing != nil {
			timing.Input += took
		}
		return p.answer(ctx, out, wanted, sink, timing)
	}
	var answer []tensor.Tensor
	var failed error
	start := time.Now()
	err := p.pre.module.View(ctx, in, sink, func(out []tensor.Tensor) error {
		if timing != nil {
			timing.Input += time.Since(start)
		}
		answer, failed = p.answer(ctx, out, wanted, sink, timing)
		return nil
	})
	if err != nil {
		return nil, p.wasm(p.pre, err)
	}
	return answer, failed
}

// answer runs the model and the step after it on what the step before it returned.
func (p *Pipeline) answer(ctx context.Context, in []tensor.Tensor, wanted []string, sink host.Sink, timing *statistics.Timing) ([]tensor.Tensor, error) {
	ask := p.ask
	if p.post == nil && len(wanted) > 0 {
		ask = wanted
	}
	out, err := p.model.Run(ctx, in, ask)
	if err != nil {
		return nil, p.ran(err)
	}
	if p.batching == nil && timing != nil {
		timing.Rows = p.rows(in)
		timing.Executed = timing.Rows
	}
	if p.post == nil {
		return out, nil
	}
	out, took, err := p.process(ctx, p.post, out, sink, timing)
	if err != nil {
		return nil, p.wasm(p.post, err)
	}
	if timing != nil {
		timing.Output += took
	}
	if out, err = pick(out, p.outputs, p.names, wanted); err != nil {
		return nil, &Error{Step: p.post.file, code: telemetry.WasmError, err: err}
	}
	return out, nil
}

// pick checks what the step after the model returned, and puts the wanted outputs, or all of names, in their order.
func pick(out []tensor.Tensor, specs []tensor.Spec, names, wanted []string) ([]tensor.Tensor, error) {
	find := func(name string) int {
		return slices.IndexFunc(out, func(t tensor.Tensor) bool { return t.Name == name })
	}
	for i := range specs {
		at := find(specs[i].Name)
		if at < 0 {
			return nil, fmt.Errorf("it returned no tensor %q, which %s declares", specs[i].Name, bundle.SpecFile)
		}
		if t := &out[at]; specs[i].Accepts(t) != nil {
			return nil, fmt.Errorf("it returned %q as %s %v, %s declares %s %v", t.Name, t.Datatype, t.Shape, bundle.SpecFile, specs[i].Datatype, specs[i].Shape)
		}
	}
	if len(wanted) == 0 {
		wanted = names
	}
	picked := make([]tensor.Tensor, len(wanted))
	for i, name := range wanted {
		picked[i] = out[find(name)]
	}
	return picked, nil
}

func input(err error) error { return &Error{code: telemetry.InvalidInput, err: err} }

// failed classes an error whose code would be code, had the request or the opening not ended for another reason.
func (p *Pipeline) failed(step string, code telemetry.Code, err error) error {
	var waited interface{ Code() telemetry.Code } // the queue before the model says so itself
	switch {
	case errors.As(err, &waited):
		code = waited.Code()
	case errors.Is(err, context.DeadlineExceeded):
		code = telemetry.Deadline
	case errors.Is(err, context.Canceled):
		code = telemetry.Canceled
	case errors.Is(err, host.ErrClosed), errors.Is(err, inference.ErrClosed):
		code = telemetry.Internal
	}
	return &Error{Step: step, code: code, err: err}
}

// wasm classes an error of a WASM step. That the request is at fault is for the step before the model to say: when the
// step after it runs, the request has been accepted.
func (p *Pipeline) wasm(s *step, err error) error {
	var guest *host.GuestError
	if s == p.pre && errors.As(err, &guest) && guest.Input {
		return input(err)
	}
	return p.failed(s.file, telemetry.WasmError, err)
}

// ran classes an error of the model.
func (p *Pipeline) ran(err error) error {
	var misfit *inference.InputError
	if !errors.As(err, &misfit) {
		return p.failed(p.modelFile, telemetry.ModelError, err)
	}
	if p.pre == nil {
		return input(err)
	}
	return &Error{Step: p.pre.file, code: telemetry.WasmError, err: fmt.Errorf("it returned what the model does not take: %w", err)}
}

// Package inference is the contract between Dhow and whatever runs a model file.
//
// An Engine opens a model file, the Model it returns answers requests: tensors in, tensors out, both in the form of
// models/tensor, so that a request's bytes reach the runtime as they arrived. The package holds the contract and its
// error classes alone; agent/inference/onnxruntime implements it, agent/inference/inferencetest is a fake for tests.
//
// Engines and models are safe for concurrent use. Load blocks for as long as the runtime takes to read and optimise
// the file (seconds for a large model); Run blocks for the computation and gives up soon after its context ends;
// Close waits for the calls in flight.
package inference

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/dhowfleet/dhow/models/tensor"
)

// Engine opens model files.
type Engine interface {
	// Load opens the model at path; external data lies beside it. A file that is no model is a *LoadError, a runtime
	// that cannot be used a *RuntimeError.
	Load(ctx context.Context, path string, options Options) (Model, error)
	// Version is the runtime's version, empty until the runtime was first needed.
	Version() string
	// Providers lists the execution providers of the runtime, preferred first, nil until the runtime was first needed.
	Providers() []string
}

// Options of one model.
type Options struct {
	// Threads computes one request with so many threads; 0 means 1. More than one helps only large models on idle
	// machines: on a busy two-core machine, two threads took two to three times as long as one.
	Threads int
	// Provider is an execution provider as named by Engine.Providers, "" for the CPU.
	Provider string
}

// Model is one opened model file.
type Model interface {
	// Inputs and Outputs describe the tensors in the model's own order; callers do not change them. Optional inputs
	// that have a default inside the model are not listed.
	Inputs() []tensor.Spec
	Outputs() []tensor.Spec
	// Unserved names the outputs that are no tensors (sequences, maps) and therefore cannot be asked for.
	Unserved() []string
	// Run computes the wanted outputs, or all of Outputs when wanted is empty, and returns them in the order wanted.
	// Inputs are matched by name, in any order. The inputs' data is read until Run returns and not kept; the outputs
	// belong to the caller. A request that does not fit the model is an *InputError.
	Run(ctx context.Context, in []tensor.Tensor, wanted []string) ([]tensor.Tensor, error)
	// Provider is the execution provider in use.
	Provider() string
	// Close waits for the running calls and frees the model; later calls of Run return ErrClosed. Closing twice does no harm.
	Close() error
}

// ErrClosed is returned by Run on a closed model.
var ErrClosed = errors.New("the model is closed")

// InputError says what is wrong with a request; it is the sender's to mend.
type InputError = tensor.InputError

// Inputf makes an *InputError.
func Inputf(format string, args ...any) error { return tensor.Inputf(format, args...) }

// LoadError says why a file is no model that the runtime can use.
type LoadError struct{ Message string }

func (e *LoadError) Error() string { return e.Message }

// RuntimeError says why the runtime itself cannot be used, and how to mend it.
type RuntimeError struct {
	// Code is one of "onnxruntime-missing", "onnxruntime-broken", "onnxruntime-too-old", "provider-missing".
	Code    string
	Message string
	Remedy  string
}

func (e *RuntimeError) Error() string { return e.Message + "; " + e.Remedy }

// Check compares a request with a model's inputs and returns, for each of specs, the index of its tensor in dst, which
// is grown as needed. Missing, repeated, unknown and misfitting tensors are *InputErrors naming the tensor.
func Check(specs []tensor.Spec, in []tensor.Tensor, dst []int) ([]int, error) {
	dst = dst[:0]
	for i := range specs {
		found := -1
		for j := range in {
			if in[j].Name != specs[i].Name {
				continue
			}
			if found >= 0 {
				return dst, Inputf("input %q is given twice", specs[i].Name)
			}
			found = j
		}
		if found < 0 {
			return dst, misfit(specs, in, fmt.Sprintf("input %q is missing", specs[i].Name))
		}
		if err := specs[i].Accepts(&in[found]); err != nil {
			return dst, Inputf("%v", err)
		}
		if err := in[found].Validate(); err != nil {
			return dst, Inputf("%v", err)
		}
		dst = append(dst, found)
	}
	if len(in) > len(specs) {
		return dst, misfit(specs, in, fmt.Sprintf("%d inputs were given, the model has %d", len(in), len(specs)))
	}
	return dst, nil
}

// misfit names the first tensor that is no input of the model, probably one of its inputs by a wrong name. Where there is
// none, it is what otherwise says.
func misfit(specs []tensor.Spec, in []tensor.Tensor, otherwise string) error {
	for i := range in {
		if !slices.ContainsFunc(specs, func(s tensor.Spec) bool { return s.Name == in[i].Name }) {
			return Inputf("the model has no input %q; it wants %s", in[i].Name, names(specs))
		}
	}
	return &InputError{Message: otherwise}
}

func names(specs []tensor.Spec) string {
	const most = 8
	var out []string
	for i := range specs[:min(len(specs), most)] {
		out = append(out, strconv.Quote(specs[i].Name))
	}
	if len(specs) > most {
		out = append(out, fmt.Sprintf("and %d more", len(specs)-most))
	}
	return strings.Join(out, ", ")
}

// Package probe tries a bundle, or a model file alone, out in a process of its own before it may serve.
//
// Run starts a child, which checks the bundle's folder, loads it as the agent would, answers the golden samples, and
// measures. A model file alone is loaded and answers a request of zeros. The child limits itself before it touches the
// bundle, and Run watches it and ends it when a budget is spent (wasm/confine), so that a bundle that loops, swells or
// crashes the model runtime costs the agent nothing but a Result that says so. WASM steps are compiled in the child
// itself, which is limited anyway, into the cache that the agent loads from: a module that explodes when it is compiled
// meets the probe's limits, and what was compiled is not compiled again.
//
// What goes in is a Request as JSON on the child's standard input; what comes out is one line of JSON on its standard
// output, bounded like its standard error. The child is Main, which a program calls under a verb of its own.
//
// Run blocks until the child has ended, within Request.Wall; it is safe for concurrent use. A Result's Message is made
// of names of files, samples and outputs and of numbers and may be shown anywhere; Detail may quote the runtime, or
// text of a WASM step, and stays on the node.
package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/wasm/confine"
	"github.com/dhowfleet/dhow/wasm/host"
)

// The reasons of a Result that is not OK.
const (
	BundleInvalid  = "bundle-invalid"  // the folder breaks a rule of package bundle
	LoadFailed     = "load-failed"     // the model runtime refuses the model
	WasmFailed     = "wasm-failed"     // a WASM step cannot be compiled or fails
	GoldenMismatch = "golden-mismatch" // a golden sample is answered otherwise, or not at all
	MemoryLimit    = "memory-limit"
	TimeLimit      = "time-limit"
	Crashed        = "crashed"
)

// Request says what to try and what it may cost.
type Request struct {
	Dir     string `json:"dir,omitempty"`     // the bundle's folder
	Variant string `json:"variant,omitempty"` // "" is the bundle's default
	// Model is the path of a model file, which is tried in place of a bundle. The caller has looked at it (agent/modelfile).
	// With Rows, two invented rows are tried too, alone and together.
	Model string `json:"model,omitempty"`
	Rows  bool   `json:"rows,omitempty"`
	// MemoryBytes of anonymous memory; 0 means the default budget of a bundle.
	MemoryBytes int64 `json:"memoryBytes"`
	// CPUSeconds of processor time; 0 means twice Wall.
	CPUSeconds uint64 `json:"cpuSeconds"`
	// Wall is how long it may take in all; 0 means two minutes.
	Wall    time.Duration `json:"wall"`
	Threads int           `json:"threads,omitempty"` // of a model file; 0: one
	// Library is the path of ONNX Runtime, "" to be looked for; WasmCache is the folder of compiled WASM code that is
	// shared with the agent, "" for none.
	Library   string `json:"library,omitempty"`
	WasmCache string `json:"wasmCache,omitempty"`
	// WasmPolicy is what the bundle's modules may be granted.
	WasmPolicy host.Policy `json:"wasmPolicy"`
	// Command starts the child; empty means this program with the argument "probe".
	Command []string `json:"-"`
}

// Result is what came of it.
type Result struct {
	OK      bool   `json:"ok"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	Detail  string `json:"detail,omitempty"`

	LoadMillis   int64  `json:"loadMillis,omitempty"`
	MedianMicros int64  `json:"medianMicros,omitempty"` // of one request; 0 when there was no sample to measure with
	PeakBytes    int64  `json:"peakBytes,omitempty"`    // of anonymous memory, of the whole process
	HeldBytes    int64  `json:"heldBytes,omitempty"`    // what of it came with the bundle and stayed after the last request
	Provider     string `json:"provider,omitempty"`
}

// answer is what the child writes.
type answer struct {
	Result
	// Runtime is set when the machine and not the bundle is at fault.
	Runtime *inference.RuntimeError `json:"runtime,omitempty"`
}

const (
	maxAnswer = 64 << 10
	maxStderr = 16 << 10
)

// Run tries a bundle. The error is for what says nothing about the bundle: a child that cannot be started, a model
// runtime that cannot be used (an *inference.RuntimeError), or ctx's end.
func Run(ctx context.Context, r Request) (Result, error) {
	if r.MemoryBytes <= 0 {
		r.MemoryBytes = bundle.DefaultMemory
	}
	if r.Wall <= 0 {
		r.Wall = 2 * time.Minute
	}
	if r.CPUSeconds == 0 {
		r.CPUSeconds = uint64(2*r.Wall/time.Second) + 1
	}
	if len(r.Command) == 0 {
		r.Command = confine.Self("probe")
	}
	input, err := json.Marshal(r)
	if err != nil {
		return Result{}, fmt.Errorf("cannot start a probe: %w", err)
	}
	p := confine.Process{
		Command: r.Command, Stdin: bytes.NewReader(input), Memory: r.MemoryBytes, CPU: time.Duration(r.CPUSeconds) * time.Second, Wall: r.Wall,
		Stdout: maxAnswer, Stderr: maxStderr,
	}
	o, err := p.Run(ctx)
	switch {
	case ctx.Err() != nil:
		return Result{}, ctx.Err()
	case err != nil:
		return Result{}, fmt.Errorf("cannot start a probe: %w", err)
	}
	return r.result(o)
}

// what names in messages what was tried.
func (r *Request) what() string {
	if r.Model != "" {
		return "the model"
	}
	return "the bundle"
}

// result says what the end of the process and its answer mean.
func (r *Request) result(o *confine.Outcome) (Result, error) {
	failed := func(reason, format string, args ...any) (Result, error) {
		return Result{Reason: reason, Message: fmt.Sprintf(format, args...), Detail: o.Stderr, PeakBytes: o.Peak}, nil
	}
	what, budget := r.what(), bundle.FormatSize(r.MemoryBytes)
	var a answer
	if o.End == confine.Exited {
		if json.Unmarshal(o.LastLine(), &a) != nil {
			return failed(Crashed, "%s crashed the process that tried it (exit status 0)", what)
		}
		if a.Runtime != nil {
			return Result{}, a.Runtime
		}
		a.PeakBytes = max(a.PeakBytes, o.Peak)
		// Between two looks of the watch memory can come and go; the child looks after every step.
		if !a.OK || a.PeakBytes <= r.MemoryBytes {
			return a.Result, nil
		}
		o.Peak, o.End = a.PeakBytes, confine.OverMemory
	}
	switch o.End {
	case confine.OverMemory:
		return failed(MemoryLimit, "%s takes %s of memory, its budget is %s", what, bundle.FormatSize(o.Peak), budget)
	case confine.OverTime:
		return failed(TimeLimit, "%s was not ready after %v", what, r.Wall)
	case confine.OverCPU:
		return failed(TimeLimit, "%s took %d s of processor time without being ready", what, r.CPUSeconds)
	case confine.Starved:
		return failed(MemoryLimit, "%s asked for more memory than its budget of %s", what, budget)
	case confine.Killed:
		return failed(MemoryLimit, "the system ended the probe, most likely for lack of memory, while %s had %s", what, bundle.FormatSize(o.Peak))
	}
	return failed(Crashed, "%s crashed the process that tried it (%s)", what, o.Crash)
}

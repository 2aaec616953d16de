// Package hostile is a corpus of WASM modules that want to harm whoever runs them, and what must become of each.
//
// Cases is the table: name, kind, what the module does, how it is built, and the verdict: where it is caught and why.
// Run hands one module to a host.Runtime as the agent would, and says what became of it. The test of this package
// compares the verdicts and what the process has left over afterwards; test/hostile/table writes docs/wasm-hostile.md;
// test/hostile/neighbour lets the ones that never end run beside a model that serves.
//
// Modules are built anew on every call of Build and never kept, because some have megabytes. Everything is safe for
// concurrent use. Run blocks for as long as the module may run: its limits bound that.
package hostile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host"
	"github.com/dhowfleet/dhow/wasm/metering"
	"github.com/dhowfleet/dhow/wasm/wasmtest"
)

// Case is one hostile module.
type Case struct {
	Name  string
	Kind  string
	Does  string
	Build func() []byte
	Want  Verdict
	// Invalid says that no WASM 2.0 engine may take the module. All others are valid: they would run if nobody cared.
	Invalid bool
	// Large says that building or running it takes a tenth of a second or more, most of it for pages of memory.
	Large bool
	// Configure changes what the module is compiled with.
	Configure func(*host.Options)
}

// Where a module was caught.
type Where string

// The places, in the order in which a module passes them.
const (
	Rewriter Where = "rewriter" // before it is compiled: package wasm/metering
	Contract Where = "contract" // before it is compiled: imports and exports that the contract does not offer or asks for
	Compiler Where = "compiler" // wazero's validation: the types of operands
	Start    Where = "start"    // start function, _initialize, dhow_abi_version, configure
	Call     Where = "call"     // a request
	Nowhere  Where = "answers"  // what it does is harmless here: it is answered
)

// Verdict is what became of a module.
type Verdict struct {
	Where Where
	// What is a metering.Reason where the rewriter refused; "fuel", "stack", "trap", "deadline" where it was stopped;
	// "input error" where the guest's own answer was an error; otherwise "".
	What string
}

func (v Verdict) String() string {
	if v.What == "" {
		return string(v.Where)
	}
	return string(v.Where) + ": " + v.What
}

// Endless reports whether the module runs until something stops it: by fuel where there is a budget of it, or by the
// deadline.
func (c *Case) Endless() bool { return c.Want == Verdict{Call, Fuel} }

// What stops a call.
const (
	Fuel     = "fuel"
	Stack    = "stack"
	Trap     = "trap"
	Deadline = "deadline"
	Input    = "input error"
)

// Limits are what the corpus runs under: an untrusted bundle's, with a budget small enough that the whole corpus takes
// seconds. The deadline is far off, so that the verdict is the budget's and the same on every machine.
var Limits = host.Limits{Memory: 64 << 20, Stack: 1 << 20, Table: 1 << 16, Timeout: time.Minute, Fuel: 2_500_000, Quantum: 10_000}

// startPatience is how long a module that never gets started is let. The host itself gives up after 10 s.
const startPatience = 500 * time.Millisecond

// Outcome is what Run saw.
type Outcome struct {
	Verdict
	Err     error // the host's words; nil where it answers
	Took    time.Duration
	Usage   host.Usage // of the request
	Stats   host.Stats // after the module was closed
	Emitted int        // features and counts that reached the sink
}

// Run compiles the module and, if it is not refused, sends it one request.
func Run(ctx context.Context, r *host.Runtime, c *Case, limits host.Limits, logger *slog.Logger) Outcome {
	options := host.Options{
		Name: c.Name, Limits: limits, Instances: 1, Configuration: []byte("labels\n"),
		Features: []string{"feature"}, Counters: []string{"counter"}, Logger: logger,
	}
	if c.Configure != nil {
		c.Configure(&options)
	}
	code := c.Build()
	if c.Want == (Verdict{Start, Deadline}) {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, startPatience)
		defer cancel()
	}
	begin := time.Now()
	m, err := r.Compile(ctx, code, options)
	if err != nil {
		return Outcome{Verdict: refusal(err), Err: err, Took: time.Since(begin)}
	}
	var sink counting
	begin = time.Now()
	_, usage, err := m.Measure(ctx, Request(), &sink)
	o := Outcome{Verdict: Verdict{Where: Nowhere}, Err: err, Took: time.Since(begin), Usage: usage, Emitted: int(sink)}
	if err != nil {
		o.Verdict = Verdict{Call, stopped(err)}
	}
	if err := m.Close(); err != nil {
		o.Verdict = Verdict{Where: o.Where, What: fmt.Sprintf("and it cannot be closed: %v", err)}
	}
	o.Stats = m.Stats()
	return o
}

// Request is what every module is asked.
func Request() []tensor.Tensor {
	return []tensor.Tensor{{Name: "x", Datatype: tensor.FP32, Shape: []int64{4}, Data: make([]byte, 16)}}
}

// refusal says why Compile refused a module.
func refusal(err error) Verdict {
	var refused *metering.Error
	if errors.As(err, &refused) {
		return Verdict{Rewriter, string(refused.Reason)}
	}
	if strings.HasPrefix(err.Error(), "cannot start ") {
		return Verdict{Start, stopped(err)}
	}
	_, text, _ := strings.Cut(err.Error(), ": ")
	if strings.HasPrefix(text, "it ") {
		return Verdict{Where: Contract}
	}
	return Verdict{Where: Compiler}
}

func stopped(err error) string {
	var guest *host.GuestError
	switch {
	case errors.Is(err, host.ErrFuel):
		return Fuel
	case errors.Is(err, host.ErrStack):
		return Stack
	case errors.Is(err, host.ErrDeadline), errors.Is(err, context.DeadlineExceeded):
		return Deadline
	case errors.As(err, &guest):
		return Input
	case errors.Is(err, host.ErrTrap):
		return Trap
	}
	return fmt.Sprintf("unknown error: %v", err)
}

// counting is a sink that counts.
type counting int

func (c *counting) Feature(string, float64) { *c++ }
func (c *counting) Count(string, uint64)    { *c++ }

// Cases returns the corpus, kind by kind.
func Cases() []Case {
	return slices.Concat(
		loops(), recursion(), memories(), tables(), bombs(), indices(), names(), sections(), malformed(), calls(), answers(),
	)
}

// builder collects the cases of one kind.
type builder struct {
	kind  string
	cases []Case
}

func (b *builder) add(name, does string, where Where, what string, build func() []byte) *Case {
	b.cases = append(b.cases, Case{Name: name, Kind: b.kind, Does: does, Build: build, Want: Verdict{where, what}})
	return &b.cases[len(b.cases)-1]
}

// invalid adds a module that is no WASM.
func (b *builder) invalid(name, does string, where Where, what string, build func() []byte) {
	b.add(name, does, where, what, build).Invalid = true
}

// processing is a guest whose process does something before it answers.
func processing(body ...wasmtest.Code) func() []byte {
	return func() []byte { return wasmtest.NewGuest().Answering(body...).Bytes() }
}

// shaped is a guest that shape changes.
func shaped(shape func(*wasmtest.Guest), imports ...wasmtest.Import) func() []byte {
	return func() []byte {
		g := wasmtest.NewGuest(imports...)
		shape(g)
		return g.Bytes()
	}
}

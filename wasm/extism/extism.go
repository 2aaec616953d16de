// Package extism offers the host functions that plug-ins made with Extism's kits import, so that a plug-in can be a step
// without being built anew. It is a way in, and slower than Dhow's own contract: a plug-in fetches and stores its data
// eight bytes at a time, each by a call of the host.
//
// # Data flow and contract
//
// Extism gives a plug-in a memory beside its own, in which blocks are addressed by 64-bit numbers. Here that memory is
// an arena of the State, one for each instance. For a call the host asks State.Input for room and writes the input there;
// the plug-in's function reads it (input_load_u64), asks for blocks (alloc), fills them (store_u64), says which is the
// output (output_set) or what went wrong (error_set), and returns 0 if all is well. State.Output and State.Failure say
// what came of it, and State.Reset forgets everything, variables included: a plug-in remembers nothing from one call to
// the next.
//
// The functions behave as those of Extism's own kernel: what lies outside the arena reads as zero and is not written, a
// freed or unknown block has length 0, log and var_get free what they were handed. It differs where the kernel would fail
// quietly or reach outside: a block that there is no room for ends the call with ErrMemory, http_request ends it with
// ErrNetwork, for no guest has a network. config_get knows what State was made with. Freed blocks are reused by size.
//
// # Bounds
//
// The arena, its blocks (65,536), and the variables (1 MiB, 1,024 of them) are bounded. Every function that copies or
// clears charges for it first. No function takes longer than copying its own block.
//
// # Concurrency and blocking
//
// Functions of different instances run side by side. A State belongs to its instance, which runs one call at a time.
// Nothing blocks.
package extism

import (
	"context"
	"errors"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/dhowfleet/dhow/wasm/abi"
)

// Module is the name under which plug-ins import the functions.
const Module = "extism:host/env"

// What ends a call.
var (
	ErrMemory    = errors.New("the plug-in asked for more memory than it may have")
	ErrNetwork   = errors.New("the plug-in asked for the network, which no guest has")
	ErrVariables = errors.New("the plug-in's variables are more than it may have")
)

// Caller is the instance for which a function runs.
type Caller interface {
	// Charge takes fuel before work is done. It may end the call by a panic.
	Charge(fuel int64)
	// Log takes a line at one of the levels of wasm/abi. line is valid until Log returns.
	Log(level uint32, line []byte)
	// Plugin is what the instance has beside its memory.
	Plugin() *State
}

// What work costs in fuel, beyond what a call of an import costs already.
const (
	costAlloc = 64 // of a block
	costFind  = 32 // of finding a block by its address
	costLine  = 256
	perMove   = 64 // bytes copied or cleared for a unit
	perLine   = 4  // bytes of log lines for a unit
)

type call struct {
	Caller
	*State
}

// Instantiate offers the functions to the guests of runtime. of returns the instance that a context belongs to; it is
// asked by every call.
func Instantiate(ctx context.Context, runtime wazero.Runtime, of func(context.Context) Caller) error {
	builder := runtime.NewHostModuleBuilder(Module)
	for i := range functions {
		f := &functions[i]
		builder.NewFunctionBuilder().WithGoFunction(api.GoFunc(func(ctx context.Context, stack []uint64) {
			caller := of(ctx)
			f.do(call{caller, caller.Plugin()}, stack)
		}), types(f.params), types(f.results)).Export(f.name)
	}
	_, err := builder.Instantiate(ctx)
	return err
}

// types reads a signature: "i" is an i32, "l" an i64.
func types(letters string) []api.ValueType {
	out := make([]api.ValueType, len(letters))
	for i, c := range letters {
		out[i] = api.ValueTypeI64
		if c == 'i' {
			out[i] = api.ValueTypeI32
		}
	}
	return out
}

// functions is what plug-ins may import. A result takes the place of the first parameter.
var functions = []struct {
	name, params, results string
	do                    func(c call, p []uint64)
}{
	{"alloc", "l", "l", func(c call, p []uint64) { p[0] = c.alloc(p[0]) }},
	{"free", "l", "", func(c call, p []uint64) { c.free(p[0]) }},
	{"length", "l", "l", length},
	{"length_unsafe", "l", "l", length},
	{"load_u8", "l", "i", func(c call, p []uint64) { p[0] = c.load8(p[0]) }},
	{"load_u64", "l", "l", func(c call, p []uint64) { p[0] = c.load64(p[0]) }},
	{"store_u8", "li", "", func(c call, p []uint64) { c.store8(p[0], byte(p[1])) }},
	{"store_u64", "ll", "", func(c call, p []uint64) { c.store64(p[0], p[1]) }},
	{"input_set", "ll", "", func(c call, p []uint64) { c.set(&c.input, p[0], p[1]) }},
	{"input_length", "", "l", func(c call, p []uint64) { p[0] = c.input.length }},
	{"input_offset", "", "l", func(c call, p []uint64) { p[0] = c.input.at }},
	{"input_load_u8", "l", "i", inputLoad8},
	{"input_load_u64", "l", "l", inputLoad64},
	{"output_set", "ll", "", func(c call, p []uint64) { c.set(&c.output, p[0], p[1]) }},
	{"output_length", "", "l", func(c call, p []uint64) { p[0] = c.output.length }},
	{"output_offset", "", "l", func(c call, p []uint64) { p[0] = c.output.at }},
	{"error_set", "l", "", errorSet},
	{"error_get", "", "l", func(c call, p []uint64) { p[0] = c.failure }},
	{"reset", "", "", func(c call, _ []uint64) { c.Charge(int64(c.top/perMove) + 1); c.forget() }},
	{"memory_bytes", "", "l", func(c call, p []uint64) { p[0] = c.top }},
	{"config_get", "l", "l", configGet},
	{"var_get", "l", "l", varGet},
	{"var_set", "ll", "", varSet},
	{"http_request", "ll", "l", func(call, []uint64) { panic(ErrNetwork) }},
	{"http_status_code", "", "i", func(_ call, p []uint64) { p[0] = 0 }},
	{"http_headers", "", "l", func(_ call, p []uint64) { p[0] = 0 }},
	{"get_log_level", "", "i", func(_ call, p []uint64) { p[0] = extismInfo }},
	{"log_trace", "l", "", log(abi.LevelDebug)},
	{"log_debug", "l", "", log(abi.LevelDebug)},
	{"log_info", "l", "", log(abi.LevelInfo)},
	{"log_warn", "l", "", log(abi.LevelWarn)},
	{"log_error", "l", "", log(abi.LevelError)},
}

// Offers says whether plug-ins may import a function by that name.
func Offers(name string) bool {
	for i := range functions {
		if functions[i].name == name {
			return true
		}
	}
	return false
}

// extismInfo is Extism's number of the level of information: plug-ins need not make lines below it.
const extismInfo = 2

// alloc is the function; begin and the functions that return something use it too.
func (c call) alloc(n uint64) uint64 {
	c.Charge(costAlloc + int64(min(n, c.limit)/perMove))
	return c.allocate(n)
}

// give puts b into a new block.
func (c call) give(b []byte) uint64 {
	at := c.alloc(uint64(len(b)))
	copy(c.memory[at:], b)
	return at
}

func length(c call, p []uint64) {
	c.Charge(costFind)
	p[0] = uint64(len(c.block(p[0])))
}

func inputLoad8(c call, p []uint64) {
	if p[0] >= c.input.length {
		p[0] = 0
		return
	}
	p[0] = c.load8(c.input.at + p[0])
}

func inputLoad64(c call, p []uint64) {
	if p[0] >= c.input.length || c.input.length-p[0] < 8 {
		p[0] = 0
		return
	}
	p[0] = c.load64(c.input.at + p[0])
}

func errorSet(c call, p []uint64) {
	if p[0] == 0 || c.inside(p[0], 1) {
		c.failure = p[0]
	}
}

func configGet(c call, p []uint64) {
	c.Charge(costFind)
	value, found := c.config[string(c.name(p[0]))]
	p[0] = 0
	if found {
		p[0] = c.give(value)
	}
}

// maxName is how long the name of a variable or configuration entry may be; longer ones are cut off.
const maxName = abi.MaxName

func (c call) name(at uint64) []byte {
	b := c.block(at)
	return b[:min(len(b), maxName)]
}

func varGet(c call, p []uint64) {
	c.Charge(costFind)
	value, found := c.variables[string(c.name(p[0]))]
	c.free(p[0])
	p[0] = 0
	if found {
		p[0] = c.give(value)
	}
}

func varSet(c call, p []uint64) {
	name := string(c.name(p[0]))
	value := c.block(p[1])
	c.Charge(2*costFind + int64(len(value)/perMove))
	c.keep(name, value, p[1] == 0)
	c.free(p[0])
	if p[1] != 0 {
		c.free(p[1])
	}
}

func log(level uint32) func(call, []uint64) {
	return func(c call, p []uint64) {
		line := c.block(p[0])
		line = line[:min(len(line), abi.MaxLogLine)]
		c.Charge(costLine + int64(len(line)/perLine))
		c.Log(level, line)
		c.free(p[0])
	}
}

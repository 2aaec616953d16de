// Package host runs WASM guests under the contract of wasm/abi: bounded in memory, time, output and noise.
//
// A Runtime compiles modules; it costs nothing until the first Compile. A Module owns its compiled code and a pool of
// instances; Process takes the instance that was used last (or starts one), copies the request in, runs the guest and
// copies the result out. An instance that trapped, ran past its time or left by itself is thrown away, all others are
// kept for later requests. What one Module does cannot be seen by another: each has a wazero runtime of its own, so that
// each can have its own memory limit, and closing it gives everything back.
//
// # What a guest gets
//
// Memory up to Limits.Memory for each instance, mapped outside the Go heap and given back when the instance goes. Tables
// that cannot grow. A time limit for each call; wazero checks it at loops and calls, and the instance is lost with it.
// The names it may emit are Options.Counters and Options.Features; other names are dropped and counted. No files, no
// network, and a clock and random source that give every instance the same values, so that a result depends on the
// input alone.
//
// What is not bounded as tightly as the rest: a guest that recurses without end takes up to 400 MB of Go heap for a
// moment before wazero stops it, and compiling cannot be interrupted (modules that are known to make it explode are
// refused beforehand). The agent therefore compiles and runs every bundle first in a child process with limits.
//
// # Concurrency and blocking
//
// All methods are safe for concurrent use. Compile blocks for seconds where the compilation cache has no entry, one
// module at a time. Process blocks until an instance is free or its context ends, then for as long as the guest runs.
// Close waits for the calls in flight. The cache directory may be shared with other processes.
package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"sync"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/dhowfleet/dhow/wasm/abi"
)

// Errors that callers tell apart. A *GuestError is the guest's own verdict; the others are about the guest.
var (
	// ErrDeadline: the guest ran past Limits.Timeout. A request that ends for its own reasons gets its context's error.
	ErrDeadline = errors.New("the guest ran past its time limit")
	// ErrTrap: the guest broke off or broke the contract.
	ErrTrap = errors.New("the guest failed")
	// ErrClosed: the module was closed.
	ErrClosed = errors.New("the module is closed")
)

// GuestError is a sentence that the guest returned instead of tensors.
type GuestError struct {
	Input   bool // the request is at fault, not the guest
	Message string
}

func (e *GuestError) Error() string { return e.Message }

// Sink takes what a guest emits. It is called after the guest has returned, and never after Process has.
type Sink interface {
	Feature(name string, value float64)
	Count(name string, n uint64)
}

// Config of a Runtime. The zero value compiles without a cache and logs nowhere.
type Config struct {
	CacheDir   string // compiled code is kept there; "" keeps it in memory alone
	CacheBytes int64  // the least recently used entries go when the directory is larger; 0 means 256 MiB
	Logger     *slog.Logger
	// Compiler compiles what is not in the cache; nil means that this process does. A process that serves wants one.
	Compiler Compiler
}

// Limits of one module.
type Limits struct {
	Memory  int64         // bytes of linear memory of one instance; 0 means 64 MiB
	Timeout time.Duration // of one call of Process, the start of an instance not included; 0 means 1 s
}

// Options of one module.
type Options struct {
	Name          string // in log lines and errors, such as "pre.wasm"
	Limits        Limits
	Configuration []byte       // handed to every instance's configure
	Counters      []string     // names that emit_count may use
	Features      []string     // names that emit_feature may use
	Instances     int          // at most so many at a time; 0 means one a core, at most 8
	Logger        *slog.Logger // for this module's lines; nil means the Runtime's
}

const (
	defaultMemory  = 64 << 20
	defaultTimeout = time.Second
	startTimeout   = 10 * time.Second // of an instance's start and configure
	maxInstances   = 8
	pageSize       = 1 << 16
)

// Runtime compiles modules.
type Runtime struct {
	cache     *cache   // nil without a directory
	compiler  Compiler // nil: this process compiles
	logger    *slog.Logger
	compiling chan struct{} // one at a time: compiling takes a core and hundreds of megabytes
}

// NewRuntime makes a Runtime; the cache directory is created when it is first written to.
func NewRuntime(_ context.Context, config Config) (*Runtime, error) {
	r := &Runtime{logger: config.Logger, compiler: config.Compiler, compiling: make(chan struct{}, 1)}
	if r.logger == nil {
		r.logger = slog.New(slog.DiscardHandler)
	}
	if config.CacheBytes < 0 {
		return nil, fmt.Errorf("cannot make a WASM runtime: cache size %d is negative", config.CacheBytes)
	}
	if config.CacheDir != "" {
		r.cache = newCache(config.CacheDir, config.CacheBytes, r.logger)
	}
	return r, nil
}

// Compile checks code, compiles it or takes it from the cache, and starts a first instance, so that a module which
// cannot serve is refused here and not by the first request. code is not kept.
func (r *Runtime) Compile(ctx context.Context, code []byte, options Options) (*Module, error) {
	if options.Name == "" {
		options.Name = "guest"
	}
	m, err := r.compile(ctx, code, options)
	if err != nil {
		return nil, fmt.Errorf("cannot compile %s: %w", options.Name, err)
	}
	in, err := m.start(ctx)
	if err != nil {
		_ = m.Close()
		return nil, fmt.Errorf("cannot start %s: %w", options.Name, err)
	}
	m.idle = append(m.idle, in)
	return m, nil
}

func (r *Runtime) compile(ctx context.Context, code []byte, options Options) (*Module, error) {
	limits := options.Limits
	if limits.Memory == 0 {
		limits.Memory = defaultMemory
	}
	if limits.Timeout == 0 {
		limits.Timeout = defaultTimeout
	}
	pages := limits.Memory / pageSize
	if pages < 1 || pages > math.MaxUint16 {
		return nil, fmt.Errorf("memory limit of %d bytes is not between 64 KiB and 4 GiB", limits.Memory)
	}
	limits.Memory = pages * pageSize
	if limits.Timeout < 0 {
		return nil, fmt.Errorf("time limit %s is negative", limits.Timeout)
	}
	if len(options.Configuration) > abi.MaxConfiguration {
		return nil, fmt.Errorf("configuration has %d bytes, at most %d are allowed", len(options.Configuration), abi.MaxConfiguration)
	}
	prepared, needs, err := inspect(code)
	if err != nil {
		return nil, err
	}
	if needs > uint32(pages) {
		return nil, fmt.Errorf("it starts with %d KiB of memory, its limit is %d KiB", needs*64, pages*64)
	}

	m := &Module{
		name:          options.Name,
		limits:        limits,
		configuration: options.Configuration,
		features:      set(options.Features),
		counters:      set(options.Counters),
		slots:         make(chan struct{}, instances(options.Instances)),
		closed:        make(chan struct{}),
	}
	logger := options.Logger
	if logger == nil {
		logger = r.logger
	}
	m.lines = newLines(logger.With(slog.String("module", options.Name)))
	if err := r.build(ctx, m, prepared, uint32(pages)); err != nil {
		return nil, err
	}
	if err := m.link(ctx); err != nil {
		_ = m.release()
		return nil, err
	}
	return m, nil
}

// link checks the exports and offers the imports.
func (m *Module) link(ctx context.Context) error {
	if err := checkExports(m.compiled); err != nil {
		return err
	}
	return m.imports(ctx)
}

func instances(n int) int {
	if n <= 0 {
		n = min(runtime.GOMAXPROCS(0), maxInstances)
	}
	return n
}

func set(names []string) map[string]string {
	s := make(map[string]string, len(names))
	for _, n := range names {
		s[n] = n
	}
	return s
}

// signature is what the contract says of an export, in wasm's own value types.
type signature struct {
	name            string
	params, results []api.ValueType
	optional        bool
}

var i32 = api.ValueTypeI32

var signatures = []signature{
	{name: abi.ExportVersion, results: []api.ValueType{i32}},
	{name: abi.ExportRealloc, params: []api.ValueType{i32, i32, i32, i32}, results: []api.ValueType{i32}},
	{name: abi.ExportConfigure, params: []api.ValueType{i32, i32}, results: []api.ValueType{i32}, optional: true},
	{name: abi.ExportProcess, params: []api.ValueType{i32, i32}, results: []api.ValueType{i32}},
	{name: abi.ExportPostProcess, params: []api.ValueType{i32}},
	{name: abi.ExportInitialize, optional: true},
}

func checkExports(compiled wazero.CompiledModule) error {
	if compiled.ExportedMemories()[abi.ExportMemory] == nil {
		return fmt.Errorf("it does not export its memory as %q", abi.ExportMemory)
	}
	functions := compiled.ExportedFunctions()
	for _, s := range signatures {
		f := functions[s.name]
		if f == nil {
			if s.optional {
				continue
			}
			return fmt.Errorf("it does not export the function %s, which version %d of the contract asks for", s.name, abi.Version)
		}
		if !equal(f.ParamTypes(), s.params) || !equal(f.ResultTypes(), s.results) {
			return fmt.Errorf("it exports %s with another signature than the contract's", s.name)
		}
	}
	return nil
}

func equal(a, b []api.ValueType) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// Module is compiled code and its instances.
type Module struct {
	name          string
	limits        Limits
	configuration []byte
	features      map[string]string // name to itself, so that a guest's bytes become a string without a copy
	counters      map[string]string
	lines         *lines

	compilation wazero.CompilationCache // nil where there is none
	runtime     wazero.Runtime
	compiled    wazero.CompiledModule
	cached      bool          // it was not compiled for this module
	compileTime time.Duration // or what loading it from the cache took

	slots  chan struct{} // one for each call in flight, so that there are never more instances
	closed chan struct{}

	mu       sync.Mutex
	idle     []*instance // the last one used is taken first: its memory is warm
	stats    Stats
	isClosed bool
}

// Stats of a module since it was compiled.
type Stats struct {
	Idle          int    // instances waiting
	Started       uint64 // instances
	Discarded     uint64 // instances, after a trap or a deadline
	DroppedEmits  uint64 // emits of names that are not declared, beyond abi.MaxEmits, or not a number
	DroppedLines  uint64 // log lines beyond the rate
	MappedBytes   int64  // address space of all instances' memory
	DeadlineTraps uint64 // calls that ran past their time
}

// Stats returns the figures of now.
func (m *Module) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.stats
	s.Idle = len(m.idle)
	s.DroppedLines = m.lines.dropped.Load()
	return s
}

// Close waits for the calls in flight and gives back everything the module held.
func (m *Module) Close() error {
	m.mu.Lock()
	if m.isClosed {
		m.mu.Unlock()
		return nil
	}
	m.isClosed = true
	close(m.closed)
	m.mu.Unlock()
	for range cap(m.slots) {
		m.slots <- struct{}{}
	}
	for _, in := range m.idle {
		in.discard()
	}
	m.idle = nil
	return m.release()
}

// release closes the runtime and what it compiled.
func (m *Module) release() error {
	ctx := context.Background()
	var err error
	if m.compiled != nil {
		err = m.compiled.Close(ctx)
	}
	if m.runtime != nil {
		err = errors.Join(err, m.runtime.Close(ctx))
	}
	if m.compilation != nil {
		err = errors.Join(err, m.compilation.Close(ctx))
	}
	m.compiled, m.runtime, m.compilation = nil, nil, nil
	return err
}

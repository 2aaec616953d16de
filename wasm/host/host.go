// Package host runs WASM guests that nobody has to trust: bounded in memory, time, stack, output and noise, and without
// a memory of earlier requests.
//
// # Data flow
//
// A module's bytes are rewritten (wasm/metering), which checks them and inserts charges; compiled, in a child process
// where Config has a Compiler, into a cache on disk; and given a wazero runtime of their own, so that what one Module
// does cannot be seen by another, and closing it gives everything back. An instance is started, initialised and
// configured once; what its memory and globals hold then is the image. A call takes the instance that was used last (or
// starts one), writes the request into its memory, runs it, reads the answer where it lies, and puts the instance back
// to the image: no request finds anything of another, and an instance that trapped or was stopped is as good as new.
// Options.State may ask to keep what a guest remembers. Instances that cannot be put back (the guest changes its tables,
// drops data segments, or has globals of 128 bits) are replaced, in the background.
//
// How a request is written and an answer is read depends on Options.Kind, behind the interface protocolOf: the contract
// of wasm/abi, or a compatibility mode.
//
// # What a guest gets
//
// Memory up to Limits.Memory, mapped outside the Go heap. Tables that cannot grow. Limits.Timeout for a call: metered
// code asks the host for more fuel every 20 to 50 microseconds, whatever it does, and the host then looks at the clock,
// at the request's context and at Limits.Fuel. The fuel that a call takes is the same on every run and every machine.
// Native stack up to Limits.Stack, by metering's estimate. What host functions do for a guest is charged as well. The
// names it may emit are Options.Counters and Options.Features; others are dropped and counted. No files, no network, and
// a clock and a random source that give every call the same values, unless Options.Grants says otherwise (wasm/wasi).
//
// Lines that a guest writes are cut, limited in rate, and marked with the attribute class=guest: they may hold what
// requests hold, so whoever sends logs elsewhere leaves them out.
//
// # Concurrency and blocking
//
// All methods are safe for concurrent use. Compile blocks for seconds where the compilation cache has no entry, one
// module at a time. Process, View, Batch and Measure block until an instance is free or their context ends, then for as
// long as the guest runs. Close waits for the calls in flight. The cache directory may be shared with other processes.
package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"time"

	"github.com/dhowfleet/dhow/wasm/abi"
	"github.com/dhowfleet/dhow/wasm/host/compiled"
	"github.com/dhowfleet/dhow/wasm/host/lines"
	"github.com/dhowfleet/dhow/wasm/metering"
	"github.com/dhowfleet/dhow/wasm/payload"
	"github.com/dhowfleet/dhow/wasm/wasi"
)

// Errors that callers tell apart. A *GuestError is the guest's own verdict; the others are about the guest.
var (
	// ErrDeadline: the guest ran past Limits.Timeout. A request that ends for its own reasons gets its context's error.
	ErrDeadline = errors.New("the guest ran past its time limit")
	// ErrFuel: the guest used up Limits.Fuel.
	ErrFuel = errors.New("the guest ran out of fuel")
	// ErrStack: the guest used up Limits.Stack.
	ErrStack = errors.New("the guest ran out of its stack")
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

// Compiler compiles modules outside this process; package compiler has one.
type Compiler = compiled.Compiler

// Config of a Runtime. The zero value compiles without a cache and logs nowhere.
type Config struct {
	CacheDir   string // compiled code is kept there; "" keeps it in memory alone
	CacheBytes int64  // the least recently used entries go when the directory is larger; 0 means 256 MiB
	Logger     *slog.Logger
	// Compiler compiles what is not in the cache; nil means that this process does. A process that serves wants one.
	Compiler Compiler
	// Policy is what modules may be granted. Options.Grants beyond it are refused, so that a module that needs them fails
	// when it is loaded, and not by wrong results.
	Policy Policy
}

// Limits of one module.
type Limits struct {
	Memory  int64         // bytes of linear memory of one instance; 0 means 64 MiB
	Stack   int64         // bytes of native stack that nested calls may take, by estimate; 0 means 1 MiB
	Table   int64         // entries of all tables; 0 means 65,536
	Timeout time.Duration // of one call, the start of an instance not included; 0 means 1 s
	Fuel    int64         // of one call, about one for an instruction; 0 leaves it to Timeout
	// Quantum is how much fuel a guest gets at most before it must ask for more; 0 means 100,000. It is 10,000 for code
	// that nobody vouches for: less fuel is spent between two looks at the clock, however slow the instructions are.
	Quantum int64
}

// State is what becomes of an instance's memory and globals between calls.
type State uint8

// The states.
const (
	// Reset lets every call start from the image.
	Reset State = iota
	// Keep lets an instance remember what it did for earlier requests, until it fails.
	Keep
)

// Options of one module.
type Options struct {
	Name          string // in log lines and errors, such as "pre.wasm"
	Limits        Limits
	State         State
	Kind          Kind
	Function      string         // that an Extism plug-in exports
	Format        payload.Format // of what plug-ins and commands read and write
	Grants        wasi.Grants    // what of the machine the guest may see
	Configuration []byte         // handed to every instance's configure
	Counters      []string       // names that emit_count may use
	Features      []string       // names that emit_feature may use
	Instances     int            // at most so many at a time; 0 means one a core, at most 8
	Logger        *slog.Logger   // for this module's lines; nil means the Runtime's
}

const (
	defaultMemory  = 64 << 20
	defaultStack   = metering.DefaultStack
	defaultTable   = metering.DefaultTableEntries
	defaultTimeout = time.Second
	defaultQuantum = 100_000
	leastStack     = 1 << 10
	mostStack      = 64 << 20
	mostTable      = 1 << 20
	mostQuantum    = 10_000_000
	startTimeout   = 10 * time.Second // of an instance's start and configure
	maxInstances   = 8
	pageSize       = 1 << 16
)

// complete sets what is left out and refuses what makes no sense.
func (l *Limits) complete() error {
	for _, f := range []struct {
		value             *int64
		otherwise         int64
		least, most, unit int64
		what              string
	}{
		{&l.Memory, defaultMemory, pageSize, math.MaxUint16 * pageSize, pageSize, "memory limit in bytes"},
		{&l.Stack, defaultStack, leastStack, mostStack, 1, "stack limit in bytes"},
		{&l.Table, defaultTable, 1, mostTable, 1, "limit of table entries"},
		{(*int64)(&l.Timeout), int64(defaultTimeout), 1, math.MaxInt64, 1, "time limit in nanoseconds"},
		{&l.Fuel, math.MaxInt64, 1, math.MaxInt64, 1, "fuel limit"},
		{&l.Quantum, defaultQuantum, leastQuantum, mostQuantum, 1, "quantum of fuel"},
	} {
		if *f.value == 0 {
			*f.value = f.otherwise
		}
		if *f.value < f.least || *f.value > f.most {
			return fmt.Errorf("%s is %d, it must lie between %d and %d", f.what, *f.value, f.least, f.most)
		}
		*f.value -= *f.value % f.unit
	}
	return nil
}

// Runtime compiles modules.
type Runtime struct {
	store  *compiled.Store
	policy Policy
	logger *slog.Logger
}

// NewRuntime makes a Runtime; the cache directory is created when it is first written to.
func NewRuntime(_ context.Context, config Config) (*Runtime, error) {
	r := &Runtime{logger: config.Logger, policy: config.Policy}
	if r.logger == nil {
		r.logger = slog.New(slog.DiscardHandler)
	}
	var err error
	r.store, err = compiled.NewStore(compiled.Config{Dir: config.CacheDir, Bytes: config.CacheBytes, Compiler: config.Compiler, Logger: r.logger})
	if err != nil {
		return nil, fmt.Errorf("cannot make a WASM runtime: %w", err)
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
	several, ok := in.speaks.(batcher)
	m.batches = ok && several.batches()
	m.idle = append(m.idle, in)
	return m, nil
}

func (r *Runtime) compile(ctx context.Context, code []byte, options Options) (*Module, error) {
	limits := options.Limits
	if err := limits.complete(); err != nil {
		return nil, err
	}
	kind, err := options.protocol()
	if err != nil {
		return nil, err
	}
	if err := r.policy.permits(options.Grants); err != nil {
		return nil, err
	}
	if len(options.Configuration) > abi.MaxConfiguration {
		return nil, fmt.Errorf("configuration has %d bytes, at most %d are allowed", len(options.Configuration), abi.MaxConfiguration)
	}
	// A spare page lets package memory shrink a memory. The limit is held there, and by wazero's engine.
	const spare = 1
	pages := uint32(limits.Memory / pageSize)
	rewritten, err := metering.Rewrite(code, metering.Options{Stack: limits.Stack, MemorySpare: spare, TableEntries: uint32(limits.Table)})
	if err != nil {
		return nil, err
	}
	if err := offered(&rewritten.Info, pages, kind); err != nil {
		return nil, err
	}

	m := &Module{
		name:          options.Name,
		limits:        limits,
		state:         options.State,
		kind:          kind,
		grants:        options.Grants,
		info:          Info{Info: rewritten.Info},
		restorable:    !rewritten.Info.TableOps && !rewritten.Info.DataDrop && !rewritten.Info.VectorGlobals,
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
	logger = logger.With(slog.String("module", options.Name))
	m.lines = lines.New(logger)
	if m.code, err = r.store.Load(ctx, rewritten.Code, pages+spare, logger); err != nil {
		return nil, err
	}
	if err := m.link(ctx); err != nil {
		_ = m.code.Close()
		return nil, err
	}
	return m, nil
}

// offered holds what a module declares against what guests of its kind are given.
func offered(info *metering.Info, pages uint32, kind protocolOf) error {
	for _, i := range info.Imports {
		if i.Kind != metering.Function {
			return fmt.Errorf("it imports the %s %q.%q; the contract offers functions alone", i.Kind, i.Module, i.Name)
		}
		if !kind.imports(i.Module, i.Name) {
			return fmt.Errorf("it imports the function %q.%q, which the contract does not offer", i.Module, i.Name)
		}
	}
	if info.Memories != 1 {
		return fmt.Errorf("it has %d memories, the contract asks for one", info.Memories)
	}
	if info.MemoryMin > pages {
		return fmt.Errorf("it starts with %d KiB of memory, its limit is %d KiB; raise memory in bundle.yaml", int64(info.MemoryMin)*64, int64(pages)*64)
	}
	if info.MemoryMax == 0 {
		return errors.New("its memory may have no page")
	}
	return nil
}

// link checks the exports and offers the imports.
func (m *Module) link(ctx context.Context) error {
	if err := m.kind.check(m.code.Module); err != nil {
		return err
	}
	if err := m.imports(ctx); err != nil {
		return err
	}
	for _, want := range m.code.Module.ImportedFunctions() {
		module, name, _ := want.Import()
		switch have := m.code.Runtime.Module(module).ExportedFunctionDefinitions()[name]; {
		case have == nil:
			return fmt.Errorf("it imports the function %q.%q, which the contract does not offer", module, name)
		case !equal(have.ParamTypes(), want.ParamTypes()) || !equal(have.ResultTypes(), want.ResultTypes()):
			return fmt.Errorf("it imports the function %q.%q with another signature than the contract's", module, name)
		}
	}
	return nil
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

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/dhowfleet/dhow/wasm/abi"
	"github.com/dhowfleet/dhow/wasm/examples/kernels"
	"github.com/dhowfleet/dhow/wasm/metering"
)

// Bounds on the time over plain wazero.
var kernelGoals = map[string]struct{ trap, yield float64 }{
	"C normalise":       {1.15, 1.35},
	"C normalise, SIMD": {1.15, 1.35},
	"C bare add loop":   {1.75, 1.75},
	"C matmul":          {1.5, 1.5},
	"C fib":             {1.5, 1.5},
	"C sha256":          {1.15, 1.35},
	"Go normalise":      {1.15, 1.35},
	"Go sha256":         {1.15, 1.35},
	"Go json and sort":  {1.15, 1.35},
}

// slowdown is how many times faster than wazero's own bound metering must be.
const slowdown = 3

func (b *bench) kernelTable(ctx context.Context) error {
	if err := b.buildKernels(ctx); err != nil {
		return err
	}
	s := b.report.sheet("kernel", "Go", "plain", "CloseOnContextDone", "trap", "yield")
	started := map[string][]*running{} // by file, in the order of ways
	defer func() {
		for _, all := range started {
			for _, r := range all {
				r.close()
			}
		}
	}()
	for _, k := range kernels.All {
		if err := b.kernel(ctx, s, k, started); errors.Is(err, os.ErrNotExist) {
			s.note(k.Name, k.File+" is missing (apt install clang lld)")
		} else if err != nil {
			return fmt.Errorf("%s: %w", k.Name, err)
		}
	}
	return s.flush()
}

func (b *bench) buildKernels(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(b.kernels, "go.wasm")); err == nil {
		return nil
	}
	dir, err := filepath.Abs(b.kernels)
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "../../../wasm/examples/kernels/build", dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot build the kernels: %w: %s", err, out)
	}
	fmt.Fprint(b.report.out, strings.ReplaceAll(string(out), dir, b.kernels))
	return nil
}

func (b *bench) kernel(ctx context.Context, s *sheet, k kernels.Kernel, started map[string][]*running) error {
	if started[k.File] == nil {
		code, err := os.ReadFile(filepath.Join(b.kernels, k.File))
		if err != nil {
			return err
		}
		for _, w := range ways {
			r, err := w.start(ctx, code)
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			started[k.File] = append(started[k.File], r)
		}
	}
	size := k.N
	if b.short && k.File != "c-fib.wasm" { // of fib, n is an exponent
		size = max(size/5, k.Check)
	}
	contenders := []contender{{"Go", func(n int) error {
		for range n {
			k.Native(size)
		}
		return nil
	}}}
	want := k.Native(size)
	for i, r := range started[k.File] {
		f := r.function(k.Export)
		stack := []uint64{0}
		contenders = append(contenders, contender{ways[i].name, func(n int) error {
			for range n {
				stack[0] = api.EncodeI32(size)
				if err := f(stack); err != nil {
					return err
				}
				if got := int64(stack[0]); got != want {
					return fmt.Errorf("it answers %d, and in Go %d", got, want)
				}
			}
			return nil
		}})
	}
	took, err := compare(ctx, b.rounds(15), contenders)
	if err != nil {
		return err
	}
	native, plain := took[0], took[1]
	cells := []string{k.Name, times(ratio(native, plain)), span(plain)}
	for _, t := range took[2:] {
		cells = append(cells, times(ratio(t, plain)))
	}
	s.row(kernelVerdict(k.Name, took[1:]), cells...)
	return nil
}

// kernelVerdict holds plain, CloseOnContextDone, trap and yield against the goals.
func kernelVerdict(name string, took []time.Duration) goals {
	want, ok := kernelGoals[name]
	if !ok || len(took) < 4 {
		return nil
	}
	plain, closing, trap, yield := took[0], took[1], took[2], took[3]
	g := goals{atMost("trap", ratio(trap, plain), want.trap), atMost("yield", ratio(yield, plain), want.yield)}
	if closing > slowdown*plain { // elsewhere no code at all would be so much faster
		g = append(g, atLeast("faster", ratio(closing, max(trap, yield)), slowdown))
	}
	return g
}

// way is how a module is run.
type way struct {
	name  string
	start func(ctx context.Context, code []byte) (*running, error)
}

var ways = []way{
	{"plain", func(ctx context.Context, code []byte) (*running, error) { return start(ctx, code, false) }},
	{"CloseOnContextDone", func(ctx context.Context, code []byte) (*running, error) { return start(ctx, code, true) }},
	{"trap", func(ctx context.Context, code []byte) (*running, error) {
		r, _, err := startMetered(ctx, code, metering.Trap, 0)
		return r, err
	}},
	{"yield", func(ctx context.Context, code []byte) (*running, error) {
		r, _, err := startMetered(ctx, code, metering.Yield, quantum)
		return r, err
	}},
}

// running is a module that was instantiated.
type running struct {
	ctx      context.Context
	cancel   context.CancelFunc
	runtime  wazero.Runtime
	compiled wazero.CompiledModule
	module   api.Module
	started  func() error // before anything of a new instance runs, nil for nothing
	before   func()       // each call, nil for nothing
}

// start instantiates a module with wazero alone. Where it is to end with its context, the context has a deadline, as a
// request has.
func start(ctx context.Context, code []byte, closing bool) (*running, error) {
	r := &running{ctx: ctx, cancel: func() {}}
	if closing {
		r.ctx, r.cancel = context.WithTimeout(ctx, time.Hour)
	}
	r.runtime = wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithCloseOnContextDone(closing).WithDebugInfoEnabled(false))
	return r, r.instantiate(code)
}

// instantiate compiles a module and starts the first instance.
func (r *running) instantiate(code []byte) error {
	err := r.compile(code)
	if err == nil {
		err = r.again()
	}
	if err != nil {
		r.close()
	}
	return err
}

func (r *running) compile(code []byte) error {
	if _, err := wasi_snapshot_preview1.Instantiate(r.ctx, r.runtime); err != nil {
		return err
	}
	i32, i64, f64 := api.ValueTypeI32, api.ValueTypeI64, api.ValueTypeF64
	ignore := api.GoModuleFunc(func(context.Context, api.Module, []uint64) {})
	if _, err := r.runtime.NewHostModuleBuilder(abi.HostModule).
		NewFunctionBuilder().WithGoModuleFunction(ignore, []api.ValueType{i32, i32, f64}, nil).Export(abi.ImportEmitFeature).
		NewFunctionBuilder().WithGoModuleFunction(ignore, []api.ValueType{i32, i32, i64}, nil).Export(abi.ImportEmitCount).
		NewFunctionBuilder().WithGoModuleFunction(ignore, []api.ValueType{i32, i32, i32}, nil).Export(abi.ImportLog).
		Instantiate(r.ctx); err != nil {
		return err
	}
	var err error
	r.compiled, err = r.runtime.CompileModule(r.ctx, code)
	return err
}

// again starts a new instance in the place of the one before.
func (r *running) again() error {
	if r.module != nil {
		if err := r.module.Close(r.ctx); err != nil {
			return err
		}
	}
	var err error
	r.module, err = r.runtime.InstantiateModule(r.ctx, r.compiled, wazero.NewModuleConfig().WithName("").WithStartFunctions())
	if err != nil {
		return err
	}
	if r.started != nil {
		if err := r.started(); err != nil {
			return err
		}
	}
	if r.module.ExportedFunction(abi.ExportInitialize) == nil {
		return nil
	}
	return r.function(abi.ExportInitialize)(nil)
}

// function returns an export, to be called with its parameters in the slice that takes its results.
func (r *running) function(name string) func([]uint64) error {
	f := r.module.ExportedFunction(name)
	switch {
	case f == nil:
		return func([]uint64) error { return fmt.Errorf("it does not export %s", name) }
	case r.before == nil:
		return func(stack []uint64) error { return f.CallWithStack(r.ctx, stack) }
	}
	return func(stack []uint64) error {
		r.before()
		return f.CallWithStack(r.ctx, stack)
	}
}

func (r *running) close() {
	_ = r.runtime.Close(context.WithoutCancel(r.ctx))
	r.cancel()
}

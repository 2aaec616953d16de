package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/wasm/abi"
	"github.com/dhowfleet/dhow/wasm/host"
	"github.com/dhowfleet/dhow/wasm/metering"
)

func (a *app) newWasmCheck() *cobra.Command {
	var f wasmFlags
	var output string
	cmd := &cobra.Command{
		Use:   "check FILE|BUNDLE",
		Short: "Say whether a module can serve, what it is made of and what its calls take",
		Long: `Check a WASM module, or every module of a bundle, as an agent does before it serves: what it imports and exports, what it
is made of beside what is allowed, what compiling and starting it take, and what each of a bundle's golden samples takes
of its limits. The last lines are the verdict, and what to do where it is refused; the exit code is 1 then.

Fuel is about one for an instruction, and the same on every run and every machine; time is this machine's.`,
		Example: "  dhow wasm check pre.wasm\n  dhow wasm check build/fashion",
		Args:    wantArgs(false, "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("output", output, "text", "json"); err != nil {
				return err
			}
			log := &wasmLog{}
			modules, err := f.loadWasm(args[0], slog.New(log))
			if err != nil {
				return err
			}
			return a.wasmCheck(cmd.Context(), modules, log, output == "json")
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&f.samples, "samples", "", "file or folder of requests in JSON to measure with (default: the bundle's golden samples)")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "one of text, json")
	return cmd
}

// wasmReport is all that is known of a module.
type wasmReport struct {
	Module     string        `json:"module"`
	Bytes      int           `json:"bytes"`
	Kind       string        `json:"kind"`
	Sections   []wasmSection `json:"sections,omitempty"`
	Imports    []wasmPort    `json:"imports,omitempty"`
	Exports    []wasmPort    `json:"exports,omitempty"`
	Limits     wasmLimits    `json:"limits"`
	Complexity []wasmFigure  `json:"complexity,omitempty"`
	Compiled   *wasmCompiled `json:"compiled,omitempty"`
	Samples    []wasmMeasure `json:"samples,omitempty"`
	NoSamples  string        `json:"no_samples,omitempty"` // why there are none
	Log        []string      `json:"log,omitempty"`
	Serves     bool          `json:"serves"`
	Reason     string        `json:"reason,omitempty"` // of a refusal before compiling: one of package metering's
	Verdict    string        `json:"verdict"`
	Remedy     string        `json:"remedy,omitempty"`
}

type wasmPort struct {
	Module    string `json:"module,omitempty"`
	Name      string `json:"name"`
	Kind      string `json:"kind"`
	Signature string `json:"signature,omitempty"`
}

type wasmLimits struct {
	Memory  int64   `json:"memory_bytes"`
	Stack   int64   `json:"stack_bytes"`
	Table   int64   `json:"table_entries"`
	Fuel    int64   `json:"fuel"` // 0: the deadline alone
	Seconds float64 `json:"deadline_seconds"`
	State   string  `json:"state"`
	// Asks are what the module wants of its node beyond computing, as the agent's wasm-allow has it.
	Asks []string `json:"asks,omitempty"`
}

type wasmFigure struct {
	Name  string `json:"name"`
	Value int64  `json:"value"`
	Limit int64  `json:"limit,omitempty"` // 0: none
}

type wasmCompiled struct {
	RewriteMillis  float64 `json:"rewrite_milliseconds"`
	CompileMillis  float64 `json:"compile_milliseconds"`
	MeteredBytes   int     `json:"metered_bytes"`
	CodeBytes      int64   `json:"machine_code_bytes"`
	StartMicros    float64 `json:"start_microseconds"`
	ImageBytes     int64   `json:"image_bytes"`
	Restorable     bool    `json:"restorable"`
	TakesBatches   bool    `json:"takes_batches"`
	VectorCode     bool    `json:"vector_code"`
	StartsFunction bool    `json:"has_start_function"`
}

type wasmMeasure struct {
	Name  string    `json:"name"`
	Error string    `json:"error,omitempty"`
	Usage wasmUsage `json:"usage"`
}

func (a *app) wasmCheck(ctx context.Context, modules []wasmModule, log *wasmLog, asJSON bool) error {
	var reports []*wasmReport
	refused := 0
	for i := range modules {
		r := check(ctx, &modules[i])
		r.Log = log.take()
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		if !r.Serves {
			refused++
		}
		reports = append(reports, r)
	}
	if asJSON {
		if err := a.writeJSON(reports); err != nil {
			return err
		}
	} else {
		for i, r := range reports {
			if i > 0 {
				fmt.Fprintln(a.out)
			}
			r.print(a.out)
		}
	}
	if refused > 0 {
		return fmt.Errorf("%d of %s cannot serve", refused, count(len(modules), "module"))
	}
	return nil
}

// check goes as far as it can.
func check(ctx context.Context, m *wasmModule) *wasmReport {
	r := &wasmReport{Module: m.name, Bytes: len(m.code), Kind: "unknown", Sections: sectionsOf(m.code), Limits: limitsOf(&m.options)}
	begin := time.Now()
	metered, err := metering.Rewrite(m.code, metering.Options{
		Stack: r.Limits.Stack, TableEntries: uint32(r.Limits.Table), MemoryPages: uint32(r.Limits.Memory >> 16),
	})
	rewrite := time.Since(begin)
	if err != nil {
		return r.refuse(err)
	}
	r.describe(&metered.Info)
	dir, err := os.MkdirTemp("", "dhow-wasm-check-")
	if err != nil {
		return r.refuse(fmt.Errorf("cannot make a folder to compile into: %w", err))
	}
	defer func() { _ = os.RemoveAll(dir) }()
	runtime, err := host.NewRuntime(ctx, host.Config{CacheDir: dir, Logger: m.options.Logger, Policy: host.Everything})
	if err != nil {
		return r.refuse(err)
	}
	module, err := runtime.Compile(ctx, m.code, m.options)
	if err != nil {
		return r.refuse(err)
	}
	defer func() { _ = module.Close() }()
	info := module.Info()
	r.Compiled = &wasmCompiled{
		RewriteMillis: millisOf(rewrite), CompileMillis: millisOf(info.CompileTime), MeteredBytes: len(metered.Code), CodeBytes: sizeUnder(dir),
		StartMicros: microsOf(info.InstanceTime), ImageBytes: info.ImageBytes, Restorable: info.Restorable, TakesBatches: info.Batches,
		VectorCode: info.SIMD, StartsFunction: info.HasStart,
	}
	if len(m.samples) == 0 {
		r.NoSamples = "give some with --samples"
		if m.behind {
			r.NoSamples = "it comes after a model, so that the bundle's samples do not reach it as they are; give its own with --samples"
		}
	}
	for _, s := range m.samples {
		_, usage, err := module.Measure(ctx, s.in, nil)
		measure := wasmMeasure{Name: s.name, Usage: usageOf(usage)}
		if err != nil {
			measure.Error = faultOf(err)
		}
		r.Samples = append(r.Samples, measure)
	}
	r.judge()
	return r
}

func millisOf(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }
func microsOf(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// limitsOf fills in what package host takes where nothing is said.
func limitsOf(o *host.Options) wasmLimits {
	l := wasmLimits{
		Memory: o.Limits.Memory, Stack: o.Limits.Stack, Table: o.Limits.Table, Fuel: o.Limits.Fuel,
		Seconds: o.Limits.Timeout.Seconds(), State: "reset",
	}
	if l.Memory == 0 {
		l.Memory = bundle.DefaultStepMemory
	}
	if l.Stack == 0 {
		l.Stack = metering.DefaultStack
	}
	if l.Table == 0 {
		l.Table = metering.DefaultTableEntries
	}
	if l.Seconds == 0 {
		l.Seconds = 1
	}
	if o.State == host.Keep {
		l.State = "keep"
	}
	for _, a := range []struct {
		asked bool
		name  string
	}{{o.Grants.Clock, "clock"}, {o.Grants.Random, "random"}, {o.Grants.Files != "", "files"}} {
		if a.asked {
			l.Asks = append(l.Asks, a.name)
		}
	}
	return l
}

// sizeUnder is what all files of a folder have together.
func sizeUnder(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}

// describe takes over what the rewriter found.
func (r *wasmReport) describe(info *metering.Info) {
	for _, i := range info.Imports {
		r.Imports = append(r.Imports, wasmPort{i.Module, i.Name, i.Kind.String(), signatureOf(i.Kind, i.Params, i.Results)})
	}
	for _, e := range info.Exports {
		r.Exports = append(r.Exports, wasmPort{"", e.Name, e.Kind.String(), signatureOf(e.Kind, e.Params, e.Results)})
	}
	r.Kind = r.kind()
	most := metering.DefaultLimits()
	figure := func(name string, value, limit int) {
		r.Complexity = append(r.Complexity, wasmFigure{name, int64(value), int64(limit)})
	}
	figure("bytes", r.Bytes, most.Module)
	figure("functions", info.Functions, most.Functions)
	figure("instructions", info.Instructions, 0)
	figure("bytes of the largest function", info.LargestFunction, most.Body)
	figure("locals of a function", info.MaxLocals, most.Locals)
	figure("control operations of a function", info.MaxControl, 0)
	figure("locals times control operations of a function", info.MaxWeight, 0)
	figure("loops of a function", info.MaxLoops, 0)
	figure("microseconds to compile a function, by estimate", info.MaxWork, most.Work)
	figure("microseconds to compile the module, by estimate", info.Work, most.ForModule(r.Bytes))
	figure("operands at once", info.MaxHeight, most.Height)
	figure("blocks within blocks", info.MaxNesting, most.Nesting)
	figure("bytes of the largest stack frame", info.MaxFrame, int(r.Limits.Stack))
	figure("table entries", int(info.TableEntries), int(r.Limits.Table))
	figure("pages of memory at the start", int(info.MemoryMin), int(r.Limits.Memory>>16))
}

// The kinds of modules that there are.
const (
	kindOwn     = "Dhow's contract"
	kindExtism  = "Extism plug-in"
	kindCommand = "WASI command"
	kindUnknown = "unknown"
)

func (r *wasmReport) kind() string {
	exports := map[string]bool{}
	for _, e := range r.Exports {
		exports[e.Name] = true
	}
	switch {
	case exports[abi.ExportVersion] || exports[abi.ExportProcess] && exports[abi.ExportRealloc]:
		return kindOwn
	case exports["_start"]:
		return kindCommand
	}
	for _, i := range r.Imports {
		if i.Module == "extism:host/env" {
			return kindExtism
		}
	}
	return kindUnknown
}

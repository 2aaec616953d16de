package main

import (
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host"
	"github.com/dhowfleet/dhow/wasm/step"
)

func (a *app) newWasm() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "wasm",
		Short: "Check, try and time the WASM modules that run before and after a model",
		Long: `Check, try and time the WASM modules that run before and after a model, on this machine and without a fleet manager,
with the bounds that an agent sets. See docs/wasm.md for what a module must offer.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.newWasmCheck(), a.newWasmRun(), a.newWasmBench())
	return cmd
}

// wasmFlags are what the verbs take beside a module's file. A bundle says most of it itself.
type wasmFlags struct {
	module             string // of a bundle
	configuration      string
	memory             string
	deadline           time.Duration
	fuel               int64
	counters, features []string
	samples            string
}

func (f *wasmFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.module, "module", "", "the module of a bundle, such as pre.wasm (default: all of them, or the only one)")
	cmd.Flags().StringVar(&f.configuration, "configuration", "", "file that the module gets as its configuration (default: the bundle's labels)")
	cmd.Flags().StringVar(&f.memory, "memory", "", "limit of its memory, such as 64MiB (default: the bundle's, or 64MiB)")
	cmd.Flags().DurationVar(&f.deadline, "deadline", 0, "how long one call may take (default: the bundle's, or 1s)")
	cmd.Flags().Int64Var(&f.fuel, "fuel", 0, "how much fuel one call may take; 0 leaves it to the deadline (default: the bundle's, or 0)")
	cmd.Flags().StringSliceVar(&f.counters, "counters", nil, "names that it may count under (default: the bundle's)")
	cmd.Flags().StringSliceVar(&f.features, "features", nil, "names under which it may report numbers (default: the bundle's)")
}

// wasmModule is a module with everything that it is called with.
type wasmModule struct {
	name    string
	code    []byte
	options host.Options
	// inputs are the names of the tensors that it takes, where a bundle says them.
	inputs  []tensor.Spec
	samples []wasmSample
	behind  bool // a model comes before it, so that a bundle's samples do not reach it as they are
}

// wasmSample is a request to one module.
type wasmSample struct {
	name string
	in   []tensor.Tensor
}

// loadWasm reads a module's file, or the modules of a bundle in the order in which bundle.yaml names them.
func (f *wasmFlags) loadWasm(file string, logger *slog.Logger) ([]wasmModule, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read the module: %w", err)
	}
	var modules []wasmModule
	if info.IsDir() {
		modules, err = f.loadBundle(file)
	} else if f.module != "" {
		return nil, usagef("--module chooses one of a bundle's modules, and %s is no folder", file)
	} else {
		var code []byte
		code, err = readBounded(file, bundle.MaxModuleBytes)
		modules = []wasmModule{{name: filepath.Base(file), code: code}}
	}
	if err != nil {
		return nil, err
	}
	for i := range modules {
		if err := f.apply(&modules[i]); err != nil {
			return nil, err
		}
		modules[i].options.Name, modules[i].options.Logger = modules[i].name, logger
	}
	if f.samples != "" {
		samples, err := readSamples(f.samples)
		if err != nil {
			return nil, err
		}
		for i := range modules {
			modules[i].samples, modules[i].behind = samples, false
		}
	}
	return modules, nil
}

// apply lets flags stand above what a bundle says.
func (f *wasmFlags) apply(m *wasmModule) error {
	o := &m.options
	if f.configuration != "" {
		c, err := readBounded(f.configuration, bundle.MaxLabelsBytes)
		if err != nil {
			return err
		}
		o.Configuration = c
	}
	if f.memory != "" {
		n, err := bundle.ParseSize(f.memory)
		if err != nil {
			return usagef("--memory: %v", err)
		}
		o.Limits.Memory = n
	}
	if f.deadline < 0 || f.fuel < 0 {
		return usagef("--deadline and --fuel cannot be negative")
	}
	if f.deadline > 0 {
		o.Limits.Timeout = f.deadline
	}
	if f.fuel > 0 {
		o.Limits.Fuel = f.fuel
	}
	if f.counters != nil {
		o.Counters = f.counters
	}
	if f.features != nil {
		o.Features = f.features
	}
	return nil
}

// loadBundle reads the modules of a bundle's folder. The folder must be fit to be published.
func (f *wasmFlags) loadBundle(dir string) ([]wasmModule, error) {
	files := os.DirFS(dir)
	b, err := bundle.Load(files)
	if err != nil {
		return nil, fmt.Errorf("the bundle %s is not fit to be published: %w", dir, err)
	}
	var configuration []byte
	if b.Spec.Labels != "" {
		if configuration, err = fs.ReadFile(files, b.Spec.Labels); err != nil {
			return nil, fmt.Errorf("cannot read the bundle: %w", err)
		}
	}
	golden, err := b.Spec.Golden(files)
	if err != nil {
		return nil, fmt.Errorf("cannot read the bundle: %w", err)
	}
	var out []wasmModule
	var names []string
	for _, s := range stagesOf(&b.Spec) {
		if s.Module == nil {
			continue
		}
		names = append(names, s.Module.Module)
		if f.module != "" && f.module != s.Module.Module {
			continue
		}
		m := wasmModule{name: s.Module.Module, options: step.Options(dir, &b.Spec, s.Module)}
		if m.code, err = fs.ReadFile(files, s.Module.Module); err != nil {
			return nil, fmt.Errorf("cannot read the bundle: %w", err)
		}
		m.options.Configuration = configuration
		m.fromGolden(&b.Spec, s, golden)
		out = append(out, m)
	}
	switch {
	case len(names) == 0:
		return nil, fmt.Errorf("the bundle %s has no WASM module", dir)
	case len(out) == 0:
		return nil, usagef("the bundle %s has no module %q; it has %s", dir, f.module, strings.Join(names, ", "))
	}
	return out, nil
}

// stagesOf is the pipeline as a list, also where the bundle writes pre and post.
func stagesOf(spec *bundle.Spec) []bundle.Stage {
	if spec.Stages != nil {
		return spec.Stages
	}
	var out []bundle.Stage
	if spec.Pre != nil {
		pre := bundle.Stage{Name: "pre", Module: spec.Pre}
		for _, in := range spec.Inputs {
			pre.Inputs = append(pre.Inputs, bundle.Port{Own: in.Name, Name: in.Name})
		}
		out = append(out, pre)
	}
	if spec.Post != nil {
		// What the model gives is known when it runs.
		out = append(out, bundle.Stage{Name: "post", Module: spec.Post})
	}
	return out
}

// fromGolden makes samples of a bundle's golden ones for a stage that takes nothing but what clients send.
func (m *wasmModule) fromGolden(spec *bundle.Spec, s bundle.Stage, golden []bundle.Golden) {
	for _, port := range s.Inputs {
		at := slices.IndexFunc(spec.Inputs, func(in tensor.Spec) bool { return in.Name == port.Name })
		if at < 0 {
			m.behind = true
			return
		}
		in := spec.Inputs[at]
		in.Name = port.Own
		m.inputs = append(m.inputs, in)
	}
	if m.behind = len(s.Inputs) == 0; m.behind {
		return
	}
	for _, g := range golden {
		sample := wasmSample{name: path.Join(spec.GoldenDir, g.Name)}
		for _, port := range s.Inputs {
			at := slices.IndexFunc(g.Inputs, func(t tensor.Tensor) bool { return t.Name == port.Name })
			t := g.Inputs[at] // a golden sample has every input
			t.Name = port.Own
			sample.in = append(sample.in, t)
		}
		m.samples = append(m.samples, sample)
	}
}

// one returns the module to run, where only one can be run.
func one(modules []wasmModule) (*wasmModule, error) {
	if len(modules) == 1 {
		return &modules[0], nil
	}
	var names []string
	for _, m := range modules {
		names = append(names, m.name)
	}
	return nil, usagef("the bundle has several modules: choose one with --module: %s", strings.Join(names, ", "))
}

package host

import (
	"context"
	"log/slog"
	"math"

	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/dhowfleet/dhow/wasm/abi"
)

// imports offers the contract's functions, and of WASI what is left when nothing is opened to the guest: every file,
// socket and argument is missing, sleeping returns at once, and wazero's default clock and random source give every
// instance the same values.
func (m *Module) imports(ctx context.Context) error {
	i32, i64, f64 := api.ValueTypeI32, api.ValueTypeI64, api.ValueTypeF64
	if _, err := m.runtime.NewHostModuleBuilder(abi.HostModule).
		NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(emitFeature), []api.ValueType{i32, i32, f64}, nil).Export(abi.ImportEmitFeature).
		NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(emitCount), []api.ValueType{i32, i32, i64}, nil).Export(abi.ImportEmitCount).
		NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(log), []api.ValueType{i32, i32, i32}, nil).Export(abi.ImportLog).
		Instantiate(ctx); err != nil {
		return err
	}
	for _, f := range m.compiled.ImportedFunctions() {
		if module, _, _ := f.Import(); module == abi.WASIModule {
			_, err := wasi_snapshot_preview1.Instantiate(ctx, m.runtime)
			return err
		}
	}
	return nil
}

func emitFeature(ctx context.Context, guest api.Module, stack []uint64) {
	in := ctx.Value(instanceKey{}).(*instance)
	value := api.DecodeF64(stack[2])
	name, ok := in.declared(guest, stack, in.module.features)
	if !ok || math.IsNaN(value) || math.IsInf(value, 0) {
		in.dropped++
		return
	}
	in.emitted = append(in.emitted, emit{name: name, feature: true, value: value})
}

func emitCount(ctx context.Context, guest api.Module, stack []uint64) {
	in := ctx.Value(instanceKey{}).(*instance)
	name, ok := in.declared(guest, stack, in.module.counters)
	if !ok {
		in.dropped++
		return
	}
	in.emitted = append(in.emitted, emit{name: name, count: stack[2]})
}

// declared returns the declared name that the guest's bytes spell.
func (in *instance) declared(guest api.Module, stack []uint64, names map[string]string) (string, bool) {
	if len(in.emitted) >= abi.MaxEmits {
		return "", false
	}
	b, ok := guest.Memory().Read(api.DecodeU32(stack[0]), api.DecodeU32(stack[1]))
	if !ok || len(b) > abi.MaxName {
		return "", false
	}
	name, ok := names[string(b)]
	return name, ok
}

var levels = [...]slog.Level{abi.LevelDebug: slog.LevelDebug, abi.LevelInfo: slog.LevelInfo, abi.LevelWarn: slog.LevelWarn, abi.LevelError: slog.LevelError}

func log(ctx context.Context, guest api.Module, stack []uint64) {
	in := ctx.Value(instanceKey{}).(*instance)
	level := slog.LevelError
	if l := api.DecodeU32(stack[0]); l < uint32(len(levels)) {
		level = levels[l]
	}
	ptr, n := api.DecodeU32(stack[1]), api.DecodeU32(stack[2])
	b, ok := guest.Memory().Read(ptr, min(n, abi.MaxLogLine))
	if !ok {
		return
	}
	in.output.line(level, b)
}

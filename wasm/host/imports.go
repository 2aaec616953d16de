package host

import (
	"context"
	"log/slog"
	"math"

	"github.com/tetratelabs/wazero/api"

	"github.com/dhowfleet/dhow/wasm/abi"
	"github.com/dhowfleet/dhow/wasm/extism"
	"github.com/dhowfleet/dhow/wasm/metering"
	"github.com/dhowfleet/dhow/wasm/wasi"
)

// What host functions charge beyond what every call of an import costs: a unit for 64 bytes that are read, and one for
// four bytes of a line, which is checked and rewritten.
const (
	bytesForFuel     = 64
	lineBytesForFuel = 4
)

// imports offers what guests may import: the meter, the contract's functions, and WASI.
func (m *Module) imports(ctx context.Context) error {
	i32, i64, f64 := api.ValueTypeI32, api.ValueTypeI64, api.ValueTypeF64
	if _, err := m.code.Runtime.NewHostModuleBuilder(metering.ImportModule).
		NewFunctionBuilder().WithGoFunction(api.GoFunc(refill), []api.ValueType{i64, i64}, []api.ValueType{i64}).Export(metering.ImportRefill).
		Instantiate(ctx); err != nil {
		return err
	}
	if _, err := m.code.Runtime.NewHostModuleBuilder(abi.HostModule).
		NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(emitFeature), []api.ValueType{i32, i32, f64}, nil).Export(abi.ImportEmitFeature).
		NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(emitCount), []api.ValueType{i32, i32, i64}, nil).Export(abi.ImportEmitCount).
		NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(log), []api.ValueType{i32, i32, i32}, nil).Export(abi.ImportLog).
		Instantiate(ctx); err != nil {
		return err
	}
	wants := map[string]bool{}
	for _, f := range m.code.Module.ImportedFunctions() {
		module, _, _ := f.Import()
		wants[module] = true
	}
	if wants[extism.Module] {
		if err := extism.Instantiate(ctx, m.code.Runtime, func(ctx context.Context) extism.Caller { return callOf(ctx) }); err != nil {
			return err
		}
	}
	if wants[abi.WASIModule] {
		return wasi.Instantiate(ctx, m.code.Runtime, m.grants, func(ctx context.Context) wasi.Caller { return callOf(ctx) })
	}
	return nil
}

func emitFeature(ctx context.Context, guest api.Module, stack []uint64) {
	in := callOf(ctx).in
	value := api.DecodeF64(stack[2])
	name, ok := in.declared(guest, stack, in.module.features)
	if !ok || math.IsNaN(value) || math.IsInf(value, 0) {
		in.dropped++
		return
	}
	in.emitted = append(in.emitted, emit{name: name, feature: true, value: value})
}

func emitCount(ctx context.Context, guest api.Module, stack []uint64) {
	in := callOf(ctx).in
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
	n := api.DecodeU32(stack[1])
	if n > abi.MaxName {
		return "", false
	}
	in.call.Charge(int64(n) / bytesForFuel)
	b, ok := guest.Memory().Read(api.DecodeU32(stack[0]), n)
	if !ok {
		return "", false
	}
	name, ok := names[string(b)]
	return name, ok
}

var levels = [...]slog.Level{abi.LevelDebug: slog.LevelDebug, abi.LevelInfo: slog.LevelInfo, abi.LevelWarn: slog.LevelWarn, abi.LevelError: slog.LevelError}

func log(ctx context.Context, guest api.Module, stack []uint64) {
	in := callOf(ctx).in
	ptr, n := api.DecodeU32(stack[1]), min(api.DecodeU32(stack[2]), abi.MaxLogLine)
	in.call.Charge(int64(n) / lineBytesForFuel)
	b, ok := guest.Memory().Read(ptr, n)
	if !ok {
		return
	}
	in.call.Log(api.DecodeU32(stack[0]), b)
}

// Log implements extism.Caller.
func (c *call) Log(level uint32, line []byte) {
	l := slog.LevelError
	if level < uint32(len(levels)) {
		l = levels[level]
	}
	c.in.output.Line(l, line)
}

// Plugin implements extism.Caller.
func (c *call) Plugin() *extism.State {
	if c.in.plugin == nil {
		panic(errTooEarly)
	}
	return c.in.plugin
}

// Line implements wasi.Caller: standard output and error become lines of the log.
func (c *call) Line(_ uint32, b []byte) { _, _ = c.in.output.Write(b) }

// WASI implements wasi.Caller.
func (c *call) WASI() *wasi.State { return &c.in.world }

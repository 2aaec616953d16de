package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/dhowfleet/dhow/wasm/metering"
)

// quantum is how much fuel a guest gets at a time in mode Yield.
const quantum = 100_000

// meter is the least host that a metered module needs, so that what the inserted code costs is measured and not what
// package host does beside it.
type meter struct {
	fuel, stack api.MutableGlobal
	deadline    time.Time
	quantum     int64
	grant       int64 // at the beginning of a call
	spent       int64
	watch       func() // each refill, nil for nothing
}

var errDeadline = errors.New("the deadline has passed")

// startMetered rewrites a module and instantiates it by wazero.
func startMetered(ctx context.Context, code []byte, mode metering.Mode, quantum int64) (*running, *meter, error) {
	m, err := metering.Rewrite(code, metering.Options{Mode: mode})
	if err != nil {
		return nil, nil, err
	}
	r := &running{ctx: ctx, cancel: func() {}}
	r.runtime = wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithDebugInfoEnabled(false))
	g := &meter{deadline: time.Now().Add(time.Hour), quantum: quantum}
	if mode == metering.Yield {
		i64 := api.ValueTypeI64
		if _, err := r.runtime.NewHostModuleBuilder(metering.ImportModule).NewFunctionBuilder().
			WithGoModuleFunction(api.GoModuleFunc(g.refill), []api.ValueType{i64, i64}, []api.ValueType{i64}).
			Export(metering.ImportRefill).Instantiate(ctx); err != nil {
			r.close()
			return nil, nil, err
		}
	}
	g.grant = quantum
	if mode == metering.Trap {
		g.grant = math.MaxInt64
	}
	r.started = func() error {
		var ok bool
		if g.fuel, ok = r.module.ExportedGlobal(metering.ExportFuel).(api.MutableGlobal); ok {
			g.stack, ok = r.module.ExportedGlobal(metering.ExportStack).(api.MutableGlobal)
		}
		if !ok {
			return fmt.Errorf("the metered module has no %s or %s", metering.ExportFuel, metering.ExportStack)
		}
		return nil
	}
	r.before = g.reset
	return r, g, r.instantiate(m.Code)
}

// reset prepares a call.
func (g *meter) reset() {
	g.fuel.Set(uint64(g.grant))
	g.stack.Set(metering.DefaultStack)
	g.spent = 0
}

// refill gives the next quantum while there is time.
func (g *meter) refill(_ context.Context, _ api.Module, stack []uint64) {
	if g.watch != nil {
		g.watch()
	}
	g.spent += g.quantum - int64(stack[0])
	if int64(stack[1]) < 0 {
		panic(errors.New("the stack is used up"))
	}
	if time.Now().After(g.deadline) {
		panic(errDeadline)
	}
	stack[0] = uint64(g.quantum)
}

// used is the fuel of the call that just returned.
func (g *meter) used() int64 { return g.spent + g.quantum - int64(g.fuel.Get()) }

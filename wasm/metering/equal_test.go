package metering

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"pgregory.net/rapid"
)

// trial is what is left of running a program's functions one after another.
type trial struct {
	outcomes []string
	memory   []byte
	globals  [3]uint64
	fuel     []int64 // used by each call
	refills  int
}

// try runs every function of a program with the same arguments.
func try(t *rapid.T, config wazero.RuntimeConfig, code []byte, quantum int64) trial {
	ctx := context.Background()
	rt := wazero.NewRuntimeWithConfig(ctx, config.WithCoreFeatures(api.CoreFeaturesV2))
	defer func() { _ = rt.Close(ctx) }()
	var out trial
	given := int64(0)
	_, err := rt.NewHostModuleBuilder(ImportModule).NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(_ context.Context, _ api.Module, stack []uint64) {
		out.refills++
		take := max(quantum, -int64(stack[0]))
		given += take
		stack[0] += uint64(take)
	}), []api.ValueType{api.ValueTypeI64, api.ValueTypeI64}, []api.ValueType{api.ValueTypeI64}).Export(ImportRefill).Instantiate(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = rt.NewHostModuleBuilder("env").NewFunctionBuilder().WithFunc(func(v uint32) uint32 { return 3*v + 1 }).Export("f").Instantiate(ctx); err != nil {
		t.Fatal(err)
	}
	m, err := rt.Instantiate(ctx, code)
	if err != nil {
		t.Fatal(err)
	}
	fuel, _ := m.ExportedGlobal(ExportFuel).(api.MutableGlobal)
	for name := 'a'; m.ExportedFunction(string(name)) != nil; name++ {
		f := m.ExportedFunction(string(name))
		args := make([]uint64, len(f.Definition().ParamTypes()))
		for i := range args {
			args[i] = []uint64{3, 1000, math.MaxUint32}[i%3]
		}
		before := int64(0)
		if fuel != nil {
			before = given - int64(fuel.Get())
			m.ExportedGlobal(ExportStack).(api.MutableGlobal).Set(DefaultStack)
		}
		results, err := f.Call(ctx, args...)
		out.outcomes = append(out.outcomes, fmt.Sprint(results, reason(err)))
		if fuel != nil {
			out.fuel = append(out.fuel, given-int64(fuel.Get())-before)
			if got := int64(m.ExportedGlobal(ExportStack).Get()); err == nil && got != DefaultStack {
				t.Fatalf("%c returned and kept %d bytes of the stack", name, DefaultStack-got)
			}
		}
	}
	b, _ := m.Memory().Read(0, m.Memory().Size())
	out.memory = bytes.Clone(b)
	for i, g := range []string{"steps", "ticks", "spare"} {
		out.globals[i] = m.ExportedGlobal(g).Get()
	}
	return out
}

func (a trial) same(b trial) bool {
	return fmt.Sprint(a.outcomes, a.globals) == fmt.Sprint(b.outcomes, b.globals) && bytes.Equal(a.memory, b.memory)
}

func checkProgram(t *rapid.T, config wazero.RuntimeConfig, floats bool) {
	code := drawProgram(t, floats)
	m, err := Rewrite(code, Options{})
	if err != nil {
		t.Fatal(err)
	}
	plain := try(t, config, code, 0)
	first := try(t, config, m.Code, 1<<40)
	if !plain.same(first) {
		t.Fatalf("plain %v %v\nmetered %v %v", plain.outcomes, plain.globals, first.outcomes, first.globals)
	}
	for _, quantum := range []int64{1 << 40, 1, 777} {
		again := try(t, config, m.Code, quantum)
		if !plain.same(again) || fmt.Sprint(first.fuel) != fmt.Sprint(again.fuel) {
			t.Fatalf("with quantum %d: %v used %v\nbefore: %v used %v", quantum, again.outcomes, again.fuel, first.outcomes, first.fuel)
		}
	}
	total := int64(0)
	for _, f := range first.fuel {
		total += f
	}
	if ran := tickCost * int64(first.globals[ticksGlobal]); total < ran {
		t.Fatalf("%d instructions ran for %d fuel", ran, total)
	}
}

// TestProgramsAreTheSameMetered: results, traps, memory and globals are those of the plain module; the fuel used is the
// same on every run, whatever the quantum, and covers what ran.
func TestProgramsAreTheSameMetered(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { checkProgram(t, interpreter(), true) })
}

// TestProgramsAreTheSameCompiled does so with machine code, without floating point: which of two NaNs an operation
// returns is the compiler's choice.
func TestProgramsAreTheSameCompiled(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { checkProgram(t, compiler(), false) })
}

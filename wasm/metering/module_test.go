package metering

import (
	"context"
	"errors"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/dhowfleet/dhow/wasm/metering/binary"
)

// module is put together by hand, section by section, so that a test can say exactly which bytes it means.
type module struct {
	types     [][]byte
	imports   [][]byte
	functions []byte // type indexes, one byte each
	tables    [][]byte
	memories  [][]byte
	globals   [][]byte
	exports   [][]byte
	start     []byte
	elements  [][]byte
	dataCount []byte
	code      [][]byte
	data      [][]byte
	custom    []byte // a section as it is
}

func cat(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func vec(parts ...[]byte) []byte {
	return cat(binary.AppendU32(nil, uint32(len(parts))), cat(parts...))
}
func sized(b []byte) []byte { return append(binary.AppendU32(nil, uint32(len(b))), b...) }
func part(id byte, b []byte) []byte {
	return append([]byte{id}, sized(b)...)
}

func (m module) bytes() []byte {
	out := []byte("\x00asm\x01\x00\x00\x00")
	add := func(id byte, parts [][]byte) {
		if parts != nil {
			out = append(out, part(id, vec(parts...))...)
		}
	}
	add(sectionType, m.types)
	add(sectionImport, m.imports)
	if m.functions != nil {
		out = append(out, part(sectionFunction, sized(m.functions))...)
	}
	add(sectionTable, m.tables)
	add(sectionMemory, m.memories)
	add(sectionGlobal, m.globals)
	add(sectionExport, m.exports)
	if m.start != nil {
		out = append(out, part(sectionStart, m.start)...)
	}
	add(sectionElement, m.elements)
	if m.dataCount != nil {
		out = append(out, part(sectionDataCount, m.dataCount)...)
	}
	add(sectionCode, m.code)
	add(sectionData, m.data)
	return append(out, m.custom...)
}

// fn is a function's code without its length: no locals, the instructions, end.
func fn(instructions ...byte) []byte {
	return sized(cat([]byte{0}, instructions, []byte{binary.OpEnd}))
}

// fnLocals has n locals of a type before its instructions.
func fnLocals(n uint32, t byte, instructions ...byte) []byte {
	return sized(cat([]byte{1}, binary.AppendU32(nil, n), []byte{t}, instructions, []byte{binary.OpEnd}))
}

func functionType(params, results string) []byte {
	return cat([]byte{binary.TypeFunction}, sized([]byte(params)), sized([]byte(results)))
}

func export(name string, kind Kind, i byte) []byte {
	return cat(sized([]byte(name)), []byte{byte(kind), i})
}

func i32c(v int32) []byte { return binary.AppendSigned([]byte{binary.OpI32Const}, int64(v)) }
func i64c(v int64) []byte { return binary.AppendSigned([]byte{binary.OpI64Const}, v) }

const (
	i32 = "\x7f"
	i64 = "\x7e"
)

// one is a module with a memory of a page and one function of the given type, exported as "f".
func one(params, results string, code []byte) module {
	return module{
		types:     [][]byte{functionType(params, results)},
		functions: []byte{0},
		memories:  [][]byte{{0, 1}},
		exports:   [][]byte{export("f", Function, 0), export("memory", Memory, 0)},
		code:      [][]byte{code},
	}
}

var errSpent = errors.New("the budget is spent")

// run is one instance with its budget.
type run struct {
	module  api.Module
	budget  int64 // fuel that refill has left
	quantum int64
	refills int
}

// instantiate compiles code, metered or not, with the interpreter or the compiler, and instantiates it with a refill
// that hands out quanta of the budget.
func instantiate(t testing.TB, config wazero.RuntimeConfig, code []byte, r *run) error {
	t.Helper()
	ctx := context.Background()
	rt := wazero.NewRuntimeWithConfig(ctx, config.WithCoreFeatures(api.CoreFeaturesV2))
	t.Cleanup(func() { _ = rt.Close(ctx) })
	refill := func(_ context.Context, _ api.Module, stack []uint64) {
		r.refills++
		fuel := int64(stack[0])
		if s := int64(stack[1]); s < 0 {
			panic(errors.New("the stack is used up"))
		}
		if fuel < 0 {
			take := max(r.quantum, -fuel)
			if r.budget < take {
				panic(errSpent)
			}
			r.budget -= take
			fuel += take
		}
		stack[0] = uint64(fuel)
	}
	if _, err := rt.NewHostModuleBuilder(ImportModule).NewFunctionBuilder().
		WithGoModuleFunction(api.GoModuleFunc(refill), []api.ValueType{api.ValueTypeI64, api.ValueTypeI64}, []api.ValueType{api.ValueTypeI64}).
		Export(ImportRefill).Instantiate(ctx); err != nil {
		t.Fatal(err)
	}
	m, err := rt.InstantiateWithConfig(ctx, code, wazero.NewModuleConfig().WithStartFunctions())
	r.module = m
	return err
}

func rewrite(t testing.TB, m module, o Options) *Module {
	t.Helper()
	out, err := Rewrite(m.bytes(), o)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func interpreter() wazero.RuntimeConfig { return wazero.NewRuntimeConfigInterpreter() }
func compiler() wazero.RuntimeConfig    { return wazero.NewRuntimeConfigCompiler() }

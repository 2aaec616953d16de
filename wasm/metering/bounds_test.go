package metering

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"

	"github.com/dhowfleet/dhow/wasm/metering/binary"
)

// TestEveryEndlessLoopEnds: whichever way a guest goes round for ever, its budget ends it.
func TestEveryEndlessLoopEnds(t *testing.T) {
	loop := func(b ...byte) []byte {
		return fn(cat([]byte{binary.OpLoop, binary.TypeEmpty}, b, []byte{binary.OpEnd})...)
	}
	guests := map[string]module{
		"br":       one("", "", loop(binary.OpBr, 0)),
		"br_if":    one("", "", loop(binary.OpI32Const, 1, binary.OpBrIf, 0)),
		"br_table": one("", "", loop(binary.OpI32Const, 7, binary.OpBrTable, 2, 0, 0, 0)),
		"inner": one("", "", loop(binary.OpBlock, binary.TypeEmpty, binary.OpI32Const, 1, binary.OpIf, binary.TypeEmpty, binary.OpBr, 2, binary.OpElse, binary.OpBr, 1,
			binary.OpEnd, binary.OpEnd)),
		"tail of a block": one("", "", loop(binary.OpBlock, binary.TypeEmpty, binary.OpBr, 0, binary.OpEnd, binary.OpBr, 0)),
		"recursion":       one("", "", fn(binary.OpCall, 0)),
		"memory.grow":     one("", "", loop(binary.OpI32Const, 0, binary.OpMemoryGrow, 0, 0x1a, binary.OpBr, 0)),
	}
	table := one("", "", fn(binary.OpI32Const, 0, binary.OpCallIndirect, 0, 0))
	table.tables = [][]byte{{binary.TypeFuncRef, 0, 1}}
	table.elements = [][]byte{cat([]byte{0}, i32c(0), []byte{binary.OpEnd, 1, 0})}
	guests["recursion through a table"] = table
	for name, m := range guests {
		for mode, config := range map[string]wazero.RuntimeConfig{"interpreter": interpreter(), "compiler": compiler()} {
			if mode == "interpreter" && strings.HasPrefix(name, "recursion") {
				continue // it has a bound of its own, which is lower
			}
			t.Run(name+"/"+mode, func(t *testing.T) {
				r := &run{budget: 1_000_000, quantum: 10_000}
				if err := instantiate(t, config, rewrite(t, m, Options{}).Code, r); err != nil {
					t.Fatal(err)
				}
				_, err := r.module.ExportedFunction("f").Call(context.Background())
				if err == nil {
					t.Fatal("it returned")
				}
				if spent := errors.Is(err, errSpent); !spent && !strings.Contains(err.Error(), "the stack is used up") || strings.HasPrefix(name, "recursion") == spent {
					t.Fatal(err)
				}
			})
			t.Run(name+"/"+mode+"/trap", func(t *testing.T) {
				r := &run{}
				if err := instantiate(t, config, rewrite(t, m, Options{Mode: Trap}).Code, r); err != nil {
					t.Fatal(err)
				}
				r.module.ExportedGlobal(ExportFuel).(interface{ Set(uint64) }).Set(1_000_000)
				_, err := r.module.ExportedFunction("f").Call(context.Background())
				if err == nil || !strings.Contains(err.Error(), "unreachable") {
					t.Fatal(err)
				}
				if r.refills != 0 {
					t.Error("it called refill")
				}
			})
		}
	}
}

// TestFramesAreCovered: what a call takes from the stack by estimate is what it takes of memory, also in functions that
// are made to have large frames. Left alone, each of them recurses until wazero's own bound, which lies between 50 and
// 100 million bytes, so that the depth tells the real size.
func TestFramesAreCovered(t *testing.T) {
	loads := func(n int) []byte { return bytes.Repeat([]byte{binary.OpI32Const, 4, 0x28, 2, 0}, n) }
	times := func(n int, parts ...[]byte) []byte { return bytes.Repeat(cat(parts...), n) }
	sum := func(n int) []byte { return cat(bytes.Repeat([]byte{0x6a}, n-1), []byte{binary.OpGlobalSet, 1}) }
	var all, use []byte
	for i := range byte(30) {
		all = append(all, cat(loads(1), []byte{binary.OpLocalSet, i})...)
		use = append(use, binary.OpLocalGet, i, binary.OpGlobalSet, 1)
	}
	vectors := func(n int) []byte { return bytes.Repeat([]byte{binary.OpI32Const, 4, binary.OpVector, 0, 4, 0}, n) }
	functions := map[string][]byte{
		"next to nothing":              nil,
		"operands across calls":        times(300, loads(6), []byte{binary.OpCall, 1}, sum(6)),
		"vectors across calls":         times(300, vectors(6), []byte{binary.OpCall, 1}, bytes.Repeat([]byte{binary.OpVector, 0xae, 1}, 5), []byte{binary.OpVector, 21, 0, binary.OpGlobalSet, 1}),
		"locals across calls":          times(50, all, []byte{binary.OpCall, 1}, use),
		"more operands than registers": times(100, loads(40), sum(40)),
		"values where ways meet":       times(50, []byte{binary.OpGlobalGet, 1, binary.OpIf, binary.TypeEmpty}, all, []byte{binary.OpEnd}, use),
		"values of loops":              times(50, []byte{binary.OpLoop, binary.TypeEmpty}, all, []byte{binary.OpGlobalGet, 1, binary.OpBrIf, 0, binary.OpEnd}, use),
		"divisions":                    times(200, loads(2), []byte{0x6d}, loads(2), []byte{0x6d, 0x6d, binary.OpGlobalSet, 1}),
		"many results":                 times(50, []byte{binary.OpCall, 2, binary.OpCall, 2}, bytes.Repeat([]byte{binary.OpGlobalSet, 1}, 80)),
	}
	for i, what := range slices.Sorted(maps.Keys(functions)) {
		if !long() && i%2 != 0 {
			continue
		}
		b := functions[what]
		t.Run(what, func(t *testing.T) {
			deeper := []byte{binary.OpGlobalGet, 0, binary.OpI32Const, 1, binary.OpI32Add, binary.OpGlobalSet, 0, binary.OpCall, 0}
			m := one("", "", fnLocals(30, binary.TypeI32, cat(deeper, b)...))
			m.types = append(m.types, functionType("", strings.Repeat(i32, 40)))
			m.functions = append(m.functions, 0, 1)
			m.code = append(m.code, fn(), fn(loads(40)...))
			m.globals = [][]byte{cat([]byte{binary.TypeI32, 1}, i32c(0), []byte{binary.OpEnd}), cat([]byte{binary.TypeI32, 1}, i32c(0), []byte{binary.OpEnd})}
			m.exports = append(m.exports, export("depth", Global, 0))
			out := rewrite(t, m, Options{Stack: 1 << 50})
			r := &run{budget: 1 << 60, quantum: 1 << 50}
			if err := instantiate(t, compiler(), out.Code, r); err != nil {
				t.Fatal(err)
			}
			_, err := r.module.ExportedFunction("f").Call(context.Background())
			if err == nil || !strings.Contains(err.Error(), "stack overflow") {
				t.Fatal(err)
			}
			depth := int(r.module.ExportedGlobal("depth").Get())
			t.Logf("by estimate %d bytes, at least %d", out.Info.MaxFrame, 50_000_000/depth)
			if depth*out.Info.MaxFrame < 45_000_000 {
				t.Error("the estimate is too low")
			}
		})
	}
}

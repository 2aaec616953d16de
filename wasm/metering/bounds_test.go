package metering

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
)

// TestEveryEndlessLoopEnds: whichever way a guest goes round for ever, its budget ends it.
func TestEveryEndlessLoopEnds(t *testing.T) {
	loop := func(b ...byte) []byte { return fn(cat([]byte{opLoop, typeEmpty}, b, []byte{opEnd})...) }
	guests := map[string]module{
		"br":       one("", "", loop(opBr, 0)),
		"br_if":    one("", "", loop(opI32Const, 1, opBrIf, 0)),
		"br_table": one("", "", loop(opI32Const, 7, opBrTable, 2, 0, 0, 0)),
		"inner": one("", "", loop(opBlock, typeEmpty, opI32Const, 1, opIf, typeEmpty, opBr, 2, opElse, opBr, 1,
			opEnd, opEnd)),
		"tail of a block": one("", "", loop(opBlock, typeEmpty, opBr, 0, opEnd, opBr, 0)),
		"recursion":       one("", "", fn(opCall, 0)),
		"memory.grow":     one("", "", loop(opI32Const, 0, opMemoryGrow, 0, 0x1a, opBr, 0)),
	}
	table := one("", "", fn(opI32Const, 0, opCallIndirect, 0, 0))
	table.tables = [][]byte{{typeFuncRef, 0, 1}}
	table.elements = [][]byte{cat([]byte{0}, i32c(0), []byte{opEnd, 1, 0})}
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
	loads := func(n int) []byte { return bytes.Repeat([]byte{opI32Const, 4, 0x28, 2, 0}, n) }
	times := func(n int, parts ...[]byte) []byte { return bytes.Repeat(cat(parts...), n) }
	sum := func(n int) []byte { return cat(bytes.Repeat([]byte{0x6a}, n-1), []byte{opGlobalSet, 1}) }
	var all, use []byte
	for i := range byte(30) {
		all = append(all, cat(loads(1), []byte{opLocalSet, i})...)
		use = append(use, opLocalGet, i, opGlobalSet, 1)
	}
	vectors := func(n int) []byte { return bytes.Repeat([]byte{opI32Const, 4, opVector, 0, 4, 0}, n) }
	for what, b := range map[string][]byte{
		"next to nothing":              nil,
		"operands across calls":        times(300, loads(6), []byte{opCall, 1}, sum(6)),
		"vectors across calls":         times(300, vectors(6), []byte{opCall, 1}, bytes.Repeat([]byte{opVector, 0xae, 1}, 5), []byte{opVector, 21, 0, opGlobalSet, 1}),
		"locals across calls":          times(50, all, []byte{opCall, 1}, use),
		"more operands than registers": times(100, loads(40), sum(40)),
		"values where ways meet":       times(50, []byte{opGlobalGet, 1, opIf, typeEmpty}, all, []byte{opEnd}, use),
		"values of loops":              times(50, []byte{opLoop, typeEmpty}, all, []byte{opGlobalGet, 1, opBrIf, 0, opEnd}, use),
		"divisions":                    times(200, loads(2), []byte{0x6d}, loads(2), []byte{0x6d, 0x6d, opGlobalSet, 1}),
		"many results":                 times(50, []byte{opCall, 2, opCall, 2}, bytes.Repeat([]byte{opGlobalSet, 1}, 80)),
	} {
		t.Run(what, func(t *testing.T) {
			deeper := []byte{opGlobalGet, 0, opI32Const, 1, opI32Add, opGlobalSet, 0, opCall, 0}
			m := one("", "", fnLocals(30, typeI32, cat(deeper, b)...))
			m.types = append(m.types, functionType("", strings.Repeat(i32, 40)))
			m.functions = append(m.functions, 0, 1)
			m.code = append(m.code, fn(), fn(loads(40)...))
			m.globals = [][]byte{cat([]byte{typeI32, 1}, i32c(0), []byte{opEnd}), cat([]byte{typeI32, 1}, i32c(0), []byte{opEnd})}
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

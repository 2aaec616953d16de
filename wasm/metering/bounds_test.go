package metering

import (
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

package metering

import (
	"bytes"
	"context"
	"errors"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/wasm/metering/binary"
)

// shape is a way to make a module dear to compile, at a scale.
type shape func(n int) module

// shapes are those that were found by trying; each costs in a way of its own.
func shapes() map[string]shape {
	times := func(n int, parts ...[]byte) []byte { return bytes.Repeat(cat(parts...), n) }
	number := func(n int) []byte { return binary.AppendU32(nil, uint32(n)) }
	wide := strings.Repeat(i64, 100)
	base := func(locals int, b ...byte) module {
		m := one("", "", sized(cat([]byte{1}, number(locals), []byte{binary.TypeI32}, b, []byte{binary.OpEnd})))
		m.globals = [][]byte{cat([]byte{binary.TypeI32, 1}, i32c(0), []byte{binary.OpEnd})}
		m.types = append(m.types, functionType("", wide), functionType(wide, wide))
		m.functions = append(m.functions, 0, 1, 2)
		m.code = append(m.code, fn(), fn(times(100, i64c(0))...), fn(times(100, i64c(0))...))
		m.tables = [][]byte{{binary.TypeFuncRef, 0, 1}}
		return m
	}
	many := func(n int, code []byte) module {
		m := base(0)
		m.functions = append(m.functions, make([]byte, n)...)
		for range n {
			m.code = append(m.code, code)
		}
		return m
	}
	globals := func(n int, m module) module {
		for range n {
			m.globals = append(m.globals, m.globals[0])
		}
		return m
	}
	get, set := []byte{binary.OpGlobalGet, 0}, []byte{binary.OpGlobalSet, 0}
	load := []byte{binary.OpI32Const, 4, 0x28, 2, 0}
	loop := cat([]byte{binary.OpLoop, binary.TypeEmpty}, get, []byte{binary.OpBrIf, 0, binary.OpEnd})
	condition := cat(get, []byte{binary.OpIf, binary.TypeEmpty, binary.OpEnd})
	drops := times(100, []byte{0x1a})
	all := func(locals int) []byte {
		var out []byte
		for i := range locals {
			out = append(out, cat([]byte{binary.OpLocalGet}, number(i), []byte{binary.OpI32Const, 1, binary.OpI32Add, binary.OpLocalSet}, number(i))...)
		}
		return out
	}
	sum := func(n int) []byte { return cat(times(n-1, []byte{binary.OpI32Add}), set) }
	return map[string]shape{
		"loads":       func(n int) module { return base(1, times(n, get, []byte{0x28, 2, 0}, set)...) },
		"divisions":   func(n int) module { return base(1, times(n, load, load, []byte{0x6d}, set)...) },
		"conversions": func(n int) module { return base(1, times(n, []byte{binary.OpI32Const, 0, 0x2b, 3, 0, 0xaa}, set)...) },
		"calls":       func(n int) module { return base(1, times(n, []byte{binary.OpCall, 1})...) },
		"indirect calls": func(n int) module {
			return base(1, times(n, []byte{binary.OpI32Const, 0, binary.OpCallIndirect, 0, 0})...)
		},
		"memory.grow": func(n int) module {
			return base(1, times(n, []byte{binary.OpI32Const, 0, binary.OpMemoryGrow, 0, 0x1a})...)
		},
		"loops": func(n int) module { return base(1, times(n, loop)...) },
		"nested loops": func(n int) module {
			return base(1, cat(times(n, []byte{binary.OpLoop, binary.TypeEmpty}), times(n, get, []byte{binary.OpBrIf, 0, binary.OpEnd}))...)
		},
		"conditions": func(n int) module { return base(1, times(n, condition)...) },
		"branches": func(n int) module {
			return base(1, cat([]byte{binary.OpBlock, binary.TypeEmpty}, times(n, get, []byte{binary.OpBrIf, 0}), []byte{binary.OpEnd})...)
		},
		"targets of a table": func(n int) module {
			return base(1, cat([]byte{binary.OpBlock, binary.TypeEmpty}, get, []byte{binary.OpBrTable}, number(n), times(n+1, []byte{0}), []byte{binary.OpEnd})...)
		},
		"wide calls": func(n int) module {
			return base(1, cat([]byte{binary.OpCall, 2}, times(n, []byte{binary.OpCall, 3}), drops)...)
		},
		"wide loops": func(n int) module {
			return base(1, cat([]byte{binary.OpCall, 2}, times(n, []byte{binary.OpLoop, 2}, get, []byte{binary.OpBrIf, 0, binary.OpEnd}), drops)...)
		},
		"1,000 operands over loops": func(n int) module { return base(1, cat(times(1000, load), times(n, loop), sum(1000))...) },
		"1,000 operands over calls": func(n int) module {
			return base(1, cat(times(1000, load), times(n, []byte{binary.OpCall, 1}), sum(1000))...)
		},
		"1,000 locals over loops": func(n int) module { return base(1000, cat(all(1000), times(n, loop), all(1000))...) },
		"1,000 locals round a loop": func(n int) module {
			return base(1000, cat([]byte{binary.OpLoop, binary.TypeEmpty}, all(1000), times(n, loop), get, []byte{binary.OpBrIf, 0, binary.OpEnd})...)
		},
		"1,000 locals set in one arm of a loop": func(n int) module {
			return base(1000, cat([]byte{binary.OpLoop, binary.TypeEmpty}, get, []byte{binary.OpIf, binary.TypeEmpty}, all(1000), []byte{binary.OpEnd},
				all(1000), times(n, loop), get, []byte{binary.OpBrIf, 0, binary.OpEnd})...)
		},
		"100 locals set in arms": func(n int) module {
			return base(100, times(n, get, []byte{binary.OpIf, binary.TypeEmpty}, all(100), []byte{binary.OpEnd})...)
		},
		"1,000 globals behind calls": func(n int) module { return globals(1000, base(1, times(n, []byte{binary.OpCall, 1})...)) },
		"1,000 globals behind loops": func(n int) module { return globals(1000, base(1, times(n, loop)...)) },
		"functions":                  func(n int) module { return many(n, fn(loop...)) },
		"functions of 300 loops":     func(n int) module { return many(n, fn(times(300, loop)...)) },
		"functions of 1,000 locals": func(n int) module {
			return many(n, sized(cat([]byte{1}, number(1000), []byte{binary.TypeI32, binary.OpEnd})))
		},
		"table.fill": func(n int) module {
			return base(1, times(n, []byte{binary.OpI32Const, 0, binary.OpRefNull, binary.TypeFuncRef, binary.OpI32Const, 0, binary.OpBulk, binary.BulkTableFill, 0})...)
		},
	}
}

// TestBombs: of each shape there is a scale from which on it is refused, within a module of 1 MiB. The long form compiles
// the largest that is accepted and prints what that takes; docs/wasm-limits.md has such a table.
func TestBombs(t *testing.T) {
	var names []string
	for name := range shapes() {
		names = append(names, name)
	}
	sort.Strings(names)
	for i, name := range names {
		if !long() && i%4 != 0 {
			continue
		}
		make, limits := shapes()[name], DefaultLimits()
		accepted := func(n int) (*Module, int) {
			code := make(n).bytes()
			m, err := Rewrite(code, Options{})
			var why *Error
			switch {
			case len(code) > 1<<20:
				return nil, 0 // larger ones are judged by their size
			case err == nil:
				if m.Info.MaxWork > limits.Work || m.Info.Work > limits.ForModule(len(code)) {
					t.Errorf("%s of %d is accepted at %d and %d", name, n, m.Info.MaxWork, m.Info.Work)
				}
				return m, len(code)
			case !errors.As(err, &why) || why.Reason != Complexity && why.Reason != TooLarge:
				t.Fatalf("%s of %d: %v", name, n, err)
			}
			return nil, 0
		}
		low, high := 1, 1<<18
		for high-low > 1+low/20 {
			if m, _ := accepted((low + high) / 2); m != nil {
				low = (low + high) / 2
			} else {
				high = (low + high) / 2
			}
		}
		m, size := accepted(low)
		if m == nil {
			t.Errorf("%s: not even one is accepted", name)
			continue
		}
		if !long() {
			t.Logf("%s: %d are accepted, %d KB, by estimate %d ms", name, low, size>>10, m.Info.MaxWork/1000)
			continue
		}
		start := time.Now()
		c, err := newJudge(t, compiler()).CompileModule(context.Background(), m.Code)
		took := time.Since(start)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_ = c.Close(context.Background())
		t.Logf("| %s | %d | %d KB | %d ms | %d ms |", name, low, size>>10, m.Info.MaxWork/1000, took.Milliseconds())
	}
}

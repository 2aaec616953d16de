package metering

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/dhowfleet/dhow/wasm/metering/binary"
)

func refusedFor(t *testing.T, want Reason, code []byte, o Options) {
	t.Helper()
	_, err := Rewrite(code, o)
	var why *Error
	if !errors.As(err, &why) || why.Reason != want {
		t.Errorf("want %q, got %v", want, err)
	}
}

// TestNothingThatWasAddedCanBeNamed: the metered module has more globals, functions, types and labels than the guest's
// own, and an index just behind the guest's own is refused wherever an index can stand.
func TestNothingThatWasAddedCanBeNamed(t *testing.T) {
	guest := func() module {
		m := one("", "", fn())
		m.globals = [][]byte{cat([]byte{binary.TypeI64, 1}, i64c(0), []byte{binary.OpEnd})}
		m.tables = [][]byte{{binary.TypeFuncRef, 0, 1}}
		m.elements = [][]byte{{1, 0, 1, 0}} // passive, function 0
		m.dataCount, m.data = []byte{1}, [][]byte{{1, 1, 'x'}}
		return m
	}
	body := func(b ...byte) func(*module) { return func(m *module) { m.code = [][]byte{fn(b...)} } }
	for what, change := range map[string]func(*module){
		"global.set":      body(binary.OpI64Const, 0, binary.OpGlobalSet, 1),
		"global.get":      body(binary.OpGlobalGet, 1, 0x1a),
		"global.get 2":    body(binary.OpGlobalGet, 2, 0x1a),
		"call":            body(binary.OpCall, 1),
		"call 2":          body(binary.OpCall, 2),
		"ref.func":        body(binary.OpRefFunc, 1, 0x1a),
		"local.get":       body(binary.OpLocalGet, 0, 0x1a),
		"local.set":       body(binary.OpI32Const, 0, binary.OpLocalSet, 0),
		"local.tee":       body(binary.OpI32Const, 0, binary.OpLocalTee, 0, 0x1a),
		"br":              body(binary.OpBr, 1),
		"br_if":           body(binary.OpI32Const, 0, binary.OpBrIf, 1),
		"br_table":        body(binary.OpI32Const, 0, binary.OpBrTable, 1, 0, 1),
		"br_table within": body(binary.OpI32Const, 0, binary.OpBrTable, 1, 1, 0),
		"block's type":    body(binary.OpBlock, 1, binary.OpEnd),
		"loop's type":     body(binary.OpLoop, 1, binary.OpEnd),
		"if's type":       body(binary.OpI32Const, 0, binary.OpIf, 1, binary.OpEnd),
		"call_indirect":   body(binary.OpI32Const, 0, binary.OpCallIndirect, 1, 0),
		"its table":       body(binary.OpI32Const, 0, binary.OpCallIndirect, 0, 1),
		"table.get":       body(binary.OpI32Const, 0, 0x25, 1, 0x1a),
		"table.set":       body(binary.OpI32Const, 0, binary.OpRefNull, binary.TypeFuncRef, binary.OpTableSet, 1),
		"table.size":      body(binary.OpBulk, binary.BulkTableSize, 1, 0x1a),
		"table.fill":      body(binary.OpI32Const, 0, binary.OpRefNull, binary.TypeFuncRef, binary.OpI32Const, 0, binary.OpBulk, binary.BulkTableFill, 1),
		"table.copy":      body(binary.OpI32Const, 0, binary.OpI32Const, 0, binary.OpI32Const, 0, binary.OpBulk, binary.BulkTableCopy, 0, 1),
		"table.copy to":   body(binary.OpI32Const, 0, binary.OpI32Const, 0, binary.OpI32Const, 0, binary.OpBulk, binary.BulkTableCopy, 1, 0),
		"table.init":      body(binary.OpI32Const, 0, binary.OpI32Const, 0, binary.OpI32Const, 0, binary.OpBulk, binary.BulkTableInit, 1, 0),
		"table.init's":    body(binary.OpI32Const, 0, binary.OpI32Const, 0, binary.OpI32Const, 0, binary.OpBulk, binary.BulkTableInit, 0, 1),
		"elem.drop":       body(binary.OpBulk, binary.BulkElemDrop, 1),
		"memory.init":     body(binary.OpI32Const, 0, binary.OpI32Const, 0, binary.OpI32Const, 0, binary.OpBulk, binary.BulkMemoryInit, 1, 0),
		"memory.init's":   body(binary.OpI32Const, 0, binary.OpI32Const, 0, binary.OpI32Const, 0, binary.OpBulk, binary.BulkMemoryInit, 0, 1),
		"data.drop":       body(binary.OpBulk, binary.BulkDataDrop, 1),
		"memory.size":     body(0x3f, 1, 0x1a),
		"function's type": func(m *module) { m.functions[0] = 1 },
		"import's type": func(m *module) {
			m.imports = [][]byte{cat(sized([]byte("a")), sized([]byte("b")), []byte{0, 1})}
		},
		"export of a global":   func(m *module) { m.exports = append(m.exports, export("g", Global, 1)) },
		"export of a function": func(m *module) { m.exports = append(m.exports, export("h", Function, 1)) },
		"export of a table":    func(m *module) { m.exports = append(m.exports, export("t", Table, 1)) },
		"export of a memory":   func(m *module) { m.exports = append(m.exports, export("m", Memory, 1)) },
		"start":                func(m *module) { m.start = []byte{1} },
		"element's function":   func(m *module) { m.elements = [][]byte{{1, 0, 1, 1}} },
		"element's expression": func(m *module) { m.elements = [][]byte{{5, binary.TypeFuncRef, 1, binary.OpRefFunc, 1, binary.OpEnd}} },
		"element's offset":     func(m *module) { m.elements = [][]byte{{0, binary.OpGlobalGet, 0, binary.OpEnd, 1, 0}} },
		"element's table":      func(m *module) { m.elements = [][]byte{{2, 1, binary.OpI32Const, 0, binary.OpEnd, 0, 1, 0}} },
		"global's value":       func(m *module) { m.globals = [][]byte{{binary.TypeI64, 1, binary.OpGlobalGet, 1, binary.OpEnd}} },
		"global's function":    func(m *module) { m.globals = [][]byte{{binary.TypeFuncRef, 1, binary.OpRefFunc, 1, binary.OpEnd}} },
		"data's offset":        func(m *module) { m.data = [][]byte{{0, binary.OpGlobalGet, 1, binary.OpEnd, 1, 'x'}} },
	} {
		t.Run(what, func(t *testing.T) {
			m := guest()
			if _, err := Rewrite(m.bytes(), Options{}); err != nil {
				t.Fatal("the guest itself is refused: ", err)
			}
			change(&m)
			for _, mode := range []Mode{Yield, Trap} {
				refusedFor(t, Index, m.bytes(), Options{Mode: mode})
			}
			if err := newJudge(t, interpreter()).compiles(m.bytes()); err == nil {
				t.Error("it is valid: the test says nothing")
			}
		})
	}
}

// TestRefusals: what is not to be let through is refused by name.
func TestRefusals(t *testing.T) {
	empty := one("", "", fn())
	with := func(change func(*module)) []byte {
		m := empty
		m.exports = slices.Clone(m.exports)
		change(&m)
		return m.bytes()
	}
	code := func(b []byte) []byte { return with(func(m *module) { m.code = [][]byte{b} }) }
	imported := func(from string, kind ...byte) []byte {
		return with(func(m *module) { m.imports = [][]byte{cat(sized([]byte(from)), sized([]byte("x")), kind)} })
	}
	valid := empty.bytes()
	name := func(b ...byte) []byte {
		return with(func(m *module) { m.custom = part(sectionCustom, cat(sized([]byte("name")), b)) })
	}
	for i, c := range []struct {
		want Reason
		code []byte
		o    Options
	}{
		{NotWasm, nil, Options{}},
		{NotWasm, []byte("\x00asm"), Options{}},
		{NotWasm, []byte("\x00asm\x0d\x00\x01\x00"), Options{}},
		{NotWasm, []byte("\x00asm\x02\x00\x00\x00"), Options{}},
		{Malformed, valid[:len(valid)-1], Options{}},
		{Malformed, append(slices.Clone(valid), 1, 0), Options{}},          // a type section at the end
		{Malformed, append(slices.Clone(valid), 0, 2, 5, 'x'), Options{}},  // a custom section's name that is cut off
		{Malformed, append(slices.Clone(valid), 0, 2, 1, 0xff), Options{}}, // one that is not UTF-8
		{Unsupported, append(slices.Clone(valid), 13, 1, 0), Options{}},    // tags
		{Malformed, name(1, 3, 1, 0, 9), Options{}},                        // a function's name that is cut off
		{Malformed, name(1, 0xff, 0xff, 0xff, 0xff, 0x0f), Options{}},      // a part that is
		{Malformed, name(1, 5, 0xff, 0xff, 0xff, 0xff, 0x0f), Options{}},   // more names than can be
		{Malformed, name(2, 4, 1, 0, 0xff, 0x7f), Options{}},               // more names of locals than can be
		{Malformed, with(func(m *module) { m.exports = append(m.exports, export("f", Function, 0)) }), Options{}},
		{ReservedName, with(func(m *module) { m.exports = append(m.exports, export(ExportFuel, Function, 0)) }), Options{}},
		{ReservedName, imported(ImportModule, 0, 0), Options{}},
		{Unsupported, imported("a", 4, 0, 0), Options{}},
		{Malformed, with(func(m *module) { m.functions, m.exports = nil, nil }), Options{}},
		{Malformed, with(func(m *module) { m.code = nil }), Options{}},
		{Malformed, with(func(m *module) { m.dataCount = []byte{1} }), Options{}},
		{MemoryLimit, with(func(m *module) { m.memories = [][]byte{{0, 1}, {0, 1}} }), Options{}},
		{MemoryLimit, imported("a", 2, 0, 1), Options{}}, // a second one
		{MemoryLimit, with(func(m *module) { m.memories = [][]byte{{3, 1, 1}} }), Options{}},
		{MemoryLimit, with(func(m *module) { m.memories = [][]byte{{4, 1}} }), Options{}},
		{MemoryLimit, with(func(m *module) { m.memories = [][]byte{{0, 17}} }), Options{MemoryPages: 16}},
		{Malformed, with(func(m *module) { m.memories = [][]byte{{1, 2, 1}} }), Options{}},
		{Malformed, with(func(m *module) { m.memories = [][]byte{{0, 0x81, 0x80, 0x04}} }), Options{}},
		{TableLimit, with(func(m *module) { m.tables = [][]byte{{binary.TypeFuncRef, 0, 0x81, 0x80, 0x04}} }), Options{}},
		{TableLimit, with(func(m *module) { m.tables = [][]byte{{binary.TypeFuncRef, 0, 60}, {binary.TypeFuncRef, 0, 60}} }), Options{TableEntries: 100}},
		{TableLimit, with(func(m *module) {
			m.tables = [][]byte{{binary.TypeFuncRef, 0, 1}}
			m.code = [][]byte{fn(binary.OpRefNull, binary.TypeFuncRef, binary.OpI32Const, 1, binary.OpBulk, binary.BulkTableGrow, 0, 0x1a)}
		}), Options{}},
		{Unsupported, with(func(m *module) {
			m.tables = [][]byte{{0x40, 0, binary.TypeFuncRef, 0, 1, binary.OpRefNull, binary.TypeFuncRef, binary.OpEnd}}
		}), Options{}},
		{Unsupported, with(func(m *module) { m.types = append(m.types, functionType("\x69", "")) }), Options{}}, // exnref
		{Unsupported, with(func(m *module) { m.types = append(m.types, []byte{0x5f, 0}) }), Options{}},          // a struct
		{Unsupported, code(fnLocals(1, 0x64)), Options{}},
		{Unsupported, code(fn(0x06, binary.TypeEmpty, binary.OpEnd)), Options{}}, // try
		{Unsupported, code(fn(0x12, 0)), Options{}},                              // return_call
		{Unsupported, code(fn(0xfe, 3, 0)), Options{}},                           // atomic.fence
		{Unsupported, code(fn(binary.OpVector, 0x9a, 1)), Options{}},             // a number that nothing has
		{Malformed, code(fn(binary.OpVector, 0x80, 0)), Options{}},               // a number that two readers take differently
		{Malformed, code(fn(binary.OpI32Const, 0x80, 0x80, 0x80, 0x80, 0x10, 0x1a)), Options{}},
		{Malformed, code(fn(binary.OpI32Const, 0x80, 0x80, 0x80, 0x80, 0x80, 0, 0x1a)), Options{}},
		{Malformed, code(fn(binary.OpBlock, 0x80, 0x80, 0x80, 0x80, 0x20, binary.OpEnd)), Options{}},
		{Unsupported, code(fn(binary.OpBlock, 0xff, 0x7f, binary.OpEnd)), Options{}}, // -1 in two bytes
		{Malformed, code(fn(binary.OpElse)), Options{}},
		{Malformed, code(fn(binary.OpEnd)), Options{}},
		{Malformed, code(sized([]byte{0, binary.OpBlock, binary.TypeEmpty, binary.OpEnd})), Options{}},
		{Malformed, code([]byte{0}), Options{}},
		{Operands, code(fn(0x1a)), Options{}},
		{Operands, code(fn(binary.OpI32Const, 1, binary.OpBlock, binary.TypeEmpty, 0x1a, binary.OpEnd, 0x1a)), Options{}},
		{Malformed, with(func(m *module) { m.start, m.types = []byte{0}, [][]byte{functionType("", i32)} }), Options{}},
		{Complexity, code(fnLocals(1<<32-1, binary.TypeI64)), Options{}},
		{Complexity, with(func(m *module) { // each is within its limit, and all cost when the module is loaded
			for i := range 100 {
				m.types = append(m.types, functionType(strings.Repeat("\x7f", 128+i), strings.Repeat("\x7e", 128-i)))
			}
		}), Options{}},
		{Complexity, with(func(m *module) {
			for range 300 {
				m.functions, m.code = append(m.functions, m.functions[0]), append(m.code, fnLocals(9000, binary.TypeI64, 0))
			}
		}), Options{}},
		{TooLarge, valid, Options{Limits: Limits{Module: 20}}},
	} {
		t.Run(fmt.Sprint(i, " ", c.want), func(t *testing.T) { refusedFor(t, c.want, c.code, c.o) })
	}
	if _, err := Rewrite(valid, Options{}); err != nil {
		t.Error("the module that is varied is refused itself: ", err)
	}
	var why *Error
	_, err := Rewrite(code(fn(binary.OpCall, 9)), Options{})
	if !errors.As(err, &why) || why.Function != 0 || why.Offset < 0 || !strings.Contains(err.Error(), "function 0: there is no function 9") {
		t.Errorf("the error does not say where: %v", err)
	}
}

// TestLimitsOfMemoryAndTables: a memory stops at the pages that it is given, whatever it asked for.
func TestLimitsOfMemoryAndTables(t *testing.T) {
	for _, c := range []struct {
		own   []byte
		pages uint32
		want  uint32
	}{{[]byte{0, 1}, 0, 1 << 16}, {[]byte{0, 1}, 5, 5}, {[]byte{1, 1, 3}, 5, 3}, {[]byte{1, 1, 9}, 5, 5}, {[]byte{1, 5, 9}, 5, 5}} {
		m := one(i32, i32, fn(binary.OpLocalGet, 0, binary.OpMemoryGrow, 0))
		m.memories = [][]byte{c.own}
		out := rewrite(t, m, Options{MemoryPages: c.pages})
		if out.Info.MemoryMax != c.want {
			t.Errorf("%v with %d pages: %d", c.own, c.pages, out.Info.MemoryMax)
		}
		if c.want > 16 {
			continue
		}
		r := &run{budget: 1 << 40, quantum: 1000}
		if err := instantiate(t, interpreter(), out.Code, r); err != nil {
			t.Fatal(err)
		}
		for _, by := range []uint64{uint64(c.want - out.Info.MemoryMin), 1} {
			got, err := r.module.ExportedFunction("f").Call(context.Background(), by)
			if failed := uint32(got[0]) == 1<<32-1; err != nil || failed != (by == 1 && r.module.Memory().Size()>>16 == c.want) {
				t.Errorf("%v with %d pages: growing by %d gave %v, %v", c.own, c.pages, by, got, err)
			}
		}
	}
}

// TestEveryMutableNumberIsExported, also those that the guest keeps to itself, so that a host can set them back.
func TestEveryMutableNumberIsExported(t *testing.T) {
	m := one("", "", fn(binary.OpGlobalGet, 3, binary.OpI64Const, 1, binary.OpI64Add, binary.OpGlobalSet, 3))
	m.imports = [][]byte{cat(sized([]byte("env")), sized([]byte("g")), []byte{byte(Global), binary.TypeI32, 0})}
	m.globals = [][]byte{
		cat([]byte{binary.TypeI32, 1, binary.OpGlobalGet, 0, binary.OpEnd}),
		cat([]byte{binary.TypeI32, 0}, i32c(1), []byte{binary.OpEnd}),
		cat([]byte{binary.TypeI64, 1}, i64c(5), []byte{binary.OpEnd}),
		{binary.TypeFuncRef, 1, binary.OpRefNull, binary.TypeFuncRef, binary.OpEnd},
	}
	out := rewrite(t, m, Options{})
	if !slices.Equal(out.Info.Globals, []uint32{1, 3}) || !out.Info.VectorGlobals {
		t.Errorf("%v, others: %t", out.Info.Globals, out.Info.VectorGlobals)
	}
	j := newJudge(t, interpreter())
	c, err := j.CompileModule(context.Background(), out.Code)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.ExportedFunctions()) != 1 {
		t.Error("functions were added to the exports")
	}
	m.imports[0] = cat(sized([]byte("env")), sized([]byte("f")), []byte{byte(Function), 0})
	m.globals[0] = cat([]byte{binary.TypeI32, 1}, i32c(9), []byte{binary.OpEnd})
	m.code = [][]byte{fn(binary.OpGlobalGet, 2, binary.OpI64Const, 1, binary.OpI64Add, binary.OpGlobalSet, 2)}
	m.exports[0] = export("f", Function, 1)
	if _, err := j.NewHostModuleBuilder("env").NewFunctionBuilder().WithFunc(func() {}).Export("f").Instantiate(context.Background()); err != nil {
		t.Fatal(err)
	}
	instance, err := j.InstantiateWithConfig(context.Background(), rewrite(t, m, Options{Mode: Trap}).Code, wazero.NewModuleConfig())
	if err != nil {
		t.Fatal(err)
	}
	instance.ExportedGlobal(ExportFuel).(api.MutableGlobal).Set(1000)
	for range 3 {
		if _, err := instance.ExportedFunction("f").Call(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	g := instance.ExportedGlobal(ExportGlobalPrefix + "2").(api.MutableGlobal)
	if g.Get() != 8 {
		t.Errorf("the global is %d", g.Get())
	}
	g.Set(5)
	if instance.ExportedGlobal(ExportGlobalPrefix+"0").Get() != 9 || g.Get() != 5 {
		t.Error("the globals are mixed up")
	}
}

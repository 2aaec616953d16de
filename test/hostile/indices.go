package hostile

import (
	"fmt"

	w "github.com/dhowfleet/dhow/wasm/wasmtest"
)

// indices name things that the module does not have, but has once the rewriter has added its own.
func indices() []Case {
	b := builder{kind: "index aliasing"}
	one := func(name, does string, build func() []byte) { b.invalid(name, does, Rewriter, "index", build) }
	for own := range uint32(3) { // globals of its own
		one(fmt.Sprintf("global-set-%d", own), fmt.Sprintf("writes global %d of %d: the fuel", own, own), shaped(func(g *w.Guest) {
			for range own {
				g.Global(w.I64, true, w.I64Const(0))
			}
			g.Answering(w.I64Const(1<<62), w.GlobalSet(own))
		}))
	}
	one("global-stack", "writes the global behind the fuel: the stack", processing(w.I64Const(1<<62), w.GlobalSet(1)))
	one("global-get", "reads the fuel", processing(w.GlobalGet(0), w.Drop))
	one("global-in-a-constant", "a global that begins with the fuel's value", shaped(func(g *w.Guest) { g.Global(w.I64, false, w.GlobalGet(1)) }))
	one("global-as-offset", "a data segment at the address that the fuel names", shaped(func(g *w.Guest) {
		g.Add(w.SectionData, w.Seq(w.Raw(0), w.GlobalGet(0), w.End, w.Raw(0)))
	}))
	one("global-exported", "exports the fuel", shaped(func(g *w.Guest) { g.Export("mine", w.KindGlobal, 0) }))

	// The guest's functions are 0 to 3, so that refill's index, if it came first or last, is among these.
	for i := range uint32(3) {
		one(fmt.Sprintf("call-beyond-%d", i), fmt.Sprintf("calls function %d of 4: refill, or a helper for bulk operations", 4+i), processing(w.Call(4+i)))
	}
	one("call-beyond-imports", "calls the function that follows the last one, with an import", shaped(func(g *w.Guest) {
		g.Answering(w.I64Const(1), w.I64Const(1), w.Call(5), w.Drop)
	}, w.Log))
	one("ref-beyond", "takes a reference to refill", processing(w.RefFunc(4), w.Drop))
	one("element-beyond", "puts refill into a table", shaped(func(g *w.Guest) {
		g.Table(w.FuncRef, 1, 1)
		g.Elements(0, 4)
	}))
	one("export-beyond", "exports refill", shaped(func(g *w.Guest) { g.Export("mine", w.KindFunction, 4) }))
	one("start-beyond", "starts with a function that the rewriter adds", shaped(func(g *w.Guest) { g.Start(4) }))
	types := func(g *w.Guest) uint32 { return g.Type(w.Sig{}) + 1 } // one beyond
	one("type-of-a-function", "a function of a type that the rewriter adds", shaped(func(g *w.Guest) {
		g.Replace(w.SectionFunction, []byte{4, 0, 1, 2, 4})
	}))
	one("type-of-a-block", "a block of a type that the rewriter adds", shaped(func(g *w.Guest) { g.Answering(w.Block(w.Indexed(types(g)))) }))
	one("type-of-call_indirect", "call_indirect of a type that the rewriter adds", shaped(func(g *w.Guest) {
		g.Table(w.FuncRef, 1, 1)
		g.Answering(w.I32Const(0), w.CallIndirect(types(g), 0))
	}))
	one("type-of-an-import", "imports a function of a type that the rewriter adds", func() []byte {
		g := w.NewGuest()
		g.RawImport("dhow", "log", w.KindFunction, byte(types(g)))
		return g.Bytes()
	})
	one("local-get", "reads the local behind its parameters: scratch", processing(w.LocalGet(2), w.Drop))
	one("local-set", "writes the local behind its own", shaped(func(g *w.Guest) {
		g.Process.Locals(w.I32)
		g.Answering(w.I32Const(1), w.LocalSet(3))
	}))
	one("local-tee", "writes a local far beyond", processing(w.I32Const(1), w.LocalTee(1<<20), w.Drop))
	one("label-br", "branches one block too far: around the giving back of the stack", processing(w.Br(1)))
	one("label-br_if", "the same by br_if, out of a loop", processing(w.Loop(w.Empty, w.I32Const(1), w.BrIf(2))))
	one("label-br_table", "the same by a br_table's target", processing(w.Block(w.Empty, w.I32Const(0), w.BrTable(0, 2))))
	one("label-default", "the same by a br_table's default", processing(w.I32Const(0), w.BrTable(1)))
	one("label-unreachable", "the same behind unreachable code", processing(w.Unreachable, w.Br(1)))
	one("table-none", "table.size without a table", processing(w.TableSize(0), w.Drop))
	one("data-none", "memory.init of a segment that is not there", shaped(func(g *w.Guest) {
		g.PassiveData([]byte("x"))
		g.Answering(w.I32Const(0), w.I32Const(0), w.I32Const(0), w.MemoryInit(3))
	}))
	one("element-none", "table.init of a segment that is not there", shaped(func(g *w.Guest) {
		g.Table(w.FuncRef, 1, 1)
		g.Answering(w.I32Const(0), w.I32Const(0), w.I32Const(0), w.TableInit(0, 0))
	}))
	b.invalid("memory-one", "a data segment for memory 1", Rewriter, "memory", shaped(func(g *w.Guest) {
		g.Add(w.SectionData, w.Seq(w.Raw(2, 1), w.I32Const(0), w.End, w.Raw(0)))
	}))

	// What is not an index, but would be a way to the same.
	b.invalid("fuel-of-other-type", "leaves an i64 where an i32 belongs", Compiler, "", processing(w.I64Const(1), w.Drop, w.I64Const(1), w.I32Eqz, w.Drop))
	b.invalid("stack-underflow", "takes a value that is not there, which the rewriter's own would be", Rewriter, "operands", processing(w.Drop))
	b.invalid("stack-left-over", "leaves one value more than its result", Compiler, "", processing(w.I32Const(1)))
	b.invalid("else-without-if", "else in a block", Rewriter, "malformed", processing(w.Raw(0x02, 0x40), w.Else, w.End))
	b.invalid("end-too-many", "ends the function twice, so that what follows would be outside of it", Rewriter, "malformed", processing(w.End, w.I64Const(1<<62), w.GlobalSet(0)))
	b.invalid("end-missing", "a function without an end, so that the next one's bytes would be its own", Rewriter, "malformed", shaped(func(g *w.Guest) {
		g.Process.Raw([]byte{0, 0x41, 1})
	}))
	return b.cases
}

// names claim what belongs to the rewriter or to nobody.
func names() []Case {
	b := builder{kind: "names"}
	for _, name := range []string{"dhow:fuel", "dhow:stack", "dhow:global:0", "dhow:"} {
		b.add("export-"+name, "exports its memory as "+name, Rewriter, "reserved name", shaped(func(g *w.Guest) { g.Export(name, w.KindMemory, 0) }))
	}
	b.add("import-refill", "imports dhow:metering.refill itself, to give itself fuel", Rewriter, "reserved name", shaped(func(*w.Guest) {},
		w.Import{Module: "dhow:metering", Name: "refill", Sig: w.Sig{Params: []w.Type{w.I64, w.I64}, Results: []w.Type{w.I64}}}))
	b.add("import-dhow-metering", "imports something else of dhow:metering", Rewriter, "reserved name", shaped(func(*w.Guest) {},
		w.Import{Module: "dhow:metering", Name: "stop"}))
	b.add("import-fuel", "imports the fuel as a global", Rewriter, "reserved name", importing("dhow:metering", "dhow:fuel", w.KindGlobal, byte(w.I64), 1))
	b.add("import-global", "imports a global", Contract, "", importing("env", "global", w.KindGlobal, byte(w.I64), 1))
	for _, i := range []w.Import{{Module: "env", Name: "abort"}, {Module: "dhow", Name: "read_disk"}, {Module: "host", Name: "log"}} {
		b.add("import-"+i.Module+"."+i.Name, fmt.Sprintf("imports %q.%q", i.Module, i.Name), Contract, "", shaped(func(*w.Guest) {}, i))
	}
	b.add("import-unknown-wasi", "imports a function that WASI does not have", Contract, "", shaped(func(*w.Guest) {}, w.WASI("format_disk")))
	b.add("import-other-signature", "imports dhow.log with other parameters", Contract, "", shaped(func(*w.Guest) {}, w.Import{Module: "dhow", Name: "log"}))
	for _, name := range []string{"process", "cabi_realloc", "cabi_post_process", "dhow_abi_version", "memory"} {
		b.add("no-"+name, "does not export "+name, Contract, "", shaped(func(g *w.Guest) { g.Rename(map[string]string{name: "x"}) }))
	}
	b.add("process-of-other-type", "process and cabi_post_process in each other's place", Contract, "", shaped(func(g *w.Guest) {
		g.Rename(map[string]string{"process": "cabi_post_process", "cabi_post_process": "process"})
	}))
	b.add("memory-that-is-none", "exports a function as its memory", Contract, "", shaped(func(g *w.Guest) {
		g.Rename(map[string]string{"memory": "m", "f": "memory"})
		g.Export("f", w.KindFunction, 0)
	}))
	b.invalid("export-twice", "exports process twice", Rewriter, "malformed", shaped(func(g *w.Guest) { g.Export("process", w.KindFunction, 2) }))
	b.invalid("export-not-utf8", "an export whose name is not UTF-8", Rewriter, "malformed", shaped(func(g *w.Guest) { g.Export("\xff\xfe", w.KindMemory, 0) }))
	b.invalid("import-not-utf8", "an import whose name is not UTF-8", Rewriter, "malformed", shaped(func(*w.Guest) {}, w.Import{Module: "dhow", Name: "l\xffg"}))
	b.invalid("start-of-other-type", "a start function with parameters", Rewriter, "malformed", shaped(func(g *w.Guest) { g.Start(g.Post.Index) }))
	b.add("version-2", "speaks version 2 of the contract", Start, Trap, shaped(func(g *w.Guest) { g.Version.Body(w.I32Const(2)) }))
	b.add("refuses-configuration", "configure refuses what it is given", Start, Trap, shaped(func(g *w.Guest) { g.Configure(w.I32Const(1)) }))
	return b.cases
}

package hostile

import (
	w "github.com/dhowfleet/dhow/wasm/wasmtest"
)

const (
	mega  = 1 << 20
	most  = 64 * mega // Limits.Memory
	pages = most >> 16
	// some is what most modules have that move much memory: providing a page takes longer than filling it, and the whole
	// corpus is to take seconds.
	some = 8 * mega
)

// memories take memory, or time by moving it.
func memories() []Case {
	b := builder{kind: "memory"}
	sized := func(lowest uint64, highest int64, body ...w.Code) func() []byte {
		return shaped(func(g *w.Guest) {
			g.Memory(lowest, highest)
			g.Process.Locals(w.I32)
			g.Answering(body...)
		})
	}
	large := func(body ...w.Code) func() []byte { return sized(some>>16, w.NoMax, body...) }
	grow := w.Seq(w.I32Const(1), w.MemoryGrow)

	b.add("grow-by-page", "grows by a page, for ever", Call, Fuel, sized(1, w.NoMax, w.Forever(grow, w.Drop)))
	b.add("grow-to-the-limit", "grows by a page until it is refused, and answers", Nowhere, "", sized(1, w.NoMax,
		w.Loop(w.Empty, grow, w.I32Const(-1), w.I32Ne, w.BrIf(0))))
	b.add("grow-beyond", "traps if it is given 64 MB more than it has", Nowhere, "", sized(1, w.NoMax,
		w.I32Const(pages), w.MemoryGrow, w.I32Const(-1), w.I32Ne, w.If(w.Empty, w.Unreachable)))
	b.add("grow-by-minus-one", "grows by 2^32-1 pages, for ever", Call, Fuel, sized(1, w.NoMax, w.Forever(w.I32Const(-1), w.MemoryGrow, w.Drop)))
	b.add("grow-beyond-own-maximum", "traps if it is given more than its own maximum", Nowhere, "", sized(1, 3,
		w.I32Const(3), w.MemoryGrow, w.I32Const(-1), w.I32Ne, w.If(w.Empty, w.Unreachable)))
	b.add("grow-and-touch", "grows to the limit and writes into every page of 4 KiB, once", Nowhere, "", sized(1, w.NoMax,
		w.I32Const(pages-1), w.MemoryGrow, w.Drop,
		w.I32Const(most-4096), w.LocalSet(2),
		w.Loop(w.Empty, w.LocalGet(2), w.I32Const(1), w.I32Store8(4095), w.LocalGet(2), w.I32Const(4096), w.I32Sub, w.LocalTee(2), w.I32Const(8192), w.I32Ne, w.BrIf(0)))).Large = true
	b.add("touch-for-ever", "writes into every page of 8 MB again and again", Call, Fuel, large(w.Forever(
		w.LocalGet(2), w.I32Const(4096), w.I32Add, w.I32Const(some-1), w.I32And, w.LocalTee(2), w.LocalGet(2), w.I32Store8(0))))
	b.add("minimum-beyond", "begins with 65 MB", Contract, "", sized(pages+16, w.NoMax))
	b.add("minimum-4GB", "begins with 4 GB", Contract, "", sized(65536, w.NoMax))
	b.add("maximum-4GB", "would grow to 4 GB", Nowhere, "", sized(1, 65536, w.I32Const(65535), w.MemoryGrow, w.I32Const(-1), w.I32Ne, w.If(w.Empty, w.Unreachable)))

	// Nearly all of the memory, so that the contract's own bytes are left.
	const low = 2 << 16
	size := w.I32Const(some - 4<<16)
	b.add("fill", "memory.fill of 8 MB, for ever", Call, Fuel, large(w.Forever(w.I32Const(low), w.I32Const(7), size, w.MemoryFill)))
	b.add("copy-up", "memory.copy of 8 MB onto itself, upwards, for ever", Call, Fuel, large(w.Forever(w.I32Const(low+1), w.I32Const(low), size, w.MemoryCopy)))
	b.add("copy-down", "memory.copy of 8 MB onto itself, downwards, for ever", Call, Fuel, large(w.Forever(w.I32Const(low), w.I32Const(low+1), size, w.MemoryCopy)))
	b.add("fill-in-a-row", "200 times memory.fill of 8 MB, without a loop, for ever", Call, Fuel, large(w.Forever(w.Times(200, w.I32Const(low), w.I32Const(7), size, w.MemoryFill))))
	b.add("fill-nothing", "memory.fill of no bytes, for ever", Call, Fuel, large(w.Forever(w.I32Const(0), w.I32Const(0), w.I32Const(0), w.MemoryFill)))
	b.add("init", "memory.init of a megabyte, for ever", Call, Fuel, shaped(func(g *w.Guest) {
		g.Memory(64, 64)
		s := g.PassiveData(make([]byte, mega))
		g.Answering(w.Forever(w.I32Const(low), w.I32Const(0), w.I32Const(mega), w.MemoryInit(s)))
	}))
	trap := func(name, does string, body ...w.Code) { b.add(name, does, Call, Trap, sized(1, w.NoMax, body...)) }
	trap("fill-outside", "memory.fill across the end", w.I32Const(1<<16-8), w.I32Const(7), w.I32Const(9), w.MemoryFill)
	trap("fill-wrapping", "memory.fill of 2^32-1 bytes", w.I32Const(16), w.I32Const(7), w.I32Const(-1), w.MemoryFill)
	trap("copy-wrapping", "memory.copy whose source wraps around", w.I32Const(0), w.I32Const(-4), w.I32Const(8), w.MemoryCopy)
	trap("load-outside", "reads across the end", w.I32Const(1<<16-3), w.I32Load(0), w.Drop)
	trap("load-far-outside", "reads at 2^33-2", w.I32Const(-1), w.I32Load(1<<32-1), w.Drop)
	trap("store-outside", "writes across the end", w.I32Const(1<<16-4), w.I64Const(1), w.I64Store(0))
	trap("store-at-minus-one", "writes at 2^32-1", w.I32Const(-1), w.I32Const(1), w.I32Store8(0))
	b.add("init-outside", "memory.init beyond its segment", Call, Trap, shaped(func(g *w.Guest) {
		s := g.PassiveData(make([]byte, 10))
		g.Answering(w.I32Const(low), w.I32Const(1), w.I32Const(10), w.MemoryInit(s))
	}))
	b.add("init-dropped", "memory.init of a segment that it dropped", Call, Trap, shaped(func(g *w.Guest) {
		s := g.PassiveData(make([]byte, 10))
		g.Answering(w.DataDrop(s), w.I32Const(low), w.I32Const(0), w.I32Const(10), w.MemoryInit(s))
	}))
	b.add("data-outside", "a data segment across the end", Start, Trap, shaped(func(g *w.Guest) { g.Data(65530, make([]byte, 10)) }))
	b.add("data-at-minus-one", "a data segment at 2^32-1", Start, Trap, shaped(func(g *w.Guest) { g.Data(-1, []byte{1}) }))
	b.add("image-64MB", "begins with a byte at the end of 64 MB, so that putting it back would move all of them", Nowhere, "", shaped(func(g *w.Guest) {
		g.Memory(pages, w.NoMax)
		g.Data(most-1, []byte{1})
	})).Large = true
	b.add("data-overlapping", "300 data segments of 16 KiB in one place", Nowhere, "", shaped(func(g *w.Guest) {
		for range 300 {
			g.Data(16<<10, make([]byte, 16<<10))
		}
	}))
	b.add("data-huge", "33 MB of data", Rewriter, "too large", shaped(func(g *w.Guest) {
		content := append(make([]byte, 0, 34*mega), w.Seq(w.Raw(1, 0), w.I32Const(mega), w.End, w.Raw(0x80, 0x80, 0xc0, 0x10))...) // 33 MB
		g.Memory(1000, w.NoMax)
		g.Replace(w.SectionData, content[:len(content)+33*mega])
	})).Large = true
	b.invalid("memory-two", "two memories", Rewriter, "memory", shaped(func(g *w.Guest) { g.Add(w.SectionMemory, []byte{0, 1}) }))
	b.add("memory-none", "no memory", Contract, "", func() []byte {
		m := w.New()
		m.Func(w.Sig{})
		return m.Bytes()
	})
	b.invalid("memory-shared", "a memory that threads share", Rewriter, "memory", shaped(func(g *w.Guest) { g.Replace(w.SectionMemory, []byte{1, 3, 1, 1}) }))
	b.invalid("memory-64", "a memory of 64-bit addresses", Rewriter, "memory", shaped(func(g *w.Guest) { g.Replace(w.SectionMemory, []byte{1, 4, 1}) }))
	b.invalid("memory-beyond-4GB", "a memory of 65,537 pages", Rewriter, "malformed", shaped(func(g *w.Guest) { g.Memory(65537, w.NoMax) }))
	b.add("memory-imported", "takes its memory from the host", Contract, "", importing("env", "memory", w.KindMemory, 0, 1))
	return b.cases
}

// importing asks for something that is no function.
func importing(module, name string, kind byte, description ...byte) func() []byte {
	return func() []byte {
		g := w.NewGuest()
		g.RawImport(module, name, kind, description...)
		if kind == w.KindMemory {
			g.Replace(w.SectionMemory, nil)
		}
		return g.Bytes()
	}
}

// tables lie outside of linear memory.
func tables() []Case {
	b := builder{kind: "table"}
	table := func(f func(*w.Guest)) func() []byte { return shaped(f) }
	b.add("minimum-16M", "a table of 16 million entries", Rewriter, "table", table(func(g *w.Guest) { g.Table(w.FuncRef, 1<<24, w.NoMax) }))
	b.add("minimum-4G", "a table of 2^32-1 entries", Rewriter, "table", table(func(g *w.Guest) { g.Table(w.FuncRef, 1<<32-1, w.NoMax) }))
	b.add("minimum-externrefs", "a table of 100,000 references of the host's", Rewriter, "table", table(func(g *w.Guest) { g.Table(w.ExternRef, 100_000, w.NoMax) }))
	b.add("sum-beyond", "30 tables of 3,000 entries, too many together", Rewriter, "table", table(func(g *w.Guest) {
		for range 30 {
			g.Table(w.FuncRef, 3000, w.NoMax)
		}
	}))
	b.add("tables-10000", "10,000 tables of no entries", Rewriter, "too large", table(func(g *w.Guest) {
		for range 10_000 {
			g.Table(w.FuncRef, 0, w.NoMax)
		}
	}))
	b.add("maximum-4G", "a table of one entry that may become 2^32-1", Nowhere, "", table(func(g *w.Guest) { g.Table(w.FuncRef, 1, 1<<32-1) }))
	grow := func(n int32) []w.Code { return []w.Code{w.NullFunc, w.I32Const(n), w.TableGrow(0)} }
	b.add("grow-by-one", "table.grow by one entry, for ever", Rewriter, "table", table(func(g *w.Guest) {
		g.Table(w.FuncRef, 1, w.NoMax)
		g.Answering(w.Forever(w.Seq(grow(1)...), w.Drop))
	}))
	b.add("grow-at-once", "table.grow by 2^28 entries", Rewriter, "table", table(func(g *w.Guest) {
		g.Table(w.FuncRef, 1, w.NoMax)
		g.Answering(w.Seq(grow(1<<28)...), w.Drop)
	}))
	b.add("fill-for-ever", "table.fill of 60,000 entries, for ever", Call, Fuel, table(func(g *w.Guest) {
		g.Table(w.FuncRef, 60_000, w.NoMax)
		g.Answering(w.Forever(w.I32Const(0), w.NullFunc, w.I32Const(60_000), w.TableFill(0)))
	}))
	b.add("copy-for-ever", "table.copy of 30,000 entries, for ever", Call, Fuel, table(func(g *w.Guest) {
		g.Table(w.FuncRef, 60_000, w.NoMax)
		g.Answering(w.Forever(w.I32Const(1), w.I32Const(0), w.I32Const(30_000), w.TableCopy(0, 0)))
	}))
	b.add("init-for-ever", "table.init of 20,000 entries, for ever", Call, Fuel, table(func(g *w.Guest) {
		g.Table(w.FuncRef, 20_000, w.NoMax)
		s := g.PassiveElements(make([]uint32, 20_000)...)
		g.Answering(w.Forever(w.I32Const(0), w.I32Const(0), w.I32Const(20_000), w.TableInit(s, 0)))
	}))
	b.add("set-for-ever", "table.set, for ever", Call, Fuel, table(func(g *w.Guest) {
		g.Table(w.FuncRef, 10, w.NoMax)
		g.Answering(w.Forever(w.I32Const(3), w.NullFunc, w.TableSet(0)))
	}))
	indirect := func(name, does string, index int32, s w.Sig) {
		b.add(name, does, Call, Trap, table(func(g *w.Guest) {
			g.Table(w.FuncRef, 2, 2)
			g.Elements(0, g.Func(w.Sig{}).Index)
			g.Answering(w.Times(len(s.Params), w.I64Const(1<<40)), w.I32Const(index), w.CallIndirect(g.Type(s), 0))
		}))
	}
	indirect("call-null", "calls an entry that is empty", 1, w.Sig{})
	indirect("call-outside", "calls an entry beyond the table", 2, w.Sig{})
	indirect("call-minus-one", "calls entry 2^32-1", -1, w.Sig{})
	indirect("call-other-type", "calls a function with arguments that it does not take", 0, w.Sig{Params: w.Repeat(w.I64, 3)})
	b.add("elements-outside", "an element segment across the end: the engine leaves it out", Nowhere, "", table(func(g *w.Guest) {
		g.Table(w.FuncRef, 2, 2)
		g.Elements(1, g.Post.Index, g.Post.Index)
	}))
	b.add("elements-many", "300 segments of 1,000 elements in one place", Nowhere, "", table(func(g *w.Guest) {
		g.Table(w.FuncRef, 1000, 1000)
		for range 300 {
			g.Elements(0, make([]uint32, 1000)...)
		}
	}))
	b.add("table-imported", "takes its table from the host", Contract, "", importing("env", "table", w.KindTable, byte(w.FuncRef), 0, 1))
	b.add("kind-of-3.0", "a table of typed references", Rewriter, "unsupported", table(func(g *w.Guest) {
		g.Replace(w.SectionTable, []byte{1, 0x64, 0x70, 0, 1})
	}))
	b.cases[len(b.cases)-1].Invalid = true
	return b.cases
}

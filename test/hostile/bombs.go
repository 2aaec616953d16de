package hostile

import (
	w "github.com/dhowfleet/dhow/wasm/wasmtest"
)

// bombs are small to send and large to compile.
func bombs() []Case {
	b := builder{kind: "compile bomb"}
	refused := func(name, does string, f func(*w.Guest)) { b.add(name, does, Rewriter, "complexity", shaped(f)) }
	large := func(name, does string, f func(*w.Guest)) { b.add(name, does, Rewriter, "too large", shaped(f)) }
	alive := func(locals, loops int) func(*w.Guest) {
		return func(g *w.Guest) {
			var body w.Code
			for i := range uint32(loops) {
				local := i % uint32(locals)
				body = append(body, w.Loop(w.Empty, w.LocalGet(local), w.I64Const(1), w.I64Add, w.LocalSet(local))...)
			}
			g.Func(w.Sig{}, body).LocalGroup(uint64(locals), w.I64)
		}
	}
	refused("locals-times-loops", "1,000 locals, each of them counted up in two of 2,000 loops", alive(1000, 2000))
	refused("locals-times-loops-small", "500 locals and 400 loops, in each of 400 functions", func(g *w.Guest) {
		for range 400 {
			alive(500, 400)(g)
		}
	})
	refused("locals-50000", "50,000 locals", alive(50_000, 1))
	refused("locals-4G", "2^32-1 locals", func(g *w.Guest) { g.Func(w.Sig{}).LocalGroup(1<<32-1, w.I64) })
	b.invalid("locals-wrapping", "two groups of locals that are 2^32 together", Rewriter, "complexity", shaped(func(g *w.Guest) {
		g.Func(w.Sig{}).LocalGroup(1<<31, w.I64).LocalGroup(1<<31, w.I32)
	}))
	large("locals-groups", "100,000 groups of one local", func(g *w.Guest) {
		f := g.Func(w.Sig{})
		for i := range 100_000 {
			f.LocalGroup(1, []w.Type{w.I32, w.I64}[i%2])
		}
	})
	refused("blocks-nested", "100,000 blocks in one another", func(g *w.Guest) {
		g.Func(w.Sig{}, w.Times(100_000, w.Raw(0x02, 0x40)), w.Times(100_000, w.End))
	})
	refused("loops-nested", "20,000 loops in one another", func(g *w.Guest) {
		g.Func(w.Sig{}, w.Times(20_000, w.Raw(0x03, 0x40)), w.Times(20_000, w.End))
	})
	refused("blocks-in-a-row", "100,000 blocks one after the other", func(g *w.Guest) { g.Func(w.Sig{}, w.Times(100_000, w.Block(w.Empty))) })
	refused("ifs-in-a-row", "50,000 conditionals one after the other", func(g *w.Guest) {
		g.Func(w.Sig{}, w.Times(50_000, w.I32Const(1), w.If(w.Empty, w.Nop)))
	})
	large("br_table-targets", "a br_table of 100,000 targets", func(g *w.Guest) {
		g.Func(w.Sig{}, w.I32Const(1), w.BrTable(0, make([]uint32, 100_000)...))
	})
	refused("br_tables", "100 br_tables of 1,000 targets each", func(g *w.Guest) {
		g.Func(w.Sig{}, w.Times(100, w.Block(w.Empty, w.I32Const(1), w.BrTable(0, make([]uint32, 1000)...))))
	})
	refused("br_if-to-the-end", "20,000 times br_if to the end of the function with 50 values", func(g *w.Guest) {
		g.Func(w.Sig{Results: w.Repeat(w.I64, 50)}, w.Times(50, w.I64Const(1)), w.Times(20_000, w.I32Const(0), w.BrIf(0)))
	})
	large("straight-line-4MB", "one function of 4 MB without a branch", func(g *w.Guest) {
		g.Func(w.Sig{}, w.Times(800_000, w.LocalGet(0), w.LocalGet(0), w.I32Add, w.LocalSet(0))).LocalGroup(1, w.I32)
	})
	refused("values-alive", "40,000 values on the stack at once", func(g *w.Guest) {
		g.Func(w.Sig{}, w.Times(40_000, w.I32Const(0), w.I32Load(0)), w.Times(40_000, w.Drop))
	})
	wide := w.Repeat(w.I64, 250)
	refused("values-alive-over-loops", "9,000 values alive over 3,000 loops: 35 s and 1.3 GB for 63 KB", func(g *w.Guest) {
		g.Func(w.Sig{}, w.Times(9000, w.I32Const(0), w.I32Load(0)), w.Times(3000, w.Loop(w.Empty)), w.Times(9000, w.Drop))
	})
	passing := func(block func(typ w.Code, body ...w.Code) w.Code) func(*w.Guest) {
		return func(g *w.Guest) {
			t := w.Indexed(g.Type(w.Sig{Params: wide, Results: wide}))
			g.Func(w.Sig{}, w.Times(250, w.I64Const(1)), w.Times(7900, block(t)), w.Times(250, w.Drop))
		}
	}
	refused("loops-wide", "7,900 loops that pass on 250 values: a minute and more for 25 KB", passing(w.Loop))
	refused("blocks-wide", "7,900 blocks that pass on 250 values", passing(w.Block))
	refused("br_if-wide", "7,000 times br_if to the end of a function of 250 results", func(g *w.Guest) {
		g.Func(w.Sig{Results: wide}, w.Times(250, w.I64Const(1)), w.Times(7000, w.I32Const(0), w.BrIf(0)))
	})
	refused("br_table-wide", "a br_table of 7,000 targets that all take 250 values", func(g *w.Guest) {
		g.Func(w.Sig{Results: wide}, w.Times(250, w.I64Const(1)), w.I32Const(0), w.BrTable(0, make([]uint32, 7000)...))
	})
	refused("loops-in-six", "7,900 loops in each of six functions", func(g *w.Guest) {
		for range 6 {
			g.Func(w.Sig{}, w.Times(7900, w.Loop(w.Empty))).LocalGroup(1, w.I64)
		}
	})
	large("calls-wide", "3,000 calls of a function with 500 results", func(g *w.Guest) {
		f := g.Func(w.Sig{Results: w.Repeat(w.I64, 500)}, w.Times(500, w.I64Const(1)))
		g.Func(w.Sig{}, w.Times(3000, w.Call(f.Index), w.Times(500, w.Drop)))
	})
	large("signature-100000", "a function of 100,000 parameters", func(g *w.Guest) { g.Func(w.Sig{Params: w.Repeat(w.I32, 100_000)}) })
	large("results-100000", "a type of 100,000 results", func(g *w.Guest) { g.Type(w.Sig{Results: w.Repeat(w.I32, 100_000)}) })
	large("block-type-wide", "1,000 blocks that take and leave 500 values", func(g *w.Guest) {
		wide := w.Repeat(w.I64, 500)
		t := g.Type(w.Sig{Params: wide, Results: wide})
		g.Func(w.Sig{}, w.Times(500, w.I64Const(1)), w.Times(1000, w.Block(w.Indexed(t))), w.Times(500, w.Drop))
	})
	large("functions-300000", "300,000 functions", func(g *w.Guest) {
		for range 300_000 {
			g.Func(w.Sig{})
		}
	})
	many := func(section byte, n int, entry func(i int) []byte) func() []byte {
		return shaped(func(g *w.Guest) {
			for i := range n {
				g.Add(section, entry(i))
			}
		})
	}
	b.add("types-500000", "500,000 types", Rewriter, "too large", func() []byte {
		content := []byte{0xa0, 0xc2, 0x1e} // 500,000
		for range 500_000 {
			content = append(content, 0x60, 0, 0)
		}
		m := w.New()
		m.Replace(w.SectionType, content)
		return m.Bytes()
	})
	b.add("globals-200000", "200,000 globals", Rewriter, "too large", many(w.SectionGlobal, 200_000, func(int) []byte { return w.Seq(w.Raw(byte(w.I64), 1), w.I64Const(0), w.End) }))
	b.add("exports-200000", "200,000 exports", Rewriter, "too large", many(w.SectionExport, 200_000, func(i int) []byte {
		return []byte{4, byte('a' + i%26), byte('a' + i/26%26), byte('a' + i/676%26), byte('a' + i/17576), w.KindFunction, 0}
	}))
	b.add("segments-200000", "200,000 empty data segments", Rewriter, "too large", many(w.SectionData, 200_000, func(int) []byte { return []byte{1, 0} }))
	b.add("elements-200000", "200,000 empty element segments", Rewriter, "too large", many(w.SectionElement, 200_000, func(int) []byte { return []byte{1, 0, 0} }))
	b.add("imports-100000", "imports dhow.log 100,000 times", Rewriter, "too large", func() []byte {
		imports := make([]w.Import, 100_000)
		for i := range imports {
			imports[i] = w.Log
		}
		return w.NewGuest(imports...).Bytes()
	})
	b.add("custom-100000", "100,000 custom sections", Nowhere, "", shaped(func(g *w.Guest) {
		for range 100_000 {
			g.Custom("n", []byte{0})
		}
	}))
	b.add("custom-33MB", "a custom section of 33 MB", Rewriter, "too large", shaped(func(g *w.Guest) { g.Custom("note", make([]byte, 33*mega)) })).Large = true
	b.add("custom-8MB", "a custom section of 8 MB", Nowhere, "", shaped(func(g *w.Guest) { g.Custom("note", make([]byte, 8*mega)) }))
	return b.cases
}

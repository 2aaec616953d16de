package hostile

import (
	w "github.com/dhowfleet/dhow/wasm/wasmtest"
)

// countdown takes local i from n to 0 and runs body each time.
func countdown(i uint32, n int32, body ...w.Code) w.Code {
	return w.Seq(w.I32Const(n), w.LocalSet(i),
		w.Loop(w.Empty, w.Seq(body...), w.LocalGet(i), w.I32Const(1), w.I32Sub, w.LocalTee(i), w.BrIf(0)))
}

// loops never end, each in its own way and place.
func loops() []Case {
	b := builder{kind: "endless loop"}
	endless := func(name, does string, body ...w.Code) { b.add(name, does, Call, Fuel, processing(body...)) }
	endless("loop-br", "loop, br", w.Forever())
	endless("loop-br_if", "loop, br_if on a constant", w.Loop(w.Empty, w.I32Const(1), w.BrIf(0)))
	endless("loop-br_if-inverse", "leaves the loop by a br_if that is never taken", w.Block(w.Empty, w.Forever(w.I32Const(0), w.BrIf(1))))
	endless("loop-br_table", "br_table whose first target is the loop", w.Block(w.Empty, w.Loop(w.Empty, w.I32Const(0), w.BrTable(1, 0))))
	endless("loop-br_table-default", "br_table whose default is the loop", w.Block(w.Empty, w.Loop(w.Empty, w.I32Const(-1), w.BrTable(0, 1, 1))))
	endless("loop-nested", "a short loop in an endless one", w.Forever(countdown(0, 9)))
	endless("loop-outer-from-inner", "branches from an inner loop to the outer one", w.Loop(w.Empty, w.Loop(w.Empty, w.Br(1))))
	endless("loop-if", "goes on from both arms of an if", w.Loop(w.Empty, w.LocalGet(0), w.IfElse(w.Empty, w.Br(1), w.Br(1))))
	endless("loop-dead-exit", "the only way out lies behind unreachable code", w.Block(w.Empty, w.Loop(w.Empty, w.Br(0), w.Br(1))))
	endless("loop-return", "returns when the clock strikes 2^32", w.Loop(w.Empty,
		w.LocalGet(0), w.I32Const(2), w.I32Add, w.LocalTee(0), w.I32Const(1), w.I32Eq, w.If(w.Empty, w.I32Const(w.AnswerAt), w.Return), w.Br(0)))
	b.add("loop-params", "a loop that carries a value around", Call, Fuel, shaped(func(g *w.Guest) {
		t := g.Type(w.Sig{Params: []w.Type{w.I64}, Results: []w.Type{w.I64}})
		g.Answering(w.I64Const(1), w.Loop(w.Indexed(t), w.I64Const(1), w.I64Add, w.Br(0)), w.Drop)
	}))
	b.add("loop-many-params", "a loop that carries 200 values around", Call, Fuel, shaped(func(g *w.Guest) {
		wide := w.Repeat(w.I64, 200)
		t := g.Type(w.Sig{Params: wide, Results: wide})
		g.Answering(w.Times(200, w.I64Const(1)), w.Loop(w.Indexed(t), w.I64Const(1), w.I64Add, w.Br(0)), w.Times(200, w.Drop))
	}))
	b.add("loop-deep", "40 counting loops in one another: 10^40 rounds", Call, Fuel, shaped(func(g *w.Guest) {
		body := w.Nop
		for i := range uint32(40) {
			body = countdown(2+i, 10, body)
		}
		g.Process.Locals(w.Repeat(w.I32, 40)...)
		g.Answering(body)
	}))
	b.add("loop-call", "calls an empty function for ever", Call, Fuel, shaped(func(g *w.Guest) {
		f := g.Func(w.Sig{})
		g.Answering(w.Forever(w.Call(f.Index)))
	}))
	b.add("loop-call_indirect", "calls through the table for ever", Call, Fuel, shaped(func(g *w.Guest) {
		f := g.Func(w.Sig{})
		g.Table(w.FuncRef, 1, 1)
		g.Elements(0, f.Index)
		g.Answering(w.Forever(w.I32Const(0), w.CallIndirect(g.Type(w.Sig{}), 0)))
	}))
	b.add("calls-without-loop", "48 functions, each of which calls the next twice: 2^48 calls and no loop", Call, Fuel, shaped(func(g *w.Guest) {
		next := g.Func(w.Sig{})
		for range 48 {
			next = g.Func(w.Sig{}, w.Call(next.Index), w.Call(next.Index))
		}
		g.Answering(w.Call(next.Index))
	}))
	b.add("loop-globals", "a loop that lives in globals", Call, Fuel, shaped(func(g *w.Guest) {
		i := g.Global(w.I64, true, w.I64Const(0))
		g.Answering(w.Forever(w.GlobalGet(i), w.I64Const(1), w.I64Add, w.GlobalSet(i)))
	}))
	b.add("loop-simd", "a loop of 128-bit additions", Call, Fuel, shaped(func(g *w.Guest) {
		g.Process.Locals(w.V128)
		g.Answering(w.Forever(w.LocalGet(2), w.LocalGet(2), w.Vector(174), w.LocalSet(2)))
	}))
	endless("loop-straight-line", "4,000 instructions in a row, for ever", w.Forever(w.Times(1000, w.LocalGet(0), w.I32Const(3), w.I32Add, w.LocalSet(0))))

	// The same in every function that the host calls.
	spin := w.Seq(w.Forever(), w.Unreachable)
	b.add("loop-in-realloc", "cabi_realloc never returns", Call, Fuel, shaped(func(g *w.Guest) { g.Realloc.Body(spin) }))
	b.add("loop-in-post", "cabi_post_process never returns", Call, Fuel, shaped(func(g *w.Guest) { g.Post.Body(spin) }))
	b.add("loop-in-version", "dhow_abi_version never returns", Start, Deadline, shaped(func(g *w.Guest) { g.Version.Body(spin) }))
	b.add("loop-in-configure", "configure never returns", Start, Deadline, shaped(func(g *w.Guest) { g.Configure(spin) }))
	b.add("loop-in-initialize", "_initialize never returns", Start, Deadline, shaped(func(g *w.Guest) { g.Initialize(spin) }))
	b.add("loop-in-start", "the start function never returns", Start, Deadline, shaped(func(g *w.Guest) { g.Start(g.Func(w.Sig{}, spin).Index) }))
	b.add("loop-behind-start", "a function that the start function calls last never returns", Start, Deadline, shaped(func(g *w.Guest) {
		last := g.Func(w.Sig{}, spin)
		g.Start(g.Func(w.Sig{}, w.Times(100, w.Nop), w.Call(last.Index)).Index)
	}))
	b.add("trap-in-start", "the start function traps", Start, Trap, shaped(func(g *w.Guest) { g.Start(g.Func(w.Sig{}, w.Unreachable).Index) }))
	b.add("recursion-in-start", "the start function calls itself", Start, Stack, shaped(func(g *w.Guest) {
		f := g.Func(w.Sig{})
		f.Body(w.Call(f.Index))
		g.Start(f.Index)
	}))
	return append(b.cases, slow()...)
}

// slow take much time for little fuel.
func slow() []Case {
	b := builder{kind: "slow fuel"}
	// next is where a chase goes on: it depends on what was read, so that no read begins before the last one has ended.
	next := func(mask int32) w.Code {
		return w.Seq(w.LocalGet(0), w.I32Const(1664525), w.I32Mul, w.I32Const(1013904223), w.I32Add, w.LocalTee(0),
			w.LocalGet(0), w.I32Const(mask&^7), w.I32And, w.I32Load(0), w.I32Add, w.LocalSet(0))
	}
	with := func(pages uint64, body ...w.Code) func() []byte {
		return shaped(func(g *w.Guest) {
			g.Memory(pages, w.NoMax)
			g.Process.Locals(w.F64, w.I64)
			g.Answering(body...)
		})
	}
	b.add("chase", "follows pointers over 64 MB", Call, Fuel, with(pages, w.Forever(next(most-1)))).Large = true
	b.add("chase-straight-line", "the same over 8 MB, 300 reads in a row without a branch", Call, Fuel, with(some>>16, w.Forever(w.Times(300, next(some-1)))))
	b.add("page-faults", "writes into another page each time, over 8 MB", Call, Fuel, with(some>>16, w.Forever(
		w.LocalGet(0), w.I32Const(4096+64), w.I32Add, w.I32Const(some-1&^7), w.I32And, w.LocalTee(0), w.I64Const(1), w.I64Store(0))))
	b.add("denormals", "multiplies numbers near zero", Call, Fuel, with(1, w.F64Const(5e-324*1e6), w.LocalSet(2), w.Forever(
		w.LocalGet(2), w.F64Const(0.9999), w.F64Mul, w.LocalGet(2), w.F64Mul, w.F64Const(3e-310), w.F64Add, w.LocalSet(2))))
	b.add("roots-and-quotients", "square roots and divisions, each waiting for the one before", Call, Fuel, with(1, w.F64Const(2), w.LocalSet(2), w.Forever(
		w.LocalGet(2), w.F64Sqrt, w.F64Const(1.000001), w.F64Div, w.F64Sqrt, w.F64Const(7), w.F64Add, w.LocalSet(2))))
	b.add("divisions", "64-bit divisions, each waiting for the one before", Call, Fuel, with(1, w.Forever(
		w.I64Const(-1), w.LocalGet(3), w.I64Const(3), w.I64Add, w.I64DivU, w.LocalSet(3))))
	return b.cases
}

// recursion takes the stack.
func recursion() []Case {
	b := builder{kind: "recursion"}
	deep := func(name, does string, shape func(*w.Guest)) { b.add(name, does, Call, Stack, shaped(shape)) }
	deep("direct", "a function calls itself", func(g *w.Guest) {
		f := g.Func(w.Sig{})
		g.Answering(w.Call(f.Body(w.Call(f.Index)).Index))
	})
	deep("process-itself", "process calls itself", func(g *w.Guest) {
		g.Process.Body(w.LocalGet(0), w.LocalGet(1), w.Call(g.Process.Index))
	})
	deep("mutual", "two functions call each other", func(g *w.Guest) {
		f, h := g.Func(w.Sig{}), g.Func(w.Sig{})
		f.Body(w.Call(h.Index))
		h.Body(w.Call(f.Index))
		g.Answering(w.Call(f.Index))
	})
	deep("ring", "100 functions in a ring", func(g *w.Guest) {
		fs := make([]*w.Func, 100)
		for i := range fs {
			fs[i] = g.Func(w.Sig{})
		}
		for i, f := range fs {
			f.Body(w.Call(fs[(i+1)%len(fs)].Index), w.Nop)
		}
		g.Answering(w.Call(fs[0].Index))
	})
	deep("through-the-table", "a function calls itself by call_indirect", func(g *w.Guest) {
		f := g.Func(w.Sig{})
		g.Table(w.FuncRef, 1, 1)
		g.Elements(0, f.Index)
		g.Answering(w.Call(f.Body(w.I32Const(0), w.CallIndirect(g.Type(w.Sig{}), 0)).Index))
	})
	deep("large-frames", "each call keeps 300 values alive", func(g *w.Guest) {
		f := g.Func(w.Sig{Params: []w.Type{w.I64}, Results: []w.Type{w.I64}}).LocalGroup(300, w.I64)
		var set, sum w.Code
		for i := range uint32(300) {
			set = w.Seq(set, w.LocalGet(0), w.I64Const(int64(i)+7), w.I64Mul, w.LocalSet(1+i))
			sum = w.Seq(sum, w.LocalGet(1+i), w.I64Add)
		}
		f.Body(set, w.LocalGet(0), w.I64Const(1), w.I64Add, w.Call(f.Index), sum)
		g.Answering(w.I64Const(1), w.Call(f.Index), w.Drop)
	})
	deep("unused-locals", "each call declares 9,000 locals and uses none", func(g *w.Guest) {
		f := g.Func(w.Sig{}).LocalGroup(9_000, w.I64)
		g.Answering(w.Call(f.Body(w.Call(f.Index)).Index))
	})
	deep("wide-signature", "each call passes 200 values and returns 200", func(g *w.Guest) {
		wide := w.Repeat(w.I64, 200)
		f := g.Func(w.Sig{Params: wide, Results: wide})
		var get w.Code
		for i := range uint32(200) {
			get = w.Seq(get, w.LocalGet(i))
		}
		f.Body(get, w.Call(f.Index))
		g.Answering(w.Times(200, w.I64Const(1)), w.Call(f.Index), w.Times(200, w.Drop))
	})
	deep("wide-vectors", "each call passes 100 vectors of 128 bits", func(g *w.Guest) {
		f := g.Func(w.Sig{Params: w.Repeat(w.V128, 100)})
		var get w.Code
		for i := range uint32(100) {
			get = w.Seq(get, w.LocalGet(i))
		}
		f.Body(get, w.Call(f.Index))
		zero := w.Vector(12, make([]byte, 16)...)
		g.Answering(w.Times(100, zero), w.Call(f.Index))
	})
	deep("operand-stack", "calls itself with 900 values waiting", func(g *w.Guest) {
		f := g.Func(w.Sig{Results: []w.Type{w.I64}})
		f.Body(w.Times(900, w.I32Const(8), w.I64Load(0)), w.Call(f.Index), w.Times(900, w.I64Add))
		g.Answering(w.Call(f.Index), w.Drop)
	})
	b.add("deep-and-back", "to a depth that is allowed and back again, for ever", Call, Fuel, shaped(func(g *w.Guest) {
		one := []w.Type{w.I32}
		f := g.Func(w.Sig{Params: one})
		f.Body(w.LocalGet(0), w.If(w.Empty, w.LocalGet(0), w.I32Const(1), w.I32Sub, w.Call(f.Index)))
		g.Answering(w.Forever(w.I32Const(1000), w.Call(f.Index)))
	}))
	deep("in-realloc", "cabi_realloc calls itself", func(g *w.Guest) {
		g.Realloc.Body(w.LocalGet(0), w.LocalGet(1), w.LocalGet(2), w.LocalGet(3), w.Call(g.Realloc.Index))
	})
	deep("in-post", "cabi_post_process calls itself", func(g *w.Guest) { g.Post.Body(w.LocalGet(0), w.Call(g.Post.Index)) })
	return b.cases
}

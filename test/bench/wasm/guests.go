package main

import (
	"github.com/dhowfleet/dhow/wasm/abi"
	. "github.com/dhowfleet/dhow/wasm/wasmtest" //nolint:revive,staticcheck // instructions read as a listing
)

// Guests that only hand back what they are handed, one for each way of handing over bytes.

const pageSize = 1 << 16

// echoGuest answers with the request itself, so that only the way there and back takes time. Its memory starts with so
// many pages, and takes what fits behind RoomAt.
func echoGuest(pages uint64) []byte {
	g := NewGuest()
	g.Memory(pages, NoMax)
	g.Realloc.Body(
		I32Const(0), I32Const(RoomAt), // no room if
		I32Const(int32(pages*pageSize-RoomAt)), LocalGet(3), I32LtU,
		Select,
	)
	g.Process.Body(
		I32Const(AnswerAt), I32Const(int32(abi.StatusTensors)), I32Store(0),
		I32Const(AnswerAt), LocalGet(0), I32Store(4),
		I32Const(AnswerAt), LocalGet(1), I32Store(8),
		I32Const(AnswerAt),
	)
	return g.Bytes()
}

// extismEcho does what a plug-in's kit does: it reads the input and writes the output eight bytes at a time, and the
// rest one by one, since both lie in the memory of Extism's kernel.
func extismEcho() []byte {
	m := New()
	env := func(name string, params, results []Type) uint32 {
		return m.Import("extism:host/env", name, Sig{Params: params, Results: results})
	}
	long := []Type{I64}
	length := env("input_length", nil, long)
	loadWord, loadByte := env("input_load_u64", long, long), env("input_load_u8", long, []Type{I32})
	alloc := env("alloc", long, long)
	storeWord, storeByte := env("store_u64", Repeat(I64, 2), nil), env("store_u8", []Type{I64, I32}, nil)
	output := env("output_set", Repeat(I64, 2), nil)
	m.Memory(16, NoMax)
	m.Export("memory", KindMemory, 0)
	const size, out, at, words = 0, 1, 2, 3 // locals
	// repeat copies from at up to a local's value.
	repeat := func(limit uint32, step int64, load, store uint32) Code {
		return Block(Empty, Loop(Empty,
			LocalGet(at), LocalGet(limit), I64LtU, I32Eqz, BrIf(1),
			LocalGet(out), LocalGet(at), I64Add, LocalGet(at), Call(load), Call(store),
			LocalGet(at), I64Const(step), I64Add, LocalSet(at),
			Br(0),
		))
	}
	f := m.Func(Sig{Results: []Type{I32}},
		Call(length), LocalTee(size), Call(alloc), LocalSet(out),
		LocalGet(size), I64Const(-8), I64And, LocalSet(words),
		repeat(words, 8, loadWord, storeWord),
		repeat(size, 1, loadByte, storeByte),
		LocalGet(out), LocalGet(size), Call(output),
		I32Const(0),
	)
	f.Locals(Repeat(I64, 4)...)
	m.Export("echo", KindFunction, f.Index)
	return m.Bytes()
}

// commandEcho is a WASI command: it reads standard input to its end and writes it to standard output.
func commandEcho() []byte {
	m := New()
	word := []Type{I32}
	read := m.Import(abi.WASIModule, "fd_read", Sig{Params: Repeat(I32, 4), Results: word})
	write := m.Import(abi.WASIModule, "fd_write", Sig{Params: Repeat(I32, 4), Results: word})
	const pages = 17
	m.Memory(pages, NoMax)
	m.Export("memory", KindMemory, 0)
	const pointer, length, done, begin = 16, 20, 24, 1024 // addresses
	const end, at = 0, 1                                  // locals: of the data, of what is written
	piece := func(call uint32, fd int32, from uint32, size ...Code) Code {
		return Seq(
			I32Const(pointer), LocalGet(from), I32Store(0),
			I32Const(length), Seq(size...), I32Store(0),
			I32Const(fd), I32Const(pointer), I32Const(1), I32Const(done), Call(call),
			If(Empty, Unreachable),
		)
	}
	f := m.Func(Sig{},
		I32Const(begin), LocalSet(end),
		Block(Empty, Loop(Empty,
			piece(read, 0, end, I32Const(pages*pageSize), LocalGet(end), I32Sub),
			I32Const(done), I32Load(0), I32Eqz, BrIf(1),
			LocalGet(end), I32Const(done), I32Load(0), I32Add, LocalSet(end),
			Br(0),
		)),
		I32Const(begin), LocalSet(at),
		Block(Empty, Loop(Empty,
			LocalGet(at), LocalGet(end), I32LtU, I32Eqz, BrIf(1),
			piece(write, 1, at, LocalGet(end), LocalGet(at), I32Sub),
			LocalGet(at), I32Const(done), I32Load(0), I32Add, LocalSet(at),
			Br(0),
		)),
	)
	f.Locals(I32, I32)
	m.Export("_start", KindFunction, f.Index)
	return m.Bytes()
}

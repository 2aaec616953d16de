package hostile

import (
	"encoding/binary"
	"math"
	"slices"
	"strings"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
	w "github.com/dhowfleet/dhow/wasm/wasmtest"
)

// Where calls put what the host reads.
const (
	nameAt  = 8192
	iovecAt = 1 << 20
)

// calls ask the host for much, or for what it must not give.
func calls() []Case {
	b := builder{kind: "host calls"}
	within := func(memory uint64, i w.Import, body ...w.Code) func() []byte {
		return shaped(func(g *w.Guest) {
			g.Memory(memory, w.NoMax)
			g.Data(nameAt, []byte("featurecounter\xff\xfe"))
			g.Process.Locals(w.I32)
			g.Answering(body...)
		}, i)
	}
	with := func(i w.Import, body ...w.Code) func() []byte { return within(20, i, body...) }
	full := func(i w.Import, body ...w.Code) func() []byte { return within(160, i, body...) } // 10 MB
	c, call := w.I32Const, w.Call(0)
	feature := w.Seq(c(nameAt), c(7), w.F64Const(1), call)
	b.add("emit-flood", "emits a feature, for ever", Call, Fuel, with(w.EmitFeature, w.Forever(feature)))
	b.add("emit-5000", "emits 5,000 features in one call: those beyond 1,024 are dropped and counted", Nowhere, "", with(w.EmitFeature, countdown(2, 5000, feature)))
	b.add("emit-unknown", "emits under a name that is not declared", Nowhere, "", with(w.EmitFeature, c(nameAt), c(9), w.F64Const(1), call))
	b.add("emit-not-a-number", "emits NaN and infinity", Nowhere, "", with(w.EmitFeature,
		c(nameAt), c(7), w.F64Const(math.NaN()), call, c(nameAt), c(7), w.F64Const(math.Inf(1)), call))
	b.add("emit-name-outside", "emits under a name outside of its memory", Nowhere, "", with(w.EmitFeature, c(-4), c(7), w.F64Const(1), call))
	b.add("emit-name-8MB", "emits under a name of 8 MB", Nowhere, "", full(w.EmitFeature, c(0), c(some), w.F64Const(1), call))
	b.add("emit-name-not-utf8", "emits under a name that is not UTF-8", Nowhere, "", with(w.EmitFeature, c(nameAt+14), c(2), w.F64Const(1), call))
	b.add("count-flood", "counts, for ever", Call, Fuel, with(w.EmitCount, w.Forever(c(nameAt+7), c(7), w.I64Const(-1), call)))
	b.add("log-flood", "logs a line, for ever", Call, Fuel, with(w.Log, w.Forever(c(3), c(nameAt), c(7), call)))
	b.add("log-flood-long", "logs a line of 8 MB, for ever", Call, Fuel, full(w.Log, w.Forever(c(3), c(0), c(some), call)))
	b.add("log-1000", "logs 1,000 lines in one call: those beyond 20 are dropped and counted", Nowhere, "", with(w.Log, countdown(2, 1000, c(2), c(nameAt), c(7), call)))
	b.add("log-outside", "logs a line outside of its memory, at a level that there is not", Nowhere, "", with(w.Log, c(99), c(-1), c(-1), call))
	b.add("log-control-characters", "logs bytes that are no text", Nowhere, "", with(w.Log, c(2), c(nameAt+7), c(500), call))

	wasi := func(name, does string, where Where, what string, i w.Import, body ...w.Code) {
		b.add(name, does, where, what, with(i, body...))
	}
	b.add("random-8MB", "asks for 8 MB of random bytes, for ever", Call, Fuel, full(w.WASI("random_get", w.I32, w.I32), w.Forever(c(1<<20), c(some), call, w.Drop)))
	wasi("random-outside", "asks for random bytes outside of its memory", Nowhere, "", w.WASI("random_get", w.I32, w.I32), c(-8), c(64), call, w.Drop)
	write := w.WASI("fd_write", w.I32, w.I32, w.I32, w.I32)
	b.add("fd_write-million", "writes a million pieces to its standard output, for ever", Call, Fuel, full(write, w.Forever(c(1), c(iovecAt), c(1_000_000), c(16), call, w.Drop)))
	vector := w.Seq(c(iovecAt), c(0), w.I32Store(0), c(iovecAt), c(some), w.I32Store(4))
	b.add("fd_write-8MB", "writes 8 MB to its standard error, for ever", Call, Fuel, full(write, vector, w.Forever(c(2), c(iovecAt), c(1), c(16), call, w.Drop)))
	wasi("fd_write-outside", "writes what lies outside of its memory", Nowhere, "", write, c(1), c(-8), c(3), c(16), call, w.Drop)
	wasi("fd_write-other", "writes to file 77", Nowhere, "", write, c(77), c(iovecAt), c(1), c(16), call, w.Drop)
	wasi("clock-flood", "reads the clock, for ever", Call, Fuel, w.WASI("clock_time_get", w.I32, w.I64, w.I32), w.Forever(c(0), w.I64Const(1), c(16), call, w.Drop))
	wasi("yield-flood", "sched_yield, for ever", Call, Fuel, w.WASI("sched_yield"), w.Forever(call, w.Drop))
	// A subscription to the clock: 48 bytes, tag 0 at 8, the time in nanoseconds at 24.
	hour := w.Seq(c(iovecAt), w.I64Const(3600e9), w.I64Store(24))
	poll := w.WASI("poll_oneoff", w.I32, w.I32, w.I32, w.I32)
	wasi("sleep-hour", "sleeps for an hour: it returns at once", Nowhere, "", poll, hour, c(iovecAt), c(16384), c(1), c(16), call, w.Drop)
	b.add("sleep-many", "sleeps on 190,000 clocks, for ever", Call, Fuel, full(poll, w.Forever(c(iovecAt), c(iovecAt), c(190_000), c(16), call, w.Drop)))
	wasi("open-etc-passwd", "opens /etc/passwd: there are no files", Nowhere, "",
		w.WASI("path_open", w.I32, w.I32, w.I32, w.I32, w.I32, w.I64, w.I64, w.I32, w.I32),
		c(3), c(1), c(nameAt), c(7), c(0), w.I64Const(-1), w.I64Const(-1), c(0), c(16), call, w.I32Eqz, w.If(w.Empty, w.Unreachable))
	wasi("socket", "accepts a connection: there is no network", Nowhere, "", w.WASI("sock_accept", w.I32, w.I32, w.I32),
		c(3), c(0), c(16), call, w.I32Eqz, w.If(w.Empty, w.Unreachable))
	b.add("exit", "leaves the process with code 0", Call, Trap, with(exit, c(0), call))
	b.add("exit-wazero-code", "leaves with the code that wazero itself uses for a deadline", Call, Trap, with(exit, c(-0x10000001), call))
	b.add("exit-in-initialize", "leaves in _initialize", Start, Trap, shaped(func(g *w.Guest) { g.Initialize(c(7), call) }, exit))
	return b.cases
}

var exit = w.Import{Module: abi.WASIModule, Name: "proc_exit", Sig: w.Sig{Params: []w.Type{w.I32}}}

// answers are what process returns, or says that it returns.
func answers() []Case {
	b := builder{kind: "answer"}
	process := func(name, does string, body ...w.Code) {
		b.add(name, does, Call, Trap, shaped(func(g *w.Guest) { g.Process.Body(body...) }))
	}
	process("area-outside", "a return area outside of its memory", w.I32Const(1<<16))
	process("area-at-the-end", "a return area that its memory cuts off", w.I32Const(1<<16-11))
	process("area-wrapping", "a return area at 2^32-1", w.I32Const(-1))
	process("area-unaligned", "a return area at an odd address", w.I32Const(w.AnswerAt+1))
	process("unreachable", "traps", w.Unreachable)
	process("divide-by-zero", "divides by zero", w.LocalGet(0), w.I32Const(0), w.I32DivU)
	process("divide-overflow", "divides -2^31 by -1", w.I32Const(math.MinInt32), w.I32Const(-1), w.I32DivS)
	process("convert-nan", "makes NaN an integer", w.F64Const(math.NaN()), w.I32TruncF64U)
	area := func(name, does string, a abi.ReturnArea, payload []byte) {
		b.add(name, does, Call, Trap, shaped(func(g *w.Guest) { g.Area, g.Payload = a, payload }))
	}
	area("status-unknown", "a status of its own", abi.ReturnArea{Status: 9}, w.EmptyList)
	area("result-outside", "a result outside of its memory", abi.ReturnArea{Ptr: 1 << 15, Len: 1 << 16}, nil)
	area("result-wrapping", "a result that wraps around", abi.ReturnArea{Ptr: math.MaxUint32, Len: 8}, nil)
	area("result-1GB", "a result of 1 GB", abi.ReturnArea{Ptr: 8, Len: 1 << 30}, nil)
	area("result-4GB", "a result of 2^32-1 bytes", abi.ReturnArea{Ptr: 8, Len: math.MaxUint32}, nil)
	area("sentence-4GB", "an error message of 2^32-1 bytes", abi.ReturnArea{Status: abi.StatusGuestError, Ptr: 8, Len: math.MaxUint32}, nil)
	list := func(name, does string, damage func(list []byte) []byte) {
		b.add(name, does, Call, Trap, shaped(func(g *w.Guest) { g.Payload = damage(tensors()) }))
	}
	put := binary.LittleEndian.PutUint32
	at := func(offset int, v uint32) func([]byte) []byte {
		return func(l []byte) []byte { put(l[offset:], v); return l }
	}
	set := func(offset int, v byte) func([]byte) []byte {
		return func(l []byte) []byte { l[offset] = v; return l }
	}
	list("list-cut", "a list without its last 8 bytes", func(l []byte) []byte { return l[:len(l)-8] })
	list("list-header-cut", "a list of 4 bytes", func(l []byte) []byte { return l[:4] })
	list("list-longer", "bytes behind the last tensor", func(l []byte) []byte { return append(l, make([]byte, 8)...) })
	list("list-4G-tensors", "2^32-1 tensors", at(0, math.MaxUint32))
	list("list-65-tensors", "65 tensors", at(0, 65))
	list("list-length", "a length of its own", at(4, 1<<30))
	list("list-datatype", "a datatype that there is not", set(8, 99))
	list("list-rank", "a tensor of 200 dimensions", set(9, 200))
	list("list-name-empty", "a tensor without a name", set(10, 0))
	list("list-name-long", "a name of 65,535 bytes", func(l []byte) []byte { l[10], l[11] = 0xff, 0xff; return l })
	list("list-data-4GB", "a tensor of 2^32-1 bytes", at(12, math.MaxUint32))
	list("list-shape", "a shape of more elements than there is data for", set(16, 200))
	list("list-shape-wrapping", "a shape whose product is 2^64", func(l []byte) []byte {
		binary.LittleEndian.PutUint64(l[16:], 1<<32)
		binary.LittleEndian.PutUint64(l[24:], 1<<32)
		return l
	})
	list("list-shape-negative", "a dimension of -1", func(l []byte) []byte { binary.LittleEndian.PutUint64(l[16:], math.MaxUint64); return l })
	b.add("list-name-not-utf8", "a name that is not UTF-8, and so no output's", Nowhere, "", shaped(func(g *w.Guest) { g.Payload = set(32, 0xff)(tensors()) }))
	list("list-padding", "padding that is not zero", set(33, 1))
	list("list-same-names", "two tensors of one name", func(l []byte) []byte {
		l = slices.Concat(l, l[8:])
		put(l, 2)
		put(l[4:], uint32(len(l)))
		return l
	})
	b.add("sentence-not-utf8", "an error message of 60 KB that is no text: it is cut and made text", Call, Input, shaped(func(g *w.Guest) {
		g.Area.Status, g.Payload = abi.StatusInputError, []byte(strings.Repeat("\xff\x00\x1b[2J", 10_000))
	}))
	realloc := func(name, does string, where Where, what string, at int32) {
		b.add(name, does, where, what, shaped(func(g *w.Guest) { g.Realloc.Body(w.I32Const(at)) }))
	}
	realloc("room-outside", "cabi_realloc returns an address that its memory cuts off", Call, Trap, 1<<16-8)
	realloc("room-at-minus-one", "cabi_realloc returns 2^32-8", Call, Trap, -8)
	realloc("room-unaligned", "cabi_realloc returns an odd address", Call, Trap, 4097)
	realloc("room-none", "cabi_realloc has no room", Call, Input, 0)
	b.add("room-over-the-answer", "cabi_realloc lets the host write over the return area: the answer is what came in", Call, Trap, shaped(func(g *w.Guest) {
		g.Realloc.Body(w.I32Const(w.AnswerAt))
	}))
	b.add("result-60MB", "a result of 60 MB, as its memory has room for", Nowhere, "", shaped(func(g *w.Guest) {
		g.Memory(pages, w.NoMax)
		list := tensors()
		const size = 60 * mega
		put(list[4:], uint32(len(list)-16+size))
		put(list[12:], size)
		binary.LittleEndian.PutUint64(list[16:], size/8)
		g.Payload = list[:len(list)-16] // what follows is zero
		g.Area = abi.ReturnArea{Ptr: w.PayloadAt, Len: uint32(len(list) - 16 + size)}
	})).Large = true
	b.add("post-traps", "cabi_post_process traps", Call, Trap, shaped(func(g *w.Guest) { g.Post.Body(w.Unreachable) }))
	return b.cases
}

// tensors is a list of one tensor: 2 x 2 of FP32, called y.
func tensors() []byte {
	list, err := abi.Encode([]tensor.Tensor{{Name: "y", Datatype: tensor.FP32, Shape: []int64{2, 2}, Data: make([]byte, 16)}})
	if err != nil {
		panic(err) // it is a constant
	}
	return list
}

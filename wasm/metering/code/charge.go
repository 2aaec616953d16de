package code

import "github.com/dhowfleet/dhow/wasm/metering/binary"

// templates are the bytes of a charge, equal at every place except for the amount.
type templates struct {
	charge      []byte // takes fuel; the amount lies at chargeHole
	take        []byte // takes fuel and tests nothing
	turn        []byte // the same at the head of a loop; the amount lies at turnHole too, where it is set
	enter       []byte // takes fuel and stack, in a function that calls others
	leave       []byte // gives the stack back
	chargeHole  int
	turnHole    int // 0: the amount is not needed twice
	enterFuel   int
	enterStack  int
	leaveStack  int
	yieldTo     uint32 // the helper that calls refill
	helperFirst uint32 // index of the first helper
}

// Begin is called when all functions are known, before AddType.
func (w *Meter) Begin() {
	w.helperFirst = uint32(len(w.Functions)) + w.Shift
	if !w.Trap {
		w.yieldTo = w.helper(helperKey{op: helperYield}, w.yieldHelper)
	}
}

// prepareTemplates is called when the globals are known.
func (w *Meter) prepareTemplates() {
	fuel, stack := w.FuelGlobal(), w.FuelGlobal()+1
	take := func(b []byte, global uint32, op byte) ([]byte, int) {
		b = append(binary.AppendU32(append(b, binary.OpGlobalGet), global), binary.OpI64Const)
		hole := len(b)
		b = append(b, 0, 0, 0, op)
		return binary.AppendU32(append(b, binary.OpGlobalSet), global), hole
	}
	test := func(b []byte) []byte {
		b = append(b, binary.OpI64Const, 0, binary.OpI64LtS, binary.OpIf, binary.TypeEmpty)
		return append(w.appendYield(b), binary.OpEnd)
	}
	w.charge, w.chargeHole = take(nil, fuel, binary.OpI64Sub)
	w.charge = test(binary.AppendU32(append(w.charge, binary.OpGlobalGet), fuel))

	w.take, _ = take(nil, fuel, binary.OpI64Sub)
	w.turn = w.charge
	if !w.Trap {
		// The compiler forgets at a call what it knew of memory and globals, and where the way with a call and the way
		// without meet it knows nothing: after every test it would load and check anew. At the head of a loop ways meet
		// anyway. So who has asked for fuel goes back there and is charged again, with what it got made up for that.
		w.turn, _ = take(nil, fuel, binary.OpI64Sub)
		w.turn = binary.AppendU32(append(w.turn, binary.OpGlobalGet), fuel)
		w.turn = append(w.turn, binary.OpI64Const, 0, binary.OpI64LtS, binary.OpIf, binary.TypeEmpty)
		w.turn = w.appendYield(w.turn)
		w.turn, w.turnHole = take(w.turn, fuel, binary.OpI64Add)
		w.turn = append(w.turn, binary.OpBr, 1, binary.OpEnd)
	}

	w.enter, w.enterFuel = take(nil, fuel, binary.OpI64Sub)
	w.enter, w.enterStack = take(w.enter, stack, binary.OpI64Sub)
	w.enter = binary.AppendU32(append(w.enter, binary.OpGlobalGet), fuel)
	w.enter = binary.AppendU32(append(w.enter, binary.OpGlobalGet), stack)
	w.enter = test(append(w.enter, binary.OpI64Or))

	w.leave, w.leaveStack = take(nil, stack, binary.OpI64Add)
}

// appendYield appends what happens when fuel or stack is below zero.
func (w *Meter) appendYield(b []byte) []byte {
	if w.Trap {
		return append(b, binary.OpUnreachable)
	}
	return binary.AppendU32(append(b, binary.OpCall), w.yieldTo)
}

// AddType returns the index of a type that the metered module has beside the original's.
func (w *Meter) AddType(params, results []byte) uint32 {
	key := string(params) + "\x00" + string(results)
	if i, ok := w.wrap[key]; ok {
		return i
	}
	if w.wrap == nil {
		w.wrap = map[string]uint32{}
	}
	i := uint32(len(w.Types)) + uint32(w.addedCount)
	w.wrap[key] = i
	w.addedCount++
	w.added = append(w.added, binary.TypeFunction)
	w.added = append(binary.AppendU32(w.added, uint32(len(params))), params...)
	w.added = append(binary.AppendU32(w.added, uint32(len(results))), results...)
	return i
}

// A helper is a function that the metered module has beside the original's.
type helperKey struct {
	op    byte
	index uint32
}

const (
	helperYield = 0xff
	helperCopy  = binary.BulkMemoryCopy
	helperFill  = binary.BulkMemoryFill
	helperInit  = binary.BulkMemoryInit
)

type helper struct {
	name string
	typ  uint32
	body func() []byte // built when all index spaces are known
}

type helpers struct {
	index map[helperKey]uint32
	list  []helper
}

// helper returns the function index of a helper, and has it built if it is new.
func (w *Meter) helper(key helperKey, build func(uint32) helper) uint32 {
	if i, ok := w.helpers.index[key]; ok {
		return i
	}
	if w.helpers.index == nil {
		w.helpers.index = map[helperKey]uint32{}
	}
	i := w.helperFirst + uint32(len(w.helpers.list))
	w.helpers.index[key] = i
	w.helpers.list = append(w.helpers.list, build(key.index))
	return i
}

// Helpers appends the code of all helpers to out.
func (w *Meter) Helpers(out []byte) []byte {
	for _, h := range w.helpers.list {
		b := h.body()
		out = append(binary.AppendU32(out, uint32(len(b))), b...)
	}
	return out
}

// HelperTypes appends their types' indexes to out, and returns how many they are.
func (w *Meter) HelperTypes(out []byte) ([]byte, int) {
	for _, h := range w.helpers.list {
		out = binary.AppendU32(out, h.typ)
	}
	return out, len(w.helpers.list)
}

// HelperNames appends an index and a name for each to out, and returns how many they are.
func (w *Meter) HelperNames(out []byte) ([]byte, int) {
	for i, h := range w.helpers.list {
		out = binary.AppendName(binary.AppendU32(out, w.helperFirst+uint32(i)), h.name)
	}
	return out, len(w.helpers.list)
}

// AddedTypes returns the types that the metered module has beside the original's.
func (w *Meter) AddedTypes() ([]byte, int) { return w.added, w.addedCount }

// helperPrefix begins the helpers' names, which appear in the traces of guests that trap.
const helperPrefix = "dhow:metering."

// yieldHelper keeps the calls of refill out of the guest's own functions: a test costs them one short branch and a call
// without operands.
func (w *Meter) yieldHelper(uint32) helper {
	return helper{
		name: helperPrefix + "yield",
		typ:  w.AddType(nil, nil),
		body: func() []byte {
			fuel := w.FuelGlobal()
			b := binary.AppendU32([]byte{0, binary.OpGlobalGet}, fuel)
			b = binary.AppendU32(append(b, binary.OpGlobalGet), fuel+1)
			b = binary.AppendU32(append(b, binary.OpCall), uint32(w.Imported))
			return append(binary.AppendU32(append(b, binary.OpGlobalSet), fuel), binary.OpEnd)
		},
	}
}

// Charges within bulk operations.
const (
	BulkSmall = 4 << 10  // up to here the static cost is all
	BulkChunk = 64 << 10 // no single operation is longer
	bulkShift = 6        // 64 bytes are a unit
)

// Locals of the helpers for bulk operations: target, source or value, length.
const (
	bulkTarget = iota
	bulkSource
	bulkLength
)

// bulkHelper does a memory.copy, memory.fill or memory.init of any length: a short one at once, one that is out of
// bounds at once too, so that it traps as the original would and has written nothing, and a long one in chunks, each
// charged before it runs. segment is that of memory.init.
func (w *Meter) bulkHelper(op byte, segment uint32) helper {
	names := map[byte]string{helperCopy: "memory.copy", helperFill: "memory.fill", helperInit: "memory.init"}
	body := func() []byte {
		a := assembler{w: w, b: []byte{0}}
		// operation does the instruction on what is on the stack.
		operation := func() {
			a.op(binary.OpBulk, op)
			switch op {
			case helperCopy:
				a.op(0, 0)
			case helperInit:
				a.b = append(binary.AppendU32(a.b, segment), 0)
			default:
				a.op(0)
			}
		}
		whole := func() {
			a.get(bulkTarget)
			a.get(bulkSource)
			a.get(bulkLength)
			operation()
			a.op(binary.OpReturn)
		}
		a.get(bulkLength)
		a.i32(BulkSmall)
		a.op(binary.OpI32GtU, binary.OpI32Eqz, binary.OpIf, binary.TypeEmpty)
		whole()
		a.op(binary.OpEnd)

		beyond := func(start byte, bound func()) {
			a.get(start)
			a.op(binary.OpI64ExtendU)
			a.get(bulkLength)
			a.op(binary.OpI64ExtendU, binary.OpI64Add)
			bound()
			a.op(binary.OpI64GtU, binary.OpIf, binary.TypeEmpty)
			whole()
			a.op(binary.OpEnd)
		}
		memory := func() { a.op(0x3f, 0, binary.OpI64ExtendU, binary.OpI64Const, 16, binary.OpI64Shl) }
		beyond(bulkTarget, memory)
		switch op {
		case helperCopy:
			beyond(bulkSource, memory)
		case helperInit:
			beyond(bulkSource, func() { a.i64(int64(w.Data[segment])) })
		}

		last := func() {
			a.get(bulkLength)
			a.i32(BulkChunk)
			a.op(binary.OpI32GtU, binary.OpI32Eqz, binary.OpIf, binary.TypeEmpty)
			a.get(bulkLength)
			a.op(binary.OpI32Const, bulkShift, 0x76, binary.OpI64ExtendU) // i32.shr_u
			a.take()
			whole()
			a.op(binary.OpEnd)
			a.op(binary.OpI64Const)
			a.b = binary.AppendSigned(a.b, BulkChunk>>bulkShift)
			a.take()
		}
		add := func(i byte, by int32) {
			a.get(i)
			a.i32(by)
			a.op(binary.OpI32Add, binary.OpLocalSet, i)
		}
		if op == helperCopy {
			// Overlapping parts are copied from the end when the target lies behind the source.
			a.get(bulkSource)
			a.get(bulkTarget)
			a.op(binary.OpI32LtU, binary.OpIf, binary.TypeEmpty, binary.OpLoop, binary.TypeEmpty)
			last()
			add(bulkLength, -BulkChunk)
			for _, start := range []byte{bulkTarget, bulkSource} {
				a.get(start)
				a.get(bulkLength)
				a.op(binary.OpI32Add)
			}
			a.i32(BulkChunk)
			operation()
			a.op(binary.OpBr, 0, binary.OpEnd, binary.OpEnd)
		}
		a.op(binary.OpLoop, binary.TypeEmpty)
		last()
		a.get(bulkTarget)
		a.get(bulkSource)
		a.i32(BulkChunk)
		operation()
		add(bulkTarget, BulkChunk)
		if op != helperFill {
			add(bulkSource, BulkChunk)
		}
		add(bulkLength, -BulkChunk)
		a.op(binary.OpBr, 0, binary.OpEnd, binary.OpEnd)
		return a.b
	}
	return helper{
		name: helperPrefix + names[op],
		typ:  w.AddType([]byte{binary.TypeI32, binary.TypeI32, binary.TypeI32}, nil),
		body: body,
	}
}

// assembler writes a helper's instructions.
type assembler struct {
	w *Meter
	b []byte
}

func (a *assembler) op(b ...byte) { a.b = append(a.b, b...) }
func (a *assembler) get(i byte)   { a.op(binary.OpLocalGet, i) }
func (a *assembler) i32(v int32)  { a.b = binary.AppendSigned(append(a.b, binary.OpI32Const), int64(v)) }
func (a *assembler) i64(v int64)  { a.b = binary.AppendSigned(append(a.b, binary.OpI64Const), v) }

// take takes the i64 on the stack from fuel, and yields when that is used up. fuel - x is written as -(x - fuel), since
// x is on the stack already.
func (a *assembler) take() {
	fuel := a.w.FuelGlobal()
	a.b = binary.AppendU32(append(a.b, binary.OpGlobalGet), fuel)
	a.op(binary.OpI64Sub, binary.OpI64Const)
	a.b = binary.AppendSigned(a.b, -1)
	a.op(0x7e) // i64.mul
	a.b = binary.AppendU32(append(a.b, binary.OpGlobalSet), fuel)
	a.b = binary.AppendU32(append(a.b, binary.OpGlobalGet), fuel)
	a.op(binary.OpI64Const, 0, binary.OpI64LtS, binary.OpIf, binary.TypeEmpty)
	a.b = a.w.appendYield(a.b)
	a.op(binary.OpEnd)
}

package metering

// templates are the bytes of a charge, equal at every place except for the amount.
type templates struct {
	charge      []byte // takes fuel; the amount lies at chargeHole
	enter       []byte // takes fuel and stack, in a function that calls others
	leave       []byte // gives the stack back
	chargeHole  int
	enterFuel   int
	enterStack  int
	leaveStack  int
	yieldTo     uint32 // the helper that calls refill
	helperFirst uint32 // index of the first helper
}

// prepareTemplates needs the number of functions and is called before globals are read, so that it counts them itself.
func (w *rewriter) prepareTemplates() {
	w.helperFirst = uint32(len(w.functions)) + w.shift
	if w.o.Mode == Yield {
		w.yieldTo = w.helper(helperKey{op: helperYield}, w.yieldHelper)
	}
}

// finishTemplates is called when the globals are known.
func (w *rewriter) finishTemplates() {
	fuel, stack := w.fuelGlobal(), w.fuelGlobal()+1
	take := func(b []byte, global uint32, op byte) ([]byte, int) {
		b = append(appendU32(append(b, opGlobalGet), global), opI64Const)
		hole := len(b)
		b = append(b, 0, 0, 0, op)
		return appendU32(append(b, opGlobalSet), global), hole
	}
	test := func(b []byte) []byte {
		b = append(b, opI64Const, 0, opI64LtS, opIf, typeEmpty)
		return append(w.appendYield(b), opEnd)
	}
	w.charge, w.chargeHole = take(nil, fuel, opI64Sub)
	w.charge = test(appendU32(append(w.charge, opGlobalGet), fuel))

	w.enter, w.enterFuel = take(nil, fuel, opI64Sub)
	w.enter, w.enterStack = take(w.enter, stack, opI64Sub)
	w.enter = appendU32(append(w.enter, opGlobalGet), fuel)
	w.enter = appendU32(append(w.enter, opGlobalGet), stack)
	w.enter = test(append(w.enter, opI64Or))

	w.leave, w.leaveStack = take(nil, stack, opI64Add)
}

// appendYield appends what happens when fuel or stack is below zero.
func (w *rewriter) appendYield(b []byte) []byte {
	if w.o.Mode == Trap {
		return append(b, opUnreachable)
	}
	return appendU32(append(b, opCall), w.yieldTo)
}

// addType returns the index of a type that the metered module has beside the original's.
func (w *rewriter) addType(params, results []byte) uint32 {
	key := string(params) + "\x00" + string(results)
	if i, ok := w.wrap[key]; ok {
		return i
	}
	if w.wrap == nil {
		w.wrap = map[string]uint32{}
	}
	i := uint32(len(w.types)) + w.addedN
	w.wrap[key] = i
	w.addedN++
	w.added = append(w.added, typeFunction)
	w.added = append(appendU32(w.added, uint32(len(params))), params...)
	w.added = append(appendU32(w.added, uint32(len(results))), results...)
	return i
}

// A helper is a function that the metered module has beside the original's.
type helperKey struct {
	op    byte
	index uint32
}

const (
	helperYield = 0xff
	helperCopy  = bulkMemoryCopy
	helperFill  = bulkMemoryFill
	helperInit  = bulkMemoryInit
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
func (w *rewriter) helper(key helperKey, build func(uint32) helper) uint32 {
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

// yieldHelper keeps the calls of refill out of the guest's own functions: a test costs them one short branch and a call
// without operands.
func (w *rewriter) yieldHelper(uint32) helper {
	return helper{
		name: ImportModule + ".yield",
		typ:  w.addType(nil, nil),
		body: func() []byte {
			fuel := w.fuelGlobal()
			b := appendU32([]byte{0, opGlobalGet}, fuel)
			b = appendU32(append(b, opGlobalGet), fuel+1)
			b = appendU32(append(b, opCall), uint32(w.importedFunctions))
			return append(appendU32(append(b, opGlobalSet), fuel), opEnd)
		},
	}
}

// Charges within bulk operations.
const (
	bulkSmall = 4 << 10  // up to here the static cost is all
	bulkChunk = 64 << 10 // no single operation is longer
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
func (w *rewriter) bulkHelper(op byte, segment uint32) helper {
	names := map[byte]string{helperCopy: "memory.copy", helperFill: "memory.fill", helperInit: "memory.init"}
	body := func() []byte {
		a := assembler{w: w, b: []byte{0}}
		// operation does the instruction on what is on the stack.
		operation := func() {
			a.op(opBulk, op)
			switch op {
			case helperCopy:
				a.op(0, 0)
			case helperInit:
				a.b = append(appendU32(a.b, segment), 0)
			default:
				a.op(0)
			}
		}
		whole := func() {
			a.get(bulkTarget)
			a.get(bulkSource)
			a.get(bulkLength)
			operation()
			a.op(opReturn)
		}
		a.get(bulkLength)
		a.i32(bulkSmall)
		a.op(opI32GtU, opI32Eqz, opIf, typeEmpty)
		whole()
		a.op(opEnd)

		beyond := func(start byte, bound func()) {
			a.get(start)
			a.op(opI64ExtendU)
			a.get(bulkLength)
			a.op(opI64ExtendU, opI64Add)
			bound()
			a.op(opI64GtU, opIf, typeEmpty)
			whole()
			a.op(opEnd)
		}
		memory := func() { a.op(0x3f, 0, opI64ExtendU, opI64Const, 16, opI64Shl) }
		beyond(bulkTarget, memory)
		switch op {
		case helperCopy:
			beyond(bulkSource, memory)
		case helperInit:
			beyond(bulkSource, func() { a.i64(int64(w.data[segment])) })
		}

		last := func() {
			a.get(bulkLength)
			a.i32(bulkChunk)
			a.op(opI32GtU, opI32Eqz, opIf, typeEmpty)
			a.get(bulkLength)
			a.op(opI32Const, bulkShift, 0x76, opI64ExtendU) // i32.shr_u
			a.take()
			whole()
			a.op(opEnd)
			a.op(opI64Const)
			a.b = appendSigned(a.b, bulkChunk>>bulkShift)
			a.take()
		}
		add := func(i byte, by int32) {
			a.get(i)
			a.i32(by)
			a.op(opI32Add, opLocalSet, i)
		}
		if op == helperCopy {
			// Overlapping parts are copied from the end when the target lies behind the source.
			a.get(bulkSource)
			a.get(bulkTarget)
			a.op(opI32LtU, opIf, typeEmpty, opLoop, typeEmpty)
			last()
			add(bulkLength, -bulkChunk)
			for _, start := range []byte{bulkTarget, bulkSource} {
				a.get(start)
				a.get(bulkLength)
				a.op(opI32Add)
			}
			a.i32(bulkChunk)
			operation()
			a.op(opBr, 0, opEnd, opEnd)
		}
		a.op(opLoop, typeEmpty)
		last()
		a.get(bulkTarget)
		a.get(bulkSource)
		a.i32(bulkChunk)
		operation()
		add(bulkTarget, bulkChunk)
		if op != helperFill {
			add(bulkSource, bulkChunk)
		}
		add(bulkLength, -bulkChunk)
		a.op(opBr, 0, opEnd, opEnd)
		return a.b
	}
	return helper{
		name: ImportModule + "." + names[op],
		typ:  w.addType([]byte{typeI32, typeI32, typeI32}, nil),
		body: body,
	}
}

// assembler writes a helper's instructions.
type assembler struct {
	w *rewriter
	b []byte
}

func (a *assembler) op(b ...byte) { a.b = append(a.b, b...) }
func (a *assembler) get(i byte)   { a.op(opLocalGet, i) }
func (a *assembler) i32(v int32)  { a.b = appendSigned(append(a.b, opI32Const), int64(v)) }
func (a *assembler) i64(v int64)  { a.b = appendSigned(append(a.b, opI64Const), v) }

// take takes the i64 on the stack from fuel, and yields when that is used up. fuel - x is written as -(x - fuel), since
// x is on the stack already.
func (a *assembler) take() {
	fuel := a.w.fuelGlobal()
	a.b = appendU32(append(a.b, opGlobalGet), fuel)
	a.op(opI64Sub, opI64Const)
	a.b = appendSigned(a.b, -1)
	a.op(0x7e) // i64.mul
	a.b = appendU32(append(a.b, opGlobalSet), fuel)
	a.b = appendU32(append(a.b, opGlobalGet), fuel)
	a.op(opI64Const, 0, opI64LtS, opIf, typeEmpty)
	a.b = a.w.appendYield(a.b)
	a.op(opEnd)
}

func appendSigned(b []byte, v int64) []byte {
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if v == 0 && c&0x40 == 0 || v == -1 && c&0x40 != 0 {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}

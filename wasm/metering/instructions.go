package metering

import "fmt"

// instruction reads one instruction, checks what it names against the original, and charges for it. It copies nothing:
// what needs no change is copied later in one piece.
func (f *body) instruction() {
	r := &f.r
	if r.at >= r.end {
		r.fault("it ends before it should")
		return
	}
	op := r.b[r.at]
	r.at++
	in := &plain[op]
	switch in.operand {
	case nothing:
		if in.cost == costDivide {
			f.spilled.values += 2 // divisions are of registers of their own
		}
	case control:
		f.controlInstruction(op)
		return
	case local:
		i := r.u32()
		if uint64(i) >= uint64(f.locals) {
			f.missing("local", i)
			return
		}
		f.use(op, i)
	case global:
		if i := r.u32(); uint64(i) >= uint64(len(f.w.globals)) {
			f.missing("global", i)
		}
	case number32:
		r.signed(32)
	case number64:
		r.signed(64)
	case access:
		f.access()
	case function:
		f.functionInstruction(op)
		return
	case indirect:
		t, i := r.u32(), r.u32()
		if uint64(t) >= uint64(len(f.w.types)) {
			f.missing("type", t)
			return
		}
		if uint64(i) >= uint64(len(f.w.tables)) {
			f.missing("table", i)
		}
		f.apply(in)
		f.work.linear += workIndirect
		f.call(&f.w.types[t])
		return
	case table:
		if i := r.u32(); uint64(i) >= uint64(len(f.w.tables)) {
			f.missing("table", i)
		}
		if op == opTableSet {
			f.w.info.TableOps = true
		}
	case zero:
		f.onlyMemory()
		if op == opMemoryGrow {
			f.w.info.MemoryGrow = true
			f.work.linear += workGrow
			f.work.reloads++
			f.controls(1)
		}
	case bytes4:
		r.bytes(4)
	case bytes8:
		r.bytes(8)
	case typed:
		n, t := r.byte(), r.byte()
		if r.fail == "" && (n != 1 || !isValueType(t)) {
			f.unsupported("a select of other than one type of WebAssembly 2.0")
		}
	case refType:
		if t := r.byte(); r.fail == "" && t != typeFuncRef && t != typeExternRef {
			f.unsupported(fmt.Sprintf("a reference of type 0x%02x", t))
		}
	case prefixed:
		if op == opBulk {
			f.bulk()
		} else {
			f.vector()
		}
		return
	default:
		if r.fail == "" {
			f.unsupported(fmt.Sprintf("instruction 0x%02x", op))
		}
	}
	f.apply(in)
}

// apply charges for an instruction and moves its operands: what pay, pop and push do, with the usual case in one piece.
func (f *body) apply(in *instruction) {
	f.work.linear += int(in.work)
	if !f.top.dead {
		if s := &f.segments[f.top.segment]; s.cost+int(in.cost) <= segmentCost {
			s.cost += int(in.cost)
		} else {
			f.pay(int(in.cost))
		}
	}
	height := f.height - int(in.pops)
	if height < f.spilled.floor || height < f.top.base || height >= registers {
		f.pop(int(in.pops))
		f.push(int(in.pushes))
		return
	}
	f.height = height + int(in.pushes)
	f.highest = max(f.highest, f.height)
}

func (f *body) fail(reason Reason, text string) {
	if f.err == nil && f.r.fail == "" {
		f.err = f.refuse(reason, text)
	}
}

func (f *body) missing(what string, i uint32) {
	f.fail(Index, fmt.Sprintf("there is no %s %d", what, i))
}

func (f *body) unsupported(what string) {
	f.fail(Unsupported, what+" is not in WebAssembly 2.0")
}

// access reads alignment and offset. That the alignment suits the instruction is left to the compiler, which sees the
// same bytes.
func (f *body) access() {
	if f.w.memories == 0 {
		f.missing("memory", 0)
	}
	f.r.u32()
	f.r.u32()
}

// onlyMemory reads the number of the memory, which is one byte.
func (f *body) onlyMemory() {
	if i := f.r.byte(); i != 0 || f.w.memories == 0 {
		f.missing("memory", uint32(i))
	}
}

func (f *body) functionInstruction(op byte) {
	i := f.r.u32()
	if uint64(i) >= uint64(len(f.w.functions)) {
		f.missing("function", i)
		return
	}
	if op == opRefFunc {
		f.apply(&plain[op])
	} else {
		s := &f.w.types[f.w.functions[i]]
		cost := costCall
		if int(i) < f.w.importedFunctions {
			cost = costImport
		}
		f.pay(cost)
		f.work.linear += workCall
		f.call(s)
	}
	if int(i) >= f.w.importedFunctions && f.w.shift != 0 {
		f.replaceIndex(op, i+f.w.shift)
	}
}

// blockType reads a block's type: nothing, one value, or a type's index.
func (f *body) blockType() (params, results int) {
	r := &f.r
	if r.at < r.end {
		switch t := r.b[r.at]; {
		case t == typeEmpty:
			r.at++
			return 0, 0
		case isValueType(t):
			r.at++
			return 0, 1
		}
	}
	i := r.signed(33)
	if r.fail != "" {
		return 0, 0
	}
	if i < 0 {
		f.unsupported("a block of this type")
		return 0, 0
	}
	if i >= int64(len(f.w.types)) {
		f.missing("type", uint32(i))
		return 0, 0
	}
	return len(f.w.types[i].params), len(f.w.types[i].results)
}

// label reads a branch's target, to which values may be carried.
func (f *body) label() {
	i := f.r.u32()
	switch t := f.block(i); {
	case t == nil:
		f.missing("label", i)
	case t.op == opLoop:
		f.carry(t.params)
	default:
		f.carry(t.results)
	}
}

func (f *body) controlInstruction(op byte) {
	switch op {
	case opUnreachable:
		f.pay(costPlain)
		f.die()
	case opBlock, opLoop, opIf:
		f.controls(1)
		f.pay(costPlain)
		if op == opIf {
			f.pop(1)
		}
		params, results := f.blockType()
		f.carry(params + results)
		f.pop(params)
		f.blocks++
		f.enter(frame{op: op, segment: f.top.segment, base: f.height, params: params, results: results, id: f.blocks})
		if f.deepest = max(f.deepest, len(f.frames)); f.deepest > f.w.limits.Nesting {
			f.fail(Complexity, fmt.Sprintf("its blocks are nested deeper than %d", f.w.limits.Nesting))
		}
		f.spilled.enter()
		f.push(params)
		if op == opLoop && f.r.fail == "" {
			f.beginLoop()
			f.flush(f.r.at)
			f.charge(0)
		}
	case opElse:
		t := &f.top
		if t.op != opIf {
			f.fail(Malformed, "an else without its if")
			return
		}
		f.controls(1)
		f.blocks++
		t.id = f.blocks // what was set in the other arm is not set here
		t.op, t.dead, t.segment = opElse, false, f.frames[len(f.frames)-1].segment
		f.height = t.base
		f.push(t.params)
	case opEnd:
		t := f.top
		f.spilled.leave(f.locals, t.op == opLoop)
		if t.op == opLoop {
			f.endLoop()
		}
		f.leave()
		f.height = t.base
		f.spilled.floor = min(f.spilled.floor, f.height)
		f.push(t.results)
	case opBr:
		f.controls(1)
		f.pay(costPlain)
		f.label()
		f.die()
	case opBrIf:
		f.controls(1)
		f.pay(costPlain)
		f.pop(1)
		f.label()
	case opBrTable:
		f.pay(costLoad)
		f.pop(1)
		n := f.r.count(f.w.limits.Work/workControl, "targets of a table")
		f.controls(n + 1)
		for range n + 1 {
			f.label()
		}
		f.die()
	case opReturn:
		// The function's body may become a block, and a branch to the outermost label leaves that.
		f.controls(1)
		f.pay(costPlain)
		f.replaceIndex(opBr, uint32(len(f.frames)))
		f.die()
	}
}

// vector reads an instruction on 128-bit vectors. Its number is of one byte, or of two when it is above 127; the second
// is then 1.
func (f *body) vector() {
	r := &f.r
	op := r.byte()
	if op >= 0x80 && r.byte() != 1 {
		r.fault("a number is longer than it should be")
	}
	if r.fail != "" {
		return
	}
	in := &vectors[op]
	switch in.operand {
	case nothing:
	case access:
		f.access()
	case lane:
		r.byte()
	case accessLane:
		f.access()
		r.byte()
	case bytes16:
		r.bytes(16)
	default:
		f.unsupported(fmt.Sprintf("vector instruction %d", op))
	}
	f.w.info.SIMD, f.wide = true, true
	f.apply(in)
}

// bulk reads an instruction on many bytes or entries, or a saturating conversion.
func (f *body) bulk() {
	r, w := &f.r, f.w
	op := r.u32()
	if r.fail != "" {
		return
	}
	cost, pops, pushes := costBulk, 3, 0
	switch op {
	case 0, 1, 2, 3, 4, 5, 6, 7:
		cost, pops, pushes = costPlain, 1, 1
	case bulkMemoryInit:
		i := f.segmentIndex()
		f.onlyMemory()
		if f.err != nil || r.fail != "" {
			return
		}
		if n := w.data[i]; n > bulkChunk {
			f.payBulk()
			f.replaceIndex(opCall, w.helper(helperKey{helperInit, i}, func(i uint32) helper { return w.bulkHelper(helperInit, i) }))
			f.pop(3)
			return
		} else {
			cost += int(n >> bulkShift)
		}
	case bulkDataDrop:
		f.segmentIndex()
		w.info.DataDrop = true
		cost, pops = costPlain, 0
	case bulkMemoryCopy, bulkMemoryFill:
		f.onlyMemory()
		if op == bulkMemoryCopy {
			f.onlyMemory()
		}
		if f.err != nil || r.fail != "" {
			return
		}
		f.payBulk()
		f.replaceIndex(opCall, w.helper(helperKey{byte(op), 0}, func(uint32) helper { return w.bulkHelper(byte(op), 0) }))
		f.pop(3)
		return
	case bulkTableInit:
		if i := r.u32(); uint64(i) >= uint64(w.elements) {
			f.missing("element segment", i)
		}
		cost += f.tableCost()
		w.info.TableOps = true
	case bulkElemDrop:
		if i := r.u32(); uint64(i) >= uint64(w.elements) {
			f.missing("element segment", i)
		}
		cost, pops = costPlain, 0
		w.info.TableOps = true
	case bulkTableCopy:
		cost += max(f.tableCost(), f.tableCost())
		w.info.TableOps = true
	case bulkTableGrow:
		f.fail(TableLimit, "it grows a table; tables keep the size they begin with")
	case bulkTableSize:
		f.tableCost()
		cost, pops, pushes = costPlain, 0, 1
	case bulkTableFill: // becomes a loop
		cost += f.tableCost()
		f.work.loops++
		f.controls(3)
		w.info.TableOps = true
	default:
		f.unsupported(fmt.Sprintf("instruction 0xfc %d", op))
	}
	if cost > costPlain {
		f.work.linear += workTable
		f.work.reloads++
	}
	f.pay(cost)
	f.work.linear += workPlain
	f.pop(pops)
	f.push(pushes)
}

// payBulk charges for a call of a helper.
func (f *body) payBulk() {
	f.pay(costBulk + costCall)
	f.work.linear += workCall
	f.work.reloads++
}

// segmentIndex reads a data segment's index. The data count section must be there.
func (f *body) segmentIndex() uint32 {
	i := f.r.u32()
	if !f.w.present[sectionDataCount] || uint64(i) >= uint64(len(f.w.data)) {
		f.missing("announced data segment", i)
		return 0
	}
	return i
}

// tableCost reads a table's index and returns what going through all of it costs. Tables are small enough for that to be
// charged whatever the instruction's length is.
func (f *body) tableCost() int {
	i := f.r.u32()
	if f.r.fail == "" && uint64(i) >= uint64(len(f.w.tables)) {
		f.missing("table", i)
	}
	if f.err != nil || f.r.fail != "" {
		return 0
	}
	entries := f.w.tables[i].min
	if f.w.info.TablesImported {
		entries = max(entries, f.w.o.TableEntries)
	}
	return min(int(entries>>3), maxPadded/2)
}

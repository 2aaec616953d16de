package code

import (
	"fmt"

	"github.com/dhowfleet/dhow/wasm/metering/binary"
	"github.com/dhowfleet/dhow/wasm/metering/refusal"
)

// instruction reads one instruction, checks what it names against the original, and charges for it. It copies nothing:
// what needs no change is copied later in one piece.
func (f *body) instruction() {
	r := &f.r
	if r.At >= r.End {
		r.Fault("it ends before it should")
		return
	}
	op := r.B[r.At]
	r.At++
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
		i := r.U32()
		if uint64(i) >= uint64(f.locals) {
			f.missing("local", i)
			return
		}
		f.use(op, i)
	case global:
		if i := r.U32(); uint64(i) >= uint64(f.w.Globals) {
			f.missing("global", i)
		}
	case number32:
		r.Signed(32)
	case number64:
		r.Signed(64)
	case access:
		f.access()
	case function:
		f.functionInstruction(op)
		return
	case indirect:
		t, i := r.U32(), r.U32()
		if uint64(t) >= uint64(len(f.w.Types)) {
			f.missing("type", t)
			return
		}
		if uint64(i) >= uint64(len(f.w.Tables)) {
			f.missing("table", i)
		}
		f.apply(in)
		f.work.linear += workIndirect
		f.call(&f.w.Types[t])
		return
	case table:
		if i := r.U32(); uint64(i) >= uint64(len(f.w.Tables)) {
			f.missing("table", i)
		}
		if op == binary.OpTableSet {
			f.w.TableOps = true
		}
	case zero:
		f.onlyMemory()
		if op == binary.OpMemoryGrow {
			f.w.MemoryGrow = true
			f.work.linear += workGrow
			f.work.reloads++
			f.controls(1)
		}
	case bytes4:
		r.Bytes(4)
	case bytes8:
		r.Bytes(8)
	case typed:
		n, t := r.Byte(), r.Byte()
		if r.Fail == "" && (n != 1 || !binary.IsValueType(t)) {
			f.unsupported("a select of other than one type of WebAssembly 2.0")
		}
	case refType:
		if t := r.Byte(); r.Fail == "" && t != binary.TypeFuncRef && t != binary.TypeExternRef {
			f.unsupported(fmt.Sprintf("a reference of type 0x%02x", t))
		}
	case prefixed:
		if op == binary.OpBulk {
			f.bulk()
		} else {
			f.vector()
		}
		return
	default:
		if r.Fail == "" {
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
	if height < f.spilled.floor || height < f.top.bottom || height >= registers {
		f.pop(int(in.pops))
		f.push(int(in.pushes))
		return
	}
	f.height = height + int(in.pushes)
	f.highest = max(f.highest, f.height)
}

func (f *body) fail(reason refusal.Reason, text string) {
	if f.err == nil && f.r.Fail == "" {
		f.err = f.refuse(reason, text)
	}
}

func (f *body) missing(what string, i uint32) {
	f.fail(refusal.Index, fmt.Sprintf("there is no %s %d", what, i))
}

func (f *body) unsupported(what string) {
	f.fail(refusal.Unsupported, what+" is not in WebAssembly 2.0")
}

// access reads alignment and offset. That the alignment suits the instruction is left to the compiler, which sees the
// same bytes.
func (f *body) access() {
	if f.w.Memories == 0 {
		f.missing("memory", 0)
	}
	f.r.U32()
	f.r.U32()
}

// onlyMemory reads the number of the memory, which is one byte.
func (f *body) onlyMemory() {
	if i := f.r.Byte(); i != 0 || f.w.Memories == 0 {
		f.missing("memory", uint32(i))
	}
}

func (f *body) functionInstruction(op byte) {
	i := f.r.U32()
	if uint64(i) >= uint64(len(f.w.Functions)) {
		f.missing("function", i)
		return
	}
	if op == binary.OpRefFunc {
		f.apply(&plain[op])
	} else {
		s := &f.w.Types[f.w.Functions[i]]
		cost := costCall
		if int(i) < f.w.Imported {
			cost = costImport
		}
		f.pay(cost)
		f.work.linear += workCall
		f.call(s)
	}
	if int(i) >= f.w.Imported && f.w.Shift != 0 {
		f.replaceIndex(op, i+f.w.Shift)
	}
}

// blockType reads a block's type: nothing, one value, or a type's index.
func (f *body) blockType() (params, results int) {
	r := &f.r
	if r.At < r.End {
		switch t := r.B[r.At]; {
		case t == binary.TypeEmpty:
			r.At++
			return 0, 0
		case binary.IsValueType(t):
			r.At++
			return 0, 1
		}
	}
	i := r.Signed(33)
	if r.Fail != "" {
		return 0, 0
	}
	if i < 0 {
		f.unsupported("a block of this type")
		return 0, 0
	}
	if i >= int64(len(f.w.Types)) {
		f.missing("type", uint32(i))
		return 0, 0
	}
	return len(f.w.Types[i].Params), len(f.w.Types[i].Results)
}

// label reads a branch's target, to which values may be carried.
func (f *body) label() {
	i := f.r.U32()
	switch t := f.block(i); {
	case t == nil:
		f.missing("label", i)
	case t.op == binary.OpLoop:
		f.carry(t.params)
	default:
		f.carry(t.results)
	}
}

func (f *body) controlInstruction(op byte) {
	switch op {
	case binary.OpUnreachable:
		f.pay(costPlain)
		f.die()
	case binary.OpBlock, binary.OpLoop, binary.OpIf:
		f.controls(1)
		f.pay(costPlain)
		if op == binary.OpIf {
			f.pop(1)
		}
		params, results := f.blockType()
		f.carry(params + results)
		f.pop(params)
		f.blocks++
		f.enter(frame{op: op, segment: f.top.segment, bottom: f.height, params: params, results: results, id: f.blocks})
		if f.deepest = max(f.deepest, len(f.frames)); f.deepest > f.w.Limits.Nesting {
			f.fail(refusal.Complexity, fmt.Sprintf("its blocks are nested deeper than %d", f.w.Limits.Nesting))
		}
		f.spilled.enter()
		f.push(params)
		if op == binary.OpLoop && f.r.Fail == "" {
			f.beginLoop()
			f.flush(f.r.At)
			f.turn()
		}
	case binary.OpElse:
		t := &f.top
		if t.op != binary.OpIf {
			f.fail(refusal.Malformed, "an else without its if")
			return
		}
		f.controls(1)
		f.blocks++
		t.id = f.blocks // what was set in the other arm is not set here
		t.op, t.dead, t.segment = binary.OpElse, false, f.frames[len(f.frames)-1].segment
		f.height = t.bottom
		f.push(t.params)
	case binary.OpEnd:
		t := f.top
		f.spilled.leave(f.locals, t.op == binary.OpLoop)
		if t.op == binary.OpLoop {
			f.endLoop()
		}
		f.leave()
		f.height = t.bottom
		f.spilled.floor = min(f.spilled.floor, f.height)
		f.push(t.results)
	case binary.OpBr:
		f.controls(1)
		f.pay(costPlain)
		f.label()
		f.die()
	case binary.OpBrIf:
		f.controls(1)
		f.pay(costPlain)
		f.pop(1)
		f.label()
	case binary.OpBrTable:
		f.pay(costLoad)
		f.pop(1)
		n := f.r.Count(f.w.Limits.Work/workControl, "targets of a table")
		f.controls(n + 1)
		for range n + 1 {
			f.label()
		}
		f.die()
	case binary.OpReturn:
		// The function's body may become a block, and a branch to the outermost label leaves that.
		f.controls(1)
		f.pay(costPlain)
		f.replaceIndex(binary.OpBr, uint32(len(f.frames)))
		f.die()
	}
}

// vector reads an instruction on 128-bit vectors. Its number is of one byte, or of two when it is above 127; the second
// is then 1.
func (f *body) vector() {
	r := &f.r
	op := r.Byte()
	if op >= 0x80 && r.Byte() != 1 {
		r.Fault("a number is longer than it should be")
	}
	if r.Fail != "" {
		return
	}
	in := &vectors[op]
	switch in.operand {
	case nothing:
	case access:
		f.access()
	case lane:
		r.Byte()
	case accessLane:
		f.access()
		r.Byte()
	case bytes16:
		r.Bytes(16)
	default:
		f.unsupported(fmt.Sprintf("vector instruction %d", op))
	}
	f.w.SIMD, f.wide = true, true
	f.apply(in)
}

// bulk reads an instruction on many bytes or entries, or a saturating conversion.
func (f *body) bulk() {
	r, w := &f.r, f.w
	op := r.U32()
	if r.Fail != "" {
		return
	}
	cost, pops, pushes := costBulk, 3, 0
	switch op {
	case 0, 1, 2, 3, 4, 5, 6, 7:
		cost, pops, pushes = costPlain, 1, 1
	case binary.BulkMemoryInit:
		i := f.segmentIndex()
		f.onlyMemory()
		if f.err != nil || r.Fail != "" {
			return
		}
		if n := w.Data[i]; n > BulkChunk {
			f.payBulk()
			f.replaceIndex(binary.OpCall, w.helper(helperKey{helperInit, i}, func(i uint32) helper { return w.bulkHelper(helperInit, i) }))
			f.pop(3)
			return
		} else {
			cost += int(n >> bulkShift)
		}
	case binary.BulkDataDrop:
		f.segmentIndex()
		w.DataDrop = true
		cost, pops = costPlain, 0
	case binary.BulkMemoryCopy, binary.BulkMemoryFill:
		f.onlyMemory()
		if op == binary.BulkMemoryCopy {
			f.onlyMemory()
		}
		if f.err != nil || r.Fail != "" {
			return
		}
		f.payBulk()
		f.replaceIndex(binary.OpCall, w.helper(helperKey{byte(op), 0}, func(uint32) helper { return w.bulkHelper(byte(op), 0) }))
		f.pop(3)
		return
	case binary.BulkTableInit:
		if i := r.U32(); uint64(i) >= uint64(w.Elements) {
			f.missing("element segment", i)
		}
		cost += f.tableCost()
		w.TableOps = true
	case binary.BulkElemDrop:
		if i := r.U32(); uint64(i) >= uint64(w.Elements) {
			f.missing("element segment", i)
		}
		cost, pops = costPlain, 0
		w.TableOps = true
	case binary.BulkTableCopy:
		cost += max(f.tableCost(), f.tableCost())
		w.TableOps = true
	case binary.BulkTableGrow:
		f.fail(refusal.TableLimit, "it grows a table; tables keep the size they begin with")
	case binary.BulkTableSize:
		f.tableCost()
		cost, pops, pushes = costPlain, 0, 1
	case binary.BulkTableFill: // becomes a loop
		cost += f.tableCost()
		f.work.loops++
		f.controls(3)
		w.TableOps = true
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
	i := f.r.U32()
	if !f.w.DataCount || uint64(i) >= uint64(len(f.w.Data)) {
		f.missing("announced data segment", i)
		return 0
	}
	return i
}

// tableCost reads a table's index and returns what going through all of it costs. Tables are small enough for that to be
// charged whatever the instruction's length is.
func (f *body) tableCost() int {
	i := f.r.U32()
	if f.r.Fail == "" && uint64(i) >= uint64(len(f.w.Tables)) {
		f.missing("table", i)
	}
	if f.err != nil || f.r.Fail != "" {
		return 0
	}
	return min(int(f.w.Tables[i]>>3), binary.MaxPadded/2)
}

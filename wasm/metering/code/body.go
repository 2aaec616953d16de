package code

import (
	"fmt"

	"github.com/dhowfleet/dhow/wasm/metering/binary"
	"github.com/dhowfleet/dhow/wasm/metering/refusal"
)

// segmentCost is the most that one charge covers. Less would cost more tests; more would let a straight line of loads
// that miss every cache run for long after the last test, and would charge an interpreter's dispatch loop for all that
// it could do at every turn.
const segmentCost = 4096

// untestedCost is the most that may be charged on any way between two tests. A test in the middle of a block costs more than
// one at the head of a loop: what the compiler knew before it, it does not know behind it. Between them there is charged
// alone. This much takes 1 ms if every load misses the caches.
const untestedCost = 8 * segmentCost

// segment is a run of instructions that are paid for together, at its beginning. Whoever passes the beginning may
// execute each of them once at most.
type segment struct {
	cost  int
	hole  int // where the cost belongs in the body; -1: in the function's prologue
	again int // and where it does once more; 0: nowhere
}

// frame is a block that is open.
type frame struct {
	op      byte
	dead    bool // what follows is never reached, until the block ends
	segment int  // that pays for the next instruction
	bottom  int  // operands beneath the block's own
	params  int
	results int
	id      int // of the block among the function's
	way     int // the most that may have been charged since the latest test
	longest int // of way, since the block's beginning
}

// body is the function at hand.
type body struct {
	w        *Meter
	r        binary.Reader
	function int // index in the original
	err      *refusal.Error

	out      []byte
	copied   int     // the original is in out up to here
	start    int     // of the instruction at hand
	top      frame   // the innermost block that is open
	frames   []frame // those around it
	ended    bool    // the outermost one has
	segments []segment
	loops    []openLoop
	blocks   int // begun so far

	height, highest int
	deepest         int
	locals          int
	work            work
	calls           bool
	wide            bool // there are 128-bit vectors
	spilled         spills
}

func (f *body) refuse(reason refusal.Reason, text string) *refusal.Error {
	return &refusal.Error{Reason: reason, Function: f.function, Offset: f.start, Text: text}
}

// rewrite appends the metered function to out.
func (f *body) rewrite(function int, r binary.Reader, out []byte) ([]byte, *refusal.Error) {
	w := f.w
	s := w.Types[w.Functions[function]]
	*f = body{w: w, r: r, function: function, out: f.out[:0], frames: f.frames[:0], segments: f.segments[:0], start: r.At, wide: s.wide(),
		loops: f.loops[:0], spilled: spills{blocks: f.spilled.blocks[:0]}}
	declared, err := f.readLocals(len(s.Params))
	if err != nil {
		return nil, err
	}
	f.copied = f.r.At
	f.segments = append(f.segments, segment{hole: -1})
	f.top = frame{results: len(s.Results)}
	if f.locals > len(w.uses) {
		w.uses = make([]localUse, f.locals)
	}
	instructions := 0
	for !f.ended {
		f.start = f.r.At
		f.instruction()
		if f.r.Fail != "" {
			err := Check(&f.r, "its code")
			err.Function = function
			return nil, err
		}
		if f.err != nil {
			return nil, f.err
		}
		instructions++
	}
	w.Instructions += instructions
	if f.r.At != f.r.End {
		f.start = f.r.At
		return nil, f.refuse(refusal.Malformed, "its code goes on behind its end")
	}
	f.flush(f.r.At)
	for _, s := range f.segments[1:] {
		binary.PutPadded(f.out[s.hole:], s.cost)
		if s.again > 0 {
			binary.PutPadded(f.out[s.again:], s.cost)
		}
	}
	return f.finish(out, declared, s), nil
}

// finish puts the prologue, the body and the epilogue together. A function that calls others takes its frame from the
// stack, and gives it back at its end: its body becomes a block, which every way out of the function leaves.
func (f *body) finish(out, declared []byte, s Signature) []byte {
	w, cost := f.w, f.segments[0].cost
	if !f.calls { // there is one frame of this kind at a time, and the limits bound it
		out = binary.AppendU32(out, uint32(len(declared)+len(w.charge)+len(f.out)))
		out = append(out, declared...)
		at := len(out) + w.chargeHole
		out = append(out, w.charge...)
		binary.PutPadded(out[at:], cost)
		return append(out, f.out...)
	}
	frameSize := f.frameSize()
	w.MaxFrame = max(w.MaxFrame, frameSize)
	block := []byte{binary.OpBlock, binary.TypeEmpty}
	switch len(s.Results) {
	case 0:
	case 1:
		block[1] = s.Results[0]
	default:
		block = binary.AppendU32(block[:1], w.AddType(nil, s.Results))
	}
	size := len(declared) + len(w.enter) + len(block) + len(f.out) + len(w.leave) + 1
	out = binary.AppendU32(out, uint32(size))
	out = append(out, declared...)
	at := len(out)
	out = append(out, w.enter...)
	binary.PutPadded(out[at+w.enterFuel:], cost)
	binary.PutPadded(out[at+w.enterStack:], frameSize)
	out = append(append(out, block...), f.out...)
	at = len(out)
	out = append(out, w.leave...)
	binary.PutPadded(out[at+w.leaveStack:], frameSize)
	return append(out, binary.OpEnd)
}

// readLocals checks the declarations and returns their bytes.
func (f *body) readLocals(params int) ([]byte, *refusal.Error) {
	r, w := &f.r, f.w
	start := r.At
	f.locals = params
	for range r.Count(w.Limits.Locals, "groups of locals") {
		n, t := r.U32(), r.Byte()
		if r.Fail != "" {
			break
		}
		if !binary.IsValueType(t) {
			return nil, f.refuse(refusal.Unsupported, fmt.Sprintf("a local's type 0x%02x is not in WebAssembly 2.0", t))
		}
		if uint64(n) > uint64(w.Limits.Locals) {
			n = uint32(w.Limits.Locals) + 1
		}
		f.wide = f.wide || t == binary.TypeV128
		if f.locals += int(n); f.locals > w.Limits.Locals {
			return nil, f.refuse(refusal.Complexity, fmt.Sprintf("it has more than %d locals", w.Limits.Locals))
		}
	}
	if err := Check(r, "its locals"); err != nil {
		err.Function = f.function
		return nil, err
	}
	return r.B[start:r.At], nil
}

// flush copies the original up to at.
func (f *body) flush(at int) {
	f.out = append(f.out, f.r.B[f.copied:at]...)
	f.copied = at
}

// replaceIndex puts op and an index in the place of the instruction at hand, which has been read.
func (f *body) replaceIndex(op byte, index uint32) {
	f.flush(f.start)
	f.out = binary.AppendU32(append(f.out, op), index)
	f.copied = f.r.At
}

// enter and leave begin and end a block.
func (f *body) enter(t frame) {
	t.way, t.longest = f.top.way, f.top.way
	f.frames = append(f.frames, f.top)
	f.top = t
}

func (f *body) leave() {
	n := len(f.frames) - 1
	if n < 0 {
		f.ended = true
		return
	}
	longest := f.top.longest
	f.top = f.frames[n]
	f.frames = f.frames[:n]
	f.top.went(longest)
}

// went notes how long the way may be since the latest test.
func (t *frame) went(way int) { t.way, t.longest = max(t.way, way), max(t.longest, way) }

// block returns the open block that label i means, 0 the innermost; nil if there is none.
func (f *body) block(i uint32) *frame {
	switch n := len(f.frames); {
	case i == 0:
		return &f.top
	case uint64(i) <= uint64(n):
		return &f.frames[n-int(i)]
	}
	return nil
}

func (f *body) pop(n int) {
	if f.height -= n; f.height >= f.spilled.floor && f.height >= f.top.bottom {
		return
	}
	if f.height < f.top.bottom {
		if !f.top.dead && f.err == nil {
			f.err = f.refuse(refusal.Operands, "an instruction takes more operands than there are")
		}
		f.height = f.top.bottom
	}
	f.spilled.floor = min(f.spilled.floor, f.height)
}

func (f *body) push(n int) {
	f.height += n
	if f.height > registers {
		f.spilled.values += min(n, f.height-registers)
	}
	if f.height > f.highest {
		if f.highest = f.height; f.highest > f.w.Limits.Height && f.err == nil {
			f.err = f.refuse(refusal.Complexity, fmt.Sprintf("it has more than %d operands at once", f.w.Limits.Height))
		}
	}
}

// pay charges for the instruction at hand: in the segment that is open, or, when that is full, in a new one whose test
// goes before the instruction.
func (f *body) pay(cost int) {
	if f.top.dead {
		return
	}
	t := &f.top
	if s := &f.segments[t.segment]; s.cost+cost <= segmentCost || s.cost == 0 {
		s.cost += cost
		t.went(t.way + cost)
		return
	}
	f.flush(f.start)
	if t.way+segmentCost > untestedCost {
		f.charge(cost)
		t.way = cost
		return
	}
	t.segment = len(f.segments)
	f.segments = append(f.segments, segment{cost: cost, hole: len(f.out) + f.w.chargeHole})
	f.out = append(f.out, f.w.take...)
	t.went(t.way + cost)
}

// charge opens a segment and appends its test.
func (f *body) charge(cost int) {
	f.top.segment = len(f.segments)
	f.segments = append(f.segments, segment{cost: cost, hole: len(f.out) + f.w.chargeHole})
	f.out = append(f.out, f.w.charge...)
}

// turn opens a loop's segment and appends its test.
func (f *body) turn() {
	w := f.w
	if w.turnHole == 0 || f.top.params > 0 { // a branch to its head would have to hand them over
		f.charge(0)
		f.top.way = 0
		return
	}
	f.top.segment = len(f.segments)
	f.segments = append(f.segments, segment{hole: len(f.out) + w.chargeHole, again: len(f.out) + w.turnHole})
	f.out = append(f.out, w.turn...)
	f.top.way = 0
}

// die marks what follows as unreachable.
func (f *body) die() {
	f.top.dead, f.height = true, f.top.bottom
}

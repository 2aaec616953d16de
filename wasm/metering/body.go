package metering

import "fmt"

// segmentCost is the most that one charge covers. Less would cost more tests; more would let a straight line of loads
// that miss every cache run for long after the last test, and would charge an interpreter's dispatch loop for all that
// it could do at every turn.
const segmentCost = 4096

// segment is a run of instructions that are paid for together, at its beginning. Whoever passes the beginning may
// execute each of them once at most.
type segment struct {
	cost int
	hole int // where the cost belongs in the body; -1: in the function's prologue
}

// frame is a block that is open.
type frame struct {
	op      byte
	dead    bool // what follows is never reached, until the block ends
	segment int  // that pays for the next instruction
	base    int  // operands beneath the block's own
	params  int
	results int
	id      int // of the block among the function's
}

// body is the function at hand.
type body struct {
	w        *rewriter
	r        reader
	function int // index in the original
	err      *Error

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

func (f *body) refuse(reason Reason, text string) *Error {
	return &Error{Reason: reason, Function: f.function, Offset: f.start, Text: text}
}

// readCode rewrites all functions.
func (w *rewriter) readCode(r *reader) *Error {
	n, defined := 0, len(w.functions)-w.importedFunctions
	if w.present[sectionCode] {
		n = r.count(w.limits.Functions, "functions")
	}
	if n != defined && (r.fail == "" || r.fail == absent) {
		return w.refuse(Malformed, -1, fmt.Sprintf("it declares %d functions and has the code of %d", defined, n))
	}
	w.finishTemplates()
	out, room := w.reserve(r.end - r.at)
	w.room = room
	f := &w.fn
	f.w = w
	for i := range n {
		content := r.sub(r.u32())
		if r.fail != "" {
			break
		}
		size := content.end - content.at
		if size > w.limits.Body {
			return &Error{Reason: TooLarge, Function: w.importedFunctions + i, Offset: content.at,
				Text: fmt.Sprintf("it has %d bytes, at most %d are allowed", size, w.limits.Body)}
		}
		w.info.LargestFunction = max(w.info.LargestFunction, size)
		var err *Error
		if out, err = f.rewrite(w.importedFunctions+i, content, out); err != nil {
			return err
		}
		if err := w.weigh(f); err != nil {
			return err
		}
	}
	w.out[sectionCode] = out
	return nil
}

// rewrite appends the metered function to out.
func (f *body) rewrite(function int, r reader, out []byte) ([]byte, *Error) {
	w := f.w
	s := w.types[w.functions[function]]
	*f = body{w: w, r: r, function: function, out: f.out[:0], frames: f.frames[:0], segments: f.segments[:0], start: r.at, wide: s.wide(),
		loops: f.loops[:0], spilled: spills{blocks: f.spilled.blocks[:0]}}
	declared, err := f.readLocals(len(s.params))
	if err != nil {
		return nil, err
	}
	f.copied = f.r.at
	f.segments = append(f.segments, segment{hole: -1})
	f.top = frame{results: len(s.results)}
	if f.locals > len(w.uses) {
		w.uses = make([]localUse, f.locals)
	}
	instructions := 0
	for !f.ended {
		f.start = f.r.at
		f.instruction()
		if f.r.fail != "" {
			err := w.check(&f.r, "its code")
			err.Function = function
			return nil, err
		}
		if f.err != nil {
			return nil, f.err
		}
		instructions++
	}
	w.info.Instructions += instructions
	if f.r.at != f.r.end {
		f.start = f.r.at
		return nil, f.refuse(Malformed, "its code goes on behind its end")
	}
	f.flush(f.r.at)
	for _, s := range f.segments[1:] {
		putPadded(f.out[s.hole:], s.cost)
	}
	return f.finish(out, declared, s), nil
}

// finish puts the prologue, the body and the epilogue together. A function that calls others takes its frame from the
// stack, and gives it back at its end: its body becomes a block, which every way out of the function leaves.
func (f *body) finish(out, declared []byte, s signature) []byte {
	w, cost := f.w, f.segments[0].cost
	if !f.calls { // there is one frame of this kind at a time, and the limits bound it
		out = appendU32(out, uint32(len(declared)+len(w.charge)+len(f.out)))
		out = append(out, declared...)
		at := len(out) + w.chargeHole
		out = append(out, w.charge...)
		putPadded(out[at:], cost)
		return append(out, f.out...)
	}
	frameSize := f.frameSize()
	w.info.MaxFrame = max(w.info.MaxFrame, frameSize)
	block := []byte{opBlock, typeEmpty}
	switch len(s.results) {
	case 0:
	case 1:
		block[1] = s.results[0]
	default:
		block = appendU32(block[:1], w.addType(nil, s.results))
	}
	size := len(declared) + len(w.enter) + len(block) + len(f.out) + len(w.leave) + 1
	out = appendU32(out, uint32(size))
	out = append(out, declared...)
	at := len(out)
	out = append(out, w.enter...)
	putPadded(out[at+w.enterFuel:], cost)
	putPadded(out[at+w.enterStack:], frameSize)
	out = append(append(out, block...), f.out...)
	at = len(out)
	out = append(out, w.leave...)
	putPadded(out[at+w.leaveStack:], frameSize)
	return append(out, opEnd)
}

// readLocals checks the declarations and returns their bytes.
func (f *body) readLocals(params int) ([]byte, *Error) {
	r, w := &f.r, f.w
	start := r.at
	f.locals = params
	for range r.count(w.limits.Locals, "groups of locals") {
		n, t := r.u32(), r.byte()
		if r.fail != "" {
			break
		}
		if !isValueType(t) {
			return nil, f.refuse(Unsupported, fmt.Sprintf("a local's type 0x%02x is not in WebAssembly 2.0", t))
		}
		if uint64(n) > uint64(w.limits.Locals) {
			n = uint32(w.limits.Locals) + 1
		}
		f.wide = f.wide || t == typeV128
		if f.locals += int(n); f.locals > w.limits.Locals {
			return nil, f.refuse(Complexity, fmt.Sprintf("it has more than %d locals", w.limits.Locals))
		}
	}
	if err := w.check(r, "its locals"); err != nil {
		err.Function = f.function
		return nil, err
	}
	return w.code[start:r.at], nil
}

// flush copies the original up to at.
func (f *body) flush(at int) {
	f.out = append(f.out, f.r.b[f.copied:at]...)
	f.copied = at
}

// replaceIndex puts op and an index in the place of the instruction at hand, which has been read.
func (f *body) replaceIndex(op byte, index uint32) {
	f.flush(f.start)
	f.out = appendU32(append(f.out, op), index)
	f.copied = f.r.at
}

// enter and leave begin and end a block.
func (f *body) enter(t frame) {
	f.frames = append(f.frames, f.top)
	f.top = t
}

func (f *body) leave() {
	n := len(f.frames) - 1
	if n < 0 {
		f.ended = true
		return
	}
	f.top = f.frames[n]
	f.frames = f.frames[:n]
}

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
	if f.height -= n; f.height >= f.spilled.floor && f.height >= f.top.base {
		return
	}
	if f.height < f.top.base {
		if !f.top.dead && f.err == nil {
			f.err = f.refuse(Operands, "an instruction takes more operands than there are")
		}
		f.height = f.top.base
	}
	f.spilled.floor = min(f.spilled.floor, f.height)
}

func (f *body) push(n int) {
	f.height += n
	if f.height > registers {
		f.spilled.values += min(n, f.height-registers)
	}
	if f.height > f.highest {
		if f.highest = f.height; f.highest > f.w.limits.Height && f.err == nil {
			f.err = f.refuse(Complexity, fmt.Sprintf("it has more than %d operands at once", f.w.limits.Height))
		}
	}
}

// pay charges for the instruction at hand: in the segment that is open, or, when that is full, in a new one whose test
// goes before the instruction.
func (f *body) pay(cost int) {
	if f.top.dead {
		return
	}
	if s := &f.segments[f.top.segment]; s.cost+cost <= segmentCost || s.cost == 0 {
		s.cost += cost
		return
	}
	f.flush(f.start)
	f.charge(cost)
}

// charge opens a segment and appends its test.
func (f *body) charge(cost int) {
	f.top.segment = len(f.segments)
	f.segments = append(f.segments, segment{cost: cost, hole: len(f.out) + f.w.chargeHole})
	f.out = append(f.out, f.w.charge...)
}

// die marks what follows as unreachable.
func (f *body) die() {
	f.top.dead, f.height = true, f.top.base
}

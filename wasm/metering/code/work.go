package code

import (
	"fmt"
	"sort"

	"github.com/dhowfleet/dhow/wasm/metering/binary"
	"github.com/dhowfleet/dhow/wasm/metering/refusal"
)

// What compiling takes, in microseconds on a core of 2024 that is busy with other work too, measured on functions made of
// one thing each. Most is linear in the code; what is not has a term of its own in work.
const (
	workFunction = 15
	workPlain    = 1
	workAccess   = 20 // up to 30 when the compiler knows nothing of the address, 4 when it knows all
	workBytes16  = 10
	workDivide   = 60
	workTrunc    = 60
	workCall     = 10
	workIndirect = 100
	workGrow     = 50
	workTable    = 100
	workControl  = 40
	workWide     = 4 // for each operand and result of a call or block beyond workNarrow
	workNarrow   = 8
)

// work is what is counted of a function to estimate what compiling it takes.
type work struct {
	linear  int // of instructions one by one
	loops   int
	control int // operations that begin or end a straight line, each target of a table among them
	reloads int // places behind which the compiler loads every mutable global again
	waiting int // operands that wait at control operations, summed up
	spans   int // control operations between one use of a local and the next, summed up
}

// total estimates the time for one function that is compiled alone, in microseconds. Finding loops takes time in the
// square of their number (12 KB of empty loops 3.7 s), other control operations have a square too, a value that lives
// across a control operation costs there again, and every mutable global is loaded again behind every call.
func (f *body) total() int {
	k := &f.work
	return workFunction + k.linear + k.control*workControl + k.loops*k.loops/4 + k.control*k.control/50 +
		(k.spans+k.waiting)*5/2 + f.locals/10 + f.locals*k.loops/4 + k.reloads*f.w.Mutable*4/3
}

// share is what a function adds to the module's time. A small one takes a sixth of what it takes alone, since memory that
// was got for one function serves the next.
func share(total int) int { return total/6 + total*total/2_000_000 }

// localUse is what is known of a local in the function at hand.
type localUse struct {
	function int // that the rest is about, from 1
	control  int // control operations before its latest use
	set      int // where it was set last, and in which block
	block    int
	depth    int
	carried  int // the loop that it was found to be carried round
}

// openLoop is a loop that is open.
type openLoop struct {
	id      int
	start   int // where it begins
	control int // control operations before it
	carried int // locals that live all the way round
}

// use notes the use of a local. It lives from its use before until now. If it is read and no set that lies on every way
// to here is within a loop, it lives all the way round the outermost such loop too.
func (f *body) use(op byte, i uint32) {
	u := &f.w.uses[i]
	if u.function == f.function+1 {
		f.work.spans += f.work.control - u.control
	} else {
		*u = localUse{function: f.function + 1}
	}
	u.control = f.work.control
	if op != binary.OpLocalGet {
		f.spilled.define()
		u.set, u.depth, u.block = f.start, len(f.frames), f.top.id
		return
	}
	if len(f.loops) == 0 {
		return
	}
	set := 0
	if n := len(f.frames); u.depth < n && f.frames[u.depth].id == u.block || u.depth == n && f.top.id == u.block {
		set = u.set
	}
	if f.loops[len(f.loops)-1].start <= set {
		return
	}
	outermost := sort.Search(len(f.loops), func(n int) bool { return f.loops[n].start > set })
	if l := &f.loops[outermost]; u.carried != l.id {
		u.carried = l.id
		l.carried++
	}
}

// beginLoop and endLoop keep the loops that are open.
func (f *body) beginLoop() {
	f.work.loops++
	f.loops = append(f.loops, openLoop{id: f.work.loops, start: f.start, control: f.work.control})
}

func (f *body) endLoop() {
	l := f.loops[len(f.loops)-1]
	f.loops = f.loops[:len(f.loops)-1]
	f.work.spans += l.carried * (f.work.control - l.control)
}

// controls notes n control operations.
func (f *body) controls(n int) {
	f.work.control += n
	f.work.waiting += n * f.height
}

// carry notes values that a call or a block takes and gives.
func (f *body) carry(values int) {
	if values > workNarrow {
		f.work.linear += (values - workNarrow) * workWide
	}
}

// weigh refuses a function that would take too long to compile, alone or together with those before it.
func (w *Meter) weigh(f *body) *refusal.Error {
	f.work.reloads += len(f.segments)
	control, total := f.work.control, f.total()
	i := &w.Found
	i.MaxControl, i.MaxWeight = max(i.MaxControl, control), max(i.MaxWeight, f.locals*control)
	i.MaxLocals, i.MaxHeight, i.MaxNesting = max(i.MaxLocals, f.locals), max(i.MaxHeight, f.highest), max(i.MaxNesting, f.deepest)
	i.MaxLoops, i.MaxWork = max(i.MaxLoops, f.work.loops), max(i.MaxWork, total)
	i.Work += share(total)
	if w.allLocals += f.locals; w.allLocals > w.Limits.AllLocals {
		return refuse(fmt.Sprintf("its functions together have more than %d locals", w.Limits.AllLocals))
	}
	if total > w.Limits.Work {
		return &refusal.Error{Reason: refusal.Complexity, Function: f.function, Offset: f.r.Base, Text: fmt.Sprintf(
			"compiling it would take about %d ms, at most %d ms are allowed: it has %d locals, %d control operations and %d loops, up to %d operands at once, and the module %d mutable globals",
			total/1000, w.Limits.Work/1000, f.locals, control, f.work.loops, f.highest, w.Mutable)}
	}
	if allowed := w.Limits.ForModule(w.Bytes); i.Work > allowed {
		return refuse(fmt.Sprintf("compiling its functions would take more than %d ms together", allowed/1000))
	}
	return nil
}

// refuse is for what is about no function alone.
func refuse(text string) *refusal.Error {
	return &refusal.Error{Reason: refusal.Complexity, Function: -1, Offset: -1, Text: text}
}

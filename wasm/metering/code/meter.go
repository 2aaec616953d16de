// Package code rewrites the functions of a WebAssembly module: it checks what their instructions name against the
// original's index spaces, inserts the charges for fuel and stack, and estimates what compiling them takes. Package
// metering does the rest of the module and says what a metered module is.
//
// The caller fills a Space, calls Begin when it knows the functions, Rewrite with the code section, and Helpers. A Meter
// is for one module and one goroutine.
package code

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/dhowfleet/dhow/wasm/metering/binary"
	"github.com/dhowfleet/dhow/wasm/metering/refusal"
)

// Signature is a function's type, one byte a value type.
type Signature struct{ Params, Results []byte }

func (s *Signature) wide() bool {
	return bytes.IndexByte(s.Params, binary.TypeV128) >= 0 || bytes.IndexByte(s.Results, binary.TypeV128) >= 0
}

// Space is the original's index spaces.
type Space struct {
	Types     []Signature
	Functions []uint32 // the type of each, imported ones first
	Imported  int      // functions
	Globals   int
	Mutable   int      // mutable globals, the two that are added among them
	Tables    []uint32 // what each begins with, which it keeps; of an imported one the most that it may have
	Memories  int
	Elements  int      // segments
	Data      []uint32 // the length of each segment
	DataCount bool     // their number was announced
}

// Found is what was found in the functions.
type Found struct {
	TableOps   bool // an instruction changes a table or drops an element segment
	DataDrop   bool // an instruction drops a data segment
	MemoryGrow bool // an instruction grows the memory
	SIMD       bool

	LargestFunction int // bytes
	Instructions    int
	MaxLocals       int
	MaxControl      int // control operations of one function
	MaxWeight       int // locals times control operations of one function
	MaxHeight       int // operands at once
	MaxLoops        int // of one function
	MaxWork, Work   int // of compiling one function, and all of them, in microseconds by estimate
	MaxNesting      int
	MaxFrame        int // bytes, the estimate that is taken from the stack
}

// Meter rewrites the functions of one module.
type Meter struct {
	Space
	Found
	Limits Limits
	Trap   bool   // unreachable is executed, instead of calling the function behind the imported ones
	Bytes  int    // of the whole module
	Shift  uint32 // added to the index of every function that the module defines

	wrap       map[string]uint32
	added      []byte // types
	addedCount int
	helpers    helpers
	templates

	allLocals int        // of all functions so far
	uses      []localUse // of every local of the function at hand
	fn        body       // reused from function to function
}

// FuelGlobal is the index of the global that holds the fuel; that of the stack is the next.
func (w *Meter) FuelGlobal() uint32 { return uint32(w.Globals) }

// Shifted returns the metered module's index of a function of the original.
func (w *Meter) Shifted(i uint32) uint32 {
	if uint64(i) >= uint64(w.Imported) {
		return i + w.Shift
	}
	return i
}

// Check turns a reader's fault into an error.
func Check(r *binary.Reader, what string) *refusal.Error {
	if r.Fail == "" {
		return nil
	}
	e := &refusal.Error{Reason: refusal.Malformed, Function: -1, Offset: r.At, Text: what + ": " + r.Fail}
	if more, over := strings.CutPrefix(r.Fail, binary.OverLimit); over {
		e.Reason, e.Text = refusal.TooLarge, "it has too many "+more
	}
	return e
}

// Rewrite appends the metered functions to out. r is at the first of n. Of what follows them in r it takes nothing.
func (w *Meter) Rewrite(r *binary.Reader, n int, out []byte) ([]byte, *refusal.Error) {
	w.prepareTemplates()
	f := &w.fn
	f.w = w
	for i := range n {
		content := r.Sub(r.U32())
		if r.Fail != "" {
			break
		}
		size := content.End - content.At
		if size > w.Limits.Body {
			return nil, &refusal.Error{Reason: refusal.TooLarge, Function: w.Imported + i, Offset: content.At,
				Text: fmt.Sprintf("it has %d bytes, at most %d are allowed", size, w.Limits.Body)}
		}
		w.LargestFunction = max(w.LargestFunction, size)
		var err *refusal.Error
		if out, err = f.rewrite(w.Imported+i, content, out); err != nil {
			return nil, err
		}
		if err := w.weigh(f); err != nil {
			return nil, err
		}
	}
	return out, nil
}

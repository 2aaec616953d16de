// Package refusal names the reasons for which a WebAssembly module is not accepted. It is shared by the packages that
// read a module; users see it through package metering.
package refusal

import (
	"fmt"
	"strings"
)

// Reason is why a module is refused.
type Reason string

// The reasons; there are no others.
const (
	NotWasm      Reason = "not wasm"      // it is no module, or a component, or of another version
	Malformed    Reason = "malformed"     // its bytes are no valid module
	Index        Reason = "index"         // it names something that it does not have
	Operands     Reason = "operands"      // an instruction takes more operands than there are
	Unsupported  Reason = "unsupported"   // it uses what is not in WebAssembly 2.0 core
	TooLarge     Reason = "too large"     // it, or one of its parts, is larger than allowed
	Complexity   Reason = "complexity"    // compiling it would take too long
	MemoryLimit  Reason = "memory"        // more than one memory, a shared or a 64-bit one, or one beyond the limit
	TableLimit   Reason = "table"         // tables beyond the limit, or table.grow
	ReservedName Reason = "reserved name" // a name that begins with "dhow:"
)

// Reasons returns all of them.
func Reasons() []Reason {
	return []Reason{NotWasm, Malformed, Index, Operands, Unsupported, TooLarge, Complexity, MemoryLimit, TableLimit, ReservedName}
}

// Error says why a module was refused.
type Error struct {
	Reason   Reason
	Function int // the original's function index, -1 if it is not about one
	Offset   int // into the original, -1 if it is not about one place
	Text     string
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "cannot accept the WASM module (%s): ", e.Reason)
	if e.Function >= 0 {
		fmt.Fprintf(&b, "function %d: ", e.Function)
	}
	b.WriteString(e.Text)
	if e.Offset >= 0 {
		fmt.Fprintf(&b, ", at byte %d", e.Offset)
	}
	return b.String()
}

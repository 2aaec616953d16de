package metering

import (
	"fmt"
	"strings"
)

// The names between a metered module and its host.
const (
	// ImportModule and ImportRefill name the host function refill(fuel, stack i64) -> i64, which a module in mode Yield
	// imports last of all. It is called when fuel or stack is below zero, and returns the new fuel.
	ImportModule = "dhow:metering"
	ImportRefill = "refill"
	// ExportFuel is a mutable i64 global, initially 0.
	ExportFuel = "dhow:fuel"
	// ExportStack is a mutable i64 global, initially Options.Stack.
	ExportStack = "dhow:stack"
	// ExportGlobalPrefix and a decimal index name every mutable number that the guest defines.
	ExportGlobalPrefix = "dhow:global:"

	reserved = "dhow:" // no guest's module or export begins so
)

// Mode says what happens when fuel or stack is used up.
type Mode uint8

const (
	// Yield calls refill, which may go on with new fuel or end the call.
	Yield Mode = iota
	// Trap executes unreachable; the module imports nothing for it.
	Trap
)

// Defaults of Options.
const (
	DefaultStack        = 1 << 20
	DefaultTableEntries = 1 << 16
)

// Options of Rewrite.
type Options struct {
	Mode         Mode
	Stack        int64  // bytes of native stack, by estimate; 0: DefaultStack
	MemoryPages  uint32 // no memory may grow beyond it; 0: the module's own maximum
	MemorySpare  uint32 // pages beyond that which the metered module declares, for a host that bounds memory itself
	TableEntries uint32 // of all tables together; 0: DefaultTableEntries
	Limits       Limits // what a module may be made of; zero fields: the defaults
}

// Module is a metered module and what is known of the original.
type Module struct {
	Code []byte
	Info Info
}

// Info describes the original module. Indexes are the original's.
type Info struct {
	Imports []Import
	Exports []Export

	Memories             int
	MemoryMin, MemoryMax uint32 // pages; MemoryMax is what the guest may use, without Options.MemorySpare
	MemoryImported       bool
	Tables               int
	TableEntries         uint64 // of all tables that the module defines
	TablesImported       bool
	HasStart             bool

	Globals       []uint32 // exported under ExportGlobalPrefix, so that a host can restore them
	VectorGlobals bool     // there are mutable v128 or reference globals, which cannot be restored
	TableOps      bool     // an instruction changes a table or drops an element segment
	DataDrop      bool     // an instruction drops a data segment
	MemoryGrow    bool     // an instruction grows the memory

	Functions       int // defined ones
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
	SIMD            bool
}

// Kind is what is imported or exported.
type Kind uint8

// The kinds, numbered as in the binary format.
const (
	Function Kind = iota
	Table
	Memory
	Global
)

func (k Kind) String() string {
	switch k {
	case Function:
		return "function"
	case Table:
		return "table"
	case Memory:
		return "memory"
	case Global:
		return "global"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Import is one import. Params and Results are those of a function, one byte a type as in the binary format.
type Import struct {
	Module, Name    string
	Kind            Kind
	Params, Results string
}

// Export is one export, in the same way.
type Export struct {
	Name            string
	Kind            Kind
	Params, Results string
}

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

// Rewrite checks code and returns it with charges for fuel and stack. The error is an *Error. It keeps no part of code.
func Rewrite(code []byte, o Options) (*Module, error) {
	if o.Stack <= 0 {
		o.Stack = DefaultStack
	}
	if o.TableEntries == 0 {
		o.TableEntries = DefaultTableEntries
	}
	o.Limits = o.Limits.withDefaults()
	w := &rewriter{o: o, limits: o.Limits, code: code}
	if err := w.read(); err != nil {
		return nil, err
	}
	return &Module{Code: w.assemble(), Info: w.info}, nil
}

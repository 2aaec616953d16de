package metering

import (
	"fmt"

	"github.com/dhowfleet/dhow/wasm/metering/code"
	"github.com/dhowfleet/dhow/wasm/metering/refusal"
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

	Functions int // defined ones
	Found
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

// Found is what was found in the functions; Info has its fields.
type Found = code.Found

// Limits say what a module may be made of. A field that is zero has its default.
type Limits = code.Limits

// DefaultLimits are far above real guests and far below what hurts.
func DefaultLimits() Limits { return code.DefaultLimits() }

// Error says why a module was refused, Reason is the closed list of reasons.
type (
	Error  = refusal.Error
	Reason = refusal.Reason
)

// The reasons; there are no others.
const (
	NotWasm      = refusal.NotWasm
	Malformed    = refusal.Malformed
	Index        = refusal.Index
	Operands     = refusal.Operands
	Unsupported  = refusal.Unsupported
	TooLarge     = refusal.TooLarge
	Complexity   = refusal.Complexity
	MemoryLimit  = refusal.MemoryLimit
	TableLimit   = refusal.TableLimit
	ReservedName = refusal.ReservedName
)

// Reasons returns all of them.
func Reasons() []Reason { return refusal.Reasons() }

// Rewrite checks module and returns it with charges for fuel and stack. The error is an *Error. It keeps no part of module.
func Rewrite(module []byte, o Options) (*Module, error) {
	if o.Stack <= 0 {
		o.Stack = DefaultStack
	}
	if o.TableEntries == 0 {
		o.TableEntries = DefaultTableEntries
	}
	w := &rewriter{o: o, code: module}
	w.Limits, w.Trap, w.Bytes = o.Limits.WithDefaults(), o.Mode == Trap, len(module)
	if err := w.read(); err != nil {
		return nil, err
	}
	out := w.assemble()
	w.info.Found = w.Found
	return &Module{Code: out, Info: w.info}, nil
}

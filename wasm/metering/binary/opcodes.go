// Package binary is how a WebAssembly module is encoded, as far as rewriting one needs it: a reader that accepts numbers
// in one way only, and the numbers of instructions and types. It does no I/O and keeps no state.
package binary

// Instructions, those of the second and third group by their number behind the prefix, and types.
const (
	OpUnreachable  = 0x00
	OpBlock        = 0x02
	OpLoop         = 0x03
	OpIf           = 0x04
	OpElse         = 0x05
	OpEnd          = 0x0b
	OpBr           = 0x0c
	OpBrIf         = 0x0d
	OpBrTable      = 0x0e
	OpReturn       = 0x0f
	OpCall         = 0x10
	OpCallIndirect = 0x11
	OpLocalGet     = 0x20
	OpLocalSet     = 0x21
	OpLocalTee     = 0x22
	OpGlobalGet    = 0x23
	OpGlobalSet    = 0x24
	OpTableSet     = 0x26
	OpMemoryGrow   = 0x40
	OpI32Const     = 0x41
	OpI64Const     = 0x42
	OpF32Const     = 0x43
	OpF64Const     = 0x44
	OpI32Eqz       = 0x45
	OpI32LtU       = 0x49
	OpI32GtU       = 0x4b
	OpI64LtS       = 0x53
	OpI64GtU       = 0x56
	OpI32Add       = 0x6a
	OpI32Sub       = 0x6b
	OpI64Add       = 0x7c
	OpI64Sub       = 0x7d
	OpI64Or        = 0x84
	OpI64Shl       = 0x86
	OpI64ExtendU   = 0xad
	OpRefNull      = 0xd0
	OpRefFunc      = 0xd2
	OpBulk         = 0xfc
	OpVector       = 0xfd

	BulkMemoryInit = 8
	BulkDataDrop   = 9
	BulkMemoryCopy = 10
	BulkMemoryFill = 11
	BulkTableInit  = 12
	BulkElemDrop   = 13
	BulkTableCopy  = 14
	BulkTableGrow  = 15
	BulkTableSize  = 16
	BulkTableFill  = 17

	VectorConst = 12
)

const (
	TypeI32       = 0x7f
	TypeI64       = 0x7e
	TypeF32       = 0x7d
	TypeF64       = 0x7c
	TypeV128      = 0x7b
	TypeFuncRef   = 0x70
	TypeExternRef = 0x6f
	TypeFunction  = 0x60
	TypeEmpty     = 0x40
)

// IsValueType reports whether t is a type of WebAssembly 2.0.
func IsValueType(t byte) bool {
	return t >= TypeV128 && t <= TypeI32 || t == TypeFuncRef || t == TypeExternRef
}

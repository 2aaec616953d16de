package wasmtest

import (
	"encoding/binary"
	"math"
)

// Code is a run of instructions.
type Code []byte

// Raw returns instructions that have no name here.
func Raw(b ...byte) Code { return b }

// Seq joins instructions.
func Seq(parts ...Code) Code { return join(parts...) }

// Times repeats instructions.
func Times(n int, body ...Code) Code {
	one := Seq(body...)
	out := make(Code, 0, n*len(one))
	for range n {
		out = append(out, one...)
	}
	return out
}

// Instructions without operands. They are shared: read them, do not write into them.
var (
	Unreachable = Code{0x00}
	Nop         = Code{0x01}
	Else        = Code{0x05}
	End         = Code{0x0b}
	Return      = Code{0x0f}
	Drop        = Code{0x1a}
	Select      = Code{0x1b}

	I32Eqz  = Code{0x45}
	I32Eq   = Code{0x46}
	I32Ne   = Code{0x47}
	I32LtU  = Code{0x49}
	I64Eqz  = Code{0x50}
	I64LtU  = Code{0x54}
	I32Add  = Code{0x6a}
	I32Sub  = Code{0x6b}
	I32Mul  = Code{0x6c}
	I32DivS = Code{0x6d}
	I32DivU = Code{0x6e}
	I32And  = Code{0x71}
	I32Or   = Code{0x72}
	I32Xor  = Code{0x73}
	I32Shl  = Code{0x74}
	I32ShrU = Code{0x76}
	I64Add  = Code{0x7c}
	I64Sub  = Code{0x7d}
	I64Mul  = Code{0x7e}
	I64DivU = Code{0x80}
	I64And  = Code{0x83}
	I64Xor  = Code{0x85}
	I64Shl  = Code{0x86}
	I64ShrU = Code{0x88}
	F64Sqrt = Code{0x9f}
	F64Add  = Code{0xa0}
	F64Mul  = Code{0xa2}
	F64Div  = Code{0xa3}

	I32WrapI64    = Code{0xa7}
	I32TruncF64U  = Code{0xab}
	I64ExtendI32U = Code{0xad}
	F64ConvertI32 = Code{0xb7} // signed

	MemorySize = Code{0x3f, 0}
	MemoryGrow = Code{0x40, 0}
	MemoryCopy = Code{0xfc, 10, 0, 0}
	MemoryFill = Code{0xfc, 11, 0}
	NullFunc   = Code{0xd0, byte(FuncRef)}
	NullExtern = Code{0xd0, byte(ExternRef)}
)

// Block types beside a value's and a function's.
const empty = 0x40

// Empty is the type of a block that takes and leaves nothing.
var Empty = Code{empty}

// Value is the type of a block that leaves one value.
func Value(t Type) Code { return Code{byte(t)} }

// Indexed is the type of a block with the parameters and results of a function type.
func Indexed(typ uint32) Code { return sleb(int64(typ)) }

// Block returns a block.
func Block(typ Code, body ...Code) Code { return Seq(Code{0x02}, typ, Seq(body...), End) }

// Loop returns a loop; Br(0) directly in it goes on with it.
func Loop(typ Code, body ...Code) Code { return Seq(Code{0x03}, typ, Seq(body...), End) }

// Forever repeats body without end. What follows it is never reached.
func Forever(body ...Code) Code { return Loop(Empty, Seq(body...), Br(0)) }

// If returns a conditional without an else.
func If(typ Code, then ...Code) Code { return Seq(Code{0x04}, typ, Seq(then...), End) }

// IfElse returns a conditional.
func IfElse(typ, then, otherwise Code) Code {
	return Seq(Code{0x04}, typ, then, Else, otherwise, End)
}

// Br branches to the label-th block outwards.
func Br(label uint32) Code { return append(Code{0x0c}, uleb(uint64(label))...) }

// BrIf branches if the value on top is not 0.
func BrIf(label uint32) Code { return append(Code{0x0d}, uleb(uint64(label))...) }

// BrTable branches to targets[i], or to the default where there is none.
func BrTable(otherwise uint32, targets ...uint32) Code {
	return Seq(Code{0x0e}, indices(targets), uleb(uint64(otherwise)))
}

// Call calls a function by its index.
func Call(function uint32) Code { return append(Code{0x10}, uleb(uint64(function))...) }

// CallIndirect calls the function that lies in the table at the index on top.
func CallIndirect(typ, table uint32) Code {
	return Seq(Code{0x11}, uleb(uint64(typ)), uleb(uint64(table)))
}

// LocalGet reads a local.
func LocalGet(i uint32) Code { return append(Code{0x20}, uleb(uint64(i))...) }

// LocalSet takes the value on top into a local.
func LocalSet(i uint32) Code { return append(Code{0x21}, uleb(uint64(i))...) }

// LocalTee copies the value on top into a local.
func LocalTee(i uint32) Code { return append(Code{0x22}, uleb(uint64(i))...) }

// GlobalGet reads a global.
func GlobalGet(i uint32) Code { return append(Code{0x23}, uleb(uint64(i))...) }

// GlobalSet writes a global.
func GlobalSet(i uint32) Code { return append(Code{0x24}, uleb(uint64(i))...) }

// I32Const returns a constant.
func I32Const(v int32) Code { return append(Code{0x41}, sleb(int64(v))...) }

// I64Const returns a constant.
func I64Const(v int64) Code { return append(Code{0x42}, sleb(v)...) }

// F32Const returns a constant.
func F32Const(v float32) Code {
	return binary.LittleEndian.AppendUint32(Code{0x43}, math.Float32bits(v))
}

// F64Const returns a constant.
func F64Const(v float64) Code {
	return binary.LittleEndian.AppendUint64(Code{0x44}, math.Float64bits(v))
}

// I32Load reads 4 bytes at the address on top plus an offset.
func I32Load(offset uint32) Code { return access(0x28, 2, offset) }

// I64Load reads 8 bytes.
func I64Load(offset uint32) Code { return access(0x29, 3, offset) }

// I32Load8 reads a byte.
func I32Load8(offset uint32) Code { return access(0x2d, 0, offset) }

// I32Store writes 4 bytes.
func I32Store(offset uint32) Code { return access(0x36, 2, offset) }

// I64Store writes 8 bytes.
func I64Store(offset uint32) Code { return access(0x37, 3, offset) }

// I32Store8 writes a byte.
func I32Store8(offset uint32) Code { return access(0x3a, 0, offset) }

func access(op byte, align, offset uint32) Code {
	return Seq(Code{op}, uleb(uint64(align)), uleb(uint64(offset)))
}

// MemoryInit copies from a passive data segment.
func MemoryInit(segment uint32) Code { return Seq(Code{0xfc, 8}, uleb(uint64(segment)), Code{0}) }

// DataDrop forgets a passive data segment.
func DataDrop(segment uint32) Code { return Seq(Code{0xfc, 9}, uleb(uint64(segment))) }

// RefFunc is a reference to a function, which an element segment must declare.
func RefFunc(function uint32) Code { return append(Code{0xd2}, uleb(uint64(function))...) }

// TableGet reads an entry.
func TableGet(table uint32) Code { return append(Code{0x25}, uleb(uint64(table))...) }

// TableSet writes an entry.
func TableSet(table uint32) Code { return append(Code{0x26}, uleb(uint64(table))...) }

// TableInit copies from a passive element segment.
func TableInit(segment, table uint32) Code {
	return Seq(Code{0xfc, 12}, uleb(uint64(segment)), uleb(uint64(table)))
}

// TableCopy copies entries.
func TableCopy(to, from uint32) Code {
	return Seq(Code{0xfc, 14}, uleb(uint64(to)), uleb(uint64(from)))
}

// TableGrow makes a table larger.
func TableGrow(table uint32) Code { return Seq(Code{0xfc, 15}, uleb(uint64(table))) }

// TableSize returns the number of entries.
func TableSize(table uint32) Code { return Seq(Code{0xfc, 16}, uleb(uint64(table))) }

// TableFill fills entries.
func TableFill(table uint32) Code { return Seq(Code{0xfc, 17}, uleb(uint64(table))) }

// Vector is an instruction of 128 bits by its number, with its operands.
func Vector(op uint32, operands ...byte) Code {
	return Seq(Code{0xfd}, uleb(uint64(op)), operands)
}

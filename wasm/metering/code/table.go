package code

// operand is the form of what follows an instruction's opcode.
type operand uint8

const (
	invalid operand = iota // not an instruction of WebAssembly 2.0 core
	nothing
	control // unreachable, block, loop, if, else, end and the branches: each has its own case
	function
	indirect
	local
	global
	table
	access // alignment and offset
	zero   // the number of the only memory
	number32
	number64
	bytes4
	bytes8
	bytes16
	lane
	accessLane
	typed    // select's list of one type
	refType  // ref.null
	prefixed // 0xfc and 0xfd
)

// instruction is what the Meter has to know of an opcode.
type instruction struct {
	operand operand
	pops    uint8
	pushes  uint8
	cost    uint16
	work    uint8 // microseconds of compiling, roughly
}

// The costs, in units of a simple instruction's time. Absolute time is the deadline's business; these keep the ratio
// between the dearest and the cheapest unit within what a quantum may last.
const (
	costPlain  = 1
	costVector = 2
	costLoad   = 4 // most loads hit a cache; pointer chases are what the quantum's adaptation to time is for
	costDivide = 8
	costCall   = 8
	costImport = 100 // leaves the compiled code for Go and comes back
	costGrow   = 2000
	costBulk   = 64
)

var (
	plain   = plainInstructions()
	vectors = vectorInstructions()
)

func plainInstructions() (t [256]instruction) {
	set := func(from, to int, o operand, pops, pushes uint8, cost uint16) {
		for op := from; op <= to; op++ {
			t[op] = instruction{o, pops, pushes, cost, workOf(o, cost)}
		}
	}
	set(0x00, 0x00, control, 0, 0, costPlain) // unreachable
	set(0x01, 0x01, nothing, 0, 0, costPlain) // nop
	set(0x02, 0x05, control, 0, 0, costPlain) // block, loop, if, else
	set(0x0b, 0x0f, control, 0, 0, costPlain) // end, br, br_if, br_table, return
	set(0x10, 0x10, function, 0, 0, costCall)
	set(0x11, 0x11, indirect, 1, 0, costCall+2)
	set(0x1a, 0x1a, nothing, 1, 0, costPlain) // drop
	set(0x1b, 0x1b, nothing, 3, 1, costPlain) // select
	set(0x1c, 0x1c, typed, 3, 1, costPlain)
	set(0x20, 0x20, local, 0, 1, costPlain)
	set(0x21, 0x21, local, 1, 0, costPlain)
	set(0x22, 0x22, local, 1, 1, costPlain)
	set(0x23, 0x23, global, 0, 1, costPlain)
	set(0x24, 0x24, global, 1, 0, costPlain)
	set(0x25, 0x25, table, 1, 1, costLoad)
	set(0x26, 0x26, table, 2, 0, costLoad)
	set(0x28, 0x35, access, 1, 1, costLoad)
	set(0x36, 0x3e, access, 2, 0, costLoad)
	set(0x3f, 0x3f, zero, 0, 1, costPlain) // memory.size
	set(0x40, 0x40, zero, 1, 1, costGrow)
	set(0x41, 0x41, number32, 0, 1, costPlain)
	set(0x42, 0x42, number64, 0, 1, costPlain)
	set(0x43, 0x43, bytes4, 0, 1, costPlain)
	set(0x44, 0x44, bytes8, 0, 1, costPlain)
	set(0x45, 0x45, nothing, 1, 1, costPlain) // i32.eqz
	set(0x46, 0x4f, nothing, 2, 1, costPlain)
	set(0x50, 0x50, nothing, 1, 1, costPlain) // i64.eqz
	set(0x51, 0x66, nothing, 2, 1, costPlain)
	set(0x67, 0x69, nothing, 1, 1, costPlain) // i32 clz, ctz, popcnt
	set(0x6a, 0x78, nothing, 2, 1, costPlain)
	set(0x6d, 0x70, nothing, 2, 1, costDivide)
	set(0x79, 0x7b, nothing, 1, 1, costPlain) // i64 clz, ctz, popcnt
	set(0x7c, 0x8a, nothing, 2, 1, costPlain)
	set(0x7f, 0x82, nothing, 2, 1, costDivide)
	set(0x8b, 0x91, nothing, 1, 1, costPlain) // f32 abs to sqrt
	set(0x91, 0x91, nothing, 1, 1, costDivide)
	set(0x92, 0x98, nothing, 2, 1, costPlain)
	set(0x95, 0x95, nothing, 2, 1, costDivide)
	set(0x99, 0x9f, nothing, 1, 1, costPlain) // f64 abs to sqrt
	set(0x9f, 0x9f, nothing, 1, 1, costDivide)
	set(0xa0, 0xa6, nothing, 2, 1, costPlain)
	set(0xa3, 0xa3, nothing, 2, 1, costDivide)
	set(0xa7, 0xc4, nothing, 1, 1, costPlain) // conversions, sign extensions
	set(0xd0, 0xd0, refType, 0, 1, costPlain)
	set(0xd1, 0xd1, nothing, 1, 1, costPlain) // ref.is_null
	set(0xd2, 0xd2, function, 0, 1, costPlain)
	set(0xfc, 0xfd, prefixed, 0, 0, 0)
	for _, op := range []int{0xa8, 0xa9, 0xaa, 0xab, 0xae, 0xaf, 0xb0, 0xb1} { // conversions that may trap
		t[op].work = workTrunc
	}
	return t
}

func workOf(o operand, cost uint16) uint8 {
	switch {
	case cost == costDivide:
		return workDivide
	case o == access || o == accessLane:
		return workAccess
	case o == bytes16:
		return workBytes16
	}
	return workPlain
}

func vectorInstructions() (t [256]instruction) {
	set := func(from, to int, o operand, pops, pushes uint8, cost uint16) {
		for op := from; op <= to; op++ {
			t[op] = instruction{o, pops, pushes, cost, workOf(o, cost)}
		}
	}
	set(0, 10, access, 1, 1, costLoad)
	set(11, 11, access, 2, 0, costLoad)
	set(12, 12, bytes16, 0, 1, costVector)
	set(13, 13, bytes16, 2, 1, costVector) // shuffle
	set(14, 14, nothing, 2, 1, costVector) // swizzle
	set(15, 20, nothing, 1, 1, costVector) // splat
	set(21, 34, lane, 1, 1, costVector)    // extract, replace
	for _, op := range []int{23, 26, 28, 30, 32, 34} {
		t[op].pops = 2 // replace
	}
	set(35, 76, nothing, 2, 1, costVector) // comparisons
	set(77, 77, nothing, 1, 1, costVector) // not
	set(78, 81, nothing, 2, 1, costVector)
	set(82, 82, nothing, 3, 1, costVector) // bitselect
	set(83, 83, nothing, 1, 1, costVector) // any_true
	set(84, 87, accessLane, 2, 1, costLoad)
	set(88, 91, accessLane, 2, 0, costLoad)
	set(92, 93, access, 1, 1, costLoad)
	set(94, 255, nothing, 2, 1, costVector)
	unary := []int{94, 95, 96, 97, 98, 99, 100, 103, 104, 105, 106, 116, 117, 122, 124, 125, 126, 127, 128, 129, 131, 132,
		135, 136, 137, 138, 148, 160, 161, 163, 164, 167, 168, 169, 170, 192, 193, 195, 196, 199, 200, 201, 202,
		224, 225, 227, 236, 237, 239, 248, 249, 250, 251, 252, 253, 254, 255}
	for _, op := range unary {
		t[op].pops = 1
	}
	for _, op := range []int{227, 231, 239, 243} { // square roots, divisions
		t[op].cost = costDivide
	}
	for _, op := range []int{154, 162, 165, 166, 175, 176, 178, 179, 180, 187, 194, 197, 198, 207, 208, 210, 211, 212, 226, 238} {
		t[op] = instruction{} // numbers that nothing has
	}
	return t
}

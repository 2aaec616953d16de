package host

import "fmt"

// control walks a function's instructions and counts those that begin or end a straight line: blocks, loops, branches
// and each target of a table. Compiling takes time in the square of their number. It knows where WASM 2.0's
// instructions end and nothing more; that they are valid is wazero's to say.
func (r *reader) control() (n uint64, err error) {
	op := byte(0)
	for len(r.b) > 0 && r.err == nil {
		switch op = r.byte(); {
		case op == 0x02 || op == 0x03 || op == 0x04: // block, loop, if
			n++
			r.leb()
		case op == 0x05: // else
			n++
		case op == 0x0c || op == 0x0d: // br, br_if
			n++
			r.leb()
		case op == 0x0e: // br_table
			targets := r.u32()
			if uint64(targets) > uint64(len(r.b)) {
				return n, errCutOff
			}
			n += uint64(targets) + 1
			r.lebs(uint64(targets) + 1)
		case op == 0x10, op >= 0x20 && op <= 0x26, op == 0x41, op == 0x42, op == 0xd2: // call, variables, constants, ref.func
			r.leb()
		case op == 0x11, op >= 0x28 && op <= 0x3e: // call_indirect, loads and stores
			r.lebs(2)
		case op == 0x1c: // select of named types
			r.bytes(r.u32())
		case op == 0x3f || op == 0x40 || op == 0xd0: // memory.size, memory.grow, ref.null
			r.byte()
		case op == 0x43: // f32.const
			r.bytes(4)
		case op == 0x44: // f64.const
			r.bytes(8)
		case op == 0xfc:
			r.bulk()
		case op == 0xfd:
			r.vector()
		case op <= 0x01, op == 0x0b, op == 0x0f, op == 0x1a, op == 0x1b, op >= 0x45 && op <= 0xc4, op == 0xd1:
		default:
			return n, fmt.Errorf("it has the instruction 0x%02x, which is not in WASM 2.0", op)
		}
	}
	if r.err == nil && op != 0x0b { // end
		return n, errCutOff
	}
	return n, r.err
}

// bulk skips the operands of memory and table instructions and of saturating conversions.
func (r *reader) bulk() {
	switch op := r.u32(); {
	case op <= 7:
	case op == 8: // memory.init
		r.leb()
		r.byte()
	case op == 10: // memory.copy
		r.bytes(2)
	case op == 11: // memory.fill
		r.byte()
	case op == 12 || op == 14: // table.init, table.copy
		r.lebs(2)
	case op <= 17:
		r.leb()
	default:
		r.fail(fmt.Errorf("it has the instruction 0xfc %d, which is not in WASM 2.0", op))
	}
}

// vector skips the operands of 128-bit instructions.
func (r *reader) vector() {
	switch op := r.u32(); {
	case op <= 11, op == 92, op == 93: // loads and stores
		r.lebs(2)
	case op == 12 || op == 13: // v128.const, shuffle
		r.bytes(16)
	case op >= 21 && op <= 34: // lanes
		r.byte()
	case op >= 84 && op <= 91: // loads and stores of lanes
		r.lebs(2)
		r.byte()
	case op > 255:
		r.fail(fmt.Errorf("it has the instruction 0xfd %d, which is not in WASM 2.0", op))
	}
}

package host

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/dhowfleet/dhow/wasm/abi"
)

// What a module may be made of. The figures are far above real guests (a Go guest of 2.3 MB has 3,000 functions and
// table entries) and far below what hurts.
const (
	maxModule       = 32 << 20 // bytes
	maxFunctions    = 200_000
	maxTables       = 16
	maxTableEntries = 1 << 20 // of all tables, 8 bytes each for every instance
	maxLocals       = 20_000  // of one function
	// Compiling a function takes time in the square of its control operations (4,000 took 1 s) and in their product
	// with its locals (1,000 locals and 2,000 loops, 33 KB, took 9 s). The Go guest has at most 2,200 operations in a
	// function, and of the sums over all functions a tenth of these.
	maxControl   = 8_000
	maxWeight    = 200_000     // locals times control operations of one function
	maxControlSq = 400_000_000 // squares of control operations, of all functions
	maxWeights   = 10_000_000  // weights of all functions
)

// inspect reads a module's sections before wazero does, to refuse by name what the contract does not allow, and what
// would make reading, compiling or instantiating it expensive out of proportion. It returns the module with every
// table's maximum set to its minimum, so that table.grow fails, and the pages of memory that the module starts with.
//
// It walks sections, not instructions: that code is valid is wazero's to say.
func inspect(code []byte) (prepared []byte, pages uint32, err error) {
	if len(code) > maxModule {
		return nil, 0, fmt.Errorf("it has %d bytes, at most %d are allowed", len(code), maxModule)
	}
	if len(code) < 8 || string(code[:4]) != "\x00asm" {
		return nil, 0, errors.New("it is no WASM module")
	}
	switch version := binary.LittleEndian.Uint32(code[4:]); {
	case version == 1:
	case version&0xffff0000 != 0:
		return nil, 0, errors.New("it is a WASM component; build it as a core module")
	default:
		return nil, 0, fmt.Errorf("it has WASM version %d, the agent reads version 1", version)
	}
	r := reader{b: code[8:]}
	prepared = append(make([]byte, 0, len(code)+64), code[:8]...)
	memories := uint32(0)
	for len(r.b) > 0 && r.err == nil {
		id := r.byte()
		section := reader{b: r.bytes(r.u32())}
		body := section.b
		if r.err != nil {
			break
		}
		if id >= 1 && id <= 11 && id != 8 {
			// These begin with a number of elements of at least one byte each, for which readers make room at once.
			count := reader{b: body}
			if n := count.u32(); count.err != nil || n > uint32(len(count.b)) {
				return nil, 0, fmt.Errorf("section %d says that it has %d elements in %d bytes", id, n, len(body))
			}
		}
		switch id {
		case 2:
			err = inspectImports(&section)
		case 3:
			if n := section.u32(); n > maxFunctions {
				err = fmt.Errorf("it has %d functions, at most %d are allowed", n, maxFunctions)
			}
		case 4:
			body, err = clampTables(&section)
		case 5:
			if memories = section.u32(); memories == 1 {
				section.limits()
				pages = section.min
			}
		case 10:
			err = inspectCode(&section)
		}
		if err == nil {
			err = section.err
		}
		if err != nil {
			return nil, 0, err
		}
		prepared = append(prepared, id)
		prepared = binary.AppendUvarint(prepared, uint64(len(body)))
		prepared = append(prepared, body...)
	}
	if r.err != nil {
		return nil, 0, r.err
	}
	if memories != 1 {
		return nil, 0, fmt.Errorf("it has %d memories, the contract asks for one", memories)
	}
	return prepared, pages, nil
}

func inspectImports(r *reader) error {
	for n := r.u32(); n > 0 && r.err == nil; n-- {
		module, name := string(r.bytes(r.u32())), string(r.bytes(r.u32()))
		if kind := r.byte(); r.err == nil && kind != 0 {
			return fmt.Errorf("it imports %q.%q, which is no function; the contract offers functions alone", module, name)
		}
		r.u32()
		switch {
		case r.err != nil:
			return r.err
		case module == abi.WASIModule:
		case module == abi.HostModule && (name == abi.ImportEmitCount || name == abi.ImportEmitFeature || name == abi.ImportLog):
		default:
			return fmt.Errorf("it imports the function %q.%q, which the contract does not offer", module, name)
		}
	}
	return r.err
}

// clampTables writes the table section anew.
func clampTables(r *reader) ([]byte, error) {
	n := r.u32()
	if n > maxTables {
		return nil, fmt.Errorf("it has %d tables, at most %d are allowed", n, maxTables)
	}
	out := binary.AppendUvarint(nil, uint64(n))
	entries := uint64(0)
	for ; n > 0 && r.err == nil; n-- {
		kind := r.byte()
		if r.err == nil && kind != 0x70 && kind != 0x6f {
			return nil, fmt.Errorf("it has a table of a kind (0x%02x) that is not in WASM 2.0", kind)
		}
		r.limits()
		if entries += uint64(r.min); entries > maxTableEntries {
			return nil, fmt.Errorf("its tables have more than %d entries", maxTableEntries)
		}
		out = append(out, kind, 1)
		out = binary.AppendUvarint(out, uint64(r.min))
		out = binary.AppendUvarint(out, uint64(r.min))
	}
	return out, r.err
}

// inspectCode estimates what compiling each function costs.
func inspectCode(r *reader) error {
	functions := r.u32()
	squares, weights := uint64(0), uint64(0)
	for i := uint32(0); i < functions && r.err == nil; i++ {
		f := reader{b: r.bytes(r.u32())}
		locals := uint64(0)
		for groups := f.u32(); groups > 0 && f.err == nil; groups-- {
			locals += uint64(f.u32())
			f.byte()
		}
		if r.err != nil || f.err != nil {
			return errors.Join(r.err, f.err)
		}
		if locals > maxLocals {
			return fmt.Errorf("its function %d has %d locals, at most %d are allowed", i, locals, maxLocals)
		}
		control, err := f.control()
		if err != nil {
			return fmt.Errorf("function %d: %w", i, err)
		}
		if control > maxControl || locals*control > maxWeight {
			return fmt.Errorf("its function %d would take too long to compile: %d locals and %d control operations", i, locals, control)
		}
		if squares, weights = squares+control*control, weights+locals*control; squares > maxControlSq || weights > maxWeights {
			return errors.New("its functions together would take too long to compile")
		}
	}
	return r.err
}

// reader reads WASM's integers and byte strings; after an error it returns zeros.
type reader struct {
	b   []byte
	min uint32 // of the last limits
	err error
}

var errCutOff = errors.New("it is cut off or malformed")

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.err = errCutOff
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *reader) u32() uint32 {
	v, n := binary.Uvarint(r.b[:min(len(r.b), 5)])
	if n <= 0 || v > 1<<32-1 {
		r.err, r.b = errCutOff, nil
		return 0
	}
	r.b = r.b[n:]
	return uint32(v)
}

func (r *reader) bytes(n uint32) []byte {
	if r.err != nil || uint64(n) > uint64(len(r.b)) {
		r.err, r.b = errCutOff, nil
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

// lebs skips n numbers.
func (r *reader) lebs(n uint64) {
	for ; n > 0 && r.err == nil; n-- {
		r.leb()
	}
}

// leb skips a number of at most 64 bits.
func (r *reader) leb() {
	for range 10 {
		if r.byte()&0x80 == 0 {
			return
		}
	}
	r.fail(errCutOff)
}

// fail keeps the first error.
func (r *reader) fail(err error) {
	if r.err == nil {
		r.err, r.b = err, nil
	}
}

// limits reads a minimum and, if there is one, a maximum.
func (r *reader) limits() {
	flag := r.byte()
	r.min = r.u32()
	if flag&1 != 0 {
		r.u32()
	}
	if flag > 1 && r.err == nil {
		r.err = errors.New("it has a shared or 64-bit memory or table, which the contract does not offer")
	}
}

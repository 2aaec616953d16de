package metering

import (
	"github.com/dhowfleet/dhow/wasm/metering/binary"
	"github.com/dhowfleet/dhow/wasm/metering/code"
)

// The parts of a name section that are read.
const (
	namesModule = iota
	namesFunctions
	namesLocals
)

// readNames writes the function names anew, for the traces of guests that trap. Other names are dropped. A name section
// that is malformed is refused, since the compiler would refuse it too.
func (w *rewriter) readNames() *Error {
	r := &w.names
	if r.B == nil {
		return nil
	}
	const what = "the name section"
	var module, functions []byte
	for r.More() {
		id := r.Byte()
		part := r.Sub(r.U32())
		if r.Fail != "" {
			break
		}
		switch id {
		case namesModule:
			part.Name()
			module = w.code[part.Base:part.At]
		case namesFunctions:
			n := part.Count(len(w.code), "names")
			helpers, helped := w.HelperNames(nil)
			functions = binary.AppendU32(make([]byte, 0, part.End-part.At+64), uint32(n+helped))
			for range n {
				i := part.U32()
				name := part.Name()
				if part.Fail != "" {
					break
				}
				if uint64(i) >= uint64(w.Imported) && i+w.Shift >= i {
					i += w.Shift
				}
				functions = binary.AppendName(binary.AppendU32(functions, i), name)
			}
			functions = append(functions, helpers...)
		case namesLocals:
			for range part.Count(len(w.code), "names") {
				part.U32()
				for range part.Count(len(w.code), "names") {
					part.U32()
					part.Name()
				}
			}
		default:
			part.At = part.End
		}
		part.Done()
		if err := code.Check(&part, what); err != nil {
			return err
		}
	}
	if err := code.Check(r, what); err != nil {
		return err
	}
	out := binary.AppendName(nil, "name")
	if module != nil {
		out = binary.AppendU32(append(out, namesModule), uint32(len(module)))
		out = append(out, module...)
	}
	if functions != nil {
		out = binary.AppendU32(append(out, namesFunctions), uint32(len(functions)))
		out = append(out, functions...)
	}
	w.out[sectionCustom] = out
	return nil
}

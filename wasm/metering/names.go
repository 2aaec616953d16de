package metering

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
	if r.b == nil {
		return nil
	}
	const what = "the name section"
	var module, functions []byte
	for r.more() {
		id := r.byte()
		part := r.sub(r.u32())
		if r.fail != "" {
			break
		}
		switch id {
		case namesModule:
			part.name()
			module = w.code[part.base:part.at]
		case namesFunctions:
			n := part.count(len(w.code), "names")
			functions = appendU32(make([]byte, 0, part.end-part.at+64), uint32(n+len(w.helpers.list)))
			for range n {
				i := part.u32()
				name := part.name()
				if part.fail != "" {
					break
				}
				if uint64(i) >= uint64(w.importedFunctions) && i+w.shift >= i {
					i += w.shift
				}
				functions = appendName(appendU32(functions, i), name)
			}
			for i, h := range w.helpers.list {
				functions = appendName(appendU32(functions, w.helperFirst+uint32(i)), h.name)
			}
		case namesLocals:
			for range part.count(len(w.code), "names") {
				part.u32()
				for range part.count(len(w.code), "names") {
					part.u32()
					part.name()
				}
			}
		default:
			part.at = part.end
		}
		part.done()
		if err := w.check(&part, what); err != nil {
			return err
		}
	}
	if err := w.check(r, what); err != nil {
		return err
	}
	out := appendName(nil, "name")
	if module != nil {
		out = appendU32(append(out, namesModule), uint32(len(module)))
		out = append(out, module...)
	}
	if functions != nil {
		out = appendU32(append(out, namesFunctions), uint32(len(functions)))
		out = append(out, functions...)
	}
	w.out[sectionCustom] = out
	return nil
}

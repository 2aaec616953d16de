package metering

import "fmt"

// readElements writes the element segments anew, since they hold function indexes. The binary format has eight kinds:
// bit 0 passive or declarative, bit 1 a table index (active) or declarative, bit 2 expressions instead of indexes.
func (w *rewriter) readElements(r *reader) *Error {
	if !w.present[sectionElement] {
		return nil
	}
	n := r.count(w.limits.Elements, "element segments")
	out := appendU32(make([]byte, 0, r.end-r.at+64), uint32(n))
	entries := 0
	for range n {
		at := r.at
		kind := r.u32()
		if kind > 7 {
			r.fault("an element segment is of an unknown kind")
		}
		if r.fail != "" {
			break
		}
		out = appendU32(out, kind)
		var err *Error
		if kind&1 == 0 { // active
			t := uint32(0)
			if kind&2 != 0 {
				t = r.u32()
				out = appendU32(out, t)
			}
			if r.fail == "" && uint64(t) >= uint64(len(w.tables)) {
				return w.refuse(Index, at, fmt.Sprintf("an element segment fills table %d, which it does not have", t))
			}
			if out, err = w.constant(r, out); err != nil {
				return err
			}
		}
		if kind&3 != 0 {
			form := r.byte()
			if r.fail == "" && (kind&4 == 0 && form != 0 || kind&4 != 0 && form != typeFuncRef && form != typeExternRef) {
				return w.refuse(Unsupported, r.at-1, fmt.Sprintf("elements of kind 0x%02x are not in WebAssembly 2.0", form))
			}
			out = append(out, form)
		}
		size := r.count(w.limits.Entries-entries, "elements")
		entries += size
		out = appendU32(out, uint32(size))
		for range size {
			if kind&4 != 0 {
				if out, err = w.constant(r, out); err != nil {
					return err
				}
			} else {
				f, err := w.functionIndex(r)
				if err != nil {
					return err
				}
				out = appendU32(out, f)
			}
			if r.fail != "" {
				break
			}
		}
		w.elements++
	}
	w.out[sectionElement] = out
	return nil
}

// readData checks the data segments, which stay as they are, and notes their lengths.
func (w *rewriter) readData(r *reader) *Error {
	if !w.present[sectionData] {
		return nil
	}
	start := r.at
	n := r.count(w.limits.Data, "data segments")
	var scratch []byte
	for range n {
		at := r.at
		kind := r.u32()
		switch {
		case r.fail != "":
		case kind > 2:
			r.fault("a data segment is of an unknown kind")
		case kind == 2 && r.u32() != 0:
			return w.refuse(MemoryLimit, at, "a data segment fills a second memory")
		}
		if kind != 1 {
			if r.fail == "" && w.memories == 0 {
				return w.refuse(Index, at, "a data segment fills a memory, and there is none")
			}
			var err *Error
			if scratch, err = w.constant(r, scratch[:0]); err != nil {
				return err
			}
		}
		b := r.bytes(r.u32())
		if r.fail != "" {
			break
		}
		w.data = append(w.data, uint32(len(b)))
	}
	w.out[sectionData] = w.code[start:r.at]
	return nil
}

func (w *rewriter) readDataCount(r *reader) *Error {
	if !w.present[sectionDataCount] {
		return nil
	}
	at, n := r.at, r.u32()
	if r.fail == "" && uint64(n) != uint64(len(w.data)) {
		return w.refuse(Malformed, at, fmt.Sprintf("it announces %d data segments and has %d", n, len(w.data)))
	}
	w.out[sectionDataCount] = appendU32(nil, n)
	return nil
}

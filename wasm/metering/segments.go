package metering

import (
	"fmt"

	"github.com/dhowfleet/dhow/wasm/metering/binary"
)

// readElements writes the element segments anew, since they hold function indexes. The binary format has eight kinds:
// bit 0 passive or declarative, bit 1 a table index (active) or declarative, bit 2 expressions instead of indexes.
func (w *rewriter) readElements(r *binary.Reader) *Error {
	if !w.present[sectionElement] {
		return nil
	}
	n := r.Count(w.Limits.Elements, "element segments")
	out := binary.AppendU32(make([]byte, 0, r.End-r.At+64), uint32(n))
	entries := 0
	for range n {
		at := r.At
		kind := r.U32()
		if kind > 7 {
			r.Fault("an element segment is of an unknown kind")
		}
		if r.Fail != "" {
			break
		}
		out = binary.AppendU32(out, kind)
		var err *Error
		if kind&1 == 0 { // active
			t := uint32(0)
			if kind&2 != 0 {
				t = r.U32()
				out = binary.AppendU32(out, t)
			}
			if r.Fail == "" && uint64(t) >= uint64(len(w.Tables)) {
				return w.refuse(Index, at, fmt.Sprintf("an element segment fills table %d, which it does not have", t))
			}
			if out, err = w.constant(r, out); err != nil {
				return err
			}
		}
		if kind&3 != 0 {
			form := r.Byte()
			if r.Fail == "" && (kind&4 == 0 && form != 0 || kind&4 != 0 && form != binary.TypeFuncRef && form != binary.TypeExternRef) {
				return w.refuse(Unsupported, r.At-1, fmt.Sprintf("elements of kind 0x%02x are not in WebAssembly 2.0", form))
			}
			out = append(out, form)
		}
		size := r.Count(w.Limits.Entries-entries, "elements")
		entries += size
		out = binary.AppendU32(out, uint32(size))
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
				out = binary.AppendU32(out, f)
			}
			if r.Fail != "" {
				break
			}
		}
		w.Elements++
	}
	w.out[sectionElement] = out
	return nil
}

// readData checks the data segments, which stay as they are, and notes their lengths.
func (w *rewriter) readData(r *binary.Reader) *Error {
	if !w.present[sectionData] {
		return nil
	}
	start := r.At
	n := r.Count(w.Limits.Data, "data segments")
	var scratch []byte
	for range n {
		at := r.At
		kind := r.U32()
		switch {
		case r.Fail != "":
		case kind > 2:
			r.Fault("a data segment is of an unknown kind")
		case kind == 2 && r.U32() != 0:
			return w.refuse(MemoryLimit, at, "a data segment fills a second memory")
		}
		if kind != 1 {
			if r.Fail == "" && w.Memories == 0 {
				return w.refuse(Index, at, "a data segment fills a memory, and there is none")
			}
			var err *Error
			if scratch, err = w.constant(r, scratch[:0]); err != nil {
				return err
			}
		}
		b := r.Bytes(r.U32())
		if r.Fail != "" {
			break
		}
		w.Data = append(w.Data, uint32(len(b)))
	}
	w.out[sectionData] = w.code[start:r.At]
	return nil
}

func (w *rewriter) readDataCount(r *binary.Reader) *Error {
	if !w.present[sectionDataCount] {
		return nil
	}
	at, n := r.At, r.U32()
	if r.Fail == "" && uint64(n) != uint64(len(w.Data)) {
		return w.refuse(Malformed, at, fmt.Sprintf("it announces %d data segments and has %d", n, len(w.Data)))
	}
	w.DataCount = true
	w.out[sectionDataCount] = binary.AppendU32(nil, n)
	return nil
}

// readCode has the functions rewritten.
func (w *rewriter) readCode(r *binary.Reader) *Error {
	n, defined := 0, len(w.Functions)-w.Imported
	if w.present[sectionCode] {
		n = r.Count(w.Limits.Functions, "functions")
	}
	if n != defined && (r.Fail == "" || r.Fail == absent) {
		return w.refuse(Malformed, -1, fmt.Sprintf("it declares %d functions and has the code of %d", defined, n))
	}
	out, room := w.reserve(r.End - r.At)
	var err *Error
	w.room = room
	w.out[sectionCode], err = w.Meter.Rewrite(r, n, out)
	return err
}

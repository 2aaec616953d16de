package metering

import "github.com/dhowfleet/dhow/wasm/metering/binary"

// The metered functions are by far the largest part, so they are written where they stay: into a buffer with room at its
// front for the sections before them, whose sizes depend on what the functions needed.

// reserve returns that buffer, with room for everything unless charges are unusually dense.
func (w *rewriter) reserve(functions int) (out []byte, room int) {
	room = 1024 + 2*w.size(sectionType) + 16*len(w.Types)
	for _, b := range w.out {
		room += len(b)
	}
	room -= len(w.out[sectionData]) // which comes behind
	return make([]byte, room, room+functions+functions/4+1024+len(w.out[sectionData])+w.names.End-w.names.Base), room
}

func (w *rewriter) size(section int) int { return w.content[section].End - w.content[section].Base }

// assemble puts the sections together, in the order of the binary format.
func (w *rewriter) assemble() []byte {
	buffer := w.out[sectionCode]
	// The helpers' bodies may add types and must not add helpers.
	buffer = w.Helpers(buffer)
	size := len(buffer) - w.room
	types, helped := w.HelperTypes(w.out[sectionFunction])
	w.out[sectionFunction] = types
	functions := len(w.Functions) - w.Imported + helped

	front := append(make([]byte, 0, w.room), w.code[:8]...)
	section := func(out []byte, id byte, parts ...[]byte) []byte {
		n := 0
		for _, p := range parts {
			n += len(p)
		}
		out = binary.AppendU32(append(out, id), uint32(n))
		for _, p := range parts {
			out = append(out, p...)
		}
		return out
	}
	count := func(n int) []byte { return binary.AppendU32(nil, uint32(n)) }
	added, addedCount := w.AddedTypes()
	if n := len(w.Types) + addedCount; n > 0 {
		var own []byte
		if r := w.content[sectionType]; w.present[sectionType] {
			r.At = r.Base
			r.U32()
			own = w.code[r.At:r.End]
		}
		front = section(front, sectionType, count(n), own, added)
	}
	if len(w.info.Imports) > 0 || w.Shift > 0 {
		front = section(front, sectionImport, w.out[sectionImport])
	}
	if functions > 0 {
		front = section(front, sectionFunction, count(functions), w.out[sectionFunction])
	}
	for _, id := range []byte{sectionTable, sectionMemory, sectionGlobal, sectionExport, sectionStart, sectionElement, sectionDataCount} {
		if b := w.out[id]; b != nil {
			front = section(front, id, b)
		}
	}
	if functions > 0 {
		n := count(functions)
		front = binary.AppendU32(append(front, sectionCode), uint32(len(n)+size))
		front = append(front, n...)
	}

	var out []byte
	if at := w.room - len(front); at >= 0 {
		copy(buffer[at:], front)
		out = buffer[at:]
	} else {
		out = append(front, buffer[w.room:]...)
	}
	if b := w.out[sectionData]; b != nil {
		out = section(out, sectionData, b)
	}
	if b := w.out[sectionCustom]; b != nil {
		out = section(out, sectionCustom, b)
	}
	return out
}

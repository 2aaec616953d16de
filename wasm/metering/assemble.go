package metering

// The metered functions are by far the largest part, so they are written where they stay: into a buffer with room at its
// front for the sections before them, whose sizes depend on what the functions needed.

// reserve returns that buffer, with room for everything unless charges are unusually dense.
func (w *rewriter) reserve(code int) (out []byte, room int) {
	room = 1024 + 2*w.size(sectionType) + 16*len(w.types)
	for _, b := range w.out {
		room += len(b)
	}
	room -= len(w.out[sectionData]) // which comes behind
	return make([]byte, room, room+code+code/4+1024+len(w.out[sectionData])+w.names.end-w.names.base), room
}

func (w *rewriter) size(section int) int { return w.content[section].end - w.content[section].base }

// assemble puts the sections together, in the order of the binary format.
func (w *rewriter) assemble() []byte {
	buffer := w.out[sectionCode]
	// The helpers' bodies may add types and must not add helpers.
	for _, h := range w.helpers.list {
		b := h.body()
		buffer = append(appendU32(buffer, uint32(len(b))), b...)
		w.out[sectionFunction] = appendU32(w.out[sectionFunction], h.typ)
	}
	code := len(buffer) - w.room
	functions := len(w.functions) - w.importedFunctions + len(w.helpers.list)

	front := append(make([]byte, 0, w.room), w.code[:8]...)
	section := func(out []byte, id byte, parts ...[]byte) []byte {
		n := 0
		for _, p := range parts {
			n += len(p)
		}
		out = appendU32(append(out, id), uint32(n))
		for _, p := range parts {
			out = append(out, p...)
		}
		return out
	}
	count := func(n int) []byte { return appendU32(nil, uint32(n)) }
	if n := len(w.types) + int(w.addedN); n > 0 {
		var types []byte
		if r := w.content[sectionType]; w.present[sectionType] {
			r.at = r.base
			r.u32()
			types = w.code[r.at:r.end]
		}
		front = section(front, sectionType, count(n), types, w.added)
	}
	if len(w.info.Imports) > 0 || w.shift > 0 {
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
		front = appendU32(append(front, sectionCode), uint32(len(n)+code))
		front = append(front, n...)
	}

	out := buffer
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

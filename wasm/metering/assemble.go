package metering

// assemble puts the sections together, in the order of the binary format.
func (w *rewriter) assemble() []byte {
	// The helpers' bodies may add types and must not add helpers.
	bodies := w.out[sectionCode]
	for _, h := range w.helpers.list {
		b := h.body()
		bodies = append(appendU32(bodies, uint32(len(b))), b...)
		w.out[sectionFunction] = appendU32(w.out[sectionFunction], h.typ)
	}
	functions := len(w.functions) - w.importedFunctions + len(w.helpers.list)

	types := []byte(nil)
	if r := w.content[sectionType]; w.present[sectionType] {
		r.at = r.base
		r.u32()
		types = w.code[r.at:r.end]
	}
	size := len(bodies) + len(types) + len(w.added) + len(w.out[sectionData]) + 256
	for id, b := range w.out {
		if id != sectionCode && id != sectionData {
			size += len(b) + 16
		}
	}
	out := append(make([]byte, 0, size), w.code[:8]...)

	section := func(id byte, parts ...[]byte) {
		n := 0
		for _, p := range parts {
			n += len(p)
		}
		out = appendU32(append(out, id), uint32(n))
		for _, p := range parts {
			out = append(out, p...)
		}
	}
	count := func(n int) []byte { return appendU32(nil, uint32(n)) }
	if n := len(w.types) + int(w.addedN); n > 0 {
		section(sectionType, count(n), types, w.added)
	}
	if len(w.info.Imports) > 0 || w.shift > 0 {
		section(sectionImport, w.out[sectionImport])
	}
	if functions > 0 {
		section(sectionFunction, count(functions), w.out[sectionFunction])
	}
	for _, id := range []byte{sectionTable, sectionMemory, sectionGlobal, sectionExport, sectionStart, sectionElement, sectionDataCount} {
		if b := w.out[id]; b != nil {
			section(id, b)
		}
	}
	if functions > 0 {
		section(sectionCode, count(functions), bodies)
	}
	if b := w.out[sectionData]; b != nil {
		section(sectionData, b)
	}
	if b := w.out[sectionCustom]; b != nil {
		section(sectionCustom, b)
	}
	return out
}

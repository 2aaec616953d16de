package metering

import (
	"fmt"
	"strconv"
	"strings"
)

// maxPages is what a 32-bit memory can have.
const maxPages = 1 << 16

func (w *rewriter) readFunctions(r *reader) *Error {
	n := 0
	if w.present[sectionFunction] {
		n = r.count(w.limits.Functions-w.importedFunctions, "functions")
	}
	start := r.at
	for range n {
		t, err := w.typeIndex(r)
		if err != nil {
			return err
		}
		w.functions = append(w.functions, t)
	}
	if n > 0 {
		if err := w.check(r, "the function section"); err != nil {
			return err
		}
	}
	w.info.Functions = n
	// The helpers' types follow when the code is known.
	w.out[sectionFunction] = append([]byte(nil), w.code[start:r.at]...)
	w.prepareTemplates()
	return nil
}

// limitsOf reads a minimum and, if there is one, a maximum.
func limitsOf(r *reader, highest uint32) (flag byte, low, high uint32) {
	if flag = r.byte(); flag > 1 {
		return flag, 0, 0
	}
	low, high = r.u32(), highest
	if flag == 1 {
		high = r.u32()
	}
	if low > high {
		r.fault("a minimum is above its maximum")
	}
	return flag, low, high
}

func appendLimits(b []byte, low, high uint32) []byte {
	return appendU32(appendU32(append(b, 1), low), high)
}

// table reads a table's type.
func (w *rewriter) table(r *reader) (t tableType, high uint32, err *Error) {
	at := r.at
	if t.kind = r.byte(); t.kind != typeFuncRef && t.kind != typeExternRef && r.fail == "" {
		return t, 0, w.refuse(Unsupported, at, fmt.Sprintf("a table of kind 0x%02x is not in WebAssembly 2.0", t.kind))
	}
	flag, low, high := limitsOf(r, 1<<32-1)
	if flag > 1 && r.fail == "" {
		return t, 0, w.refuse(Unsupported, at, "a table is shared or 64-bit")
	}
	if low > w.o.TableEntries {
		return t, 0, w.refuse(TableLimit, at, fmt.Sprintf("a table has %d entries, at most %d are allowed", low, w.o.TableEntries))
	}
	t.min = low
	return t, high, nil
}

// readTables sets every maximum to the minimum: nothing grows a table.
func (w *rewriter) readTables(r *reader) *Error {
	if !w.present[sectionTable] {
		return w.tooManyTables()
	}
	n := r.count(maxTables, "tables")
	out := appendU32(nil, uint32(n))
	for range n {
		at := r.at
		t, _, err := w.table(r)
		if err != nil {
			return err
		}
		if w.info.TableEntries += uint64(t.min); w.info.TableEntries > uint64(w.o.TableEntries) {
			return w.refuse(TableLimit, at, fmt.Sprintf("its tables have more than %d entries", w.o.TableEntries))
		}
		w.tables = append(w.tables, t)
		out = appendLimits(append(out, t.kind), t.min, t.min)
	}
	w.out[sectionTable] = out
	return w.tooManyTables()
}

// maxTables bounds what each instance allocates for tables beside their entries.
const maxTables = 64

func (w *rewriter) tooManyTables() *Error {
	w.info.Tables = len(w.tables)
	if len(w.tables) > maxTables {
		return w.refuse(TableLimit, -1, fmt.Sprintf("it has %d tables, at most %d are allowed", len(w.tables), maxTables))
	}
	return nil
}

// memory reads a memory's type.
func (w *rewriter) memory(r *reader) (low, high uint32, err *Error) {
	at := r.at
	flag, low, high := limitsOf(r, maxPages)
	switch {
	case r.fail != "":
		return 0, 0, nil
	case flag == 2 || flag == 3:
		return 0, 0, w.refuse(MemoryLimit, at, "its memory is shared between threads")
	case flag == 4 || flag == 5:
		return 0, 0, w.refuse(MemoryLimit, at, "its memory has 64-bit addresses")
	case flag > 1:
		return 0, 0, w.refuse(Unsupported, at, fmt.Sprintf("memory flags 0x%02x are not in WebAssembly 2.0", flag))
	case high > maxPages:
		return 0, 0, w.refuse(Malformed, at, "its memory is larger than 4 GiB")
	}
	if w.memories++; w.memories > 1 {
		return 0, 0, w.refuse(MemoryLimit, at, "it has more than one memory")
	}
	w.info.Memories = w.memories
	if w.o.MemoryPages != 0 && low > w.o.MemoryPages {
		return 0, 0, w.refuse(MemoryLimit, at, fmt.Sprintf("its memory begins with %d pages of 64 KiB, at most %d are allowed", low, w.o.MemoryPages))
	}
	return low, high, nil
}

func (w *rewriter) readMemories(r *reader) *Error {
	if !w.present[sectionMemory] {
		return nil
	}
	n := r.u32()
	out := appendU32(nil, n)
	for range n {
		low, high, err := w.memory(r)
		if err != nil {
			return err
		}
		if r.fail != "" {
			break
		}
		if w.o.MemoryPages != 0 {
			high = min(high, w.o.MemoryPages)
		}
		w.info.MemoryMin, w.info.MemoryMax = low, high
		out = appendLimits(out, low, min(high+w.o.MemorySpare, maxPages))
	}
	w.out[sectionMemory] = out
	return nil
}

func (w *rewriter) globalType(r *reader) (globalType, *Error) {
	kind, err := w.valueTypes(r, 1)
	if err != nil {
		return globalType{}, err
	}
	mutable := r.byte()
	if mutable > 1 {
		r.fault("a global is neither mutable nor constant")
	}
	if r.fail != "" {
		return globalType{}, nil
	}
	return globalType{kind[0], mutable == 1}, nil
}

func (w *rewriter) readGlobals(r *reader) *Error {
	n := 0
	if w.present[sectionGlobal] {
		n = r.count(w.limits.Globals-w.importedGlobals, "globals")
	}
	out := make([]byte, 0, r.end-r.at+32)
	for range n {
		start := r.at
		g, err := w.globalType(r)
		if err != nil {
			return err
		}
		out = append(out, w.code[start:r.at]...)
		if out, err = w.constant(r, out); err != nil {
			return err
		}
		if r.fail != "" {
			break
		}
		if g.mutable {
			w.mutable++
			if g.kind >= typeF64 {
				w.info.Globals = append(w.info.Globals, uint32(len(w.globals)))
			} else {
				w.info.VectorGlobals = true
			}
		}
		w.globals = append(w.globals, g)
	}
	w.mutable += 2
	out = append(out, typeI64, 1, opI64Const, 0, opEnd) // fuel
	out = append(out, typeI64, 1, opI64Const)
	out = append(appendSigned(out, w.o.Stack), opEnd)
	w.out[sectionGlobal] = prefixed32(n+2, out)
	return nil
}

// constant appends a constant expression of one instruction.
func (w *rewriter) constant(r *reader, out []byte) ([]byte, *Error) {
	start := r.at
	switch op := r.byte(); op {
	case opI32Const:
		r.signed(32)
	case opI64Const:
		r.signed(64)
	case opF32Const:
		r.bytes(4)
	case opF64Const:
		r.bytes(8)
	case opVector:
		if r.byte() != vectorConst {
			r.fault("a constant expression is none")
		}
		r.bytes(16)
	case opGlobalGet:
		at, i := r.at, r.u32()
		if r.fail == "" && uint64(i) >= uint64(w.importedGlobals) {
			return nil, w.refuse(Index, at, fmt.Sprintf("a constant expression reads global %d, which is not imported", i))
		}
	case opRefNull:
		if t := r.byte(); t != typeFuncRef && t != typeExternRef {
			r.fault("a null reference is of an unknown kind")
		}
	case opRefFunc:
		f, err := w.functionIndex(r)
		if err != nil {
			return nil, err
		}
		if r.byte() != opEnd {
			r.fault("a constant expression has more than one instruction")
		}
		return append(appendU32(append(out, opRefFunc), f), opEnd), nil
	default:
		r.fault("a constant expression is none")
	}
	if r.byte() != opEnd {
		r.fault("a constant expression has more than one instruction")
	}
	if r.fail != "" {
		return out, nil
	}
	return append(out, w.code[start:r.at]...), nil
}

// functionIndex reads an index of the original and returns that of the metered module.
func (w *rewriter) functionIndex(r *reader) (uint32, *Error) {
	at, i := r.at, r.u32()
	if r.fail != "" {
		return 0, nil
	}
	if uint64(i) >= uint64(len(w.functions)) {
		return 0, w.refuse(Index, at, fmt.Sprintf("there is no function %d", i))
	}
	return w.shifted(i), nil
}

func (w *rewriter) shifted(i uint32) uint32 {
	if uint64(i) >= uint64(w.importedFunctions) {
		return i + w.shift
	}
	return i
}

func (w *rewriter) readExports(r *reader) *Error {
	n := 0
	if w.present[sectionExport] {
		n = r.count(w.limits.Exports, "exports")
	}
	out := make([]byte, 0, r.end-r.at+64+20*len(w.info.Globals))
	seen := make(map[string]struct{}, n)
	w.info.Exports = make([]Export, 0, n)
	for range n {
		at := r.at
		e := Export{Name: r.name(), Kind: Kind(r.byte())}
		i := r.u32()
		if r.fail != "" {
			break
		}
		if strings.HasPrefix(e.Name, reserved) {
			return w.refuse(ReservedName, at, fmt.Sprintf("it exports %q, and names that begin with %q are the host's own", e.Name, reserved))
		}
		if _, twice := seen[e.Name]; twice {
			return w.refuse(Malformed, at, fmt.Sprintf("it exports %q twice", e.Name))
		}
		seen[e.Name] = struct{}{}
		var have int
		switch e.Kind {
		case Function:
			if have = len(w.functions); uint64(i) < uint64(have) {
				s := w.types[w.functions[i]]
				e.Params, e.Results = string(s.params), string(s.results)
			}
		case Table:
			have = len(w.tables)
		case Memory:
			have = w.memories
		case Global:
			have = len(w.globals)
		default:
			return w.refuse(Unsupported, at, fmt.Sprintf("it exports a kind (%d) that is not in WebAssembly 2.0", e.Kind))
		}
		if uint64(i) >= uint64(have) {
			return w.refuse(Index, at, fmt.Sprintf("it exports %s %d, which it does not have", e.Kind, i))
		}
		if e.Kind == Function {
			i = w.shifted(i)
		}
		out = appendExport(out, e.Name, e.Kind, i)
		w.info.Exports = append(w.info.Exports, e)
	}
	if n > 0 {
		if err := w.check(r, "the export section"); err != nil {
			return err
		}
	}
	out = appendExport(out, ExportFuel, Global, w.fuelGlobal())
	out = appendExport(out, ExportStack, Global, w.fuelGlobal()+1)
	for _, g := range w.info.Globals {
		out = appendExport(out, ExportGlobalPrefix+strconv.Itoa(int(g)), Global, g)
	}
	w.out[sectionExport] = prefixed32(n+2+len(w.info.Globals), out)
	return nil
}

func (w *rewriter) fuelGlobal() uint32 { return uint32(len(w.globals)) }

func appendExport(b []byte, name string, kind Kind, i uint32) []byte {
	return appendU32(append(appendName(b, name), byte(kind)), i)
}

func (w *rewriter) readStart(r *reader) *Error {
	if !w.present[sectionStart] {
		return nil
	}
	at := r.at
	i := r.u32()
	if r.fail != "" {
		return nil
	}
	if uint64(i) >= uint64(len(w.functions)) {
		return w.refuse(Index, at, fmt.Sprintf("it starts with function %d, which it does not have", i))
	}
	if s := w.types[w.functions[i]]; len(s.params)+len(s.results) != 0 {
		return w.refuse(Malformed, at, "its start function has parameters or results")
	}
	w.info.HasStart = true
	w.out[sectionStart] = appendU32(nil, w.shifted(i))
	return nil
}

package metering

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/dhowfleet/dhow/wasm/metering/binary"
	"github.com/dhowfleet/dhow/wasm/metering/code"
)

// maxPages is what a 32-bit memory can have.
const maxPages = 1 << 16

func (w *rewriter) readFunctions(r *binary.Reader) *Error {
	n := 0
	if w.present[sectionFunction] {
		n = r.Count(w.Limits.Functions-w.Imported, "functions")
	}
	start := r.At
	for range n {
		t, err := w.typeIndex(r)
		if err != nil {
			return err
		}
		w.Functions = append(w.Functions, t)
	}
	if n > 0 {
		if err := code.Check(r, "the function section"); err != nil {
			return err
		}
	}
	w.info.Functions = n
	// The helpers' types follow when the code is known.
	w.out[sectionFunction] = append([]byte(nil), w.code[start:r.At]...)
	w.Begin()
	return nil
}

// limitsOf reads a minimum and, if there is one, a maximum.
func limitsOf(r *binary.Reader, highest uint32) (flag byte, low, high uint32) {
	if flag = r.Byte(); flag > 1 {
		return flag, 0, 0
	}
	low, high = r.U32(), highest
	if flag == 1 {
		high = r.U32()
	}
	if low > high {
		r.Fault("a minimum is above its maximum")
	}
	return flag, low, high
}

func appendLimits(b []byte, low, high uint32) []byte {
	return binary.AppendU32(binary.AppendU32(append(b, 1), low), high)
}

// table reads a table's type and minimum.
func (w *rewriter) table(r *binary.Reader) (kind byte, low uint32, err *Error) {
	at := r.At
	if kind = r.Byte(); kind != binary.TypeFuncRef && kind != binary.TypeExternRef && r.Fail == "" {
		return 0, 0, w.refuse(Unsupported, at, fmt.Sprintf("a table of kind 0x%02x is not in WebAssembly 2.0", kind))
	}
	flag, low, _ := limitsOf(r, 1<<32-1)
	if flag > 1 && r.Fail == "" {
		return 0, 0, w.refuse(Unsupported, at, "a table is shared or 64-bit")
	}
	if low > w.o.TableEntries {
		return 0, 0, w.refuse(TableLimit, at, fmt.Sprintf("a table has %d entries, at most %d are allowed", low, w.o.TableEntries))
	}
	return kind, low, nil
}

// readTables sets every maximum to the minimum: nothing grows a table.
func (w *rewriter) readTables(r *binary.Reader) *Error {
	if !w.present[sectionTable] {
		return w.tooManyTables()
	}
	n := r.Count(maxTables, "tables")
	out := binary.AppendU32(nil, uint32(n))
	for range n {
		at := r.At
		kind, low, err := w.table(r)
		if err != nil {
			return err
		}
		if w.info.TableEntries += uint64(low); w.info.TableEntries > uint64(w.o.TableEntries) {
			return w.refuse(TableLimit, at, fmt.Sprintf("its tables have more than %d entries", w.o.TableEntries))
		}
		w.Tables = append(w.Tables, low)
		out = appendLimits(append(out, kind), low, low)
	}
	w.out[sectionTable] = out
	return w.tooManyTables()
}

// maxTables bounds what each instance allocates for tables beside their entries.
const maxTables = 64

func (w *rewriter) tooManyTables() *Error {
	w.info.Tables = len(w.Tables)
	if len(w.Tables) > maxTables {
		return w.refuse(TableLimit, -1, fmt.Sprintf("it has %d tables, at most %d are allowed", len(w.Tables), maxTables))
	}
	return nil
}

// memory reads a memory's type.
func (w *rewriter) memory(r *binary.Reader) (low, high uint32, err *Error) {
	at := r.At
	flag, low, high := limitsOf(r, maxPages)
	switch {
	case r.Fail != "":
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
	if w.Memories++; w.Memories > 1 {
		return 0, 0, w.refuse(MemoryLimit, at, "it has more than one memory")
	}
	w.info.Memories = w.Memories
	if w.o.MemoryPages != 0 && low > w.o.MemoryPages {
		return 0, 0, w.refuse(MemoryLimit, at, fmt.Sprintf("its memory begins with %d pages of 64 KiB, at most %d are allowed", low, w.o.MemoryPages))
	}
	return low, high, nil
}

func (w *rewriter) readMemories(r *binary.Reader) *Error {
	if !w.present[sectionMemory] {
		return nil
	}
	n := r.U32()
	out := binary.AppendU32(nil, n)
	for range n {
		low, high, err := w.memory(r)
		if err != nil {
			return err
		}
		if r.Fail != "" {
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

type globalType struct {
	kind    byte
	mutable bool
}

func (w *rewriter) globalType(r *binary.Reader) (globalType, *Error) {
	kind, err := w.valueTypes(r, 1)
	if err != nil {
		return globalType{}, err
	}
	mutable := r.Byte()
	if mutable > 1 {
		r.Fault("a global is neither mutable nor constant")
	}
	if r.Fail != "" {
		return globalType{}, nil
	}
	return globalType{kind[0], mutable == 1}, nil
}

func (w *rewriter) readGlobals(r *binary.Reader) *Error {
	n := 0
	if w.present[sectionGlobal] {
		n = r.Count(w.Limits.Globals-w.importedGlobals, "globals")
	}
	out := make([]byte, 0, r.End-r.At+32)
	for range n {
		start := r.At
		g, err := w.globalType(r)
		if err != nil {
			return err
		}
		out = append(out, w.code[start:r.At]...)
		if out, err = w.constant(r, out); err != nil {
			return err
		}
		if r.Fail != "" {
			break
		}
		if g.mutable {
			w.Mutable++
			if g.kind >= binary.TypeF64 {
				w.info.Globals = append(w.info.Globals, uint32(w.Globals))
			} else {
				w.info.VectorGlobals = true
			}
		}
		w.Globals++
	}
	w.Mutable += 2
	out = append(out, binary.TypeI64, 1, binary.OpI64Const, 0, binary.OpEnd) // fuel
	out = append(out, binary.TypeI64, 1, binary.OpI64Const)
	out = append(binary.AppendSigned(out, w.o.Stack), binary.OpEnd)
	w.out[sectionGlobal] = prefixed32(n+2, out)
	return nil
}

// constant appends a constant expression of one instruction.
func (w *rewriter) constant(r *binary.Reader, out []byte) ([]byte, *Error) {
	start := r.At
	switch op := r.Byte(); op {
	case binary.OpI32Const:
		r.Signed(32)
	case binary.OpI64Const:
		r.Signed(64)
	case binary.OpF32Const:
		r.Bytes(4)
	case binary.OpF64Const:
		r.Bytes(8)
	case binary.OpVector:
		if r.Byte() != binary.VectorConst {
			r.Fault("a constant expression is none")
		}
		r.Bytes(16)
	case binary.OpGlobalGet:
		at, i := r.At, r.U32()
		if r.Fail == "" && uint64(i) >= uint64(w.importedGlobals) {
			return nil, w.refuse(Index, at, fmt.Sprintf("a constant expression reads global %d, which is not imported", i))
		}
	case binary.OpRefNull:
		if t := r.Byte(); t != binary.TypeFuncRef && t != binary.TypeExternRef {
			r.Fault("a null reference is of an unknown kind")
		}
	case binary.OpRefFunc:
		f, err := w.functionIndex(r)
		if err != nil {
			return nil, err
		}
		if r.Byte() != binary.OpEnd {
			r.Fault("a constant expression has more than one instruction")
		}
		return append(binary.AppendU32(append(out, binary.OpRefFunc), f), binary.OpEnd), nil
	default:
		r.Fault("a constant expression is none")
	}
	if r.Byte() != binary.OpEnd {
		r.Fault("a constant expression has more than one instruction")
	}
	if r.Fail != "" {
		return out, nil
	}
	return append(out, w.code[start:r.At]...), nil
}

// functionIndex reads an index of the original and returns that of the metered module.
func (w *rewriter) functionIndex(r *binary.Reader) (uint32, *Error) {
	at, i := r.At, r.U32()
	if r.Fail != "" {
		return 0, nil
	}
	if uint64(i) >= uint64(len(w.Functions)) {
		return 0, w.refuse(Index, at, fmt.Sprintf("there is no function %d", i))
	}
	return w.Shifted(i), nil
}

func (w *rewriter) readExports(r *binary.Reader) *Error {
	n := 0
	if w.present[sectionExport] {
		n = r.Count(w.Limits.Exports, "exports")
	}
	out := make([]byte, 0, r.End-r.At+64+20*len(w.info.Globals))
	seen := make(map[string]struct{}, n)
	w.info.Exports = make([]Export, 0, n)
	for range n {
		at := r.At
		e := Export{Name: r.Name(), Kind: Kind(r.Byte())}
		i := r.U32()
		if r.Fail != "" {
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
			if have = len(w.Functions); uint64(i) < uint64(have) {
				s := w.Types[w.Functions[i]]
				e.Params, e.Results = string(s.Params), string(s.Results)
			}
		case Table:
			have = len(w.Tables)
		case Memory:
			have = w.Memories
		case Global:
			have = w.Globals
		default:
			return w.refuse(Unsupported, at, fmt.Sprintf("it exports a kind (%d) that is not in WebAssembly 2.0", e.Kind))
		}
		if uint64(i) >= uint64(have) {
			return w.refuse(Index, at, fmt.Sprintf("it exports %s %d, which it does not have", e.Kind, i))
		}
		if e.Kind == Function {
			i = w.Shifted(i)
		}
		out = appendExport(out, e.Name, e.Kind, i)
		w.info.Exports = append(w.info.Exports, e)
	}
	if n > 0 {
		if err := code.Check(r, "the export section"); err != nil {
			return err
		}
	}
	out = appendExport(out, ExportFuel, Global, w.FuelGlobal())
	out = appendExport(out, ExportStack, Global, w.FuelGlobal()+1)
	for _, g := range w.info.Globals {
		out = appendExport(out, ExportGlobalPrefix+strconv.Itoa(int(g)), Global, g)
	}
	w.out[sectionExport] = prefixed32(n+2+len(w.info.Globals), out)
	return nil
}

func appendExport(b []byte, name string, kind Kind, i uint32) []byte {
	return binary.AppendU32(append(binary.AppendName(b, name), byte(kind)), i)
}

func (w *rewriter) readStart(r *binary.Reader) *Error {
	if !w.present[sectionStart] {
		return nil
	}
	at := r.At
	i := r.U32()
	if r.Fail != "" {
		return nil
	}
	if uint64(i) >= uint64(len(w.Functions)) {
		return w.refuse(Index, at, fmt.Sprintf("it starts with function %d, which it does not have", i))
	}
	if s := w.Types[w.Functions[i]]; len(s.Params)+len(s.Results) != 0 {
		return w.refuse(Malformed, at, "its start function has parameters or results")
	}
	w.info.HasStart = true
	w.out[sectionStart] = binary.AppendU32(nil, w.Shifted(i))
	return nil
}

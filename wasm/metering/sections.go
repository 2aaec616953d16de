package metering

import (
	"fmt"
	"strings"

	"github.com/dhowfleet/dhow/wasm/metering/binary"
	"github.com/dhowfleet/dhow/wasm/metering/code"
)

// The sections, by their number in the binary format.
const (
	sectionCustom = iota
	sectionType
	sectionImport
	sectionFunction
	sectionTable
	sectionMemory
	sectionGlobal
	sectionExport
	sectionStart
	sectionElement
	sectionCode
	sectionData
	sectionDataCount
	sections
)

// order is the place of each section; custom sections stand anywhere.
var order = [sections]int{
	sectionType: 1, sectionImport: 2, sectionFunction: 3, sectionTable: 4, sectionMemory: 5, sectionGlobal: 6,
	sectionExport: 7, sectionStart: 8, sectionElement: 9, sectionDataCount: 10, sectionCode: 11, sectionData: 12,
}

var sectionNames = [sections]string{
	"custom", "type", "import", "function", "table", "memory", "global", "export", "start", "element", "code", "data", "data count",
}

// rewriter holds the original's index spaces, against which everything is checked, and the metered module's parts.
type rewriter struct {
	code.Meter
	o    Options
	code []byte
	info Info

	present [sections]bool
	content [sections]binary.Reader
	names   binary.Reader // content of the name section

	importedGlobals int

	out  [sections][]byte // content of the sections that are written anew; of the code, with room at its front
	room int
}

func (w *rewriter) refuse(reason Reason, at int, text string) *Error {
	return &Error{Reason: reason, Function: -1, Offset: at, Text: text}
}

// read walks the whole module and fills out.
func (w *rewriter) read() error {
	if err := w.split(); err != nil {
		return err
	}
	for _, step := range []struct {
		section int
		read    func(*binary.Reader) *Error
	}{
		{sectionType, w.readTypes},
		{sectionImport, w.readImports},
		{sectionFunction, w.readFunctions},
		{sectionTable, w.readTables},
		{sectionMemory, w.readMemories},
		{sectionGlobal, w.readGlobals},
		{sectionExport, w.readExports},
		{sectionStart, w.readStart},
		{sectionElement, w.readElements},
		{sectionData, w.readData},
		{sectionDataCount, w.readDataCount},
		{sectionCode, w.readCode},
	} {
		r := &w.content[step.section]
		if !w.present[step.section] {
			*r = binary.Reader{B: w.code, At: len(w.code), End: len(w.code), Base: len(w.code), Fail: absent}
		}
		err := step.read(r)
		if err == nil && w.present[step.section] {
			r.Done()
			err = code.Check(r, "the "+sectionNames[step.section]+" section")
		}
		if err != nil {
			return err
		}
	}
	if err := w.readNames(); err != nil {
		return err
	}
	return nil
}

// absent is the fault of a section that is not there; the steps ask for present before they read.
const absent = "it is missing"

func little(b []byte) uint32 {
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

// split finds the sections and refuses what is out of order.
func (w *rewriter) split() *Error {
	module := w.code
	if len(module) > w.Limits.Module {
		return w.refuse(TooLarge, -1, fmt.Sprintf("it has %d bytes, at most %d are allowed", len(module), w.Limits.Module))
	}
	if len(module) < 8 || string(module[:4]) != "\x00asm" {
		return w.refuse(NotWasm, -1, "it does not begin as a module does")
	}
	if version := little(module[4:8]); version != 1 {
		if version&0xffff0000 != 0 {
			return w.refuse(NotWasm, -1, "it is a component; build it as a core module")
		}
		return w.refuse(NotWasm, -1, fmt.Sprintf("it has version %d, only version 1 is known", version))
	}
	r := binary.Reader{B: module, At: 8, End: len(module)}
	last := 0
	for r.More() {
		start := r.At
		id := r.Byte()
		content := r.Sub(r.U32())
		if err := code.Check(&r, "a section"); err != nil {
			return err
		}
		switch {
		case id == sectionCustom:
			if err := w.custom(content); err != nil {
				return err
			}
		case id >= sections:
			return w.refuse(Unsupported, start, fmt.Sprintf("it has a section of number %d, which is not in WebAssembly 2.0", id))
		case order[id] <= last:
			return w.refuse(Malformed, start, "the "+sectionNames[id]+" section is out of order")
		default:
			last = order[id]
			w.present[id], w.content[id] = true, content
		}
	}
	return nil
}

// custom checks a custom section's name. All are dropped except the function names: what a tool recorded about the
// original's code offsets is wrong after rewriting.
func (w *rewriter) custom(r binary.Reader) *Error {
	name := r.Name()
	if err := code.Check(&r, "a custom section"); err != nil {
		return err
	}
	if name != "name" {
		return nil
	}
	if w.names.B != nil {
		return w.refuse(Malformed, r.Base, "it has two name sections")
	}
	w.names = r
	return nil
}

// valueTypes reads n types of WebAssembly 2.0.
func (w *rewriter) valueTypes(r *binary.Reader, n int) ([]byte, *Error) {
	b := r.Bytes(uint32(n))
	for i, t := range b {
		if !binary.IsValueType(t) {
			return nil, w.refuse(Unsupported, r.At-n+i, fmt.Sprintf("0x%02x is no value type of WebAssembly 2.0", t))
		}
	}
	return b, nil
}

func (w *rewriter) readTypes(r *binary.Reader) *Error {
	if !w.present[sectionType] {
		return nil
	}
	n := r.Count(w.Limits.Types, "types")
	w.Types = make([]code.Signature, 0, n)
	values := 0
	for range n {
		if form := r.Byte(); form != binary.TypeFunction && r.Fail == "" {
			return w.refuse(Unsupported, r.At-1, fmt.Sprintf("type form 0x%02x is not in WebAssembly 2.0", form))
		}
		var s code.Signature
		var err *Error
		if s.Params, err = w.valueTypes(r, r.Count(w.Limits.Params, "parameters of one function")); err != nil {
			return err
		}
		if s.Results, err = w.valueTypes(r, r.Count(w.Limits.Results, "results of one function")); err != nil {
			return err
		}
		if values += len(s.Params) + len(s.Results); values > w.Limits.Values {
			return w.refuse(Complexity, r.At, fmt.Sprintf("its types have more than %d parameters and results together", w.Limits.Values))
		}
		w.Types = append(w.Types, s)
	}
	return code.Check(r, "the type section")
}

func (w *rewriter) typeIndex(r *binary.Reader) (uint32, *Error) {
	at, i := r.At, r.U32()
	if r.Fail == "" && uint64(i) >= uint64(len(w.Types)) {
		return 0, w.refuse(Index, at, fmt.Sprintf("there is no type %d", i))
	}
	return i, nil
}

func (w *rewriter) readImports(r *binary.Reader) *Error {
	n := 0
	if w.present[sectionImport] {
		n = r.Count(w.Limits.Imports, "imports")
	}
	out := make([]byte, 0, r.End-r.At)
	w.info.Imports = make([]Import, 0, n)
	for range n {
		start := r.At
		imp := Import{Module: r.Name(), Name: r.Name(), Kind: Kind(r.Byte())}
		if r.Fail != "" {
			break
		}
		if strings.HasPrefix(imp.Module, reserved) {
			return w.refuse(ReservedName, start, fmt.Sprintf("it imports from %q, and names that begin with %q are the host's own", imp.Module, reserved))
		}
		switch imp.Kind {
		case Function:
			t, err := w.typeIndex(r)
			if err != nil {
				return err
			}
			if r.Fail == "" {
				imp.Params, imp.Results = string(w.Types[t].Params), string(w.Types[t].Results)
				w.Functions = append(w.Functions, t)
				w.Imported++
			}
			out = append(out, w.code[start:r.At]...)
		case Table:
			if _, _, err := w.table(r); err != nil {
				return err
			}
			w.Tables = append(w.Tables, w.o.TableEntries)
			w.info.TablesImported = true
			out = append(out, w.code[start:r.At]...)
		case Memory:
			low, high, err := w.memory(r)
			if err != nil {
				return err
			}
			w.info.MemoryMin, w.info.MemoryMax, w.info.MemoryImported = low, high, true
			out = append(out, w.code[start:r.At]...)
		case Global:
			g, err := w.globalType(r)
			if err != nil {
				return err
			}
			w.Globals++
			if g.mutable {
				w.Mutable++
			}
			w.importedGlobals++
			out = append(out, w.code[start:r.At]...)
		default:
			return w.refuse(Unsupported, r.At-1, fmt.Sprintf("it imports a kind (%d) that is not in WebAssembly 2.0", imp.Kind))
		}
		w.info.Imports = append(w.info.Imports, imp)
	}
	if n > 0 {
		if err := code.Check(r, "the import section"); err != nil {
			return err
		}
	}
	if w.o.Mode == Yield {
		w.Shift = 1
		n++
		out = binary.AppendName(binary.AppendName(out, ImportModule), ImportRefill)
		out = append(out, byte(Function))
		out = binary.AppendU32(out, w.AddType([]byte{binary.TypeI64, binary.TypeI64}, []byte{binary.TypeI64}))
	}
	w.out[sectionImport] = prefixed32(n, out)
	return nil
}

// prefixed32 puts a vector's length before its elements.
func prefixed32(n int, elements []byte) []byte {
	return append(binary.AppendU32(make([]byte, 0, 5+len(elements)), uint32(n)), elements...)
}

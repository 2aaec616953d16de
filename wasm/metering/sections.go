package metering

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
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

type signature struct{ params, results []byte }

func (s *signature) wide() bool {
	return bytes.IndexByte(s.params, typeV128) >= 0 || bytes.IndexByte(s.results, typeV128) >= 0
}

type globalType struct {
	kind    byte
	mutable bool
}

type tableType struct {
	kind byte
	min  uint32
}

// rewriter holds the original's index spaces, against which everything is checked, and the metered module's parts.
type rewriter struct {
	o      Options
	limits Limits
	code   []byte
	info   Info

	present [sections]bool
	content [sections]reader
	names   reader // content of the name section

	types             []signature
	functions         []uint32 // the type of each, imported ones first
	importedFunctions int
	globals           []globalType
	importedGlobals   int
	mutable           int // mutable globals, imported ones and the two that are added among them
	tables            []tableType
	memories          int
	elements          int
	data              []uint32 // the length of each segment

	shift   uint32 // added to the index of every function that the module defines
	wrap    map[string]uint32
	added   []byte // types
	addedN  uint32
	helpers helpers
	templates

	out    [sections][]byte // content of the sections that are written anew; of the code, with room at its front
	room   int
	locals int        // of all functions so far
	uses   []localUse // of every local of the function at hand
	fn     body       // reused from function to function
}

func (w *rewriter) refuse(reason Reason, at int, text string) *Error {
	return &Error{Reason: reason, Function: -1, Offset: at, Text: text}
}

// check turns a reader's fault into an error.
func (w *rewriter) check(r *reader, what string) *Error {
	if r.fail == "" {
		return nil
	}
	if more, over := strings.CutPrefix(r.fail, overLimit); over {
		return w.refuse(TooLarge, r.at, "it has too many "+more)
	}
	return w.refuse(Malformed, r.at, what+": "+r.fail)
}

// read walks the whole module and fills out.
func (w *rewriter) read() error {
	if err := w.split(); err != nil {
		return err
	}
	for _, step := range []struct {
		section int
		read    func(*reader) *Error
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
			*r = reader{b: w.code, at: len(w.code), end: len(w.code), base: len(w.code), fail: absent}
		}
		err := step.read(r)
		if err == nil && w.present[step.section] {
			r.done()
			err = w.check(r, "the "+sectionNames[step.section]+" section")
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

// split finds the sections and refuses what is out of order.
func (w *rewriter) split() *Error {
	code := w.code
	if len(code) > w.limits.Module {
		return w.refuse(TooLarge, -1, fmt.Sprintf("it has %d bytes, at most %d are allowed", len(code), w.limits.Module))
	}
	if len(code) < 8 || string(code[:4]) != "\x00asm" {
		return w.refuse(NotWasm, -1, "it does not begin as a module does")
	}
	if version := binary.LittleEndian.Uint32(code[4:]); version != 1 {
		if version&0xffff0000 != 0 {
			return w.refuse(NotWasm, -1, "it is a component; build it as a core module")
		}
		return w.refuse(NotWasm, -1, fmt.Sprintf("it has version %d, only version 1 is known", version))
	}
	r := reader{b: code, at: 8, end: len(code)}
	last := 0
	for r.more() {
		start := r.at
		id := r.byte()
		content := r.sub(r.u32())
		if err := w.check(&r, "a section"); err != nil {
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
func (w *rewriter) custom(r reader) *Error {
	name := r.name()
	if err := w.check(&r, "a custom section"); err != nil {
		return err
	}
	if name != "name" {
		return nil
	}
	if w.names.b != nil {
		return w.refuse(Malformed, r.base, "it has two name sections")
	}
	w.names = r
	return nil
}

// valueTypes reads n types of WebAssembly 2.0.
func (w *rewriter) valueTypes(r *reader, n int) ([]byte, *Error) {
	b := r.bytes(uint32(n))
	for i, t := range b {
		if !isValueType(t) {
			return nil, w.refuse(Unsupported, r.at-n+i, fmt.Sprintf("0x%02x is no value type of WebAssembly 2.0", t))
		}
	}
	return b, nil
}

func isValueType(t byte) bool {
	return t >= typeV128 && t <= typeI32 || t == typeFuncRef || t == typeExternRef
}

func (w *rewriter) readTypes(r *reader) *Error {
	if !w.present[sectionType] {
		return nil
	}
	n := r.count(w.limits.Types, "types")
	w.types = make([]signature, 0, n)
	values := 0
	for range n {
		if form := r.byte(); form != typeFunction && r.fail == "" {
			return w.refuse(Unsupported, r.at-1, fmt.Sprintf("type form 0x%02x is not in WebAssembly 2.0", form))
		}
		var s signature
		var err *Error
		if s.params, err = w.valueTypes(r, r.count(w.limits.Params, "parameters of one function")); err != nil {
			return err
		}
		if s.results, err = w.valueTypes(r, r.count(w.limits.Results, "results of one function")); err != nil {
			return err
		}
		if values += len(s.params) + len(s.results); values > w.limits.Values {
			return w.refuse(Complexity, r.at, fmt.Sprintf("its types have more than %d parameters and results together", w.limits.Values))
		}
		w.types = append(w.types, s)
	}
	return w.check(r, "the type section")
}

func (w *rewriter) typeIndex(r *reader) (uint32, *Error) {
	at, i := r.at, r.u32()
	if r.fail == "" && uint64(i) >= uint64(len(w.types)) {
		return 0, w.refuse(Index, at, fmt.Sprintf("there is no type %d", i))
	}
	return i, nil
}

func (w *rewriter) readImports(r *reader) *Error {
	n := 0
	if w.present[sectionImport] {
		n = r.count(w.limits.Imports, "imports")
	}
	out := make([]byte, 0, r.end-r.at)
	w.info.Imports = make([]Import, 0, n)
	for range n {
		start := r.at
		imp := Import{Module: r.name(), Name: r.name(), Kind: Kind(r.byte())}
		if r.fail != "" {
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
			if r.fail == "" {
				imp.Params, imp.Results = string(w.types[t].params), string(w.types[t].results)
				w.functions = append(w.functions, t)
				w.importedFunctions++
			}
			out = append(out, w.code[start:r.at]...)
		case Table:
			t, _, err := w.table(r)
			if err != nil {
				return err
			}
			w.tables = append(w.tables, t)
			w.info.TablesImported = true
			out = append(out, w.code[start:r.at]...)
		case Memory:
			low, high, err := w.memory(r)
			if err != nil {
				return err
			}
			w.info.MemoryMin, w.info.MemoryMax, w.info.MemoryImported = low, high, true
			out = append(out, w.code[start:r.at]...)
		case Global:
			g, err := w.globalType(r)
			if err != nil {
				return err
			}
			w.globals = append(w.globals, g)
			if g.mutable {
				w.mutable++
			}
			w.importedGlobals++
			out = append(out, w.code[start:r.at]...)
		default:
			return w.refuse(Unsupported, r.at-1, fmt.Sprintf("it imports a kind (%d) that is not in WebAssembly 2.0", imp.Kind))
		}
		w.info.Imports = append(w.info.Imports, imp)
	}
	if n > 0 {
		if err := w.check(r, "the import section"); err != nil {
			return err
		}
	}
	if w.o.Mode == Yield {
		w.shift = 1
		n++
		out = appendName(appendName(out, ImportModule), ImportRefill)
		out = append(out, byte(Function))
		out = appendU32(out, w.addType([]byte{typeI64, typeI64}, []byte{typeI64}))
	}
	w.out[sectionImport] = prefixed32(n, out)
	return nil
}

// prefixed32 puts a vector's length before its elements.
func prefixed32(n int, elements []byte) []byte {
	return append(appendU32(make([]byte, 0, 5+len(elements)), uint32(n)), elements...)
}

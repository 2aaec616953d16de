// Package wasmtest puts WASM modules together for tests: well-formed ones briefly, and malformed ones byte by byte.
//
// A Module collects types, imports, functions and the rest, and Bytes encodes it. Instructions are Code, plain bytes that
// functions such as Loop and I32Const return, so that whatever has no name here is written as Raw bytes. Sections returns
// the encoded sections apart, for a test that cuts, swaps or repeats them before Join puts them together; Replace puts
// raw content in the place of a section. NewGuest begins with what the contract of package wasm/abi asks a guest for, and
// its functions' bodies can be set one by one.
//
// Nothing is checked: that a module is invalid may be the point of a test. Only mistakes in using the package itself
// (an import after a function, which would shift indices that are already in use) panic. The package does no I/O, and a
// Module is for one goroutine.
package wasmtest

import "encoding/binary"

// Type is a value type.
type Type byte

// The value types of WASM 2.0.
const (
	I32       Type = 0x7f
	I64       Type = 0x7e
	F32       Type = 0x7d
	F64       Type = 0x7c
	V128      Type = 0x7b
	FuncRef   Type = 0x70
	ExternRef Type = 0x6f
)

// Sig is a function's type.
type Sig struct{ Params, Results []Type }

// Repeat returns n times t, for signatures and locals of many values.
func Repeat(t Type, n int) []Type {
	out := make([]Type, n)
	for i := range out {
		out[i] = t
	}
	return out
}

// Section identifiers.
const (
	SectionCustom    = 0
	SectionType      = 1
	SectionImport    = 2
	SectionFunction  = 3
	SectionTable     = 4
	SectionMemory    = 5
	SectionGlobal    = 6
	SectionExport    = 7
	SectionStart     = 8
	SectionElement   = 9
	SectionCode      = 10
	SectionData      = 11
	SectionDataCount = 12
)

// order is how sections follow one another.
var order = [...]byte{SectionType, SectionImport, SectionFunction, SectionTable, SectionMemory, SectionGlobal, SectionExport,
	SectionStart, SectionElement, SectionDataCount, SectionCode, SectionData}

// Kinds of imports and exports.
const (
	KindFunction = 0
	KindTable    = 1
	KindMemory   = 2
	KindGlobal   = 3
)

// Import is an imported function.
type Import struct {
	Module, Name string
	Sig          Sig
}

// Module is a module in the making.
type Module struct {
	types     []string
	imports   [][]byte
	imported  uint32 // functions among the imports
	functions []*Func
	entries   map[byte][][]byte // of the sections that are lists
	start     []byte
	dataCount bool
	replaced  map[byte][]byte
	customs   []Section // behind everything else
}

// New returns an empty module.
func New() *Module {
	return &Module{entries: map[byte][][]byte{}, replaced: map[byte][]byte{}}
}

// Func is a function of the module's own.
type Func struct {
	Index  uint32
	typ    uint32
	locals []byte
	groups int
	code   Code
	raw    []byte // instead of all that
}

// Type returns the index of a function type, which is added if it is new.
func (m *Module) Type(s Sig) uint32 {
	types := func(list []Type) []byte {
		out := uleb(uint64(len(list)))
		for _, t := range list {
			out = append(out, byte(t))
		}
		return out
	}
	return m.RawType(join([]byte{0x60}, types(s.Params), types(s.Results)))
}

// RawType adds an entry of the type section as it is, unless it is there already.
func (m *Module) RawType(entry []byte) uint32 {
	for i, t := range m.types {
		if t == string(entry) {
			return uint32(i)
		}
	}
	m.types = append(m.types, string(entry))
	return uint32(len(m.types) - 1)
}

// Import adds an imported function and returns its index.
func (m *Module) Import(module, name string, s Sig) uint32 {
	if len(m.functions) > 0 {
		panic("wasmtest: imports come before functions: " + module + "." + name)
	}
	m.RawImport(module, name, KindFunction, uleb(uint64(m.Type(s)))...)
	m.imported++
	return m.imported - 1
}

// RawImport adds an import of any kind; of a function it does not count the index.
func (m *Module) RawImport(module, name string, kind byte, description ...byte) {
	m.imports = append(m.imports, join(text(module), text(name), []byte{kind}, description))
}

// Func adds a function; its body may be set later, so that functions can call one another.
func (m *Module) Func(s Sig, body ...Code) *Func {
	f := &Func{Index: m.imported + uint32(len(m.functions)), typ: m.Type(s)}
	m.functions = append(m.functions, f)
	return f.Body(body...)
}

// Body sets the instructions; the end is added.
func (f *Func) Body(body ...Code) *Func {
	f.code = join(body...)
	return f
}

// Locals adds locals behind the parameters, a group for each run of one type.
func (f *Func) Locals(types ...Type) *Func {
	for len(types) > 0 {
		n := 1
		for n < len(types) && types[n] == types[0] {
			n++
		}
		f.LocalGroup(uint64(n), types[0])
		types = types[n:]
	}
	return f
}

// LocalGroup declares n locals of one type, however many that is.
func (f *Func) LocalGroup(n uint64, t Type) *Func {
	f.groups++
	f.locals = append(append(f.locals, uleb(n)...), byte(t))
	return f
}

// Raw sets the whole entry of the code section behind its length: locals, instructions and end.
func (f *Func) Raw(entry []byte) *Func {
	f.raw = entry
	return f
}

func (f *Func) entry() []byte {
	if f.raw != nil {
		return sized(f.raw)
	}
	return sized(join(uleb(uint64(f.groups)), f.locals, f.code, []byte{0x0b}))
}

func (m *Module) add(section byte, entry []byte) uint32 {
	m.entries[section] = append(m.entries[section], entry)
	return uint32(len(m.entries[section]) - 1)
}

// NoMax is the maximum of a memory or table that has none.
const NoMax = -1

func limits(lowest uint64, highest int64) []byte {
	if highest < 0 {
		return append([]byte{0}, uleb(lowest)...)
	}
	return join([]byte{1}, uleb(lowest), uleb(uint64(highest)))
}

// Memory sets the memory, in pages of 64 KiB.
func (m *Module) Memory(lowest uint64, highest int64) {
	m.entries[SectionMemory] = [][]byte{limits(lowest, highest)}
}

// Table adds a table and returns its index.
func (m *Module) Table(t Type, lowest uint64, highest int64) uint32 {
	return m.add(SectionTable, append([]byte{byte(t)}, limits(lowest, highest)...))
}

// Global adds a global with a constant expression, such as I32Const(0), and returns its index.
func (m *Module) Global(t Type, mutable bool, value Code) uint32 {
	kind := byte(0)
	if mutable {
		kind = 1
	}
	return m.add(SectionGlobal, join([]byte{byte(t), kind}, value, End))
}

// Export exports something by its index.
func (m *Module) Export(name string, kind byte, index uint32) {
	m.add(SectionExport, join(text(name), []byte{kind}, uleb(uint64(index))))
}

// Start names the function that runs when the module is instantiated.
func (m *Module) Start(function uint32) { m.start = uleb(uint64(function)) }

// Elements adds a segment that fills table 0 from offset on.
func (m *Module) Elements(offset int32, functions ...uint32) {
	m.add(SectionElement, join([]byte{0}, I32Const(offset), End, indices(functions)))
}

// PassiveElements adds a segment for table.init.
func (m *Module) PassiveElements(functions ...uint32) uint32 {
	return m.add(SectionElement, join([]byte{1, 0}, indices(functions)))
}

func indices(functions []uint32) []byte {
	out := uleb(uint64(len(functions)))
	for _, f := range functions {
		out = append(out, uleb(uint64(f))...)
	}
	return out
}

// Data adds a segment that lies in memory from offset on.
func (m *Module) Data(offset int32, content []byte) {
	m.add(SectionData, join([]byte{0}, I32Const(offset), End, sized(content)))
}

// PassiveData adds a segment for memory.init, with the data count that it needs.
func (m *Module) PassiveData(content []byte) uint32 {
	m.dataCount = true
	return m.add(SectionData, join([]byte{1}, sized(content)))
}

// Custom adds a custom section behind all others.
func (m *Module) Custom(name string, content []byte) {
	m.customs = append(m.customs, Section{SectionCustom, join(text(name), content)})
}

// Add puts a raw entry into a section that is a list, such as SectionExport.
func (m *Module) Add(section byte, entry []byte) { m.add(section, entry) }

// Replace sets a section's whole content; nil leaves the section out.
func (m *Module) Replace(section byte, content []byte) { m.replaced[section] = content }

// Section is an encoded section without its length.
type Section struct {
	ID      byte
	Content []byte
}

// Sections returns what Bytes joins, in order.
func (m *Module) Sections() []Section {
	var out []Section
	for _, id := range order {
		content, replaced := m.replaced[id]
		if !replaced {
			content = m.section(id)
		}
		if content != nil {
			out = append(out, Section{id, content})
		}
	}
	return append(out, m.customs...)
}

func (m *Module) section(id byte) []byte {
	var list [][]byte
	switch id {
	case SectionType:
		for _, t := range m.types {
			list = append(list, []byte(t))
		}
	case SectionImport:
		list = m.imports
	case SectionFunction:
		for _, f := range m.functions {
			list = append(list, uleb(uint64(f.typ)))
		}
	case SectionCode:
		for _, f := range m.functions {
			list = append(list, f.entry())
		}
	case SectionStart:
		return m.start
	case SectionDataCount:
		if m.dataCount {
			return uleb(uint64(len(m.entries[SectionData])))
		}
		return nil
	default:
		list = m.entries[id]
	}
	if list == nil {
		return nil
	}
	return vector(list...)
}

// Header is what every module begins with.
const Header = "\x00asm\x01\x00\x00\x00"

// Bytes returns the module.
func (m *Module) Bytes() []byte { return Join(m.Sections()...) }

// Join puts sections behind the header.
func Join(sections ...Section) []byte {
	size := len(Header)
	for _, s := range sections {
		size += 1 + binary.MaxVarintLen64 + len(s.Content)
	}
	out := append(make([]byte, 0, size), Header...)
	for _, s := range sections {
		out = append(out, s.ID)
		out = binary.AppendUvarint(out, uint64(len(s.Content)))
		out = append(out, s.Content...)
	}
	return out
}

func uleb(v uint64) []byte { return binary.AppendUvarint(nil, v) }

func sleb(v int64) []byte {
	var out []byte
	for {
		b := byte(v & 0x7f)
		v >>= 7
		if (v == 0 && b&0x40 == 0) || (v == -1 && b&0x40 != 0) {
			return append(out, b)
		}
		out = append(out, b|0x80)
	}
}

func join[B ~[]byte](parts ...B) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	out := make([]byte, 0, n)
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func vector(parts ...[]byte) []byte {
	size := binary.MaxVarintLen64
	for _, p := range parts {
		size += len(p)
	}
	out := binary.AppendUvarint(make([]byte, 0, size), uint64(len(parts)))
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func sized(b []byte) []byte { return join(uleb(uint64(len(b))), b) }

func text(s string) []byte { return sized([]byte(s)) }

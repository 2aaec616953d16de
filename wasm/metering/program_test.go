package metering

import (
	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/wasm/metering/binary"
	"github.com/dhowfleet/dhow/wasm/metering/code"
)

// program draws a valid module with control flow of every kind. It ends: each loop's turn and each function's entry
// takes a step from a global, and traps when there is none left. Global 1 counts ticks, which lie all over the code and
// are of four instructions each, so that the fuel used can be held against what ran.
type program struct {
	t         *rapid.T
	floats    bool
	types     [][]byte // encoded
	params    [][]byte // of each type
	results   [][]byte //
	functions []byte   // type of each function, the import first
	out       []byte   // of the function at hand
	locals    []byte   // their types
	labels    []label  // innermost last
	left      int      // statements that may still be drawn
}

type label struct{ types []byte }

const (
	stepsGlobal = 0
	ticksGlobal = 1
	spareGlobal = 2 // an i32 that programs write
	tickCost    = 4
)

func drawProgram(t *rapid.T, floats bool) []byte {
	p := &program{t: t, floats: floats}
	p.addType(nil, nil)
	p.addType([]byte{binary.TypeI32}, []byte{binary.TypeI32})
	kinds := 2 + p.draw(3)
	for range kinds {
		p.addType(p.drawTypes(3), p.drawTypes(3))
	}
	p.functions = []byte{1} // env.f
	count := 2 + p.draw(3)
	for range count {
		p.functions = append(p.functions, byte(p.draw(len(p.types)-1)))
	}
	m := module{
		types:    p.types,
		imports:  [][]byte{cat(sized([]byte("env")), sized([]byte("f")), []byte{byte(Function), 1})},
		tables:   [][]byte{{binary.TypeFuncRef, 0, 8}},
		memories: [][]byte{{1, 2, 4}},
		globals: [][]byte{
			cat([]byte{binary.TypeI32, 1}, i32c(int32(50+p.draw(500))), []byte{binary.OpEnd}),
			cat([]byte{binary.TypeI64, 1}, i64c(0), []byte{binary.OpEnd}),
			cat([]byte{binary.TypeI32, 1}, i32c(7), []byte{binary.OpEnd}),
		},
		exports: [][]byte{
			export("memory", Memory, 0), export("steps", Global, stepsGlobal), export("ticks", Global, ticksGlobal), export("spare", Global, spareGlobal),
		},
		functions: p.functions[1:],
		data:      [][]byte{cat([]byte{0}, i32c(100), []byte{binary.OpEnd}, sized([]byte("some data")))},
	}
	var elements []byte
	for i := range p.functions {
		elements = append(elements, byte(i))
	}
	m.elements = [][]byte{cat([]byte{0}, i32c(1), []byte{binary.OpEnd}, sized(elements))}
	for i, typ := range p.functions[1:] {
		m.exports = append(m.exports, export(string(rune('a'+i)), Function, byte(i+1)))
		m.code = append(m.code, p.drawFunction(typ))
	}
	if p.draw(1) == 0 {
		m.dataCount = []byte{1}
	}
	return m.bytes()
}

// draw returns a number from 0 to n.
func (p *program) draw(n int) int { return rapid.IntRange(0, n).Draw(p.t, "n") }

func (p *program) addType(params, results []byte) {
	p.types = append(p.types, functionType(string(params), string(results)))
	p.params, p.results = append(p.params, params), append(p.results, results)
}

func (p *program) drawType() byte {
	all := []byte{binary.TypeI32, binary.TypeI32, binary.TypeI64, binary.TypeF32, binary.TypeF64}
	if !p.floats {
		all = all[:3]
	}
	return all[p.draw(len(all)-1)]
}

func (p *program) drawTypes(most int) []byte {
	var out []byte
	for range p.draw(most) {
		out = append(out, p.drawType())
	}
	return out
}

func (p *program) emit(b ...byte) { p.out = append(p.out, b...) }

func (p *program) drawFunction(typ byte) []byte {
	p.out, p.labels, p.left = nil, []label{{p.results[typ]}}, 5+p.draw(25)
	p.locals = append([]byte(nil), p.params[typ]...)
	declared := p.drawTypes(4)
	p.locals = append(p.locals, declared...)
	var groups [][]byte
	for _, t := range declared {
		groups = append(groups, []byte{1, t})
	}
	p.step()
	p.statements(0)
	p.expressions(p.results[typ], 3)
	return sized(cat(vec(groups...), p.out, []byte{binary.OpEnd}))
}

// step traps when no steps are left.
func (p *program) step() {
	p.emit(binary.OpGlobalGet, stepsGlobal, binary.OpI32Eqz, binary.OpIf, binary.TypeEmpty, binary.OpUnreachable, binary.OpEnd)
	p.emit(binary.OpGlobalGet, stepsGlobal, binary.OpI32Const, 1, binary.OpI32Sub, binary.OpGlobalSet, stepsGlobal)
}

func (p *program) tick() {
	p.emit(binary.OpGlobalGet, ticksGlobal, binary.OpI64Const, 1, binary.OpI64Add, binary.OpGlobalSet, ticksGlobal)
}

// statements leave the operands as they were.
func (p *program) statements(depth int) {
	for range 1 + p.draw(4) {
		if p.left--; p.left < 0 {
			return
		}
		p.statement(depth)
	}
}

func (p *program) statement(depth int) {
	kind := p.draw(15)
	if depth > 5 && kind >= 5 && kind <= 8 {
		kind = 0
	}
	switch kind {
	case 0, 1:
		p.tick()
	case 2:
		if len(p.locals) > 0 {
			i := p.draw(len(p.locals) - 1)
			p.expression(p.locals[i], 3)
			p.emit(binary.OpLocalSet, byte(i))
		}
	case 3:
		p.expression(binary.TypeI32, 2)
		p.emit(binary.OpGlobalSet, spareGlobal)
	case 4:
		p.address()
		t := p.drawType()
		p.expression(t, 2)
		p.emit(map[byte]byte{binary.TypeI32: 0x36, binary.TypeI64: 0x37, binary.TypeF32: 0x38, binary.TypeF64: 0x39}[t], 0, byte(p.draw(100)))
	case 5, 6: // a block or a loop, of values or of a function's type
		typ := byte(p.draw(len(p.types) - 1))
		p.expressions(p.params[typ], 2)
		if kind == 5 {
			p.emit(binary.OpBlock, typ)
			p.labels = append(p.labels, label{p.results[typ]})
		} else {
			p.emit(binary.OpLoop, typ)
			p.labels = append(p.labels, label{p.params[typ]})
			p.step()
		}
		p.drop(len(p.params[typ]))
		p.statements(depth + 1)
		p.expressions(p.results[typ], 2)
		p.emit(binary.OpEnd)
		p.labels = p.labels[:len(p.labels)-1]
		p.drop(len(p.results[typ]))
	case 7, 8: // if
		p.expression(binary.TypeI32, 2)
		p.emit(binary.OpIf, binary.TypeEmpty)
		p.labels = append(p.labels, label{})
		p.statements(depth + 1)
		if p.draw(1) == 0 {
			p.emit(binary.OpElse)
			p.statements(depth + 1)
		}
		p.emit(binary.OpEnd)
		p.labels = p.labels[:len(p.labels)-1]
	case 9, 10: // a branch, and what follows is dead if it is always taken
		depth := p.draw(len(p.labels) - 1)
		types := p.labels[len(p.labels)-1-depth].types
		p.expressions(types, 2)
		if p.draw(3) == 0 {
			p.emit(binary.OpBr, byte(depth))
		} else {
			p.expression(binary.TypeI32, 2)
			p.emit(binary.OpBrIf, byte(depth))
			p.drop(len(types))
		}
	case 11: // a table of the labels without values
		var targets []byte
		for i := range p.labels {
			if len(p.labels[len(p.labels)-1-i].types) == 0 {
				targets = append(targets, byte(i))
			}
		}
		if len(targets) > 0 {
			p.expression(binary.TypeI32, 2)
			p.emit(binary.OpBrTable, byte(len(targets)-1))
			p.emit(targets...)
		}
	case 12:
		p.expressions(p.labels[0].types, 2)
		p.emit(binary.OpReturn)
	case 13, 14:
		f := p.draw(len(p.functions) - 1)
		typ := p.functions[f]
		p.expressions(p.params[typ], 2)
		if kind == 13 {
			p.emit(binary.OpCall, byte(f))
		} else {
			p.emit(binary.OpI32Const, byte(f+1-min(1, p.draw(20))), binary.OpCallIndirect, typ, 0) // sometimes of another type
		}
		p.drop(len(p.results[typ]))
	case 15:
		p.bulk()
	}
}

func (p *program) bulk() {
	for range 2 {
		p.address()
	}
	length := []int32{0, 1, 100, code.BulkSmall, code.BulkSmall + 1, code.BulkChunk, code.BulkChunk + 1, 2*code.BulkChunk - 5, 140_000}[p.draw(8)]
	p.emit(i32c(length)...)
	if p.draw(1) == 0 {
		p.emit(binary.OpBulk, binary.BulkMemoryCopy, 0, 0)
	} else {
		p.emit(binary.OpBulk, binary.BulkMemoryFill, 0)
	}
	if p.draw(3) == 0 {
		p.emit(binary.OpI32Const, byte(p.draw(1)), binary.OpMemoryGrow, 0, 0x1a)
	}
}

func (p *program) drop(n int) {
	for range n {
		p.emit(0x1a)
	}
}

// address pushes one that is within the memory most of the time.
func (p *program) address() {
	switch p.draw(9) {
	case 0:
		p.expression(binary.TypeI32, 1)
	case 1:
		p.emit(i32c(int32(p.draw(300_000)))...)
	default:
		p.emit(i32c(int32(p.draw(66_000)))...)
	}
}

func (p *program) expressions(types []byte, depth int) {
	for _, t := range types {
		p.expression(t, depth)
	}
}

// expression pushes a value of type t.
func (p *program) expression(t byte, depth int) {
	kind := p.draw(9)
	if depth <= 0 {
		kind = min(kind, 1)
	}
	switch kind {
	case 0, 2:
		if i := p.localOf(t); i >= 0 {
			p.emit(binary.OpLocalGet, byte(i))
			return
		}
		fallthrough
	default:
		p.constant(t)
	case 3, 4:
		p.expression(t, depth-1)
		p.expression(t, depth-1)
		ops := map[byte][]byte{
			binary.TypeI32: {0x6a, 0x6b, 0x6c, 0x6d, 0x70, 0x71, 0x73, 0x74, 0x78, 0x48, 0x4d},
			binary.TypeI64: {0x7c, 0x7d, 0x7e, 0x7f, 0x82, 0x83, 0x85, 0x86, 0x8a},
			binary.TypeF32: {0x92, 0x93, 0x94, 0x95, 0x96, 0x98},
			binary.TypeF64: {0xa0, 0xa1, 0xa2, 0xa3, 0xa5, 0xa6},
		}[t]
		p.emit(ops[p.draw(len(ops)-1)])
	case 5:
		from := p.drawType()
		p.expression(from, depth-1)
		if op, ok := map[[2]byte]byte{
			{binary.TypeI64, binary.TypeI32}: 0xa7, {binary.TypeF32, binary.TypeI32}: 0xa8, {binary.TypeF64, binary.TypeI32}: 0xab, {binary.TypeI32, binary.TypeI64}: 0xad, {binary.TypeF32, binary.TypeI64}: 0xae,
			{binary.TypeF64, binary.TypeI64}: 0xb1, {binary.TypeI32, binary.TypeF32}: 0xb2, {binary.TypeI64, binary.TypeF32}: 0xb4, {binary.TypeF64, binary.TypeF32}: 0xb6, {binary.TypeI32, binary.TypeF64}: 0xb7,
			{binary.TypeI64, binary.TypeF64}: 0xba, {binary.TypeF32, binary.TypeF64}: 0xbb,
		}[[2]byte{from, t}]; ok {
			p.emit(op)
		}
	case 6:
		p.address()
		p.emit(map[byte]byte{binary.TypeI32: 0x28, binary.TypeI64: 0x29, binary.TypeF32: 0x2a, binary.TypeF64: 0x2b}[t], 0, byte(p.draw(100)))
	case 7:
		p.expression(t, depth-1)
		p.expression(t, depth-1)
		p.expression(binary.TypeI32, depth-1)
		p.emit(0x1b)
	case 8: // a block or an if with a value
		if p.draw(1) == 0 {
			p.emit(binary.OpBlock, t)
			p.labels = append(p.labels, label{[]byte{t}})
			p.tick()
			p.expression(t, depth-1)
		} else {
			p.expression(binary.TypeI32, depth-1)
			p.emit(binary.OpIf, t)
			p.labels = append(p.labels, label{[]byte{t}})
			p.expression(t, depth-1)
			p.emit(binary.OpElse)
			p.tick()
			p.expression(t, depth-1)
		}
		p.emit(binary.OpEnd)
		p.labels = p.labels[:len(p.labels)-1]
	case 9:
		p.expression(t, depth-1)
		if i := p.localOf(t); i >= 0 {
			p.emit(binary.OpLocalTee, byte(i))
		}
	}
}

func (p *program) localOf(t byte) int {
	if len(p.locals) == 0 {
		return -1
	}
	start := p.draw(len(p.locals) - 1)
	for i := range p.locals {
		if at := (start + i) % len(p.locals); p.locals[at] == t {
			return at
		}
	}
	return -1
}

func (p *program) constant(t byte) {
	n := int32(p.draw(1000)) - 100
	switch t {
	case binary.TypeI32:
		p.emit(i32c(n)...)
	case binary.TypeI64:
		p.emit(i64c(int64(n) << p.draw(20))...)
	case binary.TypeF32:
		p.emit(binary.OpF32Const, 0, byte(n), byte(n>>3), 0x41)
	case binary.TypeF64:
		p.emit(binary.OpF64Const, 0, 0, 0, 0, byte(n), byte(n), 0x20, 0x40)
	}
}

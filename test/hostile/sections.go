package hostile

import (
	"fmt"

	w "github.com/dhowfleet/dhow/wasm/wasmtest"
)

// complete is a guest with every section.
func complete() *w.Guest {
	g := w.NewGuest(w.Log)
	f := g.Func(w.Sig{})
	g.Table(w.FuncRef, 2, 2)
	g.Global(w.I64, true, w.I64Const(5))
	g.Start(f.Index)
	g.Elements(0, f.Index)
	g.PassiveData([]byte("abc"))
	g.Custom("note", []byte("x"))
	return g
}

var sectionNames = map[byte]string{
	w.SectionCustom: "custom", w.SectionType: "type", w.SectionImport: "import", w.SectionFunction: "function", w.SectionTable: "table",
	w.SectionMemory: "memory", w.SectionGlobal: "global", w.SectionExport: "export", w.SectionStart: "start",
	w.SectionElement: "element", w.SectionDataCount: "datacount", w.SectionCode: "code", w.SectionData: "data",
}

// edited is a complete guest whose section i edit changes.
func edited(i int, edit func(w.Section) []w.Section) func() []byte {
	return func() []byte {
		var out []w.Section
		for j, s := range complete().Sections() {
			if j == i {
				out = append(out, edit(s)...)
			} else {
				out = append(out, s)
			}
		}
		return w.Join(out...)
	}
}

// sections are damaged one by one, each in each way.
func sections() []Case {
	b := builder{kind: "malformed section"}
	for i, s := range complete().Sections() {
		name := sectionNames[s.ID]
		if s.ID == w.SectionCustom {
			b.invalid("cut-custom", "the custom section ends within its name", Rewriter, "malformed", edited(i, func(s w.Section) []w.Section {
				return []w.Section{{ID: s.ID, Content: s.Content[:2]}}
			}))
			continue
		}
		b.invalid("cut-"+name, "the "+name+" section lacks its last byte", Rewriter, "malformed", edited(i, func(s w.Section) []w.Section {
			return []w.Section{{ID: s.ID, Content: s.Content[:len(s.Content)-1]}}
		}))
		b.invalid("longer-"+name, "the "+name+" section has a byte too many", Rewriter, "malformed", edited(i, func(s w.Section) []w.Section {
			return []w.Section{{ID: s.ID, Content: append(s.Content[:len(s.Content):len(s.Content)], 0)}}
		}))
		b.invalid("twice-"+name, "the "+name+" section comes twice", Rewriter, "malformed", edited(i, func(s w.Section) []w.Section {
			return []w.Section{s, s}
		}))
		b.invalid("count-"+name, "the "+name+" section says that it has 2^32-1 entries", Rewriter, "", edited(i, func(s w.Section) []w.Section {
			return []w.Section{{ID: s.ID, Content: append([]byte{0xff, 0xff, 0xff, 0xff, 0x0f}, s.Content[1:]...)}}
		}))
		b.cases[len(b.cases)-1].Want.What = countReason(s.ID)
		b.invalid("leb-"+name, "the "+name+" section's first number has more bytes than an integer of 32 bits may have", Rewriter, "malformed", edited(i, func(s w.Section) []w.Section {
			return []w.Section{{ID: s.ID, Content: append([]byte{s.Content[0] | 0x80, 0x80, 0x80, 0x80, 0x80, 0}, s.Content[1:]...)}}
		}))
	}
	return b.cases
}

// countReason is why a section's absurd count is refused: most say more than there are bytes for.
func countReason(id byte) string {
	if id == w.SectionStart {
		return "index" // it has no count: its number is the function's
	}
	return "malformed"
}

// malformed are damaged in ways of their own.
func malformed() []Case {
	b := builder{kind: "malformed module"}
	bad := func(name, does, what string, build func() []byte) { b.invalid(name, does, Rewriter, what, build) }
	text := func(s string) func() []byte { return func() []byte { return []byte(s) } }
	bad("nothing", "no bytes", "not wasm", text(""))
	bad("html", "a web page", "not wasm", text("<!doctype html><title>not found</title>"))
	bad("pointer-file", "a pointer to a file that was never fetched", "not wasm", text("version https://git-lfs.github.com/spec/v1\n"))
	bad("version", "version 2 of WebAssembly's binary form", "not wasm", text("\x00asm\x02\x00\x00\x00"))
	bad("component", "a component", "not wasm", text("\x00asm\x0d\x00\x01\x00"))
	bad("section-too-long", "a section of 2^32-1 bytes", "malformed", text(w.Header+"\x01\xff\xff\xff\xff\x0f"))
	bad("section-unknown", "a section of number 200", "unsupported", text(w.Header+"\xc8\x00"))
	bad("section-of-tags", "exceptions, which are not in WASM 2.0", "unsupported", text(w.Header+"\x0d\x01\x00"))
	bad("order", "the code section before the functions it belongs to", "malformed", func() []byte {
		s := complete().Sections()
		last := len(s) - 1
		s[2], s[last-2] = s[last-2], s[2]
		return w.Join(s...)
	})
	without := func(id byte) func() []byte {
		return func() []byte {
			g := complete()
			g.Replace(id, nil)
			return g.Bytes()
		}
	}
	bad("no-types", "functions without types", "index", without(w.SectionType))
	bad("no-functions", "code without functions", "malformed", func() []byte {
		g := w.New()
		g.Func(w.Sig{})
		g.Replace(w.SectionFunction, nil)
		return g.Bytes()
	})
	bad("no-code", "functions without code", "malformed", without(w.SectionCode))
	bad("fewer-bodies", "one body fewer than functions", "malformed", shaped(func(g *w.Guest) { g.Replace(w.SectionFunction, []byte{5, 0, 1, 2, 3, 3}) }))
	bad("more-bodies", "one body more than functions", "malformed", func() []byte {
		g := w.NewGuest()
		g.Func(w.Sig{})
		g.Replace(w.SectionFunction, []byte{4, 0, 1, 2, 3})
		return g.Bytes()
	})
	bad("data-count", "a data count of other than the segments", "malformed", shaped(func(g *w.Guest) {
		g.PassiveData(nil)
		g.Replace(w.SectionDataCount, []byte{9})
	}))
	bad("data-count-missing", "memory.init without a data count", "index", shaped(func(g *w.Guest) {
		s := g.PassiveData([]byte("x"))
		g.Answering(w.I32Const(0), w.I32Const(0), w.I32Const(1), w.MemoryInit(s))
		g.Replace(w.SectionDataCount, nil)
	}))
	body := func(name, does, what string, entry ...byte) {
		bad(name, does, what, shaped(func(g *w.Guest) { g.Process.Raw(entry) }))
	}
	body("body-empty", "a function of no bytes at all", "malformed", []byte{}...)
	body("body-no-end", "a function that ends within an instruction", "malformed", 0, 0x41)
	body("body-local-type", "a local of a type that there is not", "unsupported", 1, 1, 0x6e, 0x0b)
	body("body-opcode", "an instruction that there is not", "unsupported", 0, 0x27, 0x0b)
	body("body-atomic", "an atomic instruction", "unsupported", 0, 0xfe, 0x10, 2, 0, 0x0b)
	body("body-tail-call", "return_call, for recursion without a stack", "unsupported", 0, 0x12, 2, 0x0b)
	body("body-exception", "try", "unsupported", 0, 0x06, 0x40, 0x0b, 0x41, 0, 0x0b)
	body("body-fc", "0xfc 99", "unsupported", 0, 0xfc, 99, 0x0b)
	body("body-fd", "a 128-bit instruction of relaxed SIMD", "malformed", 0, 0xfd, 0x80, 2, 0x0b)
	body("body-leb", "a constant of 6 bytes", "malformed", 0, 0x41, 0x80, 0x80, 0x80, 0x80, 0x80, 0, 0x0b)
	body("body-leb-bits", "a constant with bits that an i32 does not have", "malformed", 0, 0x41, 0x80, 0x80, 0x80, 0x80, 0x70&^0x40|0x10, 0x0b)
	b.invalid("body-align", "a read aligned to 2^31", Compiler, "", shaped(func(g *w.Guest) { g.Process.Raw([]byte{0, 0x41, 0, 0x28, 31, 0, 0x0b}) }))
	bad("constant-expression", "a global that begins with what a function returns", "malformed", shaped(func(g *w.Guest) { g.Global(w.I32, true, w.Call(0)) }))
	bad("constant-endless", "a global that begins with a loop", "malformed", shaped(func(g *w.Guest) { g.Global(w.I32, true, w.Forever()) }))
	b.invalid("constant-of-other-type", "an i32 global that begins with an i64", Compiler, "", shaped(func(g *w.Guest) { g.Global(w.I32, true, w.I64Const(0)) }))
	bad("mutability", "a global that is neither constant nor mutable", "malformed", shaped(func(g *w.Guest) { g.Replace(w.SectionGlobal, []byte{1, 0x7f, 2, 0x41, 0, 0x0b}) }))
	bad("names-malformed", "a section of names that is none", "malformed", shaped(func(g *w.Guest) { g.Custom("name", []byte{1, 200, 1, 2, 3}) }))
	b.add("names-huge", "a name of 1 MB for each of 4 functions", Nowhere, "", shaped(func(g *w.Guest) { g.Custom("name", hugeNames()) }))
	for i, cut := range []int{9, 20, 60} {
		bad(fmt.Sprintf("cut-%d", i), fmt.Sprintf("the first %d bytes of a module", cut), "malformed", func() []byte { return complete().Bytes()[:cut] })
	}
	return b.cases
}

// hugeNames is the content of a section of names: subsection 1, names of functions.
func hugeNames() []byte {
	name := make([]byte, 1<<20)
	for i := range name {
		name[i] = 'n'
	}
	content := []byte{4}
	for i := range byte(4) {
		content = append(append(content, i, 0x80, 0x80, 0x40), name...)
	}
	size := len(content)
	return append([]byte{1, byte(size)&0x7f | 0x80, byte(size>>7)&0x7f | 0x80, byte(size>>14)&0x7f | 0x80, byte(size >> 21)}, content...)
}

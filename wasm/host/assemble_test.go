package host

import (
	"encoding/binary"

	"github.com/dhowfleet/dhow/wasm/abi"
)

// assembly is a small module put together by hand, for guests that no compiler would make. Its defaults answer every
// request with the return area at answerAt.
type assembly struct {
	version  []byte // body of dhow_abi_version
	realloc  []byte
	process  []byte
	post     []byte
	extra    []byte // body of a function () -> (), index extraIndex
	imports  [][2]string
	tables   []byte // the section's content; nil for none
	memory   []byte // the section's content
	area     abi.ReturnArea
	payload  []byte // lies at payloadAt
	rename   map[string]string
	override []byte // raw sections instead of the code section
}

const (
	answerAt  = 64
	payloadAt = 128
	roomAt    = 4096

	opUnreachable = 0x00
	opLoop        = 0x03
	opIf          = 0x04
	opEnd         = 0x0b
	opBr          = 0x0c
	opCall        = 0x10
	opDrop        = 0x1a
	opLocalGet    = 0x20
	opI32Eq       = 0x46
	empty         = 0x40
)

func uleb(v uint64) []byte { return binary.AppendUvarint(nil, v) }

func sleb(v int32) []byte {
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

func constant(v int32) []byte { return append([]byte{0x41}, sleb(v)...) }

func join(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func vector(parts ...[]byte) []byte { return append(uleb(uint64(len(parts))), join(parts...)...) }

func sized(b []byte) []byte { return append(uleb(uint64(len(b))), b...) }

func section(id byte, content []byte) []byte { return append([]byte{id}, sized(content)...) }

func text(s string) []byte { return sized([]byte(s)) }

// function wraps instructions without locals as an entry of the code section.
func function(instructions []byte) []byte {
	return sized(join([]byte{0}, instructions, []byte{opEnd}))
}

// extraIndex is the index of the extra function when there are n imports.
func extraIndex(imports int) uint64 { return uint64(imports) + 4 }

func (a assembly) build() []byte {
	or := func(b, instead []byte) []byte {
		if b == nil {
			return instead
		}
		return b
	}
	name := func(s string) string {
		if r, ok := a.rename[s]; ok {
			return r
		}
		return s
	}
	types := vector(
		[]byte{0x60, 0, 1, 0x7f},                         // 0: () -> i32
		[]byte{0x60, 4, 0x7f, 0x7f, 0x7f, 0x7f, 1, 0x7f}, // 1: realloc
		[]byte{0x60, 2, 0x7f, 0x7f, 1, 0x7f},             // 2: process
		[]byte{0x60, 1, 0x7f, 0},                         // 3: post
		[]byte{0x60, 0, 0},                               // 4: () -> ()
	)
	var imports [][]byte
	for _, i := range a.imports {
		kind := byte(4)
		if i[1] == "proc_exit" {
			kind = 3
		}
		imports = append(imports, join(text(i[0]), text(i[1]), []byte{0, kind}))
	}
	at := byte(len(a.imports))
	export := func(s string, index byte) []byte { return join(text(name(s)), []byte{0, index}) }
	exports := vector(
		join(text(name(abi.ExportMemory)), []byte{2, 0}),
		export(abi.ExportVersion, at), export(abi.ExportRealloc, at+1), export(abi.ExportProcess, at+2), export(abi.ExportPostProcess, at+3),
	)
	var area [abi.ReturnAreaSize]byte
	if a.area == (abi.ReturnArea{}) && a.payload == nil {
		a.payload = join([]byte{0, 0, 0, 0, 8, 0, 0, 0}) // a list of no tensors
	}
	if a.area.Ptr == 0 {
		a.area.Ptr, a.area.Len = payloadAt, uint32(len(a.payload))
	}
	abi.PutReturnArea(area[:], a.area)
	data := func(at int32, b []byte) []byte { return join([]byte{0}, constant(at), []byte{opEnd}, sized(b)) }

	out := join([]byte("\x00asm\x01\x00\x00\x00"), section(1, types))
	if imports != nil {
		out = join(out, section(2, vector(imports...)))
	}
	out = join(out, section(3, []byte{5, 0, 1, 2, 3, 4}))
	if a.tables != nil {
		out = join(out, section(4, a.tables))
	}
	out = join(out, section(5, or(a.memory, []byte{1, 0, 1})), section(7, exports))
	if a.override != nil {
		return join(out, a.override)
	}
	code := vector(
		function(or(a.version, constant(abi.Version))),
		function(or(a.realloc, constant(roomAt))),
		function(or(a.process, constant(answerAt))),
		function(a.post),
		function(a.extra),
	)
	return join(out, section(10, code), section(11, vector(data(answerAt, area[:]), data(payloadAt, a.payload))))
}

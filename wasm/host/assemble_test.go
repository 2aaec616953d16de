package host

import (
	"bytes"
	"encoding/binary"

	"github.com/dhowfleet/dhow/wasm/abi"
	"github.com/dhowfleet/dhow/wasm/wasmtest"
)

// assembly is a small module put together by hand, for guests that no compiler would make. Its defaults answer every
// request with the return area at answerAt; package wasmtest makes what needs more.
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
	override []byte // raw sections instead of the code section and what follows
}

const (
	answerAt  = wasmtest.AnswerAt
	payloadAt = wasmtest.PayloadAt
	roomAt    = wasmtest.RoomAt

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

func constant(v int32) []byte { return wasmtest.I32Const(v) }

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func vector(parts ...[]byte) []byte { return append(uleb(uint64(len(parts))), join(parts...)...) }

func sized(b []byte) []byte { return append(uleb(uint64(len(b))), b...) }

func section(id byte, content []byte) []byte { return append([]byte{id}, sized(content)...) }

// function wraps instructions without locals as an entry of the code section.
func function(instructions []byte) []byte {
	return sized(join([]byte{0}, instructions, []byte{opEnd}))
}

// extraIndex is the index of the extra function when there are n imports.
func extraIndex(imports int) uint64 { return uint64(imports) + 4 }

func (a assembly) build() []byte {
	var imports []wasmtest.Import
	for _, i := range a.imports {
		s := wasmtest.Sig{}
		if i[1] == "proc_exit" {
			s.Params = []wasmtest.Type{wasmtest.I32}
		}
		imports = append(imports, wasmtest.Import{Module: i[0], Name: i[1], Sig: s})
	}
	g := wasmtest.NewGuest(imports...)
	g.Area, g.Payload = a.area, a.payload
	for _, f := range []struct {
		function *wasmtest.Func
		body     []byte
	}{{g.Version, a.version}, {g.Realloc, a.realloc}, {g.Process, a.process}, {g.Post, a.post}, {g.Func(wasmtest.Sig{}), a.extra}} {
		if f.body != nil {
			f.function.Body(f.body)
		}
	}
	if a.tables != nil {
		g.Replace(wasmtest.SectionTable, a.tables)
	}
	if a.memory != nil {
		g.Replace(wasmtest.SectionMemory, a.memory)
	}
	g.Rename(a.rename)
	if a.override == nil {
		return g.Bytes()
	}
	var before []wasmtest.Section
	for _, s := range g.Sections() {
		if s.ID != wasmtest.SectionCode && s.ID != wasmtest.SectionData {
			before = append(before, s)
		}
	}
	return join(wasmtest.Join(before...), a.override)
}

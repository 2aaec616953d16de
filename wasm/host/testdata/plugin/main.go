//go:build wasip1

// Plugin is an Extism plug-in for tests of the host, on Extism's functions themselves.
package main

import (
	"fmt"
	"strings"
)

//go:wasmimport extism:host/env input_length
func inputLength() uint64

//go:wasmimport extism:host/env input_load_u8
func inputLoad8(offset uint64) uint32

//go:wasmimport extism:host/env input_load_u64
func inputLoad64(offset uint64) uint64

//go:wasmimport extism:host/env length
func length(at uint64) uint64

//go:wasmimport extism:host/env alloc
func alloc(n uint64) uint64

//go:wasmimport extism:host/env load_u8
func load8(at uint64) uint32

//go:wasmimport extism:host/env store_u8
func store8(at uint64, v uint32)

//go:wasmimport extism:host/env store_u64
func store64(at, v uint64)

//go:wasmimport extism:host/env output_set
func outputSet(at, n uint64)

//go:wasmimport extism:host/env error_set
func errorSet(at uint64)

//go:wasmimport extism:host/env config_get
func configGet(name uint64) uint64

//go:wasmimport extism:host/env var_get
func varGet(name uint64) uint64

//go:wasmimport extism:host/env var_set
func varSet(name, value uint64)

//go:wasmimport extism:host/env log_warn
func logWarn(at uint64)

//go:wasmimport extism:host/env http_request
func httpRequest(request, body uint64) uint64

func input() []byte {
	b := make([]byte, inputLength())
	i := 0
	for ; i+8 <= len(b); i += 8 {
		v := inputLoad64(uint64(i))
		for j := range 8 {
			b[i+j] = byte(v >> (8 * j))
		}
	}
	for ; i < len(b); i++ {
		b[i] = byte(inputLoad8(uint64(i)))
	}
	return b
}

func block(b []byte) uint64 {
	at := alloc(uint64(len(b)))
	i := 0
	for ; i+8 <= len(b); i += 8 {
		v := uint64(0)
		for j := range 8 {
			v |= uint64(b[i+j]) << (8 * j)
		}
		store64(at+uint64(i), v)
	}
	for ; i < len(b); i++ {
		store8(at+uint64(i), uint32(b[i]))
	}
	return at
}

func text(at uint64) string {
	b := make([]byte, length(at))
	for i := range b {
		b[i] = byte(load8(at + uint64(i)))
	}
	return string(b)
}

func output(b []byte) { outputSet(block(b), uint64(len(b))) }

var calls int

//go:wasmexport step
func step() int32 {
	calls++
	in := input()
	word, _, _ := strings.Cut(string(in), " ")
	switch word {
	case "error":
		errorSet(block([]byte("no  photo here")))
		return 65
	case "fail":
		return 3
	case "grow":
		for {
			alloc(1 << 20)
		}
	case "spin":
		for {
			calls++
		}
	case "network":
		httpRequest(block([]byte(`{"url":"http://localhost"}`)), 0)
	case "panic":
		panic("so be it")
	case "log":
		logWarn(block([]byte("careful")))
	case "world":
		before := text(varGet(block([]byte("v"))))
		varSet(block([]byte("v")), block([]byte("remembered")))
		output(fmt.Appendf(nil, "%d %q %q %q", calls, before, text(varGet(block([]byte("v")))), text(configGet(block([]byte("configuration"))))))
		return 0
	}
	output(in)
	return 0
}

func main() {}

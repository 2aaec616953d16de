package extism

import (
	"context"
	"fmt"
	"strings"
	"testing"

	sdk "github.com/extism/go-sdk"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
	"github.com/dhowfleet/dhow/wasm/extism"
	"github.com/dhowfleet/dhow/wasm/host"
	"github.com/dhowfleet/dhow/wasm/payload"
	w "github.com/dhowfleet/dhow/wasm/wasmtest"
)

// echoPlugin hands back its input, eight bytes at a time, as Extism's kits do.
func echoPlugin() []byte {
	m := w.New()
	length := m.Import(extism.Module, "input_length", w.Sig{Results: long(1)})
	load := m.Import(extism.Module, "input_load_u64", w.Sig{Params: long(1), Results: long(1)})
	load8 := m.Import(extism.Module, "input_load_u8", w.Sig{Params: long(1), Results: []w.Type{w.I32}})
	alloc := m.Import(extism.Module, "alloc", w.Sig{Params: long(1), Results: long(1)})
	store := m.Import(extism.Module, "store_u64", w.Sig{Params: long(2)})
	store8 := m.Import(extism.Module, "store_u8", w.Sig{Params: []w.Type{w.I64, w.I32}})
	output := m.Import(extism.Module, "output_set", w.Sig{Params: long(2)})
	m.Memory(1, 1)
	m.Export("memory", w.KindMemory, 0)
	const n, at, i = 0, 1, 2
	address := w.Seq(w.LocalGet(at), w.LocalGet(i), w.I64Add)
	next := func(by int64) w.Code { return w.Seq(w.LocalGet(i), w.I64Const(by), w.I64Add, w.LocalSet(i)) }
	f := m.Func(w.Sig{Results: []w.Type{w.I32}},
		w.Call(length), w.LocalSet(n), w.LocalGet(n), w.Call(alloc), w.LocalSet(at),
		w.Block(w.Empty, w.Loop(w.Empty,
			w.LocalGet(n), w.LocalGet(i), w.I64Const(8), w.I64Add, w.I64LtU, w.BrIf(1),
			address, w.LocalGet(i), w.Call(load), w.Call(store), next(8), w.Br(0))),
		w.Block(w.Empty, w.Loop(w.Empty,
			w.LocalGet(i), w.LocalGet(n), w.I64LtU, w.I32Eqz, w.BrIf(1),
			address, w.LocalGet(i), w.Call(load8), w.Call(store8), next(1), w.Br(0))),
		w.LocalGet(at), w.LocalGet(n), w.Call(output), w.I32Const(0))
	m.Export("echo", w.KindFunction, f.Locals(w.I64, w.I64, w.I64).Index)
	return m.Bytes()
}

// echoCommand hands back standard input in pieces of 256 KiB.
func echoCommand() []byte {
	m := w.New()
	read := m.Import(abi.WASIModule, "fd_read", w.WASI("", w.Repeat(w.I32, 4)...).Sig)
	write := m.Import(abi.WASIModule, "fd_write", w.WASI("", w.Repeat(w.I32, 4)...).Sig)
	m.Memory(5, 5)
	m.Export("memory", w.KindMemory, 0)
	const buffer, size = 1 << 16, 1 << 18
	start := m.Func(w.Sig{}, w.Block(w.Empty, w.Loop(w.Empty,
		w.I32Const(0), w.I32Const(buffer), w.I32Store(0), w.I32Const(0), w.I32Const(size), w.I32Store(4),
		w.I32Const(0), w.I32Const(0), w.I32Const(1), w.I32Const(8), w.Call(read), w.Drop,
		w.I32Const(0), w.I32Load(8), w.I32Eqz, w.BrIf(1),
		w.I32Const(0), w.I32Const(0), w.I32Load(8), w.I32Store(4),
		w.I32Const(1), w.I32Const(0), w.I32Const(1), w.I32Const(8), w.Call(write), w.Drop, w.Br(0))))
	m.Export("_start", w.KindFunction, start.Index)
	return m.Bytes()
}

var sizes = []int{4 << 10, 602112}

// BenchmarkEcho is what handing bytes to a program and getting them back takes, in Extism's host and in the two
// compatibility modes here.
func BenchmarkEcho(b *testing.B) {
	ctx := context.Background()
	p, err := sdk.NewPlugin(ctx, sdk.Manifest{Wasm: []sdk.Wasm{sdk.WasmData{Data: echoPlugin()}}}, sdk.PluginConfig{}, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close(ctx)
	r, err := host.NewRuntime(ctx, host.Config{})
	if err != nil {
		b.Fatal(err)
	}
	for _, size := range sizes {
		text := strings.Repeat("x", size-3)
		b.Run(fmt.Sprint("extism-sdk/", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, out, err := p.Call("echo", []byte(text)); err != nil || len(out) != len(text) {
					b.Fatal(len(out), err)
				}
			}
		})
	}
	for name, o := range map[string]struct {
		code    []byte
		options host.Options
	}{
		"plug-in": {echoPlugin(), host.Options{Kind: host.Extism, Function: "echo"}},
		"command": {echoCommand(), host.Options{Kind: host.Command}},
	} {
		o.options.Format = payload.Raw
		m, err := r.Compile(ctx, o.code, o.options)
		if err != nil {
			b.Fatal(err)
		}
		for _, size := range sizes {
			in := []tensor.Tensor{tensor.FromStrings("x", strings.Repeat("x", size-3))}
			b.Run(fmt.Sprint(name, "/", size), func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					if out, err := m.Process(ctx, in, nil); err != nil || len(out[0].Data) != len(in[0].Data) {
						b.Fatal(out, err)
					}
				}
			})
		}
		_ = m.Close()
	}
}

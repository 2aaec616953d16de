package extism

import (
	"context"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/wasm/extism"
	"github.com/dhowfleet/dhow/wasm/wasmtest"
)

// memory is a set of Extism's memory functions: the kernel's, or ours.
type memory struct {
	ctx       context.Context
	functions map[string]api.Function
}

func (m *memory) call(t *rapid.T, name string, params ...uint64) uint64 {
	t.Helper()
	out, err := m.functions[name].Call(m.ctx, params...)
	if err != nil {
		t.Fatalf("%s%v: %v", name, params, err)
	}
	if len(out) == 0 {
		return 0
	}
	return out[0]
}

// signatures are the kernel's exports that plug-ins import.
var signatures = map[string]wasmtest.Sig{
	"alloc":          {Params: long(1), Results: long(1)},
	"free":           {Params: long(1)},
	"length":         {Params: long(1), Results: long(1)},
	"length_unsafe":  {Params: long(1), Results: long(1)},
	"load_u8":        {Params: long(1), Results: []wasmtest.Type{wasmtest.I32}},
	"load_u64":       {Params: long(1), Results: long(1)},
	"store_u8":       {Params: []wasmtest.Type{wasmtest.I64, wasmtest.I32}},
	"store_u64":      {Params: long(2)},
	"input_set":      {Params: long(2)},
	"input_length":   {Results: long(1)},
	"input_offset":   {Results: long(1)},
	"input_load_u8":  {Params: long(1), Results: []wasmtest.Type{wasmtest.I32}},
	"input_load_u64": {Params: long(1), Results: long(1)},
	"output_set":     {Params: long(2)},
	"output_length":  {Results: long(1)},
	"output_offset":  {Results: long(1)},
	"error_set":      {Params: long(1)},
	"error_get":      {Results: long(1)},
	"reset":          {},
}

func long(n int) []wasmtest.Type { return wasmtest.Repeat(wasmtest.I64, n) }

// caller is the instance of our functions.
type caller struct{ state *extism.State }

func (caller) Charge(int64)            {}
func (caller) Log(uint32, []byte)      {}
func (c caller) Plugin() *extism.State { return c.state }

type callerKey struct{}

// pair returns a maker of the two kinds of memory.
func pair(t *testing.T) func() (kernel, here *memory, end func()) {
	t.Helper()
	ctx := context.Background()
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter())
	t.Cleanup(func() { _ = r.Close(ctx) })
	code, err := os.ReadFile(filepath.Join(sdkFolder(t), "extism-runtime.wasm"))
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := r.CompileModule(ctx, code)
	if err != nil {
		t.Fatal(err)
	}
	if err := extism.Instantiate(ctx, r, func(ctx context.Context) extism.Caller { return ctx.Value(callerKey{}).(caller) }); err != nil {
		t.Fatal(err)
	}
	m := wasmtest.New()
	names := slices.Sorted(maps.Keys(signatures))
	for _, name := range names {
		m.Import(extism.Module, name, signatures[name])
	}
	for i, name := range names {
		var body wasmtest.Code
		for j := range signatures[name].Params {
			body = wasmtest.Seq(body, wasmtest.LocalGet(uint32(j)))
		}
		m.Export(name, wasmtest.KindFunction, m.Func(signatures[name], body, wasmtest.Call(uint32(i))).Index)
	}
	trampoline, err := r.CompileModule(ctx, m.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	start := func(c wazero.CompiledModule, ctx context.Context) (*memory, api.Module) {
		guest, err := r.InstantiateModule(ctx, c, wazero.NewModuleConfig().WithName(""))
		if err != nil {
			t.Fatal(err)
		}
		out := &memory{ctx: ctx, functions: map[string]api.Function{}}
		for name := range signatures {
			out.functions[name] = guest.ExportedFunction(name)
		}
		return out, guest
	}
	return func() (*memory, *memory, func()) {
		state, err := extism.NewState(16<<20, nil)
		if err != nil {
			t.Fatal(err)
		}
		theirs, one := start(kernel, ctx)
		ours, two := start(trampoline, context.WithValue(ctx, callerKey{}, caller{state}))
		return theirs, ours, func() {
			_ = one.Close(ctx)
			_ = two.Close(ctx)
			state.Close()
		}
	}
}

// TestTheKernelsMemory: blocks have the same lengths and contents as in Extism's kernel, whatever is stored, freed and
// set in whatever order. Addresses differ.
func TestTheKernelsMemory(t *testing.T) {
	both := pair(t)
	rapid.Check(t, func(t *rapid.T) {
		kernel, here, end := both()
		defer end()
		type block struct {
			theirs, ours uint64
			size         uint64
		}
		var blocks []block
		both := func(t *rapid.T, name string, params ...uint64) {
			t.Helper()
			if a, b := kernel.call(t, name, params...), here.call(t, name, params...); a != b {
				t.Fatalf("%s%v is %d, the kernel's %d", name, params, b, a)
			}
		}
		of := func(t *rapid.T, b block, name string, rest ...uint64) {
			t.Helper()
			a, o := kernel.call(t, name, append([]uint64{b.theirs}, rest...)...), here.call(t, name, append([]uint64{b.ours}, rest...)...)
			if a != o {
				t.Fatalf("%s of a block of %d, %v, is %d, the kernel's %d", name, b.size, rest, o, a)
			}
		}
		inside := func(t *rapid.T, b block, last uint64) block {
			at := rapid.Uint64Range(0, b.size-min(b.size, last)).Draw(t, "offset")
			return block{b.theirs + at, b.ours + at, b.size}
		}
		pick := func(t *rapid.T) block {
			if len(blocks) == 0 {
				t.Skip("no blocks")
			}
			return rapid.SampledFrom(blocks).Draw(t, "block")
		}
		t.Repeat(map[string]func(*rapid.T){
			"alloc": func(t *rapid.T) {
				n := rapid.OneOf(rapid.Uint64Range(0, 64), rapid.Uint64Range(0, 200_000)).Draw(t, "n")
				b := block{kernel.call(t, "alloc", n), here.call(t, "alloc", n), n}
				if (b.theirs == 0) != (b.ours == 0) {
					t.Fatalf("%d bytes are at %d, in the kernel at %d", n, b.ours, b.theirs)
				}
				if n == 0 {
					return
				}
				for i := uint64(0); i+8 <= n && i < 256; i += 8 { // what a reused block holds is nobody's promise
					v := i * 0x9e3779b97f4a7c15
					kernel.call(t, "store_u64", b.theirs+i, v)
					here.call(t, "store_u64", b.ours+i, v)
				}
				for i := min(n&^7, 256); i < min(n, 264); i++ {
					kernel.call(t, "store_u8", b.theirs+i, i&0xff)
					here.call(t, "store_u8", b.ours+i, i&0xff)
				}
				blocks = append(blocks, b)
			},
			"free": func(t *rapid.T) {
				b := pick(t)
				of(t, b, "free")
				of(t, b, "length")
				blocks = slices.DeleteFunc(blocks, func(o block) bool { return o == b })
				both(t, "input_length")
			},
			"store": func(t *rapid.T) {
				b := pick(t)
				if b.size >= 8 {
					at := inside(t, b, 8)
					v := rapid.Uint64().Draw(t, "v")
					of(t, at, "store_u64", v)
					of(t, at, "load_u64")
				}
				at := inside(t, b, 1)
				of(t, at, "store_u8", rapid.Uint64Range(0, 255).Draw(t, "v"))
				of(t, at, "load_u8")
			},
			"input": func(t *rapid.T) {
				b := pick(t)
				of(t, b, "input_set", b.size)
				both(t, "input_length")
			},
			"read the input": func(t *rapid.T) {
				n := here.call(t, "input_length")
				for _, at := range []uint64{0, n / 2, n - 9, n - 8, n - 7, n - 1, n, n + 1, math.MaxUint64} {
					if n > 264 && at > 200 && at < n {
						continue // never written
					}
					both(t, "input_load_u8", at)
					if at < math.MaxUint64-8 { // where the kernel's sum runs over, and its call traps
						both(t, "input_load_u64", at)
					}
				}
			},
			"output": func(t *rapid.T) {
				b := pick(t)
				n := rapid.Uint64Range(0, b.size).Draw(t, "n")
				of(t, b, "output_set", n)
				both(t, "output_length")
				if kernel.call(t, "output_offset") != b.theirs || here.call(t, "output_offset") != b.ours {
					t.Fatalf("output at %d, want %d", here.call(t, "output_offset"), b.ours)
				}
			},
			"error": func(t *rapid.T) {
				b := pick(t)
				of(t, b, "error_set")
				if kernel.call(t, "error_get") != b.theirs || here.call(t, "error_get") != b.ours {
					t.Fatalf("error at %d, want %d", here.call(t, "error_get"), b.ours)
				}
				both(t, "error_set", 0)
				both(t, "error_get")
			},
			"nowhere": func(t *rapid.T) {
				at := rapid.SampledFrom([]uint64{0, 1, 1 << 40, math.MaxUint64 - 7, math.MaxUint64}).Draw(t, "at")
				for _, name := range []string{"length", "load_u8", "load_u64", "free", "error_set"} {
					if name == "load_u8" || name == "load_u64" {
						if at == 1 { // the kernel's own header
							continue
						}
					}
					both(t, name, at)
				}
				if at > 1 {
					both(t, "store_u64", at, 7)
					both(t, "output_set", at, 5)
					both(t, "output_length")
				}
				both(t, "error_set", 0)
			},
			"reset": func(t *rapid.T) {
				both(t, "reset")
				blocks = nil
				for _, name := range []string{"input_length", "output_length", "error_get"} {
					both(t, name)
				}
			},
			"": func(t *rapid.T) {
				for _, b := range blocks {
					of(t, b, "length")
					for i := uint64(0); i+8 <= min(b.size, 256); i += 8 {
						of(t, block{b.theirs + i, b.ours + i, b.size}, "load_u64")
					}
				}
			},
		})
	})
}

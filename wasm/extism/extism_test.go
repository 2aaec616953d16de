package extism

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/wasm/abi"
	"github.com/dhowfleet/dhow/wasm/wasmtest"
)

// instance is a plug-in that can call every function, and its Caller.
type instance struct {
	guest   api.Module
	state   *State
	fuel    int64
	charged int64
	lines   []string
}

var errFuel = errors.New("out of fuel")

func (i *instance) Charge(fuel int64) {
	if fuel < 0 {
		panic("a charge that gives fuel")
	}
	i.charged += fuel
	if i.fuel -= fuel; i.fuel < 0 {
		panic(errFuel)
	}
}

func (i *instance) Log(level uint32, line []byte) {
	i.lines = append(i.lines, fmt.Sprint(level, " ", string(line)))
}

func (i *instance) Plugin() *State { return i.state }

type instanceKey struct{}

func of(ctx context.Context) Caller { return ctx.Value(instanceKey{}).(*instance) }

// trampoline exports a function for each of the host's that does nothing but call it.
func trampoline() []byte {
	m := wasmtest.New()
	value := func(letters string) (out []wasmtest.Type) {
		for _, t := range types(letters) {
			out = append(out, wasmtest.Type(t))
		}
		return out
	}
	for _, f := range functions {
		m.Import(Module, f.name, wasmtest.Sig{Params: value(f.params), Results: value(f.results)})
	}
	for i, f := range functions {
		var body wasmtest.Code
		for j := range f.params {
			body = wasmtest.Seq(body, wasmtest.LocalGet(uint32(j)))
		}
		m.Export(f.name, wasmtest.KindFunction, m.Func(wasmtest.Sig{Params: value(f.params), Results: value(f.results)}, body, wasmtest.Call(uint32(i))).Index)
	}
	return m.Bytes()
}

const limit = 1 << 20

var config = map[string][]byte{"configuration": []byte("cat\ndog\n"), "empty": {}}

// host is a runtime with the functions in it.
type host struct {
	runtime  wazero.Runtime
	compiled wazero.CompiledModule
}

func newHost(t testing.TB) *host {
	t.Helper()
	ctx := context.Background()
	h := &host{runtime: wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter())}
	t.Cleanup(func() { _ = h.runtime.Close(ctx) })
	if err := Instantiate(ctx, h.runtime, of); err != nil {
		t.Fatal(err)
	}
	var err error
	if h.compiled, err = h.runtime.CompileModule(ctx, trampoline()); err != nil {
		t.Fatal(err)
	}
	return h
}

type fataler interface {
	Helper()
	Fatal(...any)
}

func (h *host) instance(t fataler) *instance {
	t.Helper()
	guest, err := h.runtime.InstantiateModule(context.Background(), h.compiled, wazero.NewModuleConfig().WithName(""))
	if err != nil {
		t.Fatal(err)
	}
	state, err := NewState(limit, config)
	if err != nil {
		t.Fatal(err)
	}
	return &instance{guest: guest, state: state, fuel: math.MaxInt64}
}

func (i *instance) close() {
	i.state.Close()
	_ = i.guest.Close(context.Background())
}

func (i *instance) do(name string, params ...uint64) (uint64, error) {
	results, err := i.guest.ExportedFunction(name).Call(context.WithValue(context.Background(), instanceKey{}, i), params...)
	if err != nil || len(results) == 0 {
		return 0, err
	}
	return results[0], nil
}

// must calls a function that may not end the call.
func (i *instance) must(t fataler, name string, params ...uint64) uint64 {
	t.Helper()
	v, err := i.do(name, params...)
	if err != nil {
		t.Fatal(name, params, err)
	}
	return v
}

// put makes a block of text.
func (i *instance) put(t fataler, text string) uint64 {
	at := i.must(t, "alloc", uint64(len(text)))
	for n := range len(text) {
		i.must(t, "store_u8", at+uint64(n), uint64(text[n]))
	}
	return at
}

func (i *instance) get(t fataler, at uint64) string {
	var b []byte
	for n := range i.must(t, "length", at) {
		b = append(b, byte(i.must(t, "load_u8", at+n)))
	}
	return string(b)
}

// TestACall: input is read, output comes out, logs are logged, and the next call knows nothing of it.
func TestACall(t *testing.T) {
	i := newHost(t).instance(t)
	defer i.close()
	room, err := i.state.Input(11)
	if err != nil {
		t.Fatal(err)
	}
	copy(room, "hello world")
	if n := i.must(t, "input_length"); n != 11 {
		t.Errorf("input of %d bytes", n)
	}
	if v := i.must(t, "input_load_u64", 0); v != binary.LittleEndian.Uint64([]byte("hello wo")) {
		t.Errorf("%x", v)
	}
	if v := i.must(t, "input_load_u64", 4); v != 0 { // the kernel reads nothing rather than a part
		t.Errorf("beyond the end: %x", v)
	}
	if v := i.must(t, "input_load_u8", 10); v != 'd' {
		t.Errorf("%x", v)
	}
	if v := i.must(t, "input_load_u8", 11) + i.must(t, "input_load_u8", math.MaxUint64) + i.must(t, "input_load_u64", math.MaxUint64-3); v != 0 {
		t.Errorf("beyond the end: %x", v)
	}
	if v := i.get(t, i.must(t, "input_offset")); v != "hello world" {
		t.Errorf("%q", v)
	}
	out := i.put(t, "some output")
	i.must(t, "output_set", out+5, 6)
	if got := string(i.state.Output()); got != "output" {
		t.Errorf("%q", got)
	}
	i.must(t, "log_warn", i.put(t, "careful"))
	i.must(t, "log_info", i.put(t, strings.Repeat("x", 2*abi.MaxLogLine)))
	if len(i.lines) != 2 || i.lines[0] != "2 careful" || len(i.lines[1]) != abi.MaxLogLine+2 {
		t.Errorf("%q", i.lines)
	}
	if got := i.get(t, i.must(t, "config_get", i.put(t, "configuration"))); got != "cat\ndog\n" {
		t.Errorf("%q", got)
	}
	if at := i.must(t, "config_get", i.put(t, "else")); at != 0 {
		t.Errorf("unknown configuration at %d", at)
	}
	i.must(t, "var_set", i.put(t, "count"), i.put(t, "1"))
	if got := i.get(t, i.must(t, "var_get", i.put(t, "count"))); got != "1" {
		t.Errorf("%q", got)
	}
	if _, failed := i.state.Failure(); failed {
		t.Error("it failed before it said so")
	}
	i.must(t, "error_set", i.put(t, "no cats"))
	if text, failed := i.state.Failure(); !failed || string(text) != "no cats" || i.get(t, i.must(t, "error_get")) != "no cats" {
		t.Errorf("%q, %v", text, failed)
	}

	if _, err := i.state.Input(0); err != nil {
		t.Fatal(err)
	}
	_, failed := i.state.Failure()
	if i.must(t, "input_length") != 0 || i.must(t, "var_get", i.put(t, "count")) != 0 || len(i.state.Output()) != 0 || failed || bytes.ContainsAny(i.state.memory[:limit], "hw") {
		t.Error("the next call knows of it")
	}
}

func TestNoNetwork(t *testing.T) {
	i := newHost(t).instance(t)
	defer i.close()
	if _, err := i.do("http_request", i.put(t, `{"url":"http://localhost"}`), 0); !errors.Is(err, ErrNetwork) {
		t.Errorf("%v", err)
	}
	if i.must(t, "http_status_code") != 0 || i.must(t, "http_headers") != 0 {
		t.Error("there was an answer")
	}
}

func TestTheArenaIsBounded(t *testing.T) {
	i := newHost(t).instance(t)
	defer i.close()
	for _, n := range []uint64{limit, limit + 1, 1 << 32, 1 << 40, math.MaxUint64} {
		if at, err := i.do("alloc", n); !errors.Is(err, ErrMemory) {
			t.Errorf("%d bytes at %d, %v", n, at, err)
		}
	}
	if at := i.must(t, "alloc", limit-first); at != first {
		t.Errorf("all of it at %d", at)
	}
	i.must(t, "store_u64", limit-8, 7)
	if i.must(t, "load_u64", limit-8) != 7 {
		t.Error("the last word is lost")
	}
	if at, err := i.do("alloc", 1); !errors.Is(err, ErrMemory) {
		t.Errorf("one byte more at %d, %v", at, err)
	}
	i.state.Reset()
	if i.must(t, "load_u64", limit-8) != 0 || i.must(t, "memory_bytes") != first {
		t.Error("a reset left something")
	}
	for n := 0; ; n++ {
		if _, err := i.do("alloc", 1); err != nil {
			if !errors.Is(err, ErrMemory) || n != (limit-first)/32 {
				t.Errorf("after %d blocks: %v", n, err)
			}
			break
		}
	}
	if _, err := i.state.Input(limit); !errors.Is(err, ErrMemory) {
		t.Errorf("too much input: %v", err)
	}
	i.fuel = 1000
	i.state.Reset()
	if _, err := i.do("alloc", limit/2); !errors.Is(err, errFuel) {
		t.Errorf("a block that the fuel does not reach: %v", err)
	}
}

func TestVariablesAreBounded(t *testing.T) {
	i := newHost(t).instance(t)
	defer i.close()
	half := i.must(t, "alloc", limit/2)
	i.must(t, "var_set", i.put(t, "a"), half)
	for range 3 { // setting again takes the place of the first
		i.must(t, "var_set", i.put(t, "a"), i.must(t, "alloc", limit/2))
	}
	if _, err := i.do("var_set", i.put(t, "b"), i.must(t, "alloc", limit/2)); !errors.Is(err, ErrVariables) {
		t.Errorf("%v", err)
	}
	i.must(t, "var_set", i.put(t, "a"), 0)
	if i.state.kept != 0 || i.must(t, "var_get", i.put(t, "a")) != 0 {
		t.Errorf("%d bytes are kept of nothing", i.state.kept)
	}
	for n := range maxVariables {
		i.must(t, "var_set", i.put(t, fmt.Sprint(n)), i.put(t, "v"))
	}
	if _, err := i.do("var_set", i.put(t, "more"), i.put(t, "v")); !errors.Is(err, ErrVariables) {
		t.Errorf("%v", err)
	}
}

// TestSizeClasses: a class holds what falls into it, wastes a quarter at most, and larger sizes have higher classes.
func TestSizeClasses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.OneOf(rapid.Uint64Range(1, 200), rapid.Uint64Range(1, 1<<32)).Draw(t, "n")
		size, class := sizeClass(n)
		if size < n || size > max(32, n+n/4) || size%8 != 0 || class < 0 || class >= 64*steps {
			t.Fatalf("%d bytes go into %d, class %d", n, size, class)
		}
		if again, same := sizeClass(size); again != size || same != class {
			t.Fatalf("%d is of class %d, its size %d of class %d and size %d", n, class, size, same, again)
		}
		if more, higher := sizeClass(size + 1); more <= size || higher <= class {
			t.Fatalf("%d is no more than %d", more, size)
		}
	})
}

// TestBlocksAgainstAModel: blocks do not overlap, keep what is written to them, and have the length that was asked for
// until they are freed.
func TestBlocksAgainstAModel(t *testing.T) {
	h := newHost(t)
	rapid.Check(t, func(t *rapid.T) {
		i := h.instance(t)
		defer i.close()
		model := map[uint64][]byte{}
		pick := func(t *rapid.T) uint64 {
			return rapid.SampledFrom(append(slices.Sorted(maps.Keys(model)), 0, 1, first+1, math.MaxUint64)).Draw(t, "block")
		}
		t.Repeat(map[string]func(*rapid.T){
			"alloc": func(t *rapid.T) {
				n := rapid.OneOf(rapid.Uint64Range(0, 100), rapid.Uint64Range(0, limit/8)).Draw(t, "n")
				at, err := i.do("alloc", n)
				if err != nil {
					used := 0
					for _, b := range model {
						used += len(b)
					}
					if !errors.Is(err, ErrMemory) || i.state.top+n+n/4+32 < limit {
						t.Fatalf("no room for %d bytes beside %d: %v", n, used, err)
					}
					return
				}
				if n == 0 {
					if at != 0 {
						t.Fatalf("a block of nothing at %d", at)
					}
					return
				}
				for other, b := range model {
					if at < other+uint64(len(b)) && other < at+n {
						t.Fatalf("%d bytes at %d overlap %d at %d", n, at, len(b), other)
					}
				}
				model[at] = make([]byte, n)
				copy(model[at], i.state.memory[at:])
			},
			"free": func(t *rapid.T) {
				at := pick(t)
				i.must(t, "free", at)
				delete(model, at)
			},
			"store": func(t *rapid.T) {
				at := pick(t)
				v := rapid.Uint64().Draw(t, "v")
				if b := model[at]; len(b) >= 8 {
					offset := rapid.IntRange(0, len(b)-8).Draw(t, "offset")
					i.must(t, "store_u64", at+uint64(offset), v)
					binary.LittleEndian.PutUint64(b[offset:], v)
				} else if len(b) > 0 {
					i.must(t, "store_u8", at, v&0xff)
					b[0] = byte(v)
				} else {
					i.must(t, "store_u64", math.MaxUint64-uint64(rapid.IntRange(0, 9).Draw(t, "near the end")), v)
				}
			},
			"": func(t *rapid.T) {
				for at, b := range model {
					if n := i.must(t, "length", at); n != uint64(len(b)) || !bytes.Equal(i.state.block(at), b) {
						t.Fatalf("the block at %d has %d bytes, want %d: %x, want %x", at, n, len(b), i.state.block(at), b)
					}
				}
			},
		})
	})
}

var value = rapid.OneOf(
	rapid.Uint64Range(0, 8),
	rapid.Custom(func(t *rapid.T) uint64 { return first + 32*rapid.Uint64Range(0, 10).Draw(t, "block") }),
	rapid.SampledFrom([]uint64{limit - 1, limit, math.MaxUint32, math.MaxUint32 + 1, math.MaxInt64, math.MaxUint64 - 7, math.MaxUint64}),
	rapid.Uint64(),
)

// TestAnyCalls: whatever a plug-in asks, it is answered or its call ends; what changes was paid for; and after a Reset
// nothing is left of it.
func TestAnyCalls(t *testing.T) {
	h := newHost(t)
	rapid.Check(t, func(t *rapid.T) {
		i := h.instance(t)
		defer i.close()
		i.fuel = rapid.Int64Range(0, 200_000).Draw(t, "fuel")
		room, err := i.state.Input(rapid.IntRange(0, 100).Draw(t, "input"))
		if err != nil {
			t.Fatal(err)
		}
		for n := range room {
			room[n] = byte(n)
		}
		for range rapid.IntRange(1, 30).Draw(t, "calls") {
			f := rapid.SampledFrom(functions).Draw(t, "function")
			var params []uint64
			for _, p := range f.params {
				v := value.Draw(t, "parameter")
				if p == 'i' {
					v = uint64(uint32(v))
				}
				params = append(params, v)
			}
			top, charged := i.state.top, i.charged
			_, err := i.do(f.name, params...)
			if err != nil && !errors.Is(err, errFuel) && !errors.Is(err, ErrMemory) && !errors.Is(err, ErrNetwork) && !errors.Is(err, ErrVariables) {
				t.Fatalf("%s%v: %v", f.name, params, err)
			}
			if grown := int64(i.state.top) - int64(top); grown > 2*perMove*(i.charged-charged) {
				t.Fatalf("%s%v: %d bytes for %d", f.name, params, grown, i.charged-charged)
			}
			if out := i.state.Output(); len(out) > limit {
				t.Fatalf("output of %d bytes", len(out))
			}
		}
		i.state.Reset()
		for at, b := range i.state.memory {
			if b != 0 {
				t.Fatalf("a reset left %d at %d", b, at)
			}
		}
		if len(i.state.variables) != 0 || i.state.kept != 0 || i.state.spares || len(i.state.blocks) != 0 || i.state.top != first {
			t.Fatalf("a reset left %+v", i.state)
		}
	})
}

// TestALargeArenaIsGivenBack: what lies beyond the part that stays is zero too.
func TestALargeArenaIsGivenBack(t *testing.T) {
	s, err := NewState(3*keepResident, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	room, err := s.Input(2*keepResident + 5)
	if err != nil {
		t.Fatal(err)
	}
	for n := range room {
		room[n] = 1
	}
	s.Reset()
	for at, b := range s.memory {
		if b != 0 {
			t.Fatalf("%d at %d", b, at)
		}
	}
}

// TestBlocksAreCounted: small blocks cannot take more of the host's memory than their number allows.
func TestBlocksAreCounted(t *testing.T) {
	s, err := NewState(64*maxBlocks, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range maxBlocks {
		s.allocate(1)
	}
	defer func() {
		if err, _ := recover().(error); !errors.Is(err, ErrMemory) {
			t.Errorf("one more block: %v", err)
		}
	}()
	s.allocate(1)
	t.Error("there was one more block")
}

func TestLimits(t *testing.T) {
	for _, n := range []int64{-1, 0, pageSize - 1, 1 << 32, math.MaxInt64} {
		if s, err := NewState(n, nil); err == nil {
			s.Close()
			t.Errorf("a limit of %d was taken", n)
		}
	}
	s, err := NewState(pageSize, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	s.Close()
}

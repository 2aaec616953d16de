package wasi

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/sys"

	"github.com/dhowfleet/dhow/wasm/abi"
	"github.com/dhowfleet/dhow/wasm/wasmtest"
)

// instance is a guest that can call every function, and its Caller.
type instance struct {
	guest   api.Module
	memory  []byte
	state   State
	fuel    int64 // left; a call that takes more ends with errFuel
	charged int64
	lines   map[uint32]string
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

func (i *instance) Line(fd uint32, b []byte) { i.lines[fd] += string(b) }
func (i *instance) WASI() *State             { return &i.state }

type instanceKey struct{}

func of(ctx context.Context) Caller { return ctx.Value(instanceKey{}).(*instance) }

// trampoline exports a function for each of preview 1 that does nothing but call it.
func trampoline(pages uint64) []byte {
	m := wasmtest.New()
	m.Memory(pages, int64(pages))
	m.Export("memory", wasmtest.KindMemory, 0)
	signatures := make([]wasmtest.Sig, len(functions))
	for i, f := range functions {
		for _, t := range types(f.params) {
			signatures[i].Params = append(signatures[i].Params, wasmtest.Type(t))
		}
		if f.name != "proc_exit" {
			signatures[i].Results = []wasmtest.Type{wasmtest.I32}
		}
		m.Import(abi.WASIModule, f.name, signatures[i])
	}
	for i, f := range functions {
		var body wasmtest.Code
		for j := range f.params {
			body = wasmtest.Seq(body, wasmtest.LocalGet(uint32(j)))
		}
		m.Export(f.name, wasmtest.KindFunction, m.Func(signatures[i], body, wasmtest.Call(uint32(i))).Index)
	}
	return m.Bytes()
}

const pages = 4

// worldOf is a runtime with the functions in it.
type worldOf struct {
	runtime  wazero.Runtime
	compiled wazero.CompiledModule
}

func newWorld(t testing.TB, grants Grants) *worldOf {
	t.Helper()
	ctx := context.Background()
	w := &worldOf{runtime: wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter())}
	t.Cleanup(func() { _ = w.runtime.Close(ctx) })
	if err := Instantiate(ctx, w.runtime, grants, of); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.compiled, err = w.runtime.CompileModule(ctx, trampoline(pages)); err != nil {
		t.Fatal(err)
	}
	return w
}

type fataler interface {
	Helper()
	Fatal(...any)
}

func (w *worldOf) instance(t fataler) *instance {
	t.Helper()
	guest, err := w.runtime.InstantiateModule(context.Background(), w.compiled, wazero.NewModuleConfig().WithName(""))
	if err != nil {
		t.Fatal(err)
	}
	memory, _ := guest.Memory().Read(0, guest.Memory().Size())
	return &instance{guest: guest, memory: memory, fuel: math.MaxInt64, lines: map[uint32]string{}}
}

func (i *instance) close() {
	i.state.Close()
	_ = i.guest.Close(context.Background())
}

// do calls a function.
func (i *instance) do(name string, params ...uint64) (errno, error) {
	results, err := i.guest.ExportedFunction(name).Call(context.WithValue(context.Background(), instanceKey{}, i), params...)
	if err != nil || len(results) == 0 {
		return 0, err
	}
	return errno(results[0]), nil
}

// must calls a function that has to answer with e.
func (i *instance) must(t testing.TB, e errno, name string, params ...uint64) {
	t.Helper()
	if got, err := i.do(name, params...); err != nil || got != e {
		t.Errorf("%s%v: error number %d, %v, want %d", name, params, got, err, e)
	}
}

func (i *instance) u32(at uint32) uint32 { return binary.LittleEndian.Uint32(i.memory[at:]) }
func (i *instance) u64(at uint32) uint64 { return binary.LittleEndian.Uint64(i.memory[at:]) }

// pieces writes a list of pieces at 64.
func (i *instance) pieces(list ...uint32) {
	for n, v := range list {
		binary.LittleEndian.PutUint32(i.memory[64+4*n:], v)
	}
}

// TestNothingIsOpen: without grants there is no file, argument, variable or socket, and standard input is empty.
func TestNothingIsOpen(t *testing.T) {
	i := newWorld(t, Grants{}).instance(t)
	defer i.close()
	i.must(t, errBadf, "fd_prestat_get", 3, 16)
	i.must(t, errBadf, "fd_filestat_get", 3, 16)
	i.must(t, errBadf, "fd_readdir", 3, 16, 100, 0, 8)
	copy(i.memory[200:], "etc/passwd")
	for fd := range uint64(6) {
		if e, err := i.do("path_open", fd, 1, 200, 10, 0, rightRead, 0, 0, 8); err != nil || e == ok {
			t.Errorf("a file was opened from descriptor %d: %d, %v", fd, e, err)
		}
		if e, err := i.do("path_filestat_get", fd, 1, 200, 10, 8); err != nil || e == ok {
			t.Errorf("a file was looked at from descriptor %d: %d, %v", fd, e, err)
		}
	}
	for _, name := range []string{"args_sizes_get", "environ_sizes_get"} {
		copy(i.memory[8:], "\xff\xff\xff\xff\xff\xff\xff\xff")
		i.must(t, ok, name, 8, 12)
		if i.u64(8) != 0 {
			t.Errorf("%s: %x", name, i.memory[8:16])
		}
	}
	i.pieces(1000, 100)
	i.must(t, ok, "fd_read", 0, 64, 1, 8)
	if i.u32(8) != 0 {
		t.Errorf("standard input has %d bytes", i.u32(8))
	}
	i.must(t, errNotSock, "sock_accept", 0, 0, 8)
	i.must(t, errBadf, "sock_send", 7, 64, 1, 0, 8)
}

func TestOutput(t *testing.T) {
	w := newWorld(t, Grants{})
	i := w.instance(t)
	defer i.close()
	copy(i.memory[1000:], "hello, world")
	i.pieces(1000, 7, 1007, 5)
	i.must(t, ok, "fd_write", 1, 64, 2, 8)
	i.must(t, ok, "fd_write", 2, 64, 1, 8)
	if i.lines[1] != "hello, world" || i.lines[2] != "hello, " || i.u32(8) != 7 {
		t.Errorf("%q and %q, %d", i.lines[1], i.lines[2], i.u32(8))
	}
	i.must(t, errBadf, "fd_write", 0, 64, 1, 8)
	i.must(t, errBadf, "fd_read", 1, 64, 1, 8)
	i.must(t, errSeek, "fd_seek", 1, 0, 0, 8)

	// As a command, it reads what it was given, and what it writes is kept, up to the bound.
	i.state.Command([]string{"prog", "-x"}, []byte("some input"), 15)
	i.must(t, ok, "args_sizes_get", 8, 12)
	if i.u32(8) != 2 || i.u32(12) != 8 {
		t.Errorf("arguments: %x", i.memory[8:16])
	}
	i.must(t, ok, "args_get", 300, 400)
	if !bytes.Equal(i.memory[400:408], []byte("prog\x00-x\x00")) || i.u32(304) != 405 {
		t.Errorf("arguments: %q, %d", i.memory[400:408], i.u32(304))
	}
	i.pieces(2000, 4, 2004, 100)
	i.must(t, ok, "fd_read", 0, 64, 2, 8)
	if string(i.memory[2000:2010]) != "some input" || i.u32(8) != 10 {
		t.Errorf("read %q, %d", i.memory[2000:2010], i.u32(8))
	}
	i.must(t, ok, "fd_read", 0, 64, 2, 8)
	if i.u32(8) != 0 {
		t.Errorf("read on: %d", i.u32(8))
	}
	i.pieces(1000, 12)
	i.must(t, ok, "fd_write", 1, 64, 1, 8)
	if string(i.state.Output()) != "hello, world" || i.lines[1] != "hello, world" {
		t.Errorf("output %q", i.state.Output())
	}
	if _, err := i.do("fd_write", 1, 64, 1, 8); !errors.Is(err, ErrOutput) {
		t.Errorf("beyond the bound: %v", err)
	}
	i.state.Reset()
	i.must(t, ok, "fd_read", 0, 64, 1, 8)
	if i.u32(8) != 0 || len(i.state.Output()) != 0 {
		t.Errorf("after a reset: %d bytes to read, %d written", i.u32(8), len(i.state.Output()))
	}
}

// TestLinesArePaidFor: a flood of short lines costs by the line.
func TestLinesArePaidFor(t *testing.T) {
	i := newWorld(t, Grants{}).instance(t)
	defer i.close()
	text := bytes.Repeat([]byte("a\n"), 30_000)
	copy(i.memory[1000:], text)
	i.pieces(1000, uint32(len(text)))
	i.must(t, ok, "fd_write", 2, 64, 1, 8)
	if i.lines[2] != string(text) || i.charged < 30_000*costLine {
		t.Errorf("%d bytes for %d", len(i.lines[2]), i.charged)
	}
	i.fuel, i.lines[2] = 1000*costLine, ""
	if _, err := i.do("fd_write", 2, 64, 1, 8); !errors.Is(err, errFuel) || len(i.lines[2]) > 2000 {
		t.Errorf("%d bytes without fuel: %v", len(i.lines[2]), err)
	}
}

// TestExitLeavesTheModuleOpen: an instance that left can be used again.
func TestExitLeavesTheModuleOpen(t *testing.T) {
	i := newWorld(t, Grants{}).instance(t)
	defer i.close()
	for _, code := range []uint64{0, 7, math.MaxUint32} {
		var exit *sys.ExitError
		if _, err := i.do("proc_exit", code); !errors.As(err, &exit) || exit.ExitCode() != uint32(code) {
			t.Errorf("exit %d: %v", code, err)
		}
		i.must(t, ok, "sched_yield")
	}
	if i.guest.IsClosed() {
		t.Error("the module was closed")
	}
}

// TestTheClock: it begins where it always begins, goes on with every look, and sleeping moves it on.
func TestTheClock(t *testing.T) {
	i := newWorld(t, Grants{}).instance(t)
	defer i.close()
	i.must(t, ok, "clock_time_get", clockReal, 0, 8)
	if got := i.u64(8); got != clockBegins+uint64(clockStep) {
		t.Errorf("the clock begins at %d", got)
	}
	i.must(t, ok, "clock_time_get", clockMonotonic, 0, 8)
	before := i.u64(8)
	const hour = 3600e9
	sleep := func(timeout uint64, flags byte) uint32 {
		s := i.memory[512:][:subscriptionSize]
		clear(s)
		binary.LittleEndian.PutUint32(s[16:], clockMonotonic)
		binary.LittleEndian.PutUint64(s[24:], timeout)
		s[40] = flags
		i.must(t, ok, "poll_oneoff", 512, 600, 1, 8)
		return i.u32(8)
	}
	if n := sleep(hour, 0); n != 1 {
		t.Errorf("%d events", n)
	}
	i.must(t, ok, "clock_time_get", clockMonotonic, 0, 8)
	if got := i.u64(8) - before; got != hour+uint64(clockStep) {
		t.Errorf("an hour's sleep took %d ns", got)
	}
	if n := sleep(before+2*hour, flagAbsolute); n != 1 {
		t.Errorf("%d events", n)
	}
	i.must(t, ok, "clock_time_get", clockMonotonic, 0, 8)
	if got := i.u64(8) - before; got != 2*hour+uint64(clockStep) {
		t.Errorf("sleeping until then came to %d ns", got)
	}
	if n := sleep(math.MaxUint64, 0); n != 1 {
		t.Errorf("sleeping for ever: %d events", n)
	}
	i.must(t, ok, "clock_time_get", clockMonotonic, 0, 8)
	if got := i.u64(8); got > uint64(maxSlept)+1e12 {
		t.Errorf("the clock ran to %d", got)
	}
	i.must(t, errInvalid, "clock_time_get", 4, 0, 8)
	i.must(t, errInvalid, "poll_oneoff", 512, 600, 0, 8)
}

// TestPollTellsWhatIsDue: of several clocks the first rings, and none while a descriptor is ready.
func TestPollTellsWhatIsDue(t *testing.T) {
	i := newWorld(t, Grants{}).instance(t)
	defer i.close()
	i.state.Command(nil, []byte("xyz"), 0)
	put := func(n int, user byte, tag byte, arg uint32, timeout uint64) {
		s := i.memory[512+n*subscriptionSize:][:subscriptionSize]
		clear(s)
		s[0], s[8] = user, tag
		binary.LittleEndian.PutUint32(s[16:], arg)
		binary.LittleEndian.PutUint64(s[24:], timeout)
	}
	put(0, 1, eventClock, clockMonotonic, 30)
	put(1, 2, eventClock, clockReal, 20)
	put(2, 3, eventClock, clockMonotonic, 20)
	i.must(t, ok, "poll_oneoff", 512, 512, 3, 8) // the answer over the question
	if i.u32(8) != 2 || i.memory[512] != 2 || i.memory[512+eventSize] != 3 {
		t.Errorf("%d events: %x", i.u32(8), i.memory[512:512+2*eventSize])
	}
	put(0, 1, eventClock, clockMonotonic, 30)
	put(1, 2, eventRead, 0, 0)
	put(2, 3, eventWrite, 9, 0)
	i.must(t, ok, "poll_oneoff", 512, 1024, 3, 8)
	if i.u32(8) != 2 || i.memory[1024] != 2 || i.u64(1024+16) != 3 || i.memory[1024+eventSize] != 3 || i.memory[1024+eventSize+8] != byte(errBadf) {
		t.Errorf("%d events: %x", i.u32(8), i.memory[1024:1024+2*eventSize])
	}
}

func TestGrantedClockAndRandom(t *testing.T) {
	i := newWorld(t, Grants{Clock: true, Random: true}).instance(t)
	defer i.close()
	i.must(t, ok, "clock_time_get", clockReal, 0, 8)
	if i.u64(8) < 1.75e18 {
		t.Errorf("the clock says %d", i.u64(8))
	}
	i.must(t, ok, "random_get", 1000, 32)
	first := string(i.memory[1000:1032])
	i.state.Reset()
	i.must(t, ok, "random_get", 1000, 32)
	if second := string(i.memory[1000:1032]); first == second {
		t.Errorf("the same random bytes twice: %x", first)
	}
	i.fuel = 50_000
	if _, err := i.do("random_get", 0, pages<<16); !errors.Is(err, errFuel) {
		t.Errorf("more random bytes than fuel: %v", err)
	}
}

func TestAGuestWithoutMemory(t *testing.T) {
	w := newWorld(t, Grants{})
	m := wasmtest.New()
	get := m.Import(abi.WASIModule, "random_get", wasmtest.Sig{Params: wasmtest.Repeat(wasmtest.I32, 2), Results: []wasmtest.Type{wasmtest.I32}})
	m.Export("do", wasmtest.KindFunction, m.Func(wasmtest.Sig{}, wasmtest.I32Const(0), wasmtest.I32Const(8), wasmtest.Call(get), wasmtest.Drop).Index)
	ctx := context.WithValue(context.Background(), instanceKey{}, &instance{fuel: math.MaxInt64})
	guest, err := w.runtime.Instantiate(ctx, m.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := guest.ExportedFunction("do").Call(ctx); !errors.Is(err, errNoMemory) {
		t.Errorf("%v", err)
	}
}

package host

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
	"github.com/dhowfleet/dhow/wasm/metering"
	"github.com/dhowfleet/dhow/wasm/wasmtest"
)

// scribbler draws a guest that writes everywhere: into memory, globals and new pages, before and during a request, and
// that may end by a trap, by running on, or by recursing.
func scribbler(t *rapid.T) *wasmtest.Guest {
	first := rapid.Uint64Range(1, 4).Draw(t, "pages")
	highest := rapid.SampledFrom([]int64{wasmtest.NoMax, int64(first), int64(first) + 1, 6}).Draw(t, "maximum")
	g := wasmtest.NewGuest()
	g.Memory(first, highest)
	types := []wasmtest.Type{wasmtest.I32, wasmtest.I64, wasmtest.F32, wasmtest.F64}
	constant := func(typ wasmtest.Type) wasmtest.Code {
		v := rapid.Int32().Draw(t, "value")
		switch typ {
		case wasmtest.I64:
			return wasmtest.I64Const(int64(v) << 20)
		case wasmtest.F32:
			return wasmtest.F32Const(float32(v))
		case wasmtest.F64:
			return wasmtest.F64Const(float64(v))
		}
		return wasmtest.I32Const(v)
	}
	globals := rapid.SliceOfN(rapid.SampledFrom(types), 0, 4).Draw(t, "globals")
	for _, typ := range globals {
		g.Global(typ, true, constant(typ))
	}
	scribble := func() wasmtest.Code {
		var body wasmtest.Code
		for range rapid.IntRange(0, 6).Draw(t, "writes") {
			at := rapid.Int32Range(8192, int32(first)<<16-8).Draw(t, "at")
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				body = wasmtest.Seq(body, wasmtest.I32Const(at), constant(wasmtest.I64), wasmtest.I64Store(0))
			case 1:
				// The last bytes of memory, as large as it is by now.
				end := wasmtest.Seq(wasmtest.Raw(0x3f, 0), wasmtest.I32Const(1<<16), wasmtest.Raw(0x6c), wasmtest.I32Const(-8), wasmtest.Raw(0x6a))
				body = wasmtest.Seq(body, end, constant(wasmtest.I64), wasmtest.I64Store(0))
			case 2:
				body = wasmtest.Seq(body, wasmtest.I32Const(rapid.Int32Range(0, 3).Draw(t, "grow")), wasmtest.Raw(0x40, 0), wasmtest.Drop)
			case 3:
				if len(globals) > 0 {
					i := rapid.IntRange(0, len(globals)-1).Draw(t, "global")
					body = wasmtest.Seq(body, constant(globals[i]), wasmtest.GlobalSet(uint32(i)))
				}
			}
		}
		return body
	}
	g.Configure(scribble(), wasmtest.I32Const(0))
	self := wasmtest.Call(g.Process.Index)
	ends := []wasmtest.Code{{}, {}, wasmtest.Unreachable, wasmtest.Forever(), wasmtest.Seq(wasmtest.I32Const(0), wasmtest.I32Const(0), self, wasmtest.Drop)}
	g.Answering(scribble(), rapid.SampledFrom(ends).Draw(t, "end"))
	g.Post.Body(scribble())
	return g
}

// held is all that an instance could remember.
func held(t *rapid.T, in *instance) ([]byte, []uint64) {
	b, ok := in.guest.Memory().Read(0, in.guest.Memory().Size())
	if !ok {
		t.Fatal("the memory cannot be read")
	}
	var values []uint64
	for _, g := range in.globals {
		values = append(values, g.Get())
	}
	return b, values
}

// TestAResetInstanceCannotBeToldFromANewOne, however it wrote and however its calls ended.
func TestAResetInstanceCannotBeToldFromANewOne(t *testing.T) {
	resets := uint64(0)
	rapid.Check(t, func(rt *rapid.T) {
		r, err := NewRuntime(context.Background(), Config{})
		if err != nil {
			rt.Fatal(err)
		}
		state := rapid.SampledFrom([]State{Reset, Keep}).Draw(rt, "state")
		m, err := r.Compile(context.Background(), scribbler(rt).Bytes(), Options{Instances: 1, State: state, Limits: Limits{Memory: 5 << 16, Fuel: 100_000, Stack: 4096, Timeout: time.Minute}})
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { _ = m.Close() }()
		for range 3 {
			_, err := m.Process(context.Background(), request("x"), nil)
			if err != nil && !errors.Is(err, ErrTrap) && !errors.Is(err, ErrFuel) && !errors.Is(err, ErrStack) {
				rt.Fatal(err)
			}
			if state == Keep && err == nil {
				continue // it may remember
			}
			if len(m.idle) == 0 {
				continue // it took too much stack, and is gone
			}
			used := m.idle[0]
			fresh, err := m.start(context.Background())
			if err != nil {
				rt.Fatal(err)
			}
			memory, globals := held(rt, used)
			wantMemory, wantGlobals := held(rt, fresh)
			if !bytes.Equal(memory, wantMemory) {
				rt.Fatalf("%d bytes of memory, want %d, or others", len(memory), len(wantMemory))
			}
			for i := range globals {
				if globals[i] != wantGlobals[i] {
					rt.Fatalf("global %d is %d, want %d", i, globals[i], wantGlobals[i])
				}
			}
			fresh.discard()
		}
		resets += m.Stats().Resets
	})
	if resets < 50 {
		t.Errorf("only %d resets", resets)
	}
}

// TestInstancesThatCannotBePutBackAreReplaced: a guest that changes what the host cannot restore answers every request
// as it answered the first.
func TestInstancesThatCannotBePutBackAreReplaced(t *testing.T) {
	// The guest traps if it finds what an earlier call did.
	for what, build := range map[string]func(g *wasmtest.Guest) wasmtest.Code{
		"a table": func(g *wasmtest.Guest) wasmtest.Code {
			g.Table(wasmtest.FuncRef, 1, wasmtest.NoMax)
			g.PassiveElements(g.Process.Index)
			return wasmtest.Seq(
				wasmtest.I32Const(0), wasmtest.TableGet(0), wasmtest.Raw(0xd1), // ref.is_null
				wasmtest.Raw(0x45), wasmtest.If(wasmtest.Empty, wasmtest.Unreachable),
				wasmtest.I32Const(0), wasmtest.RefFunc(g.Process.Index), wasmtest.TableSet(0),
			)
		},
		"a data segment": func(g *wasmtest.Guest) wasmtest.Code {
			segment := g.PassiveData([]byte{1})
			return wasmtest.Seq(wasmtest.I32Const(2000), wasmtest.I32Const(0), wasmtest.I32Const(1), wasmtest.MemoryInit(segment), wasmtest.DataDrop(segment))
		},
		"a vector": func(g *wasmtest.Guest) wasmtest.Code {
			zero := wasmtest.Vector(12, make([]byte, 16)...)
			g.Global(wasmtest.V128, true, zero)
			return wasmtest.Seq(
				wasmtest.GlobalGet(0), wasmtest.Vector(83), wasmtest.If(wasmtest.Empty, wasmtest.Unreachable), // v128.any_true
				wasmtest.Vector(12, bytes.Repeat([]byte{1}, 16)...), wasmtest.GlobalSet(0),
			)
		},
	} {
		t.Run(what, func(t *testing.T) {
			g := wasmtest.NewGuest()
			g.Answering(build(g))
			m := module(t, g, Options{Instances: 2})
			if m.Info().Restorable {
				t.Fatal("it says that it can be put back")
			}
			for i := range 5 {
				if _, err := m.Process(context.Background(), request("x"), nil); err != nil {
					t.Fatalf("request %d: %v", i, err)
				}
			}
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
			if s := m.Stats(); s.Discarded != s.Started || s.Started < 5 || s.MappedBytes != 0 || s.Resets != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestAViewIsWhereTheAnswerLies: it is not a copy, its error is the caller's, and a panic in it loses nothing.
func TestAViewIsWhereTheAnswerLies(t *testing.T) {
	m := module(t, echo(1), Options{Instances: 1})
	own := errors.New("not to my liking")
	var seen []byte
	err := m.View(context.Background(), bytesOf(16), nil, func(out []tensor.Tensor) error {
		seen = out[0].Data
		seen[0] = 7
		return own
	})
	if !errors.Is(err, own) || m.Stats().Resets != 1 {
		t.Errorf("%v, %+v", err, m.Stats())
	}
	if seen[0] != 0 {
		t.Error("what was seen is not the guest's memory, or was not put back")
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_ = m.View(context.Background(), bytesOf(16), nil, func([]tensor.Tensor) error { panic("so") })
	}()
	if out, err := m.Process(context.Background(), bytesOf(16), nil); err != nil || len(out[0].Data) != 16 {
		t.Errorf("after a panic: %v", err)
	}
	if s := m.Stats(); s.Discarded != 1 || s.Started != 2 {
		t.Errorf("%+v", s)
	}
}

// TestAResultIsTheCallers: later calls and what the caller does to it cannot be seen by one another.
func TestAResultIsTheCallers(t *testing.T) {
	m := module(t, echo(1), Options{Instances: 1})
	in := append(bytesOf(16), tensor.FromFloat32("y", []int64{2, 1}, []float32{1, 2}), tensor.Tensor{Name: "s", Datatype: tensor.Uint8, Data: []byte{5}})
	first, err := m.Process(context.Background(), in, nil)
	if err != nil {
		t.Fatal(err)
	}
	other, err := m.Process(context.Background(), bytesOf(3), nil)
	if err != nil || len(other) != 1 {
		t.Fatal(other, err)
	}
	list, err := abi.Encode(first)
	if err != nil {
		t.Fatal(err)
	}
	if want, _ := abi.Encode(in); !bytes.Equal(list, want) {
		t.Errorf("it became %v", first)
	}
	for i := range first {
		for j, k := range first {
			if i != j && len(k.Data) > 0 && cap(first[i].Data) > len(first[i].Data) {
				t.Errorf("appending to tensor %d would overwrite another", i)
			}
		}
	}
}

// TestInfoSaysWhatAModuleIs.
func TestInfoSaysWhatAModuleIs(t *testing.T) {
	m := module(t, echo(3), Options{})
	i := m.Info()
	if i.ImageBytes != 3<<16 || i.Functions != 4 || !i.Restorable || i.Batches || i.Cached || i.InstanceTime <= 0 || i.CompileTime <= 0 || len(i.Exports) != 5 || i.MemoryMin != 3 {
		t.Errorf("%+v", i)
	}
	r, err := NewRuntime(context.Background(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Compile(context.Background(), []byte("text"), Options{})
	var refused *metering.Error
	if !errors.As(err, &refused) || refused.Reason != metering.NotWasm {
		t.Errorf("%v", err)
	}
}

// TestWhatAGuestWritesIsMarked, so that whoever sends logs elsewhere can leave it out.
func TestWhatAGuestWritesIsMarked(t *testing.T) {
	var logged strings.Builder
	g := wasmtest.NewGuest(wasmtest.Log)
	g.Data(512, []byte("a secret"))
	g.Answering(wasmtest.I32Const(3), wasmtest.I32Const(512), wasmtest.I32Const(8), wasmtest.Call(0), wasmtest.Unreachable)
	m := module(t, g, Options{Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	if _, err := m.Process(context.Background(), request("x"), nil); !errors.Is(err, ErrTrap) || !strings.Contains(err.Error(), "a secret") {
		t.Errorf("%v", err)
	}
	lines := strings.Split(strings.TrimSpace(logged.String()), "\n")
	if len(lines) != 2 {
		t.Errorf("%d lines: %s", len(lines), logged.String())
	}
	for _, l := range lines {
		if !strings.Contains(l, "class=guest") {
			t.Errorf("not marked: %s", l)
		}
	}
}

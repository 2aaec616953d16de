package wasi

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"github.com/tetratelabs/wazero/sys"
	"pgregory.net/rapid"
)

// aCall is a function and its parameters.
type aCall struct {
	function int
	params   []uint64
}

// value draws a parameter: descriptors, addresses at the edges of memory, lengths, flags, and anything.
var value = rapid.OneOf(
	rapid.Uint64Range(0, 8),
	rapid.SampledFrom([]uint64{16, 64, 512, 4096, 65536, pages<<16 - 1, pages<<16 - 8, pages << 16, math.MaxInt32, math.MaxUint32, math.MaxInt64, math.MaxUint64}),
	rapid.Uint64Range(0, pages<<16),
	rapid.Uint64(),
)

var aCalls = rapid.Custom(func(t *rapid.T) aCall {
	c := aCall{function: rapid.IntRange(0, len(functions)-1).Draw(t, "function")}
	for _, p := range functions[c.function].params {
		v := value.Draw(t, "parameter")
		if p == 'i' {
			v = uint64(uint32(v))
		}
		c.params = append(c.params, v)
	}
	return c
})

func (i *instance) run(calls []aCall) (out []string) {
	for _, c := range calls {
		e, err := i.do(functions[c.function].name, c.params...)
		said := functions[c.function].name + " " + string(rune('0'+e))
		if err != nil {
			said += err.Error()
		}
		out = append(out, said)
	}
	return out
}

// TestAnyCalls: whatever a guest asks with whatever pointers, the host answers with a number or ends the call; it
// writes within memory, and no more than was paid for.
func TestAnyCalls(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir)
	for name, grants := range map[string]Grants{"nothing": {}, "everything": {Clock: true, Random: true, Files: dir}} {
		w := newWorld(t, grants)
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				i := w.instance(t)
				defer i.close()
				i.state.Command([]string{"a"}, bytes.Repeat([]byte("in"), 100), 1000)
				for at, b := range rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "memory") {
					i.memory[at*7] = b
				}
				i.fuel = rapid.Int64Range(0, 1_000_000).Draw(t, "fuel")
				for _, c := range rapid.SliceOfN(aCalls, 1, 20).Draw(t, "calls") {
					before, charged := bytes.Clone(i.memory), i.charged
					e, err := i.do(functions[c.function].name, c.params...)
					var exit *sys.ExitError
					if err != nil && !errors.Is(err, errFuel) && !errors.Is(err, ErrOutput) && !errors.As(err, &exit) {
						t.Fatalf("%s%v: %v", functions[c.function].name, c.params, err)
					}
					if e > errNotCapable {
						t.Fatalf("%s%v: error number %d", functions[c.function].name, c.params, e)
					}
					moved := int64(0)
					for at := range before {
						if before[at] != i.memory[at] {
							moved++
						}
					}
					// What costs nothing beyond the call itself writes a record at most.
					if paid := (i.charged - charged) * perMove; moved > paid+64 {
						t.Fatalf("%s%v: %d bytes changed, %d were paid for", functions[c.function].name, c.params, moved, paid)
					}
				}
			})
		})
	}
}

// TestAResetCannotBeTold: after Reset any calls have the same answers, and leave the same bytes, as in a new instance.
func TestAResetCannotBeTold(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir)
	w := newWorld(t, Grants{Files: dir})
	rapid.Check(t, func(t *rapid.T) {
		setup := rapid.SliceOfN(aCalls, 0, 4).Draw(t, "setup")
		dirt := rapid.SliceOfN(aCalls, 0, 10).Draw(t, "calls of another request")
		calls := rapid.SliceOfN(aCalls, 1, 10).Draw(t, "calls")
		names := []byte("sub/a.txt")
		first, second := w.instance(t), w.instance(t)
		defer first.close()
		defer second.close()
		for _, i := range []*instance{first, second} {
			copy(i.memory[512:], names)
			i.run(setup)
			i.state.Mark()
		}
		image := bytes.Clone(first.memory)
		second.state.Command(nil, []byte("secret"), 10)
		second.run(dirt)
		second.state.Reset()
		copy(second.memory, image)
		want, got := first.run(calls), second.run(calls)
		for n := range want {
			if want[n] != got[n] {
				t.Fatalf("call %d: %q, in a new instance %q", n, got[n], want[n])
			}
		}
		if !bytes.Equal(first.memory, second.memory) {
			t.Fatal("the memories differ")
		}
	})
}

func FuzzCalls(f *testing.F) {
	dir := f.TempDir()
	fill(f, dir)
	w := newWorld(f, Grants{Files: dir})
	f.Add([]byte("sub/a.txt"), []byte{27, 3, 1, 0, 9, 0, 0, 0, 0, 40})
	f.Fuzz(func(t *testing.T, memory, script []byte) {
		i := w.instance(t)
		defer i.close()
		copy(i.memory, memory)
		i.fuel = 10_000_000
		for len(script) > 0 {
			function := functions[int(script[0])%len(functions)]
			script = script[1:]
			var params []uint64
			for range function.params {
				v := uint64(0)
				if len(script) > 0 {
					v = uint64(script[0])
					if v >= 0xf0 { // the edges
						v = uint64(int64(int8(script[0])))&math.MaxUint32 + uint64(script[0]&1)*(pages<<16)
					}
					script = script[1:]
				}
				params = append(params, v)
			}
			_, err := i.do(function.name, params...)
			var exit *sys.ExitError
			if err != nil && !errors.Is(err, errFuel) && !errors.As(err, &exit) {
				t.Fatalf("%s%v: %v", function.name, params, err)
			}
		}
	})
}

func TestResetAllocatesNothing(t *testing.T) {
	i := newWorld(t, Grants{}).instance(t)
	defer i.close()
	i.must(t, ok, "clock_time_get", 0, 0, 8)
	i.state.Mark()
	if n := testing.AllocsPerRun(100, i.state.Reset); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

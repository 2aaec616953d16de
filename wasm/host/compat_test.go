package host

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
	"github.com/dhowfleet/dhow/wasm/extism"
	"github.com/dhowfleet/dhow/wasm/payload"
	"github.com/dhowfleet/dhow/wasm/wasi"
	"github.com/dhowfleet/dhow/wasm/wasmtest"
)

// program builds a program in testdata once.
type program struct {
	name, mode string
	once       sync.Once
	code       []byte
	err        error
}

var (
	commandProgram = program{name: "command", mode: "exe"}
	pluginProgram  = program{name: "plugin", mode: "c-shared"}
)

func (p *program) build(t testing.TB) []byte {
	t.Helper()
	p.once.Do(func() {
		out := filepath.Join(scratch, p.name+".wasm")
		cmd := exec.Command("go", "build", "-buildmode="+p.mode, "-trimpath", "-ldflags=-s -w", "-o", out, "./testdata/"+p.name)
		cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
		if text, err := cmd.CombinedOutput(); err != nil {
			p.err = fmt.Errorf("%v: %s", err, text)
			return
		}
		p.code, p.err = os.ReadFile(out)
	})
	if p.err != nil {
		t.Fatal(p.err)
	}
	return p.code
}

// compatible compiles a module of another kind than Dhow's own.
func compatible(t testing.TB, code []byte, options Options) *Module {
	t.Helper()
	r, err := NewRuntime(context.Background(), Config{CacheDir: filepath.Join(scratch, "cache"), Policy: Everything})
	if err != nil {
		t.Fatal(err)
	}
	options.Instances = 1
	m, err := r.Compile(context.Background(), code, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// say hands a text to a program of the format raw.
func say(m *Module, text string) (string, error) {
	out, err := m.Process(context.Background(), []tensor.Tensor{tensor.FromStrings("x", text)}, nil)
	if err != nil {
		return "", err
	}
	return string(out[0].Data[4:]), nil
}

// expect is a text and what comes of it: an answer, or an error of a kind whose text has a part.
type expect struct {
	say, answer string
	failure     error // a *GuestError is compared by whose fault it is
	text        string
}

func (e expect) check(t *testing.T, m *Module) {
	t.Helper()
	got, err := say(m, e.say)
	var guestErr, want *GuestError
	switch {
	case e.failure == nil && err == nil:
		if got != e.answer {
			t.Errorf("%.20q: answered %.80q, want %.80q", e.say, got, e.answer)
		}
		return
	case e.failure == nil || err == nil || !strings.Contains(err.Error(), e.text):
	case errors.As(e.failure, &want):
		if errors.As(err, &guestErr) && guestErr.Input == want.Input {
			return
		}
	case errors.Is(err, e.failure):
		return
	}
	t.Errorf("%.20q: %.80q, %v, want %v with %q", e.say, got, err, e.failure, e.text)
}

var (
	inputsFault = &GuestError{Input: true}
	guestsFault = &GuestError{}
)

// TestCommands: a request is a run from the beginning, whatever the one before did.
func TestCommands(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "labels.txt"), []byte("cat\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := compatible(t, commandProgram.build(t), Options{
		Kind: Command, Format: payload.Raw, Grants: wasi.Grants{Files: dir}, Limits: Limits{Memory: 16 << 20, Timeout: 10 * time.Second},
	})
	if i := m.Info(); !i.Restorable {
		t.Errorf("%+v", i)
	}
	started := m.Stats().Started
	long := strings.Repeat("0123456789", 100_000)
	world, err := say(m, "world")
	if err != nil || !strings.HasPrefix(world, "1 2022-01-01 1h0m0s ") || !strings.Contains(world, "/etc/passwd") || !strings.HasSuffix(world, `["guest"] []`) {
		t.Errorf("the world is %q, %v", world, err)
	}
	for _, e := range []expect{
		{say: "echo " + long, answer: "echo " + long},
		{say: "", answer: ""},
		{say: "exit now", failure: inputsFault, text: "exit code 65: no  photo here"},
		{say: "fail now", failure: guestsFault, text: "exit code 3: cannot"},
		{say: "panic", failure: guestsFault, text: "exit code 2: panic: so be it"},
		{say: "flood", failure: ErrTrap, text: "more than 16,777,216 bytes to standard output; raise memory"},
		{say: "files", answer: `"cat\n" <nil> [- labels.txt] <nil> stat /../outside: No such file or directory open /new: Read-only file system`},
		{say: "world", answer: world},
		{say: strings.Repeat("x", 17<<20), failure: inputsFault, text: "the request has"},
	} {
		e.check(t, m)
	}
	if s := m.Stats(); s.Started != started {
		t.Errorf("%d instances were started for requests", s.Started-started)
	}
}

// TestProgramsAreBounded: the bounds of Dhow's own contract hold for the other kinds.
func TestProgramsAreBounded(t *testing.T) {
	for kind, options := range map[string]Options{
		"command": {Kind: Command, Format: payload.Raw},
		"plugin":  {Kind: Extism, Format: payload.Raw, Function: "step"},
	} {
		code := commandProgram.build
		if options.Kind == Extism {
			code = pluginProgram.build
		}
		t.Run(kind, func(t *testing.T) {
			options.Limits = Limits{Timeout: 300 * time.Millisecond, Memory: 16 << 20}
			m := compatible(t, code(t), options)
			expect{say: "spin now", failure: ErrDeadline, text: "raise timeout"}.check(t, m)
			expect{say: "abc", answer: "abc"}.check(t, m)
			options.Limits = Limits{Fuel: 2_000_000_000, Timeout: time.Minute, Memory: 16 << 20}
			m = compatible(t, code(t), options)
			expect{say: "spin now", failure: ErrFuel, text: "raise fuel"}.check(t, m)
			expect{say: "abc", answer: "abc"}.check(t, m)
			in := []tensor.Tensor{tensor.FromStrings("x", "abc")}
			_, first, err := m.Measure(context.Background(), in, nil)
			_, second, err2 := m.Measure(context.Background(), in, nil)
			if err != nil || err2 != nil || first.Fuel != second.Fuel || first.Fuel == 0 {
				t.Errorf("%+v and %+v, %v, %v", first, second, err, err2)
			}
		})
	}
}

func TestPlugins(t *testing.T) {
	m := compatible(t, pluginProgram.build(t), Options{
		Kind: Extism, Format: payload.Raw, Function: "step", Configuration: []byte("cat\ndog\n"), Limits: Limits{Memory: 16 << 20, Timeout: 10 * time.Second},
	})
	started := m.Stats().Started
	long := strings.Repeat("0123456789", 100_000)
	for _, e := range []expect{
		{say: long, answer: long},
		{say: "", answer: ""},
		{say: "world", answer: `1 "" "remembered" "cat\ndog\n"`},
		{say: "world", answer: `1 "" "remembered" "cat\ndog\n"`},
		{say: "error", failure: inputsFault, text: "no  photo here"},
		{say: "fail", failure: guestsFault, text: "it returned 3"},
		{say: "panic", failure: ErrTrap, text: "so be it"},
		{say: "grow", failure: ErrTrap, text: "more than 16,777,216 bytes; raise memory"},
		{say: "network", failure: ErrTrap, text: "no guest has"},
		{say: strings.Repeat("x", 17<<20), failure: inputsFault, text: "the request has"},
		{say: "log", answer: "log"},
	} {
		e.check(t, m)
	}
	if s := m.Stats(); s.Started != started {
		t.Errorf("%d instances were started for requests", s.Started-started)
	}
}

// TestFormats: a plug-in and a command that hand back what they get, in each format.
func TestFormats(t *testing.T) {
	in := []tensor.Tensor{tensor.FromFloat32("a", []int64{2, 2}, []float32{1, 2.5, -3, float32(math.Pi)}), tensor.FromStrings("b", "x\xff", "ü")}
	for _, format := range []payload.Format{payload.Tensors, payload.JSON} {
		for _, options := range []Options{{Kind: Command, Format: format}, {Kind: Extism, Format: format, Function: "step"}} {
			t.Run(fmt.Sprint(options.Kind, " ", format), func(t *testing.T) {
				code := commandProgram.build
				if options.Kind == Extism {
					code = pluginProgram.build
				}
				options.Limits = Limits{Memory: 16 << 20, Timeout: 10 * time.Second}
				m := compatible(t, code(t), options)
				out, err := m.Process(context.Background(), in, nil)
				if format == payload.JSON {
					// What comes back says "inputs", which is no answer.
					if !errors.Is(err, ErrTrap) || !strings.Contains(err.Error(), `not of the format json`) {
						t.Errorf("%v, %v", out, err)
					}
					return
				}
				if err != nil || fmt.Sprint(out) != fmt.Sprint(in) {
					t.Errorf("%v, %v", out, err)
				}
			})
		}
	}
}

// answering is a plug-in without a language's run time that has one answer, whatever it is asked.
func answering(answer string) []byte {
	m := wasmtest.New()
	l := wasmtest.I64
	alloc := m.Import(extism.Module, "alloc", wasmtest.Sig{Params: []wasmtest.Type{l}, Results: []wasmtest.Type{l}})
	store := m.Import(extism.Module, "store_u8", wasmtest.Sig{Params: []wasmtest.Type{l, wasmtest.I32}})
	output := m.Import(extism.Module, "output_set", wasmtest.Sig{Params: []wasmtest.Type{l, l}})
	m.Memory(1, 1)
	var body wasmtest.Code
	for i := range len(answer) { // a byte behind the block's begin, so that the answer is not aligned
		body = wasmtest.Seq(body, wasmtest.LocalGet(0), wasmtest.I64Const(int64(i+1)), wasmtest.I64Add, wasmtest.I32Const(int32(answer[i])), wasmtest.Call(store))
	}
	f := m.Func(wasmtest.Sig{Results: []wasmtest.Type{wasmtest.I32}},
		wasmtest.I64Const(int64(len(answer)+1)), wasmtest.Call(alloc), wasmtest.LocalSet(0), body,
		wasmtest.LocalGet(0), wasmtest.I64Const(1), wasmtest.I64Add, wasmtest.I64Const(int64(len(answer))), wasmtest.Call(output), wasmtest.I32Const(0))
	m.Export("f", wasmtest.KindFunction, f.Locals(l).Index)
	return m.Bytes()
}

func TestAnswersOfPlugins(t *testing.T) {
	want := []tensor.Tensor{tensor.FromFloat32("y", []int64{2}, []float32{1, 2})}
	list, err := abi.Encode(want)
	if err != nil {
		t.Fatal(err)
	}
	for text, format := range map[string]payload.Format{
		string(list): payload.Tensors,
		`{"outputs":[{"name":"y","shape":[2],"datatype":"FP32","data":[1,2]}]}`: payload.JSON,
	} {
		m := compatible(t, answering(text), Options{Kind: Extism, Function: "f", Format: format})
		out, err := m.Process(context.Background(), want, nil)
		if err != nil || fmt.Sprint(out) != fmt.Sprint(want) {
			t.Errorf("%s: %v, %v", format, out, err)
		}
	}
	m := compatible(t, answering("nonsense"), Options{Kind: Extism, Function: "f"})
	if out, err := m.Process(context.Background(), want, nil); !errors.Is(err, ErrTrap) || !strings.Contains(err.Error(), "format tensors") {
		t.Errorf("%v, %v", out, err)
	}
}

// TestKindsAreHeldToTheirForm: a module that does not fit what bundle.yaml says is refused before it serves.
func TestKindsAreHeldToTheirForm(t *testing.T) {
	r, err := NewRuntime(context.Background(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	early := wasmtest.New()
	alloc := early.Import(extism.Module, "alloc", wasmtest.Sig{Params: []wasmtest.Type{wasmtest.I64}, Results: []wasmtest.Type{wasmtest.I64}})
	early.Memory(1, 1)
	early.Start(early.Func(wasmtest.Sig{}, wasmtest.I64Const(1), wasmtest.Call(alloc), wasmtest.Drop).Index)
	early.Export("f", wasmtest.KindFunction, early.Func(wasmtest.Sig{}).Index)
	foreign := wasmtest.New()
	foreign.Import("extism:host/user", "kv_get", wasmtest.Sig{})
	foreign.Memory(1, 1)
	foreign.Export("f", wasmtest.KindFunction, foreign.Func(wasmtest.Sig{}).Index)
	for text, c := range map[string]struct {
		code    []byte
		options Options
	}{
		"does not export _start":         {wasmtest.NewGuest().Bytes(), Options{Kind: Command}},
		`does not export the function "`: {answering(""), Options{Kind: Extism, Function: "g"}},
		"needs function":                 {answering(""), Options{Kind: Extism}},
		"cannot keep its state":          {answering(""), Options{Kind: Extism, Function: "f", State: Keep}},
		"there is no module kind":        {answering(""), Options{Kind: Command + 1}},
		"before they are there":          {early.Bytes(), Options{Kind: Extism, Function: "f"}},
		`"extism:host/user"."kv_get"`:    {foreign.Bytes(), Options{Kind: Extism, Function: "f"}},
		"which the contract does not":    {answering(""), Options{}},
	} {
		if m, err := r.Compile(context.Background(), c.code, c.options); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v, want %q", err, text)
			if m != nil {
				_ = m.Close()
			}
		}
	}
}

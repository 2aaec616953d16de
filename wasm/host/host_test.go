package host

import (
	"context"
	"errors"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
)

func compile(t testing.TB, a assembly, o Options) (*Module, error) {
	t.Helper()
	r, err := NewRuntime(context.Background(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := r.Compile(context.Background(), a.build(), o)
	if err == nil {
		t.Cleanup(func() { _ = m.Close() })
	}
	return m, err
}

func TestTheAssembledGuestAnswers(t *testing.T) {
	m, err := compile(t, assembly{}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := m.Process(context.Background(), request("x"), nil); err != nil || len(out) != 0 {
		t.Fatalf("%v, %v", out, err)
	}
}

// TestWhatAGuestReturnsIsNotBelieved: every pointer, length and number is checked.
func TestWhatAGuestReturnsIsNotBelieved(t *testing.T) {
	list, err := abi.Encode([]tensor.Tensor{{Name: "x", Datatype: tensor.FP32, Shape: []int64{1}, Data: make([]byte, 4)}})
	if err != nil {
		t.Fatal(err)
	}
	broken := append([]byte(nil), list...)
	broken[8] = byte(tensor.FP64)
	spin := []byte{opLoop, empty, opBr, 0, opEnd}
	for what, c := range map[string]struct {
		guest assembly
		want  error
		text  string
	}{
		"a return area outside":    {assembly{process: constant(1 << 16)}, ErrTrap, "address outside its memory"},
		"a return area at the end": {assembly{process: constant(1<<16 - 11)}, ErrTrap, "address outside its memory"},
		"a negative address":       {assembly{process: constant(-1)}, ErrTrap, "address outside its memory"},
		"a status of its own":      {assembly{area: abi.ReturnArea{Status: 9}}, ErrTrap, "unknown status 9"},
		"a result outside":         {assembly{area: abi.ReturnArea{Ptr: 1 << 15, Len: 1 << 16}}, ErrTrap, "result outside its memory"},
		"a result that wraps":      {assembly{area: abi.ReturnArea{Ptr: 0xffffffff, Len: 8}}, ErrTrap, "result outside its memory"},
		"a broken list":            {assembly{payload: broken}, ErrTrap, "broken tensor list"},
		"a list that is cut off":   {assembly{payload: list[:12]}, ErrTrap, "broken tensor list"},
		"room outside":             {assembly{realloc: constant(1<<16 - 8)}, ErrTrap, "cabi_realloc returned an address outside"},
		"room not aligned":         {assembly{realloc: constant(4097)}, ErrTrap, "multiple of 8"},
		"unreachable":              {assembly{process: []byte{opUnreachable}}, ErrTrap, "the guest failed: unreachable"},
		"unreachable afterwards":   {assembly{post: []byte{opUnreachable}}, ErrTrap, "unreachable"},
		"no end":                   {assembly{process: join(spin, constant(0))}, ErrDeadline, "20ms"},
		"no end afterwards":        {assembly{post: spin}, ErrDeadline, "20ms"},
		"no end in realloc":        {assembly{realloc: join(spin, constant(0))}, ErrDeadline, "20ms"},
	} {
		t.Run(what, func(t *testing.T) {
			limit := time.Minute
			if errors.Is(c.want, ErrDeadline) {
				limit = 20 * time.Millisecond
			}
			m, err := compile(t, c.guest, Options{Limits: Limits{Timeout: limit}})
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				_, err = m.Process(context.Background(), request("x"), nil)
				if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
					t.Fatalf("%v, want %v with %q", err, c.want, c.text)
				}
			}
			if s := m.Stats(); s.Discarded != 0 || s.Idle != 1 || s.Resets != 2 || s.Traps+s.DeadlineTraps != 2 {
				t.Errorf("the instance was not put back: %+v", s)
			}
		})
	}
	m, err := compile(t, assembly{realloc: constant(0)}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var guestErr *GuestError
	if _, err := m.Process(context.Background(), request("x"), nil); !errors.As(err, &guestErr) || !guestErr.Input {
		t.Errorf("a guest without room: %v", err)
	}
	m, err = compile(t, assembly{area: abi.ReturnArea{Status: abi.StatusGuestError}, payload: []byte(strings.Repeat("a", 9000))}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Process(context.Background(), request("x"), nil); !errors.As(err, &guestErr) || guestErr.Input || len(guestErr.Message) != abi.MaxMessage {
		t.Errorf("a long sentence: %v", err)
	}
}

// TestMemoryDoesNotGrowBeyond: the guest asks for more, sees -1 and says so; otherwise it traps.
func TestMemoryDoesNotGrowBeyond(t *testing.T) {
	refused := assembly{area: abi.ReturnArea{Status: abi.StatusGuestError}, payload: []byte("refused")}
	check := join(constant(-1), []byte{opI32Eq, opIf, 0x7f}, constant(answerAt), []byte{0x05, opUnreachable, opEnd})
	byPages := func(n int32) []byte { return join(constant(n), []byte{0x40, 0}, check) }

	for what, c := range map[string]struct {
		process, memory []byte
		grows           bool
	}{
		"memory beyond the limit":        {byPages(16), []byte{1, 0, 1}, false},
		"memory to the limit":            {byPages(15), []byte{1, 0, 1}, true},
		"memory beyond its own maximum":  {byPages(2), []byte{1, 1, 1, 2}, false},
		"memory of a maximum of its own": {byPages(1), []byte{1, 1, 1, 2}, true},
		"memory with a maximum beyond":   {byPages(16), []byte{1, 1, 1, 200, 1}, false},
		"memory from its own maximum":    {byPages(1), []byte{1, 1, 2, 2}, false},
		"memory from the limit":          {byPages(1), []byte{1, 0, 16}, false},
	} {
		t.Run(what, func(t *testing.T) {
			a := refused
			a.process, a.memory = c.process, c.memory
			m, err := compile(t, a, Options{Limits: Limits{Memory: 1 << 20}})
			if err != nil {
				t.Fatal(err)
			}
			for range 3 { // the memory is as small as before
				_, err = m.Process(context.Background(), request("x"), nil)
				if grew := errors.Is(err, ErrTrap); grew != c.grows {
					t.Errorf("%v", err)
				}
			}
			if s := m.Stats(); s.Started != 1 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestModulesThatAreRefused(t *testing.T) {
	weight := func(locals, loops int) []byte {
		var nest []byte
		for range loops {
			nest = append(nest, opLoop, empty, opEnd)
		}
		body := sized(join([]byte{1}, uleb(uint64(locals)), []byte{0x7f}, nest, []byte{opEnd}))
		return section(10, vector(function(constant(1)), function(constant(8)), function(constant(8)), function(nil), body))
	}
	for what, c := range map[string]struct {
		code []byte
		text string
	}{
		"nothing":                {nil, "(not wasm)"},
		"text":                   {[]byte("hello, world"), "(not wasm)"},
		"a component":            {[]byte("\x00asm\x0d\x00\x01\x00"), "it is a component"},
		"another version":        {[]byte("\x00asm\x02\x00\x00\x00"), "it has version 2"},
		"a module of nothing":    {[]byte("\x00asm\x01\x00\x00\x00"), "0 memories"},
		"a cut-off module":       {assembly{}.build()[:100], "(malformed)"},
		"a function of others":   {assembly{imports: [][2]string{{"env", "abort"}}}.build(), `"env"."abort"`},
		"an unknown function":    {assembly{imports: [][2]string{{"dhow", "read_disk"}}}.build(), `"dhow"."read_disk"`},
		"an unknown WASI call":   {assembly{imports: [][2]string{{"wasi_snapshot_preview1", "format_disk"}}}.build(), "format_disk"},
		"another signature":      {assembly{imports: [][2]string{{"dhow", "log"}}}.build(), "with another signature than the contract's"},
		"too much memory":        {assembly{memory: []byte{1, 0, 200, 1}}.build(), "starts with 12800 KiB of memory, its limit is 1024 KiB"},
		"shared memory":          {assembly{memory: []byte{1, 3, 1, 1}}.build(), "shared"},
		"two memories":           {assembly{memory: []byte{2, 0, 1, 0, 1}}.build(), "more than one memory"},
		"a huge table":           {assembly{tables: join([]byte{1, 0x70, 0}, uleb(1<<24))}.build(), "at most 65536 are allowed"},
		"huge tables":            {assembly{tables: join([]byte{2, 0x70, 0}, uleb(1<<19), []byte{0x70, 0}, uleb(1<<19+1))}.build(), "at most 65536 are allowed"},
		"a table that grows":     {assembly{tables: []byte{1, 0x70, 0, 1}, process: join([]byte{0xd0, 0x70}, constant(1), []byte{0xfc, 0x0f, 0})}.build(), "grows a table"},
		"a table of externrefs":  {assembly{tables: []byte{1, 0x64, 0x70, 0, 1}}.build(), "0x64"},
		"a compile bomb":         {assembly{override: weight(1000, 2000)}.build(), "(complexity)"},
		"a long function":        {assembly{override: weight(1, 8001)}.build(), "8001 control operations"},
		"an unknown instruction": {assembly{process: []byte{0x06, empty, 0x19, opEnd}}.build(), "instruction 0x06"},
		"atomics":                {assembly{process: []byte{0xfe, 0, 2, 0}}.build(), "instruction 0xfe"},
		"a function without end": {assembly{override: section(10, vector(sized([]byte{0, 0x41, 1})))}.build(), "declares 5 functions"},
		"very many locals":       {assembly{override: weight(1<<30, 1)}.build(), "locals"},
		"a section that lies":    {append([]byte("\x00asm\x01\x00\x00\x00"), section(1, uleb(1<<31))...), "more types than it has bytes"},
		"no process":             {assembly{rename: map[string]string{"process": "handle"}}.build(), "function process"},
		"no memory":              {assembly{rename: map[string]string{"memory": "heap"}}.build(), `"memory"`},
		"a process of no result": {assembly{rename: map[string]string{"process": "cabi_post_process", "cabi_post_process": "process"}}.build(), "another signature"},
		"invalid code":           {assembly{process: []byte{opDrop}}.build(), "cannot compile"},
		"another contract":       {assembly{version: constant(2)}.build(), "version 2 of the contract"},
		"a start without end":    {assembly{version: []byte{opUnreachable}}.build(), "cannot start guest"},
	} {
		t.Run(what, func(t *testing.T) {
			r, err := NewRuntime(context.Background(), Config{CacheDir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			m, err := r.Compile(context.Background(), c.code, Options{Limits: Limits{Memory: 1 << 20}})
			if err == nil {
				_ = m.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.text) {
				t.Fatalf("%v, want %q", err, c.text)
			}
		})
	}
	for what, o := range map[string]Options{
		"little memory":  {Limits: Limits{Memory: 1000}},
		"much memory":    {Limits: Limits{Memory: 1 << 40}},
		"negative time":  {Limits: Limits{Timeout: -1}},
		"a long setting": {Configuration: make([]byte, abi.MaxConfiguration+1)},
	} {
		if _, err := compile(t, assembly{}, o); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
}

// TestEndlessRecursionIsContained by the limit of the stack. What a large one took goes with its instance.
func TestEndlessRecursionIsContained(t *testing.T) {
	call := append([]byte{opCall}, uleb(extraIndex(0))...)
	for stack, kept := range map[int64]bool{0: true, 2 << 20: false} {
		m, err := compile(t, assembly{extra: call, process: join(call, constant(answerAt))}, Options{Limits: Limits{Stack: stack, Timeout: time.Minute}})
		if err != nil {
			t.Fatal(err)
		}
		for i := range uint64(3) {
			_, err = m.Process(context.Background(), request("x"), nil)
			if !errors.Is(err, ErrStack) || !strings.Contains(err.Error(), decimal(max(stack, 1<<20))+" bytes") {
				t.Errorf("%v", err)
			}
			s := m.Stats()
			if s.StackTraps != i+1 || kept != (s.Discarded == 0) || kept != (s.MappedBytes != 0) {
				t.Errorf("stack %d: %+v", stack, s)
			}
		}
	}
}

// TestReplacingAModuleKeepsMemoryFlat: compiled code lies outside the Go heap and is easily leaked (wazero issue 1600).
func TestReplacingAModuleKeepsMemoryFlat(t *testing.T) {
	r, err := NewRuntime(context.Background(), Config{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	code := assembly{imports: [][2]string{{"wasi_snapshot_preview1", "proc_exit"}}}
	replace := func(n int) {
		for range n {
			m, err := r.Compile(context.Background(), code.build(), Options{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.Process(context.Background(), request("x"), nil); err != nil {
				t.Fatal(err)
			}
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	measure := func() (rss, mappings int64) {
		for range 3 { // finalizers run between collections
			runtime.GC()
			time.Sleep(10 * time.Millisecond)
		}
		debug.FreeOSMemory()
		statm, err := os.ReadFile("/proc/self/statm")
		if err != nil {
			t.Skip("no /proc")
		}
		pages, err := strconv.ParseInt(strings.Fields(string(statm))[1], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		maps, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Fatal(err)
		}
		return pages * int64(os.Getpagesize()), int64(strings.Count(string(maps), "\n"))
	}
	replace(100)
	rss, mappings := measure()
	replace(1000)
	rssAfter, mappingsAfter := measure()
	t.Logf("resident %d KiB, then %d KiB; mappings %d, then %d", rss>>10, rssAfter>>10, mappings, mappingsAfter)
	if rssAfter > rss+8<<20 {
		t.Errorf("resident memory grew from %d KiB to %d KiB over 1,000 replacements", rss>>10, rssAfter>>10)
	}
	if mappingsAfter > mappings+50 {
		t.Errorf("mappings grew from %d to %d over 1,000 replacements", mappings, mappingsAfter)
	}
}

package host

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tetratelabs/wazero"

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
			_, err = m.Process(context.Background(), request("x"), nil)
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Fatalf("%v, want %v with %q", err, c.want, c.text)
			}
			if s := m.Stats(); s.Discarded != 1 || s.MappedBytes != 0 {
				t.Errorf("the instance was not thrown away: %+v", s)
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

// TestMemoryAndTablesDoNotGrowBeyond: the guest asks for more, sees -1 and says so; otherwise it traps.
func TestMemoryAndTablesDoNotGrowBeyond(t *testing.T) {
	refused := assembly{area: abi.ReturnArea{Status: abi.StatusGuestError}, payload: []byte("refused")}
	check := join(constant(-1), []byte{opI32Eq, opIf, 0x7f}, constant(answerAt), []byte{0x05, opUnreachable, opEnd})
	byPages := func(n int32) []byte { return join(constant(n), []byte{0x40, 0}, check) }
	growTable := join([]byte{0xd0, 0x70}, constant(1), []byte{0xfc, 0x0f, 0}, check)

	for what, c := range map[string]struct {
		process, tables, memory []byte
		grows                   bool
	}{
		"memory beyond the limit":         {byPages(16), nil, []byte{1, 0, 1}, false},
		"memory to the limit":             {byPages(15), nil, []byte{1, 0, 1}, true},
		"memory beyond its own maximum":   {byPages(2), nil, []byte{1, 1, 1, 2}, false},
		"memory of a maximum of its own":  {byPages(1), nil, []byte{1, 1, 1, 2}, true},
		"memory with a maximum beyond":    {byPages(16), nil, []byte{1, 1, 1, 200, 1}, false},
		"a table without a maximum":       {growTable, []byte{1, 0x70, 0, 1}, nil, false},
		"a table with room to its maxium": {growTable, []byte{1, 0x70, 1, 1, 9}, nil, false},
	} {
		t.Run(what, func(t *testing.T) {
			a := refused
			a.process, a.tables, a.memory = c.process, c.tables, c.memory
			m, err := compile(t, a, Options{Limits: Limits{Memory: 1 << 20}})
			if err != nil {
				t.Fatal(err)
			}
			_, err = m.Process(context.Background(), request("x"), nil)
			if grew := errors.Is(err, ErrTrap); grew != c.grows {
				t.Errorf("%v", err)
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
	var loops []byte
	for range 7900 {
		loops = append(loops, opLoop, empty, opEnd)
	}
	long := function(loops)
	for what, c := range map[string]struct {
		code []byte
		text string
	}{
		"nothing":                {nil, "no WASM module"},
		"text":                   {[]byte("hello, world"), "no WASM module"},
		"a component":            {[]byte("\x00asm\x0d\x00\x01\x00"), "WASM component"},
		"another version":        {[]byte("\x00asm\x02\x00\x00\x00"), "WASM version 2"},
		"a module of nothing":    {[]byte("\x00asm\x01\x00\x00\x00"), "0 memories"},
		"a cut-off module":       {assembly{}.build()[:100], "cut off"},
		"a function of others":   {assembly{imports: [][2]string{{"env", "abort"}}}.build(), `"env"."abort"`},
		"an unknown function":    {assembly{imports: [][2]string{{"dhow", "read_disk"}}}.build(), `"dhow"."read_disk"`},
		"an unknown WASI call":   {assembly{imports: [][2]string{{"wasi_snapshot_preview1", "format_disk"}}}.build(), "format_disk"},
		"another signature":      {assembly{imports: [][2]string{{"dhow", "log"}}}.build(), "signature mismatch"},
		"too much memory":        {assembly{memory: []byte{1, 0, 200, 1}}.build(), "starts with 12800 KiB of memory, its limit is 1024 KiB"},
		"shared memory":          {assembly{memory: []byte{1, 3, 1, 1}}.build(), "shared"},
		"two memories":           {assembly{memory: []byte{2, 0, 1, 0, 1}}.build(), "2 memories"},
		"a huge table":           {assembly{tables: join([]byte{1, 0x70, 0}, uleb(1<<24))}.build(), "more than 1048576 entries"},
		"huge tables":            {assembly{tables: join([]byte{2, 0x70, 0}, uleb(1<<19), []byte{0x70, 0}, uleb(1<<19+1))}.build(), "more than 1048576 entries"},
		"many tables":            {assembly{tables: append([]byte{17}, make([]byte, 51)...)}.build(), "17 tables"},
		"a table of externrefs":  {assembly{tables: []byte{1, 0x64, 0x70, 0, 1}}.build(), "0x64"},
		"a compile bomb":         {assembly{override: weight(1000, 2000)}.build(), "too long to compile"},
		"a long function":        {assembly{override: weight(1, 8001)}.build(), "8001 control operations"},
		"many long functions":    {assembly{override: section(10, vector(long, long, long, long, long, long, long))}.build(), "together"},
		"an unknown instruction": {assembly{process: []byte{0x06, empty, 0x19, opEnd}}.build(), "instruction 0x06"},
		"atomics":                {assembly{process: []byte{0xfe, 0, 2, 0}}.build(), "instruction 0xfe"},
		"a function without end": {assembly{override: section(10, vector(sized([]byte{0, 0x41, 1})))}.build(), "cut off"},
		"very many locals":       {assembly{override: weight(1<<30, 1)}.build(), "locals"},
		"a section that lies":    {append([]byte("\x00asm\x01\x00\x00\x00"), section(1, uleb(1<<31))...), "2147483648 elements"},
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

// TestEndlessRecursionIsContained: wazero stops it at 400 MB of stack, or the deadline does.
func TestEndlessRecursionIsContained(t *testing.T) {
	if testing.Short() {
		t.Skip("takes up to a gigabyte of memory")
	}
	call := append([]byte{opCall}, uleb(extraIndex(0))...)
	m, err := compile(t, assembly{extra: call, process: join(call, constant(answerAt))}, Options{Limits: Limits{Timeout: time.Minute}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.Process(context.Background(), request("x"), nil)
	if !errors.Is(err, ErrTrap) || !strings.Contains(err.Error(), "stack overflow") {
		t.Errorf("%v", err)
	}
	debug.FreeOSMemory()
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

func TestTheTokenBucket(t *testing.T) {
	now := time.Unix(0, 0)
	l := newLines(nowhere())
	l.now = func() time.Time { return now }
	for range lineBurst + 5 {
		l.log(0, "x")
	}
	if d := l.dropped.Load(); d != 5 {
		t.Errorf("%d lines beyond a burst of %d were dropped, want 5", d, lineBurst)
	}
	now = now.Add(3 * time.Second)
	for range 3*lineRate + 1 {
		l.log(0, "x")
	}
	if d := l.dropped.Load(); d != 6 {
		t.Errorf("after 3 s, %d lines have been dropped, want 6", d)
	}
}

func FuzzInspect(f *testing.F) {
	f.Add(assembly{}.build())
	f.Add(assembly{tables: []byte{1, 0x70, 0, 1}, imports: [][2]string{{"dhow", "log"}}}.build())
	f.Fuzz(func(t *testing.T, code []byte) {
		prepared, _, err := inspect(code)
		if err != nil {
			return
		}
		if again, _, err := inspect(prepared); err != nil || string(again) != string(prepared) {
			t.Fatalf("what inspect returns, it does not accept: %v", err)
		}
	})
}

// TestInstructionsEndWhereTheyEnd: the walk over instructions goes through every function that wazero's own tests hold
// of WASM 2.0, and finds the end of each.
func TestInstructionsEndWhereTheyEnd(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/tetratelabs/wazero").Output()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "internal", "integration_test", "spectest", "v2", "testdata", "*.wasm"))
	if err != nil || len(files) < 100 {
		t.Skipf("wazero's tests are not there: %d files, %v", len(files), err)
	}
	r := wazero.NewRuntimeWithConfig(context.Background(), wazero.NewRuntimeConfigInterpreter())
	defer func() { _ = r.Close(context.Background()) }()
	valid, functions := 0, 0
	for _, file := range files {
		code, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		compiled, err := r.CompileModule(context.Background(), code)
		if err != nil {
			continue // made to be invalid
		}
		_ = compiled.Close(context.Background())
		valid++
		for module := (reader{b: code[8:]}); len(module.b) > 0; {
			id := module.byte()
			section := reader{b: module.bytes(module.u32())}
			if id != 10 {
				continue
			}
			for n := section.u32(); n > 0; n-- {
				f := reader{b: section.bytes(section.u32())}
				for groups := f.u32(); groups > 0; groups-- {
					f.u32()
					f.byte()
				}
				if _, err := f.control(); err != nil {
					t.Errorf("%s: %v", filepath.Base(file), err)
				}
				functions++
			}
			if section.err != nil || len(section.b) != 0 {
				t.Errorf("%s: %v", filepath.Base(file), section.err)
			}
		}
	}
	if functions < 1000 {
		t.Errorf("only %d functions in %d modules", functions, valid)
	}
	t.Logf("%d functions in %d valid modules of %d", functions, valid, len(files))
}

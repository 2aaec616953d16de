package compiler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/confine"
	"github.com/dhowfleet/dhow/wasm/host"
	"github.com/dhowfleet/dhow/wasm/host/compiled"
	"github.com/dhowfleet/dhow/wasm/wasmtest"
)

// This test's binary is its own child: with a verb as its first argument it plays a compiler, a good or a bad one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "wasm-compile":
			os.Exit(Main(os.Stdin, os.Stdout))
		case "serve":
			os.Exit(serve(os.Args[2], os.Args[3:]))
		case "hang":
			_, _ = io.Copy(io.Discard, os.Stdin)
			time.Sleep(time.Hour)
		case "abort":
			_ = syscall.Kill(os.Getpid(), syscall.SIGABRT)
			select {}
		case "mute":
			os.Exit(0)
		case "lie":
			_, _ = io.Copy(io.Discard, os.Stdin)
			fmt.Println(`{"done":true}`)
			os.Exit(0)
		case "other": // an older program that reads the same header
			var h header
			in := json.NewDecoder(os.Stdin)
			if err := in.Decode(&h); err != nil {
				os.Exit(3)
			}
			h.Build = "another"
			_ = json.NewEncoder(os.Stdout).Encode(compile(h, in.Buffered()))
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// serve is a process that serves: it has a guest compiled and lets it answer. dir is its cache, "" for none; an
// argument "vanish" removes the program's file first.
func serve(dir string, args []string) int {
	if len(args) > 0 && args[0] == "vanish" {
		if err := os.Remove(os.Args[0]); err != nil {
			return 3
		}
	}
	r, err := host.NewRuntime(context.Background(), host.Config{
		CacheDir: dir, Compiler: New(Limits{}, self()...), Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return 4
	}
	m, err := r.Compile(context.Background(), wasmtest.NewGuest().Bytes(), host.Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 5
	}
	if _, err := m.Process(context.Background(), nil, nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 6
	}
	_ = m.Close()
	return 0
}

func self() []string { return confine.Self("wasm-compile") }

func answers(t *testing.T, dir string, c host.Compiler) {
	t.Helper()
	r, err := host.NewRuntime(t.Context(), host.Config{CacheDir: dir, Compiler: c})
	if err != nil {
		t.Fatal(err)
	}
	m, err := r.Compile(t.Context(), wasmtest.NewGuest().Bytes(), host.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	if _, err := m.Process(t.Context(), []tensor.Tensor{tensor.FromStrings("x", "y")}, nil); err != nil {
		t.Error(err)
	}
}

func TestAGuestIsCompiledInAChild(t *testing.T) {
	for _, dir := range []string{t.TempDir(), ""} {
		t.Setenv("TMPDIR", t.TempDir())
		answers(t, dir, New(Limits{}, self()...))
		answers(t, dir, New(Limits{}, self()...))
		if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) != 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

// TestTheCacheNeedsNoChild: what a child compiled once serves when there is none any more.
func TestTheCacheNeedsNoChild(t *testing.T) {
	dir := t.TempDir()
	answers(t, dir, New(Limits{}, self()...))
	answers(t, dir, New(Limits{}, "/nowhere/dhow-agent", "wasm-compile"))
}

// bomb is a function of so many locals that are all set before, between and after so many loops.
func bomb(locals, loops int) []byte {
	m := wasmtest.New()
	f := m.Func(wasmtest.Sig{})
	f.LocalGroup(uint64(locals), wasmtest.I32)
	var body []wasmtest.Code
	for i := range loops {
		body = append(body, wasmtest.Loop(wasmtest.Empty, wasmtest.LocalGet(uint32(i%locals)), wasmtest.I32Const(int32(i)), wasmtest.I32Add, wasmtest.LocalSet(uint32((i*7+1)%locals)), wasmtest.LocalGet(uint32(i%locals)), wasmtest.BrIf(0)))
	}
	f.Body(body...)
	return m.Bytes()
}

// TestBombs: modules that package metering refuses are compiled here as they are, to see the child end at its own
// limits and this process stay as it was.
func TestBombs(t *testing.T) {
	for _, c := range []struct {
		name   string
		code   []byte
		limits Limits
		reason Reason
	}{
		{"processor time", bomb(1000, 2000), Limits{CPU: time.Second}, TimeLimit},
		{"the clock", bomb(1000, 2000), Limits{Wall: 300 * time.Millisecond}, TimeLimit},
		{"memory", hoard(10000, 9000), Limits{Memory: 64 << 20}, MemoryLimit},
		{"size", many(2000, 200), Limits{Output: 64 << 10}, SizeLimit},
	} {
		t.Run(c.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			dir := t.TempDir()
			start := time.Now()
			err := New(c.limits, self()...).Compile(t.Context(), c.code, dir, 16)
			runtime.ReadMemStats(&after)
			var failed *Error
			if !errors.As(err, &failed) || failed.Reason != c.reason {
				t.Fatalf("%v", err)
			}
			t.Logf("%d KiB of module, after %v: %v", len(c.code)>>10, time.Since(start).Round(time.Millisecond), err)
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 8<<20+uint64(len(c.code))*4 {
				t.Errorf("this process allocated %d bytes", grown)
			}
			if compiled.Sealed(dir) {
				t.Error("what was not compiled is sealed")
			}
		})
	}
}

// many is so many functions of so many additions.
func many(functions, additions int) []byte {
	m := wasmtest.New()
	for range functions {
		m.Func(wasmtest.Sig{Params: []wasmtest.Type{wasmtest.I32}, Results: []wasmtest.Type{wasmtest.I32}},
			wasmtest.LocalGet(0), wasmtest.Times(additions, wasmtest.LocalGet(0), wasmtest.I32Mul))
	}
	return m.Bytes()
}

// hoard is so many functions that declare so many locals, in seven bytes each.
func hoard(functions, locals int) []byte {
	m := wasmtest.New()
	for range functions {
		m.Func(wasmtest.Sig{}).LocalGroup(uint64(locals), wasmtest.I32)
	}
	return m.Bytes()
}

func TestWhatIsNoModule(t *testing.T) {
	m := wasmtest.New()
	m.Func(wasmtest.Sig{}, wasmtest.I32Add)
	for _, code := range [][]byte{nil, []byte("\x00asm"), m.Bytes()} {
		var failed *Error
		if err := New(Limits{}, self()...).Compile(t.Context(), code, t.TempDir(), 16); !errors.As(err, &failed) || failed.Reason != Refused || failed.Message == "" {
			t.Errorf("%v", err)
		}
	}
	var failed *Error
	if err := New(Limits{}, self()...).Compile(t.Context(), make([]byte, maxCode+1), t.TempDir(), 16); !errors.As(err, &failed) || failed.Reason != Refused {
		t.Errorf("%v", err)
	}
}

func TestBadChildren(t *testing.T) {
	code := wasmtest.NewGuest().Bytes()
	for _, c := range []struct {
		command []string
		limits  Limits
		reason  Reason
		words   string
		logged  bool
	}{
		{[]string{"/nowhere/dhow-agent", "wasm-compile"}, Limits{}, Unavailable, "check that the program's file", false},
		{nil, Limits{}, Unavailable, "no command", false},
		{confine.Self("abort"), Limits{}, Crashed, "SIGABRT", true},
		{confine.Self("hang"), Limits{Wall: 200 * time.Millisecond}, TimeLimit, "not done after 200ms", false},
		{confine.Self("mute"), Limits{}, Unavailable, "no answer", true},
		{confine.Self("other"), Limits{}, Unavailable, "another version", true},
		{[]string{"/bin/sh", "-c", "kill -9 $$"}, Limits{}, MemoryLimit, "the system ended", false},
	} {
		t.Run(strings.Join(c.command, " "), func(t *testing.T) {
			var failed *Error
			var logged bytes.Buffer
			child := New(c.limits, c.command...)
			child.Logger = slog.New(slog.NewTextHandler(&logged, nil))
			if err := child.Compile(t.Context(), code, t.TempDir(), 16); !errors.As(err, &failed) || failed.Reason != c.reason || !strings.Contains(failed.Message, c.words) {
				t.Errorf("%v", err)
			}
			if said := strings.Contains(logged.String(), "detail="); said != c.logged {
				t.Errorf("logged %q", logged.String())
			}
		})
	}
	t.Run("one that lies", func(t *testing.T) {
		r, err := host.NewRuntime(t.Context(), host.Config{CacheDir: t.TempDir(), Compiler: New(Limits{}, confine.Self("lie")...)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Compile(t.Context(), code, host.Options{}); err == nil || !strings.Contains(err.Error(), "cannot be used") {
			t.Error(err)
		}
	})
	t.Run("nobody waits", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := New(Limits{}, confine.Self("hang")...).Compile(ctx, code, t.TempDir(), 16); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// TestTheDiskIsNotTheModulesFault: what cannot be written is told apart, and not stored by halves.
func TestTheDiskIsNotTheModulesFault(t *testing.T) {
	code := wasmtest.NewGuest().Bytes()
	if err := New(Limits{}, self()...).Compile(t.Context(), code, "/proc/self/nowhere", 16); !errors.Is(err, compiled.ErrUnwritable) {
		t.Error(err)
	}
	if err := New(Limits{}, self()...).Compile(t.Context(), code, "relative", 16); err == nil || errors.Is(err, compiled.ErrUnwritable) {
		t.Error(err)
	}
}

// TestAChildThatIsKilled at any point leaves a cache that serves.
func TestAChildThatIsKilled(t *testing.T) {
	for _, point := range []string{"wasmcache/compiled", "wasmcache/sealed"} {
		t.Run(point, func(t *testing.T) {
			dir := t.TempDir()
			killed := New(Limits{}, append([]string{"/usr/bin/env", "DHOW_FAILPOINT=" + point}, os.Args[0], "wasm-compile")...)
			r, err := host.NewRuntime(t.Context(), host.Config{CacheDir: dir, Compiler: killed})
			if err != nil {
				t.Fatal(err)
			}
			var failed *Error
			if _, err := r.Compile(t.Context(), wasmtest.NewGuest().Bytes(), host.Options{}); !errors.As(err, &failed) || failed.Reason != MemoryLimit {
				t.Errorf("%v", err)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
			answers(t, dir, New(Limits{}, self()...))
		})
	}
}

// TestAParentThatIsKilled takes its child along, and the next one serves.
func TestAParentThatIsKilled(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "serve", dir)
	cmd.Env = append(os.Environ(), "DHOW_FAILPOINT=wasmcache/published")
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.Exited() {
		t.Fatalf("it was not killed: %v", err)
	}
	answers(t, dir, New(Limits{}, "/nowhere"))
}

func TestProcessesShareACache(t *testing.T) {
	dir := t.TempDir()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if out, err := exec.Command(os.Args[0], "serve", dir).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	all.Wait()
	answers(t, dir, New(Limits{}, "/nowhere"))
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
}

// TestAProgramThatWasReplaced while it runs compiles on with the version that runs.
func TestAProgramThatWasReplaced(t *testing.T) {
	program, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	mine := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(mine, program, 0o700); err != nil { //nolint:gosec // it is to be run
		t.Fatal(err)
	}
	if out, err := exec.Command(mine, "serve", t.TempDir(), "vanish").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := os.Stat(mine); err == nil {
		t.Error("the program's file is still there")
	}
}

func TestMainRefusesWhatIsNoRequest(t *testing.T) {
	var out bytes.Buffer
	for _, in := range []string{"", "hello\n", strings.Repeat("x", 2*maxHeader)} {
		if code := Main(strings.NewReader(in), &out); code == 0 || out.Len() != 0 {
			t.Errorf("%d, %q", code, out.String())
		}
	}
}

// FuzzHeader: nothing that is read as a header starts anything without this program's own mark.
func FuzzHeader(f *testing.F) {
	f.Add(`{"build":"x","dir":"/tmp","bytes":3}` + "\n")
	f.Fuzz(func(t *testing.T, in string) {
		if strings.Contains(in, build()) {
			t.Skip("it knows the mark")
		}
		var out bytes.Buffer
		if code := Main(strings.NewReader(in), &out); code == 0 {
			var a answer
			if err := json.Unmarshal(out.Bytes(), &a); err != nil || a.Reason != Unavailable {
				t.Errorf("%q: %s", in, out.String())
			}
		}
	})
}

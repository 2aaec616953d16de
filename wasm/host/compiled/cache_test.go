package compiled

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tetratelabs/wazero"

	"github.com/dhowfleet/dhow/wasm/wasmtest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVariable); dir != "" {
		os.Exit(child(dir))
	}
	os.Exit(m.Run())
}

func caching(t *testing.T, dir string, limit int64, logged *bytes.Buffer) *Store {
	t.Helper()
	s, err := NewStore(Config{Dir: dir, Bytes: limit, Logger: slog.New(slog.NewTextHandler(logged, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// module has a function that answers with n.
func module(n int32) []byte {
	m := wasmtest.New()
	f := m.Func(wasmtest.Sig{Results: []wasmtest.Type{wasmtest.I32}}, wasmtest.I32Const(n))
	m.Export("answer", wasmtest.KindFunction, f.Index)
	return m.Bytes()
}

// ask loads module(n), lets it answer and closes it.
func ask(s *Store, n int32) error {
	ctx := context.Background()
	c, err := s.Load(ctx, module(n), 1, s.logger)
	if err != nil {
		return err
	}
	in, err := c.Runtime.InstantiateModule(ctx, c.Module, wazero.NewModuleConfig())
	if err != nil {
		return err
	}
	got, err := in.ExportedFunction("answer").Call(ctx)
	if err == nil && int32(got[0]) != n {
		err = fmt.Errorf("it answered %d, not %d", got[0], n)
	}
	return errors.Join(err, c.Close())
}

func once(t *testing.T, s *Store, n int32) {
	t.Helper()
	if err := ask(s, n); err != nil {
		t.Error(err)
	}
}

// files returns the compiled code and the seals in a cache directory.
func files(t *testing.T, dir string) (code, seals []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		switch {
		case err != nil || d.IsDir():
		case d.Name() == sealName:
			seals = append(seals, path)
		default:
			code = append(code, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return code, seals
}

// TestADamagedCacheIsNotRun: whatever happened to an entry, the module serves, and the entry is whole afterwards.
func TestADamagedCacheIsNotRun(t *testing.T) {
	for what, damage := range map[string]func(t *testing.T, code, seal string){
		"nothing": func(*testing.T, string, string) {},
		"a flipped bit": func(t *testing.T, code, _ string) {
			b, err := os.ReadFile(code)
			if err != nil {
				t.Fatal(err)
			}
			b[len(b)/2] ^= 1
			if err := os.WriteFile(code, b, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"a cut-off file": func(t *testing.T, code, _ string) {
			if err := os.Truncate(code, 40); err != nil {
				t.Fatal(err)
			}
		},
		"no seal": func(t *testing.T, _, seal string) {
			if err := os.Remove(seal); err != nil {
				t.Fatal(err)
			}
		},
		"no code": func(t *testing.T, code, _ string) {
			if err := os.Remove(code); err != nil {
				t.Fatal(err)
			}
		},
		"sealed nonsense": func(t *testing.T, code, seal string) {
			if err := os.WriteFile(code, []byte("nonsense"), 0o600); err != nil {
				t.Fatal(err)
			}
			digest, err := sum(filepath.Dir(seal))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(seal, []byte(digest), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			var logged bytes.Buffer
			once(t, caching(t, dir, 0, &logged), 1)
			code, seals := files(t, dir)
			if len(code) != 1 || len(seals) != 1 {
				t.Fatalf("the cache holds %v and %v", code, seals)
			}
			pristine, err := os.ReadFile(code[0])
			if err != nil {
				t.Fatal(err)
			}
			damage(t, code[0], seals[0])
			once(t, caching(t, dir, 0, &logged), 1)
			once(t, caching(t, dir, 0, &logged), 1)
			code, seals = files(t, dir)
			if len(code) != 1 || len(seals) != 1 {
				t.Fatalf("afterwards the cache holds %v and %v", code, seals)
			}
			if b, err := os.ReadFile(code[0]); err != nil || !bytes.Equal(b, pristine) {
				t.Errorf("the entry was not mended: %v", err)
			}
		})
	}
}

func TestACacheThatCannotBeWrittenFailsNothing(t *testing.T) {
	var logged bytes.Buffer
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	once(t, caching(t, file, 0, &logged), 1)
	if !strings.Contains(logged.String(), "compiling without it") {
		t.Errorf("the log says nothing: %s", logged.String())
	}
}

const (
	childVariable = "DHOW_WASM_COMPILED_CHILD" // the cache directory of a child process
	fullVariable  = "DHOW_WASM_COMPILED_FULL"  // set: no file may be longer than a few bytes
)

// child compiles a guest into the cache and lets it answer.
func child(dir string) int {
	if os.Getenv(fullVariable) != "" {
		signal.Ignore(syscall.SIGXFSZ)
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 10, Max: 10}); err != nil {
			return 2
		}
	}
	s, err := NewStore(Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return 3
	}
	if err := ask(s, 1); err != nil {
		return 4
	}
	return 0
}

func runChild(t *testing.T, dir string, env ...string) error {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), append(env, childVariable+"="+dir)...)
	return cmd.Run()
}

// TestKilledWhileWritingTheCache: whatever is left behind, the next process serves and leaves a whole entry.
func TestKilledWhileWritingTheCache(t *testing.T) {
	for _, point := range []string{"wasmcache/compiled", "wasmcache/sealed", "wasmcache/published"} {
		t.Run(point, func(t *testing.T) {
			dir := t.TempDir()
			var exit *exec.ExitError
			if err := runChild(t, dir, "DHOW_FAILPOINT="+point); !errors.As(err, &exit) || exit.Exited() {
				t.Fatalf("the child was not killed: %v", err)
			}
			if err := runChild(t, dir); err != nil {
				t.Fatal(err)
			}
			abandoned, err := filepath.Glob(filepath.Join(dir, newPrefix+"*"))
			if err != nil || len(abandoned) > 1 {
				t.Errorf("%v, %v", abandoned, err)
			}
			past := time.Now().Add(-2 * abandonedAfter)
			for _, a := range abandoned {
				if err := os.Chtimes(a, past, past); err != nil {
					t.Fatal(err)
				}
			}
			newCache(dir, 0, slog.New(slog.DiscardHandler)).shrink("")
			if code, seals := files(t, dir); len(code) != 1 || len(seals) != 1 {
				t.Errorf("the cache holds %v and %v", code, seals)
			}
		})
	}
}

// TestAFullDiskFailsNothing: compiled code that cannot be written is used all the same.
func TestAFullDiskFailsNothing(t *testing.T) {
	dir := t.TempDir()
	if err := runChild(t, dir, fullVariable+"=1"); err != nil {
		t.Fatal(err)
	}
	if code, seals := files(t, dir); len(code) != 0 || len(seals) != 0 {
		t.Errorf("the cache holds %v and %v", code, seals)
	}
}

func TestProcessesShareACache(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			var logged bytes.Buffer
			r := caching(t, dir, 0, &logged)
			for i := range 10 {
				once(t, r, int32(i))
			}
		})
	}
	wg.Wait()
	once(t, caching(t, dir, 0, new(bytes.Buffer)), 1)
}

// TestTheCacheShrinks: what was used longest ago goes, what was just compiled stays.
func TestTheCacheShrinks(t *testing.T) {
	dir := t.TempDir()
	var logged bytes.Buffer
	r := caching(t, dir, 1, &logged)
	once(t, r, 1)
	_, first := files(t, dir)
	past := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Dir(first[0]), past, past); err != nil {
		t.Fatal(err)
	}
	once(t, r, 2)
	_, left := files(t, dir)
	if len(left) != 1 || left[0] == first[0] {
		t.Errorf("the cache holds %v, the first entry was %v", left, first)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}

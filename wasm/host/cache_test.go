package host

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func caching(t *testing.T, dir string, limit int64, logged *bytes.Buffer) *Runtime {
	t.Helper()
	r, err := NewRuntime(context.Background(), Config{CacheDir: dir, CacheBytes: limit, Logger: slog.New(slog.NewTextHandler(logged, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// once compiles a, lets it answer and closes it.
func once(t *testing.T, r *Runtime, a assembly) {
	t.Helper()
	m, err := r.Compile(context.Background(), a.build(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Process(context.Background(), request("x"), nil); err != nil {
		t.Error(err)
	}
	if err := m.Close(); err != nil {
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
			e := entry{dir: filepath.Dir(seal)}
			sum, _, err := e.sum()
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(seal, []byte(sum), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			var logged bytes.Buffer
			once(t, caching(t, dir, 0, &logged), assembly{})
			code, seals := files(t, dir)
			if len(code) != 1 || len(seals) != 1 {
				t.Fatalf("the cache holds %v and %v", code, seals)
			}
			pristine, err := os.ReadFile(code[0])
			if err != nil {
				t.Fatal(err)
			}
			damage(t, code[0], seals[0])
			once(t, caching(t, dir, 0, &logged), assembly{})
			once(t, caching(t, dir, 0, &logged), assembly{})
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
	once(t, caching(t, file, 0, &logged), assembly{})
	if !strings.Contains(logged.String(), "compiling without it") {
		t.Errorf("the log says nothing: %s", logged.String())
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
				once(t, r, assembly{process: join(constant(int32(i)), []byte{opDrop}, constant(answerAt))})
			}
		})
	}
	wg.Wait()
	once(t, caching(t, dir, 0, new(bytes.Buffer)), assembly{})
}

// TestTheCacheShrinks: what was used longest ago goes, what was just compiled stays.
func TestTheCacheShrinks(t *testing.T) {
	dir := t.TempDir()
	var logged bytes.Buffer
	r := caching(t, dir, 1, &logged)
	once(t, r, assembly{})
	_, first := files(t, dir)
	past := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Dir(first[0]), past, past); err != nil {
		t.Fatal(err)
	}
	once(t, r, assembly{process: join(constant(1), []byte{opDrop}, constant(answerAt))})
	_, left := files(t, dir)
	if len(left) != 1 || left[0] == first[0] {
		t.Errorf("the cache holds %v, the first entry was %v", left, first)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}

package compiled

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// filler is a Compiler that works in this process, and counts.
type filler struct {
	calls int
	fail  func(dir string) error // nil: fill
}

func (f *filler) Compile(ctx context.Context, code []byte, dir string, pages uint32) error {
	f.calls++
	if f.fail != nil {
		if err := f.fail(dir); err != nil {
			return err
		}
	}
	return Fill(ctx, code, dir, pages)
}

func with(t *testing.T, dir string, c Compiler) (*Store, *bytes.Buffer) {
	t.Helper()
	var logged bytes.Buffer
	s, err := NewStore(Config{Dir: dir, Compiler: c, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return s, &logged
}

func TestWhatIsInTheCacheIsNotCompiledAgain(t *testing.T) {
	dir := t.TempDir()
	f := &filler{}
	r, logged := with(t, dir, f)
	for range 3 {
		once(t, r, 1)
	}
	if f.calls != 1 || logged.Len() != 0 {
		t.Errorf("it was compiled %d times; %s", f.calls, logged)
	}
	if code, seals := files(t, dir); len(code) != 1 || len(seals) != 1 {
		t.Errorf("the cache holds %v and %v", code, seals)
	}
}

// TestNothingIsCompiledInTheProcessItself: an entry that is whole but of another engine (another version of wazero,
// another processor) is not found by wazero, which would then compile by itself.
func TestNothingIsCompiledInTheProcessItself(t *testing.T) {
	for what, change := range map[string]func(t *testing.T, file string){
		"another version": func(t *testing.T, file string) {
			if err := os.Rename(filepath.Dir(file), filepath.Dir(file)+"-other"); err != nil {
				t.Fatal(err)
			}
		},
		"another processor": func(t *testing.T, file string) {
			if err := os.Rename(file, filepath.Join(filepath.Dir(file), strings.Repeat("0", 64))); err != nil {
				t.Fatal(err)
			}
		},
		"another version by its header": func(t *testing.T, file string) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			b[8] ^= 1
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			f := &filler{}
			r, logged := with(t, dir, f)
			once(t, r, 1)
			code, seals := files(t, dir)
			change(t, code[0])
			entry := filepath.Dir(seals[0])
			if err := os.Remove(seals[0]); err != nil {
				t.Fatal(err)
			}
			if err := seal(entry); err != nil {
				t.Fatal(err)
			}
			j := job{code: module(1), pages: 1}
			if _, err := j.loadCompiled(context.Background(), entry); !errors.Is(err, errNotThere) {
				t.Errorf("loaded without compiled code: %v", err)
			}
			once(t, r, 1)
			once(t, r, 1)
			if f.calls != 2 || !strings.Contains(logged.String(), "compiling anew") {
				t.Errorf("it was compiled %d times; %s", f.calls, logged)
			}
		})
	}
}

func TestWithoutAFolderOfItsOwn(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	full := t.TempDir()
	for _, c := range []struct{ name, dir string }{{"no cache", ""}, {"a cache that is a file", file}, {"a full cache", full}} {
		t.Run(c.name, func(t *testing.T) {
			f := &filler{fail: func(dir string) error {
				if strings.HasPrefix(dir, full) {
					return fmt.Errorf("%w: no space left on device", ErrUnwritable)
				}
				return nil
			}}
			r, logged := with(t, c.dir, f)
			once(t, r, 1)
			if warned := strings.Contains(logged.String(), "compiling without it"); warned != (c.dir != "") {
				t.Errorf("logged %q", logged)
			}
			if left, err := os.ReadDir(temp); err != nil || len(left) != 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
			if left, err := os.ReadDir(full); err != nil || len(left) != 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
	t.Run("nothing can be written", func(t *testing.T) {
		t.Setenv("TMPDIR", file)
		r, _ := with(t, file, &filler{})
		_, err := r.Load(context.Background(), module(1), 1, r.logger)
		if !errors.Is(err, ErrUnwritable) || !strings.Contains(err.Error(), "TMPDIR") {
			t.Errorf("%v", err)
		}
	})
}

// TestACompilerThatFails: its error is the module's, its leftovers go, and what it claims to have done is looked at.
func TestACompilerThatFails(t *testing.T) {
	broken := errors.New("compiling it took too long")
	for what, fail := range map[string]func(string) error{
		"an error":        func(string) error { return broken },
		"half an entry":   func(dir string) error { _ = os.WriteFile(filepath.Join(dir, "x"), nil, 0o600); return broken },
		"too many files":  func(dir string) error { return scatter(dir, maxEntryFiles+1) },
		"a link":          func(dir string) error { return os.Symlink("/etc/passwd", filepath.Join(dir, "x")) },
		"a huge file":     func(dir string) error { return hole(filepath.Join(dir, "x"), MaxCompiled+1) },
		"an invalid seal": func(dir string) error { return os.Mkdir(filepath.Join(dir, sealName), 0o700) },
	} {
		t.Run(what, func(t *testing.T) {
			dir, temp := t.TempDir(), t.TempDir()
			t.Setenv("TMPDIR", temp)
			f := &filler{fail: fail}
			r, _ := with(t, dir, f)
			_, err := r.Load(context.Background(), module(1), 1, r.logger)
			if err == nil {
				t.Error("no error")
			}
			for _, d := range []string{dir, temp} {
				if left, err := os.ReadDir(d); err != nil || len(left) != 0 {
					t.Errorf("left behind: %v, %v", left, err)
				}
			}
			f.fail = nil
			once(t, r, 1)
		})
	}
}

func scatter(dir string, n int) error {
	for i := range n {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func hole(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return f.Truncate(size)
}

// TestTheCacheHoldsSoManyEntries whatever their size.
func TestTheCacheHoldsSoManyEntries(t *testing.T) {
	c := newCache(filepath.Join(t.TempDir(), "cache"), 0, slog.New(slog.DiscardHandler))
	c.entries = 3
	for i := range 10 {
		dir, err := c.begin()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "x"), []byte{byte(i)}, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := seal(dir); err != nil {
			t.Fatal(err)
		}
		place := c.place([]byte{byte(i)})
		c.publish(dir, place)
		if !c.find(place) {
			t.Errorf("entry %d is not there", i)
		}
	}
	if left, err := os.ReadDir(c.dir); err != nil || len(left) != 3 {
		t.Errorf("%d entries, %v", len(left), err)
	}
	if info, err := os.Stat(c.dir); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

package kittest

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/wasm/host"
)

var (
	building sync.Mutex
	built    = map[string]outcome{} // by the command
)

type outcome struct {
	code []byte
	said string
	err  error
}

// Build runs script with args and the name of a file to write, and returns what it wrote; once for all tests of a
// package. The test is skipped with what the script says when it wrote nothing, as scripts do where their tool chain is
// missing.
func Build(t testing.TB, script string, args ...string) []byte {
	t.Helper()
	building.Lock()
	defer building.Unlock()
	key := strings.Join(append([]string{script}, args...), "\x00")
	o, done := built[key]
	if !done {
		out := filepath.Join(t.TempDir(), "guest.wasm")
		said, err := exec.Command(script, append(args, out)...).CombinedOutput()
		o = outcome{said: strings.TrimSpace(string(said)), err: err}
		if err == nil {
			o.code, o.err = os.ReadFile(out)
		}
		built[key] = o
	}
	switch {
	case errors.Is(o.err, fs.ErrNotExist) && o.said != "":
		t.Skip(o.said)
	case o.err != nil:
		t.Fatalf("%s %s: %v\n%s", script, strings.Join(args, " "), o.err, o.said)
	}
	t.Log(o.said)
	return o.code
}

// Compile makes a module that is closed with the test. Where nothing is said, a call has a minute, since machines that
// run tests are slow at times, and memory has 16 MiB.
func Compile(t testing.TB, code []byte, o host.Options) *host.Module {
	t.Helper()
	if o.Limits.Timeout == 0 {
		o.Limits.Timeout = time.Minute
	}
	if o.Limits.Memory == 0 {
		o.Limits.Memory = 16 << 20
	}
	r, err := host.NewRuntime(context.Background(), host.Config{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := r.Compile(context.Background(), code, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

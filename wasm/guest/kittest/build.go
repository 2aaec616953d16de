package kittest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/wasm/host"
)

// Build runs script with args and the name of a file to write, and returns what it wrote. The test is skipped with what
// the script says when it wrote nothing, as scripts do where their tool chain is missing.
func Build(t testing.TB, script string, args ...string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "guest.wasm")
	said, err := exec.Command(script, append(args, out)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", script, strings.Join(args, " "), err, said)
	}
	code, err := os.ReadFile(out)
	if os.IsNotExist(err) {
		t.Skip(strings.TrimSpace(string(said)))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Log(strings.TrimSpace(string(said)))
	return code
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

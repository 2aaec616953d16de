package rust

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/wasm/guest/kittest"
)

func TestEcho(t *testing.T) {
	kittest.Echo(t, kittest.Build(t, "./build", "echo"))
}

// TestTheBytesDoNotDependOnThePlace: the kit is built from another folder, into another folder.
func TestTheBytesDoNotDependOnThePlace(t *testing.T) {
	here := kittest.Build(t, "./build", "echo")
	elsewhere := filepath.Join(t.TempDir(), "a", "b", "wasm", "guest", "rust")
	if err := os.CopyFS(elsewhere, os.DirFS(".")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CARGO_TARGET_DIR", t.TempDir())
	there := kittest.Build(t, filepath.Join(elsewhere, "build"), filepath.Join(elsewhere, "echo"))
	if !bytes.Equal(here, there) {
		t.Errorf("%d bytes here and other %d bytes there", len(here), len(there))
	}
}

// TestTheCratesOwnTests runs what is tested without WASM.
func TestTheCratesOwnTests(t *testing.T) {
	kittest.Build(t, "./build", "echo") // skips where the tool chain is missing
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	cargo, rustc := "/usr/bin/cargo", "/usr/bin/rustc"
	if _, err := os.Stat(rustc); err != nil {
		cargo, rustc = "cargo", "rustc"
	}
	cmd := exec.Command(cargo, "test", "--offline", "--locked", "--quiet", "--lib")
	cmd.Env = append(os.Environ(), "RUSTC="+rustc, "CARGO_TARGET_DIR="+filepath.Join(root, ".cache", "rust"))
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "test result: ok") {
		t.Errorf("%v\n%s", err, out)
	}
}

func BenchmarkEcho(b *testing.B) { kittest.Benchmark(b, kittest.Build(b, "./build", "echo")) }

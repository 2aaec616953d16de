package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/dhowfleet/dhow/agent/inference/onnxruntime"
)

// root is the checkout.
var root = func() string {
	_, here, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(here)))
}()

var binaries struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	// The binaries lie in a temporary folder, where no agent would look for the checkout's library.
	if os.Getenv("DHOW_ONNXRUNTIME") == "" {
		library := filepath.Join(root, ".cache", "onnxruntime", onnxruntime.Pinned, runtime.GOOS+"-"+runtime.GOARCH, "libonnxruntime.so")
		if err := os.Setenv("DHOW_ONNXRUNTIME", library); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	if binaries.dir != "" {
		_ = os.RemoveAll(binaries.dir) // a temporary folder that could not be removed fails no test
	}
	os.Exit(code)
}

// built returns the folder of the three programs, built from this checkout.
func built(t *testing.T) string {
	t.Helper()
	binaries.once.Do(func() {
		binaries.dir, binaries.err = os.MkdirTemp("", "dhow-e2e-bin-")
		if binaries.err != nil {
			return
		}
		// The flags of the Makefile, so that the build cache is shared with `make`.
		cmd := exec.Command("go", "build", "-trimpath", "-o", binaries.dir+"/", "./cmd/dhow-agent", "./cmd/dhow-fleet", "./cmd/dhow")
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			binaries.err = fmt.Errorf("cannot build: %w\n%s", err, out)
		}
	})
	if binaries.err != nil {
		t.Fatal(binaries.err)
	}
	return binaries.dir
}

// bundle returns the assembled demo bundle.
func bundle(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(root, "build", "fashion")
	if _, err := os.Stat(filepath.Join(dir, "bundle.yaml")); err != nil {
		t.Fatalf("the demo's bundle is missing; run make bundle: %v", err)
	}
	return dir
}

func photos() string { return filepath.Join(root, "models", "examples", "fashion", "photos") }

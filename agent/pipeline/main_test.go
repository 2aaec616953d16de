package pipeline

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host"
)

// scratch holds the demo's WASM steps and their compiled code, for all tests of the package.
var scratch string

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "dhow-pipeline-"); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(scratch)
	os.Exit(code)
}

var built struct {
	once    sync.Once
	err     error
	runtime *host.Runtime
}

// wasm builds the demo's steps once, into scratch, and returns a runtime with a shared cache.
func wasm(t testing.TB) *host.Runtime {
	t.Helper()
	built.once.Do(func() {
		for _, step := range []string{"pre", "post"} {
			cmd := exec.Command("go", "build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(scratch, step+".wasm"), "../../wasm/examples/fashion-"+step)
			cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
			if text, err := cmd.CombinedOutput(); err != nil {
				built.err = fmt.Errorf("%v: %s", err, text)
				return
			}
		}
		built.runtime, built.err = host.NewRuntime(context.Background(), host.Config{CacheDir: filepath.Join(scratch, "cache")})
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.runtime
}

// folder lays out a bundle's folder with the demo's steps and labels, without a model.
func folder(t testing.TB) string {
	t.Helper()
	wasm(t)
	dir := t.TempDir()
	for _, name := range []string{"pre.wasm", "post.wasm"} {
		if err := os.Symlink(filepath.Join(scratch, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir, "labels.txt", []byte("zero\none\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\n"))
	return dir
}

func write(t testing.TB, dir, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func spec(datatype tensor.Datatype, name string, shape ...int64) tensor.Spec {
	return tensor.Spec{Name: name, Datatype: datatype, Shape: shape}
}

// fashion is the demo's bundle as its bundle.yaml says.
func fashion() bundle.Spec {
	return bundle.Spec{
		Name: "fashion", Version: "1",
		Variants: []bundle.Variant{{Name: "float32", File: "model.onnx"}},
		Inputs:   []tensor.Spec{spec(tensor.Bytes, "photo", 1)},
		Outputs:  []tensor.Spec{spec(tensor.Bytes, "label", 3), spec(tensor.FP32, "score", 3)},
		Pre:      &bundle.Step{Module: "pre.wasm", Timeout: 5 * time.Second, Memory: 64 << 20},
		Post:     &bundle.Step{Module: "post.wasm", Timeout: 5 * time.Second, Memory: 64 << 20},
		Labels:   "labels.txt",
		Counters: []string{"photo_png", "photo_jpeg"},
		Features: []string{"brightness", "contrast"},
		Budgets:  bundle.Budgets{Load: time.Minute},
	}
}

type sink struct {
	counts   map[string]uint64
	features map[string]float64
}

func newSink() *sink { return &sink{map[string]uint64{}, map[string]float64{}} }

func (s *sink) Feature(name string, v float64) { s.features[name] = v }
func (s *sink) Count(name string, n uint64)    { s.counts[name] += n }

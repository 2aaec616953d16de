package onnxruntime

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
	"github.com/dhowfleet/dhow/models/tensor"
)

func engine(t testing.TB) *Engine {
	t.Helper()
	e := New("")
	if err := e.Open(); err != nil {
		t.Fatal(err)
	}
	return e
}

func write(t testing.TB, g *onnxtest.Graph) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.onnx")
	if err := os.WriteFile(path, g.Model(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t testing.TB, path string) inference.Model {
	t.Helper()
	m, err := engine(t).Load(t.Context(), path, inference.Options{})
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

// bindingDir is where the Go binding's source lies; its header and its test models are used by the tests.
func bindingDir(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/yalue/onnxruntime_go").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func bindingModel(t testing.TB, name string) string {
	return filepath.Join(bindingDir(t), "test_data", name)
}

func f32(name string, values ...float32) tensor.Tensor {
	return tensor.FromFloat32(name, []int64{1, int64(len(values))}, values)
}

func run(t testing.TB, m inference.Model, wanted []string, in ...tensor.Tensor) []tensor.Tensor {
	t.Helper()
	out, err := m.Run(t.Context(), in, wanted)
	if err != nil {
		t.Fatal(err)
	}
	for i := range out {
		if err := out[i].Validate(); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

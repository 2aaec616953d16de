package probe

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/onnxruntime"
	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
	"github.com/dhowfleet/dhow/agent/modelfile"
	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/wasm/confine"
)

// weigh loads a model and prints what the process takes then.
func weigh(path string) int {
	m, err := onnxruntime.New("").Load(context.Background(), path, inference.Options{})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(confine.Anonymous(os.Getpid()))
	_ = m.Close()
	return 0
}

// TestTheEstimateIsNearTheTruth for models of several makers: what is estimated from the file against what a process has
// that loaded it. (What is computed while loading and given back is in the estimate only.) An estimate far below lets in what does not fit, one far above keeps out what does.
func TestTheEstimateIsNearTheTruth(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	files := []string{
		write("tiny.onnx", onnxtest.Negate(3).Model()),
		write("weights-64MB.onnx", onnxtest.Matrix(4096, 1).Model()),
		write("chain-5000.onnx", onnxtest.Matrix(8, 5000).Model()),
		"../../models/examples/fashion/model.onnx",
		"../../models/examples/fashion/model_int8w.onnx",
	}
	own := len(files)
	_ = filepath.WalkDir("../../.cache/models", func(p string, d fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(p) == ".onnx" {
			if info, err := d.Info(); err == nil && info.Size() > 2<<20 {
				files = append(files, p)
			}
		}
		return nil
	})
	if len(files) == own {
		t.Log("models of others are not there; test/models/fetch gets them")
	}
	weighed := 0
	for _, f := range files {
		g, err := modelfile.Inspect(f)
		if err != nil {
			t.Errorf("%s: %v", f, err)
			continue
		}
		cmd := exec.Command(os.Args[0], "weigh", f)
		cmd.Env = confine.Environment(os.Environ())
		out, err := cmd.Output()
		text := strings.TrimSpace(string(out))
		real, parsed := strconv.ParseInt(text, 10, 64)
		if err != nil || parsed != nil {
			t.Logf("%s is not loaded: %v %s", filepath.Base(f), err, text)
			continue
		}
		weighed++
		estimate := int64(g.MemoryEstimate())
		ratio := float64(estimate) / float64(real)
		t.Logf("%-45s file %9s  estimate %9s  real %9s  ratio %.2f", filepath.Base(f), bundle.FormatSize(g.FileBytes), bundle.FormatSize(estimate), bundle.FormatSize(real), ratio)
		if ratio < 0.9 || ratio > 8 {
			t.Errorf("%s is estimated at %.2f of what it takes", f, ratio)
		}
	}
	if weighed == 0 {
		t.Skip("ONNX Runtime is not there")
	}
}

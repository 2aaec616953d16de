package standalone

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/agent/admission"
	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
	"github.com/dhowfleet/dhow/agent/memory"
	"github.com/dhowfleet/dhow/agent/modelfile"
	"github.com/dhowfleet/dhow/agent/modelrepository"
	"github.com/dhowfleet/dhow/models/graph"
	"github.com/dhowfleet/dhow/models/triton"
)

const mb = 1 << 20

func TestWhatOneModelMayTake(t *testing.T) {
	for _, c := range []struct {
		parameter string
		g         graph.Graph
		want      int64
		err       string
	}{
		{"", graph.Graph{FileBytes: 126}, 512 * mb, ""},
		{"", graph.Graph{FileBytes: mb, ExternalBytes: 99 * mb}, 800 * mb, ""},
		{"", graph.Graph{FileBytes: mb, LargestValueBytes: 64 * mb}, 640 * mb, ""},
		{"", graph.Graph{FileBytes: 126, ConstantBytes: 1 << 40}, 512 * mb, ""},
		{"1073741824", graph.Graph{FileBytes: 126}, 1024 * mb, ""},
		{"1GiB", graph.Graph{}, 0, `"1GiB" is no number of bytes`},
		{"0", graph.Graph{}, 0, "is no number of bytes"},
		{"-1", graph.Graph{}, 0, "is no number of bytes"},
		{"99999999999999999", graph.Graph{}, 0, "is no number of bytes"},
	} {
		config := &triton.Config{}
		if c.parameter != "" {
			var err error
			if config, _, err = triton.Parse([]byte(`parameters { key: "memory_budget_bytes" value { string_value: "` + c.parameter + `" } }`)); err != nil {
				t.Fatal(err)
			}
		}
		got, err := budgetOf(config, &c.g)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q, %+v: %d, %v, want %d, %q", c.parameter, c.g, got, err, c.want, c.err)
		}
	}
	if n, err := budgetOf(&triton.Config{}, &graph.Graph{FileBytes: 1 << 62, ExternalBytes: 1 << 63, LargestValueBytes: 1 << 63}); err != nil || n <= 0 {
		t.Errorf("a sum left its range: %d", n)
	}
}

func candidate(t *testing.T, model []byte) *modelrepository.Candidate {
	t.Helper()
	file := filepath.Join(t.TempDir(), "model.onnx")
	if err := os.WriteFile(file, model, 0o600); err != nil {
		t.Fatal(err)
	}
	g, err := modelfile.Inspect(file)
	if err != nil {
		t.Fatal(err)
	}
	return &modelrepository.Candidate{Model: "m", Version: 3, File: file, Graph: g, Config: &triton.Config{}, Instances: 2}
}

// TestTheDoor: what is let in counts as often as there are copies of it, and what failed its trial counts no more.
func TestTheDoor(t *testing.T) {
	plenty := func() admission.Machine { return admission.Machine{Memory: 8 << 30, Available: 8 << 30} }
	d := &door{account: memory.New(memory.Options{Total: 100 * mb, Machine: plenty}), log: slog.New(slog.DiscardHandler)}
	small := candidate(t, onnxtest.Matrix(1024, 1).Model())
	release, err := d.admit(t.Context(), small)
	if err != nil {
		t.Fatal(err)
	}
	if n := d.account.Bytes("m", "3"); n < 2*4*mb || n > 30*mb {
		t.Errorf("two copies of 4 MiB count as %d bytes", n)
	}
	release()
	if n := d.account.Bytes("m", "3"); n != 0 {
		t.Errorf("%d bytes are kept", n)
	}
	if _, err := d.admit(t.Context(), candidate(t, onnxtest.Matrix(4096, 1).Model())); err == nil || !strings.Contains(err.Error(), "model-memory") {
		t.Errorf("two copies of 64 MiB in 100: %v", err)
	}

	// A child that says nothing and ends has crashed.
	d.trial, d.command = true, []string{"/bin/false"}
	if _, err := d.admit(t.Context(), small); err == nil || !strings.HasPrefix(err.Error(), "crashed: it was tried in a process of its own") {
		t.Error(err)
	}
	d.command = []string{"/does/not/exist"}
	if _, err := d.admit(t.Context(), small); err == nil || !strings.Contains(err.Error(), "cannot start a probe") {
		t.Error(err)
	}
	if n := d.account.Bytes("m", "3"); n != 0 {
		t.Errorf("what failed its trial keeps %d bytes", n)
	}
	d.command = []string{"/bin/sh", "-c", `echo '{"ok":true,"heldBytes":1000}'`}
	if release, err = d.admit(t.Context(), small); err != nil || d.account.Bytes("m", "3") != 2000 {
		t.Fatalf("%v, %d bytes", err, d.account.Bytes("m", "3"))
	}
	release()
	// What it was found to take is more than there is, whatever its file said.
	d.command = []string{"/bin/sh", "-c", `echo '{"ok":true,"heldBytes":200000000}'`}
	if _, err := d.admit(t.Context(), small); err == nil || !strings.Contains(err.Error(), "model-memory") {
		t.Errorf("a model that takes twice 200 MB in 100: %v", err)
	}
	if n := d.account.Bytes("m", "3"); n != 0 {
		t.Errorf("what was refused keeps %d bytes", n)
	}
	small.Options = inference.Options{Provider: "CUDAExecutionProvider"}
	d.command = []string{"/bin/false"}
	if release, err = d.admit(t.Context(), small); err != nil {
		t.Fatal("what runs on a GPU was tried:", err)
	}
	release()
	if release, err := d.admit(t.Context(), &modelrepository.Candidate{Model: "step"}); release != nil || err != nil {
		t.Error("a module is not let in by itself:", err)
	}
}

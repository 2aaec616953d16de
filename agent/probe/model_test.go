package probe

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
	"github.com/dhowfleet/dhow/models/bundle"
)

// TestModelFiles: a model without a bundle is loaded and asked, and what it does to the process is told.
func TestModelFiles(t *testing.T) {
	unknown := onnxtest.Negate(3)
	unknown.Nodes[0].Op = "NoSuchOperator"
	for _, c := range []struct {
		name          string
		model         []byte
		memory        int64
		reason, words string
	}{
		{"good", onnxtest.Negate(3).Model(), 0, "", ""},
		{"with weights", onnxtest.Matrix(2048, 1).Model(), 0, "", ""},
		{"an operator that is not there", unknown.Model(), 0, LoadFailed, "NoSuchOperator"},
		{"no model", []byte("<html>"), 0, LoadFailed, "model"},
		{"swells at one go", swelling(64, true), 128 << 20, MemoryLimit, "budget of 128MiB"},
		{"swells a little", swelling(12, true), 128 << 20, MemoryLimit, "the model"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "model.onnx")
			if err := os.WriteFile(path, c.model, 0o600); err != nil {
				t.Fatal(err)
			}
			res := try(t, Request{Model: path, Rows: true, MemoryBytes: c.memory})
			if res.OK != (c.reason == "") || res.Reason != c.reason || !strings.Contains(res.Message, c.words) || strings.Contains(res.Message, "bundle") {
				t.Errorf("%+v, want %s with %q", res, c.reason, c.words)
			}
			if res.OK && (res.HeldBytes < 64<<10 || res.HeldBytes > res.PeakBytes || res.Provider != "CPUExecutionProvider") {
				t.Errorf("%+v", res)
			}
			t.Logf("peak %s, held %s, %d ms, %s", bundle.FormatSize(res.PeakBytes), bundle.FormatSize(res.HeldBytes), res.LoadMillis, res.Message)
		})
	}
	res := try(t, Request{Model: "/dev/null", Command: command("abort")})
	if res.Reason != Crashed || !strings.HasPrefix(res.Message, "the model crashed") {
		t.Errorf("%+v", res)
	}
	res = try(t, Request{Model: "/dev/null", Command: command("hang"), Wall: 100 * time.Millisecond})
	if res.Reason != TimeLimit || !strings.HasPrefix(res.Message, "the model") {
		t.Errorf("%+v", res)
	}
}

package agent

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/dhowfleet/dhow/agent/admission"
	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
	"github.com/dhowfleet/dhow/agent/memory"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/bundle"
)

// closed is a runner that can be closed.
type closed struct{ serving.Runner }

func (closed) Close() error { return nil }

// TestABundleIsLetInWhenThereIsMemory: by its files before it was probed, by the probe's measure after; one that served
// before comes in anyhow, and keeps others out.
func TestABundleIsLetInWhenThereIsMemory(t *testing.T) {
	const mb = 1 << 20
	plenty := func() admission.Machine { return admission.Machine{Memory: 8 << 30, Available: 8 << 30} }
	m := &models{
		memory: memory.New(memory.Options{Total: 60 * mb, Machine: plenty}), log: slog.New(slog.DiscardHandler), tried: map[string]int64{},
	}
	dir := t.TempDir()
	for name, width := range map[string]int{"a.onnx": 2048, "b.onnx": 2048} {
		if err := os.WriteFile(filepath.Join(dir, name), onnxtest.Matrix(width, 1).Model(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	single := &bundle.Spec{Name: "m", Version: "1", Variants: []bundle.Variant{{Name: "float32", File: "a.onnx"}}}
	chain := &bundle.Spec{Name: "m", Version: "2", Variants: single.Variants, Stages: []bundle.Stage{{Name: "one"}, {Name: "two", Model: "b.onnx"}, {Name: "three", Module: &bundle.Step{}}}}
	one, two := m.need(dir, single), m.need(dir, chain)
	if one.Estimate < 32*mb || one.Estimate > 50*mb || two.Estimate != 2*one.Estimate {
		t.Errorf("%+v, a chain %+v", one, two)
	}
	if _, err := m.try(t.Context(), dir, chain); !errors.As(err, new(*admission.Refused)) {
		t.Errorf("what has no place was probed: %v", err)
	}
	first, err := m.admit(dir, single, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.admit(dir, single, false); !errors.As(err, new(*admission.Refused)) {
		t.Error(err)
	}
	again, err := m.admit(dir, single, true)
	if err != nil || m.memory.Bytes("m", "1") != 2*one.Estimate {
		t.Fatalf("one that served before: %v, %d bytes", err, m.memory.Bytes("m", "1"))
	}
	first.Release()
	again.Release()
	m.tried[dir] = 17 * mb
	grant, err := m.admit(dir, chain, false)
	if err != nil || m.memory.Bytes("m", "2") != 17*mb || len(m.tried) != 0 {
		t.Fatalf("%v, %d bytes", err, m.memory.Bytes("m", "2"))
	}
	if err := (&loadedCopy{Runner: closed{nil}, release: grant.Release}).Close(); err != nil || m.memory.Bytes("m", "2") != 0 {
		t.Errorf("%v, %d bytes are kept", err, m.memory.Bytes("m", "2"))
	}
}

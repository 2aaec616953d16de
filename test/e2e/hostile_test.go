package e2e

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
)

// longs is a constant of whole numbers.
func longs(name string, values ...int64) onnxtest.Constant {
	var data []byte
	for _, v := range values {
		data = binary.LittleEndian.AppendUint64(data, uint64(v))
	}
	return onnxtest.Constant{Name: name, Type: onnxtest.Int64, Dims: []int64{int64(len(values))}, Data: data}
}

// swelling makes a gigabyte out of a few bytes when it is loaded; hidden takes a way to the size that shows only then.
func swelling(hidden bool) *onnxtest.Graph {
	g := &onnxtest.Graph{
		Inputs:    []onnxtest.Value{{Name: "x", Type: onnxtest.Float, Dims: []int64{-1, 3}}},
		Outputs:   []onnxtest.Value{{Name: "y", Type: onnxtest.Float, Dims: []int64{-1, 3}}},
		Constants: []onnxtest.Constant{longs("n", 64, 4<<20)},
	}
	size := "n"
	if hidden {
		g.Nodes = append(g.Nodes, onnxtest.Node{Op: "Mod", Inputs: []string{"n", "large"}, Outputs: []string{"m"}})
		g.Constants = append(g.Constants, longs("large", 1<<40))
		size = "m"
	}
	g.Nodes = append(g.Nodes,
		onnxtest.Node{Op: "ConstantOfShape", Inputs: []string{size}, Outputs: []string{"zeros"}},
		onnxtest.Node{Op: "ReduceMax", Inputs: []string{"zeros"}, Outputs: []string{"zero"}, Attributes: []onnxtest.Attribute{{Name: "keepdims"}}},
		onnxtest.Node{Op: "Add", Inputs: []string{"x", "zero"}, Outputs: []string{"y"}})
	return g
}

// outside has its weights in another file.
func outside(location string) *onnxtest.Graph {
	g := onnxtest.Negate(16)
	g.Nodes = []onnxtest.Node{{Op: "Add", Inputs: []string{"x", "w"}, Outputs: []string{"y"}}}
	g.Constants = []onnxtest.Constant{{Name: "w", Type: onnxtest.Float, Dims: []int64{16}, Location: location}}
	return g
}

// TestHostileModels: among good models, each of the bad ones is kept out and the index says why. None of them costs the
// agent its memory or its life, and the good ones answer.
func TestHostileModels(t *testing.T) {
	t.Parallel()
	repository := t.TempDir()
	put(t, repository, "good", "1", onnxtest.Negate(8))
	put(t, repository, "simple", "1", simple())
	put(t, repository, "weights", "1", onnxtest.Matrix(2048, 1))

	cycle := onnxtest.Negate(8)
	cycle.Nodes = []onnxtest.Node{
		{Op: "Add", Inputs: []string{"x", "back"}, Outputs: []string{"y"}},
		{Op: "Neg", Inputs: []string{"y"}, Outputs: []string{"back"}},
	}
	shapes := onnxtest.Negate(8)
	shapes.Constants = []onnxtest.Constant{{Name: "w", Type: onnxtest.Float, Dims: []int64{1 << 40, 1 << 40}}}
	unknown := onnxtest.Negate(8)
	unknown.Nodes[0].Op = "NoSuchOperator"
	bad := map[string]struct {
		graph *onnxtest.Graph
		want  string
	}{
		"absurd":   {shapes, "cannot use model.onnx"},
		"above":    {outside("../../good/1/model.onnx"), "external data must lie beside the model file"},
		"absolute": {outside("/etc/passwd"), "external data must lie beside the model file"},
		"cycle":    {cycle, "cannot use model.onnx"},
		"hidden":   {swelling(true), "memory-limit: it was tried in a process of its own, and the model asked for more memory than the budget of"},
		"large":    {onnxtest.Matrix(6144, 1), "all models together may take 256MiB; raise the budget for all models (model-memory)"},
		"linked":   {outside("w.bin"), "w.bin is a symbolic link"},
		"pointer":  {nil, "git lfs pull"},
		"swelling": {swelling(false), "MiB; if it is to be trusted, give it more by the parameter memory_budget_bytes"},
		"torn":     {nil, "cannot use model.onnx"},
		"unknown":  {unknown, "load-failed: it was tried in a process of its own: cannot load model.onnx"},
	}
	write := func(name string, data []byte) {
		must(t, os.MkdirAll(filepath.Join(repository, name, "1"), 0o700))
		must(t, os.WriteFile(filepath.Join(repository, name, "1", "model.onnx"), data, 0o600))
	}
	for name, b := range bad {
		if b.graph != nil {
			write(name, b.graph.Model())
		}
	}
	write("pointer", []byte("version https://git-lfs.github.com/spec/v1\noid sha256:"+strings.Repeat("0", 64)+"\nsize 1234\n"))
	write("torn", onnxtest.Matrix(256, 2).Model()[:100_000])
	must(t, os.Symlink("/etc/passwd", filepath.Join(repository, "linked", "1", "w.bin")))
	t.Logf("the one that swells has %d bytes", len(swelling(false).Model()))

	s := serve(t, repository, "--model-memory", "256MiB")
	status, text := s.post(t, "/v2/repository/index", "{}")
	var index []struct{ Name, Version, State, Reason string }
	must(t, json.Unmarshal([]byte(text), &index))
	if status != http.StatusOK || len(index) != len(bad)+3 {
		t.Errorf("%d: %s", status, text)
	}
	for _, e := range index {
		b, isBad := bad[e.Name]
		switch {
		case isBad && (e.State != "UNAVAILABLE" || !strings.Contains(e.Reason, b.want)):
			t.Errorf("%s is %s: %s, want %q", e.Name, e.State, e.Reason, b.want)
		case !isBad && e.State != "READY":
			t.Errorf("%s is %s: %s", e.Name, e.State, e.Reason)
		}
		t.Log(e.Name, e.State, e.Reason)
	}
	for range 3 {
		values := "[" + strings.TrimSuffix(strings.Repeat("1,", 8), ",") + "]"
		status, text := s.post(t, "/v2/models/good/infer", `{"inputs":[{"name":"x","datatype":"FP32","shape":[1,8],"data":`+values+`}]}`)
		if status != http.StatusOK || !strings.Contains(text, "-1") {
			t.Errorf("%d: %s", status, text)
		}
	}
	if own, most := memory(t, s.pid, "RssAnon"), memory(t, s.pid, "VmHWM"); own > 150_000 || most > 300_000 {
		t.Errorf("the agent holds %d kB of its own, and once held %d kB in all", own, most)
	} else {
		t.Logf("the agent holds %d kB of its own, and once held %d kB in all", own, most)
	}

	// What a model takes is known, and shown wherever one looks.
	_, document, err := s.get(http.DefaultClient, s.url+"/dhow/status")
	must(t, err)
	var d struct {
		Models []struct {
			Model       string
			MemoryBytes int64
		}
	}
	must(t, json.Unmarshal([]byte(document), &d))
	for _, m := range d.Models {
		_, isBad := bad[m.Model]
		if isBad != (m.MemoryBytes == 0) || m.Model == "weights" && (m.MemoryBytes < 15<<20 || m.MemoryBytes > 64<<20) {
			t.Errorf("%s is said to take %d bytes", m.Model, m.MemoryBytes)
		}
	}
	_, metrics, err := s.get(http.DefaultClient, "http://"+s.metrics+"/metrics")
	must(t, err)
	if want := `dhow_model_memory_bytes{model="weights",version="1"} `; !strings.Contains(metrics, want) {
		t.Errorf("the metrics have no %s", want)
	}
	shown, err := exec.Command(filepath.Join(built(t), "dhow-agent"), "status", "--listen", strings.TrimPrefix(s.url, "http://")).CombinedOutput()
	if err != nil || !bytes.Contains(shown, []byte("MiB")) {
		t.Errorf("%v: %s", err, shown)
	}
	fmt.Fprintf(t.Output(), "%s", shown)
}

// TestAHostileBundleRollsBack: what its file does not show is found by the node's probe, and the version before goes on.
func TestAHostileBundleRollsBack(t *testing.T) {
	t.Parallel()
	f, n := serving(t)
	before := memory(t, n.Agent.PID(), "VmHWM")
	g := swelling(true)
	g.Inputs = []onnxtest.Value{{Name: "image", Type: onnxtest.Float, Dims: []int64{-1, 1, 28, 28}}}
	g.Outputs = []onnxtest.Value{{Name: plainOutput, Type: onnxtest.Float, Dims: []int64{-1, 10}}}
	last := len(g.Nodes) - 1
	g.Nodes[last] = onnxtest.Node{Op: "Add", Inputs: []string{"product", "zero"}, Outputs: []string{plainOutput}}
	g.Nodes = append([]onnxtest.Node{
		{Op: "Flatten", Inputs: []string{"image"}, Outputs: []string{"flat"}},
		{Op: "MatMul", Inputs: []string{"flat", "w"}, Outputs: []string{"product"}},
	}, g.Nodes...)
	g.Constants = append(g.Constants, onnxtest.Constant{Name: "w", Type: onnxtest.Float, Dims: []int64{784, 10}, Data: make([]byte, 4*784*10)})
	dir := plainBundle(t, "2")
	must(t, os.Remove(filepath.Join(dir, "model.onnx")))
	must(t, os.WriteFile(filepath.Join(dir, "model.onnx"), g.Model(), 0o600))
	_, err := f.CLI.Run(t.Context(), "model", "push", dir)
	must(t, err)
	must(t, rollOut(t.Context(), f, "plain", "2"))
	message := awaitPhase(t, f, "plain-v2", "RolledBack")
	for _, wanted := range []string{"n1", "memory-limit", "asked for more memory than the budget of"} {
		if !strings.Contains(message, wanted) {
			t.Errorf("the rollout says %q, which does not name %q", message, wanted)
		}
	}
	settle(t, f, n, "1")
	if most := memory(t, n.Agent.PID(), "VmHWM"); most > before+100_000 {
		t.Errorf("the agent once held %d kB, %d before", most, before)
	}
}

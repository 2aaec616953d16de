package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
	"github.com/dhowfleet/dhow/test/conformance/suite"
	"github.com/dhowfleet/dhow/test/inprocess"
)

// ONNX's element types that onnxtest has no name for.
const (
	typeUint8, typeInt8, typeUint16, typeInt16, typeInt32 = 2, 3, 4, 5, 6
	typeUint32, typeUint64, typeBF16                      = 12, 13, 16
)

func identity(kind int, dims ...int64) *onnxtest.Graph {
	return &onnxtest.Graph{
		Inputs:  []onnxtest.Value{{Name: "x", Type: kind, Dims: dims}},
		Outputs: []onnxtest.Value{{Name: "y", Type: kind, Dims: dims}},
		Nodes:   []onnxtest.Node{{Op: "Identity", Inputs: []string{"x"}, Outputs: []string{"y"}}},
	}
}

func simple() *onnxtest.Graph {
	dims := []int64{1, 16}
	value := func(name string) onnxtest.Value { return onnxtest.Value{Name: name, Type: typeInt32, Dims: dims} }
	return &onnxtest.Graph{
		Inputs:  []onnxtest.Value{value("INPUT0"), value("INPUT1")},
		Outputs: []onnxtest.Value{value("OUTPUT0"), value("OUTPUT1")},
		Nodes: []onnxtest.Node{
			{Op: "Add", Inputs: []string{"INPUT0", "INPUT1"}, Outputs: []string{"OUTPUT0"}},
			{Op: "Sub", Inputs: []string{"INPUT0", "INPUT1"}, Outputs: []string{"OUTPUT1"}},
		},
	}
}

// models are one of each datatype, and such as have odd names, no dimensions or no elements.
func models() map[string]*onnxtest.Graph {
	return map[string]*onnxtest.Graph{
		"simple": simple(), "negate": onnxtest.Negate(4), "scalar": identity(onnxtest.Float),
		"bool": identity(onnxtest.Bool, -1, 3), "uint8": identity(typeUint8, -1, 3), "int8": identity(typeInt8, 2, 3),
		"uint16": identity(typeUint16, -1), "int16": identity(typeInt16, -1), "uint32": identity(typeUint32, 5), "uint64": identity(typeUint64, 5),
		"int64": identity(onnxtest.Int64, -1, -1), "fp16": identity(onnxtest.Float16, -1, 2), "bf16": identity(typeBF16, -1, 2),
		"fp64": identity(onnxtest.Double, 2, 2, 2), "texts": identity(onnxtest.String, -1, 2),
		`odd:name with "quotes" & ünïcode %2F`: onnxtest.Negate(3),
	}
}

func outcomes(t *testing.T, args ...string) (byCheck map[string][]suite.Outcome, exit int, counts map[string]float64) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	exit = start(t.Context(), append(args, "-json"), &stdout, &stderr)
	var doc struct {
		Outcomes                []suite.Outcome
		Unused                  map[string]string `json:"unused_models"`
		Passed, Failed, Skipped float64
	}
	if err := json.Unmarshal(stdout.Bytes(), &doc); err != nil {
		t.Fatalf("%v; exit %d, stderr %s", err, exit, stderr.String())
	}
	for name, why := range doc.Unused {
		t.Errorf("model %s was not used: %s", name, why)
	}
	byCheck = map[string][]suite.Outcome{}
	for _, out := range doc.Outcomes {
		byCheck[out.Group+"/"+out.Check] = append(byCheck[out.Group+"/"+out.Check], out)
	}
	return byCheck, exit, map[string]float64{"passed": doc.Passed, "failed": doc.Failed, "skipped": doc.Skipped}
}

// conforms runs every check; needs names the least number that must pass.
func conforms(t *testing.T, needs float64, mayBeSkipped []string, args ...string) {
	t.Helper()
	all, exit, counts := outcomes(t, append(args, "-max-models", "99")...)
	for name, outs := range all {
		passed := false
		for _, out := range outs {
			passed = passed || out.Status == suite.Pass
			if out.Status == suite.Fail {
				t.Errorf("%s (%s): %s\n%+v", name, out.Model, out.Detail, out.Exchanges)
			}
		}
		if !passed && !slices.Contains(mayBeSkipped, name) {
			t.Errorf("%s passed with no model: %s", name, outs[0].Detail)
		}
	}
	t.Log(counts)
	if exit != 0 || counts["passed"] < needs {
		t.Errorf("exit status %d, %v", exit, counts)
	}
}

// notDone are checks of extensions that this server does not have.
var notDone = []string{"extensions/logging", "extensions/trace", "extensions/system-shared-memory", "extensions/cuda-shared-memory"}

// serve serves models out of a folder.
func serve(t *testing.T, graphs map[string]*onnxtest.Graph) *inprocess.Server {
	t.Helper()
	dir := t.TempDir()
	for name, g := range graphs {
		path := filepath.Join(dir, name, "1", "model.onnx")
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, g.Model(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := inprocess.StartRepository(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestTheServerConforms runs every check against the server of this repository.
func TestTheServerConforms(t *testing.T) {
	s := serve(t, models())
	conforms(t, 500, notDone, "-url", s.URL, "-grpc", s.GRPC, "-fixture", "simple", "-control", "negate")
}

// TestOddModels are such as no folder can have: a slash in the name, a dimension that is 0.
func TestOddModels(t *testing.T) {
	s, err := inprocess.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	args := []string{"-url", s.URL, "-grpc", s.GRPC}
	for name, g := range map[string]*onnxtest.Graph{"a/name with/slashes %2F": onnxtest.Negate(3), "empty": identity(onnxtest.Float, -1, 0)} {
		path := filepath.Join(t.TempDir(), "model.onnx")
		if err := os.WriteFile(path, g.Model(), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Load(t.Context(), name, path); err != nil {
			t.Fatal(err)
		}
		args = append(args, "-model", name)
	}
	all := checks(nil)
	names := make([]string, len(all))
	for i, c := range all {
		names[i] = c.Group + "/" + c.Name
	}
	conforms(t, 100, names, args...)
}

package standalone

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/agent/config"
	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/inferencetest"
	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
	"github.com/dhowfleet/dhow/models/tensor"
)

// engine is a fake runtime that cannot do everything.
type engine struct {
	*inferencetest.Engine
	fault *inference.RuntimeError
	on    string // the provider that the fault is of; "": whatever is loaded
}

func (e engine) Load(ctx context.Context, path string, o inference.Options) (inference.Model, error) {
	if e.fault != nil && o.Provider == e.on {
		return nil, e.fault
	}
	return e.Engine.Load(ctx, path, o)
}

// folder is a repository with a model that a CPU serves and one that wants a GPU.
func folder(t *testing.T, e *inferencetest.Engine) string {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []string{"cpu", "gpu"} {
		file := filepath.Join(root, m, "1", "model.onnx")
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, onnxtest.Negate(3).Model(), 0o600); err != nil {
			t.Fatal(err)
		}
		e.Define(file, inferencetest.Definition{
			Inputs:  []tensor.Spec{{Name: "x", Datatype: tensor.FP32, Shape: []int64{-1, 3}}},
			Outputs: []tensor.Spec{{Name: "y", Datatype: tensor.FP32, Shape: []int64{-1, 3}}},
			Run: func(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
				return []tensor.Tensor{tensor.FromFloat32("y", in[0].Shape, in[0].Float32s())}, nil
			},
		})
	}
	if err := os.WriteFile(filepath.Join(root, "gpu", "config.pbtxt"), []byte("instance_group { kind: KIND_GPU }"), 0o600); err != nil {
		t.Fatal(err)
	}
	return root
}

func open(t *testing.T, dir string, e inference.Engine) *Agent {
	t.Helper()
	c := config.DefaultRepository()
	c.Dir, c.Listen, c.GRPCListen, c.MetricsListen = dir, "127.0.0.1:0", config.Off, config.Off
	a, err := New(t.Context(), c, Deps{Logger: slog.New(slog.DiscardHandler), Engine: e})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAModelThatWantsAMissingGPUKeepsNoOtherFromServing(t *testing.T) {
	fake := &inferencetest.Engine{}
	a := open(t, folder(t, fake), engine{fake, &inference.RuntimeError{Code: "provider-missing", Message: "there is no GPU", Remedy: "add one"}, "CUDAExecutionProvider"})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-a.loaded:
	case err := <-done:
		done <- nil
		t.Fatalf("the server ended: %v", err)
	case <-time.After(10 * time.Second):
		t.Fatal("the models are not tried")
	}
	for path, want := range map[string]string{
		"GET /v2/models/cpu/ready":  `"ready":true`,
		"GET /v2/models/gpu/ready":  `"error"`,
		"POST /v2/repository/index": "there is no GPU",
	} {
		method, path, _ := strings.Cut(path, " ")
		req, err := http.NewRequestWithContext(ctx, method, "http://"+a.Addr()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || !strings.Contains(string(body), want) {
			t.Errorf("%s: %s (%v), want %s", path, body, err, want)
		}
	}
}

func TestWithoutARuntimeTheServerEnds(t *testing.T) {
	fake := &inferencetest.Engine{}
	missing := &inference.RuntimeError{Code: "onnxruntime-missing", Message: "there is none", Remedy: "fetch it"}
	err := open(t, folder(t, fake), engine{fake, missing, ""}).Run(t.Context())
	if !errors.Is(err, missing) {
		t.Errorf("%v", err)
	}
}

package models

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/onnxruntime"
	"github.com/dhowfleet/dhow/agent/pipeline"
	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/agent/telemetry"
	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host"
)

// reader is the bundle that reads a page in one request.
const reader = `apiVersion: dhow/v1
name: reader
version: "1"
inputs: [{name: photo, datatype: BYTES, shape: [1]}]
outputs:
  - {name: text, datatype: BYTES, shape: [-1]}
  - {name: score, datatype: FP32, shape: [-1]}
  - {name: place, datatype: FP32, shape: [-1, 4, 2]}
pipeline:
  - {name: prepare, module: prepare.wasm, timeout: 20s, memory: 256MiB, gives: [x]}
  - {name: detect, model: det.onnx, outputs: {sigmoid_0.tmp_0: map}}
  - {name: cut, module: cut.wasm, timeout: 20s, memory: 256MiB, takes: [photo, map], gives: [lines, place]}
  - {name: read, model: rec.onnx, inputs: {x: lines}, outputs: {softmax_11.tmp_0: characters}}
  - {name: decode, module: decode.wasm, timeout: 20s, memory: 256MiB, takes: [characters, place], gives: [text, score]}
labels: characters.txt
budgets: {memory: 1GiB, infer: 60s}
`

// readerBundle lays the bundle out, with its modules built.
func readerBundle(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, file := range map[string]string{"det.onnx": "ch_PP-OCRv4_det_infer.onnx", "rec.onnx": "ch_PP-OCRv4_rec_infer.onnx", "characters.txt": "ppocr_keys_v1.txt"} {
		write(name, read(t, fetched(t, "ocr-models", "assets", file)))
	}
	write(bundle.SpecFile, []byte(reader))
	for _, step := range []string{"prepare", "cut", "decode"} {
		cmd := exec.Command("go", "build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, step+".wasm"), "../../wasm/examples/ocr-"+step)
		cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
	}
	return dir
}

// TestAPageIsReadInOneRequest: a photographed page goes in, what is printed on it comes out, and all between is a bundle.
func TestAPageIsReadInOneRequest(t *testing.T) {
	photo := read(t, fetched(t, "skimage", "page.png"))
	empty := read(t, fetched(t, "skimage", "phantom.png"))
	dir := readerBundle(t)
	b, err := bundle.Load(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	wasm, err := host.NewRuntime(t.Context(), host.Config{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	p, err := pipeline.Open(t.Context(), pipeline.Deps{Engine: onnxruntime.New(""), Wasm: wasm, Instances: 1}, dir, b.Spec, "")
	var missing *inference.RuntimeError
	if errors.As(err, &missing) {
		t.Skip(missing)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	start := time.Now()
	timing := statistics.Timing{}
	out, err := p.Infer(context.WithValue(t.Context(), statistics.Key, &timing), []tensor.Tensor{tensor.FromStrings("photo", string(photo))}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	texts, err := tensor.SplitBytes(out[0].Data)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for i, text := range texts {
		t.Logf("%.2f %q", out[1].Float32s()[i], text)
		all = append(all, string(text))
	}
	t.Logf("%d lines in %v: %v before the detector, %v in both models, %v after it", len(texts), time.Since(start).Round(time.Millisecond),
		timing.Input.Round(time.Millisecond), timing.Infer.Round(time.Millisecond), timing.Output.Round(time.Millisecond))
	whole := strings.ToLower(strings.Join(all, " "))
	for _, word := range []string{"region", "segmentation", "markers", "coins", "background", "histogram", "grey"} {
		if !strings.Contains(whole, word) {
			t.Errorf("the word %q was not read", word)
		}
	}
	if out[2].Shape[0] != int64(len(texts)) {
		t.Errorf("%d lines in %v places", len(texts), out[2].Shape)
	}
	if out, err = p.Infer(t.Context(), []tensor.Tensor{tensor.FromStrings("photo", string(empty))}, []string{"text"}, nil); err != nil || len(out) != 1 {
		t.Errorf("a picture with little to read: %v, %v", out, err)
	} else {
		t.Logf("a picture with little to read has %d lines", out[0].Shape[0])
	}
	var failed *pipeline.Error
	if _, err = p.Infer(t.Context(), []tensor.Tensor{tensor.FromStrings("photo", "no picture")}, nil, nil); !errors.As(err, &failed) || failed.Code() != telemetry.InvalidInput {
		t.Errorf("what is no picture: %v", err)
	}
}

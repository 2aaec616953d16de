package fashion

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/onnxruntime"
	"github.com/dhowfleet/dhow/agent/pipeline"
	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host"
)

var update = flag.Bool("update", false, "write the answers of the golden samples anew, from the reference pre-processing and the float32 model")

// parts are the files that the build step copies; the WASM modules stand for themselves.
func parts(t *testing.T) fstest.MapFS {
	t.Helper()
	m := fstest.MapFS{
		"pre.wasm":  {Data: []byte("\x00asm\x01\x00\x00\x00"), Mode: 0o644},
		"post.wasm": {Data: []byte("\x00asm\x01\x00\x00\x00"), Mode: 0o644},
	}
	golden, err := filepath.Glob("golden/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(golden, "bundle.yaml", "model.onnx", "model_int8w.onnx", "labels.txt", "card.md", "NOTICE") {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		m[name] = &fstest.MapFile{Data: data, Mode: 0o644}
	}
	return m
}

func TestTheBundleIsWhole(t *testing.T) {
	b, err := bundle.Load(parts(t))
	if err != nil {
		t.Fatal(err)
	}
	if b.Spec.Name != "fashion" || len(b.Spec.Variants) != 2 || b.Spec.Variants[0].Name != "float32" {
		t.Errorf("%+v", b.Spec)
	}
}

// model is a variant with the reference pre-processing before it and the ranking behind it.
type model struct {
	inference.Model
	labels []string
}

func open(t *testing.T, file string) model {
	t.Helper()
	m, err := onnxruntime.New("").Load(t.Context(), file, inference.Options{Threads: 1})
	var missing *inference.RuntimeError
	if errors.As(err, &missing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	text, err := os.ReadFile("labels.txt")
	if err != nil {
		t.Fatal(err)
	}
	labels := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if len(labels) != 10 {
		t.Fatalf("%d labels", len(labels))
	}
	return model{m, labels}
}

// rank returns the classes of one photo, likeliest first, and their probabilities.
func (m model) rank(t *testing.T, photo []byte) ([]int, []float32) {
	t.Helper()
	pixels, err := reference(photo)
	if err != nil {
		t.Fatal(err)
	}
	out, err := m.Run(t.Context(), []tensor.Tensor{tensor.FromFloat32("image", []int64{1, 1, side, side}, pixels)}, []string{"probabilities"})
	if err != nil {
		t.Fatal(err)
	}
	p := out[0].Float32s()
	classes := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
	slices.SortStableFunc(classes, func(a, b int) int {
		switch {
		case p[a] > p[b]:
			return -1
		case p[a] < p[b]:
			return 1
		}
		return 0
	})
	var scores []float32
	for _, c := range classes {
		scores = append(scores, p[c])
	}
	return classes, scores
}

var photoName = regexp.MustCompile(`^([0-9]{4})-([0-9])\.(png|jpg)$`)

// TestAccuracy: the photos are labelled truly and both variants know most of them.
func TestAccuracy(t *testing.T) {
	entries, err := os.ReadDir("photos")
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 600 {
		t.Fatalf("%d photos, want 600", len(entries))
	}
	for _, file := range []string{"model.onnx", "model_int8w.onnx"} {
		m := open(t, file)
		right, total := 0, 0
		for i, e := range entries {
			name := photoName.FindStringSubmatch(e.Name())
			if name == nil || name[1] != fmt.Sprintf("%04d", i) || (name[3] == "png") != (i%2 == 0) {
				t.Fatalf("photo %d is called %s", i, e.Name())
			}
			photo, err := os.ReadFile(filepath.Join("photos", e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			total += len(photo)
			if classes, _ := m.rank(t, photo); fmt.Sprint(classes[0]) == name[2] {
				right++
			}
		}
		t.Logf("%s: %d of %d right, %d bytes of photos", file, right, len(entries), total)
		if float64(right) < .85*float64(len(entries)) {
			t.Errorf("%s names %d of %d photos right", file, right, len(entries))
		}
		if total > 3<<20 {
			t.Errorf("the photos have %d bytes, at most 3 MiB are to be committed", total)
		}
	}
}

const tolerance = 0.005 // what the int8w variant and other machines' arithmetic may differ by

// TestGoldenAnswersFollowTheDefinition compares the golden samples with the reference, for every variant.
func TestGoldenAnswersFollowTheDefinition(t *testing.T) {
	if *update {
		updateGolden(t, open(t, "model.onnx"))
	}
	b, err := bundle.Load(parts(t))
	if err != nil {
		t.Fatal(err)
	}
	golden, err := b.Spec.Golden(parts(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(golden) != 4 {
		t.Errorf("%d golden samples, want 4", len(golden))
	}
	for _, v := range b.Spec.Variants {
		m := open(t, v.File)
		for _, g := range golden {
			photo, err := tensor.SplitBytes(g.Inputs[0].Data)
			if err != nil {
				t.Fatal(err)
			}
			classes, scores := m.rank(t, photo[0])
			if err := g.Compare(m.answer(classes, scores)); err != nil {
				t.Errorf("variant %s: %v", v.Name, err)
			}
			for i := range 3 {
				if scores[i] < 2*scores[i+1] {
					t.Errorf("variant %s, sample %s: answers %d and %d may change places", v.Name, g.Name, i, i+1)
				}
			}
		}
	}
}

func (m model) answer(classes []int, scores []float32) []tensor.Tensor {
	return []tensor.Tensor{
		tensor.FromStrings("label", m.labels[classes[0]], m.labels[classes[1]], m.labels[classes[2]]),
		tensor.FromFloat32("score", []int64{3}, scores[:3]),
	}
}

func updateGolden(t *testing.T, m model) {
	t.Helper()
	type value struct {
		Name     string  `json:"name"`
		Datatype string  `json:"datatype"`
		Shape    []int64 `json:"shape"`
		Data     any     `json:"data,omitempty"`
		File     string  `json:"file,omitempty"`
	}
	photos, err := filepath.Glob("golden/*.[jp][pn]g")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range photos {
		photo, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		classes, scores := m.rank(t, photo)
		var labels []string
		for _, c := range classes[:3] {
			labels = append(labels, m.labels[c])
		}
		line := func(v value) string {
			out, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			return string(out)
		}
		text := fmt.Sprintf("{\n  \"inputs\": [%s],\n  \"outputs\": [\n    %s,\n    %s\n  ],\n  \"tolerance\": %v\n}\n",
			line(value{Name: "photo", Datatype: "BYTES", Shape: []int64{1}, File: filepath.Base(p)}),
			line(value{Name: "label", Datatype: "BYTES", Shape: []int64{3}, Data: labels}),
			line(value{Name: "score", Datatype: "FP32", Shape: []int64{3}, Data: scores[:3]}), tolerance)
		if err := os.WriteFile(strings.TrimSuffix(p, filepath.Ext(p))+".json", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTheBuiltBundleGivesTheGoldenAnswers assembles the bundle as the demo does and asks its real WASM steps.
func TestTheBuiltBundleGivesTheGoldenAnswers(t *testing.T) {
	open(t, "model.onnx") // skips where ONNX Runtime is missing
	dir := filepath.Join(t.TempDir(), "built")
	build := func(args ...string) (string, error) {
		out, err := exec.Command("./build", append([]string{dir}, args...)...).CombinedOutput()
		return string(out), err
	}
	if out, err := build("--version", "7.1"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b, err := bundle.Load(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	if b.Spec.Version != "7.1" {
		t.Errorf("the version is %q, want 7.1", b.Spec.Version)
	}
	golden, err := b.Spec.Golden(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	wasm, err := host.NewRuntime(t.Context(), host.Config{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range b.Spec.Variants {
		p, err := pipeline.Open(t.Context(), pipeline.Deps{Engine: onnxruntime.New(""), Wasm: wasm}, dir, b.Spec, v.Name)
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range golden {
			out, err := p.Infer(t.Context(), g.Inputs, nil, nil)
			if err == nil {
				err = g.Compare(out)
			}
			if err != nil {
				t.Errorf("variant %s: %v", v.Name, err)
			}
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestBuildLeavesOtherFoldersAlone: a slip in the folder's name must not cost what is in it.
func TestBuildLeavesOtherFoldersAlone(t *testing.T) {
	dir := t.TempDir()
	mine := filepath.Join(dir, "mine")
	if err := os.WriteFile(mine, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("./build", dir).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "is no bundle") {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := os.Stat(mine); errors.Is(err, fs.ErrNotExist) {
		t.Error("the folder was emptied")
	}
	for _, args := range [][]string{nil, {filepath.Join(dir, "x"), "--version"}, {filepath.Join(dir, "x"), "--version", "a/b"}, {filepath.Join(dir, "x"), "--wrong", "1"}} {
		if out, err := exec.Command("./build", args...).CombinedOutput(); err == nil {
			t.Errorf("%v: %s", args, out)
		}
	}
}

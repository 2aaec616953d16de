package bundle

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/dhowfleet/dhow/models/tensor"
)

const fullSpec = `apiVersion: dhow/v1
name: fashion
version: "1.10"
variants:
  - {name: float32, file: model.onnx}
  - {name: small, file: small/model.onnx}
inputs: [{name: photo, datatype: BYTES, shape: [1]}]
outputs: [{name: label, datatype: BYTES, shape: [3]}, {name: score, datatype: FP32, shape: [3]}]
pipeline: {pre: {module: pre.wasm, timeout: 500ms, memory: 64MiB}, post: {module: post.wasm}}
labels: labels.txt
counters: [photo_png, photo_jpeg]
features: [brightness]
budgets: {memory: 256MiB, load: 30s, infer: 1s}
golden: golden
`

var (
	image = tensor.Spec{Name: "image", Datatype: tensor.FP32, Shape: []int64{-1, 4}}
	probs = tensor.Spec{Name: "probabilities", Datatype: tensor.FP32, Shape: []int64{-1, 10}}
)

const goldenJSON = `{"inputs":[{"name":"photo","datatype":"BYTES","shape":[1],"file":"shoe.png"}],
"outputs":[{"name":"label","datatype":"BYTES","shape":[3],"data":["a","b","c"]},{"name":"score","datatype":"FP32","shape":[3],"data":[0.5,0.25,0.125]}],
"tolerance":0.01}`

func full() fstest.MapFS {
	regular := func(data []byte) *fstest.MapFile { return &fstest.MapFile{Data: data, Mode: 0o644} }
	wasm := regular([]byte("\x00asm\x01\x00\x00\x00"))
	model := onnx([]tensor.Spec{image}, []tensor.Spec{probs}, "weights.data")
	return fstest.MapFS{
		SpecFile:             regular([]byte(fullSpec)),
		"model.onnx":         regular(model),
		"weights.data":       regular(make([]byte, 16)),
		"small/model.onnx":   regular(model),
		"small/weights.data": regular(make([]byte, 20)),
		"pre.wasm":           wasm,
		"post.wasm":          wasm,
		"labels.txt":         regular([]byte("a\nb\nc\n")),
		"card.md":            regular([]byte("# card")),
		"golden/one.json":    regular([]byte(goldenJSON)),
		"golden/shoe.png":    regular([]byte("png")),
	}
}

func TestParseSpecReadsEverything(t *testing.T) {
	s, err := ParseSpec([]byte(fullSpec))
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "fashion" || s.Version != "1.10" || s.Labels != "labels.txt" || s.GoldenDir != "golden" {
		t.Errorf("%+v", s)
	}
	if !slices.Equal(s.Variants, []Variant{{"float32", "model.onnx"}, {"small", "small/model.onnx"}}) {
		t.Errorf("variants are %v", s.Variants)
	}
	if *s.Pre != *module("pre.wasm", 500*time.Millisecond, 64<<20) || *s.Post != *module("post.wasm", DefaultStepTimeout, DefaultStepMemory) {
		t.Errorf("steps are %+v and %+v", s.Pre, s.Post)
	}
	if s.Budgets != (Budgets{256 << 20, 30 * time.Second, time.Second}) {
		t.Errorf("budgets are %+v", s.Budgets)
	}
	if len(s.Outputs) != 2 || s.Outputs[1].Datatype != tensor.FP32 || !slices.Equal(s.Outputs[1].Shape, []int64{3}) {
		t.Errorf("outputs are %+v", s.Outputs)
	}
	if v, ok := s.Variant(""); !ok || v.Name != "float32" {
		t.Errorf("the default variant is %v", v)
	}
	if v, ok := s.Variant("small"); !ok || v.File != "small/model.onnx" {
		t.Errorf("variant small is %v", v)
	}
	if _, ok := s.Variant("fp8"); ok {
		t.Error("an unknown variant was found")
	}
}

func TestParseSpecSaysWhatIsWrongAndWhere(t *testing.T) {
	for _, c := range []struct{ from, to, want string }{
		{"apiVersion: dhow/v1", "apiVersion: dhow/v2", `line 1: apiVersion: this program reads dhow/v1, not "dhow/v2"`},
		{"name: fashion\n", "", `"name" is missing in the bundle`},
		{"name: fashion", "name: Fashion", "line 2: name"},
		{"name: fashion", "name: -x", "inner dashes"},
		{`version: "1.10"`, `version: "a/b"`, "line 3: version"},
		{`version: "1.10"`, `version: "-a"`, "begin with"},
		{"budgets:", "allowance:", `line 13: unknown key "allowance" in the bundle`},
		{"timeout: 500ms", "timeuot: 500ms", `unknown key "timeuot" in pipeline.pre; known are module, timeout, memory`},
		{"file: model.onnx", "file: ../../../etc/passwd", "../../../etc/passwd"},
		{"file: model.onnx", "file: /etc/passwd", "/etc/passwd"},
		{"file: model.onnx", "file: [a]", "must be a single value"},
		{"labels: labels.txt", "labels: .git/config", "dot"},
		{"labels: labels.txt", "labels:", `"labels" in the bundle has no value`},
		{"memory: 256MiB", "memory: lots", `"lots" is not a size`},
		{"memory: 256MiB", "memory: 1KiB", "outside"},
		{"infer: 1s", "infer: 3h", "outside"},
		{"infer: 1s", "infer: 1", "not a duration"},
		{"datatype: FP32", "datatype: float", `"float"`},
		{"shape: [1]", "shape: [-2]", `"-2" is not a dimension`},
		{"shape: [1]", "shape: 1", "shape must be a list"},
		{"counters: [photo_png, photo_jpeg]", "counters: [photo_png, photo_png]", `"photo_png" occurs twice in counters`},
		{"counters: [photo_png, photo_jpeg]", "counters: [Photo]", `"Photo"`},
		{"name: small", "name: float32", `"float32" occurs twice in variants`},
		{"name: score", "name: label", `"label" occurs twice in outputs`},
		{"labels: labels.txt", "labels: labels.txt\nlabels: b.txt", `key "labels" occurs twice`},
		{"golden: golden", "golden: &a golden\nfeatures2: *a", "unknown key"},
		{"inputs: [{name: photo, datatype: BYTES, shape: [1]}]", "inputs: []", "inputs is empty"},
		{"golden: golden\n", "golden: golden\n---\nname: x\n", "more than one document"},
		{"golden: golden\n", "golden: [\n", "no YAML"},
	} {
		text := strings.Replace(fullSpec, c.from, c.to, 1)
		if text == fullSpec {
			t.Fatalf("%q is not in the spec", c.from)
		}
		if _, err := ParseSpec([]byte(text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q for %q: got %v, want %q", c.to, c.from, err, c.want)
		}
	}
	for text, want := range map[string]string{"": "empty", "# only a comment\n": "empty", "- a\n": "must be a mapping", strings.Repeat("#", MaxSpecBytes+1): "at most"} {
		if _, err := ParseSpec([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: got %v, want %q", text, err, want)
		}
	}
}

// TestAllMistakesAreReported, but not without end.
func TestAllMistakesAreReported(t *testing.T) {
	_, err := ParseSpec([]byte("apiVersion: dhow/v1\nname: A\nversion: ' '\nnonsense: 1\n"))
	for _, want := range []string{"line 2", "line 3", "line 4", `"variants" is missing`, `"inputs" is missing`, `"outputs" is missing`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %s", err, want)
		}
	}
	var many strings.Builder
	for i := range 1000 {
		many.WriteString("k" + strings.Repeat("x", i%7) + ": 1\n")
	}
	if _, err := ParseSpec([]byte(many.String())); err == nil || !strings.HasSuffix(err.Error(), "and more") || len(err.Error()) > 10_000 {
		t.Errorf("got %v", err)
	}
}

func FuzzParseSpec(f *testing.F) {
	f.Add([]byte(fullSpec))
	f.Add([]byte(listSpec))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("? {a: b}\n: 1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseSpec(data)
		if err != nil {
			return
		}
		if ValidName(s.Name) != nil || ValidVersion(s.Version) != nil || len(s.Variants) == 0 || len(s.Inputs) == 0 || len(s.Outputs) == 0 {
			t.Fatalf("%+v", s)
		}
		for _, v := range s.Variants {
			if ValidPath(v.File) != nil {
				t.Fatalf("%+v", s)
			}
		}
		if s.Budgets.Memory <= 0 || s.Budgets.Load <= 0 || s.Budgets.Infer <= 0 {
			t.Fatalf("%+v", s.Budgets)
		}
	})
}

func TestLoadAcceptsAWholeBundle(t *testing.T) {
	m := full()
	b, err := Load(m)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range b.Files {
		got = append(got, f.Path)
		if f.Size != int64(len(m[f.Path].Data)) {
			t.Errorf("%s has %d bytes, want %d", f.Path, f.Size, len(m[f.Path].Data))
		}
	}
	if want := slices.Sorted(maps.Keys(m)); !slices.Equal(got, want) {
		t.Errorf("files are %v, want %v", got, want)
	}
}

func TestLoadRefuses(t *testing.T) {
	model := func(in, out tensor.Spec, external ...string) []byte {
		return onnx([]tensor.Spec{in}, []tensor.Spec{out}, external...)
	}
	set := func(p string, data []byte) func(fstest.MapFS) {
		return func(m fstest.MapFS) { m[p] = &fstest.MapFile{Data: data, Mode: 0o644} }
	}
	drop := func(p string) func(fstest.MapFS) { return func(m fstest.MapFS) { delete(m, p) } }
	edit := func(p, from, to string) func(fstest.MapFS) {
		return func(m fstest.MapFS) {
			m[p] = &fstest.MapFile{Data: []byte(strings.Replace(string(m[p].Data), from, to, 1)), Mode: 0o644}
		}
	}
	renamed := image
	renamed.Name = "pixels"
	halved := image
	halved.Datatype = tensor.FP16
	for _, c := range []struct {
		name  string
		spoil func(fstest.MapFS)
		want  string
	}{
		{"no spec", drop(SpecFile), "this is no bundle"},
		{"no model", drop("model.onnx"), "names model.onnx, which is not in the bundle"},
		{"no module", drop("pre.wasm"), "names pre.wasm"},
		{"no labels", drop("labels.txt"), "names labels.txt"},
		{"labels are no text", set("labels.txt", []byte{0xff}), "labels.txt is no UTF-8"},
		{"truncated model", func(m fstest.MapFS) { m["model.onnx"].Data = m["model.onnx"].Data[:50] }, "cannot use model.onnx: the file ends at byte 50"},
		{"no model at all", set("small/model.onnx", []byte("<html>404</html>")), "cannot use small/model.onnx"},
		{"pointer", set("model.onnx", []byte("version https://git-lfs.github.com/spec/v1\n")), "model.onnx is a Git LFS pointer"},
		{"module is none", set("post.wasm", []byte("#!/bin/sh")), "post.wasm is no WebAssembly module"},
		{"module is too short", set("post.wasm", []byte("\x00as")), "post.wasm is no WebAssembly module"},
		{"external absolute", set("model.onnx", model(image, probs, "/etc/passwd")), `"/etc/passwd"`},
		{"external above", set("model.onnx", model(image, probs, "../weights.data")), `"../weights.data"`},
		{"external above from a folder", set("small/model.onnx", model(image, probs, "../weights.data")), `"../weights.data"`},
		{"external missing", drop("small/weights.data"), "small/model.onnx names small/weights.data"},
		{"external cut off", set("weights.data", make([]byte, 15)), "weights.data has 15 bytes, but model.onnx has weights in it up to byte 16"},
		{"symbolic link", func(m fstest.MapFS) { m["link"] = &fstest.MapFile{Data: []byte("card.md"), Mode: fs.ModeSymlink} }, "link is a symbolic link"},
		{"device", func(m fstest.MapFS) { m["pipe"] = &fstest.MapFile{Mode: fs.ModeNamedPipe} }, "pipe is no regular file"},
		{"hidden", set(".git/config", nil), ".git"},
		{"case", set("Card.md", nil), "collide"},
		{"over memory", edit(SpecFile, "memory: 256MiB", "memory: 20MiB"), "budgets.memory is 20MiB"},
		{"variants differ in name", set("small/model.onnx", model(renamed, probs)), `has no input "image", which model.onnx has; it has pixels`},
		{"variants differ in type", set("small/model.onnx", model(halved, probs)), `input "image" of small/model.onnx is FP16, model.onnx says FP32`},
		{"no golden folder", edit(SpecFile, "golden: golden", "golden: gold"), "names the folder gold"},
		{"golden without sample", drop("golden/one.json"), "golden has no sample"},
		{"golden without file", drop("golden/shoe.png"), "golden/shoe.png"},
		{"golden of another input", edit("golden/one.json", `"photo"`, `"foto"`), `no input "foto"`},
		{"golden of a wrong type", edit("golden/one.json", `"FP32"`, `"FP64"`), `output "score"`},
		{"golden of a wrong shape", edit("golden/one.json", `"shape":[3],"data":[0`, `"shape":[4],"data":[0`), `output "score"`},
		{"golden with too few values", edit("golden/one.json", `,0.125`, ``), `output "score"`},
		{"golden outside", edit("golden/one.json", "shoe.png", "../pre.wasm"), `"../pre.wasm"`},
		{"golden with a wrong tolerance", edit("golden/one.json", "0.01}", "-1}"), "tolerance"},
		{"golden with a misspelt key", edit("golden/one.json", "tolerance", "tolerence"), "tolerence"},
		{"golden followed by more", edit("golden/one.json", "0.01}", "0.01}{}"), "follows"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := full()
			c.spoil(m)
			if _, err := Load(m); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
		})
	}
}

// TestLoadComparesWithTheModel covers bundles without WASM steps, where clients speak to the model itself.
func TestLoadComparesWithTheModel(t *testing.T) {
	plain := func(in, out string) string {
		return "apiVersion: dhow/v1\nname: plain\nversion: 1\nvariants: [{name: a, file: model.onnx}]\ninputs: [" + in + "]\noutputs: [" + out + "]\n"
	}
	const goodIn, goodOut = "{name: image, datatype: FP32, shape: [-1, 4]}", "{name: probabilities, datatype: FP32, shape: [-1, 10]}"
	for _, c := range []struct{ in, out, want string }{
		{goodIn, goodOut, ""},
		{"{name: image, datatype: FP32, shape: [1, 4]}", "{name: probabilities, datatype: FP32, shape: [1, -1]}", ""},
		{"{name: picture, datatype: FP32, shape: [-1, 4]}", goodOut, `model.onnx has no input "picture"`},
		{goodIn + "," + strings.Replace(goodIn, "image", "mask", 1), goodOut, `model.onnx has no input "mask"`},
		{"{name: image, datatype: INT64, shape: [-1, 4]}", goodOut, `input "image" of model.onnx is FP32, bundle.yaml says INT64`},
		{"{name: image, datatype: FP32, shape: [-1, 3]}", goodOut, `input "image" of model.onnx has shape [-1 4], bundle.yaml says [-1 3]`},
		{"{name: image, datatype: FP32, shape: [-1, -1]}", goodOut, `input "image"`},
		{"{name: image, datatype: FP32, shape: [4]}", goodOut, `input "image"`},
		{goodIn, "{name: label, datatype: FP32, shape: [-1]}", `model.onnx has no output "label"`},
		{goodIn, "{name: extra, datatype: FP32, shape: [-1]}", `output "extra" of model.onnx is a sequence`},
		{goodIn, "{name: probabilities, datatype: FP32, shape: [-1, 11]}", `output "probabilities"`},
	} {
		m := fstest.MapFS{
			SpecFile:     {Data: []byte(plain(c.in, c.out)), Mode: 0o644},
			"model.onnx": {Data: onnxWithSequence([]tensor.Spec{image}, []tensor.Spec{probs}, "extra"), Mode: 0o644},
		}
		_, err := Load(m)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("inputs %s, outputs %s: got %v, want %q", c.in, c.out, err, c.want)
		}
	}
	m := fstest.MapFS{
		SpecFile:     {Data: []byte(plain(goodIn, goodOut)), Mode: 0o644},
		"model.onnx": {Data: onnx([]tensor.Spec{image, probs}, []tensor.Spec{probs}), Mode: 0o644},
	}
	if _, err := Load(m); err != nil && !strings.Contains(err.Error(), `wants the input "probabilities"`) || err == nil {
		t.Errorf("an input that bundle.yaml does not have: %v", err)
	}
}

// TestLoadFromDisk sees a link that leaves the bundle, as os.DirFS would follow it.
func TestLoadFromDisk(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, full()); err != nil {
		t.Fatal(err)
	}
	b, err := Load(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Hash(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(t.TempDir(), "weights.data")
	if err := os.WriteFile(secret, make([]byte, 16), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "weights.data")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(dir, "weights.data")); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(os.DirFS(dir)); err == nil || !strings.Contains(err.Error(), "weights.data is a symbolic link") {
		t.Fatalf("got %v", err)
	}
}

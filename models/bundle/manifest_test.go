package bundle

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/opencontainers/go-digest"
	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/models/tensor"
)

func manifestOf(t interface{ Fatal(...any) }, m fstest.MapFS) (b *Bundle, manifestJSON, configJSON []byte) {
	b, err := Load(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Hash(m); err != nil {
		t.Fatal(err)
	}
	manifestJSON, configJSON, err = b.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	return b, manifestJSON, configJSON
}

func TestManifestSpeaksModelPack(t *testing.T) {
	m := full()
	_, data, config := manifestOf(t, m)
	var got manifest
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if got.SchemaVersion != 2 || got.MediaType != "application/vnd.oci.image.manifest.v1+json" || got.ArtifactType != "application/vnd.cncf.model.manifest.v1+json" {
		t.Errorf("%s", data)
	}
	if got.Config.MediaType != "application/vnd.cncf.model.config.v1+json" || got.Config.Digest != digest.FromBytes(config) || got.Config.Size != int64(len(config)) {
		t.Errorf("config is %+v", got.Config)
	}
	types := map[string]string{}
	for _, l := range got.Layers {
		types[l.Annotations["org.cncf.model.filepath"]] = l.MediaType
		var meta struct {
			Name string `json:"name"`
			Size int64  `json:"size"`
		}
		if err := json.Unmarshal([]byte(l.Annotations["org.cncf.model.file.metadata+json"]), &meta); err != nil || meta.Size != l.Size || meta.Name == "" {
			t.Errorf("metadata of %v: %v, %+v", l.Annotations, err, meta)
		}
	}
	for p, want := range map[string]string{
		"model.onnx": "weight.v1.raw", "weights.data": "weight.v1.raw", "pre.wasm": "code.v1.raw", "bundle.yaml": "weight.config.v1.raw",
		"labels.txt": "weight.config.v1.raw", "card.md": "doc.v1.raw", "golden/shoe.png": "dataset.v1.raw",
	} {
		if types[p] != "application/vnd.cncf.model."+want {
			t.Errorf("%s is %s, want %s", p, types[p], want)
		}
	}
	var c struct {
		Descriptor struct{ Name, Version string }
		ModelFS    struct {
			Type    string
			DiffIDs []digest.Digest
		}
		Config struct{ Format string }
	}
	if err := json.Unmarshal(config, &c); err != nil || c.Descriptor.Name != "fashion" || c.Descriptor.Version != "1.10" ||
		c.ModelFS.Type != "layers" || len(c.ModelFS.DiffIDs) != len(m) || c.Config.Format != "onnx" {
		t.Errorf("config is %s (%v)", config, err)
	}
	name, version, err := NameOf(data)
	if err != nil || name != "fashion" || version != "1.10" {
		t.Errorf("the manifest names %q, version %q: %v", name, version, err)
	}
	if _, again, _ := manifestOf(t, full()); !bytes.Equal(data, again) {
		t.Error("the same bundle gave two manifests")
	}
}

func TestManifestNeedsDigestsAndUnchangedFiles(t *testing.T) {
	m := full()
	b, err := Load(m)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Manifest(); err == nil {
		t.Error("a manifest without digests was made")
	}
	m["card.md"].Data = append(m["card.md"].Data, '!')
	if err := b.Hash(m); err == nil || !strings.Contains(err.Error(), "card.md") {
		t.Errorf("a file that changed after Load: %v", err)
	}
}

// TestFilesComeBack: whatever files a bundle has, its manifest gives the same ones.
func TestFilesComeBack(t *testing.T) {
	element := rapid.StringMatching(`[A-Za-z0-9_][A-Za-z0-9_. -]{0,6}[A-Za-z0-9_-]`)
	rapid.Check(t, func(t *rapid.T) {
		m := full()
		for i := range rapid.IntRange(0, 8).Draw(t, "extra files") {
			// Each below a folder of its own: no file is the folder of another, and none differs from one by case alone.
			p := fmt.Sprintf("extra/%d/", i) + strings.Join(rapid.SliceOfN(element, 1, 3).Draw(t, "path"), "/")
			m[p] = &fstest.MapFile{Data: rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(t, "data"), Mode: 0o644}
		}
		if _, err := Load(m); err != nil {
			t.Fatal(err)
		}
		b, data, _ := manifestOf(t, m)
		files, err := FilesOf(data)
		if err != nil {
			t.Fatal(err)
		}
		if len(files) != len(b.Files) || len(files) != len(m) {
			t.Fatalf("%d files, manifest has %d, folder %d", len(b.Files), len(files), len(m))
		}
		for i, f := range files {
			if f.Path != b.Files[i].Path || f.Digest != digest.FromBytes(m[f.Path].Data) || f.Size != int64(len(m[f.Path].Data)) {
				t.Fatalf("file %d is %+v, was %+v", i, f, b.Files[i])
			}
		}
	})
}

func TestFilesOfTrustsNothing(t *testing.T) {
	_, good, _ := manifestOf(t, full())
	edit := func(change func(*manifest)) []byte {
		var m manifest
		if err := json.Unmarshal(good, &m); err != nil {
			t.Fatal(err)
		}
		change(&m)
		out, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	at := func(p string) []byte {
		return edit(func(m *manifest) { m.Layers[1].Annotations[AnnotationFilepath] = p })
	}
	for _, c := range []struct {
		name, want string
		data       []byte
	}{
		{"no JSON", "no JSON", []byte("<html>")},
		{"too large", "at most", make([]byte, MaxManifestBytes+1)},
		{"index", "schema", edit(func(m *manifest) { m.MediaType = "application/vnd.oci.image.index.v1+json" })},
		{"not a model", "not a model", edit(func(m *manifest) { m.ArtifactType, m.Config.MediaType = "x/y", "z/w" })},
		{"no layers", "0 layers", edit(func(m *manifest) { m.Layers = nil })},
		{"too many layers", "layers", edit(func(m *manifest) { m.Layers = make([]descriptor, MaxFiles+1) })},
		{"no spec", "no bundle.yaml", edit(func(m *manifest) { m.Layers = m.Layers[1:] })},
		{"spec too large", "bundle.yaml has", edit(func(m *manifest) { m.Layers[0].Size = MaxSpecBytes + 1 })},
		{"no path", "no annotation", edit(func(m *manifest) { m.Layers[1].Annotations = nil })},
		{"archive", "not archives", edit(func(m *manifest) { m.Layers[1].MediaType = "application/vnd.cncf.model.weight.v1.tar+gzip" })},
		{"foreign layer", "media type", edit(func(m *manifest) { m.Layers[1].MediaType = "application/octet-stream.raw" })},
		{"above", "inside", at("../x")},
		{"above in the middle", "inside", at("a/../../x")},
		{"absolute", "inside", at("/etc/passwd")},
		{"empty element", "inside", at("a//b")},
		{"backslash", "character", at(`a\b`)},
		{"drive", "character", at("c:x")},
		{"newline", "character", at("a\nb")},
		{"direction override", "character", at("a\u202eb")},
		{"hidden", "dot", at("a/.ssh")},
		{"trailing dot", "dot", at("a.")},
		{"too deep", "deeper", at("a/b/c/d/e/f/g/h/i")},
		{"too long", "255", at(strings.Repeat("x", 256))},
		{"twice", "twice", at(SpecFile)},
		{"case", "collide", at("Bundle.YAML")},
		{"file as folder", "collide", at("bundle.yaml/x")},
		{"folder as file", "collide", at("golden")},
		{"folder in another case", "collide", at("Golden/x")},
		{"negative size", "size", edit(func(m *manifest) { m.Layers[1].Size = -1 })},
		{"huge file", "size", edit(func(m *manifest) { m.Layers[1].Size = MaxFileBytes + 1 })},
		{"huge total", "more than", edit(func(m *manifest) {
			for i := range m.Layers {
				if m.Layers[i].Annotations[AnnotationFilepath] != SpecFile {
					m.Layers[i].Size = MaxFileBytes
				}
			}
		})},
		{"weak digest", "sha256", edit(func(m *manifest) { m.Layers[1].Digest = "md5:d41d8cd98f00b204e9800998ecf8427e" })},
		{"broken digest", "sha256", edit(func(m *manifest) { m.Layers[1].Digest = "sha256:00" })},
		{"digest with a path", "sha256", edit(func(m *manifest) { m.Layers[1].Digest = "sha256:../../../x" })},
		{"config without digest", "config", edit(func(m *manifest) { m.Config.Digest = "" })},
	} {
		t.Run(c.name, func(t *testing.T) {
			files, err := FilesOf(c.data)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, %v, want an error with %q", files, err, c.want)
			}
		})
	}
	// Drafts of ModelPack named the annotation differently.
	draft := edit(func(m *manifest) {
		for i := range m.Layers {
			m.Layers[i].Annotations = map[string]string{"org.cnai.model.filepath": m.Layers[i].Annotations[AnnotationFilepath]}
		}
	})
	if files, err := FilesOf(draft); err != nil || len(files) != len(full()) {
		t.Errorf("draft annotations: %d files, %v", len(files), err)
	}
	for _, broken := range [][]byte{[]byte("{}"), edit(func(m *manifest) { m.Annotations = nil }), edit(func(m *manifest) { m.Annotations[AnnotationVersion] = "a b" })} {
		if _, _, err := NameOf(broken); err == nil {
			t.Errorf("a name was found in %.60s", broken)
		}
	}
}

func FuzzFilesOf(f *testing.F) {
	_, good, _ := manifestOf(f, full())
	f.Add(good)
	f.Add([]byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		files, err := FilesOf(data)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, f := range files {
			if ValidPath(f.Path) != nil || seen[strings.ToLower(f.Path)] || f.Digest.Validate() != nil || f.Size < 0 || f.Size > MaxFileBytes {
				t.Fatalf("%+v", f)
			}
			seen[strings.ToLower(f.Path)] = true
		}
		for p := range seen {
			for q := range seen {
				if strings.HasPrefix(p, q+"/") {
					t.Fatalf("%q is a file and a folder", q)
				}
			}
		}
	})
}

func TestSizes(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "4096": 4096, "7B": 7, "64KiB": 64 << 10, "64 MiB": 64 << 20, "2GiB": 2 << 30, "3KB": 3000, "5MB": 5e6, "6GB": 6e9} {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "MiB", "-1", "1.5GiB", "1e3", "64mib", "64M", "9223372036854775807GiB", "+1"} {
		if got, err := ParseSize(s); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", s, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(0, 1<<20).Draw(t, "n") << rapid.SampledFrom([]uint{0, 10, 20, 30}).Draw(t, "unit")
		s := FormatSize(n)
		if strings.Contains(s, ".") {
			return
		}
		if got, err := ParseSize(s); err != nil || got != n {
			t.Fatalf("%d is written %q and read as %d, %v", n, s, got, err)
		}
	})
}

func TestGoldenValues(t *testing.T) {
	for _, c := range []struct {
		datatype tensor.Datatype
		shape    []int64
		data     string
		want     []byte // nil: refused
	}{
		{tensor.Uint8, []int64{2, 2}, `[[1,2],[3,255]]`, []byte{1, 2, 3, 255}},
		{tensor.Uint8, []int64{1}, `[256]`, nil},
		{tensor.Uint8, []int64{1}, `[1.0]`, nil},
		{tensor.Int16, []int64{2}, `[-1,256]`, []byte{255, 255, 0, 1}},
		{tensor.Int64, []int64{1}, `[9007199254740993]`, []byte{1, 0, 0, 0, 0, 0, 32, 0}},
		{tensor.Bool, []int64{2}, `[true,false]`, []byte{1, 0}},
		{tensor.Bool, []int64{1}, `[1]`, nil},
		{tensor.FP32, []int64{1}, `[1.5]`, []byte{0, 0, 0xc0, 0x3f}},
		{tensor.FP32, []int64{1}, `["1.5"]`, nil},
		{tensor.FP32, []int64{1}, `[1e99]`, nil},
		{tensor.FP64, []int64{}, `1`, []byte{0, 0, 0, 0, 0, 0, 0xf0, 0x3f}},
		{tensor.FP16, []int64{1}, `[1]`, nil},
		{tensor.Bytes, []int64{1}, `["ab"]`, []byte{2, 0, 0, 0, 'a', 'b'}},
		{tensor.Bytes, []int64{1}, `[1]`, nil},
		{tensor.FP32, []int64{1}, `[null]`, nil},
		{tensor.FP32, []int64{1}, `{"a":1}`, nil},
		{tensor.FP32, []int64{1}, strings.Repeat("[", 17) + "1" + strings.Repeat("]", 17), nil},
		{tensor.Uint8, []int64{3}, `[1,2]`, nil},
	} {
		g := goldenTensor{Name: "x", Datatype: c.datatype.String(), Shape: c.shape, Data: json.RawMessage(c.data)}
		got, err := g.tensor(fstest.MapFS{}, ".", new(int64))
		if (err == nil) != (c.want != nil) || err == nil && !bytes.Equal(got.Data, c.want) {
			t.Errorf("%s %v %s: %v, %v, want %v", c.datatype, c.shape, c.data, got.Data, err, c.want)
		}
	}
}

func TestCompare(t *testing.T) {
	g := Golden{Name: "one", Tolerance: 0.01, Outputs: []tensor.Tensor{
		tensor.FromFloat32("score", []int64{2}, []float32{0.5, 0.25}), tensor.FromStrings("label", "a", "b"),
		{Name: "n", Datatype: tensor.Int64, Shape: []int64{1}, Data: []byte{1, 0, 0, 0, 0, 0, 0, 0}},
		{Name: "h", Datatype: tensor.FP16, Shape: []int64{1}, Data: []byte{0, 0x3c}},
	}}
	set := func(i int, t tensor.Tensor) []tensor.Tensor {
		out := slices.Clone(g.Outputs)
		out[i] = t
		return out
	}
	nan := tensor.Tensor{Name: "score", Datatype: tensor.FP32, Shape: []int64{2}, Data: []byte{0, 0, 0xc0, 0x7f, 0, 0, 0xc0, 0x7f}}
	for _, c := range []struct {
		got  []tensor.Tensor
		want string
	}{
		{g.Outputs, ""},
		{set(0, tensor.FromFloat32("score", []int64{2}, []float32{0.509, 0.241})), ""},
		{set(0, tensor.FromFloat32("score", []int64{2}, []float32{0.5, 0.27})), `sample one: output "score" is 0.27 at element 1, expected 0.25 within 0.01`},
		{set(0, nan), `output "score" is NaN at element 0`},
		{set(0, tensor.FromFloat32("score", []int64{1, 2}, []float32{0.5, 0.25})), "is FP32 [1 2], expected FP32 [2]"},
		{set(1, tensor.FromStrings("label", "a", "secret")), `output "label" differs at element 1`},
		{set(2, tensor.Tensor{Name: "n", Datatype: tensor.Int64, Shape: []int64{1}, Data: []byte{2, 0, 0, 0, 0, 0, 0, 0}}), `output "n" differs at element 0`},
		{set(3, tensor.Tensor{Name: "h", Datatype: tensor.FP16, Shape: []int64{1}, Data: []byte{4, 0x3c}}), ""},
		{set(3, tensor.Tensor{Name: "h", Datatype: tensor.FP16, Shape: []int64{1}, Data: []byte{0, 0x3d}}), `output "h" is 1.25`},
		{set(3, tensor.Tensor{Name: "h", Datatype: tensor.FP16, Shape: []int64{1}, Data: []byte{0, 0x7c}}), `output "h" is +Inf`},
		{g.Outputs[1:], `output "score" is missing`},
	} {
		err := g.Compare(c.got)
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

func TestHalf(t *testing.T) {
	for h, want := range map[uint16]float64{0: 0, 0x3c00: 1, 0xc000: -2, 0x7bff: 65504, 0x0001: 1.0 / (1 << 24), 0x0400: 1.0 / (1 << 14)} {
		if got := half(h); got != want {
			t.Errorf("half(%#x) = %v, want %v", h, got, want)
		}
	}
}

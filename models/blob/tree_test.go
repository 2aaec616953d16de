package blob

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestLinkTree(t *testing.T) {
	s := open(t)
	model, labels := put(t, s, content(8, 1000)), put(t, s, []byte("shirt\n"))
	dir := filepath.Join(t.TempDir(), "copy")
	files := map[string]digest.Digest{"model.onnx": model, "golden/a/labels.txt": labels, "labels.txt": labels}
	check := func(files map[string]digest.Digest) {
		t.Helper()
		if same, err := s.sameTree(dir, files); err != nil || !same {
			t.Fatalf("the tree is not what was asked for: %v", err)
		}
		wantEmpty(t, s, tmpDir)
	}
	for range 2 {
		if err := s.LinkTree(dir, files); err != nil {
			t.Fatal(err)
		}
		check(files)
	}
	// A tree that differs is replaced as a whole.
	if err := os.WriteFile(filepath.Join(dir, "stray"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	less := map[string]digest.Digest{"model.onnx": labels}
	for _, want := range []map[string]digest.Digest{files, less} {
		if err := s.LinkTree(dir, want); err != nil {
			t.Fatal(err)
		}
		check(want)
	}
	if _, err := os.Stat(filepath.Join(dir, "stray")); err == nil {
		t.Fatal("a stray file outlived the replacement")
	}
	if err := s.LinkTree(dir, files); err != nil {
		t.Fatal(err)
	}
	wantError(t, s.LinkTree(dir, map[string]digest.Digest{"a": model, "b": digest.FromString("absent")}), ErrNotFound)
	check(files)
	// The files outlive their blobs.
	if err := s.Delete(labels); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "labels.txt")); err != nil || string(text) != "shirt\n" {
		t.Fatalf("read %q, %v", text, err)
	}
	for _, path := range []string{"", ".", "..", "../x", "/x", "a/../b", "a//b", "a/", `a\b`, "a\x00b"} {
		if err := s.LinkTree(dir, map[string]digest.Digest{path: model}); err == nil || !strings.Contains(err.Error(), "not a path") {
			t.Errorf("path %q: %v", path, err)
		}
	}
	if err := s.LinkTree(dir, map[string]digest.Digest{"a": model, "a/b": model}); err == nil {
		t.Error("a file was accepted as a folder")
	}
}

package main

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	_ "github.com/mattn/go-sqlite3" // the registry's index
	"github.com/opencontainers/go-digest"

	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
	"github.com/dhowfleet/dhow/fleet/access"
	"github.com/dhowfleet/dhow/fleet/registry"
	"github.com/dhowfleet/dhow/fleet/registry/sqlindex"
	"github.com/dhowfleet/dhow/models/blob"
	"github.com/dhowfleet/dhow/models/bundle"
)

// shelf is a registry behind the gate, which counts what is uploaded and may break the line.
type shelf struct {
	registry *registry.Registry
	blobs    *blob.Store
	uploads  atomic.Int32
	breaks   atomic.Int32 // how many uploads are still to be cut off
	refuse   error        // of a tag
	tagged   string
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	s := &shelf{}
	var err error
	if s.blobs, err = blob.Open(filepath.Join(t.TempDir(), "blobs")); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite3", filepath.Join(t.TempDir(), "registry.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	index, err := sqlindex.Open(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	onTag := func(_ context.Context, repository, tag string, d digest.Digest, _ []byte) error {
		if s.refuse == nil {
			s.tagged = repository + ":" + tag + "@" + d.String()
		}
		return s.refuse
	}
	if s.registry, err = registry.New(registry.Config{Store: s.blobs, Index: index, Logger: slog.New(slog.DiscardHandler), OnTag: onTag}); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *shelf) route() access.Route {
	return access.Route{Pattern: "/v2/", Rule: access.Operators(access.Admin), Handler: s}
}

func (s *shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/blobs/uploads/") {
		s.uploads.Add(1)
		if s.breaks.Add(-1) >= 0 {
			_, _ = io.CopyN(io.Discard, r.Body, 3)
			panic(http.ErrAbortHandler)
		}
	}
	s.registry.ServeHTTP(w, r)
}

// bundleDir writes a bundle that is fit to be published.
func bundleDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range map[string]string{
		"bundle.yaml": "# demo\napiVersion: dhow/v1\nname: matrix\nversion: \"1\"\nvariants: [{name: float32, file: model.onnx}]\n" +
			"inputs: [{name: x, datatype: FP32, shape: [-1, 4]}]\noutputs: [{name: y, datatype: FP32, shape: [-1, 4]}]\n",
		"model.onnx": string(onnxtest.Matrix(4, 1).Model()),
		"card.md":    "# A matrix\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestModelPushIsRepeatable(t *testing.T) {
	s := newShelf(t)
	c := start(t, s.route())
	dir := bundleDir(t)
	out, errs, code := c.exec(t.Context(), "", "model", "push", dir)
	if code != exitOK {
		t.Fatal(errs)
	}
	contains(t, errs, "  bundle.yaml", "  model.onnx", "  card.md", "sent\n")
	name, d, _ := strings.Cut(s.tagged, "@")
	if name != "models/matrix:1" || out != "model/matrix version 1 published\n"+d+"\n" {
		t.Errorf("tagged %q and printed %q", s.tagged, out)
	}
	// What nodes will fetch is the bundle, byte by byte.
	manifest, err := s.blobs.Read(digest.Digest(d), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	files, err := bundle.FilesOf(manifest)
	if err != nil || len(files) != 3 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(dir, f.Path))
		if err != nil || digest.FromBytes(data) != f.Digest || !s.blobs.Has(f.Digest) {
			t.Errorf("%s is not as it was: %v", f.Path, err)
		}
	}

	before := s.uploads.Load()
	if out := c.ok("model", "push", dir); out != "model/matrix version 1 was already published\n"+d+"\n" || s.uploads.Load() != before {
		t.Errorf("again: %q with %d uploads", out, s.uploads.Load()-before)
	}
	var printed struct{ Model, Version, Digest string }
	if err := json.Unmarshal([]byte(c.ok("model", "push", dir, "-o", "json")), &printed); err != nil || printed.Model != "matrix" || printed.Version != "1" || printed.Digest != d {
		t.Errorf("%+v, %v", printed, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "card.md"), []byte("# Another\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.fails(exitFailed, `version "1" of model matrix is published already with other content (`+d, "model", "push", dir)
	out, errs, code = c.exec(t.Context(), "", "model", "push", dir, "--version", "1.1")
	if code != exitOK || !strings.HasPrefix(out, "model/matrix version 1.1 published\n") || !strings.HasPrefix(s.tagged, "models/matrix:1.1@") {
		t.Fatalf("exit %d: %q %s", code, out, errs)
	}
	contains(t, errs, "model.onnx", "was there\n")
	_, d, _ = strings.Cut(s.tagged, "@")
	if spec := specOf(t, s, digest.Digest(d)); spec.Version != "1.1" || spec.Name != "matrix" {
		t.Errorf("published under another version it says %+v", spec)
	}
}

func specOf(t *testing.T, s *shelf, d digest.Digest) bundle.Spec {
	t.Helper()
	manifest, err := s.blobs.Read(d, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	files, err := bundle.FilesOf(manifest)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.Path == bundle.SpecFile {
			data, err := s.blobs.Read(f.Digest, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			spec, err := bundle.ParseSpec(data)
			if err != nil {
				t.Fatal(err)
			}
			return spec
		}
	}
	t.Fatal("the bundle has no bundle.yaml")
	return bundle.Spec{}
}

func TestModelPushGoesOnWhenTheLineBreaks(t *testing.T) {
	s := newShelf(t)
	c := start(t, s.route())
	s.breaks.Store(2)
	out, errs, code := c.exec(t.Context(), "", "model", "push", bundleDir(t))
	if code != exitOK || !strings.Contains(out, "published") {
		t.Fatalf("exit %d: %s", code, errs)
	}
	contains(t, errs, "trying again\n")
}

func TestModelPushRefuses(t *testing.T) {
	s := newShelf(t)
	c := start(t, s.route())
	dir := bundleDir(t)
	s.refuse = errors.New("the model matrix has too many versions")
	c.fails(exitFailed, "the manager refused the push: the model matrix has too many versions", "model", "push", dir)
	s.refuse = nil
	c.fails(exitFailed, "cannot read the bundle: ", "model", "push", filepath.Join(dir, "none"))
	c.fails(exitFailed, "is no folder: a bundle is the folder that bundle.yaml lies in", "model", "push", filepath.Join(dir, "bundle.yaml"))
	c.fails(exitFailed, "is not fit to be published: this is no bundle: it has no bundle.yaml", "model", "push", t.TempDir())
	c.fails(exitFailed, "cannot read the bundle", "model", "push", t.TempDir(), "--version", "2")
	c.fails(exitFailed, "is not fit to be published", "model", "push", dir, "--version", "not a tag")
	c.fails(exitUsage, "DIR is missing", "model", "push")
	if err := os.Truncate(filepath.Join(dir, "model.onnx"), 20); err != nil {
		t.Fatal(err)
	}
	c.fails(exitFailed, "model.onnx", "model", "push", dir)
	if s.uploads.Load() > 4 {
		t.Errorf("%d uploads of bundles that are not fit", s.uploads.Load())
	}
	c.env["DHOW_TOKEN"] = "wrong"
	c.fails(exitFailed, "the token is not known", "model", "push", bundleDir(t))
	sum := sha256.Sum256([]byte("another authority"))
	c.env["DHOW_CA_SHA256"] = hex.EncodeToString(sum[:])
	c.fails(exitFailed, "pinned authority", "model", "push", bundleDir(t))
}

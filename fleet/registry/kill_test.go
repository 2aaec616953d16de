package registry_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dhowfleet/dhow/fleet/registry"
	"github.com/dhowfleet/dhow/fleet/registry/sqlindex"
	"github.com/dhowfleet/dhow/models/blob"
	"github.com/dhowfleet/dhow/protocol/artifact"
	"github.com/dhowfleet/dhow/test/failpoint/killtest"
)

// writePoints are the places at which the registry changes what is durable.
var writePoints = []string{
	"registry/session-recorded", "registry/chunk-kept", "registry/blob-stored", "registry/blob-linked", "registry/session-removed",
	"registry/blob-mounted", "registry/manifest-stored", "registry/manifest-indexed", "registry/tag-accepted", "registry/tagged",
	"registry/manifest-deleted", "registry/blob-unlinked", "registry/session-expired", "registry/links-collected", "registry/collected",
}

// pushed is what the scenario pushes.
func pushed() (layer, other, manifest, gone []byte) {
	layer = make([]byte, 700_000)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(layer)
	other = []byte("{}")
	describe := func(data []byte) v1.Descriptor {
		return v1.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromBytes(data), Size: int64(len(data))}
	}
	t := &testing.T{}
	return layer, other, encode(t, image(describe(other), describe(layer))), encode(t, image(describe(other)))
}

// scenario makes every kind of change, and can be run again over what an earlier run left.
func scenario(dir string) error {
	now := time.Now()
	store, err := blob.Open(filepath.Join(dir, "blobs"), blob.WithClock(func() time.Time { return now }))
	if err != nil {
		return err
	}
	db, err := openDB(dir)
	if err != nil {
		return err
	}
	defer db.Close()
	index, err := sqlindex.Open(context.Background(), db)
	if err != nil {
		return err
	}
	if _, err := db.Exec(`CREATE TABLE IF NOT EXISTS accepted (name TEXT PRIMARY KEY, digest TEXT NOT NULL)`); err != nil {
		return err
	}
	r, err := registry.New(registry.Config{Store: store, Index: index, Now: func() time.Time { return now },
		OnTag: func(_ context.Context, repository, tag string, d digest.Digest, _ []byte) error {
			_, err := db.Exec(`INSERT INTO accepted (name, digest) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`, repository+":"+tag, d.String())
			return err
		}})
	if err != nil {
		return err
	}
	var location string
	do := func(method, path string, body []byte, wants ...int) error {
		request := httptest.NewRequest(method, "http://registry"+path, bytes.NewReader(body))
		request.Header.Set("Content-Type", v1.MediaTypeImageManifest)
		w := httptest.NewRecorder()
		r.ServeHTTP(w, request)
		location = w.Header().Get("Location")
		if !slices.Contains(wants, w.Code) {
			return fmt.Errorf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
		return nil
	}
	layer, other, manifest, gone := pushed()
	const uploads = "/v2/models/fashion/blobs/uploads/"
	steps := []func() error{
		func() error { return do("POST", uploads, nil, 202) },
		func() error { return do("PATCH", location, layer[:600_000], 202) },
		func() error { return do("PUT", withDigest(location, digest.FromBytes(layer)), layer[600_000:], 201) },
		func() error { return do("POST", withDigest(uploads, digest.FromBytes(other)), other, 201) },
		func() error { return do("PUT", "/v2/models/fashion/manifests/1", manifest, 201) },
		func() error {
			return do("POST", "/v2/b/blobs/uploads/?from=models/fashion&mount="+digest.FromBytes(other).String(), nil, 201)
		},
		func() error { return do("PUT", "/v2/b/manifests/gone", gone, 201) },
		func() error { return do("DELETE", "/v2/b/manifests/"+digest.FromBytes(gone).String(), nil, 202) },
		func() error { return do("DELETE", "/v2/b/blobs/"+digest.FromBytes(other).String(), nil, 202) },
		func() error { return do("POST", uploads, nil, 202) },
		func() error { return do("PATCH", location, []byte("left to rest"), 202) },
		func() error {
			now = now.Add(49 * time.Hour)
			_, err := r.Collect(context.Background())
			return err
		},
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func TestMain(m *testing.M) {
	if dir := os.Getenv("DHOW_REGISTRY_SCENARIO"); dir != "" {
		if err := scenario(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestKilledAtEveryWritePoint ends a process with SIGKILL at every write point. Afterwards whatever the registry
// acknowledges is whole, a tag was accepted before it was set, and the same pushes, repeated, complete.
func TestKilledAtEveryWritePoint(t *testing.T) {
	_, _, manifest, gone := pushed()
	for _, point := range writePoints {
		t.Run(strings.TrimPrefix(point, "registry/"), func(t *testing.T) {
			t.Parallel()
			n, killed := 0, true
			for killed && n < 2 {
				n++
				dir := folder(t)
				env := []string{"DHOW_REGISTRY_SCENARIO=" + dir}
				_, killed = killtest.Run(t, fmt.Sprintf("%s:%d", point, n), env)
				wantWhole(t, dir)
				if killed {
					killtest.Lives(t, env)
				}
				f := wantWhole(t, dir)
				f.want(f.do("GET", "/v2/models/fashion/manifests/"+digest.FromBytes(manifest).String(), nil), 200, "")
				f.want(f.do("GET", "/v2/b/manifests/"+digest.FromBytes(gone).String(), nil), 404, "MANIFEST_UNKNOWN")
				f.want(f.do("GET", "/v2/b/manifests/gone", nil), 404, "MANIFEST_UNKNOWN")
				if entries, err := os.ReadDir(filepath.Join(dir, "blobs", "uploads")); err != nil || len(entries) != 0 {
					t.Fatalf("uploads are left: %v, %v", entries, err)
				}
				f.stop()
			}
			if n == 1 {
				t.Errorf("the scenario never passes %s", point)
			}
		})
	}
}

// wantWhole opens the registry that a scenario left and checks all that it acknowledges.
func wantWhole(t *testing.T, dir string) *fixture {
	t.Helper()
	f := start(t, dir, registry.Config{})
	layer, other, manifest, gone := pushed()
	for tag, want := range map[string][]byte{"models/fashion/manifests/1": manifest, "b/manifests/gone": gone} {
		a := f.do("GET", "/v2/"+tag, nil)
		if a.StatusCode == http.StatusNotFound {
			continue
		}
		if f.want(a, 200, ""); a.body != string(want) {
			t.Fatalf("%s is %q", tag, a.body)
		}
		repository, _, _ := strings.Cut(tag, "/manifests/")
		var d string
		name := strings.Replace(tag, "/manifests/", ":", 1)
		if err := f.db.QueryRow(`SELECT digest FROM accepted WHERE name = $1`, name).Scan(&d); err != nil || d != digest.FromBytes(want).String() {
			t.Fatalf("%s was tagged without being accepted: %q, %v", name, d, err)
		}
		if repository == "b" {
			f.want(f.blob(repository, digest.FromBytes(other)), 200, "")
			continue
		}
		// As a node would: everything that the tag leads to can be pulled.
		node, err := blob.Open(filepath.Join(folder(t), "node"))
		if err != nil {
			t.Fatal(err)
		}
		p := &artifact.Puller{Client: f.server.Client(), BaseURL: f.server.URL, Store: node}
		if _, err := p.Manifest(context.Background(), repository, digest.FromBytes(manifest)); err != nil {
			t.Fatal(err)
		}
		for _, data := range [][]byte{layer, other} {
			if err := p.Blob(context.Background(), repository, digest.FromBytes(data), int64(len(data)), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	// A name that was accepted leads to a manifest, tagged or not.
	var d string
	switch err := f.db.QueryRow(`SELECT digest FROM accepted WHERE name = 'models/fashion:1'`).Scan(&d); {
	case err == nil:
		f.want(f.do("GET", "/v2/models/fashion/manifests/"+d, nil), 200, "")
	case !errors.Is(err, sql.ErrNoRows) && !strings.Contains(err.Error(), "no such table"):
		t.Fatal(err)
	}
	return f
}

// TestWritePointsAreListed keeps the list above complete.
func TestWritePointsAreListed(t *testing.T) { killtest.Listed(t, writePoints) }

package sqlindex_test

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"
	"github.com/opencontainers/go-digest"

	"github.com/dhowfleet/dhow/fleet/registry"
	"github.com/dhowfleet/dhow/fleet/registry/sqlindex"
)

func open(t *testing.T) (*sqlindex.Index, *sql.DB) {
	t.Helper()
	// Without _txlock=immediate: the index must not depend on it.
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(t.TempDir(), "fleet.db")+"?_journal_mode=WAL&_synchronous=OFF&_busy_timeout=10000")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	for range 2 { // The second finds the tables there.
		if _, err := sqlindex.Open(context.Background(), db); err != nil {
			t.Fatal(err)
		}
	}
	x, err := sqlindex.Open(context.Background(), db)
	if err != nil {
		t.Fatal(err)
	}
	return x, db
}

func want(t *testing.T, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("error %v, want %v", err, target)
	}
}

func TestUnknown(t *testing.T) {
	x, _ := open(t)
	ctx, d := context.Background(), digest.FromString("d")
	_, _, err := x.Blob(ctx, "a", d)
	want(t, err, registry.ErrUnknown)
	_, err = x.Manifest(ctx, "a", d)
	want(t, err, registry.ErrUnknown)
	_, err = x.Tag(ctx, "a", "1")
	want(t, err, registry.ErrUnknown)
	_, err = x.Tags(ctx, "a", "", 10)
	want(t, err, registry.ErrUnknown)
	_, err = x.Upload(ctx, "a", "1")
	want(t, err, registry.ErrUnknown)
	want(t, x.UnlinkBlob(ctx, "a", d), registry.ErrUnknown)
	want(t, x.DeleteManifest(ctx, "a", d), registry.ErrUnknown)
	want(t, x.DeleteTag(ctx, "a", "1"), registry.ErrUnknown)
	want(t, x.SetUpload(ctx, registry.Upload{ID: "1", Repository: "a"}), registry.ErrUnknown)
	want(t, x.PutTag(ctx, "a", "1", d, false, time.Now()), registry.ErrUnknown)
	if tag, err := x.Tag(ctx, "a", "1"); err == nil {
		t.Fatalf("a tag names %s, which is no manifest", tag)
	}
	want(t, x.RemoveUpload(ctx, "1"), nil)
}

func TestManifestNeedsItsBlobs(t *testing.T) {
	x, _ := open(t)
	ctx, now := context.Background(), time.Now()
	layer := digest.FromString("layer")
	m := registry.Manifest{Digest: digest.FromString("m"), MediaType: "x/y", Size: 7, Blobs: []digest.Digest{layer}, Annotations: map[string]string{"a": "b"}}
	_, err := x.PutManifest(ctx, "a", m, now)
	var missing *registry.MissingError
	if !errors.As(err, &missing) || missing.Digest != layer {
		t.Fatal(err)
	}
	_, err = x.Manifest(ctx, "a", m.Digest)
	want(t, err, registry.ErrUnknown)
	want(t, x.LinkBlob(ctx, "b", layer, 5, now), nil) // Another repository's does not help.
	if _, err := x.PutManifest(ctx, "a", m, now); !errors.As(err, &missing) {
		t.Fatal(err)
	}
	want(t, x.LinkBlob(ctx, "a", layer, 5, now), nil)
	for i := range 2 {
		if created, err := x.PutManifest(ctx, "a", m, now); err != nil || created != (i == 0) {
			t.Fatalf("put %d: created %v, %v", i, created, err)
		}
	}
	if got, err := x.Manifest(ctx, "a", m.Digest); err != nil || got.Annotations["a"] != "b" || got.Size != 7 || got.MediaType != "x/y" {
		t.Fatalf("%+v, %v", got, err)
	}
	want(t, x.UnlinkBlob(ctx, "a", layer), registry.ErrReferenced)
	if n, err := x.UnlinkUnused(ctx, now.Add(time.Hour)); err != nil || n != 1 {
		t.Fatalf("unlinked %d, %v; want the one of b", n, err)
	}
	ofA, total, err := x.Usage(ctx, "a")
	if err != nil || ofA != 12 || total != 12 {
		t.Fatalf("usage %d of %d, %v", ofA, total, err)
	}
	want(t, x.PutTag(ctx, "a", "1", m.Digest, true, now), nil)
	want(t, x.PutTag(ctx, "a", "1", m.Digest, true, now), nil)
	want(t, x.PutTag(ctx, "a", "1", digest.FromString("other"), true, now), registry.ErrTagTaken)
	want(t, x.DeleteManifest(ctx, "a", m.Digest), nil)
	_, err = x.Tag(ctx, "a", "1")
	want(t, err, registry.ErrUnknown)
	want(t, x.UnlinkBlob(ctx, "a", layer), nil)
}

// TestPutAgainstUnlink: whoever wins, a manifest that is there has its blobs.
func TestPutAgainstUnlink(t *testing.T) {
	x, db := open(t)
	ctx := context.Background()
	layer := digest.FromString("layer")
	var wg sync.WaitGroup
	for _, work := range []func() error{
		func() error { return x.LinkBlob(ctx, "a", layer, 5, time.UnixMicro(1)) },
		func() error { _, err := x.UnlinkUnused(ctx, time.Now()); return err },
		func() error {
			_, err := x.PutManifest(ctx, "a", registry.Manifest{Digest: digest.FromString("m"), Blobs: []digest.Digest{layer}}, time.Now())
			return err
		},
		func() error { return x.DeleteManifest(ctx, "a", digest.FromString("m")) },
		func() error {
			var orphaned int
			err := db.QueryRow(`SELECT COUNT(*) FROM registry_references r WHERE NOT EXISTS
				(SELECT 1 FROM registry_blobs b WHERE b.repository = r.repository AND b.digest = r.digest)`).Scan(&orphaned)
			if err == nil && orphaned > 0 {
				return errors.New("a manifest refers to a blob that was unlinked")
			}
			return err
		},
	} {
		wg.Go(func() {
			for range 100 {
				var missing *registry.MissingError
				if err := work(); err != nil && !errors.As(err, &missing) && !errors.Is(err, registry.ErrUnknown) {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

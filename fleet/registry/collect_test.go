package registry_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/fleet/registry"
	"github.com/dhowfleet/dhow/models/blob"
)

func (f *fixture) collect() registry.Collected {
	f.t.Helper()
	c, err := f.Collect(context.Background())
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

func TestCollect(t *testing.T) {
	f := start(t, folder(t), registry.Config{Grace: time.Hour, UploadAge: time.Hour})
	config, layer := f.pushBlob("a", []byte("{}")), f.pushBlob("a", []byte("layer"))
	orphan := f.pushBlob("b", []byte("orphan"))
	manifest := encode(t, image(config, layer))
	f.want(f.putManifest("a", digest.FromBytes(manifest).String(), manifest), 201, "")
	resting := f.want(f.do("POST", f.uploads("c"), nil), 202, "").Header.Get("Location")
	f.want(f.do("PATCH", resting, []byte("half of it")), 202, "")

	f.clock.advance(30 * time.Minute)
	if c := f.collect(); c != (registry.Collected{}) {
		t.Fatalf("collected within the grace: %+v", c)
	}
	f.clock.advance(40 * time.Minute)
	if c := f.collect(); c.Uploads != 1 || c.Links != 1 || c.Blobs != 1 || c.Bytes != 6 {
		t.Fatalf("collected %+v", c)
	}
	// Whoever pushes and found a blob there relies on it for a whole grace from then on.
	found := f.pushBlob("d", []byte("found"))
	f.clock.advance(50 * time.Minute)
	f.want(f.do("HEAD", "/v2/d/blobs/"+found.Digest.String(), nil), 200, "")
	f.clock.advance(50 * time.Minute)
	f.collect()
	f.want(f.putManifest("d", "1", image(found)), 201, "")
	f.want(f.do("DELETE", "/v2/d/manifests/"+digest.FromBytes(encode(t, image(found))).String(), nil), 202, "")
	f.want(f.do("GET", resting, nil), 404, "BLOB_UPLOAD_UNKNOWN")
	f.want(f.blob("b", orphan.Digest), 404, "BLOB_UNKNOWN")
	if f.store.Has(orphan.Digest) {
		t.Error("the orphan's file is there")
	}
	// An untagged manifest is pulled by digest, so it and what it refers to stay.
	f.want(f.do("GET", "/v2/a/manifests/"+digest.FromBytes(manifest).String(), nil), 200, "")
	f.want(f.blob("a", layer.Digest), 200, "")

	// What was collected and is pushed again is really stored again.
	f.pushBlob("b", []byte("orphan"))
	if a := f.want(f.blob("b", orphan.Digest), 200, ""); a.body != "orphan" {
		t.Errorf("pushed again, it is %q", a.body)
	}

	// After its deletion, and a grace, nothing is left.
	f.want(f.do("DELETE", "/v2/a/blobs/"+layer.Digest.String(), nil), 409, "DENIED")
	f.want(f.do("DELETE", "/v2/a/manifests/"+digest.FromBytes(manifest).String(), nil), 202, "")
	f.want(f.do("DELETE", "/v2/a/blobs/"+layer.Digest.String(), nil), 202, "")
	f.want(f.do("DELETE", "/v2/a/blobs/"+layer.Digest.String(), nil), 404, "BLOB_UNKNOWN")
	f.clock.advance(2 * time.Hour)
	f.collect()
	left := 0
	if err := f.store.Walk(func(blob.Info) error { left++; return nil }); err != nil || left != 0 {
		t.Errorf("%d blobs are left, %v", left, err)
	}
}

// TestPushInFlight pushes in many steps, with collections and time between them. As long as the push keeps a session
// open, or is not idle for longer than the grace, its manifest must find every blob.
func TestPushInFlight(t *testing.T) {
	outer := t
	rapid.Check(t, func(t *rapid.T) {
		f := start(outer, folder(outer), registry.Config{Grace: time.Hour, UploadAge: 2 * time.Hour})
		defer f.stop()
		defer os.RemoveAll(f.dir)
		config := f.pushBlob("a", []byte("{}"))
		blobs := []v1.Descriptor{config}
		// old: how long ago each blob was last asserted by the pusher; lease: since when a session rests.
		old := map[digest.Digest]time.Duration{config.Digest: 0}
		lease, rested := "", time.Duration(0)
		safe := true
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"push", "head", "wait", "wait", "collect", "collect", "open", "chunk"}).Draw(t, "step") {
			case "push":
				d := f.pushBlob("a", []byte(rapid.StringMatching(`[a-z]{8}`).Draw(t, "content")))
				if _, ok := old[d.Digest]; !ok {
					blobs = append(blobs, d)
				}
				old[d.Digest] = 0
			case "head":
				d := rapid.SampledFrom(blobs).Draw(t, "blob").Digest
				if f.do("HEAD", "/v2/a/blobs/"+d.String(), nil).StatusCode == 200 {
					// The link is renewed when it is older than an eighth of the grace.
					old[d] = min(old[d], time.Hour/8)
				} else if safe {
					t.Fatalf("blob %s is gone", d)
				}
			case "wait":
				d := time.Duration(rapid.IntRange(1, 100).Draw(t, "minutes"))*time.Minute + 7*time.Second // Never exactly a grace.
				f.clock.advance(d)
				for k := range old {
					old[k] += d
				}
				rested += d
			case "collect":
				leased := lease != "" && rested <= 2*time.Hour
				for _, age := range old {
					safe = safe && (leased || age <= time.Hour)
				}
				f.collect()
				if !leased {
					lease = ""
				}
			case "open", "chunk":
				if lease == "" {
					lease = f.want(f.do("POST", f.uploads("a"), nil), 202, "").Header.Get("Location")
				} else {
					f.want(f.do("PATCH", lease, []byte("more")), 202, "")
				}
				rested = 0
			}
		}
		a := f.putManifest("a", "1", image(config, blobs[1:]...))
		if a.StatusCode != 201 && safe {
			t.Fatalf("the push failed at its end: %s", a.body)
		}
		if a.StatusCode == 201 {
			f.clock.advance(48 * time.Hour)
			f.collect()
			for _, d := range blobs {
				f.want(f.blob("a", d.Digest), 200, "")
			}
		}
	})
}

func TestLostFilesArePushedAgain(t *testing.T) {
	f := start(t, folder(t), registry.Config{})
	data := random(t, 1000)
	config := f.pushBlob("a", []byte("{}"))
	layer := f.pushBlob("a", data)
	manifest := encode(t, image(config, layer))
	f.want(f.putManifest("a", "1", manifest), 201, "")

	// The disk loses both.
	if err := f.store.Delete(layer.Digest); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(f.dir, "blobs", "sha256", digest.FromBytes(manifest).Encoded()[:2], digest.FromBytes(manifest).Encoded())
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("x", len(manifest))), 0o600); err != nil {
		t.Fatal(err)
	}
	f.want(f.do("HEAD", "/v2/a/blobs/"+layer.Digest.String(), nil), 404, "")
	f.want(f.do("GET", "/v2/a/manifests/1", nil), 404, "MANIFEST_UNKNOWN")
	f.want(f.putManifest("a", "1", manifest), 404, "MANIFEST_BLOB_UNKNOWN")
	f.pushBlob("a", data)
	f.want(f.putManifest("a", "1", manifest), 201, "")
	if a := f.want(f.do("GET", "/v2/a/manifests/1", nil), 200, ""); a.body != string(manifest) {
		t.Error("the manifest was not mended")
	}
	if a := f.want(f.blob("a", layer.Digest), 200, ""); a.body != string(data) {
		t.Error("the layer was not mended")
	}
}

func TestScrub(t *testing.T) {
	f := start(t, folder(t), registry.Config{})
	f.pushBlob("a", []byte("sound"))
	spoilt := f.pushBlob("a", []byte("spoilt")).Digest
	if corrupt, err := f.Scrub(context.Background()); err != nil || len(corrupt) != 0 {
		t.Fatalf("%v, %v", corrupt, err)
	}
	path := filepath.Join(f.dir, "blobs", "sha256", spoilt.Encoded()[:2], spoilt.Encoded())
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("SPOILT"), 0o600); err != nil {
		t.Fatal(err)
	}
	if corrupt, err := f.Scrub(context.Background()); err != nil || len(corrupt) != 1 || corrupt[0] != spoilt {
		t.Fatalf("%v, %v", corrupt, err)
	}
	f.want(f.do("HEAD", "/v2/a/blobs/"+spoilt.String(), nil), 404, "")
	f.pushBlob("a", []byte("spoilt"))
	if a := f.want(f.blob("a", spoilt), 200, ""); a.body != "spoilt" {
		t.Errorf("pushed again it is %q", a.body)
	}
}

func TestQuota(t *testing.T) {
	f := start(t, folder(t), registry.Config{Quota: registry.Quota{RepositoryBytes: 1000, TotalBytes: 1500}, Grace: time.Hour})
	push := func(repository string, data []byte) answer {
		return f.do("POST", withDigest(f.uploads(repository), digest.FromBytes(data)), data)
	}
	first, second := random(t, 600), random(t, 300)
	f.want(push("a", first), 201, "")
	a := f.want(push("a", random(t, 500)), 413, "QUOTA_EXCEEDED")
	if !strings.Contains(a.body, `"used":600`) || !strings.Contains(a.body, `"quota":1000`) {
		t.Errorf("the refusal says %s", a.body)
	}
	f.want(push("a", second), 201, "")

	// Content that two repositories share counts for each, and once in all.
	f.want(f.do("POST", f.uploads("b")+"?mount="+digest.FromBytes(first).String()+"&from=a", nil), 201, "")
	f.want(push("b", random(t, 450)), 413, "QUOTA_EXCEEDED")
	f.want(push("b", random(t, 350)), 201, "")
	f.want(push("c", random(t, 300)), 413, "QUOTA_EXCEEDED")

	// Bytes that come without a length, or in an upload that is never finished, count as they come.
	location := f.want(f.do("POST", f.uploads("c"), nil), 202, "").Header.Get("Location")
	f.want(f.do("PATCH", location, random(t, 200)), 202, "")
	f.want(push("d", random(t, 100)), 413, "QUOTA_EXCEEDED")
	f.want(f.do("PATCH", location, random(t, 100)), 413, "QUOTA_EXCEEDED")
	f.stop()
	f = start(t, f.dir, registry.Config{Quota: registry.Quota{RepositoryBytes: 1000, TotalBytes: 1500}, Grace: time.Hour})
	f.want(push("d", random(t, 100)), 413, "QUOTA_EXCEEDED")
	f.want(f.do("DELETE", location, nil), 204, "")
	f.want(push("d", random(t, 100)), 201, "")
	f.want(f.do("POST", f.uploads("d")+"?mount="+digest.FromBytes(first).String()+"&from=a", nil), 201, "")
	f.want(f.do("POST", f.uploads("d")+"?mount="+digest.FromBytes(second).String()+"&from=a", nil), 201, "")
	f.pushBlob("e", []byte("{}"))
	big := image(v1.Descriptor{MediaType: "x/y", Digest: digest.FromString("{}"), Size: 2})
	big.Annotations = map[string]string{"long": strings.Repeat("x", 500)}
	f.want(f.putManifest("e", "1", big), 413, "QUOTA_EXCEEDED")

	// What is collected is free again.
	f.clock.advance(2 * time.Hour)
	f.collect()
	f.want(push("c", random(t, 900)), 201, "")
}

func TestFullDisk(t *testing.T) {
	f := start(t, folder(t), registry.Config{})
	config := f.pushBlob("a", []byte("{}"))
	f.stop()
	g := start(t, f.dir, registry.Config{}, blob.WithReserve(1<<61))
	g.want(g.do("POST", withDigest(g.uploads("a"), digest.FromBytes(make([]byte, 600<<10))), make([]byte, 600<<10)), 507, "NO_SPACE")
	g.want(g.putManifest("a", "1", image(config)), 507, "NO_SPACE")
	g.want(g.blob("a", config.Digest), 200, "")
	g.want(g.do("GET", "/v2/a/manifests/1", nil), 404, "MANIFEST_UNKNOWN")
}

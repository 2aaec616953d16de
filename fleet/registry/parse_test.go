package registry

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestAction(t *testing.T) {
	d := "sha256:" + strings.Repeat("0", 64)
	for _, c := range []struct{ method, path, repository, verb string }{
		{"GET", "/v2/", "", "pull"},
		{"GET", "/v2", "", "pull"},
		{"GET", "/v2/_catalog", "", "catalog"},
		{"GET", "/v2/models/fashion/manifests/1", "models/fashion", "pull"},
		{"HEAD", "/v2/models/fashion/manifests/1", "models/fashion", "pull"},
		{"PUT", "/v2/models/fashion/manifests/1", "models/fashion", "push"},
		{"DELETE", "/v2/models/fashion/manifests/1", "models/fashion", "delete"},
		{"GET", "/v2/a/blobs/" + d, "a", "pull"},
		{"DELETE", "/v2/a/blobs/" + d, "a", "delete"},
		{"POST", "/v2/a/blobs/uploads", "a", "push"},
		{"POST", "/v2/a/blobs/uploads/", "a", "push"},
		{"GET", "/v2/a/blobs/uploads/0123", "a", "push"},
		{"DELETE", "/v2/a/blobs/uploads/0123", "a", "push"},
		{"PATCH", "/v2/a/b/c/blobs/uploads/0123", "a/b/c", "push"},
		{"GET", "/v2/a/blobs/b/blobs/" + d, "a/blobs/b", "pull"},
		{"GET", "/v2/a/tags/list", "a", "pull"},
		{"GET", "/v2/a/referrers/" + d, "a", "pull"},
		{"OPTIONS", "/v2/a/tags/list", "a", "push"},
		{"GET", "/v2/../etc/manifests/1", "", ""},
		{"GET", "/v2/A/manifests/1", "", ""},
		{"GET", "/v2//manifests/1", "", ""},
		{"GET", "/v2/manifests/1", "", ""},
		{"GET", "/v2/a/manifests/1/2", "", ""},
		{"GET", "/v2x/a/manifests/1", "", ""},
		{"GET", "/v2/" + strings.Repeat("a", 256) + "/manifests/1", "", ""},
		{"GET", "/", "", ""},
	} {
		r := httptest.NewRequest(c.method, "http://registry/", nil)
		r.URL.Path = c.path
		if repository, verb := Action(r); repository != c.repository || verb != c.verb {
			t.Errorf("%s %s is %q of %q, want %q of %q", c.method, c.path, verb, repository, c.verb, c.repository)
		}
	}
}

func TestMountSource(t *testing.T) {
	for url, want := range map[string]string{
		"/v2/a/blobs/uploads/?mount=sha256:0&from=b/c": "b/c",
		"/v2/a/blobs/uploads/?mount=sha256:0":          "",
		"/v2/a/blobs/uploads/?from=b":                  "",
		"/v2/a/tags/list?mount=sha256:0&from=b":        "",
	} {
		if got := MountSource(httptest.NewRequest("POST", "http://registry"+url, nil)); got != want {
			t.Errorf("%s mounts from %q, want %q", url, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, path := range []string{"/v2/", "/v2/a/b/blobs/uploads/", "/v2/a/blobs/uploads/x", "/v2/a/tags/list", "/v2/a/manifests/x", "/v2/a//b/manifests/x"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		target, ok := parse(path)
		if ok && target.kind > kindCatalog && (!repositoryName.MatchString(target.repository) || strings.Contains(target.reference, "/")) {
			t.Fatalf("%q names %+v", path, target)
		}
	})
}

func FuzzReadManifest(f *testing.F) {
	for _, text := range []string{
		`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}`,
		`{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"subject":{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}}`,
		`{"mediaType":"application/vnd.oci.image.manifest.v1+json","config":null}`, `[]`, `null`, ``,
	} {
		f.Add([]byte(text), "")
		f.Add([]byte(text), "application/vnd.oci.image.index.v1+json; charset=utf-8")
	}
	f.Fuzz(func(t *testing.T, data []byte, contentType string) {
		m, blobs, err := readManifest(data, contentType)
		if err != nil {
			return
		}
		if len(m.Blobs) > len(blobs) || len(m.Blobs)+len(m.Manifests) > maxReferences || m.MediaType == "" {
			t.Fatalf("%s: %+v with %d blobs", data, m, len(blobs))
		}
		for _, list := range [][]digest.Digest{m.Blobs, m.Manifests} {
			for _, d := range list {
				if d.Validate() != nil {
					t.Fatalf("%s refers to %q", data, d)
				}
			}
		}
	})
}

func FuzzContentRange(f *testing.F) {
	f.Add("0-5")
	f.Add("bytes 3-4/9")
	f.Add("-1-")
	f.Fuzz(func(t *testing.T, s string) {
		if first, last, ok := contentRange(s); ok && (first < 0 || last < first) {
			t.Fatalf("%q is %d to %d", s, first, last)
		}
	})
}

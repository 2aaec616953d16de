package registry_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dhowfleet/dhow/fleet/registry"
)

var nextLink = regexp.MustCompile(`^<([^>]+)>; rel="next"$`)

// follow reads a list over all its pages and returns the size of each.
func follow(t *testing.T, f *fixture, path string, read func(body string) int) []int {
	t.Helper()
	var pages []int
	for path != "" {
		a := f.want(f.do("GET", path, nil), 200, "")
		pages = append(pages, read(a.body))
		path = ""
		if m := nextLink.FindStringSubmatch(a.Header.Get("Link")); m != nil {
			path = m[1]
		}
	}
	return pages
}

func TestLists(t *testing.T) {
	f := start(t, folder(t), registry.Config{})
	config := f.pushBlob("a/b", []byte("{}"))
	f.want(f.do("GET", "/v2/nothing/tags/list", nil), 404, "NAME_UNKNOWN")
	if a := f.want(f.do("GET", "/v2/a/b/tags/list", nil), 200, ""); a.body != `{"name":"a/b","tags":[]}` {
		t.Errorf("no tags: %s", a.body)
	}
	want := []string{"1", "10", "2", "A", "Z", "a", "b"} // In byte order.
	for _, tag := range []string{"b", "2", "A", "10", "Z", "1", "a"} {
		f.want(f.putManifest("a/b", tag, image(config)), 201, "")
	}
	for n, pages := range map[string][]int{"": {7}, "?n=3": {3, 3, 1}, "?n=7": {7}, "?n=100": {7}, "?n=1&last=a": {1}, "?n=0": {0}} {
		var tags []string
		got := follow(t, f, "/v2/a/b/tags/list"+n, func(body string) int {
			var list struct{ Tags []string }
			if err := json.Unmarshal([]byte(body), &list); err != nil {
				t.Fatal(err)
			}
			tags = append(tags, list.Tags...)
			return len(list.Tags)
		})
		if !slices.Equal(got, pages) || n != "?n=0" && !strings.HasSuffix(strings.Join(want, " "), strings.Join(tags, " ")) {
			t.Errorf("%s: %v in pages of %v", n, tags, got)
		}
	}
	f.want(f.do("GET", "/v2/a/b/tags/list?n=-1", nil), 400, "PAGINATION_NUMBER_INVALID")

	f.pushBlob("z", []byte("x"))
	f.pushBlob("a/a", []byte("x"))
	var names []string
	pages := follow(t, f, "/v2/_catalog?n=2", func(body string) int {
		var list struct{ Repositories []string }
		if err := json.Unmarshal([]byte(body), &list); err != nil {
			t.Fatal(err)
		}
		names = append(names, list.Repositories...)
		return len(list.Repositories)
	})
	if !slices.Equal(names, []string{"a/a", "a/b", "z"}) || len(pages) != 2 {
		t.Errorf("repositories %v in pages of %v", names, pages)
	}
}

func TestReferrers(t *testing.T) {
	f := start(t, folder(t), registry.Config{})
	config := f.pushBlob("a", []byte("{}"))
	subject := v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString("pushed later"), Size: 1}
	want := map[digest.Digest]string{}
	for i := range 5 {
		m := image(config)
		m.Subject = &subject
		m.ArtifactType = []string{"test/signature", "test/sbom"}[i%2]
		// So long that few fit on a page.
		m.Annotations = map[string]string{"n": fmt.Sprint(i), "long": strings.Repeat("x", 1<<20)}
		a := f.want(f.putManifest("a", digest.FromBytes(encode(t, m)).String(), m), 201, "")
		if a.Header.Get("OCI-Subject") != subject.Digest.String() {
			t.Errorf("subject %q", a.Header.Get("OCI-Subject"))
		}
		want[digest.FromBytes(encode(t, m))] = m.ArtifactType
	}
	list := func(query string) (map[digest.Digest]string, int) {
		got := map[digest.Digest]string{}
		pages := follow(t, f, "/v2/a/referrers/"+subject.Digest.String()+query, func(body string) int {
			var index v1.Index
			if err := json.Unmarshal([]byte(body), &index); err != nil || index.MediaType != v1.MediaTypeImageIndex || index.SchemaVersion != 2 {
				t.Fatalf("%v: %.200s", err, body)
			}
			for _, d := range index.Manifests {
				if d.Annotations["long"] == "" || d.Size < 1<<20 {
					t.Errorf("descriptor %+v", d.Digest)
				}
				got[d.Digest] = d.ArtifactType
			}
			return len(index.Manifests)
		})
		return got, len(pages)
	}
	if got, pages := list(""); len(got) != 5 || pages != 3 {
		t.Errorf("%d referrers on %d pages", len(got), pages)
	}
	got, _ := list("?artifactType=test/signature")
	if len(got) != 3 {
		t.Errorf("%d signatures", len(got))
	}
	for d, artifactType := range got {
		if artifactType != want[d] || artifactType != "test/signature" {
			t.Errorf("%s is %s", d, artifactType)
		}
	}
	a := f.want(f.do("GET", "/v2/a/referrers/"+subject.Digest.String()+"?artifactType=none", nil), 200, "")
	if a.Header.Get("OCI-Filters-Applied") != "artifactType" || !strings.Contains(a.body, `"manifests":[]`) {
		t.Errorf("%v %s", a.Header, a.body)
	}
	f.want(f.do("GET", "/v2/empty/referrers/"+subject.Digest.String(), nil), 200, "")
	f.want(f.do("GET", "/v2/a/referrers/tag", nil), 400, "DIGEST_INVALID")
	for d := range want {
		f.want(f.do("DELETE", "/v2/a/manifests/"+d.String(), nil), 202, "")
	}
	if got, _ := list(""); len(got) != 0 {
		t.Errorf("%d referrers after their deletion", len(got))
	}
}

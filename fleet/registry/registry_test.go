package registry_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dhowfleet/dhow/fleet/registry"
	"github.com/dhowfleet/dhow/fleet/registry/sqlindex"
	"github.com/dhowfleet/dhow/models/blob"
)

// clock is a clock that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// fixture is a registry in a folder, served on loopback.
type fixture struct {
	t     testing.TB
	dir   string
	clock *clock
	store *blob.Store
	db    *sql.DB
	*registry.Registry
	server *httptest.Server
}

// folder returns a folder in memory where there is one; syncing a disk takes long and is not what is tested here.
func folder(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "dhow-registry-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func openDB(dir string) (*sql.DB, error) {
	return sql.Open("sqlite3", "file:"+filepath.Join(dir, "fleet.db")+"?_journal_mode=WAL&_txlock=immediate&_busy_timeout=10000")
}

// start opens the registry in dir; what is in the folder already is kept.
func start(t testing.TB, dir string, config registry.Config, options ...blob.Option) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: dir, clock: &clock{now: time.Now()}}
	var err error
	if f.store, err = blob.Open(filepath.Join(dir, "blobs"), append(options, blob.WithClock(f.clock.Now))...); err != nil {
		t.Fatal(err)
	}
	if f.db, err = openDB(dir); err != nil {
		t.Fatal(err)
	}
	index, err := sqlindex.Open(context.Background(), f.db)
	if err != nil {
		t.Fatal(err)
	}
	config.Store, config.Index, config.Now = f.store, index, f.clock.Now
	if f.Registry, err = registry.New(config); err != nil {
		t.Fatal(err)
	}
	f.server = httptest.NewServer(f.Registry)
	t.Cleanup(f.stop)
	return f
}

func (f *fixture) stop() {
	f.server.Close()
	f.db.Close()
}

// answer is a response with its body read.
type answer struct {
	*http.Response
	body string
}

// do sends a request. A location without a host is one of the registry's.
func (f *fixture) do(method, location string, body []byte, header ...string) answer {
	f.t.Helper()
	if strings.HasPrefix(location, "/") {
		location = f.server.URL + location
	}
	r, err := http.NewRequest(method, location, bytes.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w, err := f.server.Client().Do(r)
	if err != nil {
		f.t.Fatal(err)
	}
	defer w.Body.Close()
	data, err := io.ReadAll(w.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return answer{w, string(data)}
}

// want fails unless the answer has the status and, if it is an error, the code in an OCI error body.
func (f *fixture) want(a answer, status int, code string) answer {
	f.t.Helper()
	if a.StatusCode != status {
		f.t.Fatalf("%s %s: status %d, want %d: %s", a.Request.Method, a.Request.URL.Path, a.StatusCode, status, a.body)
	}
	if code != "" {
		var body struct {
			Errors []struct{ Code, Message string }
		}
		if err := json.Unmarshal([]byte(a.body), &body); err != nil || len(body.Errors) != 1 || body.Errors[0].Code != code || body.Errors[0].Message == "" {
			f.t.Fatalf("%s %s: body %q (%v), want an OCI error %s", a.Request.Method, a.Request.URL.Path, a.body, err, code)
		}
	}
	return a
}

func (f *fixture) uploads(repository string) string { return "/v2/" + repository + "/blobs/uploads/" }

func withDigest(location string, d digest.Digest) string {
	separator := "?"
	if strings.Contains(location, "?") {
		separator = "&"
	}
	return location + separator + "digest=" + url.QueryEscape(d.String())
}

func (f *fixture) pushBlob(repository string, data []byte) v1.Descriptor {
	f.t.Helper()
	d := digest.FromBytes(data)
	f.want(f.do("POST", withDigest(f.uploads(repository), d), data), 201, "")
	return v1.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: int64(len(data))}
}

func (f *fixture) blob(repository string, d digest.Digest, header ...string) answer {
	f.t.Helper()
	return f.do("GET", "/v2/"+repository+"/blobs/"+d.String(), nil, header...)
}

func image(config v1.Descriptor, layers ...v1.Descriptor) v1.Manifest {
	m := v1.Manifest{MediaType: v1.MediaTypeImageManifest, Config: config, Layers: layers}
	m.SchemaVersion = 2
	return m
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (f *fixture) putManifest(repository, reference string, manifest any) answer {
	f.t.Helper()
	data, ok := manifest.([]byte)
	if !ok {
		data = encode(f.t, manifest)
	}
	return f.do("PUT", "/v2/"+repository+"/manifests/"+reference, data, "Content-Type", v1.MediaTypeImageManifest)
}

func random(t testing.TB, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPushAndPull(t *testing.T) {
	f := start(t, folder(t), registry.Config{})
	const repository = "models/fashion"
	config, layer := f.pushBlob(repository, []byte("{}")), f.pushBlob(repository, random(t, 300_000))
	manifest := encode(t, image(config, layer))
	d := digest.FromBytes(manifest)
	a := f.want(f.putManifest(repository, "1", manifest), 201, "")
	if a.Header.Get("Docker-Content-Digest") != d.String() || a.Header.Get("Location") != "/v2/models/fashion/manifests/"+d.String() {
		t.Errorf("headers %v", a.Header)
	}
	for _, reference := range []string{"1", d.String()} {
		for _, method := range []string{"GET", "HEAD"} {
			a := f.want(f.do(method, "/v2/models/fashion/manifests/"+reference, nil), 200, "")
			if a.Header.Get("Content-Type") != v1.MediaTypeImageManifest || a.Header.Get("Docker-Content-Digest") != d.String() ||
				a.ContentLength != int64(len(manifest)) || method == "GET" && a.body != string(manifest) {
				t.Errorf("%s %s: %v %q", method, reference, a.Header, a.body)
			}
		}
	}
	f.want(f.do("GET", "/v2/models/fashion/manifests/2", nil), 404, "MANIFEST_UNKNOWN")
	f.want(f.do("GET", "/v2/models/other/manifests/"+d.String(), nil), 404, "MANIFEST_UNKNOWN")
	f.want(f.blob("models/other", layer.Digest), 404, "BLOB_UNKNOWN")
	f.want(f.do("POST", "/v2/models/fashion/manifests/1", nil), 405, "UNSUPPORTED")
	f.want(f.do("GET", "/v2/models/fashion/nothing/1", nil), 404, "NAME_INVALID")
	f.want(f.do("GET", "/v2/a/blobs/sha256:12", nil), 400, "DIGEST_INVALID")
	f.want(f.do("GET", "/v2/a/manifests/-x", nil), 400, "DIGEST_INVALID")

	// Another restart later all is still there.
	f.stop()
	f = start(t, f.dir, registry.Config{})
	if a := f.want(f.do("GET", "/v2/models/fashion/manifests/1", nil), 200, ""); a.body != string(manifest) {
		t.Error("the manifest has changed")
	}
}

func TestRanges(t *testing.T) {
	f := start(t, folder(t), registry.Config{})
	data := random(t, 1000)
	d := f.pushBlob("a", data).Digest
	tag := f.want(f.blob("a", d), 200, "").Header.Get("Etag")
	if tag != `"`+d.String()+`"` {
		t.Fatalf("etag %s", tag)
	}
	for value, want := range map[string][2]int{"bytes=0-0": {0, 1}, "bytes=990-": {990, 1000}, "bytes=-10": {990, 1000}, "bytes=5-99999": {5, 1000}} {
		for _, ifRange := range []string{"", tag} {
			header := []string{"Range", value}
			if ifRange != "" {
				header = append(header, "If-Range", ifRange)
			}
			a := f.want(f.blob("a", d, header...), 206, "")
			if a.body != string(data[want[0]:want[1]]) || a.Header.Get("Content-Range") != fmt.Sprintf("bytes %d-%d/1000", want[0], want[1]-1) {
				t.Errorf("%s: %d bytes, %s", value, len(a.body), a.Header.Get("Content-Range"))
			}
		}
	}
	if a := f.want(f.blob("a", d, "Range", "bytes=5-9", "If-Range", `"other"`), 200, ""); a.body != string(data) {
		t.Error("a range of other content was served")
	}
	a := f.want(f.blob("a", d, "Range", "bytes=1000-"), 416, "RANGE_INVALID")
	if a.Header.Get("Content-Range") != "bytes */1000" {
		t.Errorf("content range %q", a.Header.Get("Content-Range"))
	}
	f.want(f.blob("a", d, "If-None-Match", tag), 304, "")
	if a := f.want(f.do("HEAD", "/v2/a/blobs/"+d.String(), nil), 200, ""); a.ContentLength != 1000 || a.Header.Get("Docker-Content-Digest") != d.String() {
		t.Errorf("head: %v", a.Header)
	}
}

// TestDownloadsAreBounded: whoever comes while all places are taken is told when to come back.
func TestDownloadsAreBounded(t *testing.T) {
	f := start(t, folder(t), registry.Config{MaxDownloads: 1})
	d := f.pushBlob("a", random(t, 1000)).Digest
	hold, release := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(release)
		w := &holding{ResponseRecorder: httptest.NewRecorder(), writing: make(chan struct{}), hold: hold}
		go func() { <-w.writing; release <- struct{}{} }()
		f.ServeHTTP(w, httptest.NewRequest("GET", "http://registry/v2/a/blobs/"+d.String(), nil))
	}()
	<-release
	a := f.want(f.blob("a", d), 429, "TOOMANYREQUESTS")
	if a.Header.Get("Retry-After") == "" {
		t.Error("no word on when to come back")
	}
	f.want(f.do("HEAD", "/v2/a/blobs/"+d.String(), nil), 200, "")
	close(hold)
	<-release
	f.want(f.blob("a", d), 200, "")
}

// holding is a peer that takes nothing until it is told to.
type holding struct {
	*httptest.ResponseRecorder
	once          sync.Once
	writing, hold chan struct{}
}

func (h *holding) Write(p []byte) (int, error) {
	h.once.Do(func() { close(h.writing) })
	<-h.hold
	return h.ResponseRecorder.Write(p)
}

func TestMount(t *testing.T) {
	f := start(t, folder(t), registry.Config{})
	d := f.pushBlob("a", []byte("shared")).Digest
	mount := func(repository string, d digest.Digest, from string) answer {
		return f.do("POST", f.uploads(repository)+"?mount="+d.String()+"&from="+from, nil)
	}
	if a := f.want(mount("b", d, "a"), 201, ""); a.Header.Get("Location") != "/v2/b/blobs/"+d.String() {
		t.Errorf("location %s", a.Header.Get("Location"))
	}
	f.want(f.blob("b", d), 200, "")
	f.want(mount("c", d, "nowhere"), 202, "")
	f.want(mount("c", d, ""), 202, "") // What a blob's digest alone does not give.
	f.want(f.blob("c", d), 404, "BLOB_UNKNOWN")
	f.want(mount("c", digest.FromString("absent"), "a"), 202, "")

	f = start(t, folder(t), registry.Config{AnonymousMount: true})
	d = f.pushBlob("a", []byte("shared")).Digest
	f.want(mount("c", d, ""), 201, "")
	f.want(f.blob("c", d), 200, "")
}

func TestManifestRefusals(t *testing.T) {
	f := start(t, folder(t), registry.Config{})
	config := f.pushBlob("a", []byte("{}"))
	absent := v1.Descriptor{MediaType: "x/y", Digest: digest.FromString("absent"), Size: 6}
	liar := config
	liar.Size = 3
	nested := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{absent}}
	nested.SchemaVersion = 2
	foreign := absent
	foreign.MediaType = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
	good := encode(t, image(config))
	many := image(config)
	for range 4097 {
		many.Layers = append(many.Layers, config)
	}
	put := func(reference string, body []byte, contentType string) answer {
		return f.do("PUT", "/v2/a/manifests/"+reference, body, "Content-Type", contentType)
	}
	const im, ix = v1.MediaTypeImageManifest, v1.MediaTypeImageIndex
	f.want(put("t", encode(t, image(config, absent)), im), 404, "MANIFEST_BLOB_UNKNOWN")
	f.want(put("t", encode(t, image(absent)), im), 404, "MANIFEST_BLOB_UNKNOWN")
	f.want(put("t", encode(t, nested), ix), 404, "MANIFEST_BLOB_UNKNOWN")
	f.want(put("t", encode(t, image(liar)), im), 400, "MANIFEST_INVALID")
	f.want(put("t", encode(t, many), im), 400, "MANIFEST_INVALID")
	f.want(put("t", good, ix), 400, "MANIFEST_INVALID")
	f.want(put("t", good, "a/b/c;"), 400, "MANIFEST_INVALID")
	f.want(put("t", []byte(`{}`), "application/json"), 415, "MANIFEST_INVALID")
	f.want(put("t", []byte(`{`), im), 400, "MANIFEST_INVALID")
	f.want(put("t", []byte(`{"config":{"digest":"sha256:../x"}}`), im), 400, "MANIFEST_INVALID")
	f.want(put("t", bytes.Repeat([]byte(" "), registry.MaxManifest+1), im), 413, "MANIFEST_INVALID")
	f.want(put(digest.FromString("other").String(), good, im), 400, "DIGEST_INVALID")
	f.want(put("-bad", good, im), 400, "DIGEST_INVALID")
	f.want(put(digest.FromBytes(good).String()+"?tag=-bad", good, im), 400, "TAG_INVALID")
	f.want(f.do("GET", "/v2/a/tags/list", nil), 200, "")
	f.want(f.do("GET", "/v2/a/manifests/t", nil), 404, "MANIFEST_UNKNOWN")

	f.want(put("t", encode(t, image(config, foreign)), im), 201, "")
	a := f.want(put(digest.FromBytes(good).String()+"?tag=x&tag=y", good, im), 201, "")
	if tags := a.Header.Values("OCI-Tag"); len(tags) != 2 {
		t.Errorf("tags %v", tags)
	}
	f.want(f.do("GET", "/v2/a/manifests/y", nil), 200, "")
}

func TestImmutableTags(t *testing.T) {
	var asked []string
	refusal := error(nil)
	f := start(t, folder(t), registry.Config{
		OnTag: func(_ context.Context, repository, tag string, d digest.Digest, manifest []byte) error {
			if digest.FromBytes(manifest) != d {
				t.Errorf("OnTag got another manifest than %s", d)
			}
			asked = append(asked, repository+":"+tag)
			return refusal
		},
		OnDelete: func(_ context.Context, repository, reference string) error {
			if reference == "kept" {
				return errors.New("version kept is being rolled out")
			}
			return nil
		},
	})
	const repository = "models/fashion"
	config, layer := f.pushBlob(repository, []byte("{}")), f.pushBlob(repository, []byte("layer"))
	one, two := encode(t, image(config)), encode(t, image(config, layer))
	f.want(f.putManifest(repository, "1", one), 201, "")
	f.want(f.putManifest(repository, "1", one), 201, "")
	if len(asked) != 2 || asked[0] != "models/fashion:1" {
		t.Fatalf("OnTag was asked about %v", asked)
	}
	f.want(f.putManifest(repository, "1", two), 409, "TAG_IMMUTABLE")
	f.want(f.do("GET", "/v2/models/fashion/manifests/"+digest.FromBytes(two).String(), nil), 404, "MANIFEST_UNKNOWN")
	if len(asked) != 2 {
		t.Error("OnTag was asked about a tag that was taken")
	}
	refusal = errors.New("bundle.yaml: version is \"1\", the tag is 2")
	if a := f.want(f.putManifest(repository, "2", two), 400, "MANIFEST_INVALID"); !strings.Contains(a.body, "the tag is 2") {
		t.Errorf("the refusal says %s", a.body)
	}
	f.want(f.do("GET", "/v2/models/fashion/manifests/2", nil), 404, "MANIFEST_UNKNOWN")
	f.want(f.do("GET", "/v2/models/fashion/manifests/"+digest.FromBytes(two).String(), nil), 404, "MANIFEST_UNKNOWN")
	refusal = nil
	f.want(f.putManifest(repository, "kept", two), 201, "")
	f.want(f.do("DELETE", "/v2/models/fashion/manifests/kept", nil), 409, "DENIED")
	f.want(f.do("DELETE", "/v2/models/fashion/manifests/1", nil), 202, "")

	// Elsewhere tags move.
	f.pushBlob("scratch", []byte("{}"))
	f.pushBlob("scratch", []byte("layer"))
	f.want(f.putManifest("scratch", "latest", one), 201, "")
	f.want(f.putManifest("scratch", "latest", two), 201, "")
	if a := f.do("GET", "/v2/scratch/manifests/latest", nil); a.body != string(two) {
		t.Error("the tag has not moved")
	}
}

// TestOneWinsTheTag: of many pushes of different content under one immutable tag exactly one is acknowledged.
func TestOneWinsTheTag(t *testing.T) {
	f := start(t, folder(t), registry.Config{})
	config := f.pushBlob("models/a", []byte("{}"))
	var mu sync.Mutex
	winners := map[string]string{}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			m := image(config)
			m.Annotations = map[string]string{"n": fmt.Sprint(i)}
			a := f.putManifest("models/a", "1", m)
			if a.StatusCode == 201 {
				mu.Lock()
				winners[a.Header.Get("Docker-Content-Digest")] = ""
				mu.Unlock()
			} else if a.StatusCode != 409 {
				t.Errorf("status %d: %s", a.StatusCode, a.body)
			}
		})
	}
	wg.Wait()
	d := f.do("HEAD", "/v2/models/a/manifests/1", nil).Header.Get("Docker-Content-Digest")
	if _, ok := winners[d]; len(winners) != 1 || !ok {
		t.Fatalf("the tag names %s, acknowledged were %v", d, winners)
	}
}

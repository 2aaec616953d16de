package registry_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"
	"github.com/opencontainers/go-digest"

	"github.com/dhowfleet/dhow/fleet/registry"
)

// TestUploadSurvivesARestart pushes in chunks, with a restart and a lost connection between, and under both algorithms.
func TestUploadSurvivesARestart(t *testing.T) {
	dir := folder(t)
	f := start(t, dir, registry.Config{})
	data := random(t, 1_500_000)
	for _, d := range []digest.Digest{digest.FromBytes(data), digest.SHA512.FromBytes(data)} {
		location := f.want(f.do("POST", f.uploads("a"), nil), 202, "").Header.Get("Location")
		a := f.want(f.do("PATCH", location, data[:700_000], "Content-Range", "0-699999"), 202, "")
		if a.Header.Get("Range") != "0-699999" {
			t.Fatalf("range %s", a.Header.Get("Range"))
		}
		f.stop()
		f = start(t, dir, registry.Config{})
		if a := f.want(f.do("GET", location, nil), 204, ""); a.Header.Get("Range") != "0-699999" {
			t.Fatalf("after the restart the upload stands at %s", a.Header.Get("Range"))
		}
		f.want(f.do("PATCH", location, data[:5], "Content-Range", "0-4"), 416, "RANGE_INVALID")
		f.want(f.do("PATCH", location, data[:5], "Content-Range", "700000-700009"), 400, "SIZE_INVALID")
		f.want(f.do("PATCH", location, data[:5], "Content-Range", "x"), 400, "SIZE_INVALID")

		// A client that dies in the middle of a chunk: what came is kept.
		body, feed := io.Pipe()
		r, err := http.NewRequest("PATCH", f.server.URL+location, body)
		if err != nil {
			t.Fatal(err)
		}
		r.ContentLength = 800_000
		go func() {
			_, _ = feed.Write(data[700_000:1_000_000])
			feed.CloseWithError(errors.New("died"))
		}()
		if w, err := f.server.Client().Do(r); err == nil {
			w.Body.Close()
			t.Fatalf("a request without its end was answered with %d", w.StatusCode)
		}
		// The dead client's request may reach the handler after ours: that is what Content-Range is for.
		for range 10 {
			standing := f.want(f.do("GET", location, nil), 204, "").Header.Get("Range")
			var last int
			if _, err := fmt.Sscanf(standing, "0-%d", &last); err != nil || last < 699_999 || last > 999_999 {
				t.Fatalf("after the lost connection the upload stands at %s", standing)
			}
			a = f.do("PUT", withDigest(location, d), data[last+1:], "Content-Range", fmt.Sprintf("%d-%d", last+1, len(data)-1))
			if a.StatusCode != 416 {
				break
			}
		}
		f.want(a, 201, "")
		f.want(f.do("GET", location, nil), 404, "BLOB_UPLOAD_UNKNOWN")
		if a := f.want(f.blob("a", d), 200, ""); a.body != string(data) {
			t.Fatal("the blob is not what was pushed")
		}
	}
}

func TestUploadRefusals(t *testing.T) {
	f := start(t, folder(t), registry.Config{MaxUploads: 2})
	d := digest.FromString("wanted")
	begin := func() string { return f.want(f.do("POST", f.uploads("a"), nil), 202, "").Header.Get("Location") }

	location := begin()
	f.want(f.do("PUT", location, []byte("other")), 400, "DIGEST_INVALID")
	f.want(f.do("PUT", location+"?digest=md5:12", []byte("other")), 400, "DIGEST_INVALID")
	f.want(f.do("GET", strings.Replace(location, "/v2/a/", "/v2/b/", 1), nil), 404, "BLOB_UPLOAD_UNKNOWN")
	f.want(f.do("PUT", withDigest(location, d), []byte("other")), 400, "DIGEST_INVALID")
	f.want(f.do("GET", location, nil), 404, "BLOB_UPLOAD_UNKNOWN")
	f.want(f.do("POST", withDigest(f.uploads("a"), d), []byte("other")), 400, "DIGEST_INVALID")
	f.want(f.do("GET", f.uploads("a")+"../../../../etc/passwd", nil), 404, "")
	f.want(f.do("GET", f.uploads("a")+"zz", nil), 404, "BLOB_UPLOAD_UNKNOWN")

	one := begin()
	begin()
	a := f.want(f.do("POST", f.uploads("a"), nil), 429, "TOOMANYREQUESTS")
	if a.Header.Get("Retry-After") == "" {
		t.Error("no word on when to come back")
	}
	f.want(f.do("DELETE", one, nil), 204, "")
	f.want(f.do("DELETE", one, nil), 404, "BLOB_UPLOAD_UNKNOWN")
	begin()
	if f.store.Has(d) || f.store.Has(digest.FromString("other")) {
		t.Error("refused content was stored")
	}
}

// signalling closes a channel when the body is first read.
type signalling struct {
	io.ReadCloser
	once sync.Once
	read chan struct{}
}

func (s *signalling) Read(p []byte) (int, error) {
	s.once.Do(func() { close(s.read) })
	return s.ReadCloser.Read(p)
}

// TestOneRequestAtATime: a second request on a session waits for the first instead of mixing with it.
func TestOneRequestAtATime(t *testing.T) {
	f := start(t, folder(t), registry.Config{})
	location := f.want(f.do("POST", f.uploads("a"), nil), 202, "").Header.Get("Location")
	body, feed := io.Pipe()
	reading := make(chan struct{})
	first := make(chan int)
	go func() {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("PATCH", "http://registry"+location, &signalling{ReadCloser: body, read: reading})
		f.ServeHTTP(w, r)
		first <- w.Code
	}()
	<-reading
	second := make(chan answer)
	go func() {
		second <- f.do("PUT", withDigest(location, digest.FromString("first second")), []byte("second"))
	}()
	if _, err := feed.Write([]byte("first ")); err != nil {
		t.Fatal(err)
	}
	feed.Close()
	if status := <-first; status != 202 {
		t.Fatalf("first request: %d", status)
	}
	f.want(<-second, 201, "")
}

// TestStalledUpload: a client that sends nothing more does not hold its session for ever.
func TestStalledUpload(t *testing.T) {
	f := start(t, folder(t), registry.Config{StallTimeout: 50 * time.Millisecond})
	location := f.want(f.do("POST", f.uploads("a"), nil), 202, "").Header.Get("Location")
	body, feed := io.Pipe()
	defer feed.Close()
	go feed.Write([]byte("half"))
	r, _ := http.NewRequest("PATCH", f.server.URL+location, body)
	if w, err := f.server.Client().Do(r); err == nil {
		defer w.Body.Close()
		if w.StatusCode != 400 {
			t.Fatalf("a stalled upload was answered with %d", w.StatusCode)
		}
	}
	if a := f.want(f.do("GET", location, nil), 204, ""); a.Header.Get("Range") != "0-3" {
		t.Errorf("the upload stands at %s", a.Header.Get("Range"))
	}
}

package artifact

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/models/blob"
)

func content(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// folder returns a folder in memory where there is one; syncing a disk takes long and is not what is tested here.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := makeFolder()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func makeFolder() (string, error) {
	const memory = "/dev/shm"
	if _, err := os.Stat(memory); err != nil {
		return os.MkdirTemp("", "dhow-artifact-")
	}
	return os.MkdirTemp(memory, "dhow-artifact-")
}

func newStore(t testing.TB, options ...blob.Option) *blob.Store {
	t.Helper()
	s, err := blob.Open(folder(t), options...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// serve starts a server and returns a Puller for it with an empty store.
func serve(t testing.TB, handler http.HandlerFunc) *Puller {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return &Puller{Client: server.Client(), BaseURL: server.URL, Store: newStore(t)}
}

// honest serves data as a registry should.
func honest(data []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}
}

// sequence answers the n-th request with the n-th handler and the rest with the last.
func sequence(handlers ...http.HandlerFunc) http.HandlerFunc {
	var n atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		handlers[min(int(n.Add(1)), len(handlers))-1](w, r)
	}
}

// cut serves what the request asks for but breaks the connection before the byte at.
func cut(data []byte, at int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		honest(data)(&cutter{w, at - int(rangeStart(r))}, r)
	}
}

type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	if len(p) <= c.left {
		c.left -= len(p)
		return c.ResponseWriter.Write(p)
	}
	_, _ = c.ResponseWriter.Write(p[:max(c.left, 0)])
	_ = http.NewResponseController(c.ResponseWriter).Flush()
	panic(http.ErrAbortHandler)
}

func rangeStart(r *http.Request) int64 {
	value, _ := strings.CutPrefix(r.Header.Get("Range"), "bytes=")
	n, _ := strconv.ParseInt(strings.TrimSuffix(value, "-"), 10, 64)
	return n
}

func wantBlob(t testing.TB, s *blob.Store, data []byte) {
	t.Helper()
	got, err := s.Read(digest.FromBytes(data), 1<<30)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("the store has %d bytes of %d: %v", len(got), len(data), err)
	}
}

func pull(p *Puller, data []byte) error {
	return p.Blob(context.Background(), "models/fashion", digest.FromBytes(data), int64(len(data)), nil)
}

func TestBlob(t *testing.T) {
	for _, size := range []int{0, 1, 4095, 3_000_000} {
		data := content(1, size)
		requests := 0
		p := serve(t, func(w http.ResponseWriter, r *http.Request) {
			requests++
			if want := "/v2/models/fashion/blobs/" + digest.FromBytes(data).String(); r.URL.Path != want {
				t.Errorf("asked for %s, want %s", r.URL.Path, want)
			}
			honest(data)(w, r)
		})
		var calls []int64
		for range 2 {
			err := p.Blob(context.Background(), "models/fashion", digest.FromBytes(data), int64(size), func(n int64) { calls = append(calls, n) })
			if err != nil {
				t.Fatal(err)
			}
		}
		wantBlob(t, p.Store, data)
		if requests > 1 {
			t.Errorf("%d requests for one blob", requests)
		}
		if len(calls) > 4+size/progressEvery+2 || calls[0] != 0 || calls[len(calls)-1] != int64(size) {
			t.Errorf("progress of %d bytes: %v", size, calls)
		}
		for i := 1; i < len(calls); i++ {
			if calls[i] < calls[i-1] {
				t.Errorf("progress goes back: %v", calls)
			}
		}
	}
}

// TestCutConnections breaks the connection at each class of byte; the pull must go on where it stopped.
func TestCutConnections(t *testing.T) {
	data := content(2, 1_300_000)
	for _, at := range []int{1, 2, 4096, 512<<10 - 1, 512 << 10, 512<<10 + 1, 1_000_000, len(data) - 1} {
		var starts []int64
		var mu sync.Mutex
		handler := sequence(cut(data, at), honest(data))
		p := serve(t, func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			starts = append(starts, rangeStart(r))
			mu.Unlock()
			handler(w, r)
		})
		if err := pull(p, data); err != nil {
			t.Fatalf("cut at %d: %v", at, err)
		}
		wantBlob(t, p.Store, data)
		if len(starts) != 2 || starts[1] > int64(at) || starts[1] == 0 {
			t.Errorf("cut at %d, requests began at %v", at, starts)
		}
	}
	// Without a byte of progress it is the caller's turn.
	p := serve(t, cut(data, 0))
	if err := pull(p, data); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("cut at 0: %v", err)
	}
}

// TestResumedByAnotherCall: what a call leaves is used by the next, also through another Puller on the same store.
func TestResumedByAnotherCall(t *testing.T) {
	data := content(3, 900_000)
	refuse := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }
	p := serve(t, sequence(cut(data, 600_000), refuse))
	if err := pull(p, data); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	var start atomic.Int64
	q := serve(t, func(w http.ResponseWriter, r *http.Request) {
		start.Store(rangeStart(r))
		honest(data)(w, r)
	})
	q.Store = p.Store
	if err := pull(q, data); err != nil {
		t.Fatal(err)
	}
	if start.Load() < 500_000 {
		t.Errorf("went on at byte %d of about 600000", start.Load())
	}
	wantBlob(t, p.Store, data)
}

func TestHonestRecoveries(t *testing.T) {
	data, other := content(4, 800_000), content(5, 800_000)
	ignoreRange := func(data []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del("Range")
			honest(data)(w, r)
		}
	}
	for name, handler := range map[string]http.HandlerFunc{
		"server ignores ranges":          sequence(cut(data, 500_000), ignoreRange(data)),
		"content changes between ranges": sequence(cut(other, 300_000), honest(data)),
		"content is wrong once":          sequence(honest(other), honest(data)),
		"redirect within the registry": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("hop") == "" {
				http.Redirect(w, r, r.URL.Path+"?hop=1", http.StatusTemporaryRedirect)
				return
			}
			honest(data)(w, r)
		},
		"no length given": func(w http.ResponseWriter, _ *http.Request) {
			_ = http.NewResponseController(w).Flush()
			_, _ = w.Write(data)
		},
		"more than was promised, in a stream": func(w http.ResponseWriter, _ *http.Request) {
			_ = http.NewResponseController(w).Flush()
			_, _ = w.Write(append(bytes.Clone(data), "trailing"...))
		},
	} {
		p := serve(t, handler)
		if err := pull(p, data); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		wantBlob(t, p.Store, data)
	}
}

func status(code int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, `{"errors":[{"code":"DENIED","message":"because\u0007 of it"}]}`)
	}
}

func TestRefusals(t *testing.T) {
	data := content(6, 700_000)
	elsewhere := httptest.NewServer(honest(data))
	defer elsewhere.Close()
	partial := func(contentRange string) http.HandlerFunc {
		return sequence(cut(data, 600_000), func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", contentRange)
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(data)
		})
	}
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		class   error
		text    string
		wait    time.Duration
	}{
		"not found":            {status(404), ErrNotFound, "404 (DENIED: because  of it)", 0},
		"gone":                 {status(410), ErrNotFound, "410", 0},
		"unauthorized":         {status(401), ErrUnavailable, "may not pull", 0},
		"forbidden":            {status(403), ErrUnavailable, "may not pull", 0},
		"internal":             {status(500), ErrUnavailable, "500", 0},
		"shed":                 {status(429, "Retry-After", "7"), ErrUnavailable, "429", 7 * time.Second},
		"shed for ever":        {status(503, "Retry-After", "99999999"), ErrUnavailable, "503", time.Hour},
		"shed without a word":  {status(503), ErrUnavailable, "503", 0},
		"shed with nonsense":   {status(503, "Retry-After", "-3"), ErrUnavailable, "503", 0},
		"shed until yesterday": {status(503, "Retry-After", "Mon, 02 Jan 2006 15:04:05 GMT"), ErrUnavailable, "503", 0},
		"error page with 200": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<html>please log in</html>")
		}, ErrUnavailable, "26 bytes", 0},
		"longer than promised": {honest(append(bytes.Clone(data), 1)), ErrUnavailable, "700001 bytes", 0},
		"too short":            {honest(data[:100]), ErrUnavailable, "100 bytes", 0},
		"other content":        {honest(content(7, len(data))), ErrDigestMismatch, "", 0},
		"compressed": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = z.Write(data)
			_ = z.Close()
		}, ErrUnavailable, "encoded as gzip", 0},
		"range from elsewhere":    {partial("bytes 1-699999/700000"), ErrUnavailable, "bytes 1-", 0},
		"range of something else": {partial("bytes 600000-600001/700001"), ErrUnavailable, "/700001", 0},
		"range without a range":   {partial(""), ErrUnavailable, `""`, 0},
		"range refused":           {sequence(cut(data, 600_000), status(416, "Content-Range", "bytes */10")), ErrUnavailable, "*/10", 0},
		"redirect elsewhere": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
		}, ErrUnavailable, "elsewhere, which is not followed", 0},
		"redirect for ever": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		}, ErrUnavailable, "redirects", 0},
		"a partial answer to a whole request": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 5-9/700000")
			w.WriteHeader(http.StatusPartialContent)
		}, ErrUnavailable, "bytes 5-9", 0},
	} {
		p := serve(t, c.handler)
		err := pull(p, data)
		if !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want %v with %q", name, err, c.class, c.text)
		}
		for _, class := range []error{ErrUnavailable, ErrNotFound, ErrDigestMismatch, ErrNoSpace} {
			if !errors.Is(c.class, class) && errors.Is(err, class) {
				t.Errorf("%s: %v is also %v", name, err, class)
			}
		}
		if RetryAfter(err) != c.wait {
			t.Errorf("%s: wait %v, want %v", name, RetryAfter(err), c.wait)
		}
		if p.Store.Has(digest.FromBytes(data)) {
			t.Errorf("%s: the blob is there", name)
		}
	}
}

func TestMisuse(t *testing.T) {
	p := serve(t, honest(nil))
	ctx, d := context.Background(), digest.FromString("x")
	for _, repository := range []string{"", "../x", "a//b", "a/../b", "A", "a?b", "a#b", "a/", strings.Repeat("a", 256)} {
		if err := p.Blob(ctx, repository, d, 1, nil); err == nil || errors.Is(err, ErrUnavailable) {
			t.Errorf("repository %q: %v", repository, err)
		}
	}
	if err := p.Blob(ctx, "a", "sha256:12", 1, nil); !errors.Is(err, blob.ErrDigest) {
		t.Error(err)
	}
	if err := p.Blob(ctx, "a", d, -1, nil); err == nil {
		t.Error("a negative size was accepted")
	}
	for _, base := range []string{"", "nonsense", "https://", "https://host/path"} {
		q := *p
		q.BaseURL = base
		if _, err := q.Manifest(ctx, "a", d); err == nil || errors.Is(err, ErrUnavailable) {
			t.Errorf("base %q: %v", base, err)
		}
	}
}

func TestNoSpace(t *testing.T) {
	data := content(9, 100_000)
	p := serve(t, honest(data))
	p.Store = newStore(t, blob.WithReserve(1<<61))
	if err := pull(p, data); !errors.Is(err, ErrNoSpace) || errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
}

func TestManifest(t *testing.T) {
	manifest := []byte(`{"schemaVersion":2}`)
	d := digest.FromBytes(manifest)
	ctx := context.Background()
	var requests atomic.Int64
	p := serve(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		if want := "/v2/models/fashion/manifests/" + d.String(); r.URL.Path != want || !strings.Contains(r.Header.Get("Accept"), "manifest") {
			t.Errorf("asked for %s accepting %q", r.URL.Path, r.Header.Get("Accept"))
		}
		_, _ = w.Write(manifest)
	})
	for range 2 {
		got, err := p.Manifest(ctx, "models/fashion", d)
		if err != nil || !bytes.Equal(got, manifest) {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if requests.Load() != 1 {
		t.Errorf("%d requests, want one", requests.Load())
	}
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		class   error
	}{
		"other":      {honest([]byte("{}")), ErrDigestMismatch},
		"other once": {sequence(honest([]byte("{}")), honest(manifest)), nil},
		"too large":  {honest(make([]byte, MaxManifest+1)), ErrDigestMismatch},
		"absent":     {status(404), ErrNotFound},
		"shed":       {status(503), ErrUnavailable},
		"cut":        {cut(manifest, 3), ErrUnavailable},
		"page": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = io.WriteString(w, "<html>")
		}, ErrUnavailable},
	} {
		p := serve(t, c.handler)
		if _, err := p.Manifest(ctx, "models/fashion", d); !errors.Is(err, c.class) {
			t.Errorf("%s: %v, want %v", name, err, c.class)
		}
		if p.Store.Has(d) != (c.class == nil) {
			t.Errorf("%s: the manifest is there: %v", name, p.Store.Has(d))
		}
	}
}

// TestAnyServer pulls from servers that misbehave in any order; the result is the blob or an error of a known class,
// and an honest server always brings it to its end.
func TestAnyServer(t *testing.T) {
	data, other := content(11, 1_200_000), content(12, 1_200_000)
	var handler atomic.Pointer[http.HandlerFunc]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*handler.Load())(w, r) }))
	defer server.Close()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := makeFolder()
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		store, err := blob.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		p := &Puller{Client: server.Client(), BaseURL: server.URL, Store: store}
		for range rapid.IntRange(0, 4).Draw(t, "pulls") {
			at := rapid.IntRange(0, len(data)).Draw(t, "at")
			h := rapid.SampledFrom([]http.HandlerFunc{
				sequence(cut(data, at), status(503)), sequence(cut(other, at), status(500)), honest(data[:at]), honest(other),
				status(404), status(416), status(200), status(206, "Content-Range", "bytes 0-1/2"),
			}).Draw(t, "server")
			handler.Store(&h)
			err := pull(p, data)
			switch {
			case err != nil && !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrDigestMismatch):
				t.Fatal(err)
			case (err == nil) != store.Has(digest.FromBytes(data)):
				t.Fatalf("pulled with %v, the blob is there: %v", err, err != nil)
			}
		}
		h := honest(data)
		handler.Store(&h)
		if err := pull(p, data); err != nil {
			t.Fatal(err)
		}
		got, err := store.Read(digest.FromBytes(data), 1<<30)
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("the store has %d bytes: %v", len(got), err)
		}
	})
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-1/2", "bytes 5-9/*", "bytes */10", "", "bytes 9223372036854775807-0/0", "bytes -1-2/3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		first, total, ok := contentRange(s)
		if ok && (first < 0 || total < -1) {
			t.Fatalf("%q: %d of %d", s, first, total)
		}
	})
}

package access

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// now is when the tests' policies think it is.
var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func clock() time.Time { return now }

// keyring writes a file of keys and returns its path, and the keys in their order.
func keyring(t testing.TB, path string, keys ...Key) []string {
	t.Helper()
	var text []byte
	var secrets []string
	for i := range keys {
		secret := NewKey()
		keys[i].Hash = HashOf(secret)
		secrets = append(secrets, secret)
		doc, err := keys[i].Document()
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, doc...)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return secrets
}

func open(t testing.TB, path string, o Options) *Policy {
	t.Helper()
	if o.Now == nil {
		o.Now = clock
	}
	p, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func bearer(key string) func(string) string {
	return header("Authorization", "Bearer "+key)
}

func header(name, value string) func(string) string {
	return func(asked string) string {
		if asked == name {
			return value
		}
		return ""
	}
}

// refused checks an error of Authorize.
func refused(t testing.TB, err error, kind Kind, text string) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Kind != kind || !strings.Contains(e.Message, text) {
		t.Errorf("%v, want kind %d with %q", err, kind, text)
		return &Error{}
	}
	return e
}

func TestAKeyOpensWhatItsDocumentSays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.yaml")
	keys := keyring(t, path,
		Key{Name: "till", Groups: []Group{Inference, Metadata}, Models: []string{"fashion", "shop/*"}, Priority: 3},
		Key{Name: "root", Groups: []Group{All}},
		Key{Name: "old", Groups: []Group{All}, Expires: now},
		Key{Name: "ops", Groups: []Group{Statistics, ModelRepository}, Expires: now.Add(time.Second)},
	)
	till, root, old, ops := keys[0], keys[1], keys[2], keys[3]
	p := open(t, path, Options{})
	for _, c := range []struct {
		get    func(string) string
		group  Group
		model  string
		caller string
		kind   Kind
		text   string
	}{
		{bearer(till), Inference, "fashion", "till", 0, ""},
		{bearer(till), Inference, "shop/a/b", "till", 0, ""},
		{bearer(till), Metadata, "", "till", 0, ""},
		{header("Authorization", "bearer  "+till), Metadata, "", "till", 0, ""},
		{bearer(root), ModelRepository, "", "root", 0, ""},
		{bearer(root), Metrics, "any", "root", 0, ""},
		{bearer(ops), Statistics, "", "ops", 0, ""},
		{bearer(""), Health, "", "", 0, ""},
		{bearer("wrong"), Health, "", "", 0, ""},
		{bearer(till), Inference, "Fashion", "", Forbidden, `may not be used for the model "Fashion"`},
		{bearer(till), Inference, "shop", "", Forbidden, "may not be used for the model"},
		{bearer(till), Inference, strings.Repeat("x", 1000), "", Forbidden, "..."},
		{bearer(till), ModelRepository, "fashion", "", Forbidden, "the key till may not be used for model-repository, only for inference, metadata"},
		{bearer(till), Inference, "", "", Forbidden, "this request is about all"},
		{bearer(ops), Inference, "fashion", "", Forbidden, "only for statistics, model-repository"},
		{bearer(root), "no-such-group", "", "", Forbidden, "no-such-group"},
		{bearer(old), Inference, "fashion", "", Unauthenticated, "the key old expired on 2026-06-01"},
		{bearer(till[1:]), Inference, "fashion", "", Unauthenticated, "not known"},
		{bearer(strings.ToUpper(till)), Inference, "fashion", "", Unauthenticated, "not known"},
		{bearer(HashOf(till).String()), Inference, "fashion", "", Unauthenticated, "not known"},
		{bearer(strings.Repeat("x", 1<<16)), Inference, "fashion", "", Unauthenticated, "not known"},
		{header("Authorization", "Basic "+till), Inference, "fashion", "", Unauthenticated, "a key is needed"},
		{header("Authorization", till), Inference, "fashion", "", Unauthenticated, "a key is needed"},
		{bearer(""), Inference, "fashion", "", Unauthenticated, "Authorization: Bearer KEY"},
		{header("", ""), Status, "", "", Unauthenticated, "a key is needed"},
	} {
		caller, done, err := p.Authorize(c.get, c.group, c.model)
		if done == nil {
			t.Fatal("nothing to call at the end")
		}
		done()
		if c.kind != 0 {
			refused(t, err, c.kind, c.text)
		} else if err != nil || caller.Name != c.caller {
			t.Errorf("%s of %q: %v, %v", c.group, c.model, caller, err)
		}
		if caller.Name == "till" && caller.Priority != 3 {
			t.Errorf("priority %d", caller.Priority)
		}
	}
}

func TestKeysComeInTheHeadersOfTritonsClients(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.yaml")
	key := keyring(t, path, Key{Name: "till", Groups: []Group{All}})[0]
	p := open(t, path, Options{Header: "infer-key"})
	for _, name := range []string{"Infer-Key", "Triton-Grpc-Protocol-Infer-Key"} {
		if caller, _, err := p.Authorize(header(name, key), Inference, "m"); err != nil || caller.Name != "till" {
			t.Errorf("%s: %v, %v", name, caller, err)
		}
	}
	both := func(name string) string {
		return map[string]string{"Authorization": "Basic Zm9v", "Infer-Key": key}[name]
	}
	if _, _, err := p.Authorize(both, Inference, "m"); err != nil {
		t.Errorf("a proxy's own authorization hides the key: %v", err)
	}
	if _, _, err := open(t, path, Options{}).Authorize(header("Infer-Key", key), Inference, "m"); err == nil {
		t.Error("a header that nobody set carries keys")
	}
}

func TestCallersWithoutAKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.yaml")
	key := keyring(t, path, Key{Name: "till", Groups: []Group{Inference}})[0]
	none, closed, mixed := open(t, "", Options{}), open(t, path, Options{}), open(t, path, Options{Anonymous: true})
	for _, c := range []struct {
		name  string
		gate  *Gate
		key   string
		group Group
		kind  Kind
	}{
		{"without a file, at home", none.Gate(true), "", ModelRepository, 0},
		{"without a file, with some key", none.Gate(true), "whatever", Inference, 0},
		{"without a file, from elsewhere", none.Gate(false), "", Inference, Unauthenticated},
		{"without a file, from elsewhere, health", none.Gate(false), "", Health, 0},
		{"with a file, at home", closed.Gate(true), "", Inference, Unauthenticated},
		{"with a file, at home, with its key", closed.Gate(true), key, Inference, 0},
		{"let in at home", mixed.Gate(true), "", ModelRepository, 0},
		{"let in at home, with a key that is less", mixed.Gate(true), key, ModelRepository, Forbidden},
		{"let in at home, with a wrong key", mixed.Gate(true), "wrong", Inference, Unauthenticated},
		{"let in at home, from elsewhere", mixed.Gate(false), "", Inference, Unauthenticated},
	} {
		get := header("", "")
		if c.key != "" {
			get = bearer(c.key)
		}
		_, _, err := c.gate.Authorize(get, c.group, "")
		if c.kind != 0 {
			refused(t, err, c.kind, "")
		} else if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestConcurrentRequestsOfAKeyAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.yaml")
	key := keyring(t, path, Key{Name: "till", Groups: []Group{All}, Quota: Quota{Concurrent: 2, RequestsPerMinute: 600, Burst: 4}})[0]
	p := open(t, path, Options{})
	var dones []func()
	for range 2 {
		_, done, err := p.Authorize(bearer(key), Inference, "m")
		if err != nil {
			t.Fatal(err)
		}
		dones = append(dones, done)
	}
	// What is refused for what runs takes nothing of the rate: two of four are left after many tries.
	for range 10 {
		_, done, err := p.Authorize(bearer(key), Inference, "m")
		if e := refused(t, err, QuotaExceeded, "2 requests running"); e.RetryAfter <= 0 {
			t.Error("no time to wait")
		}
		done()
	}
	for range 2 {
		dones[0]()
		_, done, err := p.Authorize(bearer(key), Inference, "m")
		if err != nil {
			t.Fatal(err)
		}
		dones[0] = done
	}
	dones[0]()
	_, _, err := p.Authorize(bearer(key), Inference, "m")
	if e := refused(t, err, QuotaExceeded, "quota of 600 requests a minute"); e.RetryAfter != 100*time.Millisecond {
		t.Errorf("wait %s", e.RetryAfter)
	}
	// A request that ends with its context gives its place back then.
	p.options.Now = func() time.Time { return now.Add(time.Minute) }
	ctx, cancel := context.WithCancel(t.Context())
	h := http.Header{"Authorization": {"Bearer " + key}}
	if _, err := p.Gate(false).Enter(ctx, h, Inference, "m"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Gate(false).Enter(ctx, h, Inference, "m"); err == nil {
		t.Error("a third one runs")
	}
	synctest.Test(t, func(t *testing.T) { // waits for what the context's end sets off
		inner, end := context.WithCancel(context.Background())
		dones[1]()
		if _, err := p.Gate(false).Enter(inner, h, Inference, "m"); err != nil {
			t.Fatal(err)
		}
		end()
		synctest.Wait()
		if _, done, err := p.Authorize(bearer(key), Inference, "m"); err != nil {
			t.Error(err)
		} else {
			done()
		}
	})
	cancel()
}

// TestHTTPServersEndWhatTheyBegan counts over a real server, whose requests' contexts end with them.
func TestHTTPServersEndWhatTheyBegan(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.yaml")
	key := keyring(t, path, Key{Name: "till", Groups: []Group{All}, Quota: Quota{Concurrent: 4}})[0]
	p := open(t, path, Options{})
	gate := p.Gate(false)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if err := gate.Request(r, Inference, "m"); err != nil {
			t.Error(err)
		}
	}))
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			req, _ := http.NewRequestWithContext(t.Context(), "POST", srv.URL, nil)
			req.Header.Set("Authorization", "Bearer "+key)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
		})
	}
	clients.Wait()
	srv.Close()
	u := p.rules.Load().find(key).usage
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		u.mu.Lock()
		running := u.running
		u.mu.Unlock()
		if running == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d requests run after all have ended", running)
		}
	}
}

func TestRefusedKeysAreLoggedSeldomAndNotThemselves(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.yaml")
	keys := keyring(t, path, Key{Name: "till", Groups: []Group{Inference}}, Key{Name: "old", Groups: []Group{All}, Expires: now})
	var log bytes.Buffer
	at := now
	p := open(t, path, Options{Logger: slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})), Now: func() time.Time { return at }})
	guess := NewKey()
	secrets := append(keys, guess)
	for range 1000 {
		for _, key := range secrets {
			_, _, err := p.Authorize(bearer(key), ModelRepository, "")
			for _, secret := range secrets {
				if err == nil || strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), HashOf(secret).String()) {
					t.Fatalf("%v", err)
				}
			}
		}
	}
	at = at.Add(failureEvery)
	_, _, _ = p.Authorize(bearer(guess), Inference, "")
	if err := p.Reload(); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(log.String(), "refused for their key"); n != 2 || !strings.Contains(log.String(), `"count":2000`) {
		t.Errorf("%d lines of log:\n%s", n, log.String())
	}
	for _, secret := range secrets {
		if strings.Contains(log.String(), secret) || strings.Contains(log.String(), HashOf(secret).String()) {
			t.Errorf("a key or its hash is in the log:\n%s", log.String())
		}
	}
}

func TestALetInRequestAllocatesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.yaml")
	key := keyring(t, path, Key{Name: "till", Groups: []Group{All}, Models: []string{"a*", "fashion"}, Quota: Quota{RequestsPerMinute: maxPerMinute, Burst: maxBurst, Concurrent: 2}})[0]
	gate := open(t, path, Options{Header: "infer-key", Now: time.Now}).Gate(true)
	h := http.Header{"Authorization": {"Bearer " + key}}
	allocs := testing.AllocsPerRun(1000, func() {
		_, done, err := gate.Authorize(h.Get, Inference, "fashion")
		if err != nil {
			t.Fatal(err)
		}
		done()
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func BenchmarkAuthorize(b *testing.B) {
	path := filepath.Join(b.TempDir(), "keys.yaml")
	key := keyring(b, path, Key{Name: "till", Groups: []Group{All}, Models: []string{"fashion"}, Quota: Quota{Concurrent: 1 << 10}})[0]
	gate := open(b, path, Options{Now: time.Now}).Gate(true)
	h := http.Header{"Authorization": {"Bearer " + key}}
	b.ReportAllocs()
	for b.Loop() {
		_, done, err := gate.Authorize(h.Get, Inference, "fashion")
		if err != nil {
			b.Fatal(err)
		}
		done()
	}
}

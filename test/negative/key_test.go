package negative

import (
	"bytes"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/dhowfleet/dhow/agent/access"
	"github.com/dhowfleet/dhow/agent/openinference"
	"github.com/dhowfleet/dhow/agent/openinference/grpcapi"
)

// ring is a file of keys and what is known of them.
type ring struct {
	policy *access.Policy
	keys   map[string]string // by name
	log    *locked
}

// locked is a log that several write.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func keyring(t *testing.T) *ring {
	t.Helper()
	r := &ring{keys: map[string]string{}, log: &locked{}}
	var text []byte
	for _, k := range []access.Key{
		{Name: "root", Groups: []access.Group{access.All}},
		{Name: "narrow", Groups: []access.Group{access.Inference, access.Metadata}, Models: []string{"text", "sum*"}},
		{Name: "watcher", Groups: []access.Group{access.Statistics}},
		{Name: "old", Groups: []access.Group{access.All}, Expires: time.Now().Add(-time.Hour)},
		{Name: "poor", Groups: []access.Group{access.All}, Quota: access.Quota{RequestsPerMinute: 1, Burst: 1}},
	} {
		key := access.NewKey()
		r.keys[k.Name], k.Hash = key, access.HashOf(key)
		document, err := k.Document()
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, document...)
	}
	path := filepath.Join(t.TempDir(), "keys.yaml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	r.policy, err = access.Open(path, access.Options{Header: "infer-key", Logger: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		t.Fatal(err)
	}
	// The one request of the minute is spent.
	_, done, err := r.policy.Authorize(r.bearer("poor"), access.Metadata, "")
	if err != nil {
		t.Fatal(err)
	}
	done()
	return r
}

func (r *ring) bearer(name string) func(string) string {
	return http.Header{"Authorization": {"Bearer " + r.keys[name]}}.Get
}

// secrets are the keys and their hashes.
func (r *ring) secrets() []string {
	var out []string
	for _, key := range r.keys {
		out = append(out, key, access.HashOf(key).String())
	}
	return out
}

// silent checks that the log says nothing of keys.
func (r *ring) silent(t *testing.T) {
	t.Helper()
	for _, secret := range r.secrets() {
		if strings.Contains(r.log.String(), secret) {
			t.Errorf("a key is in the log:\n%s", r.log.String())
		}
	}
	if !strings.Contains(r.log.String(), "refused") {
		t.Errorf("the log does not say that keys were refused:\n%s", r.log.String())
	}
}

func TestKeysThatDoNotOpen(t *testing.T) {
	r := keyring(t)
	s := start(t, func(o *openinference.Options) {
		o.Authorize = r.policy.Gate(true).Authorize
		o.Repository = shelf{}
	})
	s.secrets, s.header = r.secrets(), []string{"Authorization", "Bearer " + r.keys["root"]}
	with := func(header ...string) request { return request{header: header, body: good} }
	by := func(name string, q request) request {
		q.header = append(q.header, "Authorization", "Bearer "+r.keys[name])
		return q
	}
	get := func(path string) request { return request{method: "GET", path: path} }
	changed := r.keys["root"][:len(r.keys["root"])-1] + "~"
	run(t, s, []restCase{
		{"no key", with(), 401, "Authorization: Bearer KEY"},
		{"no key for metadata", get("/v2"), 401, "a key is needed"},
		{"no key for a model that is not there", to("none", good), 401, "a key is needed"},
		{"no key for a configuration", get("/v2/models/neg/config"), 401, "a key is needed"},
		{"no key for the repository", request{path: "/v2/repository/index", body: "{}"}, 401, "a key is needed"},
		{"no key for a load", request{path: "/v2/repository/models/neg/load", body: "{}"}, 401, "a key is needed"},
		{"no key for a prediction", request{path: "/v1/models/neg:predict", body: "{}"}, 401, "a key is needed"},
		{"no key for a body that is broken", to("neg", "{"), 401, "a key is needed"},
		{"an empty key", with("Authorization", "Bearer "), 401, "a key is needed"},
		{"a key without its scheme", with("Authorization", r.keys["root"]), 401, "a key is needed"},
		{"a key of another scheme", with("Authorization", "Basic "+r.keys["root"]), 401, "a key is needed"},
		{"a key in a header that carries none", with("X-Api-Key", r.keys["root"]), 401, "a key is needed"},
		{"a key in the address", request{path: "/v2/models/neg/infer?key=" + r.keys["root"], body: good}, 401, "a key is needed"},
		{"an unknown key", with("Authorization", "Bearer "+access.NewKey()), 401, "not known"},
		{"a key with its last letter changed", with("Authorization", "Bearer "+changed), 401, "not known"},
		{"a key cut short", with("Authorization", "Bearer "+r.keys["root"][:20]), 401, "not known"},
		{"a key twice", with("Authorization", "Bearer "+r.keys["root"]+" "+r.keys["root"]), 401, "not known"},
		{"the hash of a key", with("Authorization", "Bearer "+access.HashOf(r.keys["root"]).String()), 401, "not known"},
		{"the name of a key", with("Authorization", "Bearer root"), 401, "not known"},
		{"a key of kilobytes", with("Authorization", "Bearer "+strings.Repeat("k", 20000)), 401, "not known"},
		{"an unknown key in Triton's header", with("Infer-Key", "wrong"), 401, "not known"},
		{"an unknown key before a good one in another header", with("Authorization", "Bearer wrong", "Infer-Key", r.keys["root"]), 401, "not known"},
		{"a key that expired", by("old", request{body: good}), 401, "the key old expired on"},
		{"another model than the key's", by("narrow", request{body: good}), 403, `the key narrow may not be used for the model "neg"`},
		{"another model's metadata than the key's", by("narrow", get("/v2/models/neg")), 403, `"neg"`},
		{"a model that is not there and not the key's", by("narrow", to("none", good)), 403, `"none"`},
		{"a model that differs from the key's in an encoded slash", by("narrow", get("/v2/models/a%2Ftext")), 403, "may not be used"},
		{"another model's prediction than the key's", by("narrow", request{path: "/v1/models/neg:predict", body: "{}"}), 403, `"neg"`},
		{"another group than the key's", by("watcher", request{body: good}), 403, "may not be used for inference, only for statistics"},
		{"the repository with a key of models", by("narrow", request{path: "/v2/repository/index", body: "{}"}), 403, "model-repository"},
		{"a load with a key of models", by("narrow", request{path: "/v2/repository/models/text/load", body: "{}"}), 403, "model-repository"},
		{"a request over the quota", by("poor", request{body: good}), 429, "quota of 1 requests a minute"},
		{"metadata over the quota", by("poor", get("/v2")), 429, "quota"},
		{"a page elsewhere with a good key", by("root", with("Origin", "https://evil.example")), 403, "web pages"},
	})
	// What may be done without a key, and with a narrow one.
	for _, q := range []request{get("/v2/health/live"), get("/v2/health/ready"), by("narrow", get("/v2")), by("narrow", get("/v2/models/sum"))} {
		if a := s.send(&q); a.status != 200 {
			t.Errorf("%s: %d %s", q.path, a.status, a.body)
		}
	}
	triton := with("Infer-Key", r.keys["root"])
	if a := s.send(&triton); a.status != 200 || a.body != goodAnswer {
		t.Errorf("%d %s", a.status, a.body)
	}
	r.silent(t)
}

func TestKeysThatDoNotOpenRPC(t *testing.T) {
	r := keyring(t)
	s := startRPC(t, func(o *grpcapi.Options) {
		o.Authorize = r.policy.Gate(true).Authorize
		o.Repository = shelf{}
	})
	s.secrets, s.header = r.secrets(), []string{"Authorization", "Bearer " + r.keys["root"]}
	message := frame(encode(rpc(nil)))
	with := func(header ...string) call { return call{header: header, body: message} }
	by := func(name, method, body string) call {
		return call{method: method, header: []string{"Authorization", "Bearer " + r.keys[name]}, body: frame(body)}
	}
	const nobody, forbidden = connect.CodeUnauthenticated, connect.CodePermissionDenied
	none := []string{"Authorization", ""}
	runRPC(t, s, []rpcCase{
		{"no key", with(none...), nobody, "a key is needed"},
		{"no key for metadata", call{method: "ServerMetadata", header: none, body: frame("")}, nobody, "a key is needed"},
		{"no key for the repository", call{method: "RepositoryIndex", header: none, body: frame("")}, nobody, "a key is needed"},
		{"no key for a load", call{method: "RepositoryModelLoad", header: none, body: frame("\x12\x03neg")}, nobody, "a key is needed"},
		{"no key for a configuration", call{method: "ModelConfig", header: none, body: frame("\x0a\x03neg")}, nobody, "a key is needed"},
		{"no key for reflection", call{method: "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", header: none, body: frame("")}, nobody, "a key is needed"},
		{"an unknown key", with("Authorization", "Bearer "+access.NewKey()), nobody, "not known"},
		{"an unknown key in Triton's header", with("Authorization", "", "Triton-Grpc-Protocol-Infer-Key", "wrong"), nobody, "not known"},
		{"a key that expired", by("old", "ModelInfer", encode(rpc(nil))), nobody, "expired"},
		{"another model than the key's", by("narrow", "ModelInfer", encode(rpc(nil))), forbidden, `"neg"`},
		{"another model's metadata than the key's", by("narrow", "ModelMetadata", "\x0a\x03neg"), forbidden, `"neg"`},
		{"another group than the key's", by("watcher", "ModelInfer", encode(rpc(nil))), forbidden, "only for statistics"},
		{"a load with a key of models", by("narrow", "RepositoryModelLoad", "\x12\x04text"), forbidden, "model-repository"},
		{"a request over the quota", by("poor", "ModelInfer", encode(rpc(nil))), exhausted, "quota of 1 requests a minute"},
	})
	for _, c := range []call{
		{method: "ServerLive", header: none, body: frame("")},
		{method: "/grpc.health.v1.Health/Check", header: none, body: frame("")},
		by("narrow", "ModelMetadata", "\x0a\x03sum"),
		with("Authorization", "", "Triton-Grpc-Protocol-Infer-Key", r.keys["root"]),
	} {
		if a := s.call(&c); a.code != 0 {
			t.Errorf("%s: %v %s", c.method, a.code, a.message)
		}
	}
	r.silent(t)
}

// TestThereAreEnoughCases keeps the suite from shrinking.
func TestThereAreEnoughCases(t *testing.T) {
	rest := 0
	for _, cases := range [][]restCase{syntax(), kinds(), shapes(), data(), models(), binaries(), bodies(), routes(), browsers(), garbled(), extensions(), repositories(), predictions()} {
		rest += len(cases)
	}
	rpc := len(rpcRequests()) + len(rpcFrames()) + len(rpcRepositories())
	t.Logf("%d cases over REST, %d over gRPC, and those of keys", rest, rpc)
	if rest < 150 || rpc < 60 {
		t.Errorf("only %d cases over REST and %d over gRPC", rest, rpc)
	}
}

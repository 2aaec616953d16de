package access_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/dhowfleet/dhow/fleet/access"
	"github.com/dhowfleet/dhow/fleet/access/accesstest"
	"github.com/dhowfleet/dhow/protocol/identity"
	"github.com/dhowfleet/dhow/protocol/transport"
)

const token = "dhow-op-right"

var errBroken = errors.New("database is locked: /secret/path")

func check(_ context.Context, t string) (string, access.Role, error) {
	switch t {
	case token:
		return "ana", access.Admin, nil
	case "reader":
		return "rob", "viewer", nil
	case "broken":
		return "", "", errBroken
	case "revoked":
		return "zoe", "", access.ErrRevokedToken
	case "nameless":
		return "", access.Admin, nil
	}
	return "", "", access.ErrUnknownToken
}

func config(log *strings.Builder) access.Config {
	logger := slog.New(slog.DiscardHandler)
	if log != nil {
		logger = slog.New(slog.NewTextHandler(log, nil))
	}
	return access.Config{Check: check, Logger: logger}
}

// echo says who was let in.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	p, ok := access.PrincipalFrom(r.Context())
	node := ""
	if p.Node != nil {
		node = p.Node.Region
	}
	fmt.Fprintf(w, "%v|%s|%s|%s", ok, p.Name, p.Role, node)
})

func isPull(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/v2/models/")
}

var table = []access.Route{
	{Pattern: "GET /healthz", Rule: access.Public("says only that the manager runs"), Handler: echo},
	{Pattern: "POST /op", Rule: access.Operators(access.Admin), Handler: echo},
	{Pattern: "POST /enrol", Rule: access.Enrolment(), Handler: echo},
	{Pattern: "POST /sync", Rule: access.Nodes(), Handler: echo},
	{Pattern: "POST /renew", Rule: access.NodesToRenew(), Handler: echo},
	{Pattern: "/v2/", Rule: access.AnyOf(access.Nodes().When("pulls of models", isPull), access.Operators(access.Admin)), Handler: echo},
}

func gate(t *testing.T, c access.Config) *access.Gate {
	t.Helper()
	g, err := access.New(c, table)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestStrangersAreRefusedEverywhere(t *testing.T) {
	accesstest.Walk(t, config(nil), table, "GET /healthz")
}

// The walk itself must be able to fail.
func TestWalkFindsAnOpenRoute(t *testing.T) {
	for name, c := range map[string]struct {
		routes []access.Route
		public []string
	}{
		"open":          {[]access.Route{{Pattern: "/x/{y}/{$}", Rule: access.Public("by mistake"), Handler: echo}}, nil},
		"open by order": {[]access.Route{{Pattern: "/v2/", Rule: access.AnyOf(access.Nodes(), access.Public("oh")), Handler: echo}}, nil},
		"closed":        {table[1:2], []string{"POST /op"}},
		"missing":       {table[1:2], []string{"GET /healthz"}},
	} {
		spy := &spy{TB: t}
		accesstest.Walk(spy, config(nil), c.routes, c.public...)
		if spy.errors == 0 {
			t.Errorf("%s: the walk found nothing", name)
		}
	}
}

type spy struct {
	testing.TB
	errors int
}

func (s *spy) Helper()               {}
func (s *spy) Errorf(string, ...any) { s.errors++ }

func TestTableMustBeWhole(t *testing.T) {
	for name, route := range map[string]access.Route{
		"no rule":         {Pattern: "/x", Handler: echo},
		"empty any":       {Pattern: "/x", Rule: access.AnyOf(), Handler: echo},
		"any with none":   {Pattern: "/x", Rule: access.AnyOf(access.Nodes(), access.Rule{}), Handler: echo},
		"none narrowed":   {Pattern: "/x", Rule: access.Rule{}.When("x", isPull), Handler: echo},
		"narrowed by nil": {Pattern: "/x", Rule: access.Nodes().When("x", nil), Handler: echo},
		"no handler":      {Pattern: "/x", Rule: access.Nodes()},
		"twice":           {Pattern: "POST /op", Rule: access.Nodes(), Handler: echo},
		"bad pattern":     {Pattern: "x y z", Rule: access.Nodes(), Handler: echo},
	} {
		if _, err := access.New(config(nil), append(table[:len(table):len(table)], route)); err == nil || !strings.HasPrefix(err.Error(), "cannot build the route table: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := access.New(access.Config{}, table); err == nil {
		t.Error("a gate without a token check was built")
	}
}

var node = identity.Node{TrustDomain: "fleet.example", Region: "ae-dubai", Site: "deira", ID: "n-1"}

func TestWhoIsLetIn(t *testing.T) {
	g := gate(t, config(nil))
	public, enrol := transport.AudiencePublic, transport.AudienceEnrol
	peer := func(expired bool) context.Context {
		return transport.WithPeer(context.Background(), transport.Peer{Node: node, Expired: expired})
	}
	as := func(a transport.Audience) context.Context { return transport.WithAudience(context.Background(), a) }
	basic := func(user, password string) string {
		r := httptest.NewRequest("GET", "/", nil)
		r.SetBasicAuth(user, password)
		return r.Header.Get("Authorization")
	}
	for name, c := range map[string]struct {
		ctx    context.Context
		route  string
		header string
		status int
		want   string
	}{
		"bearer":                    {as(public), "POST /op", "Bearer " + token, 200, "true|ana|admin|"},
		"bearer in small letters":   {as(public), "POST /op", "bearer " + token, 200, "true|ana|admin|"},
		"basic":                     {as(public), "POST /op", basic("anything", token), 200, "true|ana|admin|"},
		"basic with token as user":  {as(public), "POST /op", basic(token, ""), 401, "not known"},
		"wrong":                     {as(public), "POST /op", "Bearer nearly", 401, "not known"},
		"empty":                     {as(public), "POST /op", "Bearer ", 401, "not known"},
		"endless":                   {as(public), "POST /op", "Bearer " + strings.Repeat("x", 513), 401, "not known"},
		"broken basic":              {as(public), "POST /op", "Basic ???", 401, "not known"},
		"unknown scheme":            {as(public), "POST /op", "Digest x", 401, "not known"},
		"none":                      {as(public), "POST /op", "", 401, "needs an operator's token"},
		"other role":                {as(public), "POST /op", "Bearer reader", 403, `rob has the role \"viewer\", this needs admin`},
		"revoked":                   {as(public), "POST /op", "Bearer revoked", 401, `token \"zoe\" was revoked: get a new one (dhow-fleet token`},
		"revoked at the registry":   {as(public), "GET /v2/x", basic("x", "revoked"), 401, "was revoked"},
		"check broken":              {as(public), "POST /op", "Bearer broken", 503, "try again"},
		"check gives no name":       {as(public), "POST /op", "Bearer nameless", 503, "try again"},
		"token under node name":     {peer(false), "POST /op", "Bearer " + token, 403, "own host name"},
		"token under enrol name":    {as(enrol), "POST /op", "Bearer " + token, 403, "own host name"},
		"node":                      {peer(false), "POST /sync", "", 200, "true|n-1||ae-dubai"},
		"node with expired":         {peer(true), "POST /sync", "", 403, "renew it first"},
		"node renews expired":       {peer(true), "POST /renew", "", 200, "true|n-1||ae-dubai"},
		"operator as node":          {as(public), "POST /sync", "Bearer " + token, 403, "for nodes"},
		"node name without peer":    {as(transport.AudienceNode), "POST /sync", "", 403, "for nodes"},
		"enrol":                     {as(enrol), "POST /enrol", "", 200, "true|||"},
		"enrol elsewhere":           {as(public), "POST /enrol", "", 403, identity.EnrolServerName},
		"node pulls":                {peer(false), "GET /v2/models/fashion/blobs/x", "", 200, "true|n-1||ae-dubai"},
		"node pushes":               {peer(false), "PUT /v2/models/fashion/blobs/x", "", 403, "only for: pulls of models"},
		"node pulls something else": {peer(false), "GET /v2/other/blobs/x", "", 403, "only for: pulls of models"},
		"operator pushes":           {as(public), "PUT /v2/models/fashion/blobs/x", basic("x", token), 200, "true|ana|admin|"},
		"stranger pulls":            {as(public), "GET /v2/models/fashion/blobs/x", "", 401, "UNAUTHORIZED"},
		"health":                    {as(public), "GET /healthz", "", 200, "true|||"},
		"no route":                  {as(public), "GET /nothing", "Bearer " + token, 404, ""},
		"no such method":            {as(public), "GET /op", "Bearer " + token, 405, ""},
	} {
		method, path, _ := strings.Cut(c.route, " ")
		r := httptest.NewRequest(method, path, nil).WithContext(c.ctx)
		r.RemoteAddr = "192.0.2." + fmt.Sprint(len(name)) + ":1" // apart, so that no case uses up another's guesses
		if c.header != "" {
			r.Header.Set("Authorization", c.header)
		}
		w := httptest.NewRecorder()
		g.ServeHTTP(w, r)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s: %d %q, want %d %q", name, w.Code, w.Body, c.status, c.want)
		}
		if challenge := w.Header().Get("WWW-Authenticate"); (w.Code == 401) != (challenge != "") {
			t.Errorf("%s: %d with the challenge %q", name, w.Code, challenge)
		}
	}
}

func TestRefusalsSpeakTheCallersProtocol(t *testing.T) {
	g := gate(t, config(nil))
	send := func(method, path, contentType string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, path, strings.NewReader("{}"))
		r.Header.Set("Content-Type", contentType)
		w := httptest.NewRecorder()
		g.ServeHTTP(w, r)
		return w
	}
	var rpc struct{ Code, Message string }
	w := send("POST", "/op", "application/json")
	if err := json.Unmarshal(w.Body.Bytes(), &rpc); err != nil || rpc.Code != connect.CodeUnauthenticated.String() || w.Code != 401 {
		t.Errorf("Connect: %d %q %v", w.Code, w.Body, err)
	}
	if w := send("POST", "/op", "application/grpc"); w.Header().Get("Grpc-Status") != "16" {
		t.Errorf("gRPC: %v", w.Header())
	}
	var oci struct {
		Errors []struct{ Code, Message string }
	}
	w = send("GET", "/v2/", "application/json")
	if err := json.Unmarshal(w.Body.Bytes(), &oci); err != nil || len(oci.Errors) != 1 || oci.Errors[0].Code != "UNAUTHORIZED" {
		t.Errorf("OCI: %q %v", w.Body, err)
	}
	if got := w.Header().Get("WWW-Authenticate"); got != `Basic realm="dhow"` {
		t.Errorf("OCI clients are asked for %q", got)
	}
	if w := send("HEAD", "/v2/x", ""); w.Body.Len() != 0 {
		t.Errorf("HEAD is answered with a body: %q", w.Body)
	}
}

func TestLogsTellOfRefusalsAndOfNoToken(t *testing.T) {
	var log strings.Builder
	g := gate(t, config(&log))
	for _, header := range []string{"Bearer guess-me-not", "Bearer broken"} {
		r := httptest.NewRequest("POST", "/op", nil)
		r.Header.Set("Authorization", header)
		w := httptest.NewRecorder()
		g.ServeHTTP(w, r)
		if strings.Contains(w.Body.String(), "/secret/path") {
			t.Errorf("the manager's inside is told to a stranger: %q", w.Body)
		}
	}
	if !strings.Contains(log.String(), "request refused") || !strings.Contains(log.String(), "database is locked") || !strings.Contains(log.String(), "remote=192.0.2.1") {
		t.Errorf("the log does not say what happened:\n%s", &log)
	}
	if strings.Contains(log.String(), "guess-me-not") {
		t.Errorf("a token is in the log:\n%s", &log)
	}
}

func TestGuessingIsSlowedDownByAddress(t *testing.T) {
	now := time.Unix(1000, 0)
	c := config(nil)
	checks := 0
	c.Now = func() time.Time { return now }
	c.Check = func(ctx context.Context, t string) (string, access.Role, error) {
		checks++
		return check(ctx, t)
	}
	g := gate(t, c)
	send := func(address, token string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("POST", "/op", nil)
		r.RemoteAddr = address
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		g.ServeHTTP(w, r)
		return w
	}
	if w := send("192.0.2.9:1", token); w.Code != 200 {
		t.Fatalf("the right token: %d", w.Code)
	}
	wrong := 0
	for range 1000 {
		w := send("192.0.2.9:1", "guess")
		if w.Code == 401 {
			wrong++
		} else if w.Code != 429 || w.Header().Get("Retry-After") == "" || w.Header().Get("Retry-After") == "0" {
			t.Fatalf("a guess too many: %d, Retry-After %q", w.Code, w.Header().Get("Retry-After"))
		}
	}
	if wrong != 20 || checks != 21 {
		t.Errorf("%d guesses were answered and %d tokens looked up, want 20 and 21", wrong, checks)
	}
	if w := send("192.0.2.9:7", token); w.Code != 200 {
		t.Errorf("a token that was right before is locked out by another's guesses: %d", w.Code)
	}
	if w := send("192.0.2.9:7", "reader"); w.Code != 429 {
		t.Errorf("a token never seen from a guessing address: %d", w.Code)
	}
	if w := send("192.0.2.10:1", "guess"); w.Code != 401 {
		t.Errorf("another address pays for it: %d", w.Code)
	}
	for range 30 {
		if w := send("192.0.2.11:1", "revoked"); w.Code != 401 {
			t.Fatalf("a revoked token is taken for a guess: %d", w.Code)
		}
	}
	now = now.Add(7 * time.Second)
	if w := send("192.0.2.9:1", "reader"); w.Code != 403 {
		t.Errorf("after waiting: %d", w.Code)
	}
	for range 30 {
		send("[2001:db8::1]:5", "guess")
	}
	if w := send("[2001:db8::2]:5", "guess"); w.Code != 429 {
		t.Errorf("a neighbour in the same /64 is another party: %d", w.Code)
	}
	if w := send("[2001:db8:0:1::2]:5", "guess"); w.Code != 401 {
		t.Errorf("another /64 pays for it: %d", w.Code)
	}
}

// TestARequestEndsWithItsToken: a watch may last for days, a revoked token not.
func TestARequestEndsWithItsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var answer atomic.Pointer[error] // of the check
		c := config(nil)
		c.Check = func(context.Context, string) (string, access.Role, error) { return "ana", access.Admin, *answer.Load() }
		say := func(err error) { answer.Store(&err) }
		hold := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		g, err := access.New(c, []access.Route{{Pattern: "POST /op", Rule: access.Operators(access.Admin), Handler: hold}})
		if err != nil {
			t.Fatal(err)
		}
		for name, gone := range map[string]error{"revoked": access.ErrRevokedToken, "unknown": access.ErrUnknownToken} {
			say(nil)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				r := httptest.NewRequest("POST", "/op", nil).WithContext(t.Context())
				r.Header.Set("Authorization", "Bearer "+token)
				g.ServeHTTP(httptest.NewRecorder(), r)
			}()
			still := func(why string, d time.Duration) {
				t.Helper()
				time.Sleep(d)
				synctest.Wait()
				select {
				case <-ended:
					t.Fatalf("%s: the request ended: %s", name, why)
				default:
				}
			}
			still("its token is good", time.Hour)
			say(errBroken)
			still("nobody could look", time.Minute)
			say(gone)
			time.Sleep(time.Second)
			synctest.Wait()
			select {
			case <-ended:
			default:
				t.Fatalf("the request goes on a second after its token was %s", name)
			}
		}
	})
}

package transport

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/fleet/authority"
	"github.com/dhowfleet/dhow/protocol/identity"
	"github.com/dhowfleet/dhow/protocol/nodekey"
)

const domain = "fleet.example"

var berlin = identity.Node{TrustDomain: domain, Region: "eu-west", Site: "berlin", ID: "n1"}

// fleet is a manager with its authority, on loopback.
type fleet struct {
	authority *authority.Authority
	server    *Server
}

func newAuthority(t *testing.T, trustDomain string, now func() time.Time) *authority.Authority {
	t.Helper()
	a, err := authority.Open(t.TempDir(), trustDomain, now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// serve starts a manager; change may alter its configuration.
func serve(t *testing.T, handler http.Handler, change func(*ServerConfig)) *fleet {
	t.Helper()
	a := newAuthority(t, domain, time.Now)
	return serveWith(t, a, handler, change)
}

func serveWith(t *testing.T, a *authority.Authority, handler http.Handler, change func(*ServerConfig)) *fleet {
	t.Helper()
	cfg := ServerConfig{
		Address: "127.0.0.1:0", Handler: handler, TrustDomain: domain, NodeRoots: a.Roots,
		Certificates: func() (*tls.Certificate, error) { return a.ServerCertificate([]string{"localhost", "127.0.0.1"}) },
		Logger:       testLogger(t),
		Limits:       Limits{ShutdownGrace: 300 * time.Millisecond},
	}
	if change != nil {
		change(&cfg)
	}
	s, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return &fleet{authority: a, server: s}
}

func testLogger(t *testing.T) *slog.Logger {
	if !testing.Verbose() {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// nodeCertificate signs a certificate for n.
func nodeCertificate(t *testing.T, a *authority.Authority, n identity.Node) *tls.Certificate {
	t.Helper()
	key, err := nodekey.New()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := nodekey.Request(key)
	if err != nil {
		t.Fatal(err)
	}
	chain, _, err := a.SignNode(csr, n)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := nodekey.Certificate(key, chain)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// node returns a client of f with a certificate; change may alter its configuration.
func (f *fleet) node(t *testing.T, change func(*ClientConfig)) *Client {
	t.Helper()
	cert := nodeCertificate(t, f.authority, berlin)
	cfg := ClientConfig{
		Address: f.server.Addr(), ServerName: identity.NodeServerName, Roots: f.authority.Roots,
		Certificate: func() (*tls.Certificate, error) { return cert, nil },
		HeadStart:   10 * time.Second, // a busy machine must not make TCP win by chance
		Logger:      testLogger(t),
	}
	if change != nil {
		change(&cfg)
	}
	c := NewClient(cfg)
	t.Cleanup(c.Close)
	return c
}

// get asks for a path and returns status and body.
func get(t *testing.T, c *Client, path string) (int, string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return getWith(ctx, c, path)
}

func getWith(ctx context.Context, c *Client, path string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.cfg.ServerName+path, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := c.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// hello answers with who asks, and how.
var hello = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	p, ok := PeerFrom(r.Context())
	who := AudienceFrom(r.Context()).String()
	if ok {
		who += " " + p.Node.URI()
	}
	if p.Expired {
		who += " expired"
	}
	_, _ = io.WriteString(w, strings.Join([]string{ProtocolOf(r), who, r.RemoteAddr}, " "))
})

// eventually waits for a condition that other goroutines bring about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 15 s: %s", what)
		}
	}
}

// underWay counts the requests on the present connection.
func underWay(c *Client) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == nil {
		return 0
	}
	c.current.mu.Lock()
	defer c.current.mu.Unlock()
	return c.current.requests
}

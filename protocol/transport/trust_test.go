package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/dhowfleet/dhow/protocol/identity"
)

// overBoth runs a test once over each protocol.
func overBoth(t *testing.T, f func(t *testing.T, tcpOnly bool)) {
	for _, protocol := range []string{HTTP3, HTTP2} {
		t.Run(protocol, func(t *testing.T) { f(t, protocol == HTTP2) })
	}
}

func TestOnlyNodesAreAskedForACertificate(t *testing.T) {
	f := serve(t, hello, nil)
	cert := nodeCertificate(t, f.authority, berlin)
	for _, tc := range []struct {
		serverName string
		want       Audience
		asked      bool
	}{
		{"localhost", AudiencePublic, false}, {"127.0.0.1", AudiencePublic, false},
		{identity.EnrolServerName, AudienceEnrol, false}, {identity.NodeServerName, AudienceNode, true},
		{"NODE.dhow.INTERNAL", AudienceNode, true},
	} {
		var asked atomic.Bool
		config := func(protocols ...string) *tls.Config {
			return &tls.Config{
				ServerName: tc.serverName, RootCAs: f.authority.Roots(), NextProtos: protocols,
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					asked.Store(true)
					return cert, nil
				},
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		conn, err := tls.Dial("tcp", f.server.Addr(), config("h2"))
		if err != nil {
			t.Fatalf("%s over TCP: %v", tc.serverName, err)
		}
		conn.Close()
		if asked.Swap(false) != tc.asked {
			t.Errorf("%s over TCP: asked for a certificate is %v, want %v", tc.serverName, !tc.asked, tc.asked)
		}
		q, err := quic.DialAddr(ctx, f.server.Addr(), config("h3"), nil)
		if err != nil {
			t.Fatalf("%s over QUIC: %v", tc.serverName, err)
		}
		_ = q.CloseWithError(0, "")
		cancel()
		if asked.Load() != tc.asked {
			t.Errorf("%s over QUIC: asked for a certificate is %v, want %v", tc.serverName, !tc.asked, tc.asked)
		}
		for _, tcpOnly := range []bool{false, true} {
			c := f.node(t, func(cfg *ClientConfig) { cfg.ServerName, cfg.DisableQUIC = tc.serverName, tcpOnly })
			_, body, err := get(t, c, "/")
			if err != nil || !strings.Contains(body, " "+tc.want.String()+" ") {
				t.Errorf("%s: %q, %v; want audience %v", tc.serverName, body, err, tc.want)
			}
		}
	}
}

// TestBrowserIsServed: what is not a node may also speak HTTP/1.1, and never TLS 1.2.
func TestBrowserIsServed(t *testing.T) {
	f := serve(t, hello, nil)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: f.authority.Roots()}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("https://" + f.server.Addr() + "/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 1 {
		t.Errorf("%d over HTTP/%d", resp.StatusCode, resp.ProtoMajor)
	}
	for _, name := range []string{"localhost", identity.NodeServerName, identity.EnrolServerName} {
		_, err := tls.Dial("tcp", f.server.Addr(), &tls.Config{ServerName: name, RootCAs: f.authority.Roots(), MaxVersion: tls.VersionTLS12})
		if err == nil || !strings.Contains(err.Error(), "protocol version") {
			t.Errorf("%s: TLS 1.2: %v, want a refusal", name, err)
		}
	}
	old, err := tls.Dial("tcp", f.server.Addr(), &tls.Config{ServerName: identity.EnrolServerName, RootCAs: f.authority.Roots(), NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if _, err := old.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "bad certificate") {
		t.Errorf("HTTP/1.1 is spoken under the name for enrolment: %v", err)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	other := newAuthority(t, domain, time.Now)
	foreign := newAuthority(t, "other.example", time.Now)
	f := serve(t, hello, nil)
	// This server also trusts the root of a fleet with another name: its nodes must be refused all the same.
	both := serveWith(t, f.authority, hello, func(cfg *ServerConfig) {
		cfg.NodeRoots = func() *x509.CertPool {
			pool := x509.NewCertPool()
			for _, der := range append(f.authority.RootsDER(), foreign.RootsDER()...) {
				c, err := x509.ParseCertificate(der)
				if err != nil {
					t.Error(err)
					return nil
				}
				pool.AddCert(c)
			}
			return pool
		}
	})
	abroad := berlin
	abroad.TrustDomain = "other.example"
	manager, err := f.authority.ServerCertificate([]string{"localhost"})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		server *fleet
		cert   *tls.Certificate
	}{
		"no certificate":          {f, nil},
		"another authority":       {f, nodeCertificate(t, other, berlin)},
		"another trust domain":    {both, nodeCertificate(t, foreign, abroad)},
		"a manager's certificate": {f, manager},
	} {
		t.Run(name, func(t *testing.T) {
			overBoth(t, func(t *testing.T, tcpOnly bool) {
				c := tc.server.node(t, func(cfg *ClientConfig) {
					cfg.Certificate = func() (*tls.Certificate, error) { return tc.cert, nil }
					cfg.DisableQUIC = tcpOnly
				})
				status, body, err := get(t, c, "/")
				if !errors.Is(err, ErrRefused) {
					t.Errorf("%d %q, %v; want ErrRefused", status, body, err)
				}
			})
		})
	}
}

func TestManagerMustBeTheFleets(t *testing.T) {
	f := serve(t, hello, nil)
	other := newAuthority(t, domain, time.Now)
	pin, wrong := f.authority.RootPin(), other.RootPin()
	y1970 := func() time.Time { return time.Unix(3600, 0) }
	for name, tc := range map[string]struct {
		change func(*ClientConfig)
		ok     bool
	}{
		"another root":      {func(c *ClientConfig) { c.Roots = other.Roots }, false},
		"no root":           {func(c *ClientConfig) { c.Roots = nil }, false},
		"another pin":       {func(c *ClientConfig) { c.RootPin = &wrong }, false},
		"pin":               {func(c *ClientConfig) { c.Roots, c.RootPin = nil, &pin }, true},
		"pin, in 1970":      {func(c *ClientConfig) { c.Roots, c.RootPin, c.Now = nil, &pin, y1970 }, true},
		"in 1970, enrolled": {func(c *ClientConfig) { c.Now = y1970 }, true},
		"in 1970, floor": {func(c *ClientConfig) {
			c.ServerName, c.Now, c.Floor = "localhost", y1970, time.Now().Add(-24*time.Hour)
		}, true},
		"another name":       {func(c *ClientConfig) { c.ServerName = "evil.example" }, false},
		"no certificate yet": {func(c *ClientConfig) { c.ServerName, c.Certificate = identity.EnrolServerName, nil }, true},
		"in 1970, nothing known": {func(c *ClientConfig) {
			c.ServerName, c.Certificate, c.Now = identity.EnrolServerName, nil, y1970
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			overBoth(t, func(t *testing.T, tcpOnly bool) {
				c := f.node(t, func(cfg *ClientConfig) {
					tc.change(cfg)
					cfg.DisableQUIC = tcpOnly
				})
				_, _, err := get(t, c, "/")
				if tc.ok && err != nil || !tc.ok && !errors.Is(err, ErrUntrusted) {
					t.Errorf("error %v; want trusted %v", err, tc.ok)
				}
			})
		})
	}
}

func TestExpiredNodeMayOnlyRenew(t *testing.T) {
	overBoth(t, func(t *testing.T, tcpOnly bool) {
		var ahead atomic.Int64 // how far the manager's clock is ahead
		a := newAuthority(t, domain, time.Now)
		f := serveWith(t, a, hello, func(cfg *ServerConfig) {
			cfg.ExpiredGrace = 7 * 24 * time.Hour
			cfg.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		})
		c := f.node(t, func(cfg *ClientConfig) { cfg.DisableQUIC = tcpOnly })
		for _, tc := range []struct {
			days   int
			status int
			want   string
		}{{0, 200, "node " + berlin.URI() + " 127"}, {31, 200, berlin.URI() + " expired"}, {38, 401, "expired on"}} {
			ahead.Store(int64(tc.days) * int64(24*time.Hour))
			status, body, err := get(t, c, "/") // over the connection that was made on the first day
			if err != nil || status != tc.status || !strings.Contains(body, tc.want) {
				t.Errorf("after %d days: %d %q, %v; want %d with %q", tc.days, status, body, err, tc.status, tc.want)
			}
		}
		c.Reconnect()
		if _, _, err := get(t, c, "/"); !errors.Is(err, ErrRefused) {
			t.Errorf("a new connection after the grace period: %v", err)
		}
		ahead.Store(int64(31 * 24 * time.Hour))
		if _, body, err := get(t, c, "/"); err != nil || !strings.Contains(body, " expired ") {
			t.Errorf("a new connection within the grace period: %q, %v", body, err)
		}
	})
}

func TestAuthorizeAndDropPeers(t *testing.T) {
	overBoth(t, func(t *testing.T, tcpOnly bool) {
		var revoked atomic.Bool
		f := serve(t, hello, func(cfg *ServerConfig) {
			cfg.Authorize = func(p Peer) error {
				if revoked.Load() && p.Node == berlin {
					return fmt.Errorf("node %s was revoked", p.Node.ID)
				}
				return nil
			}
		})
		c := f.node(t, func(cfg *ClientConfig) { cfg.DisableQUIC = tcpOnly })
		if status, _, err := get(t, c, "/"); err != nil || status != 200 {
			t.Fatalf("%d, %v", status, err)
		}
		if n := f.server.DropPeers(func(n identity.Node) bool { return n.Region == "mars" }); n != 0 {
			t.Errorf("dropped %d connections of nobody", n)
		}
		revoked.Store(true)
		status, body, err := get(t, c, "/")
		if err != nil || status != 403 || !strings.Contains(body, `"permission_denied"`) || !strings.Contains(body, "n1 was revoked") {
			t.Errorf("a revoked node got %d %q, %v", status, body, err)
		}
		if n := f.server.DropPeers(func(n identity.Node) bool { return n == berlin }); n != 1 {
			t.Errorf("dropped %d connections, want 1", n)
		}
		revoked.Store(false)
		eventually(t, "the dropped connection is noticed", func() bool { return c.Transport() == "" })
		if status, _, err := get(t, c, "/"); err != nil || status != 200 {
			t.Errorf("after the node was let in again: %d, %v", status, err)
		}
	})
}

func TestListenSaysWhatIsWrong(t *testing.T) {
	a := newAuthority(t, domain, time.Now)
	good := ServerConfig{
		Address: "127.0.0.1:0", Handler: hello, TrustDomain: domain, NodeRoots: a.Roots,
		Certificates: func() (*tls.Certificate, error) { return a.ServerCertificate(nil) },
	}
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	for want, change := range map[string]func(*ServerConfig){
		"handler":      func(c *ServerConfig) { c.Handler = nil },
		"trust domain": func(c *ServerConfig) { c.TrustDomain = "" },
		"missing port": func(c *ServerConfig) { c.Address = "127.0.0.1" },
		"not UDP":      func(c *ServerConfig) { c.Address = udp.LocalAddr().String() },
	} {
		cfg := good
		change(&cfg)
		s, err := Listen(cfg)
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	s, err := Listen(good)
	if err != nil {
		t.Fatal(err)
	}
	if s.Port() == 0 {
		t.Error("port 0 was not replaced")
	}
	s.Close()
	cfg := good
	cfg.Address = s.Addr()
	again, err := Listen(cfg)
	if err != nil {
		t.Fatalf("the port is not free after Close: %v", err)
	}
	again.Close()
}

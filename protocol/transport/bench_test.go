package transport

import (
	"crypto/tls"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/fleet/authority"
)

// BenchmarkDownload and BenchmarkRequest show what each protocol costs on loopback.
func BenchmarkDownload(b *testing.B) { overEach(b, "/size/16777216", 16<<20) }
func BenchmarkRequest(b *testing.B)  { overEach(b, "/", 0) }

func overEach(b *testing.B, path string, size int64) {
	a, err := authority.Open(b.TempDir(), domain, time.Now)
	if err != nil {
		b.Fatal(err)
	}
	s, err := Listen(ServerConfig{
		Address: "127.0.0.1:0", Handler: newShop(), TrustDomain: domain, NodeRoots: a.Roots,
		Certificates: func() (*tls.Certificate, error) { return a.ServerCertificate([]string{"localhost"}) },
		Limits:       Limits{ShutdownGrace: time.Millisecond},
	})
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = s.Serve(b.Context()) }()
	for _, protocol := range []string{HTTP3, HTTP2} {
		b.Run(protocol, func(b *testing.B) {
			c := NewClient(ClientConfig{Address: s.Addr(), ServerName: "localhost", Roots: a.Roots, DisableQUIC: protocol == HTTP2, HeadStart: time.Minute})
			defer c.Close()
			b.SetBytes(size)
			for b.Loop() {
				req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "https://localhost"+path, nil)
				if err != nil {
					b.Fatal(err)
				}
				resp, err := c.RoundTrip(req)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, resp.Body); err != nil {
					b.Fatal(err)
				}
				_ = resp.Body.Close()
			}
		})
	}
}

package transport

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

func protocolOf(tcpOnly bool) string {
	if tcpOnly {
		return HTTP2
	}
	return HTTP3
}

func TestLargeHeadersAreRefused(t *testing.T) {
	overBoth(t, func(t *testing.T, tcpOnly bool) {
		f := serve(t, hello, func(cfg *ServerConfig) { cfg.Limits.MaxHeaderBytes = 8 << 10 })
		c := f.node(t, func(cfg *ClientConfig) { cfg.DisableQUIC = tcpOnly })
		send := func(size int) (int, error) {
			req, err := http.NewRequestWithContext(within(t, 10*time.Second), http.MethodGet, "https://"+c.cfg.ServerName+"/", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-Large", strings.Repeat("x", size))
			resp, err := c.RoundTrip(req)
			if err != nil {
				return 0, err
			}
			defer resp.Body.Close()
			return resp.StatusCode, nil
		}
		if status, err := send(6 << 10); err != nil || status != 200 {
			t.Errorf("6 KiB of 8: %d, %v", status, err)
		}
		if status, err := send(64 << 10); err == nil && status != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("64 KiB of 8: %d", status)
		}
		if status, err := send(100); err != nil || status != 200 {
			t.Errorf("after the refusal: %d, %v", status, err)
		}
	})
}

func TestConnectionsOverTheLimitAreRefusedAtOnce(t *testing.T) {
	f := serve(t, hello, func(cfg *ServerConfig) { cfg.Limits.MaxConnections = 2 })
	one := f.node(t, nil)
	two := f.node(t, func(cfg *ClientConfig) { cfg.DisableQUIC = true })
	must(t, one, HTTP3)
	must(t, two, HTTP2)
	for _, tcpOnly := range []bool{false, true} {
		c := f.node(t, func(cfg *ClientConfig) { cfg.DisableQUIC = tcpOnly })
		if _, _, err := get(t, c, "/"); err == nil {
			t.Errorf("a third connection was let in (TCP only: %v)", tcpOnly)
		}
	}
	must(t, one, HTTP3)
	two.Close()
	eventually(t, "the place is free", func() bool { return f.server.Connections() == 1 })
	must(t, f.node(t, nil), HTTP3)
}

func TestStreamsAreBounded(t *testing.T) {
	overBoth(t, func(t *testing.T, tcpOnly bool) {
		var now, most atomic.Int64
		s := newShop()
		f := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n := now.Add(1)
			defer now.Add(-1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			s.ServeHTTP(w, r)
		}), func(cfg *ServerConfig) { cfg.Limits.MaxStreams = 4 })
		// A client that does not go by its own rule of opening another connection when this one is full.
		var wg sync.WaitGroup
		c := f.node(t, func(cfg *ClientConfig) { cfg.DisableQUIC = tcpOnly })
		must(t, c, protocolOf(tcpOnly)) // after which it knows the limit
		l, err := c.acquire(within(t, 10*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		for range 12 {
			wg.Go(func() {
				req, err := http.NewRequestWithContext(within(t, 20*time.Second), http.MethodGet, "https://"+c.cfg.ServerName+"/wait", nil)
				if err != nil {
					t.Error(err)
					return
				}
				resp, err := l.exchange(req)
				if err != nil {
					t.Error(err)
					return
				}
				_ = resp.Body.Close()
			})
		}
		eventually(t, "four requests are under way", func() bool { return now.Load() == 4 })
		close(s.wait)
		wg.Wait()
		if n := most.Load(); n > 4 {
			t.Errorf("%d requests at the same time, 4 are allowed", n)
		}
	})
}

// stuckBody is a request body that gives a few bytes and then nothing.
type stuckBody struct {
	sent bool
	gone chan struct{}
	once sync.Once
}

func (b *stuckBody) Read(p []byte) (int, error) {
	if !b.sent {
		b.sent = true
		return copy(p, "abc"), nil
	}
	<-b.gone
	return 0, io.ErrUnexpectedEOF
}

func (b *stuckBody) Close() error {
	b.once.Do(func() { close(b.gone) })
	return nil
}

func TestStuckUploadIsCutOff(t *testing.T) {
	overBoth(t, func(t *testing.T, tcpOnly bool) {
		read := make(chan error, 1)
		f := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				hello(w, r)
				return
			}
			_, err := io.Copy(io.Discard, r.Body)
			read <- err
			w.WriteHeader(http.StatusRequestTimeout)
		}), func(cfg *ServerConfig) { cfg.Limits.StallTimeout = 100 * time.Millisecond })
		c := f.node(t, func(cfg *ClientConfig) { cfg.DisableQUIC = tcpOnly })
		req, err := http.NewRequestWithContext(within(t, 10*time.Second), http.MethodPost, "https://"+c.cfg.ServerName+"/", &stuckBody{gone: make(chan struct{})})
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.RoundTrip(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		if err := <-read; err == nil {
			t.Error("the handler read an upload that never ended to its end")
		}
		must(t, c, protocolOf(tcpOnly))
	})
}

func TestStuckDownloadIsCutOff(t *testing.T) {
	overBoth(t, func(t *testing.T, tcpOnly bool) {
		written := make(chan error, 1)
		f := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/" {
				hello(w, r)
				return
			}
			var err error
			for range 1000 {
				if _, err = w.Write(make([]byte, 64<<10)); err != nil {
					break
				}
			}
			written <- err
		}), func(cfg *ServerConfig) { cfg.Limits.StallTimeout = 100 * time.Millisecond })
		c := f.node(t, func(cfg *ClientConfig) { cfg.DisableQUIC = tcpOnly })
		req, err := http.NewRequestWithContext(within(t, 10*time.Second), http.MethodGet, "https://"+c.cfg.ServerName+"/much", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if err := <-written; err == nil { // nobody reads the answer
			t.Error("64 MB were written to a client that reads nothing")
		}
		must(t, c, protocolOf(tcpOnly))
	})
}

// TestIdleConnectionsAreClosed: a client that says nothing for long makes room; its next request connects anew.
func TestIdleConnectionsAreClosed(t *testing.T) {
	overBoth(t, func(t *testing.T, tcpOnly bool) {
		f := serve(t, hello, func(cfg *ServerConfig) { cfg.Limits.IdleTimeout = 100 * time.Millisecond })
		c := f.node(t, func(cfg *ClientConfig) { cfg.DisableQUIC = tcpOnly })
		must(t, c, protocolOf(tcpOnly))
		eventually(t, "the idle connection is closed", func() bool { return f.server.Connections() == 0 })
		must(t, c, protocolOf(tcpOnly))
	})
}

func TestSilentHandshakesAreCutOff(t *testing.T) {
	f := serve(t, hello, func(cfg *ServerConfig) { cfg.Limits.HandshakeTimeout = 100 * time.Millisecond })
	raw, err := net.Dial("tcp", f.server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := raw.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("a client that says nothing: %v, want the end", err)
	}
	eventually(t, "nothing is left of it", func() bool { return f.server.Connections() == 0 })
}

func TestShutdownLetsRequestsEnd(t *testing.T) {
	overBoth(t, func(t *testing.T, tcpOnly bool) {
		a := newAuthority(t, domain, time.Now)
		s := newShop()
		server, err := Listen(ServerConfig{
			Address: "127.0.0.1:0", Handler: s, TrustDomain: domain, NodeRoots: a.Roots,
			Certificates: func() (*tls.Certificate, error) { return a.ServerCertificate([]string{"localhost"}) },
			Limits:       Limits{ShutdownGrace: 20 * time.Second},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		served := make(chan error, 1)
		go func() { served <- server.Serve(ctx) }()
		f := &fleet{authority: a, server: server}
		c := f.node(t, func(cfg *ClientConfig) { cfg.DisableQUIC = tcpOnly })

		req, err := http.NewRequestWithContext(within(t, 20*time.Second), http.MethodGet, "https://"+c.cfg.ServerName+"/ticks", nil)
		if err != nil {
			t.Fatal(err)
		}
		stream, err := c.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Body.Close()
		answer := make(chan string, 1)
		go func() {
			_, body, err := get(t, c, "/wait")
			if err != nil {
				body = err.Error()
			}
			answer <- body
		}()
		// A request that the server has not seen when it stops is turned away, and not under way.
		eventually(t, "both requests are under way", func() bool { return underWay(c) == 2 && s.waiting.Load() == 1 })
		s.ticks <- "one"
		cancel()
		lines := bufio.NewScanner(stream.Body)
		var got []string
		for lines.Scan() {
			got = append(got, lines.Text())
		}
		if err := lines.Err(); err != nil || strings.Join(got, " ") != "one bye" {
			t.Errorf("the stream got %v, %v; want to be told of the end", got, err)
		}
		select {
		case err := <-served:
			t.Fatalf("Serve returned while a request was under way: %v", err)
		default:
		}
		close(s.wait)
		if body := <-answer; body != "done" {
			t.Errorf("the request that was under way got %q", body)
		}
		_ = stream.Body.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if again, err := tls.Dial("tcp", server.Addr(), &tls.Config{InsecureSkipVerify: true}); err == nil {
			_ = again.Close()
			t.Error("the port is still open")
		}
	})
}

func TestShutdownCutsOffWhatDoesNotEnd(t *testing.T) {
	overBoth(t, func(t *testing.T, tcpOnly bool) {
		ended := make(chan struct{})
		started := make(chan struct{})
		a := newAuthority(t, domain, time.Now)
		server, err := Listen(ServerConfig{
			Address: "127.0.0.1:0", TrustDomain: domain, NodeRoots: a.Roots,
			Certificates: func() (*tls.Certificate, error) { return a.ServerCertificate([]string{"localhost"}) },
			Limits:       Limits{ShutdownGrace: 50 * time.Millisecond},
			Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				close(started)
				<-r.Context().Done()
				close(ended)
			}),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		served := make(chan error, 1)
		go func() { served <- server.Serve(ctx) }()
		c := (&fleet{authority: a, server: server}).node(t, func(cfg *ClientConfig) { cfg.DisableQUIC = tcpOnly })
		failed := make(chan error, 1)
		go func() {
			_, _, err := get(t, c, "/")
			failed <- err
		}()
		<-started
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		<-ended
		if err := <-failed; err == nil {
			t.Error("the request was answered")
		}
	})
}

// TestFloodOfHandshakesMustProveItsAddress: with many handshakes under way, newcomers are sent round once more.
func TestFloodOfHandshakesMustProveItsAddress(t *testing.T) {
	f := serve(t, hello, nil)
	for range maxHandshaking {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		if _, err := f.server.quic.ConnContext(ctx, &quic.ClientInfo{}); err != nil {
			t.Fatal(err)
		}
	}
	if !f.server.quic.VerifySourceAddress(nil) {
		t.Error("addresses are not verified under load")
	}
	must(t, f.node(t, func(cfg *ClientConfig) { cfg.HeadStart = 10 * time.Second }), HTTP3) // it can prove its own
}

package transport

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/protocol/transporttest"
)

// shop answers /size/N with N bytes, /sum with the SHA-256 of what is sent, /wait when the channel is closed, /ticks
// with a line whenever it gets a tick, and / as hello.
type shop struct {
	wait    chan struct{}
	waiting atomic.Int32 // requests that have reached the handler and wait
	ticks   chan string
}

func newShop() *shop { return &shop{wait: make(chan struct{}), ticks: make(chan string)} }

func (s *shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasPrefix(r.URL.Path, "/size/"):
		n, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/size/"))
		w.Header().Set("Content-Length", strconv.Itoa(n))
		_, _ = w.Write(make([]byte, n))
	case r.URL.Path == "/sum":
		h := sha256.New()
		if _, err := io.Copy(h, r.Body); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		_, _ = fmt.Fprintf(w, "%x", h.Sum(nil))
	case r.URL.Path == "/wait":
		s.waiting.Add(1)
		defer s.waiting.Add(-1)
		select {
		case <-s.wait:
			_, _ = io.WriteString(w, "done")
		case <-r.Context().Done():
		}
	case r.URL.Path == "/ticks":
		w.(http.Flusher).Flush()
		for {
			select {
			case tick := <-s.ticks:
				if _, err := io.WriteString(w, tick+"\n"); err != nil {
					return
				}
				w.(http.Flusher).Flush()
			case <-Draining(r.Context()):
				_, _ = io.WriteString(w, "bye\n")
				return
			case <-r.Context().Done():
				return
			}
		}
	default:
		hello(w, r)
	}
}

// weather puts a proxy before f.
func weather(t *testing.T, f *fleet, w transporttest.Weather) *transporttest.Proxy {
	t.Helper()
	p, err := transporttest.NewProxy(f.server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	p.Set(w)
	return p
}

// must gets / and wants an answer over the protocol.
func must(t *testing.T, c *Client, protocol string) {
	t.Helper()
	status, body, err := get(t, c, "/")
	if err != nil || status != 200 || !strings.HasPrefix(body, protocol+" node ") {
		t.Fatalf("%d %q, %v; want an answer over %s", status, body, err, protocol)
	}
}

// sum uploads n random bytes and checks that they arrived.
func sum(ctx context.Context, c *Client, n int) error {
	data := make([]byte, n)
	_, _ = rand.Read(data)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+c.cfg.ServerName+"/sum", bytes.NewReader(data))
	if err != nil {
		return err
	}
	resp, err := c.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if want := fmt.Sprintf("%x", sha256.Sum256(data)); string(body) != want {
		return fmt.Errorf("%d %q, want %s", resp.StatusCode, body, want)
	}
	return nil
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestUDPBlockedIsRememberedAndTriedAgain(t *testing.T) {
	f := serve(t, hello, nil)
	p := weather(t, f, transporttest.BlockUDP())
	memory := NewMemory()
	var ahead atomic.Int64
	cfg := func(cfg *ClientConfig) {
		cfg.Address, cfg.Memory, cfg.HeadStart = p.Address(), memory, 50*time.Millisecond
		cfg.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	}
	must(t, f.node(t, cfg), HTTP2)
	before := 0
	eventually(t, "the last packets of the attempt have passed", func() bool {
		old := before
		time.Sleep(20 * time.Millisecond)
		before = p.Stats().UDPPackets
		return before > 0 && before == old
	})
	second := f.node(t, cfg)
	must(t, second, HTTP2)
	if now := p.Stats().UDPPackets; now != before {
		t.Errorf("%d UDP packets were sent on a network where UDP is known to be blocked", now-before)
	}
	// Ten minutes later it is tried again in the background, and again only after another ten.
	ahead.Store(int64(11 * time.Minute))
	must(t, second, HTTP2)
	eventually(t, "QUIC is tried again", func() bool { return p.Stats().UDPPackets > before })
	p.Set(transporttest.Weather{}) // the firewall opens, and the try that is under way gets through
	eventually(t, "QUIC is used", func() bool { return second.Transport() == HTTP3 })
	must(t, second, HTTP3)
}

func TestWithoutQUICAtTheServer(t *testing.T) {
	f := serve(t, hello, func(cfg *ServerConfig) { cfg.DisableQUIC = true })
	must(t, f.node(t, func(cfg *ClientConfig) { cfg.HeadStart = 50 * time.Millisecond }), HTTP2)
}

func TestTCPBlockedUsesQUIC(t *testing.T) {
	f := serve(t, hello, nil)
	p := weather(t, f, transporttest.Weather{TCP: transporttest.Link{Refuse: true}})
	memory := NewMemory()
	cfg := func(cfg *ClientConfig) { cfg.Address, cfg.Memory = p.Address(), memory }
	c := f.node(t, cfg)
	must(t, c, HTTP3)
	memory.Put(c.network(netip.MustParseAddr("127.0.0.1")), Winner{Protocol: HTTP2, At: time.Now()})
	must(t, f.node(t, cfg), HTTP3) // what is remembered is wrong by now: QUIC takes over as soon as TCP has failed
}

func TestRequestsShareOneConnection(t *testing.T) {
	overBoth(t, func(t *testing.T, tcpOnly bool) {
		f := serve(t, hello, nil)
		c := f.node(t, func(cfg *ClientConfig) { cfg.DisableQUIC = tcpOnly })
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if status, _, err := get(t, c, "/"); err != nil || status != 200 {
					t.Errorf("%d, %v", status, err)
				}
			})
		}
		wg.Wait()
		if n := f.server.Connections(); n != 1 {
			t.Errorf("%d connections for one client", n)
		}
	})
}

func TestNobodyThere(t *testing.T) {
	t.Parallel()
	f := serve(t, hello, nil)
	p := weather(t, f, transporttest.Weather{TCP: transporttest.Link{Refuse: true}, UDP: transporttest.Both(transporttest.Path{Blackhole: true})})
	c := f.node(t, func(cfg *ClientConfig) { cfg.Address = p.Address() })
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if _, _, err := getWith(ctx, c, "/"); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), p.Address()) {
		t.Errorf("error %v, want a deadline that names the address", err)
	}
	if c.Transport() != "" {
		t.Errorf("Transport() = %q without a connection", c.Transport())
	}
	for name, change := range map[string]func(*ClientConfig){
		"missing port": func(cfg *ClientConfig) { cfg.Address = "127.0.0.1" },
		"no such host": func(cfg *ClientConfig) { cfg.Address = "nowhere.invalid:1" },
	} {
		if _, _, err := get(t, f.node(t, change), "/"); err == nil || !strings.Contains(err.Error(), "cannot reach the manager") {
			t.Errorf("%s: %v", name, err)
		}
	}
	req, _ := http.NewRequest(http.MethodGet, "http://"+c.cfg.ServerName+"/", nil)
	if _, err := c.RoundTrip(req); err == nil || !strings.Contains(err.Error(), "not https") {
		t.Errorf("plain http: %v", err)
	}
}

func TestRouterForgetsTheFlow(t *testing.T) {
	t.Parallel()
	f := serve(t, newShop(), nil)
	p := weather(t, f, transporttest.Weather{})
	c := f.node(t, func(cfg *ClientConfig) { cfg.Address = p.Address() })
	must(t, c, HTTP3)
	for range 3 {
		p.Rebind()
		must(t, c, HTTP3)
		if err := sum(within(t, 10*time.Second), c, 256<<10); err != nil {
			t.Fatal(err)
		}
	}
	if n := f.server.Connections(); n != 1 {
		t.Errorf("%d connections: the client did not keep its own", n)
	}
}

func TestBadLineLosesNothing(t *testing.T) {
	t.Parallel()
	bad := transporttest.Path{Delay: 5 * time.Millisecond, Jitter: 5 * time.Millisecond, Loss: 0.03, Duplicate: 0.03, Reorder: 0.05}
	overBoth(t, func(t *testing.T, tcpOnly bool) {
		f := serve(t, newShop(), nil)
		w := transporttest.All(bad)
		w.Seed = 4
		p := weather(t, f, w)
		c := f.node(t, func(cfg *ClientConfig) { cfg.Address, cfg.DisableQUIC = p.Address(), tcpOnly })
		for range 2 {
			if err := sum(within(t, 30*time.Second), c, 64<<10); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// small lets through what fits in a tunnel that is narrower than QUIC allows: handshake packets are not, but pings are.
var small = transporttest.Path{MaxPacket: 1000}

func TestLargePacketsGetLost(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		way  transporttest.Link
		try  func(ctx context.Context, c *Client) error
	}{
		{"up", transporttest.Link{Up: small}, func(_ context.Context, c *Client) error {
			return sum(context.Background(), c, 1<<20) // no deadline: the transport itself must notice
		}},
		{"down", transporttest.Link{Down: small}, func(ctx context.Context, c *Client) error {
			_, body, err := getWith(ctx, c, "/size/100000")
			if err == nil && len(body) != 100_000 {
				return errors.New("short")
			}
			return err
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := serve(t, newShop(), nil)
			p := weather(t, f, transporttest.Weather{})
			memory := NewMemory()
			c := f.node(t, func(cfg *ClientConfig) {
				cfg.Address, cfg.Memory, cfg.StallTimeout = p.Address(), memory, 300*time.Millisecond
			})
			must(t, c, HTTP3)
			p.Set(transporttest.Weather{UDP: tc.way})
			ctx := within(t, 800*time.Millisecond)
			if err := tc.try(ctx, c); err == nil {
				t.Fatal("it went through; the weather is too good for this test")
			}
			if err := tc.try(within(t, 10*time.Second), c); err != nil {
				t.Fatalf("the next request: %v", err)
			}
			must(t, c, HTTP2)
			w, ok := memory.Get(c.network(netip.MustParseAddr("127.0.0.1")))
			if !ok || w.Protocol != HTTP2 || w.Demotions != 1 {
				t.Errorf("remembered %+v, %v", w, ok)
			}
		})
	}
}

// TestQUICIsNotBlamedForOthers: neither a caller that loses interest nor a line that is down altogether is a reason to
// leave QUIC.
func TestQUICIsNotBlamedForOthers(t *testing.T) {
	t.Parallel()
	s := newShop()
	f := serve(t, s, nil)
	p := weather(t, f, transporttest.Weather{})
	c := f.node(t, func(cfg *ClientConfig) { cfg.Address, cfg.StallTimeout = p.Address(), 50*time.Millisecond })
	must(t, c, HTTP3)
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(200*time.Millisecond, cancel)
	if _, _, err := getWith(ctx, c, "/wait"); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	must(t, c, HTTP3)
	if n := f.server.Connections(); n != 1 {
		t.Errorf("%d connections after a cancellation", n)
	}

	down := transporttest.Weather{UDP: transporttest.Both(transporttest.Path{Blackhole: true}), TCP: transporttest.Link{Refuse: true}}
	p.Set(down)
	if _, _, err := getWith(within(t, 300*time.Millisecond), c, "/"); err == nil {
		t.Fatal("an answer came over a line that is down")
	}
	if _, _, err := getWith(within(t, 700*time.Millisecond), c, "/"); err == nil {
		t.Fatal("an answer came over a line that is down")
	}
	// TCP was asked first, and failed; the attempt that is under way finds QUIC when the line is back.
	p.Set(transporttest.Weather{})
	must(t, c, HTTP3)
}

func TestConnectionMovesWithTheAddress(t *testing.T) {
	s := newShop()
	f := serve(t, s, nil)
	var local atomic.Pointer[netip.Addr]
	set := func(a string) { addr := netip.MustParseAddr(a); local.Store(&addr) }
	set("127.0.0.1")
	c := f.node(t, func(cfg *ClientConfig) {
		cfg.LocalPoll = 10 * time.Millisecond
		cfg.LocalAddress = func(netip.AddrPort) (netip.Addr, error) { return *local.Load(), nil }
	})
	ctx := within(t, 20*time.Second)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.cfg.ServerName+"/ticks", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	tick := func(text string) {
		t.Helper()
		s.ticks <- text
		buf := make([]byte, len(text)+1)
		if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != text+"\n" {
			t.Fatalf("%q, %v", buf, err)
		}
	}
	tick("before")
	for _, addr := range []string{"127.0.0.2", "127.0.0.3", "127.0.0.1"} {
		set(addr)
		// Only then ask: quic-go reads the socket that it is just replacing when an answer begins (see quicPath.move).
		eventually(t, "the client has moved to "+addr, func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.current.localAddress() == *local.Load()
		})
		eventually(t, "the manager sees "+addr, func() bool {
			_, body, err := get(t, c, "/")
			return err == nil && strings.HasPrefix(body, HTTP3) && strings.Contains(body, " "+addr+":")
		})
		tick("at " + addr) // the stream that was open before goes on
	}
	if n := f.server.Connections(); n != 1 {
		t.Errorf("%d connections, want the one that moved", n)
	}
}

func TestWhatCannotMoveIsReplaced(t *testing.T) {
	for _, tcpOnly := range []bool{true, false} {
		f := serve(t, newShop(), nil)
		var local atomic.Pointer[netip.Addr]
		first, second := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
		if !tcpOnly {
			second = netip.MustParseAddr("192.0.2.1") // not this machine's: a socket cannot be bound to it
		}
		local.Store(&first)
		c := f.node(t, func(cfg *ClientConfig) {
			cfg.DisableQUIC, cfg.LocalPoll = tcpOnly, 10*time.Millisecond
			cfg.LocalAddress = func(netip.AddrPort) (netip.Addr, error) { return *local.Load(), nil }
		})
		must(t, c, map[bool]string{true: HTTP2, false: HTTP3}[tcpOnly])
		local.Store(&second)
		eventually(t, "the old connection is given up", func() bool { return c.Transport() == "" })
		must(t, c, HTTP2) // over QUIC there is no socket, so TCP it is
	}
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	overBoth(t, func(t *testing.T, tcpOnly bool) {
		f := serve(t, newShop(), nil)
		c := f.node(t, func(cfg *ClientConfig) { cfg.DisableQUIC = tcpOnly })
		must(t, c, map[bool]string{false: HTTP3, true: HTTP2}[tcpOnly])
		failed := make(chan error, 1)
		go func() {
			_, _, err := get(t, c, "/wait")
			failed <- err
		}()
		eventually(t, "the request is under way", func() bool { return underWay(c) == 1 })
		c.Close()
		if err := <-failed; err == nil {
			t.Error("the request outlived Close")
		}
		if _, _, err := get(t, c, "/"); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		eventually(t, "the manager has no connection", func() bool { return f.server.Connections() == 0 })
	})
}

func TestReconnectLetsRequestsEnd(t *testing.T) {
	overBoth(t, func(t *testing.T, tcpOnly bool) {
		s := newShop()
		f := serve(t, s, nil)
		c := f.node(t, func(cfg *ClientConfig) { cfg.DisableQUIC = tcpOnly })
		body := make(chan string, 1)
		go func() {
			_, b, err := get(t, c, "/wait")
			body <- fmt.Sprint(b, err)
		}()
		eventually(t, "the request is under way", func() bool { return underWay(c) == 1 })
		c.Reconnect()
		must(t, c, map[bool]string{false: HTTP3, true: HTTP2}[tcpOnly])
		if n := f.server.Connections(); n != 2 {
			t.Errorf("%d connections, want the old one and the new one", n)
		}
		close(s.wait)
		if got := <-body; got != "done<nil>" {
			t.Errorf("the request on the old connection: %s", got)
		}
		eventually(t, "the old connection is closed", func() bool { return f.server.Connections() == 1 })
	})
}

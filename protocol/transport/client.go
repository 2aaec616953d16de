package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	quichttp "github.com/quic-go/quic-go/http3"
)

// ClientConfig says how to reach a manager. Address, ServerName, and Roots or RootPin are required.
type ClientConfig struct {
	// Address is the manager's "host:port". It is where the client connects to, whatever the URL of a request says.
	Address string
	// ServerName is identity.NodeServerName, identity.EnrolServerName, or for operators the manager's host name.
	// "https://" + ServerName is the base of the requests' URLs.
	ServerName string
	// Certificate returns the node's certificate for a new connection; nil, or a nil certificate: none is shown.
	Certificate func() (*tls.Certificate, error)
	// Roots returns what the manager's certificate must be signed by.
	Roots func() *x509.CertPool
	// RootPin, when set, takes the place of Roots: the SHA-256 of the DER of a root that the manager presents.
	RootPin *[32]byte
	// Now is the clock for certificates and for what is remembered; nil: time.Now.
	Now func() time.Time
	// Floor is a time that is certainly past, such as the last one that was stored. A clock that is before it, or before
	// the beginning of the node's own certificate, is known to be wrong; see identity.ManagerTrust.
	Floor time.Time
	// HeadStart is how long QUIC is ahead of TCP; 0: 250 ms.
	HeadStart time.Duration
	// RetryQUIC is how long a network over which QUIC lost is left to TCP; 0: 10 min.
	RetryQUIC time.Duration
	// StallTimeout is how long a request over QUIC may make no progress before QUIC is given up; 0: 10 s.
	StallTimeout time.Duration
	// ResponseTimeout is how long the manager may take to begin its answer over QUIC once it has the whole request;
	// 0: 60 s. Over TCP, and for shorter times, the request's own context decides.
	ResponseTimeout time.Duration
	// Memory remembers which protocol won; nil: one that lasts as long as the client.
	Memory WinnerMemory
	// LocalAddress returns the address of this machine that packets to remote leave from; nil: what the system's
	// routing says.
	LocalAddress func(remote netip.AddrPort) (netip.Addr, error)
	// LocalPoll is how often LocalAddress is asked while there is a connection; 0: 5 s.
	LocalPoll time.Duration
	// DisableQUIC uses TCP only.
	DisableQUIC bool
	Logger      *slog.Logger
}

// ErrClosed is returned by a Client after Close.
var ErrClosed = errors.New("the client is closed")

const (
	maxResponseHeader = 64 << 10
	// drainTime is how long a connection that has been replaced may take to finish its requests.
	drainTime = 10 * time.Minute
	// suspectDrainTime is the same for one that probably does not get through.
	suspectDrainTime = 30 * time.Second
)

// Client is an http.RoundTripper to one manager.
type Client struct {
	cfg    ClientConfig
	http3  *quichttp.Transport
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex
	current   *link
	dialing   *dialing
	links     map[*link]struct{} // not yet closed
	suspected string             // the network on which QUIC seems to get nothing through
	probing   bool               // QUIC is tried in the background
	triedQUIC time.Time
	closed    bool
}

// dialing is one attempt to connect that requests share.
type dialing struct {
	done chan struct{}
	link *link
	err  error
}

// NewClient returns a client that connects at its first request. What is wrong with cfg is returned by that request.
func NewClient(cfg ClientConfig) *Client {
	orTime := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	orTime(&cfg.HeadStart, 250*time.Millisecond)
	orTime(&cfg.RetryQUIC, 10*time.Minute)
	orTime(&cfg.StallTimeout, 10*time.Second)
	orTime(&cfg.ResponseTimeout, time.Minute)
	orTime(&cfg.LocalPoll, 5*time.Second)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Memory == nil {
		cfg.Memory = NewMemory()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.LocalAddress == nil {
		cfg.LocalAddress = routedAddress
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Client{
		cfg:    cfg,
		http3:  &quichttp.Transport{DisableCompression: true, MaxResponseHeaderBytes: maxResponseHeader, Logger: cfg.Logger},
		ctx:    ctx,
		cancel: cancel,
		links:  map[*link]struct{}{},
	}
}

// HTTPClient returns an http.Client over c. It follows no redirects: a manager sends none, and whoever else does is not
// to be followed.
func (c *Client) HTTPClient() *http.Client {
	return &http.Client{
		Transport:     c,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Transport names the protocol of the present connection, HTTP3 or HTTP2; it is empty when there is none.
func (c *Client) Transport() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == nil || c.current.broken() != nil {
		return ""
	}
	return c.current.protocol
}

// Reconnect makes the next request use a new connection, for example with a renewed certificate. Requests that are
// under way end in peace.
func (c *Client) Reconnect() {
	c.mu.Lock()
	old := c.current
	c.current = nil
	c.mu.Unlock()
	if old != nil {
		old.retire(drainTime)
	}
}

// Close closes all connections, ends the requests under way, and waits until nothing runs any more.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	c.current = nil
	links := make([]*link, 0, len(c.links))
	for l := range c.links {
		links = append(links, l)
	}
	c.mu.Unlock()
	c.cancel()
	for _, l := range links {
		l.close()
	}
	c.wg.Wait()
}

// RoundTrip sends one request over the present connection, making one first when there is none. A request that met a
// connection which turned out to be gone before anything was sent is sent again over a new one; what was sent is never
// repeated. Errors wrap ErrUntrusted, ErrRefused or ErrClosed where they apply; any other means that the manager cannot
// be reached now.
func (c *Client) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL == nil || req.URL.Scheme != "https" {
		closeBody(req)
		return nil, errors.New("cannot send the request: its URL is not https")
	}
	const attempts = 3
	for n := 1; ; n++ {
		l, err := c.acquire(req.Context())
		if err != nil {
			closeBody(req)
			return nil, err
		}
		resp, sent, err := l.roundTrip(req)
		if err == nil {
			return resp, nil
		}
		if l.broken() != nil || !sent || errors.Is(err, ErrRefused) {
			c.discard(l)
		}
		if sent || n == attempts || req.Context().Err() != nil || errors.Is(err, ErrRefused) {
			return nil, fmt.Errorf("cannot finish the request over %s: %w", l.protocol, err)
		}
		if req, err = rewound(req); err != nil {
			return nil, fmt.Errorf("cannot send the request again: %w", err)
		}
	}
}

// rewound returns req with its body from the beginning.
func rewound(req *http.Request) (*http.Request, error) {
	if req.Body == nil || req.Body == http.NoBody {
		return req, nil
	}
	if req.GetBody == nil {
		return nil, errors.New("the connection was lost and the body cannot be read twice")
	}
	body, err := req.GetBody()
	if err != nil {
		return nil, err
	}
	again := *req
	again.Body = body
	return &again, nil
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}

// traceSent reports in sent whether the request's headers were handed to the network.
func traceSent(ctx context.Context, sent *atomic.Bool) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }})
}

// acquire returns a connection that one request may use, counted until link.release.
func (c *Client) acquire(ctx context.Context) (*link, error) {
	for {
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return nil, ErrClosed
		}
		if l := c.current; l != nil {
			if l.broken() == nil && l.enter() {
				c.probeQUICLocked(l)
				c.mu.Unlock()
				return l, nil
			}
			c.current = nil
			c.mu.Unlock()
			l.retire(drainTime)
			continue
		}
		d := c.dialing
		if d == nil {
			d = &dialing{done: make(chan struct{})}
			c.dialing = d
			c.wg.Go(func() { c.finish(d) })
		}
		c.mu.Unlock()

		select {
		case <-d.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("cannot reach the manager at %s in time: %w", c.cfg.Address, context.Cause(ctx))
		}
		if d.err != nil {
			return nil, d.err
		}
		if d.link.enter() {
			return d.link, nil
		}
	}
}

// finish connects on behalf of all who wait for d.
func (c *Client) finish(d *dialing) {
	defer close(d.done)
	l, err := c.connect(c.ctx)
	c.mu.Lock()
	c.dialing = nil
	if err == nil && c.closed {
		err = ErrClosed
	}
	if err == nil {
		c.adoptLocked(l)
	}
	d.link, d.err = l, err
	c.mu.Unlock()
	if err != nil && l != nil {
		l.close()
	}
}

// adoptLocked makes l the present connection.
func (c *Client) adoptLocked(l *link) {
	c.current = l
	c.links[l] = struct{}{}
	c.cfg.Logger.Info("connected to the manager", "address", c.cfg.Address, "protocol", l.protocol, "local", l.localAddress())
	c.wg.Go(func() { c.watch(l) })
}

// discard makes sure that no further request uses l.
func (c *Client) discard(l *link) { c.replace(l, nil, drainTime) }

// replace puts fresh (or nothing) in the place of old and lets old's requests end within drain.
func (c *Client) replace(old, fresh *link, drain time.Duration) {
	c.mu.Lock()
	if c.current == old {
		c.current = nil
		if fresh != nil && !c.closed {
			c.adoptLocked(fresh)
			fresh = nil
		}
	}
	c.mu.Unlock()
	if fresh != nil {
		fresh.close() // somebody else was faster
	}
	old.retire(drain)
}

package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
	quichttp "github.com/quic-go/quic-go/http3"
)

const (
	dialTimeout = 15 * time.Second
	// clientIdle is when a silent QUIC connection is given up. keepAlive is shorter than the 30 s after which common
	// routers forget a UDP flow.
	clientIdle = 45 * time.Second
	keepAlive  = 15 * time.Second
	// lateQUIC is when QUIC joins in on a network where TCP is known to be the one that works.
	lateQUIC = 3 * time.Second
	// lastWordsTime is how long an error waits for its reason.
	lastWordsTime = 250 * time.Millisecond
)

// attempt is one way to connect. It starts after its time, or as soon as all before it have failed.
type attempt struct {
	after time.Duration
	dial  func(context.Context) (*link, error)
}

// race returns the first link that an attempt comes up with; the others are cut short, and closed if they come up all
// the same. When all fail, it returns their errors in one. Whatever goes on in the background is started by spawn.
func race(ctx context.Context, attempts []attempt, spawn func(func())) (*link, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		link *link
		err  error
	}
	results := make(chan result, len(attempts))
	var errs []error
	var refused <-chan time.Time
	started, running := 0, 0
	begin := time.Now()
	closeLate := func() {
		for range running {
			if late := <-results; late.link != nil {
				late.link.close()
			}
		}
	}
	for {
		var start <-chan time.Time
		if started < len(attempts) {
			if wait := attempts[started].after - time.Since(begin); running == 0 || wait <= 0 {
				dial := attempts[started].dial
				spawn(func() {
					l, err := dial(ctx)
					results <- result{l, err}
				})
				started++
				running++
				continue
			} else {
				start = time.After(wait)
			}
		} else if running == 0 {
			return nil, errors.Join(errs...)
		}
		select {
		case r := <-results:
			running--
			if r.err != nil {
				errs = append(errs, r.err)
				if errors.Is(r.err, syscall.ECONNREFUSED) {
					// The machine answers and nobody listens there: QUIC gets as long again to prove the contrary.
					refused = time.After(max(time.Second, time.Since(begin)))
				}
				continue
			}
			spawn(closeLate)
			return r.link, nil
		case <-refused:
			spawn(closeLate)
			return nil, errors.Join(errs...)
		case <-start:
		}
	}
}

// connect makes a connection by whatever gets through.
func (c *Client) connect(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	addrs, err := resolve(ctx, c.cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the manager at %s: %w", c.cfg.Address, err)
	}
	local, _ := c.cfg.LocalAddress(addrs[0])
	network := c.network(local)
	overTCP := attempt{dial: func(ctx context.Context) (*link, error) { return c.dialTCP(ctx, local) }}
	attempts, quicFirst := []attempt{overTCP}, false
	if !c.cfg.DisableQUIC {
		w, known := c.cfg.Memory.Get(network)
		c.mu.Lock()
		quicFirst = c.suspected != network && retryQUIC(w, known, c.cfg.Now(), c.cfg.RetryQUIC)
		c.mu.Unlock()
		attempts = c.plan(addrs, overTCP, quicFirst)
	}
	l, err := race(ctx, attempts, c.wg.Go)
	if err != nil {
		if c.ctx.Err() != nil {
			return nil, ErrClosed
		}
		c.settle(network, "", quicFirst)
		return nil, fmt.Errorf("cannot reach the manager at %s: %w", c.cfg.Address, explain(err))
	}
	c.settle(network, l.protocol, quicFirst)
	return l, nil
}

// plan orders the ways to connect. The first address of each family is tried over QUIC; TCP tries all by itself.
func (c *Client) plan(addrs []netip.AddrPort, overTCP attempt, quicFirst bool) []attempt {
	var overQUIC []attempt
	for _, remote := range oneOfEachFamily(addrs) {
		overQUIC = append(overQUIC, attempt{
			after: time.Duration(len(overQUIC)) * c.cfg.HeadStart / 2,
			dial:  func(ctx context.Context) (*link, error) { return c.dialQUIC(ctx, remote) },
		})
	}
	if quicFirst {
		overTCP.after = c.cfg.HeadStart
		return append(overQUIC, overTCP)
	}
	for i := range overQUIC {
		overQUIC[i].after += max(lateQUIC, c.cfg.HeadStart)
	}
	return append([]attempt{overTCP}, overQUIC...)
}

func oneOfEachFamily(addrs []netip.AddrPort) []netip.AddrPort {
	out := addrs[:1:1]
	for _, a := range addrs[1:] {
		if a.Addr().Is4() != out[0].Addr().Is4() {
			return append(out, a)
		}
	}
	return out
}

// resolve returns the addresses of "host:port" in the order of preference; there is at least one.
func resolve(ctx context.Context, address string) ([]netip.AddrPort, error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "udp", service)
	if err != nil {
		return nil, err
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var out []netip.AddrPort
	for _, ip := range ips {
		out = append(out, netip.AddrPortFrom(ip.Unmap(), uint16(port)))
	}
	if len(out) == 0 {
		return nil, errors.New("the name has no address")
	}
	return out, nil
}

// routedAddress asks the system from which address packets to remote leave. Nothing is sent.
func routedAddress(remote netip.AddrPort) (netip.Addr, error) {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(remote))
	if err != nil {
		return netip.Addr{}, err
	}
	defer func() { _ = conn.Close() }()
	local, ok := conn.LocalAddr().(*net.UDPAddr)
	if !ok {
		return netip.Addr{}, fmt.Errorf("unexpected address %v", conn.LocalAddr())
	}
	return local.AddrPort().Addr().Unmap(), nil
}

// network names the way from local to the manager, for WinnerMemory.
func (c *Client) network(local netip.Addr) string { return local.String() + " to " + c.cfg.Address }

func (c *Client) quicConfig() *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:  5 * time.Second,
		MaxIdleTimeout:        clientIdle,
		KeepAlivePeriod:       keepAlive,
		MaxIncomingStreams:    -1, // the manager opens none
		MaxIncomingUniStreams: 8,
		// What the disk does not take at once is held in memory up to here; 4 MiB are 20 MB/s at 200 ms.
		MaxStreamReceiveWindow:     4 << 20,
		MaxConnectionReceiveWindow: 8 << 20,
	}
}

func (c *Client) dialQUIC(ctx context.Context, remote netip.AddrPort) (*link, error) {
	config, err := c.clientTLS()
	if err != nil {
		return nil, err
	}
	config.NextProtos = []string{quichttp.NextProtoH3}
	local, _ := c.cfg.LocalAddress(remote)
	path, err := newQUICPath(local, remote)
	if err != nil {
		return nil, fmt.Errorf("cannot use UDP: %w", err)
	}
	conn, err := path.transport().Dial(ctx, net.UDPAddrFromAddrPort(remote), config, c.quicConfig())
	if err != nil {
		path.close()
		return nil, fmt.Errorf("over QUIC: %w", err)
	}
	path.conn = conn
	h3 := c.http3.NewClientConn(conn)
	return &link{
		client: c, protocol: HTTP3, began: time.Now(), path: path, remote: remote,
		local: local, network: c.network(local),
		exchange: func(req *http.Request) (*http.Response, error) {
			resp, err := h3.RoundTrip(req)
			if err != nil && conn.Context().Err() != nil && req.Context().Err() == nil {
				err = context.Cause(conn.Context()) // says why, where the stream's error says that
			}
			return resp, err
		},
		broken: func() error { return context.Cause(conn.Context()) },
		gone:   conn.Context().Done(),
		shut: func() {
			_ = conn.CloseWithError(quic.ApplicationErrorCode(quichttp.ErrCodeNoError), "")
			path.close()
		},
	}, nil
}

func (c *Client) dialTCP(ctx context.Context, local netip.Addr) (*link, error) {
	config, err := c.clientTLS()
	if err != nil {
		return nil, err
	}
	config.NextProtos = []string{"h2"}
	dialer := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAlive, Interval: keepAlive, Count: 3}}
	raw, err := dialer.DialContext(ctx, "tcp", c.cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("over TCP: %w", err)
	}
	watched := &watchedConn{Conn: raw, gone: make(chan struct{})}
	secure := tls.Client(watched, config)
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	transport := &http.Transport{
		// The transport completes the handshake, and recognises HTTP/2, on a *tls.Conn.
		DialTLSContext:         func(context.Context, string, string) (net.Conn, error) { return secure, nil },
		Protocols:              &protocols,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: keepAlive, PingTimeout: keepAlive, WriteByteTimeout: clientIdle},
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxResponseHeader,
	}
	conn, err := transport.NewClientConn(ctx, "https", c.cfg.Address)
	if err != nil {
		_ = watched.Close()
		return nil, fmt.Errorf("over TCP: %w", err)
	}
	l := &link{
		client: c, protocol: HTTP2, began: time.Now(),
		local: local, network: c.network(local),
		exchange: func(req *http.Request) (*http.Response, error) {
			resp, err := conn.RoundTrip(req)
			if err != nil && req.Context().Err() == nil {
				err = lastWords(secure, watched.gone, err)
			}
			return resp, err
		},
		broken: func() error {
			if err := conn.Err(); err != nil {
				return err
			}
			if conn.Available() == 0 {
				return errors.New("the connection takes no more requests") // the manager goes away, or it is full
			}
			return nil
		},
		gone: watched.gone,
		shut: func() { _ = conn.Close() },
	}
	if remote, ok := raw.RemoteAddr().(*net.TCPAddr); ok {
		l.remote = remote.AddrPort()
	}
	return l, nil
}

// lastWords returns the alert that the manager ended the connection with, if it did, in place of an error that only
// says that the connection is gone. crypto/tls keeps it as the answer to every further read.
func lastWords(conn *tls.Conn, gone <-chan struct{}, err error) error {
	if _, broken := errors.AsType[*net.OpError](err); broken {
		select { // whoever reads is about to learn why, too
		case <-gone:
		case <-time.After(lastWordsTime):
		}
	}
	select {
	case <-gone:
	default:
		return err
	}
	_, reason := conn.Read(make([]byte, 1)) // of a closed connection: does not wait
	if op, ok := errors.AsType[*net.OpError](reason); ok && op.Op == "remote error" {
		return reason
	}
	return err
}

// watchedConn tells when it is closed.
type watchedConn struct {
	net.Conn
	once sync.Once
	gone chan struct{}
}

func (c *watchedConn) Close() error {
	c.once.Do(func() { close(c.gone) })
	return c.Conn.Close()
}

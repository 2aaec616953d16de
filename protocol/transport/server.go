package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	quichttp "github.com/quic-go/quic-go/http3"

	"github.com/dhowfleet/dhow/protocol/identity"
	"github.com/dhowfleet/dhow/protocol/transport/internal/admission"
)

// ServerConfig says how to listen. Address, Handler, Certificates, TrustDomain and NodeRoots are required.
type ServerConfig struct {
	// Address is "host:port"; an empty host means all addresses, port 0 a free one.
	Address string
	Handler http.Handler
	// Certificates returns the server's certificate at every handshake.
	Certificates func() (*tls.Certificate, error)
	// TrustDomain is the fleet's; nodes of another are refused.
	TrustDomain string
	// NodeRoots returns what node certificates must be signed by.
	NodeRoots func() *x509.CertPool
	// ExpiredGrace is how long after its end a node's certificate still lets it in, as an expired peer.
	ExpiredGrace time.Duration
	// Authorize, when set, is asked at every request of a node, for example whether it was revoked. The text of its
	// error is sent to the node.
	Authorize func(Peer) error
	// Now is the clock that certificates are checked by; nil: time.Now.
	Now    func() time.Time
	Logger *slog.Logger
	// DisableQUIC serves TCP only.
	DisableQUIC bool
	// ResetKey, when it is not zero, lets a restarted server tell nodes that their QUIC connections are gone, instead
	// of leaving them to notice by silence. It must be secret and stay the same over restarts.
	ResetKey [32]byte
	Limits   Limits
}

// Limits bounds what the other side can make a server hold. Zero fields take the defaults named.
type Limits struct {
	MaxConnections   int           // of both kinds together; 20,000
	MaxStreams       int           // requests at the same time on a connection; 100
	MaxHeaderBytes   int           // of a request; 32 KiB
	HandshakeTimeout time.Duration // 10 s
	IdleTimeout      time.Duration // of a connection without a request; 5 min
	StallTimeout     time.Duration // of a request body or an answer that makes no progress; 60 s
	ShutdownGrace    time.Duration // for requests to end; 5 s
}

func (l Limits) withDefaults() Limits {
	orInt := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	orTime := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	orInt(&l.MaxConnections, 20_000)
	orInt(&l.MaxStreams, 100)
	orInt(&l.MaxHeaderBytes, 32<<10)
	orTime(&l.HandshakeTimeout, 10*time.Second)
	orTime(&l.IdleTimeout, 5*time.Minute)
	orTime(&l.StallTimeout, time.Minute)
	orTime(&l.ShutdownGrace, 5*time.Second)
	return l
}

const (
	// serverIdle is when a QUIC connection whose other end is silent is given up; clients send a sign of life every 15 s.
	serverIdle = time.Minute
	// maxHandshaking is how many QUIC handshakes may be under way before newcomers must prove their address first.
	maxHandshaking = 256
)

// Server listens on one port number over TCP and UDP.
type Server struct {
	cfg      ServerConfig
	tcp      net.Listener
	udp      *net.UDPConn // nil without QUIC
	quic     *quic.Transport
	http     *http.Server
	http3    *quichttp.Server
	tls      *tls.Config
	admitted *admission.Control
	draining chan struct{}
	drain    sync.Once
}

// Listen opens the port. Nothing is answered before Serve.
func Listen(cfg ServerConfig) (*Server, error) {
	switch {
	case cfg.Handler == nil || cfg.Certificates == nil || cfg.NodeRoots == nil:
		return nil, errors.New("cannot listen: handler, certificates or node roots are missing")
	case identity.ValidTrustDomain(cfg.TrustDomain) != nil:
		return nil, fmt.Errorf("cannot listen: %w", identity.ValidTrustDomain(cfg.TrustDomain))
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Limits = cfg.Limits.withDefaults()
	s := &Server{cfg: cfg, draining: make(chan struct{}), admitted: admission.New(cfg.Limits.MaxConnections)}
	s.tls = s.serverTLS()
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", cfg.Address, err)
	}
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		TLSConfig:         s.tls.Clone(),               // net/http adds to it
		ReadHeaderTimeout: cfg.Limits.HandshakeTimeout, // bounds the TLS handshake, too
		IdleTimeout:       cfg.Limits.IdleTimeout,
		MaxHeaderBytes:    cfg.Limits.MaxHeaderBytes,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: cfg.Limits.MaxStreams,
			SendPingTimeout:      30 * time.Second,
			PingTimeout:          15 * time.Second,
			WriteByteTimeout:     cfg.Limits.StallTimeout,
		},
		ConnContext: s.admitted.TCPContext,
		ConnState:   s.admitted.TCPState,
		ErrorLog:    slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
	}
	if s.udp != nil {
		s.http3 = &quichttp.Server{
			Handler:        http.HandlerFunc(s.serve),
			IdleTimeout:    cfg.Limits.IdleTimeout,
			MaxHeaderBytes: cfg.Limits.MaxHeaderBytes,
			ConnContext:    s.admitted.QUICContext,
			Logger:         cfg.Logger,
		}
		s.quic = &quic.Transport{
			Conn:                s.udp,
			ConnectionIDLength:  8,
			ConnContext:         s.admitted.QUICAdmit,
			VerifySourceAddress: func(net.Addr) bool { return s.admitted.Handshaking() >= maxHandshaking },
		}
		if cfg.ResetKey != [32]byte{} {
			key := quic.StatelessResetKey(cfg.ResetKey)
			s.quic.StatelessResetKey = &key
		}
	}
	return s, nil
}

// open binds the TCP port and the UDP port of the same number. With port 0 the system picks the former, and the latter
// may be taken; then another is tried.
func (s *Server) open() error {
	var last error
	for range 16 {
		tcp, err := net.Listen("tcp", s.cfg.Address)
		if err != nil {
			return err
		}
		s.tcp = s.admitted.Listener(tcp)
		if s.cfg.DisableQUIC {
			return nil
		}
		at, ok := tcp.Addr().(*net.TCPAddr)
		if !ok {
			_ = tcp.Close()
			return fmt.Errorf("unexpected address %v", tcp.Addr())
		}
		if s.udp, err = net.ListenUDP("udp", &net.UDPAddr{IP: at.IP, Port: at.Port, Zone: at.Zone}); err == nil {
			return nil
		}
		_ = tcp.Close()
		last = fmt.Errorf("TCP is free but not UDP (free it, or switch QUIC off): %w", err)
		if _, port, err := net.SplitHostPort(s.cfg.Address); err != nil || port != "0" {
			break
		}
	}
	return last
}

// Addr returns the address that is listened on, with the real port.
func (s *Server) Addr() string { return s.tcp.Addr().String() }

// Port returns the port number of both protocols.
func (s *Server) Port() int {
	_, port, _ := net.SplitHostPort(s.Addr())
	n, _ := strconv.Atoi(port)
	return n
}

// serverTLS asks for a client certificate under the nodes' name alone. Tickets are off: a resumed session would carry
// an old answer to who the node is, and a handshake costs a fraction of a millisecond.
func (s *Server) serverTLS() *tls.Config {
	public := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{"h2", "http/1.1"},
		SessionTicketsDisabled: true,
		Time:                   s.cfg.Now,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			cert, err := s.cfg.Certificates()
			if err != nil {
				s.cfg.Logger.Error("cannot answer a handshake", "error", err)
			}
			return cert, err
		},
	}
	enrol := public.Clone()
	enrol.NextProtos = []string{"h2"}
	// crypto/tls lets a client that offers only HTTP/1.1 pass as one that offers nothing.
	enrol.VerifyConnection = func(cs tls.ConnectionState) error {
		if cs.NegotiatedProtocol == "" {
			return errors.New("neither HTTP/2 nor HTTP/3 is offered")
		}
		return nil
	}
	node := enrol.Clone()
	node.ClientAuth = tls.RequireAnyClientCert
	node.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := enrol.VerifyConnection(cs); err != nil {
			return err
		}
		trust := identity.NodeTrust{TrustDomain: s.cfg.TrustDomain, Roots: s.cfg.NodeRoots(), Grace: s.cfg.ExpiredGrace}
		_, err := trust.Verify(cs.PeerCertificates, s.cfg.Now())
		if err != nil {
			s.cfg.Logger.Info("refused a node's certificate", "error", err)
		}
		return err
	}
	public.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		switch audienceOf(hello.ServerName) {
		case AudienceNode:
			return node, nil
		case AudienceEnrol:
			return enrol, nil
		}
		return nil, nil // the outer one
	}
	return public
}

func (s *Server) quicConfig() *quic.Config {
	l := s.cfg.Limits
	return &quic.Config{
		HandshakeIdleTimeout:       l.HandshakeTimeout,
		MaxIdleTimeout:             serverIdle,
		MaxIncomingStreams:         int64(l.MaxStreams),
		MaxIncomingUniStreams:      8, // HTTP/3 needs three
		MaxStreamReceiveWindow:     2 << 20,
		MaxConnectionReceiveWindow: 4 << 20,
	}
}

// Serve answers requests until ctx ends, then tells both sides' requests to end (Draining, GOAWAY), waits for them for
// Limits.ShutdownGrace, and closes everything. It returns nil after that, or why it could not go on. It is called once.
func (s *Server) Serve(ctx context.Context) error {
	failed := make(chan error, 2)
	var wg sync.WaitGroup
	wg.Go(func() { failed <- s.http.ServeTLS(s.tcp, "", "") })
	if s.udp != nil {
		// Listen, not ListenEarly: no request is read before the node's certificate was checked.
		ln, err := s.quic.Listen(quichttp.ConfigureTLSConfig(s.tls), s.quicConfig())
		if err != nil {
			s.Close()
			wg.Wait()
			return fmt.Errorf("cannot serve QUIC: %w", err)
		}
		wg.Go(func() { failed <- s.http3.ServeListener(ln) })
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("cannot go on serving: %w", err)
	}
	s.shutdown()
	wg.Wait()
	return err
}

func (s *Server) shutdown() {
	s.drain.Do(func() { close(s.draining) })
	grace, cancel := context.WithTimeout(context.Background(), s.cfg.Limits.ShutdownGrace)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		if s.http.Shutdown(grace) != nil {
			_ = s.http.Close()
		}
	})
	if s.http3 != nil {
		wg.Go(func() { _ = s.http3.Shutdown(grace) }) // closes by itself when the grace is over
	}
	wg.Wait()
	s.Close()
}

// Close frees the port at once and cuts every connection off. It is for a server that was never served; Serve cleans up
// after itself.
func (s *Server) Close() {
	s.drain.Do(func() { close(s.draining) })
	_ = s.http.Close()
	_ = s.tcp.Close()
	if s.udp != nil {
		_ = s.quic.Close()
		_ = s.udp.Close()
	}
}

// DropPeers closes the connections of the nodes that match, for example because they were revoked, and returns how many
// it closed. Nodes may connect again; Authorize is what keeps them out. A connection that has not sent a request yet
// is not known to be a node's.
func (s *Server) DropPeers(match func(identity.Node) bool) int { return s.admitted.Drop(match) }

// Connections returns how many connections are open.
func (s *Server) Connections() int { return s.admitted.Open() }

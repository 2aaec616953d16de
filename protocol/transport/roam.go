package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	probeTime = 5 * time.Second
	// maxMoves bounds the sockets that a QUIC connection collects; after so many moves a new connection is made.
	maxMoves = 16
)

// quicPath holds the sockets under a QUIC connection. They live as long as it does: quic-go ends a connection with any
// transport that it is registered with, also one that it has moved away from.
type quicPath struct {
	remote netip.AddrPort
	conn   *quic.Conn

	mu      sync.Mutex
	sockets []socket
	closed  bool
}

type socket struct {
	transport *quic.Transport
	udp       *net.UDPConn
}

func (s socket) close() {
	_ = s.transport.Close()
	_ = s.udp.Close()
}

// openSocket binds to local, so that it is this package that decides when to move; without one the system chooses.
func openSocket(local netip.Addr) (socket, error) {
	at := &net.UDPAddr{}
	if local.IsValid() {
		at = net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
	}
	udp, err := net.ListenUDP("udp", at)
	if err != nil {
		return socket{}, err
	}
	return socket{transport: &quic.Transport{Conn: udp}, udp: udp}, nil
}

func newQUICPath(local netip.Addr, remote netip.AddrPort) (*quicPath, error) {
	s, err := openSocket(local)
	if err != nil {
		return nil, err
	}
	return &quicPath{remote: remote, sockets: []socket{s}}, nil
}

// transport returns the one that the connection was made on.
func (p *quicPath) transport() *quic.Transport { return p.sockets[0].transport }

// move takes the connection to the address local once a packet has made it there and back.
//
// quic-go replaces the connection's socket in its own goroutine while http3 may just be reading whether that socket
// segments in hardware, which the race detector reports. Both are of one type, so that either answer is whole.
func (p *quicPath) move(ctx context.Context, local netip.Addr) error {
	s, err := openSocket(local)
	if err != nil {
		return err
	}
	p.mu.Lock()
	if p.closed || len(p.sockets) > maxMoves {
		p.mu.Unlock()
		s.close()
		return errors.New("it is closed or has moved too often")
	}
	p.sockets = append(p.sockets, s)
	p.mu.Unlock()

	path, err := p.conn.AddPath(s.transport)
	if err != nil {
		return err
	}
	if err := path.Probe(ctx); err != nil {
		_ = path.Close()
		return err
	}
	return path.Switch()
}

func (p *quicPath) close() {
	p.mu.Lock()
	sockets := p.sockets
	p.sockets, p.closed = nil, true
	p.mu.Unlock()
	for _, s := range sockets {
		s.close()
	}
}

// watch cleans up when l is gone and follows the address of this machine until then.
func (c *Client) watch(l *link) {
	ticker := time.NewTicker(c.cfg.LocalPoll)
	defer ticker.Stop()
	for {
		select {
		case <-l.gone:
			l.close()
			return
		case <-c.ctx.Done():
			l.close()
			return
		case <-ticker.C:
			c.follow(l)
		}
	}
}

// follow moves l when packets to the manager now leave from another address, or lets the next request make a new
// connection where l cannot be moved.
func (c *Client) follow(l *link) {
	l.mu.Lock()
	retired, old := l.retired, l.local
	l.mu.Unlock()
	local, err := c.cfg.LocalAddress(l.remote)
	if retired || err != nil || local == old {
		return // an error says that there is no way at all now; the connection may outlast that
	}
	if l.path != nil {
		ctx, cancel := context.WithTimeout(c.ctx, probeTime)
		err = l.path.move(ctx, local)
		cancel()
		if err == nil {
			l.moved(local, c.network(local))
			c.remember(c.network(local), HTTP3, false)
			c.cfg.Logger.Info("moved the connection to the manager", "local", local, "before", old)
			return
		}
	} else {
		err = errors.New("TCP cannot be moved")
	}
	c.cfg.Logger.Info("the local address changed, connecting anew", "local", local, "before", old, "reason", err)
	c.replace(l, nil, suspectDrainTime)
}

// remember records a winner. A handshake alone does not prove QUIC: what counts against it is forgotten when proven.
func (c *Client) remember(network, protocol string, proven bool) {
	w, _ := c.cfg.Memory.Get(network)
	if proven {
		w.Demotions = 0
	}
	w.Protocol, w.At = protocol, c.cfg.Now()
	c.cfg.Memory.Put(network, w)
}

// suspect stops using a QUIC connection that does not seem to get anything through. Whether QUIC is at fault shows when
// the next connection is made: if TCP gets through, it is; if that does not either, the manager or the line is down.
func (c *Client) suspect(l *link, why error) {
	c.mu.Lock()
	first := !l.suspect
	l.suspect = true
	if first {
		c.suspected = l.networkName()
	}
	c.mu.Unlock()
	if first {
		c.cfg.Logger.Warn("QUIC makes no progress, trying TCP", "address", c.cfg.Address, "error", why)
	}
	c.replace(l, nil, suspectDrainTime)
}

// settle records the outcome of a connection over network: got is the protocol that came up, or empty.
func (c *Client) settle(network, got string, quicFirst bool) {
	c.mu.Lock()
	suspected := c.suspected == network && network != ""
	if suspected {
		c.suspected = ""
	}
	if quicFirst {
		c.triedQUIC = time.Now()
	}
	c.mu.Unlock()
	switch {
	case got == HTTP2 && suspected:
		w, _ := c.cfg.Memory.Get(network)
		c.cfg.Memory.Put(network, Winner{Protocol: HTTP2, At: c.cfg.Now(), Demotions: min(w.Demotions+1, maxDemotions)})
	case got == HTTP3, got == HTTP2 && quicFirst:
		// TCP that was used because it was remembered leaves the memory's age as it is, or QUIC would never be tried.
		c.remember(network, got, false)
	}
}

// probeQUICLocked starts a try of QUIC in the background when it is due.
func (c *Client) probeQUICLocked(l *link) {
	if l.protocol != HTTP2 || c.cfg.DisableQUIC || c.probing || time.Since(c.triedQUIC) < c.cfg.RetryQUIC {
		return
	}
	w, known := c.cfg.Memory.Get(l.networkName())
	if !retryQUIC(w, known, c.cfg.Now(), c.cfg.RetryQUIC) {
		return
	}
	c.probing = true
	c.triedQUIC = time.Now()
	c.wg.Go(func() { c.probeQUIC(l) })
}

func (c *Client) probeQUIC(l *link) {
	ctx, cancel := context.WithTimeout(c.ctx, dialTimeout)
	defer cancel()
	fresh, err := c.dialQUIC(ctx, l.remote)
	c.mu.Lock()
	c.probing = false
	c.mu.Unlock()
	if err != nil {
		c.remember(l.networkName(), HTTP2, false)
		c.cfg.Logger.Debug("QUIC still does not get through", "address", c.cfg.Address, "error", fmt.Sprint(err))
		return
	}
	c.remember(fresh.networkName(), HTTP3, false)
	c.replace(l, fresh, drainTime)
}

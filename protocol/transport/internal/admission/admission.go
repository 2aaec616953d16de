// Package admission counts a server's connections, refuses those over the limit at once (so that a client turns
// elsewhere or backs off instead of waiting in a queue that it cannot see), and finds those of a node.
//
// The exported methods are hooks of net/http, quic-go and its http3. None blocks; all may be called from any goroutine.
package admission

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	quichttp "github.com/quic-go/quic-go/http3"

	"github.com/dhowfleet/dhow/protocol/identity"
)

// Control is the door of one server.
type Control struct {
	limit       int64
	open        atomic.Int64
	handshaking atomic.Int64 // of QUIC

	mu  sync.Mutex
	all map[*Connection]struct{}
	tcp map[net.Conn]*Connection
}

// Connection is one connection of a server, in the context of its requests.
type Connection struct {
	close func()
	node  atomic.Pointer[identity.Node] // set by the first request of a node
}

// From returns the connection of a request's context. It is nil when the request came otherwise; its methods may be
// called all the same.
func From(ctx context.Context) *Connection {
	c, _ := ctx.Value(connectionKey{}).(*Connection)
	return c
}

// Node returns whose connection it is, once that is known.
func (c *Connection) Node() (identity.Node, bool) {
	if c == nil {
		return identity.Node{}, false
	}
	n := c.node.Load()
	if n == nil {
		return identity.Node{}, false
	}
	return *n, true
}

// SetNode says whose connection it is.
func (c *Connection) SetNode(n identity.Node) {
	if c != nil {
		c.node.Store(&n)
	}
}

// New returns a control that lets limit connections be open at the same time.
func New(limit int) *Control {
	return &Control{limit: int64(limit), all: map[*Connection]struct{}{}, tcp: map[net.Conn]*Connection{}}
}

// enter counts a connection, or says that there are too many.
func (a *Control) enter() bool {
	if a.open.Add(1) > a.limit {
		a.open.Add(-1)
		return false
	}
	return true
}

// Open returns how many connections are open, those in their handshake included.
func (a *Control) Open() int { return int(a.open.Load()) }

// Handshaking returns how many QUIC connections are in their handshake.
func (a *Control) Handshaking() int { return int(a.handshaking.Load()) }

// Drop closes the connections of the nodes that match and returns how many it closed.
func (a *Control) Drop(match func(identity.Node) bool) int {
	a.mu.Lock()
	var found []*Connection
	for c := range a.all {
		if n := c.node.Load(); n != nil && match(*n) {
			found = append(found, c)
		}
	}
	a.mu.Unlock()
	for _, c := range found {
		c.close()
	}
	return len(found)
}

func (a *Control) remove(c *Connection) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.all, c)
}

// Listener counts what l accepts.
func (a *Control) Listener(l net.Listener) net.Listener {
	return &countingListener{Listener: l, admission: a}
}

type countingListener struct {
	net.Listener
	admission *Control
}

func (l *countingListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.admission.enter() {
			return &countedConn{Conn: c, admission: l.admission}, nil
		}
		_ = c.Close()
	}
}

// countedConn leaves the count when it is closed.
type countedConn struct {
	net.Conn
	admission   *Control
	established atomic.Bool // the TLS handshake is over
	once        sync.Once
}

const (
	lingerTime  = 500 * time.Millisecond
	lingerBytes = 64 << 10
)

// Close ends the connection. Before the handshake is over, what it says last is why the other side was refused; closing
// at once, with its first request unread, would make TCP throw that away. So what still comes in is read for a moment.
func (c *countedConn) Close() error {
	var err error
	c.once.Do(func() {
		tcp, ok := c.Conn.(*net.TCPConn)
		if !ok || c.established.Load() {
			err = c.Conn.Close()
			c.admission.open.Add(-1)
			return
		}
		_ = tcp.CloseWrite()
		_ = tcp.SetReadDeadline(time.Now().Add(lingerTime))
		go func() {
			_, _ = io.CopyN(io.Discard, tcp, lingerBytes)
			_ = tcp.Close()
			c.admission.open.Add(-1)
		}()
	})
	return err
}

// TCPContext is http.Server.ConnContext.
func (a *Control) TCPContext(ctx context.Context, c net.Conn) context.Context {
	conn := &Connection{close: func() { _ = c.Close() }}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all[conn] = struct{}{}
	a.tcp[c] = conn
	return context.WithValue(ctx, connectionKey{}, conn)
}

// TCPState is http.Server.ConnState.
func (a *Control) TCPState(c net.Conn, state http.ConnState) {
	if state == http.StateActive || state == http.StateIdle {
		if counted, ok := netConn(c).(*countedConn); ok {
			counted.established.Store(true)
		}
		return
	}
	if state != http.StateClosed && state != http.StateHijacked {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.all, a.tcp[c])
	delete(a.tcp, c)
}

// netConn returns what lies under TLS.
func netConn(c net.Conn) net.Conn {
	if t, ok := c.(*tls.Conn); ok {
		return t.NetConn()
	}
	return c
}

var errBusy = errors.New("too many connections")

// handshake is counted until it is over, one way or the other.
type handshake struct {
	admission *Control
	once      sync.Once
}

func (h *handshake) over() { h.once.Do(func() { h.admission.handshaking.Add(-1) }) }

type (
	handshakeKey  struct{}
	connectionKey struct{}
)

// goneMessage is sent when a connection is closed on purpose.
const goneMessage = "closed by the manager"

// QUICAdmit is quic.Transport.ConnContext: it counts a QUIC connection from its first packet on. ctx ends with the connection.
func (a *Control) QUICAdmit(ctx context.Context, _ *quic.ClientInfo) (context.Context, error) {
	if !a.enter() {
		return nil, errBusy
	}
	a.handshaking.Add(1)
	h := &handshake{admission: a}
	context.AfterFunc(ctx, func() {
		h.over()
		a.open.Add(-1)
	})
	return context.WithValue(ctx, handshakeKey{}, h), nil
}

// QUICContext is http3.Server.ConnContext, called when a connection's handshake is over.
func (a *Control) QUICContext(ctx context.Context, c *quic.Conn) context.Context {
	if h, ok := c.Context().Value(handshakeKey{}).(*handshake); ok {
		h.over()
	}
	conn := &Connection{close: func() {
		_ = c.CloseWithError(quic.ApplicationErrorCode(quichttp.ErrCodeNoError), goneMessage)
	}}
	a.mu.Lock()
	a.all[conn] = struct{}{}
	a.mu.Unlock()
	context.AfterFunc(c.Context(), func() { a.remove(conn) })
	return context.WithValue(ctx, connectionKey{}, conn)
}

package transport

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/quic-go/quic-go"
	quichttp "github.com/quic-go/quic-go/http3"

	"github.com/dhowfleet/dhow/protocol/identity"
)

// admission counts a server's connections, refuses those over the limit at once (so that a client turns elsewhere or
// backs off instead of waiting in a queue that it cannot see), and finds those of a node.
type admission struct {
	limit       int64
	open        atomic.Int64
	handshaking atomic.Int64 // of QUIC

	mu  sync.Mutex
	all map[*connection]struct{}
	tcp map[net.Conn]*connection
}

// connection is one connection of a server, in the context of its requests.
type connection struct {
	close func()
	node  atomic.Pointer[identity.Node] // set by the first request of a node
}

func newAdmission(limit int) *admission {
	return &admission{limit: int64(limit), all: map[*connection]struct{}{}, tcp: map[net.Conn]*connection{}}
}

// enter counts a connection, or says that there are too many.
func (a *admission) enter() bool {
	if a.open.Add(1) > a.limit {
		a.open.Add(-1)
		return false
	}
	return true
}

func (a *admission) drop(match func(identity.Node) bool) int {
	a.mu.Lock()
	var found []*connection
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

func (a *admission) remove(c *connection) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.all, c)
}

// listener counts what l accepts.
func (a *admission) listener(l net.Listener) net.Listener {
	return &countingListener{Listener: l, admission: a}
}

type countingListener struct {
	net.Listener
	admission *admission
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

type countedConn struct {
	net.Conn
	admission *admission
	once      sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.admission.open.Add(-1) })
	return c.Conn.Close()
}

func (a *admission) tcpContext(ctx context.Context, c net.Conn) context.Context {
	conn := &connection{close: func() { _ = c.Close() }}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all[conn] = struct{}{}
	a.tcp[c] = conn
	return context.WithValue(ctx, connectionKey, conn)
}

func (a *admission) tcpState(c net.Conn, state http.ConnState) {
	if state != http.StateClosed && state != http.StateHijacked {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.all, a.tcp[c])
	delete(a.tcp, c)
}

var errBusy = errors.New("too many connections")

// handshake is counted until it is over, one way or the other.
type handshake struct {
	admission *admission
	once      sync.Once
}

func (h *handshake) over() { h.once.Do(func() { h.admission.handshaking.Add(-1) }) }

type handshakeKey struct{}

// quicAdmit counts a QUIC connection from its first packet on. ctx ends with the connection.
func (a *admission) quicAdmit(ctx context.Context, _ *quic.ClientInfo) (context.Context, error) {
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

// quicContext is called when a QUIC connection's handshake is over.
func (a *admission) quicContext(ctx context.Context, c *quic.Conn) context.Context {
	if h, ok := c.Context().Value(handshakeKey{}).(*handshake); ok {
		h.over()
	}
	conn := &connection{close: func() {
		_ = c.CloseWithError(quic.ApplicationErrorCode(quichttp.ErrCodeNoError), goneMessage)
	}}
	a.mu.Lock()
	a.all[conn] = struct{}{}
	a.mu.Unlock()
	context.AfterFunc(c.Context(), func() { a.remove(conn) })
	return context.WithValue(ctx, connectionKey, conn)
}

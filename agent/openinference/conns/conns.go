// Package conns lets a request and its answer pass a connection in one read and one write each.
//
// net/http reads and writes connections by 4 KiB. A request with a tensor of that size, which comes as one segment, takes
// it two reads, and the answer, head and body together a little longer, two writes and so two wake-ups of the client: on
// loopback that is a good part of the whole. A listener wrapped here reads more at once, and a handler that is about to
// write a whole answer calls Hold: what is written from there on is kept together, up to a bound, and sent when net/http
// turns to the connection again, which it does as soon as the handler has returned and the answer is complete.
//
// Hold is for answers that are written at once, not for streams: they would wait. What is large is handed to the kernel
// together with what was kept, uncopied. Reads and writes block as those of the connection do; as with any connection,
// one goroutine may read while another writes.
package conns

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	readSize = 8 << 10
	// holdSize bounds what is kept of an answer; what goes beyond is sent.
	holdSize = 16 << 10
)

// Wrap prepares a server that is not serving yet for Hold, and returns the listener that it is to serve, by Serve or
// ServeTLS.
func Wrap(s *http.Server, l net.Listener) net.Listener {
	before := s.ConnContext
	s.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if before != nil {
			ctx = before(ctx, c)
		}
		if t, ok := c.(*tls.Conn); ok {
			c = t.NetConn()
		}
		if own, ok := c.(*conn); ok {
			return context.WithValue(ctx, key{}, own)
		}
		return ctx
	}
	return listener{l}
}

// Hold keeps together what is written of the answer to r from here on. It does nothing where the connection is not one
// of Wrap's or carries several requests at a time.
func Hold(r *http.Request) {
	if r.ProtoMajor != 1 {
		return
	}
	if c, ok := r.Context().Value(key{}).(*conn); ok {
		c.mu.Lock()
		c.holding = true
		c.mu.Unlock()
	}
}

// Much is the memory of a request and its answer from which its client is waited for only so long.
const Much = 16 << 10

// Hurry gives a client time for an answer of so many bytes: patience, which every client gets, and what a slow line
// needs. A client that has not taken the answer then is cut off. Relax is called once it was written, where the
// connection may carry others.
func Hurry(w http.ResponseWriter, size int64, patience time.Duration) {
	const slow = 1 << 20 // bytes a second
	// Servers that have no deadlines, as in tests, write without one.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(patience + time.Duration(size)*time.Second/slow))
}

// Relax ends what Hurry began.
func Relax(w http.ResponseWriter) { _ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) }

type key struct{}

type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c}, nil
}

// conn is a connection with a buffer each way.
type conn struct {
	net.Conn

	// Of whoever reads; net/http has one at a time.
	unread []byte // of buffer
	buffer [readSize]byte

	mu      sync.Mutex
	holding bool
	held    *[]byte // nil: nothing
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, holdSize); return &b }}

func (c *conn) Read(p []byte) (int, error) {
	// A single byte is what net/http reads while a handler runs, to notice who leaves; anything else is the next request.
	if len(p) > 1 {
		if err := c.release(); err != nil {
			return 0, err
		}
	}
	if len(c.unread) == 0 {
		if len(p) >= readSize {
			return c.Conn.Read(p)
		}
		n, err := c.Conn.Read(c.buffer[:])
		if n == 0 {
			return 0, err
		}
		c.unread = c.buffer[:n] // an error comes again
	}
	n := copy(p, c.unread)
	c.unread = c.unread[n:]
	return n, nil
}

func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := 0
	if c.held != nil {
		kept = len(*c.held)
	}
	if c.holding && kept+len(p) <= holdSize {
		if c.held == nil {
			c.held = buffers.Get().(*[]byte)
		}
		*c.held = append(*c.held, p...)
		return len(p), nil
	}
	if kept == 0 {
		return c.Conn.Write(p)
	}
	both := net.Buffers{*c.held, p}
	n, err := both.WriteTo(c.Conn)
	c.empty()
	return max(int(n)-kept, 0), err
}

// release sends what is held, and holds no longer.
func (c *conn) release() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holding = false
	if c.held == nil {
		return nil
	}
	_, err := c.Conn.Write(*c.held)
	c.empty()
	return err
}

// empty gives back the buffer of what was held.
func (c *conn) empty() {
	*c.held = (*c.held)[:0]
	buffers.Put(c.held)
	c.held = nil
}

// SetReadDeadline is what net/http calls when an answer is complete, before it waits for the next request. It also ends
// reads by it, and so the deadline is set whatever became of what was held.
func (c *conn) SetReadDeadline(t time.Time) error {
	return errors.Join(c.release(), c.Conn.SetReadDeadline(t))
}

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.release(), c.Conn.SetDeadline(t))
}

func (c *conn) Close() error {
	// A client that does not read must not keep the connection open, nor a write that waits for it.
	_ = c.Conn.SetWriteDeadline(time.Now().Add(time.Second))
	_ = c.release() // who closes has no use for it
	return c.Conn.Close()
}

// CloseWrite is what net/http calls, where there is one, before it closes after an error.
func (c *conn) CloseWrite() error {
	if err := c.release(); err != nil {
		return err
	}
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

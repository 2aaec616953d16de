package express

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// bufferSize is what one read takes; a request of some thousand numbers comes whole.
	bufferSize = 16 << 10
	// maxDrain is how much of a body that no handler wanted is read for the connection's sake, as net/http does.
	maxDrain = 256 << 10
	// drainTimeout bounds it in time, and drainPause is how long a client gets to read why it is cut off.
	drainTimeout = 5 * time.Second
	drainPause   = 500 * time.Millisecond
)

// The states of a connection.
const (
	waiting int32 = iota // for a request
	working
	ended
)

// conn is a connection that is served here. But for state and the context it belongs to its goroutine.
type conn struct {
	net.Conn
	listener *Listener
	state    atomic.Int32
	remote   string

	buffer []byte // of bufferSize
	unread []byte // of buffer

	head     head
	header   http.Header
	slots    [maxHeaders]string
	url      url.URL
	body     body
	response response
	// bounded says that the connection has a read deadline.
	bounded bool
}

var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

func newConn(l *Listener, c net.Conn) *conn {
	return &conn{Conn: c, listener: l, remote: c.RemoteAddr().String()}
}

// serve answers requests until there is one that is not plain, or no more.
func (c *conn) serve() {
	buffer := buffers.Get().(*[]byte)
	c.buffer, c.header = *buffer, make(http.Header, 8)
	c.response.conn, c.response.header, c.body.conn = c, make(http.Header, 8), c
	others := c.answer()
	if others {
		// Those who take it over have no use for this one's buffer.
		before := append([]byte(nil), c.unread...)
		c.unread = nil
		buffers.Put(buffer)
		c.handOver(before)
		return
	}
	buffers.Put(buffer)
	_ = c.Conn.Close() // who is there still has been answered
	c.listener.leave()
	c.listener.remove(c)
}

// answer is the loop over requests; it says whether others are to go on.
func (c *conn) answer() (others bool) {
	defer func() {
		if p := recover(); p != nil {
			others = false
			if err, ok := p.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
				stack := make([]byte, 8<<10)
				c.listener.options.Logger.Error("a handler panicked", "panic", fmt.Sprint(p), "stack", string(stack[:runtime.Stack(stack, false)]))
			}
		}
	}()
	wait := c.listener.options.HeaderTimeout
	for {
		if len(c.unread) == 0 {
			if err := c.Conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
				return false
			}
			c.bounded = true
			n, err := c.Conn.Read(c.buffer)
			if n == 0 || err != nil && !errors.Is(err, io.EOF) {
				return false
			}
			c.unread = c.buffer[:n]
		}
		if !c.state.CompareAndSwap(waiting, working) {
			return false // closed while it waited
		}
		clear(c.header)
		n := c.head.parse(c.unread, c.header, &c.slots)
		if n == 0 {
			return true
		}
		c.unread = c.unread[n:]
		if !c.request() {
			return false
		}
		if c.listener.ending() || !c.state.CompareAndSwap(working, waiting) {
			return false
		}
		// Shutdown may have looked for waiting connections just before this one became one.
		if c.listener.ending() {
			return false
		}
		wait = c.listener.options.IdleTimeout
	}
}

// request answers the request whose head was read, and says whether another one may follow.
func (c *conn) request() bool {
	c.body.left = c.head.length
	c.response.reset()
	ctx := &requestContext{conn: c.Conn, begun: time.Now()}
	method := http.MethodGet
	var reader io.ReadCloser = http.NoBody
	if c.head.post {
		method = http.MethodPost
		if c.head.length > 0 {
			reader = &c.body
		}
	}
	c.url = url.URL{Path: c.head.path}
	template := http.Request{
		Method: method, URL: &c.url, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: c.header, Body: reader,
		ContentLength: c.head.length, Host: c.head.host, RemoteAddr: c.remote, RequestURI: c.head.path,
	}
	func() {
		defer ctx.end()
		c.listener.options.Handler.ServeHTTP(&c.response, template.WithContext(ctx))
	}()
	err := c.response.finish()
	if err != nil || c.response.closing {
		if err == nil && c.body.left > int64(len(c.unread)) {
			c.leave()
		}
		return false
	}
	c.discard()
	return true
}

// discard passes over what is left of a body and has come.
func (c *conn) discard() {
	n := min(c.body.left, int64(len(c.unread)))
	c.unread = c.unread[n:]
	c.body.left -= n
}

// drain reads what a handler left of a body, before the answer begins, and says whether it got to its end: if not, the
// connection cannot be used again.
func (c *conn) drain() bool {
	c.discard()
	if c.body.left == 0 {
		return true
	}
	if c.body.left > maxDrain || c.body.failed {
		return false
	}
	c.body.deadline, c.body.pending = time.Now().Add(drainTimeout), true
	_, err := io.Copy(io.Discard, &c.body)
	return err == nil && c.body.left == 0
}

// leave ends a connection whose client may still be sending: closing at once would take the answer from it.
func (c *conn) leave() {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok && w.CloseWrite() == nil {
		time.Sleep(drainPause)
	}
}

// setDeadline sets a deadline for reading; the zero time is none.
func (c *conn) setDeadline(t time.Time) error {
	c.bounded = !t.IsZero()
	return c.Conn.SetReadDeadline(t)
}

// handOver gives the connection to net/http.
func (c *conn) handOver(before []byte) {
	defer c.listener.remove(c)
	other := &replayed{Conn: c.Conn, leave: c.listener.leave, before: before}
	if c.Conn.SetReadDeadline(time.Time{}) != nil {
		_ = other.Close() // it is closed already
		return
	}
	select {
	case c.listener.others <- other:
	case <-c.listener.closed:
		_ = other.Close() // nobody takes it
	}
}

// replayed is a connection of which some bytes were read already.
type replayed struct {
	net.Conn
	leave  func()
	once   sync.Once
	before []byte
}

func (r *replayed) Close() error {
	r.once.Do(r.leave)
	return r.Conn.Close()
}

func (r *replayed) Read(p []byte) (int, error) {
	if len(r.before) == 0 {
		return r.Conn.Read(p)
	}
	n := copy(p, r.before)
	r.before = r.before[n:]
	return n, nil
}

// CloseWrite is what net/http looks for before it closes after an error.
func (r *replayed) CloseWrite() error {
	if w, ok := r.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

// body reads the body of a request.
type body struct {
	conn   *conn
	left   int64
	failed bool
	// deadline is what the handler wants for reading; it is set when it has to be waited.
	deadline time.Time
	pending  bool
}

func (b *body) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	var n int
	var err error
	if c := b.conn; len(c.unread) > 0 {
		n = copy(p, c.unread)
		c.unread = c.unread[n:]
	} else {
		if b.pending || c.bounded && b.deadline.IsZero() {
			b.pending = false
			if err := c.setDeadline(b.deadline); err != nil {
				return 0, err
			}
		}
		if n, err = c.Conn.Read(p); err != nil {
			b.failed = true
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
		}
	}
	b.left -= int64(n)
	if b.left == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

func (b *body) Close() error { return nil }

// Package express answers the requests that a client of the Open Inference Protocol sends all the time, over plain
// HTTP/1.1, for about half of what they cost net/http, and leaves everything else to net/http.
//
//	listener -> head of the first request, as one read brought it
//	              plain: -> the same http.Handler -> answer in one write -> next head
//	              anything else: -> net/http, with what was read, for as long as the connection lives
//
// net/http watches each request's connection with a second goroutine, sets deadlines, and makes maps, readers and
// writers for every request. Here a connection has one goroutine and what it needs is used again.
//
// A head is plain when nothing in it can be understood in two ways (see head.go): what is taken here means to net/http
// exactly the same, which tests and a fuzz target hold against net/http itself, and whatever is not is net/http's to
// judge and to refuse. So there is no error to answer here: no second opinion on chunks, lengths that contradict each
// other, bare line feeds, HTTP/1.0, HTTP/2, Expect or Upgrade. A head that has not come whole by the first read is left
// to net/http as well, whose time limit for heads begins then; here only the wait for a request is bounded.
//
// Handlers see what they would see behind net/http, but for this: a ResponseWriter has no Flush and no Hijack, answers
// without a length are kept until the handler returns, and a client that leaves ends the request's context not at once
// but when somebody has asked the context (Err, Done or AfterFunc), within some milliseconds. The request and its
// headers are not the handler's after it has returned.
//
// A Listener is given to http.Server.Serve, which gets from Accept the connections that are not answered here. It is
// safe for concurrent use. Shutdown waits for requests in flight.
package express

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Options of a listener. Nothing in it is left out.
type Options struct {
	Handler http.Handler
	// HeaderTimeout bounds the wait for the first request, IdleTimeout that for each other.
	HeaderTimeout, IdleTimeout time.Duration
	// Limit bounds the connections at a time, those of net/http among them; others wait in the kernel's queue.
	Limit  int
	Logger *slog.Logger
}

// Listener answers plain requests and has the other connections for net/http.
type Listener struct {
	net.Listener
	options Options

	start  sync.Once
	places chan struct{} // of Limit
	others chan net.Conn
	failed chan error
	closed chan struct{}
	once   sync.Once

	date atomic.Pointer[date]

	mu       sync.Mutex
	draining bool
	open     map[*conn]struct{}
	empty    chan struct{} // closed when draining and nothing is open
}

// New returns a listener over another one.
func New(l net.Listener, o Options) *Listener {
	return &Listener{
		Listener: l, options: o, places: make(chan struct{}, o.Limit), others: make(chan net.Conn), failed: make(chan error), closed: make(chan struct{}),
		open: map[*conn]struct{}{}, empty: make(chan struct{}),
	}
}

// Accept returns a connection that is for net/http. Connections are taken from the first call on.
func (l *Listener) Accept() (net.Conn, error) {
	l.start.Do(func() { go l.accept() })
	select {
	case c := <-l.others:
		return c, nil
	case err := <-l.failed:
		return nil, err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// accept takes connections until the listener is closed. What goes wrong meanwhile is told to whoever calls Accept, who
// waits a little and comes again, and so does this.
func (l *Listener) accept() {
	for {
		select {
		case l.places <- struct{}{}:
		case <-l.closed:
			return
		}
		c, err := l.Listener.Accept()
		if err != nil {
			l.leave()
			select {
			case l.failed <- err:
				continue
			case <-l.closed:
				return
			}
		}
		own := newConn(l, c)
		if !l.add(own) {
			_ = c.Close() // nobody has been told of it
			l.leave()
			continue
		}
		go own.serve()
	}
}

// leave makes room for another connection.
func (l *Listener) leave() { <-l.places }

// Close takes no more connections and closes those without a request; requests in flight are answered.
func (l *Listener) Close() error {
	err := l.Listener.Close()
	l.once.Do(func() {
		close(l.closed)
		l.drain()
	})
	return err
}

// add keeps a connection in mind, or says that it is too late for it.
func (l *Listener) add(c *conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.draining {
		return false
	}
	l.open[c] = struct{}{}
	return true
}

func (l *Listener) remove(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, c)
	if l.draining && len(l.open) == 0 {
		l.finish()
	}
}

func (l *Listener) drain() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.draining = true
	for c := range l.open {
		if c.state.CompareAndSwap(waiting, ended) {
			_ = c.Conn.Close() // it wakes up and finds itself ended
		}
	}
	if len(l.open) == 0 {
		l.finish()
	}
}

// finish says that nothing is open; mu is held.
func (l *Listener) finish() {
	select {
	case <-l.empty:
	default:
		close(l.empty)
	}
}

// ending says whether connections are to end with the request that they have.
func (l *Listener) ending() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}

// Shutdown closes the listener and waits for the requests that are answered here. When ctx ends before, it cuts them
// off and returns the context's error.
func (l *Listener) Shutdown(ctx context.Context) error {
	if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	select {
	case <-l.empty:
		return nil
	case <-ctx.Done():
		l.Abort()
		return ctx.Err()
	}
}

// Abort closes the listener and every connection that is served here, whatever it does.
func (l *Listener) Abort() {
	_ = l.Close() // it may be closed already
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		_ = c.Conn.Close() // its client sees the end
	}
}

// date is the header Date of a second.
type date struct {
	second int64
	text   string
}

// now returns the text of the header Date.
func (l *Listener) now() string {
	now := time.Now()
	if d := l.date.Load(); d != nil && d.second == now.Unix() {
		return d.text
	}
	d := &date{second: now.Unix(), text: now.UTC().Format(http.TimeFormat)}
	l.date.Store(d)
	return d.text
}

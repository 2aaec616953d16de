package express

import (
	"context"
	"net"
	"sync"
	"syscall"
	"time"
)

const (
	// lookAfter is how long a request takes until somebody looks whether its client is still there, and lookEvery how
	// often that is done. Most requests have been answered before.
	lookAfter = 5 * time.Millisecond
	lookEvery = 10 * time.Millisecond
)

// requestContext ends with its request, or when the client has gone. It looks for that when it is asked, and by itself
// once somebody waits for it.
type requestContext struct {
	conn  net.Conn
	begun time.Time

	mu     sync.Mutex
	looked time.Duration // after begun, when the client was last looked for
	err    error
	done   chan struct{}
	timer  *time.Timer
	funcs  map[*func()]struct{} // of AfterFunc
}

func (c *requestContext) Deadline() (time.Time, bool) { return time.Time{}, false }
func (c *requestContext) Value(any) any               { return nil }

func (c *requestContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	if now := time.Since(c.begun); now > lookAfter && now-c.looked > lookAfter {
		c.look(now)
	}
	return c.err
}

func (c *requestContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.err != nil {
			close(c.done)
		}
		c.watch()
	}
	return c.done
}

// AfterFunc makes context.AfterFunc and contexts that are derived from this one do without a goroutine.
func (c *requestContext) AfterFunc(f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		go f()
		return func() bool { return false }
	}
	if c.funcs == nil {
		c.funcs = map[*func()]struct{}{}
	}
	c.funcs[&f] = struct{}{}
	c.watch()
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, waits := c.funcs[&f]
		delete(c.funcs, &f)
		return waits
	}
}

// watch looks for the client again and again; mu is held.
func (c *requestContext) watch() {
	if c.timer != nil || c.err != nil {
		return
	}
	c.timer = time.AfterFunc(lookEvery, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.err == nil {
			c.look(time.Since(c.begun))
		}
		if c.err == nil {
			c.timer.Reset(lookEvery)
		}
	})
}

// look ends the context if the client has closed its connection; mu is held.
func (c *requestContext) look(now time.Duration) {
	c.looked = now
	if gone(c.conn) {
		c.finish()
	}
}

// end is called when the request has been answered.
func (c *requestContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finish()
}

func (c *requestContext) finish() {
	if c.err != nil {
		return
	}
	c.err = context.Canceled
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.done != nil {
		close(c.done)
	}
	for f := range c.funcs {
		go (*f)()
	}
	c.funcs = nil
}

// gone says whether the other side has closed a connection. It reads nothing.
func gone(c net.Conn) bool {
	s, ok := c.(interface {
		SyscallConn() (syscall.RawConn, error)
	})
	if !ok {
		return false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return true
	}
	closed := false
	err = raw.Control(func(fd uintptr) {
		var one [1]byte
		n, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		switch {
		case err == syscall.EAGAIN, err == syscall.EINTR:
		case err != nil, n == 0:
			closed = true
		}
	})
	return err != nil || closed
}

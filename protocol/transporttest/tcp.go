package transporttest

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const chunk = 16 << 10

// stream is one TCP connection through the proxy.
type stream struct {
	client, server net.Conn
	done           chan struct{}
	once           sync.Once
}

// close breaks both halves with a reset, so that neither side mistakes it for an orderly end.
func (s *stream) close() { s.end(true) }

func (s *stream) end(reset bool) {
	s.once.Do(func() {
		close(s.done)
		for _, c := range []net.Conn{s.client, s.server} {
			if tcp, ok := c.(*net.TCPConn); ok && reset {
				_ = tcp.SetLinger(0)
			}
			_ = c.Close()
		}
	})
}

func (p *Proxy) acceptTCP() {
	for {
		c, err := p.tcp.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		refuse := p.weather.TCP.Refuse || p.closed
		p.stats.TCPConnections++
		p.mu.Unlock()
		if refuse {
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
			continue
		}
		p.wg.Go(func() { p.carryTCP(c) })
	}
}

func (p *Proxy) carryTCP(client net.Conn) {
	// A black hole lets no handshake through either; the proxy's own accept has already answered the client's.
	if !p.open(true, p.done) {
		_ = client.Close()
		return
	}
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	server, err := net.DialTimeout("tcp", target, 5*time.Second)
	if err != nil {
		_ = client.(*net.TCPConn).SetLinger(0)
		_ = client.Close()
		return
	}
	s := &stream{client: client, server: server, done: make(chan struct{})}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		s.close()
		return
	}
	p.streams[s] = struct{}{}
	p.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { p.pump(s, client, server, true) })
	wg.Go(func() { p.pump(s, server, client, false) })
	wg.Wait()
	s.end(false)
	p.mu.Lock()
	delete(p.streams, s)
	p.mu.Unlock()
}

func (p *Proxy) tcpPath(up bool) (Path, <-chan struct{}) {
	if up {
		return p.weather.TCP.Up, p.changed
	}
	return p.weather.TCP.Down, p.changed
}

// open waits until no black hole is in the way; false when done comes first.
func (p *Proxy) open(up bool, done <-chan struct{}) bool {
	for {
		p.mu.Lock()
		path, changed := p.tcpPath(up)
		p.mu.Unlock()
		if !path.Blackhole {
			return true
		}
		select {
		case <-changed:
		case <-done:
			return false
		}
	}
}

type piece struct {
	due  time.Time
	data []byte
}

// pump carries one direction. The reader gives each piece its time and the writer keeps to it, so that a delay does not
// lower the rate.
func (p *Proxy) pump(s *stream, from, to net.Conn, up bool) {
	pieces := make(chan piece, 1024)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(pieces)
		var last, busy time.Time
		for {
			buf := make([]byte, chunk)
			n, err := from.Read(buf)
			if n > 0 {
				now := time.Now()
				p.mu.Lock()
				path, _ := p.tcpPath(up)
				due := now.Add(p.decide(path, n, true).delay)
				p.mu.Unlock()
				if path.BytesPerSecond > 0 {
					if busy.Before(now) {
						busy = now
					}
					busy = busy.Add(time.Duration(n) * time.Second / time.Duration(path.BytesPerSecond))
					due = due.Add(busy.Sub(now))
				}
				if due.Before(last) {
					due = last
				}
				last = due
				select {
				case pieces <- piece{due, buf[:n]}:
				case <-s.done:
					return
				}
			}
			if err != nil {
				if !errors.Is(err, io.EOF) {
					s.close() // a reset passes on as a reset
				}
				return
			}
		}
	})
	wg.Go(func() {
		for piece := range pieces {
			timer := time.NewTimer(time.Until(piece.due))
			select {
			case <-timer.C:
			case <-s.done:
				timer.Stop()
				return
			}
			if !p.open(up, s.done) {
				return
			}
			if _, err := to.Write(piece.data); err != nil {
				s.close()
				return
			}
		}
		// The end passes on like the data did, unless the stream was cut.
		if tcp, ok := to.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
	})
	wg.Wait()
}

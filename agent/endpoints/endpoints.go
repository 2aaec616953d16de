// Package endpoints has the addresses where an agent answers: the Open Inference Protocol over HTTP and over gRPC, its
// metrics, and all of them on a Unix socket.
//
// Bind takes the addresses, so that a mistake shows before anything else is done; connections wait in the kernel's queue
// until Serve. An address that is only a habit of the protocol (Listener.Optional) and that another program has is no
// reason not to start: it is said, and tried again for as long as the agent runs. Shutdown lets requests in flight end.
//
// Every listener bounds connections, headers and idle time. An address that others can reach is encrypted; whether it
// may be listened on is for package access to say, before Bind.
package endpoints

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/netutil"

	"github.com/dhowfleet/dhow/agent/access"
	"github.com/dhowfleet/dhow/agent/openinference/conns"
	"github.com/dhowfleet/dhow/agent/openinference/express"
)

// The bounds of a listener.
const (
	maxConnections = 1024
	headerTimeout  = 10 * time.Second
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 64 << 10
)

// Listener is an address with what answers there.
type Listener struct {
	Name    string // such as "http", in messages
	Address string // HOST:PORT, or unix:PATH
	// Optional lets the others serve while another program has the address.
	Optional bool
	// Express answers plain requests of inference without net/http, where the address is not encrypted.
	Express bool
	Handler http.Handler
}

// Options of endpoints.
type Options struct {
	// TLS encrypts what other machines can reach, and loopback too; Unix sockets are never encrypted. nil: nothing is.
	TLS    *tls.Config
	Logger *slog.Logger
	// Taken is told which optional listener has no address and why, and with a nil error that it has; nil: it is logged
	// only.
	Taken func(Listener, error)
	// Retry is how often an address that another program has is tried; 0 means 30 s.
	Retry time.Duration
}

// Endpoints are listeners in service.
type Endpoints struct {
	options Options
	all     []*endpoint
	stop    chan struct{} // closed by Shutdown
	once    sync.Once
}

type endpoint struct {
	Listener
	server *http.Server
	mu     sync.Mutex
	bound  net.Listener      // nil while another program has the address
	quick  *express.Listener // over bound, from Serve on, where there is one
}

// Bind takes the addresses. What it took is given back by Shutdown or Close, or by Bind when it fails.
func Bind(listeners []Listener, o Options) (*Endpoints, error) {
	if o.Retry <= 0 {
		o.Retry = 30 * time.Second
	}
	e := &Endpoints{options: o, stop: make(chan struct{})}
	for _, l := range listeners {
		p := &endpoint{Listener: l, server: e.server(l)}
		if err := p.bind(); err != nil {
			if !l.Optional {
				e.Close()
				return nil, err
			}
			e.taken(l, err)
		}
		e.all = append(e.all, p)
	}
	return e, nil
}

func (e *Endpoints) server(l Listener) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true) // gRPC on loopback and on sockets
	return &http.Server{
		Handler:           l.Handler,
		Protocols:         protocols,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(e.options.Logger.Handler(), slog.LevelDebug),
	}
}

func (p *endpoint) bind() error {
	l, err := access.Listen(p.Address)
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("the %s endpoint: %w; another program has %s, stop it or choose another address", p.Name, err, p.Address)
		}
		return fmt.Errorf("the %s endpoint: %w", p.Name, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bound = l
	return nil
}

func (e *Endpoints) taken(l Listener, err error) {
	if err != nil {
		e.options.Logger.Warn("an endpoint has no address yet", "endpoint", l.Name, "address", l.Address, "error", err)
	} else {
		e.options.Logger.Info("an endpoint has its address now", "endpoint", l.Name, "address", l.Address)
	}
	if e.options.Taken != nil {
		e.options.Taken(l, err)
	}
}

// Addr returns the address of a listener by its name, "" while it has none.
func (e *Endpoints) Addr(name string) string {
	for _, p := range e.all {
		if p.Name == name {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.bound != nil {
				return p.bound.Addr().String()
			}
		}
	}
	return ""
}

// Serve answers until Shutdown, or until a listener fails, whose error it returns.
func (e *Endpoints) Serve() error {
	failed := make(chan error, len(e.all))
	var all sync.WaitGroup
	for _, p := range e.all {
		all.Go(func() {
			if err := e.serve(p); err != nil {
				failed <- err
			}
		})
	}
	done := make(chan struct{})
	go func() {
		all.Wait()
		close(done)
	}()
	select {
	case err := <-failed:
		return err
	case <-done:
		select {
		case err := <-failed:
			return err
		default:
			return nil
		}
	}
}

func (e *Endpoints) serve(p *endpoint) error {
	var bound net.Listener
	for {
		p.mu.Lock()
		bound = p.bound
		p.mu.Unlock()
		if bound != nil {
			break
		}
		select {
		case <-e.stop:
			return nil
		case <-time.After(e.options.Retry):
		}
		if p.bind() == nil {
			e.taken(p.Listener, nil)
		}
	}
	var err error
	encrypted := e.options.TLS != nil && bound.Addr().Network() != "unix"
	switch {
	case encrypted:
		p.server.TLSConfig = e.options.TLS
		err = p.server.ServeTLS(conns.Wrap(p.server, netutil.LimitListener(bound, maxConnections)), "", "")
	case p.Express:
		quick := express.New(bound, express.Options{
			Handler: p.Handler, HeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, Limit: maxConnections, Logger: e.options.Logger,
		})
		p.mu.Lock()
		p.quick = quick
		p.mu.Unlock()
		err = p.server.Serve(conns.Wrap(p.server, quick))
	default:
		err = p.server.Serve(conns.Wrap(p.server, netutil.LimitListener(bound, maxConnections)))
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("cannot go on answering on %s: %w", p.Address, err)
}

// Shutdown takes no more requests and waits for those in flight until ctx ends; what is left then is cut off, and an
// error says so.
func (e *Endpoints) Shutdown(ctx context.Context) error {
	e.once.Do(func() { close(e.stop) })
	errs := make([]error, len(e.all))
	var all sync.WaitGroup
	for i, p := range e.all {
		all.Go(func() {
			if errs[i] = p.server.Shutdown(ctx); errs[i] != nil {
				_ = p.server.Close() // its listener is closed already
			}
			p.mu.Lock()
			quick := p.quick
			p.mu.Unlock()
			if quick != nil {
				errs[i] = errors.Join(errs[i], quick.Shutdown(ctx))
			}
		})
	}
	all.Wait()
	e.Close()
	return errors.Join(errs...)
}

// Close gives the addresses back and cuts off whoever is connected.
func (e *Endpoints) Close() {
	e.once.Do(func() { close(e.stop) })
	for _, p := range e.all {
		_ = p.server.Close() // listeners that it has not served are closed next
		p.mu.Lock()
		if p.quick != nil {
			p.quick.Abort()
		}
		if p.bound != nil {
			_ = p.bound.Close() // the server may have closed it
		}
		p.mu.Unlock()
	}
}

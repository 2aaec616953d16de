package access

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Certificate is a server's certificate, read again when its files change.
//
// No goroutine belongs to it: a handshake looks at the files when a second has passed since the last look. Files that do
// not hold leave the certificate as it was. Everything is safe for concurrent use and blocks for reading two small files
// at most.
type Certificate struct {
	certFile, keyFile string
	options           CertificateOptions
	current           atomic.Pointer[tls.Certificate]

	looked atomic.Int64 // Unix nanoseconds of the last look
	mu     sync.Mutex   // held by look
	seen   [2]fs.FileInfo
	fault  string // what is wrong with the files as they were seen last
}

// CertificateOptions of a certificate.
type CertificateOptions struct {
	// Warn is called with what is wrong with files that changed, and with nil when they hold again.
	Warn   func(error)
	Logger *slog.Logger     // nil logs nothing
	Now    func() time.Time // nil: time.Now
}

// OpenCertificate reads a certificate with its chain and its private key, both PEM.
func OpenCertificate(certFile, keyFile string, o CertificateOptions) (*Certificate, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	c := &Certificate{certFile: certFile, keyFile: keyFile, options: o}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.read(); err != nil {
		return nil, err
	}
	return c, nil
}

// Config is for a server of HTTP/2 and HTTP/1.1. TLS 1.2 is the oldest, which clients in shops still speak.
func (c *Certificate) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			c.look()
			return c.current.Load(), nil
		},
	}
}

// Serves reports whether the certificate is for a host: a name, by its wildcards too, or an IP address.
func (c *Certificate) Serves(host string) bool {
	return c.current.Load().Leaf.VerifyHostname(host) == nil
}

// Names returns the names and addresses of the certificate.
func (c *Certificate) Names() []string {
	leaf := c.current.Load().Leaf
	names := append([]string(nil), leaf.DNSNames...)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

// Expires is when the certificate does.
func (c *Certificate) Expires() time.Time { return c.current.Load().Leaf.NotAfter }

// look reads the files when they changed.
func (c *Certificate) look() {
	now, last := c.options.Now().UnixNano(), c.looked.Load()
	if now-last < int64(time.Second) || !c.looked.CompareAndSwap(last, now) {
		return
	}
	// Who finds another reading serves the certificate that there is.
	if !c.mu.TryLock() {
		return
	}
	defer c.mu.Unlock()
	err := c.read()
	switch {
	case errors.Is(err, errUnchanged):
	case err == nil:
		c.options.Logger.Info("the server's certificate was read", "expires", c.Expires())
		if c.fault != "" {
			c.fault = ""
			c.warn(nil)
		}
	case err.Error() != c.fault:
		c.fault = err.Error()
		c.options.Logger.Error("the server's certificate stays as it was, for its files do not hold", "error", err.Error())
		c.warn(err)
	}
}

func (c *Certificate) warn(err error) {
	if c.options.Warn != nil {
		c.options.Warn(err)
	}
}

var errUnchanged = errors.New("unchanged")

// read puts the files' certificate in force; errUnchanged is that they are as they were.
func (c *Certificate) read() error {
	var now [2]fs.FileInfo
	same := true
	for i, path := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(path)
		if err != nil {
			c.seen = [2]fs.FileInfo{}
			return fmt.Errorf("cannot read the server's certificate: %w", err)
		}
		now[i] = info
		was := c.seen[i]
		same = same && was != nil && os.SameFile(was, info) && was.Size() == info.Size() && was.ModTime().Equal(info.ModTime())
	}
	if same {
		return errUnchanged
	}
	certificate, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		// The two files are replaced one after the other: what does not match now may at the next look.
		c.seen = [2]fs.FileInfo{}
		return fmt.Errorf("cannot use the server's certificate %s with the key %s: %w", c.certFile, c.keyFile, err)
	}
	c.seen = now
	c.current.Store(&certificate)
	return nil
}

package transport

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/dhowfleet/dhow/protocol/identity"
)

const (
	// clockSkew is how far a certificate's beginning may lie in the future: clocks at branches are not exact.
	clockSkew = time.Hour
	// maxChain bounds the certificates that are looked at.
	maxChain = 6
)

var (
	// ErrUntrusted is wrapped when the manager's certificate does not hold.
	ErrUntrusted = errors.New("the manager is not trusted")
	// ErrRefused is wrapped when the manager does not accept the node's certificate.
	ErrRefused = errors.New("the manager refused this node's certificate")
)

// verifyNode checks the certificates of a node at the time now and returns who it is. A certificate that expired within
// grace is accepted and checked as of its last moment; what it was signed by need not have lived longer.
func verifyNode(certs []*x509.Certificate, roots *x509.CertPool, trustDomain string, now time.Time, grace time.Duration) (identity.Node, error) {
	leaf, intermediates, err := splitChain(certs)
	if err != nil {
		return identity.Node{}, err
	}
	node, err := identity.FromCertificate(leaf)
	if err != nil {
		return identity.Node{}, err
	}
	if node.TrustDomain != trustDomain {
		return identity.Node{}, fmt.Errorf("the certificate is of the trust domain %q, not %q", node.TrustDomain, trustDomain)
	}
	at := now
	switch {
	case now.Before(leaf.NotBefore):
		if leaf.NotBefore.Sub(now) > clockSkew {
			return identity.Node{}, fmt.Errorf("the certificate is valid from %s on", leaf.NotBefore.Format(time.RFC3339))
		}
		at = leaf.NotBefore
	case now.After(leaf.NotAfter):
		if now.Sub(leaf.NotAfter) > grace {
			return identity.Node{}, fmt.Errorf("the certificate expired on %s, longer ago than it may be renewed", leaf.NotAfter.Format(time.RFC3339))
		}
		at = leaf.NotAfter
	}
	if roots == nil {
		return identity.Node{}, errors.New("there are no roots to check the certificate against") // nil would mean the system's
	}
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return node, err
}

// serverTrust is how a client recognises the manager.
type serverTrust struct {
	name  string
	roots func() *x509.CertPool
	pin   *[32]byte
}

// verify checks the manager's certificates at the time now. A clock that is behind floor, or behind the beginning of
// the pinned root, is provably wrong: machines without a battery start in 1970. The certificate's beginning then stands
// in for the time, so that such a machine can reach its manager at all; what expired before floor is still refused.
func (t *serverTrust) verify(certs []*x509.Certificate, now, floor time.Time) error {
	leaf, intermediates, err := splitChain(certs)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	var roots *x509.CertPool
	switch {
	case t.pin != nil:
		root := pinned(certs, *t.pin)
		if root == nil {
			return fmt.Errorf("%w: none of its certificates is the one that was pinned; the address leads to another manager, or its authority was made anew", ErrUntrusted)
		}
		roots = x509.NewCertPool()
		roots.AddCert(root)
		if root.NotBefore.After(floor) {
			floor = root.NotBefore
		}
	case t.roots != nil:
		roots = t.roots()
	}
	if roots == nil {
		return fmt.Errorf("%w: there are no roots to check it against", ErrUntrusted)
	}
	at := now
	if now.Before(floor) {
		at = floor
		if leaf.NotBefore.After(at) {
			at = leaf.NotBefore
		}
	} else if early := leaf.NotBefore.Sub(now); early > 0 && early <= clockSkew {
		at = leaf.NotBefore
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		DNSName: t.name, Roots: roots, Intermediates: intermediates, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}); err != nil {
		return fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	return nil
}

func pinned(certs []*x509.Certificate, pin [32]byte) *x509.Certificate {
	for _, c := range certs {
		if sha256.Sum256(c.Raw) == pin && c.IsCA {
			return c
		}
	}
	return nil
}

func splitChain(certs []*x509.Certificate) (*x509.Certificate, *x509.CertPool, error) {
	if len(certs) == 0 {
		return nil, nil, errors.New("it has no certificate")
	}
	if len(certs) > maxChain {
		return nil, nil, fmt.Errorf("it has a chain of %d certificates, at most %d are looked at", len(certs), maxChain)
	}
	pool := x509.NewCertPool()
	for _, c := range certs[1:] {
		pool.AddCert(c)
	}
	return certs[0], pool, nil
}

// explain gives a connection's error a class that callers can act on. In TLS 1.3 a client learns only after its
// handshake that its certificate was refused, by an alert in place of the first answer.
func explain(err error) error {
	if err == nil || errors.Is(err, ErrUntrusted) || errors.Is(err, ErrRefused) {
		return err
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if t, ok := errors.AsType[*quic.TransportError](err); ok && t.Remote && t.ErrorCode.IsCryptoError() {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}

// clientTLS returns the configuration of one attempt to connect.
func (c *Client) clientTLS() (*tls.Config, error) {
	config := &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: c.cfg.ServerName,
		// The checks of crypto/tls know no pin and no floor; VerifyConnection below makes up for all of them.
		InsecureSkipVerify: true,
		Time:               c.cfg.Now,
	}
	floor := c.cfg.Floor
	if c.cfg.Certificate != nil {
		cert, err := c.cfg.Certificate()
		if err != nil {
			return nil, fmt.Errorf("cannot use this node's certificate: %w", err)
		}
		if cert != nil {
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
			if cert.Leaf != nil && cert.Leaf.NotBefore.After(floor) {
				floor = cert.Leaf.NotBefore
			}
		}
	}
	config.VerifyConnection = func(cs tls.ConnectionState) error {
		return c.trust.verify(cs.PeerCertificates, c.cfg.Now(), floor)
	}
	return config, nil
}

package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

const (
	// ClockSkew is how far a certificate's beginning may lie in the future: clocks at branches are not exact.
	ClockSkew = time.Hour
	// maxChain bounds the certificates that are looked at.
	maxChain = 6
)

// NodeTrust is how a manager, or another node, checks a node's certificate.
type NodeTrust struct {
	TrustDomain string
	Roots       *x509.CertPool
	// Grace is how long after its end a certificate is still believed. The caller sees from NotAfter that it has
	// expired, and must not let such a node do more than renew.
	Grace time.Duration
}

// Verify checks certs, a node's certificate followed by what leads to a root, at the time now, and returns who it is. A
// certificate that expired within the grace period is checked as of its last moment; what signed it need not have
// lived longer.
func (t NodeTrust) Verify(certs []*x509.Certificate, now time.Time) (Node, error) {
	leaf, intermediates, err := splitChain(certs)
	if err != nil {
		return Node{}, err
	}
	node, err := FromCertificate(leaf)
	if err != nil {
		return Node{}, err
	}
	if node.TrustDomain != t.TrustDomain {
		return Node{}, fmt.Errorf("the certificate is of the trust domain %q, not %q", node.TrustDomain, t.TrustDomain)
	}
	at := now
	switch {
	case now.Before(leaf.NotBefore):
		if leaf.NotBefore.Sub(now) > ClockSkew {
			return Node{}, fmt.Errorf("the certificate is valid from %s on", leaf.NotBefore.Format(time.RFC3339))
		}
		at = leaf.NotBefore
	case now.After(leaf.NotAfter):
		if now.Sub(leaf.NotAfter) > t.Grace {
			return Node{}, fmt.Errorf("the certificate expired on %s, longer ago than it may be renewed", leaf.NotAfter.Format(time.RFC3339))
		}
		at = leaf.NotAfter
	}
	if t.Roots == nil {
		return Node{}, errors.New("there are no roots to check the certificate against") // nil would mean the system's
	}
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots: t.Roots, Intermediates: intermediates, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return node, err
}

// ManagerTrust is how a node or an operator recognises a manager.
type ManagerTrust struct {
	// ServerName is the name or the IP address that the certificate must be for.
	ServerName string
	Roots      *x509.CertPool
	// RootPin, when set, takes the place of Roots: the SHA-256 of the DER of a root that is among the certificates.
	RootPin *[32]byte
	// Floor is a time that is certainly past.
	Floor time.Time
}

// Verify checks a manager's certificates at the time now. A clock that is behind Floor, or behind the beginning of the
// pinned root, is provably wrong: machines without a battery start in 1970. The certificate's beginning then stands in
// for the time, so that such a machine can reach its manager at all; what expired before Floor is still refused.
func (t ManagerTrust) Verify(certs []*x509.Certificate, now time.Time) error {
	leaf, intermediates, err := splitChain(certs)
	if err != nil {
		return err
	}
	roots, floor := t.Roots, t.Floor
	if t.RootPin != nil {
		root := pinned(certs, *t.RootPin)
		if root == nil {
			return errors.New("none of its certificates is the pinned root; the address leads to another manager, or its authority was made anew")
		}
		roots = x509.NewCertPool()
		roots.AddCert(root)
		if root.NotBefore.After(floor) {
			floor = root.NotBefore
		}
	}
	if roots == nil {
		return errors.New("there are no roots to check its certificate against")
	}
	at := now
	if now.Before(floor) {
		at = floor
		if leaf.NotBefore.After(at) {
			at = leaf.NotBefore
		}
	} else if early := leaf.NotBefore.Sub(now); early > 0 && early <= ClockSkew {
		at = leaf.NotBefore
	}
	_, err = leaf.Verify(x509.VerifyOptions{
		DNSName: t.ServerName, Roots: roots, Intermediates: intermediates, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return err
}

func pinned(certs []*x509.Certificate, pin [32]byte) *x509.Certificate {
	for _, c := range certs {
		if c.IsCA && sha256.Sum256(c.Raw) == pin {
			return c
		}
	}
	return nil
}

func splitChain(certs []*x509.Certificate) (*x509.Certificate, *x509.CertPool, error) {
	if len(certs) == 0 {
		return nil, nil, errors.New("there is no certificate")
	}
	if len(certs) > maxChain {
		return nil, nil, fmt.Errorf("there is a chain of %d certificates, at most %d are looked at", len(certs), maxChain)
	}
	pool := x509.NewCertPool()
	for _, c := range certs[1:] {
		pool.AddCert(c)
	}
	return certs[0], pool, nil
}

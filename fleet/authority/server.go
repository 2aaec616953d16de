package authority

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dhowfleet/dhow/protocol/identity"
)

const (
	maxHosts = 32
	// maxServers bounds the certificates kept; a manager asks for one set of hosts, a test for a few.
	maxServers = 16
)

// server is the certificate for one set of hosts. Its mutex is held while a new one is made, so that a burst of
// handshakes makes one and not a hundred.
type server struct {
	mu   sync.Mutex
	cert *tls.Certificate
}

// ServerCertificate returns the certificate by which a manager is recognised under the given hosts (DNS names and IP
// addresses) and under both names of protocol/identity. It is meant to be called at every handshake: the same
// certificate is returned until two thirds of its life are over. Its key lives in memory only. The chain includes the
// root, so that a node that knows only the root's pin can check it.
func (a *Authority) ServerCertificate(hosts []string) (*tls.Certificate, error) {
	if len(hosts) > maxHosts {
		return nil, fmt.Errorf("cannot make the server's certificate: %d host names are given, at most %d are allowed", len(hosts), maxHosts)
	}
	key := strings.Join(hosts, "\x00")
	a.mu.Lock()
	s := a.servers[key]
	if s == nil {
		if len(a.servers) >= maxServers {
			clear(a.servers)
		}
		s = &server{}
		a.servers[key] = s
	}
	a.mu.Unlock()

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cert != nil && fresh(s.cert.Leaf, a.now()) {
		return s.cert, nil
	}
	cert, err := a.newServer(hosts)
	if err != nil {
		if s.cert != nil && a.now().Before(s.cert.Leaf.NotAfter) {
			return s.cert, nil // still good, and the next handshake tries again
		}
		return nil, fmt.Errorf("cannot make the server's certificate: %w", err)
	}
	s.cert = cert
	return cert, nil
}

// fresh says whether less than two thirds of a certificate's life are over, and that it has begun.
func fresh(c *x509.Certificate, now time.Time) bool {
	return !now.Before(c.NotBefore) && now.Before(c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore)*2/3))
}

func (a *Authority) newServer(hosts []string) (*tls.Certificate, error) {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "Dhow fleet manager"},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{identity.NodeServerName, identity.EnrolServerName},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(strings.Trim(host, "[]")); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
			continue
		}
		host = strings.ToLower(strings.TrimSuffix(host, "."))
		if err := identity.ValidTrustDomain(host); err != nil {
			return nil, fmt.Errorf("%q is neither a host name nor an IP address", host)
		}
		if !slices.Contains(template.DNSNames, host) {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	leaf, issuing, err := a.sign(template, &key.PublicKey, serverLife)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw, issuing.Raw, a.root.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

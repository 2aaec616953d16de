package transport

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	"github.com/quic-go/quic-go"

	"github.com/dhowfleet/dhow/protocol/identity"
)

var (
	// ErrUntrusted is wrapped when the manager's certificate does not hold.
	ErrUntrusted = errors.New("the manager is not trusted")
	// ErrRefused is wrapped when the manager does not accept the node's certificate.
	ErrRefused = errors.New("the manager refused this node's certificate")
)

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
	trust := identity.ManagerTrust{ServerName: c.cfg.ServerName, RootPin: c.cfg.RootPin, Floor: c.cfg.Floor}
	if c.cfg.Roots != nil {
		trust.Roots = c.cfg.Roots()
	}
	if c.cfg.Certificate != nil {
		cert, err := c.cfg.Certificate()
		if err != nil {
			return nil, fmt.Errorf("cannot use this node's certificate: %w", err)
		}
		if cert != nil {
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
			if cert.Leaf != nil && cert.Leaf.NotBefore.After(trust.Floor) {
				trust.Floor = cert.Leaf.NotBefore
			}
		}
	}
	config.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := trust.Verify(cs.PeerCertificates, c.cfg.Now()); err != nil {
			return fmt.Errorf("%w: %w", ErrUntrusted, err)
		}
		return nil
	}
	return config, nil
}

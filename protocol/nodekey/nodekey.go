// Package nodekey makes a node's key, the request for a certificate that the manager signs, and of both what TLS uses. The
// key never leaves the machine that made it. Nothing blocks and nothing is kept: callers store what they get.
package nodekey

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
)

// New makes a node's key, ECDSA P-256.
func New() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make a key: %w", err)
	}
	return key, nil
}

// Encode returns a key as PKCS#8 DER, to be kept in a file that only its owner may read.
func Encode(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the key: %w", err)
	}
	return der, nil
}

// Parse reads what Encode wrote. Its error contains nothing of the key.
func Parse(der []byte) (*ecdsa.PrivateKey, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if key, ok := parsed.(*ecdsa.PrivateKey); ok && err == nil && key.Curve == elliptic.P256() {
		return key, nil
	}
	return nil, errors.New("cannot read the key: it is not an ECDSA P-256 key in PKCS#8")
}

// Request returns a PKCS#10 request in DER that proves possession of key. It asks for no name: the manager
// gives the node its names.
func Request(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("cannot make a certificate request: %w", err)
	}
	return der, nil
}

// Certificate joins a key with the chain signed for it (DER, leaf first), for transport.ClientConfig.
func Certificate(key *ecdsa.PrivateKey, chain [][]byte) (*tls.Certificate, error) {
	if len(chain) == 0 {
		return nil, errors.New("cannot use the certificate: the chain is empty")
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, fmt.Errorf("cannot use the certificate: %w", err)
	}
	if !key.PublicKey.Equal(leaf.PublicKey) {
		return nil, errors.New("cannot use the certificate: it was signed for another key")
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}, nil
}

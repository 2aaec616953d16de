// Package authority is the fleet's own certificate authority. It signs the certificates of nodes and those that the
// manager itself is recognised by.
//
// A root (ECDSA P-256, ten years) signs an issuing certificate (one year, replaced by itself at half its life), and that
// signs everything else. Nodes trust the root; every chain that the authority hands out carries what leads to it.
//
//	root.pem     certificate and key of the root. Whoever loses it enrols every node anew: it belongs in the backup.
//	issuing.pem  certificate and key that sign. Made anew from the root when it is missing or old.
//
// Each file holds certificate and key together and is replaced in one step, so that a power cut leaves the old pair or
// the new one, never halves of both. A certificate never outlives the one that signed it, hence an expired chain can
// still be checked at the moment at which its leaf expired.
//
// An Authority may be used from any goroutine. Signing blocks for a fraction of a millisecond; once in half a year it
// also writes a file. Who may be signed is not decided here. At most one process may have a directory open.
package authority

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/dhowfleet/dhow/protocol/identity"
)

const (
	rootLife    = 10 * 365 * 24 * time.Hour
	issuingLife = 365 * 24 * time.Hour
	// NodeLife is how long a node's certificate is valid; nodes renew from a third of it on.
	NodeLife = 30 * 24 * time.Hour
	// serverLife is short because the key lives in memory only: a stolen one is of little use.
	serverLife = 7 * 24 * time.Hour
	// backdate makes a fresh certificate valid on machines whose clock is a little behind.
	backdate = time.Hour

	rootFile    = "root.pem"
	issuingFile = "issuing.pem"

	maxRequest = 16 << 10
)

// ErrBadRequest is wrapped by the errors of SignNode that the request itself is at fault for.
var ErrBadRequest = errors.New("bad certificate request")

// Authority holds the fleet's keys. Its zero value is of no use; see Open.
type Authority struct {
	dir         string
	trustDomain string
	now         func() time.Time
	root        *pair

	mu      sync.Mutex
	issuing *pair
	servers map[string]*server // by the hosts they are for
}

// pair is a certificate with its key.
type pair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Open reads the authority in dir, or makes one there when dir is empty or missing. It refuses a directory that holds
// only part of an authority, one of another trust domain, and files that others may read.
func Open(dir, trustDomain string, now func() time.Time) (*Authority, error) {
	if err := identity.ValidTrustDomain(trustDomain); err != nil {
		return nil, fmt.Errorf("cannot open the authority: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the authority's directory: %w", err)
	}
	if err := removeLeftovers(dir); err != nil {
		return nil, fmt.Errorf("cannot clean the authority's directory: %w", err)
	}
	a := &Authority{dir: dir, trustDomain: trustDomain, now: now, servers: map[string]*server{}}

	root, err := readPair(filepath.Join(dir, rootFile))
	if errors.Is(err, fs.ErrNotExist) {
		// A new root beside an old issuing key would cut off every node that trusts the old one.
		if _, err := os.Lstat(filepath.Join(dir, issuingFile)); !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("cannot open the authority: %s is missing from %s but %s is there; restore it from the backup", rootFile, dir, issuingFile)
		}
		root, err = a.makeRoot()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the authority: %w", err)
	}
	if got := root.cert.PermittedURIDomains; len(got) != 1 || got[0] != trustDomain {
		return nil, fmt.Errorf("cannot open the authority: the root in %s is for the trust domain %q, not %q; set the trust domain back, or start with an empty directory and enrol every node anew", dir, got, trustDomain)
	}
	a.root = root

	issuing, err := readPair(filepath.Join(dir, issuingFile))
	if err == nil && issuing.cert.CheckSignatureFrom(root.cert) != nil {
		err = fmt.Errorf("%s is not signed by %s; they come from different backups, delete %[1]s and it is made anew", issuingFile, rootFile)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot open the authority: %w", err)
	}
	a.issuing = issuing // nil when missing
	if _, err := a.signer(now()); err != nil {
		return nil, fmt.Errorf("cannot open the authority: %w", err)
	}
	return a, nil
}

// TrustDomain returns the trust domain that was given to Open.
func (a *Authority) TrustDomain() string { return a.trustDomain }

// Roots returns the certificates to check nodes and managers against.
func (a *Authority) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.root.cert)
	return pool
}

// RootsDER returns the same certificates in DER, to be handed to nodes.
func (a *Authority) RootsDER() [][]byte { return [][]byte{a.root.cert.Raw} }

// RootPin returns the SHA-256 of the root certificate's DER, by which a node recognises the manager before it has a
// certificate. It never changes.
func (a *Authority) RootPin() [32]byte { return sha256.Sum256(a.root.cert.Raw) }

// DeriveKey returns a secret that stays the same as long as the root does, a different one for every purpose, for keys
// that must outlive a restart without a file of their own.
func (a *Authority) DeriveKey(purpose string) ([32]byte, error) {
	private, err := a.root.key.Bytes()
	if err != nil {
		return [32]byte{}, fmt.Errorf("cannot derive a key: %w", err)
	}
	key, err := hkdf.Key(sha256.New, private, nil, "dhow "+purpose, 32)
	if err != nil {
		return [32]byte{}, fmt.Errorf("cannot derive a key: %w", err)
	}
	return [32]byte(key), nil
}

func (a *Authority) makeRoot() (*pair, error) {
	now := a.now()
	p, err := a.newCA(now, now.Add(rootLife), 1, "Dhow root of "+a.trustDomain, nil)
	if err != nil {
		return nil, err
	}
	return p, writePair(a.dir, rootFile, p)
}

// signer returns the pair that signs at the time now, replacing it when half its life is over. A replacement that
// cannot be written is tried again at the next signing, as long as the present one is valid.
func (a *Authority) signer(now time.Time) (*pair, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now.Before(a.root.cert.NotBefore) {
		return nil, fmt.Errorf("this machine's clock says %s, which is before the authority was made; set the clock", now.UTC().Format(time.DateTime))
	}
	if !now.Before(a.root.cert.NotAfter) {
		return nil, fmt.Errorf("the root certificate expired on %s; make a new authority and enrol the nodes anew", a.root.cert.NotAfter.Format(time.DateOnly))
	}
	if a.issuing != nil {
		c := a.issuing.cert
		if !now.Before(c.NotBefore) && now.Before(c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore)/2)) {
			return a.issuing, nil
		}
	}
	fresh, err := a.newCA(now, earlier(now.Add(issuingLife), a.root.cert.NotAfter), 0, "Dhow issuing authority of "+a.trustDomain, a.root)
	if err == nil {
		err = writePair(a.dir, issuingFile, fresh)
	}
	if err == nil {
		a.issuing = fresh
		return fresh, nil
	}
	if old := a.issuing; old != nil && !now.Before(old.cert.NotBefore) && now.Before(old.cert.NotAfter) {
		return old, nil
	}
	return nil, fmt.Errorf("cannot make a new issuing certificate: %w", err)
}

// newCA makes a key and its authority certificate, signed by parent, or by itself without one.
func (a *Authority) newCA(now, notAfter time.Time, pathLen int, name string, parent *pair) (*pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make a key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: clip(name), Organization: []string{"Dhow"}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            pathLen,
		MaxPathLenZero:        pathLen == 0,
		// Even a stolen issuing key cannot name a node of another fleet.
		PermittedDNSDomainsCritical: true,
		PermittedURIDomains:         []string{a.trustDomain},
	}
	signer := &pair{cert: template, key: key}
	if parent != nil {
		signer = parent
		template.NotBefore = later(template.NotBefore, parent.cert.NotBefore)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.cert, &key.PublicKey, signer.key)
	if err != nil {
		return nil, fmt.Errorf("cannot sign %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("cannot read back %s: %w", name, err)
	}
	return &pair{cert: cert, key: key}, nil
}

// SignNode signs a certificate for the node n, valid for NodeLife, and returns it in DER followed by what leads to the
// root, the root itself left out. The request proves that the node has the key; every name in it is ignored. An error
// wraps ErrBadRequest when the request is at fault and not the authority.
func (a *Authority) SignNode(csrDER []byte, n identity.Node) (chain [][]byte, notAfter time.Time, err error) {
	if err := n.Validate(); err != nil {
		return nil, time.Time{}, fmt.Errorf("cannot sign a node's certificate: %w", err)
	}
	if n.TrustDomain != a.trustDomain {
		return nil, time.Time{}, fmt.Errorf("cannot sign a node's certificate: the trust domain is %q, not %q", a.trustDomain, n.TrustDomain)
	}
	public, err := requestedKey(csrDER)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("cannot sign a node's certificate: %w: %w", ErrBadRequest, err)
	}
	uri, err := url.Parse(n.URI())
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("cannot sign a node's certificate: %w", err)
	}
	leaf, issuing, err := a.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: n.ID},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{uri},
	}, public, NodeLife)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("cannot sign a node's certificate: %w", err)
	}
	return [][]byte{leaf.Raw, issuing.Raw}, leaf.NotAfter, nil
}

// requestedKey returns the public key of a certificate request whose signature holds.
func requestedKey(csrDER []byte) (any, error) {
	if len(csrDER) > maxRequest {
		return nil, fmt.Errorf("it has %d bytes, at most %d are allowed", len(csrDER), maxRequest)
	}
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err != nil {
		return nil, fmt.Errorf("it cannot be read: %w", err)
	}
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("its key is %s, only ECDSA P-256 is signed", describeKey(csr.PublicKey))
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("its signature does not hold: %w", err)
	}
	return key, nil
}

// sign completes template and signs it with the present issuing key.
func (a *Authority) sign(template *x509.Certificate, public any, life time.Duration) (leaf, issuing *x509.Certificate, err error) {
	now := a.now()
	issuer, err := a.signer(now)
	if err != nil {
		return nil, nil, err
	}
	if template.SerialNumber, err = newSerial(); err != nil {
		return nil, nil, err
	}
	template.BasicConstraintsValid = true
	template.NotBefore = later(now.Add(-backdate), issuer.cert.NotBefore)
	template.NotAfter = earlier(now.Add(life), issuer.cert.NotAfter)
	der, err := x509.CreateCertificate(rand.Reader, template, issuer.cert, public, issuer.key)
	if err != nil {
		return nil, nil, err
	}
	leaf, err = x509.ParseCertificate(der)
	return leaf, issuer.cert, err
}

// newSerial returns 127 random bits, positive as RFC 5280 wants.
func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("cannot make a serial number: %w", err)
	}
	return serial.Add(serial, big.NewInt(1)), nil
}

func describeKey(key any) string {
	if k, ok := key.(*ecdsa.PublicKey); ok {
		return "ECDSA " + k.Curve.Params().Name
	}
	return fmt.Sprintf("%T", key)
}

// clip shortens a common name to the 64 characters that X.520 allows.
func clip(s string) string { return s[:min(len(s), 64)] }

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

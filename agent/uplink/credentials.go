package uplink

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/protocol/identity"
	"github.com/dhowfleet/dhow/protocol/nodekey"
	"github.com/dhowfleet/dhow/test/failpoint"
)

// The files of an identity. They lie apart from state.db, so that a node whose state is lost still is who it is.
const (
	keyFile   = "key.pem"
	certFile  = "cert.pem"
	rootsFile = "roots.pem"
	nameFile  = "name.pem" // what operators call the node
)

// maxIdentityFile bounds what is read back.
const maxIdentityFile = 256 << 10

// Credentials are the node's key, its certificate once it is enrolled, and the roots that it trusts. All methods may
// be called from any goroutine; Take writes to disk.
type Credentials struct {
	dir string
	key *ecdsa.PrivateKey

	mu    sync.RWMutex
	cert  *tls.Certificate // nil before enrolment
	roots *x509.CertPool
	node  identity.Node
	name  string
}

// NoCredentials are those of a node whose identity cannot be read: it serves what it has, and talks to nobody.
func NoCredentials() *Credentials { return &Credentials{} }

// OpenCredentials reads the identity in dir, and makes a key when there is none.
func OpenCredentials(dir string) (*Credentials, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the identity folder: %w", err)
	}
	c := &Credentials{dir: dir}
	var err error
	if c.key, err = c.openKey(); err != nil {
		return nil, err
	}
	chain, err := c.read(certFile)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	roots, err := c.read(rootsFile)
	if err != nil {
		return nil, err
	}
	if err := c.use(chain, roots); err != nil {
		return nil, fmt.Errorf("cannot use the identity in %s: %w", dir, err)
	}
	if name, err := c.read(nameFile); err == nil { // nothing depends on it
		c.name = string(name[0])
	}
	return c, nil
}

// openKey reads the key or makes it. It is on disk before it is used, so that a lost answer to an enrolment can be
// asked for again with the same key.
func (c *Credentials) openKey() (*ecdsa.PrivateKey, error) {
	blocks, err := c.read(keyFile)
	if err == nil {
		key, err := nodekey.Parse(blocks[0])
		if err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", filepath.Join(c.dir, keyFile), err)
		}
		return key, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := nodekey.New()
	if err != nil {
		return nil, err
	}
	der, err := nodekey.Encode(key)
	if err != nil {
		return nil, err
	}
	if err := c.write(keyFile, "PRIVATE KEY", [][]byte{der}); err != nil {
		return nil, err
	}
	failpoint.Here("identity/key")
	return key, nil
}

// Usable reports whether there is a key, enrolled or not.
func (c *Credentials) Usable() bool { return c.key != nil }

// Enrolled reports whether there is a certificate.
func (c *Credentials) Enrolled() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.cert != nil
}

// Node is who the node is; it is zero before enrolment.
func (c *Credentials) Node() identity.Node {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.node
}

// Name is what operators call the node; empty before enrolment.
func (c *Credentials) Name() string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.name
}

// Certificate is shown to the manager; nil before enrolment.
func (c *Credentials) Certificate() (*tls.Certificate, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.cert, nil
}

// Roots is what the manager's certificate must be signed by; nil before enrolment.
func (c *Credentials) Roots() *x509.CertPool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.roots
}

// Validity returns when the certificate begins and ends; zero before enrolment.
func (c *Credentials) Validity() (from, to time.Time) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.cert == nil {
		return time.Time{}, time.Time{}
	}
	return c.cert.Leaf.NotBefore, c.cert.Leaf.NotAfter
}

// Request returns a certificate request for the node's key.
func (c *Credentials) Request() ([]byte, error) { return nodekey.Request(c.key) }

// Take makes an identity that the manager gave the node's own, durably. With a pin, one of its roots must have it.
func (c *Credentials) Take(id *syncv1.Identity, pin *[32]byte) error {
	if pin != nil {
		pinned := false
		for _, der := range id.GetTrustRoots() {
			pinned = pinned || sha256.Sum256(der) == *pin
		}
		if !pinned {
			return errors.New("cannot take the identity: none of its trust roots is the one that the join token names")
		}
	}
	probe := &Credentials{key: c.key}
	if err := probe.use(id.GetCertificateChain(), id.GetTrustRoots()); err != nil {
		return fmt.Errorf("cannot take the identity: %w", err)
	}
	if n := probe.node; n.ID != id.GetNodeId() || n.Region != id.GetRegion() || n.Site != id.GetSite() || n.TrustDomain != id.GetTrustDomain() {
		return fmt.Errorf("cannot take the identity: the certificate is %s's", n)
	}
	// The certificate last: that there is one means that all is there.
	name := id.GetNodeName()
	if name != "" && name != c.Name() { // it stays over most renewals
		if err := c.write(nameFile, "NODE NAME", [][]byte{[]byte(name)}); err != nil {
			return err
		}
	}
	if err := c.write(rootsFile, "CERTIFICATE", id.GetTrustRoots()); err != nil {
		return err
	}
	failpoint.Here("identity/roots")
	if err := c.write(certFile, "CERTIFICATE", id.GetCertificateChain()); err != nil {
		return err
	}
	failpoint.Here("identity/certificate")
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cert, c.roots, c.node = probe.cert, probe.roots, probe.node
	if name != "" {
		c.name = name
	}
	return nil
}

// use checks that chain and roots belong together and to the key, at the time when the certificate began: this
// machine's clock may not be set yet.
func (c *Credentials) use(chain, roots [][]byte) error {
	cert, err := nodekey.Certificate(c.key, chain)
	if err != nil {
		return err
	}
	pool, between := x509.NewCertPool(), x509.NewCertPool()
	for _, der := range roots {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("a trust root cannot be read: %w", err)
		}
		pool.AddCert(root)
	}
	for _, der := range chain[1:] {
		ca, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("the certificate's chain cannot be read: %w", err)
		}
		between.AddCert(ca)
	}
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: between, CurrentTime: cert.Leaf.NotBefore.Add(time.Second), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return fmt.Errorf("the certificate is not signed by the trust roots: %w", err)
	}
	node, err := identity.FromCertificate(cert.Leaf)
	if err != nil {
		return err
	}
	c.cert, c.roots, c.node = cert, pool, node
	return nil
}

// read returns the DER of each PEM block of a file, of which there is at least one.
func (c *Credentials) read(name string) ([][]byte, error) {
	path := filepath.Join(c.dir, name)
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the identity: %w", err)
	}
	if info.Size() > maxIdentityFile {
		return nil, fmt.Errorf("cannot read the identity: %s has %d bytes", path, info.Size())
	}
	rest, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the identity: %w", err)
	}
	var out [][]byte
	for {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		out = append(out, b.Bytes)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("cannot read the identity: %s holds no PEM block", path)
	}
	return out, nil
}

// write replaces a file in one step, readable by its owner only.
func (c *Credentials) write(name, kind string, blocks [][]byte) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot write the identity: %w", err)
		}
	}()
	f, err := os.CreateTemp(c.dir, name+".new-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone when it was renamed
	for _, der := range blocks {
		if err := pem.Encode(f, &pem.Block{Type: kind, Bytes: der}); err != nil {
			_ = f.Close() // the first error says what is wrong
			return err
		}
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), filepath.Join(c.dir, name)); err != nil {
		return err
	}
	d, err := os.Open(c.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

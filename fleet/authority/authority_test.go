package authority

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/protocol/identity"
)

const domain = "fleet.example"

var (
	start  = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	berlin = identity.Node{TrustDomain: domain, Region: "eu-west", Site: "berlin", ID: "n1"}
)

// clock is a time that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func open(t *testing.T, dir string) (*Authority, *clock) {
	t.Helper()
	c := &clock{now: start}
	a, err := Open(dir, domain, c.Now)
	if err != nil {
		t.Fatal(err)
	}
	return a, c
}

func request(t *testing.T, key crypto.Signer, names ...string) []byte {
	t.Helper()
	template := &x509.CertificateRequest{DNSNames: names, Subject: pkix.Name{CommonName: "root"}}
	for _, n := range names {
		template.URIs = append(template.URIs, &url.URL{Scheme: "spiffe", Host: n})
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// check verifies a chain as a peer does and returns its leaf.
func check(a *Authority, chain [][]byte, opts x509.VerifyOptions) (*x509.Certificate, error) {
	opts.Roots, opts.Intermediates = a.Roots(), x509.NewCertPool()
	var leaf *x509.Certificate
	for i, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			leaf = c
		} else {
			opts.Intermediates.AddCert(c)
		}
	}
	_, err := leaf.Verify(opts)
	return leaf, err
}

func TestSignedNodeIsWhoTheFleetSaysAndNotWhoItAsksToBe(t *testing.T) {
	a, c := open(t, t.TempDir())
	key := newKey(t)
	chain, notAfter, err := a.SignNode(request(t, key, "evil.example", identity.NodeServerName), berlin)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := check(a, chain, x509.VerifyOptions{CurrentTime: c.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := identity.FromCertificate(leaf); err != nil || got != berlin {
		t.Errorf("the certificate names %v (%v), want %v", got, err, berlin)
	}
	if len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) != 0 || leaf.Subject.CommonName != "n1" || leaf.IsCA {
		t.Errorf("names of the request went into the certificate: %v %v", leaf.DNSNames, leaf.Subject)
	}
	if !key.PublicKey.Equal(leaf.PublicKey) || !leaf.NotAfter.Equal(notAfter) || !notAfter.Equal(start.Add(NodeLife)) {
		t.Errorf("key or life is wrong: until %v, told %v", leaf.NotAfter, notAfter)
	}
	if _, err := check(a, chain, x509.VerifyOptions{CurrentTime: c.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err == nil {
		t.Error("a node's certificate passes for a manager's")
	}
}

func TestSignNodeRefuses(t *testing.T) {
	a, _ := open(t, t.TempDir())
	good := request(t, newKey(t))
	broken := slices.Clone(good)
	broken[len(broken)-1] ^= 1
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, csr := range map[string][]byte{
		"empty": nil, "garbage": []byte("hello"), "bad signature": broken, "huge": make([]byte, maxRequest+1),
		"rsa": request(t, rsaKey), "p-384": request(t, p384), "ed25519": request(t, ed),
	} {
		if _, _, err := a.SignNode(csr, berlin); !errors.Is(err, ErrBadRequest) {
			t.Errorf("%s: error %v, want ErrBadRequest", name, err)
		}
	}
	for name, n := range map[string]identity.Node{
		"other domain": {TrustDomain: "other.example", Region: "r", Site: "s", ID: "n"},
		"no site":      {TrustDomain: domain, Region: "r", ID: "n"},
		"bad region":   {TrustDomain: domain, Region: "R/..", Site: "s", ID: "n"},
	} {
		if _, _, err := a.SignNode(good, n); err == nil || errors.Is(err, ErrBadRequest) {
			t.Errorf("%s: error %v, want one that does not blame the request", name, err)
		}
	}
}

func TestServerCertificateIsKnownByThePinAndRenewsItself(t *testing.T) {
	a, c := open(t, t.TempDir())
	hosts := []string{"localhost", "127.0.0.1", "[::1]", "Fleet.Example.com."}
	first, err := a.ServerCertificate(hosts)
	if err != nil {
		t.Fatal(err)
	}
	if got := sha256.Sum256(first.Certificate[len(first.Certificate)-1]); got != a.RootPin() {
		t.Error("the chain does not end in the pinned root")
	}
	for _, name := range []string{"localhost", "127.0.0.1", "::1", "fleet.example.com", identity.NodeServerName, identity.EnrolServerName} {
		if _, err := check(a, first.Certificate, x509.VerifyOptions{CurrentTime: c.Now(), DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := check(a, first.Certificate, x509.VerifyOptions{CurrentTime: c.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("a manager's certificate passes for a node's")
	}
	for _, step := range []struct {
		forward time.Duration
		same    bool
	}{{time.Hour, true}, {serverLife / 2, true}, {serverLife / 4, false}} {
		c.forward(step.forward)
		got, err := a.ServerCertificate(hosts)
		if err != nil {
			t.Fatal(err)
		}
		if (got == first) != step.same {
			t.Errorf("%v later: the same certificate is %v, want %v", step.forward, got == first, step.same)
		}
		if _, err := check(a, got.Certificate, x509.VerifyOptions{CurrentTime: c.Now(), DNSName: "localhost"}); err != nil {
			t.Errorf("%v later: %v", step.forward, err)
		}
	}
	for _, bad := range []string{"", "a b", "*.example.com", "http://x", strings.Repeat("a", 300)} {
		if _, err := a.ServerCertificate([]string{bad}); err == nil {
			t.Errorf("host %q was accepted", bad)
		}
	}
	if _, err := a.ServerCertificate(slices.Repeat([]string{"localhost"}, maxHosts+1)); err == nil {
		t.Error("too many hosts were accepted")
	}
}

func TestManyHandshakesShareOneCertificate(t *testing.T) {
	a, _ := open(t, t.TempDir())
	var wg sync.WaitGroup
	got := make([]*tls.Certificate, 16)
	for i := range got {
		wg.Go(func() { got[i], _ = a.ServerCertificate([]string{"localhost"}) })
	}
	wg.Wait()
	for _, cert := range got {
		if cert == nil || cert != got[0] {
			t.Fatal("handshakes at the same time got different certificates")
		}
	}
}

func TestAuthorityOutlivesARestart(t *testing.T) {
	dir := t.TempDir()
	a, _ := open(t, dir)
	chain, _, err := a.SignNode(request(t, newKey(t)), berlin)
	if err != nil {
		t.Fatal(err)
	}
	key, err := a.DeriveKey("x")
	if err != nil {
		t.Fatal(err)
	}
	b, c := open(t, dir)
	if a.RootPin() != b.RootPin() || !a.issuing.cert.Equal(b.issuing.cert) {
		t.Fatal("another authority came up")
	}
	if _, err := check(b, chain, x509.VerifyOptions{CurrentTime: c.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Error(err)
	}
	again, _ := b.DeriveKey("x")
	other, _ := b.DeriveKey("y")
	if again != key || other == key {
		t.Error("derived keys are not stable or not separate")
	}
	for _, name := range []string{rootFile, issuingFile} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}
}

func TestIssuingKeyIsReplacedAndOldNodesStayValid(t *testing.T) {
	dir := t.TempDir()
	a, c := open(t, dir)
	first := a.issuing.cert
	c.forward(issuingLife/2 - 2*time.Hour)
	chain, _, err := a.SignNode(request(t, newKey(t)), berlin)
	if err != nil {
		t.Fatal(err)
	}
	if !a.issuing.cert.Equal(first) {
		t.Fatal("replaced before half its life")
	}
	c.forward(3 * time.Hour)
	chain2, _, err := a.SignNode(request(t, newKey(t)), berlin)
	if err != nil {
		t.Fatal(err)
	}
	if a.issuing.cert.Equal(first) {
		t.Fatal("not replaced after half its life")
	}
	for i, chain := range [][][]byte{chain, chain2} {
		if _, err := check(a, chain, x509.VerifyOptions{CurrentTime: c.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			t.Errorf("chain %d: %v", i, err)
		}
	}
	b, err := Open(dir, domain, c.Now)
	if err != nil || !b.issuing.cert.Equal(a.issuing.cert) {
		t.Errorf("the replacement was not kept: %v", err)
	}
}

func TestIssuingGoesOnWhileTheDiskIsAtFault(t *testing.T) {
	dir := t.TempDir()
	a, c := open(t, dir)
	a.dir = filepath.Join(dir, "gone")
	c.forward(issuingLife * 3 / 4)
	if _, _, err := a.SignNode(request(t, newKey(t)), berlin); err != nil {
		t.Fatalf("cannot sign although the issuing certificate is valid: %v", err)
	}
	c.forward(issuingLife / 2)
	if _, _, err := a.SignNode(request(t, newKey(t)), berlin); err == nil || !strings.Contains(err.Error(), "issuing certificate") {
		t.Fatalf("signed with an expired issuing certificate: %v", err)
	}
	a.dir = dir
	if _, _, err := a.SignNode(request(t, newKey(t)), berlin); err != nil {
		t.Fatalf("did not recover with the disk: %v", err)
	}
}

func TestNoCertificateOutlivesItsIssuer(t *testing.T) {
	a, c := open(t, t.TempDir())
	c.forward(rootLife - 10*24*time.Hour)
	chain, notAfter, err := a.SignNode(request(t, newKey(t)), berlin)
	if err != nil {
		t.Fatal(err)
	}
	if notAfter.After(a.root.cert.NotAfter) {
		t.Errorf("valid until %v, the root until %v", notAfter, a.root.cert.NotAfter)
	}
	if _, err := check(a, chain, x509.VerifyOptions{CurrentTime: notAfter, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Errorf("the chain does not hold at the leaf's last moment: %v", err)
	}
	c.forward(11 * 24 * time.Hour)
	if _, _, err := a.SignNode(request(t, newKey(t)), berlin); err == nil || !strings.Contains(err.Error(), "root certificate expired") {
		t.Errorf("signed after the root's end: %v", err)
	}
}

func TestClockBeforeTheAuthorityIsNamed(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	_, err := Open(dir, domain, func() time.Time { return time.Unix(1000, 0) })
	if err == nil || !strings.Contains(err.Error(), "set the clock") {
		t.Fatalf("error %v does not name the clock", err)
	}
}

func TestOpenRefusesWhatWouldCutNodesOff(t *testing.T) {
	for name, spoil := range map[string]struct {
		do   func(t *testing.T, dir string)
		want string
	}{
		"no root": {func(t *testing.T, dir string) { remove(t, dir, rootFile) }, "restore it from the backup"},
		"truncated root": {func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, rootFile), 300); err != nil {
				t.Fatal(err)
			}
		}, "damaged"},
		"empty issuing": {func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, issuingFile), 0); err != nil {
				t.Fatal(err)
			}
		}, "damaged"},
		"readable by others": {func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, rootFile), 0o640); err != nil {
				t.Fatal(err)
			}
		}, "chmod 600"},
		"halves of two authorities": {func(t *testing.T, dir string) {
			other := t.TempDir()
			open(t, other)
			if err := os.Rename(filepath.Join(other, issuingFile), filepath.Join(dir, issuingFile)); err != nil {
				t.Fatal(err)
			}
		}, "different backups"},
	} {
		dir := t.TempDir()
		open(t, dir)
		spoil.do(t, dir)
		if _, err := Open(dir, domain, func() time.Time { return start }); err == nil || !strings.Contains(err.Error(), spoil.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, spoil.want)
		}
	}
	dir := t.TempDir()
	open(t, dir)
	if _, err := Open(dir, "other.example", func() time.Time { return start }); err == nil || !strings.Contains(err.Error(), "trust domain") {
		t.Errorf("another trust domain: %v", err)
	}
	if _, err := Open(t.TempDir(), "Not A Domain", func() time.Time { return start }); err == nil {
		t.Error("a trust domain that is no name was accepted")
	}
}

func TestMissingIssuingAndLeftoversHeal(t *testing.T) {
	dir := t.TempDir()
	a, _ := open(t, dir)
	remove(t, dir, issuingFile)
	left := filepath.Join(dir, temporaryPrefix+"123")
	if err := os.WriteFile(left, []byte("half a key"), 0o600); err != nil {
		t.Fatal(err)
	}
	b, _ := open(t, dir)
	if a.RootPin() != b.RootPin() {
		t.Error("the root changed")
	}
	if _, err := os.Stat(left); err == nil {
		t.Error("the leftover of a write that was cut off is still there")
	}
}

func TestIssuingKeyCannotNameAnotherFleet(t *testing.T) {
	a, c := open(t, t.TempDir())
	key := newKey(t)
	leaf, issuing, err := a.sign(&x509.Certificate{
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs: []*url.URL{{Scheme: "spiffe", Host: "other.example", Path: "/region/r/site/s/node/n"}},
	}, &key.PublicKey, NodeLife)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := check(a, [][]byte{leaf.Raw, issuing.Raw}, x509.VerifyOptions{CurrentTime: c.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
		t.Error("a node of another trust domain was accepted")
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

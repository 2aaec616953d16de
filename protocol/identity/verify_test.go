package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

// ca is an authority for tests; its certificates are what the fleet's own would be, or wrong in one respect.
type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t *testing.T, notBefore time.Time) *ca {
	t.Helper()
	c := &ca{}
	c.cert, c.key = sign(t, nil, &x509.Certificate{
		NotBefore: notBefore, NotAfter: notBefore.Add(3650 * day), IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return c
}

func sign(t *testing.T, by *ca, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, template.BasicConstraintsValid = big.NewInt(1), true
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (c *ca) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(c.cert)
	return p
}

func (c *ca) node(t *testing.T, n Node, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	uri, err := url.Parse(n.URI())
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		NotBefore: noon.Add(-10 * day), NotAfter: noon.Add(20 * day), URIs: []*url.URL{uri},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if change != nil {
		change(template)
	}
	cert, _ := sign(t, c, template)
	return cert
}

func (c *ca) manager(t *testing.T, notBefore time.Time) []*x509.Certificate {
	t.Helper()
	cert, _ := sign(t, c, &x509.Certificate{
		NotBefore: notBefore, NotAfter: notBefore.Add(7 * day), DNSNames: []string{NodeServerName},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	})
	return []*x509.Certificate{cert, c.cert}
}

func TestNodeTrust(t *testing.T) {
	ours, theirs := newCA(t, noon.Add(-100*day)), newCA(t, noon.Add(-100*day))
	node := Node{TrustDomain: "fleet.example", Region: "eu", Site: "berlin", ID: "n1"}
	foreign := node
	foreign.TrustDomain = "other.example"
	good := ours.node(t, node, nil)
	for name, tc := range map[string]struct {
		cert *x509.Certificate
		now  time.Time
		want string // in the error; empty: accepted
	}{
		"good":                      {good, noon, ""},
		"first moment":              {good, good.NotBefore, ""},
		"last moment":               {good, good.NotAfter, ""},
		"clock a little behind":     {good, good.NotBefore.Add(-59 * time.Minute), ""},
		"clock far behind":          {good, good.NotBefore.Add(-61 * time.Minute), "valid from"},
		"expired within grace":      {good, good.NotAfter.Add(6 * day), ""},
		"expired at grace's end":    {good, good.NotAfter.Add(7 * day), ""},
		"expired beyond grace":      {good, good.NotAfter.Add(7*day + time.Second), "expired"},
		"another authority":         {theirs.node(t, node, nil), noon, "unknown authority"},
		"another authority expired": {theirs.node(t, node, nil), good.NotAfter.Add(day), "unknown authority"},
		"another trust domain":      {ours.node(t, foreign, nil), noon, "trust domain"},
		"for servers": {ours.node(t, node, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}), noon, "key usage"},
		"two names": {ours.node(t, node, func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }), noon, "2 URIs"},
		"an authority's": {ours.node(t, node, func(c *x509.Certificate) {
			c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign
		}), noon, "authority"},
	} {
		trust := NodeTrust{TrustDomain: "fleet.example", Roots: ours.pool(), Grace: 7 * day}
		got, err := trust.Verify([]*x509.Certificate{tc.cert}, tc.now)
		if tc.want == "" && (err != nil || got != node) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: error %v, want one with %q", name, err, tc.want)
		}
	}
	if _, err := (NodeTrust{TrustDomain: "fleet.example"}).Verify([]*x509.Certificate{good}, noon); err == nil {
		t.Error("accepted without roots: the system's must never be used")
	}
	trust := NodeTrust{TrustDomain: "fleet.example", Roots: ours.pool()}
	if _, err := trust.Verify(nil, noon); err == nil {
		t.Error("accepted without a certificate")
	}
	many := []*x509.Certificate{good, good, good, good, good, good, good}
	if _, err := trust.Verify(many, noon); err == nil {
		t.Error("accepted an endless chain")
	}
}

func TestManagerTrust(t *testing.T) {
	made := noon.Add(-100 * day)
	ours, theirs := newCA(t, made), newCA(t, made)
	pin := sha256.Sum256(ours.cert.Raw)
	begin := noon.Add(-3 * day)
	good := ours.manager(t, begin)
	y1970 := time.Unix(3600, 0)
	for name, tc := range map[string]struct {
		trust ManagerTrust
		certs []*x509.Certificate
		now   time.Time
		want  string
	}{
		"roots":                         {ManagerTrust{Roots: ours.pool()}, good, noon, ""},
		"pin":                           {ManagerTrust{RootPin: &pin}, good, noon, ""},
		"no roots":                      {ManagerTrust{}, good, noon, "no roots"},
		"another authority":             {ManagerTrust{Roots: ours.pool()}, theirs.manager(t, begin), noon, "unknown authority"},
		"another authority, pinned":     {ManagerTrust{RootPin: &pin}, theirs.manager(t, begin), noon, "pinned root"},
		"pinned root only shown":        {ManagerTrust{RootPin: &pin}, append(theirs.manager(t, begin), ours.cert), noon, "unknown authority"},
		"another name":                  {ManagerTrust{Roots: ours.pool(), ServerName: "evil.example"}, good, noon, "evil.example"},
		"a node's":                      {ManagerTrust{Roots: ours.pool()}, []*x509.Certificate{ours.node(t, Node{"fleet.example", "r", "s", "n"}, nil)}, noon, "not valid for any names"},
		"expired":                       {ManagerTrust{Roots: ours.pool()}, good, noon.Add(5 * day), "expired"},
		"a little behind":               {ManagerTrust{Roots: ours.pool()}, good, begin.Add(-59 * time.Minute), ""},
		"far behind, no floor":          {ManagerTrust{Roots: ours.pool()}, good, begin.Add(-day), "not yet valid"},
		"1970, no floor":                {ManagerTrust{Roots: ours.pool()}, good, y1970, "not yet valid"},
		"1970, pinned":                  {ManagerTrust{RootPin: &pin}, good, y1970, ""},
		"1970, floor before it":         {ManagerTrust{Roots: ours.pool(), Floor: begin.Add(-20 * day)}, good, y1970, ""},
		"1970, floor in its life":       {ManagerTrust{Roots: ours.pool(), Floor: begin.Add(day)}, good, y1970, ""},
		"1970, expired before floor":    {ManagerTrust{Roots: ours.pool(), Floor: begin.Add(8 * day)}, good, y1970, "expired"},
		"clock after floor is believed": {ManagerTrust{Roots: ours.pool(), Floor: begin.Add(-20 * day)}, good, begin.Add(-10 * day), "not yet valid"},
	} {
		if tc.trust.ServerName == "" {
			tc.trust.ServerName = NodeServerName
		}
		err := tc.trust.Verify(tc.certs, tc.now)
		if tc.want == "" && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: error %v, want one with %q", name, err, tc.want)
		}
	}
}

package identity

import (
	"crypto/x509"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var nodes = rapid.Custom(func(t *rapid.T) Node {
	name := rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?`)
	return Node{
		TrustDomain: strings.Join(rapid.SliceOfN(name, 1, 4).Draw(t, "domain"), "."),
		Region:      name.Draw(t, "region"), Site: name.Draw(t, "site"), ID: name.Draw(t, "id"),
	}
})

func TestURIReadsBackToTheSameNode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := nodes.Draw(t, "node")
		got, err := ParseURI(n.URI())
		if err != nil || got != n {
			t.Fatalf("ParseURI(%q) = %+v, %v; want %+v", n.URI(), got, err, n)
		}
		u, err := url.Parse(n.URI())
		if err != nil || u.String() != n.URI() {
			t.Fatalf("net/url spells %q as %q (%v): certificates would name another node", n.URI(), u, err)
		}
	})
}

func TestParseURIRefuses(t *testing.T) {
	for _, uri := range []string{
		"", "spiffe://", "https://f/region/r/site/s/node/n", "SPIFFE://f/region/r/site/s/node/n",
		"spiffe://f/region/r/site/s/node/", "spiffe://f/region/r/site/s/node/n/", "spiffe://f/region/r/site/s",
		"spiffe:///region/r/site/s/node/n", "spiffe://f:1/region/r/site/s/node/n", "spiffe://u@f/region/r/site/s/node/n",
		"spiffe://f/region/R/site/s/node/n", "spiffe://f/region/../site/s/node/n", "spiffe://f/region/r%2f/site/s/node/n",
		"spiffe://f/region/r/site/s/node/n?x=1", "spiffe://f/region/r/site/s/node/n#x", "spiffe://f/site/s/region/r/node/n",
		"spiffe://f./region/r/site/s/node/n", "spiffe://f/region/r/site/s/node/" + strings.Repeat("n", 64),
		"spiffe://" + strings.Repeat("a.", 130) + "a/region/r/site/s/node/n",
	} {
		if n, err := ParseURI(uri); err == nil {
			t.Errorf("ParseURI(%q) = %+v, want an error", uri, n)
		} else if !strings.HasPrefix(err.Error(), "cannot read node id") {
			t.Errorf("ParseURI(%q): error %q does not say what failed", uri, err)
		}
	}
}

func TestFromCertificateWantsExactlyOneURI(t *testing.T) {
	node := Node{TrustDomain: "fleet.example", Region: "eu", Site: "berlin", ID: "n1"}
	uri, err := url.Parse(node.URI())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := FromCertificate(&x509.Certificate{URIs: []*url.URL{uri}}); err != nil || got != node {
		t.Fatalf("FromCertificate = %+v, %v; want %+v", got, err, node)
	}
	for name, cert := range map[string]*x509.Certificate{
		"none":      {},
		"two":       {URIs: []*url.URL{uri, uri}},
		"authority": {URIs: []*url.URL{uri}, IsCA: true},
		"nil":       nil,
		"foreign":   {URIs: []*url.URL{{Scheme: "https", Host: "example.com"}}},
	} {
		if got, err := FromCertificate(cert); err == nil {
			t.Errorf("%s: FromCertificate = %+v, want an error", name, got)
		}
	}
}

func TestValidName(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "0": true, "ae-dubai": true, strings.Repeat("x", 63): true, "a--b": true,
		"": false, "-a": false, "a-": false, "A": false, "a.b": false, "a_b": false, "ä": false, "a b": false,
		strings.Repeat("x", 64): false, "a\x00": false, "a/b": false, "..": false,
	} {
		if err := ValidName(name); (err == nil) != ok {
			t.Errorf("ValidName(%q) = %v, want ok %v", name, err, ok)
		}
	}
}

func token() JoinToken {
	t := JoinToken{ID: "k3Jd_1", Secret: "abcdefghij-KLMNOP_0123"}
	for i := range t.RootPin {
		t.RootPin[i] = byte(i * 7)
	}
	return t
}

func TestTokenReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := JoinToken{
			ID:      rapid.StringMatching(`[A-Za-z0-9_-]{1,63}`).Draw(t, "id"),
			Secret:  rapid.StringMatching(`[A-Za-z0-9_-]{16,128}`).Draw(t, "secret"),
			RootPin: [32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "pin")),
		}
		if want.RootPin == [32]byte{} {
			t.Skip("the zero pin names nothing")
		}
		got, err := ParseJoinToken("\n " + want.String() + " \r\n")
		if err != nil || got != want {
			t.Fatalf("ParseJoinToken = %#v, %v; want %#v", got, err, want)
		}
	})
}

func TestEveryDamagedTokenIsRefusedWithoutShowingIt(t *testing.T) {
	good := token().String()
	for i := range len(good) {
		for _, damaged := range []string{good[:i], good[:i] + good[i+1:], good[:i] + "x" + good[i+1:], good[:i] + "." + good[i:]} {
			if damaged == good {
				continue
			}
			_, err := ParseJoinToken(damaged)
			if err == nil {
				t.Fatalf("%q was accepted", damaged)
			}
			if strings.Contains(err.Error(), token().Secret) {
				t.Fatalf("the error shows the secret: %v", err)
			}
		}
	}
	if _, err := ParseJoinToken(strings.Repeat("x", 1<<20)); err == nil || len(err.Error()) > 200 {
		t.Fatalf("a token of 1 MiB: %v", err)
	}
}

func FuzzParseURI(f *testing.F) {
	f.Add("spiffe://fleet.example/region/eu/site/berlin/node/n1")
	f.Add("spiffe://f/region//site//node/")
	f.Fuzz(func(t *testing.T, uri string) {
		n, err := ParseURI(uri)
		if err == nil && n.URI() != uri {
			t.Fatalf("%q and %q name the same node", uri, n.URI())
		}
	})
}

func FuzzParseJoinToken(f *testing.F) {
	f.Add(token().String())
	f.Add("dhow-join-1....")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseJoinToken(s)
		if err == nil && got.String() != strings.TrimSpace(s) {
			t.Fatalf("%q and %q are the same token", s, got.String())
		}
	})
}

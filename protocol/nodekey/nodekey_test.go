package nodekey

import (
	"strings"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/fleet/authority"
	"github.com/dhowfleet/dhow/protocol/identity"
)

func TestKeyReadsBackAndFitsItsCertificate(t *testing.T) {
	key, err := New()
	if err != nil {
		t.Fatal(err)
	}
	der, err := Encode(key)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(der)
	if err != nil || !again.Equal(key) {
		t.Fatalf("another key came back: %v", err)
	}
	for _, bad := range [][]byte{nil, der[:len(der)-1], []byte("hello")} {
		if _, err := Parse(bad); err == nil || strings.Contains(err.Error(), "hello") {
			t.Errorf("Parse of %d bytes: %v", len(bad), err)
		}
	}
	a, err := authority.Open(t.TempDir(), "fleet.example", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := Request(again)
	if err != nil {
		t.Fatal(err)
	}
	chain, _, err := a.SignNode(csr, identity.Node{TrustDomain: "fleet.example", Region: "eu-west", Site: "berlin", ID: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Certificate(again, chain); err != nil {
		t.Error(err)
	}
	other, err := New()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Certificate(other, chain); err == nil {
		t.Error("a certificate was joined with another key")
	}
	if _, err := Certificate(again, nil); err == nil {
		t.Error("an empty chain was accepted")
	}
	if _, err := Certificate(again, [][]byte{{1, 2}}); err == nil {
		t.Error("a damaged chain was accepted")
	}
}

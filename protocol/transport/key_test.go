package transport

import (
	"strings"
	"testing"
	"time"
)

func TestKeyReadsBackAndFitsItsCertificate(t *testing.T) {
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := EncodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseKey(der)
	if err != nil || !again.Equal(key) {
		t.Fatalf("another key came back: %v", err)
	}
	for _, bad := range [][]byte{nil, der[:len(der)-1], []byte("hello")} {
		if _, err := ParseKey(bad); err == nil || strings.Contains(err.Error(), "hello") {
			t.Errorf("ParseKey of %d bytes: %v", len(bad), err)
		}
	}
	a := newAuthority(t, domain, time.Now)
	csr, err := CertificateRequest(again)
	if err != nil {
		t.Fatal(err)
	}
	chain, _, err := a.SignNode(csr, berlin)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Certificate(again, chain); err != nil {
		t.Error(err)
	}
	other, err := NewKey()
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

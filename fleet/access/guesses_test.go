package access

import (
	"fmt"
	"testing"
	"time"
)

func TestAddressesAreBounded(t *testing.T) {
	var g guesses
	now := time.Unix(1000, 0)
	for i := range 3 * maxAddresses {
		g.wrong(fmt.Sprint(i), now)
		if len(g.from) > maxAddresses {
			t.Fatalf("%d addresses are kept, at most %d should be", len(g.from), maxAddresses)
		}
	}
	// Those who owe nothing make room before anybody is forgiven.
	g = guesses{}
	for i := range maxAddresses - 1 {
		g.right(fmt.Sprint("good", i), [32]byte{}, now)
	}
	for range 30 {
		g.wrong("bad", now)
	}
	g.wrong("next", now)
	if g.wait("bad", [32]byte{}, now) == 0 {
		t.Error("a guessing address was forgiven though others owed nothing")
	}
	if n := len(g.from); n != 2 {
		t.Errorf("%d addresses are kept, want 2", n)
	}
}

func TestTrustEnds(t *testing.T) {
	var g guesses
	now := time.Unix(1000, 0)
	good := [32]byte{1}
	g.right("a", good, now)
	for range 30 {
		g.wrong("a", now)
	}
	if g.wait("a", good, now) != 0 {
		t.Error("a token that was right must wait")
	}
	now = now.Add(trusted + time.Second)
	for range 30 {
		g.wrong("a", now)
	}
	if g.wait("a", good, now) == 0 {
		t.Error("a token is trusted for ever")
	}
	for i := range 2 * maxTrusted {
		g.right("a", [32]byte{2, byte(i)}, now)
	}
	if n := len(g.from["a"].right); n > maxTrusted {
		t.Errorf("%d tokens of one address are kept", n)
	}
}

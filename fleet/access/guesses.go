package access

import (
	"sync"
	"time"
)

// Of the wrong tokens of one address, burst are answered at once and then one every refill: with 130 random bits in a
// token no guess will ever be right, so that what is bounded here is work and noise.
const (
	burst  = 20
	refill = 3 * time.Second
	// trusted is how long a token that was right keeps being checked when its address has used up its guesses, so
	// that a forgotten script does not lock its colleagues out.
	trusted = time.Hour

	maxAddresses = 10_000
	maxTrusted   = 16 // tokens of one address
)

// guesses counts wrong tokens by address. It is a token bucket for each address that is not full again.
type guesses struct {
	mu   sync.Mutex
	from map[string]*address
}

type address struct {
	debt  float64   // wrong tokens not yet forgiven
	at    time.Time // when debt was so
	right map[[32]byte]time.Time
}

func (a *address) settle(now time.Time) {
	if passed := now.Sub(a.at); passed > 0 {
		a.debt = max(0, a.debt-float64(passed)/float64(refill))
	}
	a.at = now
	for hash, at := range a.right {
		if now.Sub(at) > trusted {
			delete(a.right, hash)
		}
	}
}

// wait returns how long a caller must wait before a token is looked at; zero: not at all.
func (g *guesses) wait(from string, hash [32]byte, now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.from[from]
	if a == nil {
		return 0
	}
	a.settle(now)
	if _, known := a.right[hash]; known || a.debt <= burst-1 {
		return 0
	}
	return (time.Duration((a.debt-(burst-1))*float64(refill)) + time.Second).Truncate(time.Second)
}

func (g *guesses) wrong(from string, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.address(from, now)
	a.debt = min(burst, a.debt+1)
}

func (g *guesses) right(from string, hash [32]byte, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.address(from, now)
	if _, known := a.right[hash]; known || len(a.right) < maxTrusted {
		a.right[hash] = now
	}
}

// address finds or makes the entry of an address. When the table is full, those that owe nothing go; if all owe, the
// table begins anew, which forgives guesses but stays bounded.
func (g *guesses) address(from string, now time.Time) *address {
	if a := g.from[from]; a != nil {
		a.settle(now)
		return a
	}
	if len(g.from) >= maxAddresses {
		for name, a := range g.from {
			if a.settle(now); a.debt == 0 {
				delete(g.from, name)
			}
		}
		if len(g.from) >= maxAddresses {
			clear(g.from)
		}
	}
	if g.from == nil {
		g.from = map[string]*address{}
	}
	a := &address{at: now, right: map[[32]byte]time.Time{}}
	g.from[from] = a
	return a
}

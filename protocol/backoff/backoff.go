// Package backoff spaces out the attempts of loops that reconnect or try again. Wait blocks; nothing else does, and there
// is no goroutine.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff spaces out the attempts of a loop: exponential with full jitter, so that a region whose line comes back does
// not return as one. The zero value waits up to 1 s at first and up to 60 s later. It is not for several goroutines.
type Backoff struct {
	Base   time.Duration  // the longest first wait; 0: 1 s
	Cap    time.Duration  // the longest wait ever; 0: 60 s
	Random func() float64 // in [0, 1); nil: math/rand/v2

	attempt int
}

// Next returns how long to wait before the next attempt: uniformly random below min(Cap, Base * 2^attempts), and never
// less than atLeast, which is what the other side asked for (Retry-After), if it did.
func (b *Backoff) Next(atLeast time.Duration) time.Duration {
	base, limit, random := b.Base, b.Cap, b.Random
	if base <= 0 {
		base = time.Second
	}
	if limit <= 0 {
		limit = time.Minute
	}
	if random == nil {
		random = rand.Float64
	}
	window := min(base, limit)
	for range b.attempt {
		if window >= limit/2 {
			window = limit
			break
		}
		window *= 2
	}
	if window < limit {
		b.attempt++
	}
	d := time.Duration(random() * float64(window))
	if atLeast > 0 {
		// Spread those who were told the same time, too.
		return atLeast + min(d, atLeast)
	}
	return d
}

// Wait waits for Next(atLeast) or until ctx ends, whose error it returns.
func (b *Backoff) Wait(ctx context.Context, atLeast time.Duration) error {
	timer := time.NewTimer(b.Next(atLeast))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Reset starts over after a success.
func (b *Backoff) Reset() { b.attempt = 0 }

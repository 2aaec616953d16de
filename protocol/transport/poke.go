package transport

import (
	"context"
	"net/http"
	"strings"
	"time"
)

const (
	// pokeAfter is how long a request over QUIC is without a sign before the manager is poked for the first time.
	pokeAfter = 2 * time.Second
	// pokeRarely bounds the silence between two pokes, which doubles.
	pokeRarely = 16 * time.Second
)

type longSilenceKey struct{}

// WithLongSilence marks a request whose answer is often silent for long, such as a watch. It is not what finds out that
// the manager was restarted; whoever makes it sends other requests now and then, and they do.
func WithLongSilence(ctx context.Context) context.Context {
	return context.WithValue(ctx, longSilenceKey{}, true)
}

// poke finds out whether the manager still knows the connection. One that was killed and came back answers a packet of
// a connection it never saw with a stateless reset, but only a packet longer than the reset itself (RFC 9000, section
// 10.3.3). Of a client that merely waits, for an answer or for the rest of one, nothing as long ever comes: its request
// was acknowledged before the manager died, and what it repeats are pings. So a small request of sufficient length is
// sent beside the one that waits, whose answer does not matter. Without it the waiting request would last until the
// idle timeout.
func (k *call) poke() {
	if k.over.Load() || k.answered.Load() && k.ctx.Value(longSilenceKey{}) != nil {
		return
	}
	if moved := k.moved.Load(); moved != k.pokedAt {
		k.pokedAt, k.patience = moved, pokeAfter
	}
	if left := k.patience - k.silence(); left > 0 {
		k.poker.Reset(left)
		return
	}
	k.patience += min(k.patience, pokeRarely)
	if l := k.link; l.poking.CompareAndSwap(false, true) {
		go func() {
			defer l.poking.Store(false)
			ctx, cancel := context.WithTimeout(context.Background(), pokeAfter)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+l.client.cfg.ServerName+"/healthz", nil)
			if err != nil {
				return // the name made a request before, so this does not happen
			}
			req.Header.Set("Dhow-Poke", strings.Repeat("poke", 24))
			if resp, err := l.exchange(req); err == nil {
				resp.Body.Close()
			}
		}()
	}
	k.poker.Reset(k.patience - k.silence())
}

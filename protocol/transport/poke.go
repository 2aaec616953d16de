package transport

import (
	"context"
	"net/http"
	"strings"
	"time"
)

// pokeAfter is how long a request over QUIC waits without a sign before the manager is poked, and then again.
const pokeAfter = 2 * time.Second

// poke finds out whether the manager still knows the connection. One that was killed and came back answers a packet of
// a connection it never saw with a stateless reset, but only a packet longer than the reset itself (RFC 9000, section
// 10.3.3). Of a client that merely waits nothing as long ever comes: its request was acknowledged before the manager
// died, and what it repeats are pings. So a small request of sufficient length is sent beside the one that waits, whose
// answer does not matter. Without it the waiting request, and a watch with it, would last until the idle timeout.
func (k *call) poke() {
	if k.answered.Load() {
		return
	}
	if l := k.link; k.silence() >= pokeAfter && l.poking.CompareAndSwap(false, true) {
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
	k.poker.Reset(pokeAfter)
}

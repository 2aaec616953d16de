package transport

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/dhowfleet/dhow/fleet/authority"
	"github.com/dhowfleet/dhow/protocol/transporttest"
)

// fleetThatRestarts returns an authority, and what gives every server of it the same key for stateless resets, so that one
// answers for the connections of another that was killed.
func fleetThatRestarts(t *testing.T) (*authority.Authority, func(*ServerConfig)) {
	t.Helper()
	a := newAuthority(t, domain, time.Now)
	key, err := a.DeriveKey("quic reset")
	if err != nil {
		t.Fatal(err)
	}
	return a, func(cfg *ServerConfig) { cfg.ResetKey = key }
}

// TestManagerRestarts kills a manager without a word and brings it back on the same port: the next request must find
// out by itself and go through.
func TestManagerRestarts(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, tcpOnly bool) {
		a, withKey := fleetThatRestarts(t)
		first := serveWith(t, a, hello, withKey)
		p := weather(t, first, transporttest.Weather{})
		c := first.node(t, func(cfg *ClientConfig) { cfg.Address, cfg.DisableQUIC = p.Address(), tcpOnly })
		must(t, c, map[bool]string{false: HTTP3, true: HTTP2}[tcpOnly])
		second := serveWith(t, a, hello, withKey)
		p.SetTarget(second.server.Addr())
		p.Cut()
		eventually(t, "a request gets through", func() bool {
			status, _, err := get(t, c, "/")
			return err == nil && status == 200
		})
		if n := second.server.Connections(); n != 1 {
			t.Errorf("%d connections at the new manager", n)
		}
	})
}

// TestAWaitingRequestLearnsOfARestart: the manager has taken the request when it is killed. Nothing of it is sent
// again, so the client must find out in another way than by waiting for the idle timeout.
func TestAWaitingRequestLearnsOfARestart(t *testing.T) {
	t.Parallel()
	a, withKey := fleetThatRestarts(t)
	taken := make(chan struct{})
	first := serveWith(t, a, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			close(taken)
		}
		<-r.Context().Done()
	}), withKey)
	second := serveWith(t, a, hello, withKey)
	p := weather(t, first, transporttest.Weather{})
	c := first.node(t, func(cfg *ClientConfig) { cfg.Address = p.Address() })
	go func() {
		<-taken
		p.SetTarget(second.server.Addr())
		p.Rebind()
	}()
	_, _, err := getWith(within(t, 30*time.Second), c, "/")
	if _, ok := errors.AsType[*quic.StatelessResetError](err); !ok {
		t.Fatalf("the request ended with %v, want a stateless reset", err)
	}
}

// TestARestartAtAnyPacket kills the manager between any two packets of a connection with a request that is never
// answered, and with one whose answer breaks off: the client must not wait for the idle timeout wherever that is.
func TestARestartAtAnyPacket(t *testing.T) {
	t.Parallel()
	a, withKey := fleetThatRestarts(t)
	second := serveWith(t, a, hello, withKey)
	var wg sync.WaitGroup
	for n := range 14 {
		for _, answer := range []string{"", "the beginning"} {
			first := serveWith(t, a, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if _, err := io.WriteString(w, answer); answer != "" && err == nil {
					_ = http.NewResponseController(w).Flush()
				}
				<-r.Context().Done()
			}), withKey)
			p := weather(t, first, transporttest.Weather{TCP: transporttest.Link{Refuse: true}})
			p.SetTargetAfter(n, second.server.Addr())
			c := first.node(t, func(cfg *ClientConfig) { cfg.Address = p.Address() })
			wg.Go(func() {
				ctx := within(t, 30*time.Second)
				if _, _, err := getWith(ctx, c, "/"); ctx.Err() != nil {
					t.Errorf("after packet %d, with %q for an answer, the request ended with %v", n, answer, err)
				}
			})
		}
	}
	wg.Wait()
}

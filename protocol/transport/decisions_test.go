package transport

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"
)

// attemptAfter comes up (or fails) after took.
func attemptAfter(start, took time.Duration, err error, closed *int) attempt {
	return attempt{after: start, dial: func(ctx context.Context) (*link, error) {
		select {
		case <-time.After(took):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		return &link{protocol: fmt.Sprint(start), client: NewClient(ClientConfig{}), shut: func() { *closed++ }}, nil
	}}
}

func TestRace(t *testing.T) {
	const head = 250 * time.Millisecond
	down := errors.New("down")
	forever := time.Hour
	for name, tc := range map[string]struct {
		quic, tcp       time.Duration
		quicErr, tcpErr error
		won             time.Duration // the start of the winner
		after           time.Duration
	}{
		"quic at once":                     {quic: 10 * time.Millisecond, tcp: time.Millisecond, won: 0, after: 10 * time.Millisecond},
		"quic just before tcp starts":      {quic: 240 * time.Millisecond, tcp: time.Millisecond, won: 0, after: 240 * time.Millisecond},
		"udp blocked costs the head start": {quic: forever, tcp: 40 * time.Millisecond, won: head, after: head + 40*time.Millisecond},
		"quic fails, tcp starts then":      {quic: 20 * time.Millisecond, quicErr: down, tcp: 40 * time.Millisecond, won: head, after: 60 * time.Millisecond},
		"tcp fails, quic is awaited":       {quic: time.Second, tcp: time.Millisecond, tcpErr: down, won: 0, after: time.Second},
		"slow line: quic needs one trip":   {quic: 600 * time.Millisecond, tcp: 1200 * time.Millisecond, won: 0, after: 600 * time.Millisecond},
		"both fail":                        {quic: 20 * time.Millisecond, quicErr: down, tcp: 5 * time.Millisecond, tcpErr: down, won: -1, after: 25 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				closed := 0
				begin := time.Now()
				l, err := race(t.Context(), []attempt{
					attemptAfter(0, tc.quic, tc.quicErr, &closed), attemptAfter(head, tc.tcp, tc.tcpErr, &closed),
				}, func(f func()) { go f() })
				if got := time.Since(begin); got != tc.after {
					t.Errorf("took %v, want %v", got, tc.after)
				}
				synctest.Wait()
				if closed != 0 {
					t.Errorf("%d connections were closed", closed)
				}
				switch {
				case tc.won < 0:
					if !errors.Is(err, down) {
						t.Errorf("error %v", err)
					}
				case err != nil:
					t.Errorf("error %v", err)
				case l.protocol != fmt.Sprint(tc.won):
					t.Errorf("the attempt of %s won, want that of %v", l.protocol, tc.won)
				}
			})
		})
	}
}

// TestRaceClosesLateComers: an attempt that comes up although it was called off is not left open.
func TestRaceClosesLateComers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := 0
		stubborn := attempt{dial: func(context.Context) (*link, error) {
			time.Sleep(time.Second)
			return &link{client: NewClient(ClientConfig{}), shut: func() { closed++ }}, nil
		}}
		l, err := race(t.Context(), []attempt{stubborn, attemptAfter(time.Millisecond, time.Millisecond, nil, &closed)}, func(f func()) { go f() })
		if err != nil || l == nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if closed != 1 {
			t.Errorf("%d connections were closed, want the late one", closed)
		}
	})
}

func TestPlan(t *testing.T) {
	c := NewClient(ClientConfig{})
	defer c.Close()
	v4, v4b, v6 := netip.MustParseAddrPort("192.0.2.1:443"), netip.MustParseAddrPort("192.0.2.2:443"), netip.MustParseAddrPort("[2001:db8::1]:443")
	for _, tc := range []struct {
		addrs     []netip.AddrPort
		quicFirst bool
		want      string
	}{
		{[]netip.AddrPort{v4}, true, "0s 250ms"},
		{[]netip.AddrPort{v6, v4, v4b}, true, "0s 125ms 250ms"},
		{[]netip.AddrPort{v4, v4b}, true, "0s 250ms"},
		{[]netip.AddrPort{v4}, false, "0s 3s"},
		{[]netip.AddrPort{v4, v6}, false, "0s 3s 3.125s"},
	} {
		tcp := attempt{}
		var got []string
		for _, a := range c.plan(tc.addrs, tcp, tc.quicFirst) {
			got = append(got, a.after.String())
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%v, QUIC first %v: %v, want %s", tc.addrs, tc.quicFirst, got, tc.want)
		}
	}
}

func TestRetryQUIC(t *testing.T) {
	now := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	const every = 10 * time.Minute
	for name, tc := range map[string]struct {
		w     Winner
		known bool
		want  bool
	}{
		"nothing known":        {Winner{}, false, true},
		"quic won":             {Winner{Protocol: HTTP3, At: now}, true, true},
		"tcp won just now":     {Winner{Protocol: HTTP2, At: now}, true, false},
		"tcp won long ago":     {Winner{Protocol: HTTP2, At: now.Add(-every)}, true, true},
		"clock was set back":   {Winner{Protocol: HTTP2, At: now.Add(time.Hour)}, true, true},
		"demoted once":         {Winner{Protocol: HTTP2, At: now.Add(-every), Demotions: 1}, true, false},
		"demoted once, later":  {Winner{Protocol: HTTP2, At: now.Add(-2 * every), Demotions: 1}, true, true},
		"demoted very often":   {Winner{Protocol: HTTP2, At: now.Add(-25 * time.Hour), Demotions: 1 << 30}, true, true},
		"a number out of file": {Winner{Protocol: HTTP2, At: now.Add(-every), Demotions: -5}, true, true},
	} {
		if got := retryQUIC(tc.w, tc.known, now, every); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

func TestMemoryForgetsTheOldest(t *testing.T) {
	m := NewMemory()
	start := time.Now()
	for i := range maxNetworks + 10 {
		m.Put(fmt.Sprint(i), Winner{Protocol: HTTP2, At: start.Add(time.Duration(i) * time.Second)})
	}
	for i := range maxNetworks + 10 {
		if _, ok := m.Get(fmt.Sprint(i)); ok != (i >= 10) {
			t.Fatalf("network %d is known: %v", i, ok)
		}
	}
}

type tooSlow struct{}

func (tooSlow) Error() string { return "the transfer is too slow" }
func (tooSlow) Timeout() bool { return true }

// TestWhatCountsAgainstQUIC: the same error means one thing after a long silence and another after progress.
func TestWhatCountsAgainstQUIC(t *testing.T) {
	const stall = 10 * time.Second
	ended := func(cause error) context.Context {
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(cause)
		return ctx
	}
	late, cancel := context.WithDeadline(context.Background(), time.Unix(1, 0))
	defer cancel()
	for name, tc := range map[string]struct {
		ctx     context.Context
		err     error
		silence time.Duration
		age     time.Duration
		carried int64
		tcp     bool
		want    bool
	}{
		"stalled":                           {ctx: context.Background(), err: errStalled, want: true},
		"deadline after silence":            {ctx: late, err: context.DeadlineExceeded, silence: stall, want: true},
		"deadline after progress":           {ctx: late, err: context.DeadlineExceeded, silence: stall / 2},
		"too slow, after silence":           {ctx: ended(tooSlow{}), err: context.Canceled, silence: stall, want: true},
		"cancelled after silence":           {ctx: ended(nil), err: context.Canceled, silence: stall},
		"other cause after silence":         {ctx: ended(errors.New("stopping")), err: context.Canceled, silence: stall},
		"young connection died of silence":  {ctx: context.Background(), err: &quic.IdleTimeoutError{}, age: time.Minute, want: true},
		"old connection died of silence":    {ctx: context.Background(), err: &quic.IdleTimeoutError{}, age: time.Hour},
		"useful connection died of silence": {ctx: context.Background(), err: &quic.IdleTimeoutError{}, age: time.Minute, carried: usefulBytes},
		"restarted manager":                 {ctx: context.Background(), err: &quic.StatelessResetError{}, silence: stall},
		"over TCP":                          {ctx: late, err: context.DeadlineExceeded, silence: stall, tcp: true},
	} {
		c := NewClient(ClientConfig{StallTimeout: stall})
		l := &link{client: c, protocol: HTTP3, path: &quicPath{}, began: time.Now().Add(-tc.age), network: "here", shut: func() {}}
		if tc.tcp {
			l.path = nil
		}
		l.carried.Store(tc.carried)
		c.current = l
		k := &call{link: l, ctx: tc.ctx, start: time.Now().Add(-tc.silence)}
		k.failed(tc.err)
		if got := c.suspected == "here" && c.current == nil; got != tc.want {
			t.Errorf("%s: QUIC is suspected: %v, want %v", name, got, tc.want)
		}
		c.Close()
	}
}

// TestSuspicionIsSettledByTCP: only a network on which TCP gets through, right after QUIC did not, is left to TCP.
func TestSuspicionIsSettledByTCP(t *testing.T) {
	for name, tc := range map[string]struct {
		got  string
		want Winner
	}{
		"tcp got through":     {HTTP2, Winner{Protocol: HTTP2, Demotions: 3}},
		"quic after all":      {HTTP3, Winner{Protocol: HTTP3, Demotions: 2}},
		"neither got through": {"", Winner{Protocol: HTTP3, Demotions: 2}},
	} {
		c := NewClient(ClientConfig{})
		c.cfg.Memory.Put("here", Winner{Protocol: HTTP3, Demotions: 2})
		c.suspected = "here"
		c.settle("here", tc.got, false)
		w, _ := c.cfg.Memory.Get("here")
		w.At = time.Time{}
		if w != tc.want || c.suspected != "" {
			t.Errorf("%s: %+v, still suspected %q; want %+v", name, w, c.suspected, tc.want)
		}
		c.Close()
	}
}

// TestRefusalEndsTheRaceSoon: where TCP is refused the machine is up and no manager listens, so a QUIC attempt that hears
// nothing is not waited for until its own timeout.
func TestRefusalEndsTheRaceSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wg sync.WaitGroup
		begin := time.Now()
		_, err := race(t.Context(), []attempt{
			{dial: func(ctx context.Context) (*link, error) { <-ctx.Done(); return nil, ctx.Err() }},
			{after: 250 * time.Millisecond, dial: func(context.Context) (*link, error) {
				return nil, fmt.Errorf("over TCP: %w", syscall.ECONNREFUSED)
			}},
		}, wg.Go)
		if took := time.Since(begin); !errors.Is(err, syscall.ECONNREFUSED) || took != 1250*time.Millisecond {
			t.Errorf("%v after %v, want the refusal after 1.25 s", err, took)
		}
		wg.Wait()
	})
}

package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
)

func TestOffline(t *testing.T) {
	server := httptest.NewServer(nil)
	server.Close()
	p := &Puller{Client: server.Client(), BaseURL: server.URL, Store: newStore(t)}
	if err := pull(p, []byte("x")); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	if _, err := p.Manifest(context.Background(), "models/x", digest.FromString("x")); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
}

func TestCallerGivesUp(t *testing.T) {
	data := content(8, 1_000_000)
	ctx, cancel := context.WithCancel(context.Background())
	p := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(data[:600_000])
		_ = http.NewResponseController(w).Flush()
		cancel()
		<-r.Context().Done()
	})
	err := p.Blob(ctx, "models/fashion", digest.FromBytes(data), int64(len(data)), nil)
	if !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
}

// fakeTransport answers without a network, so that time can be simulated.
type fakeTransport func(*http.Request) (*http.Response, error)

func (f fakeTransport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// trickle delivers step bytes every interval, until they are all out or after is reached; then nothing for ever.
type trickle struct {
	ctx             context.Context
	data            []byte
	step            int
	interval        time.Duration
	after, returned int
}

func (b *trickle) Read(p []byte) (int, error) {
	if len(b.data) == 0 {
		return 0, io.EOF
	}
	timer := time.NewTimer(b.interval)
	if b.after > 0 && b.returned >= b.after {
		timer.Stop()
	}
	select {
	case <-timer.C:
	case <-b.ctx.Done():
		return 0, b.ctx.Err()
	}
	n := copy(p, b.data[:min(b.step, len(b.data))])
	b.data = b.data[n:]
	b.returned += n
	return n, nil
}

func (b *trickle) Close() error { return nil }

func TestSlowServers(t *testing.T) {
	data := content(10, 300_000)
	for name, c := range map[string]struct {
		step     int
		interval time.Duration
		after    int
		class    error
		text     string
		within   time.Duration
	}{
		"fast enough":      {4096, time.Second, 0, nil, "", 80 * time.Second},
		"slow all along":   {100, time.Second, 0, ErrUnavailable, "least rate", 31 * time.Second},
		"stalls":           {32 << 10, time.Millisecond, 64 << 10, nil, "", 10 * time.Minute},
		"stalls from zero": {32 << 10, time.Hour, 0, ErrUnavailable, "least rate", 31 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := &Puller{BaseURL: "https://fleet", Store: newStore(t), Client: &http.Client{Transport: fakeTransport(func(r *http.Request) (*http.Response, error) {
				start := int(rangeStart(r))
				answer := &http.Response{StatusCode: 200, Request: r, Header: http.Header{}, ContentLength: int64(len(data) - start)}
				if start > 0 {
					answer.StatusCode = 206
					answer.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, len(data)-1, len(data)))
				}
				answer.Body = &trickle{ctx: r.Context(), data: data[start:], step: c.step, interval: c.interval, after: c.after}
				return answer, nil
			})}}
			begin := time.Now()
			err := pull(p, data)
			if !errors.Is(err, c.class) || err != nil && !strings.Contains(err.Error(), c.text) {
				t.Errorf("%s: %v", name, err)
			}
			if took := time.Since(begin); took > c.within {
				t.Errorf("%s: took %v", name, took)
			}
		})
	}
}

func TestNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &Puller{BaseURL: "https://fleet", Store: newStore(t), Client: &http.Client{Transport: fakeTransport(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})}}
		begin := time.Now()
		err := pull(p, []byte("x"))
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "no answer within the deadline") || errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if took := time.Since(begin); took != 30*time.Second {
			t.Errorf("gave up after %v", took)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := p.Blob(ctx, "a", digest.FromString("x"), 1, nil); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnavailable) {
			t.Error(err)
		}
	})
}

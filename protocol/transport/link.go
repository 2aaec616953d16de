package transport

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// link is one connection to the manager, over either protocol.
type link struct {
	client   *Client
	protocol string
	began    time.Time
	exchange func(*http.Request) (*http.Response, error)
	broken   func() error // why no new request can be sent, or nil
	shut     func()       // closes the connection; called once
	gone     <-chan struct{}
	path     *quicPath // nil for TCP
	remote   netip.AddrPort
	suspect  bool // under the client's mutex

	carried atomic.Int64 // bytes of answers
	poking  atomic.Bool

	mu       sync.Mutex
	local    netip.Addr
	network  string
	requests int
	retired  bool
	closed   bool
	killer   *time.Timer
}

func (l *link) localAddress() netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.local
}

func (l *link) networkName() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.network
}

func (l *link) moved(local netip.Addr, network string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.local, l.network = local, network
}

// enter counts a request in, or says that the link takes no more.
func (l *link) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.retired || l.closed {
		return false
	}
	l.requests++
	return true
}

// release counts a request out; the last one of a retired link closes it.
func (l *link) release() {
	l.mu.Lock()
	l.requests--
	last := l.retired && l.requests == 0
	l.mu.Unlock()
	if last {
		l.close()
	}
}

// retire lets no new request in and closes the link when those under way have ended, or after drain.
func (l *link) retire(drain time.Duration) {
	l.mu.Lock()
	l.retired = true
	idle := l.requests == 0
	if !idle && !l.closed {
		if l.killer != nil {
			l.killer.Stop()
		}
		l.killer = time.AfterFunc(drain, l.close)
	}
	l.mu.Unlock()
	if idle {
		l.close()
	}
}

func (l *link) close() {
	l.mu.Lock()
	first := !l.closed
	l.closed, l.retired = true, true
	if l.killer != nil {
		l.killer.Stop()
	}
	l.mu.Unlock()
	if !first {
		return
	}
	c := l.client
	c.mu.Lock()
	if c.current == l {
		c.current = nil
	}
	delete(c.links, l)
	c.mu.Unlock()
	l.shut()
}

var errStalled = errors.New("the request made no progress")

// call is one request on a link, with what is known of its progress.
type call struct {
	link   *link
	ctx    context.Context
	cancel context.CancelCauseFunc
	once   sync.Once

	start    time.Time
	moved    atomic.Int64 // since start, in nanoseconds: the last time that something moved
	uploaded atomic.Bool  // the whole request was taken
	answered atomic.Bool  // the answer has begun, or never will
	watchdog *time.Timer  // nil for TCP
	over     atomic.Bool  // nobody waits any more

	poker    *time.Timer   // nil for TCP
	patience time.Duration // poke's own: the silence before the next one
	pokedAt  int64         // and what moved was then
}

// roundTrip sends req and reports, in sent, whether anything of it may have reached the manager. The link is released
// when the answer's body is closed, or at once on an error.
func (l *link) roundTrip(req *http.Request) (resp *http.Response, sent bool, err error) {
	var wrote atomic.Bool
	ctx, cancel := context.WithCancelCause(req.Context())
	k := &call{link: l, ctx: req.Context(), cancel: cancel, start: time.Now(), patience: pokeAfter}
	out := req.WithContext(traceSent(ctx, &wrote))
	if req.Body != nil && req.Body != http.NoBody {
		out.Body = &requestBody{ReadCloser: req.Body, call: k}
	} else {
		k.uploaded.Store(true)
	}
	if l.path != nil {
		k.watchdog = time.AfterFunc(time.Hour, k.check)
		k.watchdog.Reset(l.client.cfg.StallTimeout) // only now, since check itself uses the field
		k.poker = time.AfterFunc(time.Hour, k.poke)
		k.poker.Reset(pokeAfter)
	}
	resp, err = l.exchange(out)
	k.answered.Store(true)
	if k.watchdog != nil {
		k.watchdog.Stop()
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		k.failed(err)
		k.end()
		return nil, wrote.Load(), explain(err)
	}
	k.touch()
	resp.Body = &responseBody{ReadCloser: resp.Body, call: k}
	return resp, true, nil
}

func (k *call) touch() { k.moved.Store(int64(time.Since(k.start))) }

// silence is how long nothing has moved.
func (k *call) silence() time.Duration {
	return time.Since(k.start) - time.Duration(k.moved.Load())
}

func (k *call) end() {
	k.once.Do(func() {
		k.over.Store(true)
		if k.poker != nil {
			k.poker.Stop()
		}
		k.cancel(nil)
		k.link.release()
	})
}

// check is the watchdog of a request over QUIC until its answer begins. While the body is being taken, silence means
// that packets of full size get lost; after it, the manager may be thinking.
func (k *call) check() {
	if k.answered.Load() {
		return
	}
	limit := k.link.client.cfg.StallTimeout
	if k.uploaded.Load() {
		limit = k.link.client.cfg.ResponseTimeout
	}
	if left := limit - k.silence(); left > 0 {
		k.watchdog.Reset(left)
		return
	}
	k.cancel(errStalled)
}

// failed draws the conclusion from a request's error: QUIC is given up when a request stalled on it, when its caller
// ran out of time after a long silence, or when a young connection died of silence having carried next to nothing.
func (k *call) failed(err error) {
	l := k.link
	if l.path == nil {
		return
	}
	stalled := errors.Is(err, errStalled)
	late := timedOut(k.ctx) && k.silence() >= l.client.cfg.StallTimeout
	_, idle := errors.AsType[*quic.IdleTimeoutError](err)
	useless := idle && time.Since(l.began) < 2*clientIdle && l.carried.Load() < usefulBytes
	if stalled || late || useless {
		l.client.suspect(l, err)
	}
}

const usefulBytes = 64 << 10

// timedOut says whether ctx ended because something took too long, and not because nobody wants it any more.
func timedOut(ctx context.Context) bool {
	if ctx.Err() == nil {
		return false
	}
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](context.Cause(ctx))
	return ok && t.Timeout()
}

// requestBody sees how much of a request the network has taken.
type requestBody struct {
	io.ReadCloser
	call *call
}

func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.call.touch()
	if err != nil {
		b.call.uploaded.Store(true)
	}
	return n, err
}

// responseBody sees how an answer comes in and releases the link when it is closed.
type responseBody struct {
	io.ReadCloser
	call *call
}

func (b *responseBody) Read(p []byte) (int, error) {
	b.call.touch() // what counts is how long the network keeps a reader waiting, not how long the reader takes
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.call.touch()
		b.call.link.carry(n)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		b.call.failed(err)
		err = explain(err)
	}
	return n, err
}

func (b *responseBody) Close() error {
	err := b.ReadCloser.Close()
	b.call.end()
	return err
}

// carry counts bytes of answers. QUIC that has carried enough has proved that it gets through.
func (l *link) carry(n int) {
	if total := l.carried.Add(int64(n)); l.path == nil || total < usefulBytes || total-int64(n) >= usefulBytes {
		return
	}
	l.client.remember(l.networkName(), HTTP3, true)
}

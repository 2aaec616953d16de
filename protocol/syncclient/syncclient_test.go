package syncclient

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"github.com/opencontainers/go-digest"

	"github.com/dhowfleet/dhow/protocol/backoff"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1/syncv1connect"
	"github.com/dhowfleet/dhow/protocol/transport"
)

// inMemory carries requests to a handler without a network, so that tests may run in a bubble of their own time.
type inMemory struct{ handler http.Handler }

type answer struct {
	header http.Header
	status chan int
	body   *bufio.Writer
	once   sync.Once
}

func (a *answer) Header() http.Header { return a.header }
func (a *answer) WriteHeader(code int) {
	a.once.Do(func() { a.status <- code })
}
func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(b)
}
func (a *answer) Flush() {
	a.WriteHeader(http.StatusOK)
	_ = a.body.Flush()
}

func (m inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	reader, writer := io.Pipe()
	a := &answer{header: http.Header{}, status: make(chan int, 1), body: bufio.NewWriter(writer)}
	ctx, cancel := context.WithCancel(r.Context())
	stop := context.AfterFunc(ctx, func() { reader.CloseWithError(ctx.Err()) })
	go func() {
		m.handler.ServeHTTP(a, r.WithContext(ctx))
		a.Flush()
		writer.Close()
	}()
	select {
	case code := <-a.status:
		return &http.Response{StatusCode: code, Status: http.StatusText(code), Proto: "HTTP/2.0", ProtoMajor: 2, Header: a.header.Clone(), Trailer: http.Header{},
			Body: &body{reader, func() { stop(); cancel() }}, Request: r}, nil
	case <-ctx.Done():
		cancel()
		return nil, ctx.Err()
	}
}

type body struct {
	*io.PipeReader
	closed func()
}

func (b *body) Close() error {
	b.closed()
	return b.PipeReader.Close()
}

// fake is a manager whose answers the test gives.
type fake struct {
	syncv1connect.UnimplementedSyncServiceHandler
	watch   func(context.Context, *syncv1.WatchRequest, *connect.ServerStream[syncv1.WatchResponse]) error
	deliver func(*syncv1.DeliverRequest) (*syncv1.DeliverResponse, error)
	report  error
}

func (f *fake) Watch(ctx context.Context, r *connect.Request[syncv1.WatchRequest], s *connect.ServerStream[syncv1.WatchResponse]) error {
	return f.watch(ctx, r.Msg, s)
}

func (f *fake) Deliver(_ context.Context, r *connect.Request[syncv1.DeliverRequest]) (*connect.Response[syncv1.DeliverResponse], error) {
	a, err := f.deliver(r.Msg)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(a), nil
}

func (f *fake) Report(context.Context, *connect.Request[syncv1.ReportRequest]) (*connect.Response[syncv1.ReportResponse], error) {
	return connect.NewResponse(&syncv1.ReportResponse{}), f.report
}

func (f *fake) client() *Client {
	mux := http.NewServeMux()
	mux.Handle(syncv1connect.NewSyncServiceHandler(f))
	return New(&http.Client{Transport: inMemory{mux}}, "https://node.dhow.internal")
}

func envelope(generation uint64, state string) *syncv1.DesiredEnvelope {
	return &syncv1.DesiredEnvelope{Generation: generation, State: []byte(state), Digest: digest.FromString(state).String()}
}

// node is what a Watcher keeps.
type node struct {
	have         *syncv1.DesiredEnvelope
	accepted     []uint64
	older        []uint64
	connected    int
	disconnected []error
	refuse       error
}

func (n *node) watcher(f *fake) *Watcher {
	return &Watcher{
		Client:  f.client(),
		Current: func() *syncv1.DesiredEnvelope { return n.have },
		Accept: func(_ context.Context, e *syncv1.DesiredEnvelope) error {
			if n.refuse != nil {
				return n.refuse
			}
			n.have = e
			n.accepted = append(n.accepted, e.GetGeneration())
			return nil
		},
		Connected:    func() { n.connected++ },
		Disconnected: func(err error) { n.disconnected = append(n.disconnected, err) },
		Older:        func(g uint64) { n.older = append(n.older, g) },
		Backoff:      backoff.Backoff{Random: func() float64 { return 0.5 }},
		Slow:         5 * time.Minute,
	}
}

// run runs the watcher for a while of the bubble's time.
func run(t *testing.T, w *Watcher, d time.Duration) {
	t.Helper()
	// Not a deadline: that would be handed to the manager, which would then end its streams at the same instant.
	ctx, cancel := context.WithCancel(t.Context())
	defer time.AfterFunc(d, cancel).Stop()
	if err := w.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("the watcher ended with %v", err)
	}
	synctest.Wait()
}

func TestWatchTakesWhatIsNewAndIgnoresTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, f := &node{}, &fake{}
		f.watch = func(ctx context.Context, r *syncv1.WatchRequest, s *connect.ServerStream[syncv1.WatchResponse]) error {
			for _, e := range []*syncv1.DesiredEnvelope{envelope(3, "a"), envelope(3, "a"), envelope(2, "late"), nil, envelope(4, ""), envelope(3, "a"), envelope(4, "")} {
				if err := s.Send(&syncv1.WatchResponse{State: e, NextSeconds: 20}); err != nil {
					return err
				}
			}
			<-ctx.Done()
			return ctx.Err()
		}
		run(t, n.watcher(f), 30*time.Second)
		if fmt.Sprint(n.accepted) != "[3 4]" || fmt.Sprint(n.older) != "[2 3]" || n.connected != 1 || len(n.disconnected) != 0 {
			t.Fatalf("%+v", n)
		}
	})
}

// TestWatchComparesAtEveryReconnect: what changed while the node was away arrives, and what did not costs nothing.
func TestWatchComparesAtEveryReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, f := &node{have: envelope(1, "a")}, &fake{}
		now := envelope(1, "a")
		var mu sync.Mutex
		var asked []string
		f.watch = func(ctx context.Context, r *syncv1.WatchRequest, s *connect.ServerStream[syncv1.WatchResponse]) error {
			mu.Lock()
			asked = append(asked, fmt.Sprint(r.GetGeneration(), r.GetDigest() == now.GetDigest(), r.GetProtocol()))
			m := &syncv1.WatchResponse{NextSeconds: 60}
			if r.GetDigest() != now.GetDigest() {
				m.State = now
			}
			mu.Unlock()
			if err := s.Send(m); err != nil {
				return err
			}
			select {
			case <-time.After(10 * time.Second):
			case <-ctx.Done():
			}
			mu.Lock()
			defer mu.Unlock()
			if len(asked) == 2 {
				now = envelope(2, "b")
			}
			return nil
		}
		run(t, n.watcher(f), 50*time.Second)
		mu.Lock()
		defer mu.Unlock()
		if got := strings.Join(asked, ", "); got != "1 true 1, 1 true 1, 1 false 1, 2 true 1, 2 true 1" {
			t.Fatalf("asked: %s", got)
		}
		if fmt.Sprint(n.accepted) != "[2]" {
			t.Fatalf("accepted %v", n.accepted)
		}
	})
}

func TestASilentManagerIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, f := &node{}, &fake{}
		var streams atomic.Int32
		f.watch = func(ctx context.Context, r *syncv1.WatchRequest, s *connect.ServerStream[syncv1.WatchResponse]) error {
			if streams.Add(1) > 1 {
				if err := s.Send(&syncv1.WatchResponse{NextSeconds: 7}); err != nil {
					return err
				}
			}
			<-ctx.Done()
			return ctx.Err()
		}
		// Nothing at all for 30 s, half a second's wait, then 14 s after the one sign of life.
		run(t, n.watcher(f), 44800*time.Millisecond)
		if len(n.disconnected) != 2 || !errors.Is(n.disconnected[0], ErrSilent) || !errors.Is(n.disconnected[1], ErrSilent) || n.connected != 1 {
			t.Fatalf("%d streams; %+v", streams.Load(), n)
		}
		var timeout interface{ Timeout() bool }
		if !errors.As(n.disconnected[0], &timeout) || !timeout.Timeout() {
			t.Fatal("the transport does not learn that the line is to blame")
		}
	})
}

func TestWatchBacksOffAndRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, f := &node{}, &fake{}
		begin := time.Now()
		var mu sync.Mutex
		var at []time.Duration
		code := connect.CodeUnavailable
		f.watch = func(ctx context.Context, r *syncv1.WatchRequest, s *connect.ServerStream[syncv1.WatchResponse]) error {
			mu.Lock()
			defer mu.Unlock()
			at = append(at, time.Since(begin))
			return connect.NewError(code, errors.New("not now"))
		}
		w := n.watcher(f)
		run(t, w, 4*time.Minute)
		for i := 1; i < len(at); i++ {
			want := min(500*time.Millisecond<<(i-1), 30*time.Second)
			if at[i]-at[i-1] != want {
				t.Fatalf("wait %d was %s, want %s; all: %v", i, at[i]-at[i-1], want, at)
			}
		}
		at, code = nil, connect.CodePermissionDenied
		run(t, w, 16*time.Minute)
		if len(at) < 2 || len(at) > 4 {
			t.Fatalf("revoked, the node asked %d times in 16 minutes", len(at))
		}
	})
}

func TestWatchRefusesWhatDoesNotHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, f := &node{}, &fake{}
		f.watch = func(ctx context.Context, r *syncv1.WatchRequest, s *connect.ServerStream[syncv1.WatchResponse]) error {
			e := envelope(3, "a")
			e.State = []byte("b")
			if err := s.Send(&syncv1.WatchResponse{State: e}); err != nil {
				return err
			}
			<-ctx.Done()
			return ctx.Err()
		}
		run(t, n.watcher(f), time.Second)
		if len(n.accepted) != 0 || len(n.disconnected) == 0 || !strings.Contains(n.disconnected[0].Error(), "digest") {
			t.Fatalf("%+v", n)
		}
	})
}

func TestClasses(t *testing.T) {
	wire := func(code connect.Code, reason ...string) error {
		e := connect.NewError(code, errors.New("no"))
		e.Meta()["Dhow-Reason"] = reason
		f := &fake{report: e}
		return f.client().Report(t.Context(), &syncv1.ReportRequest{})
	}
	for _, c := range []struct {
		err  error
		want Class
	}{
		{nil, None}, {errors.New("broken pipe"), Retry}, {context.DeadlineExceeded, Retry},
		{connect.NewError(connect.CodePermissionDenied, errors.New("made here")), Retry},
		{fmt.Errorf("cannot reach: %w", transport.ErrRefused), Unauthorised},
		{wire(connect.CodePermissionDenied), Revoked}, {wire(connect.CodeUnauthenticated), Unauthorised},
		{wire(connect.CodeFailedPrecondition), Incompatible}, {wire(connect.CodeInvalidArgument), Refused},
		{wire(connect.CodePermissionDenied, "expired"), Unauthorised}, {wire(connect.CodeFailedPrecondition, "ahead"), Ahead},
		{wire(connect.CodeUnavailable), Retry}, {wire(connect.CodeInternal), Retry}, {wire(connect.CodeResourceExhausted), Retry},
	} {
		if got := ClassOf(c.err); got != c.want {
			t.Errorf("%v is class %d, want %d", c.err, got, c.want)
		}
	}
	e := connect.NewError(connect.CodeResourceExhausted, errors.New("later"))
	e.Meta().Set("Retry-After", "90")
	if got := RetryAfter((&fake{report: e}).client().Report(t.Context(), &syncv1.ReportRequest{})); got != 90*time.Second {
		t.Errorf("retry after %s", got)
	}
	e.Meta().Set("Retry-After", "99999999")
	if got := RetryAfter(fmt.Errorf("x: %w", e)); got != maxRetryAfter {
		t.Errorf("retry after %s", got)
	}
}

// box is an outbox in memory.
type box struct {
	waiting []*syncv1.Aggregate
	last    uint64
}

func (b *box) add(n int) {
	for range n {
		b.last++
		b.waiting = append(b.waiting, &syncv1.Aggregate{Sequence: b.last})
	}
}

func (b *box) Peek(_ context.Context, n, _ int) ([]*syncv1.Aggregate, error) {
	return b.waiting[:min(n, len(b.waiting))], nil
}

func (b *box) Acknowledge(_ context.Context, sequence uint64) (bool, error) {
	if sequence > b.last {
		for i, a := range b.waiting {
			a.Sequence = sequence + uint64(i) + 1
			b.last = a.Sequence
		}
		return true, nil
	}
	for len(b.waiting) > 0 && b.waiting[0].GetSequence() <= sequence {
		b.waiting = b.waiting[1:]
	}
	return false, nil
}

func TestDeliver(t *testing.T) {
	var high, counted uint64
	calls, fail := 0, 0
	f := &fake{deliver: func(r *syncv1.DeliverRequest) (*syncv1.DeliverResponse, error) {
		calls++
		if r.GetBootEpoch() != 9 {
			return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("no epoch"))
		}
		for _, a := range r.GetAggregates() {
			if a.GetSequence() > high {
				high = a.GetSequence()
				counted++
			}
		}
		if calls == fail { // durable, but the answer is lost
			return nil, connect.NewError(connect.CodeUnavailable, errors.New("gone"))
		}
		return &syncv1.DeliverResponse{AcknowledgedSequence: high}, nil
	}}
	b := &box{}
	b.add(600)
	fail = 2
	n, err := f.client().Deliver(t.Context(), 9, b)
	if err == nil || n != 256 || len(b.waiting) != 344 {
		t.Fatal(n, err, len(b.waiting))
	}
	if n, err = f.client().Deliver(t.Context(), 9, b); err != nil || n != 344 || len(b.waiting) != 0 || counted != 600 {
		t.Fatal(n, err, len(b.waiting), counted)
	}
	// The node's counter fell back: the manager skips what it takes for old, and gets it under new numbers.
	b = &box{}
	b.add(3)
	if _, err = f.client().Deliver(t.Context(), 9, b); err != nil || len(b.waiting) != 0 || counted != 603 {
		t.Fatal(err, len(b.waiting), counted)
	}
	// A manager that is always ahead does not keep the node busy for ever.
	f.deliver = func(r *syncv1.DeliverRequest) (*syncv1.DeliverResponse, error) {
		return &syncv1.DeliverResponse{AcknowledgedSequence: r.GetAggregates()[0].GetSequence() + 1000}, nil
	}
	b.add(1)
	if _, err = f.client().Deliver(t.Context(), 9, b); err == nil || len(b.waiting) != 1 {
		t.Fatal(err, len(b.waiting))
	}
	// Nor does one that acknowledges nothing.
	f.deliver = func(*syncv1.DeliverRequest) (*syncv1.DeliverResponse, error) {
		return &syncv1.DeliverResponse{}, nil
	}
	if _, err = f.client().Deliver(t.Context(), 9, b); err == nil || len(b.waiting) != 1 {
		t.Fatal(err, len(b.waiting))
	}
}

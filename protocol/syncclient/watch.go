package syncclient

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"github.com/opencontainers/go-digest"

	"github.com/dhowfleet/dhow/protocol/backoff"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/protocol/transport"
	"github.com/dhowfleet/dhow/protocol/version"
)

// The times of a watch.
const (
	firstMessage = 30 * time.Second // until the manager says anything at all
	nextDefault  = 30 * time.Second // where it does not say how long until the next message
	nextMost     = 10 * time.Minute
	settled      = 5 * time.Second // a stream that lived as long was a success, and a short wait follows it
)

// Watcher follows the desired state of one node, over as many streams as that takes.
//
// What it hands to Accept is checked: the digest holds, the generation is not lower than what the node has, and it is
// not what the node has already. A manager that offers the same state again and again causes nothing.
type Watcher struct {
	Client *Client
	// Current returns the desired state that the node has; nil when it has none.
	Current func() *syncv1.DesiredEnvelope
	// Accept makes a state the node's own, durably. Its error ends the stream, and the next stream offers it again.
	Accept func(context.Context, *syncv1.DesiredEnvelope) error
	// Connected is told when a stream brought its first message, Disconnected when it ended, with the reason; nil when
	// the manager ended it in peace. Older is told of an offer whose generation is lower than the node's.
	Connected    func()
	Disconnected func(error)
	Older        func(offered uint64)
	Backoff      backoff.Backoff
	// Slow is the least wait after an error that a soon retry does not mend.
	Slow time.Duration
}

// ErrSilent means that the manager said nothing for twice as long as it had announced.
var ErrSilent error = silentError{}

type silentError struct{}

func (silentError) Error() string { return "the manager has fallen silent" }

// Timeout makes the transport understand that the line is to blame.
func (silentError) Timeout() bool { return true }

// Run watches until the context ends, whose error it returns.
func (w *Watcher) Run(ctx context.Context) error {
	for {
		begun := time.Now()
		err := w.stream(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		w.Disconnected(err)
		if time.Since(begun) >= settled {
			w.Backoff.Reset()
		}
		atLeast := RetryAfter(err)
		switch ClassOf(err) {
		case Refused, Revoked, Incompatible, Ahead:
			atLeast = max(atLeast, w.Slow)
		}
		if err := w.Backoff.Wait(ctx, atLeast); err != nil {
			return err
		}
	}
}

// stream follows one stream to its end.
func (w *Watcher) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	alive := time.AfterFunc(firstMessage, func() { cancel(ErrSilent) })
	defer alive.Stop()
	req := &syncv1.WatchRequest{Protocol: version.Current}
	if have := w.Current(); have != nil {
		req.Generation, req.Digest = have.GetGeneration(), have.GetDigest()
	}
	stream, err := w.Client.sync.Watch(transport.WithLongSilence(ctx), connect.NewRequest(req))
	if err != nil {
		return watchError(ctx, err)
	}
	defer func() { _ = stream.Close() }() // it ended, or is given up
	for first := true; stream.Receive(); first = false {
		m := stream.Msg()
		next := time.Duration(m.GetNextSeconds()) * time.Second
		if next <= 0 {
			next = nextDefault
		}
		alive.Reset(2 * min(next, nextMost))
		if first {
			w.Connected()
		}
		if m.GetState() == nil {
			continue
		}
		if err := w.offer(ctx, m.GetState()); err != nil {
			return err
		}
	}
	if err := stream.Err(); err != nil {
		return watchError(ctx, err)
	}
	return nil
}

func watchError(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, ErrSilent) {
		return fmt.Errorf("cannot watch: %w", cause)
	}
	return fmt.Errorf("cannot watch: %w", err)
}

// offer judges a state that the manager sent.
func (w *Watcher) offer(ctx context.Context, e *syncv1.DesiredEnvelope) error {
	if got := digest.SHA256.FromBytes(e.GetState()); got.String() != e.GetDigest() {
		return fmt.Errorf("cannot take generation %d: its bytes have the digest %s, the manager says %.80s", e.GetGeneration(), got, e.GetDigest())
	}
	if have := w.Current(); have != nil {
		switch {
		case e.GetGeneration() < have.GetGeneration():
			w.Older(e.GetGeneration())
			return nil
		case e.GetGeneration() == have.GetGeneration() && e.GetDigest() == have.GetDigest():
			return nil
		}
	}
	return w.Accept(ctx, e)
}

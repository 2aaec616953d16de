package api

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	"github.com/dhowfleet/dhow/fleet/resource"
	"github.com/dhowfleet/dhow/fleet/store"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	"github.com/dhowfleet/dhow/protocol/transport"
)

// What a WatchResponse tells of.
const (
	Current = "current"
	Synced  = "synced"
	Changed = "changed"
	Deleted = "deleted"
)

// Watch streams the resources that match as they are now, then every change. A resource that matches no more is told
// as deleted.
func (s *Service) Watch(ctx context.Context, req *connect.Request[fleetv1.WatchRequest], stream *connect.ServerStream[fleetv1.WatchResponse]) error {
	if kind := req.Msg.GetKind(); kind != "" {
		if err := checkKind(kind); err != nil {
			return err
		}
	} else if req.Msg.GetName() != "" {
		return invalid("a name is watched together with its kind")
	}
	select {
	case s.watchers <- struct{}{}:
		defer func() { <-s.watchers }()
	default:
		return connect.NewError(connect.CodeResourceExhausted, errors.New("too many watches are open at this manager: close some, or try again later"))
	}
	w := &watch{service: s, want: req.Msg, known: map[store.Key]uint64{}, send: stream.Send}
	return w.run(ctx)
}

// Why a watch ends by the manager. The transport ends the writing of a message that is not taken in time.
var (
	errSlow     = connect.NewError(connect.CodeResourceExhausted, errors.New("this watch was cut because a message was not taken in time: watch anew"))
	errBehind   = connect.NewError(connect.CodeResourceExhausted, errors.New("this watch was cut because it fell too far behind: watch anew"))
	errStopping = connect.NewError(connect.CodeUnavailable, errors.New("the manager is stopping: watch anew"))
)

// watch is one watcher's view: what it was sent, and up to which version.
type watch struct {
	service *Service
	want    *fleetv1.WatchRequest
	send    func(*fleetv1.WatchResponse) error
	known   map[store.Key]uint64 // resource version last sent
	version uint64
}

func (w *watch) run(ctx context.Context) error {
	// Before the picture, so that no change falls between the two.
	wake, stop := w.service.Resources.Notify()
	defer stop()
	if err := w.picture(ctx); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil // the watcher went away
		case <-transport.Draining(ctx):
			return errStopping
		case <-wake:
		}
		if err := w.changes(ctx); err != nil {
			return err
		}
		// A busy fleet commits many times a second; a watcher sees the last of each.
		select {
		case <-ctx.Done():
			return nil
		case <-transport.Draining(ctx):
			return errStopping
		case <-time.After(w.service.WatchPause):
		}
	}
}

func (w *watch) picture(ctx context.Context) error {
	list, version, err := w.service.Resources.List(ctx, w.want.GetKind())
	if err != nil {
		return w.service.fail(ctx, "read resources", err)
	}
	w.version = version
	for _, r := range list {
		if w.matches(r) {
			w.known[keyOf(r)] = r.GetMetadata().GetResourceVersion()
			if err := w.tell(ctx, Current, r); err != nil {
				return err
			}
		}
	}
	return w.tell(ctx, Synced, nil)
}

func (w *watch) changes(ctx context.Context) error {
	for {
		records, err := w.service.Resources.Changes(ctx, w.version)
		if errors.Is(err, store.ErrCompacted) {
			w.service.Logger.Warn("a watch was cut: it fell too far behind", "operator", operator(ctx))
			return errBehind
		}
		if err != nil {
			return w.service.fail(ctx, "read changes", err)
		}
		if len(records) == 0 {
			return nil
		}
		for _, c := range records {
			w.version = max(w.version, c.Version)
			if err := w.record(ctx, c); err != nil {
				return err
			}
		}
	}
}

func (w *watch) record(ctx context.Context, c store.ChangeRecord) error {
	key := store.Key{Kind: c.Kind, Name: c.Name}
	sent, known := w.known[key]
	switch {
	case !c.Deleted && w.matches(c.Resource):
		if known && sent >= c.Version {
			return nil
		}
		w.known[key] = c.Version
		return w.tell(ctx, Changed, c.Resource)
	case known && c.Version > sent:
		delete(w.known, key)
		return w.tell(ctx, Deleted, &fleetv1.Resource{Kind: c.Kind, Metadata: &fleetv1.Metadata{Name: c.Name, ResourceVersion: c.Version}})
	}
	return nil
}

func (w *watch) matches(r *fleetv1.Resource) bool {
	return (w.want.GetKind() == "" || r.GetKind() == w.want.GetKind()) &&
		(w.want.GetName() == "" || r.GetMetadata().GetName() == w.want.GetName()) &&
		resource.Matches(r, w.want.GetSelector())
}

func (w *watch) tell(ctx context.Context, what string, r *fleetv1.Resource) error {
	err := w.send(&fleetv1.WatchResponse{Type: what, Resource: r})
	if err == nil || ctx.Err() != nil {
		return nil //nolint:nilerr // a watcher that went away is no failure; the loop sees ctx and ends
	}
	w.service.Logger.Warn("a watch was cut: it did not take a message in time", "operator", operator(ctx), "error", err)
	return errSlow
}

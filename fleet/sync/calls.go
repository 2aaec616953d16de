package sync

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/dhowfleet/dhow/fleet/store"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/protocol/transport"
	"github.com/dhowfleet/dhow/protocol/version"
)

// Enrol exchanges a join token and a certificate request for a certificate.
func (s *Service) Enrol(ctx context.Context, req *connect.Request[syncv1.EnrolRequest]) (*connect.Response[syncv1.EnrolResponse], error) {
	out, err := s.Registry.Enrol(ctx, req.Msg)
	if err != nil {
		return nil, s.answer(err)
	}
	return connect.NewResponse(out), nil
}

// Renew gives the calling node a fresh certificate; an expired one within its grace period will do to ask.
func (s *Service) Renew(ctx context.Context, req *connect.Request[syncv1.RenewRequest]) (*connect.Response[syncv1.RenewResponse], error) {
	n, err := s.caller(ctx, true)
	if err != nil {
		return nil, err
	}
	id, err := s.Registry.Renew(ctx, n, req.Msg.GetCertificateRequest())
	if err != nil {
		return nil, s.answer(err)
	}
	return connect.NewResponse(&syncv1.RenewResponse{Identity: id}), nil
}

// Report takes what the node says of itself; the registry writes it a moment later.
func (s *Service) Report(ctx context.Context, req *connect.Request[syncv1.ReportRequest]) (*connect.Response[syncv1.ReportResponse], error) {
	n, err := s.caller(ctx, false)
	if err != nil {
		return nil, err
	}
	if c, w := len(req.Msg.GetCopies()), len(req.Msg.GetWarnings()); c > maxCopies || w > maxWarnings {
		return nil, refusal(connect.CodeInvalidArgument, "too-much", fmt.Sprintf("the report holds %d copies and %d warnings, at most %d and %d are taken", c, w, maxCopies, maxWarnings))
	}
	s.Registry.Heard(n.ID, spoken(ctx), req.Msg)
	return connect.NewResponse(&syncv1.ReportResponse{}), nil
}

// Deliver adds aggregates to the totals and answers when that is durable.
func (s *Service) Deliver(ctx context.Context, req *connect.Request[syncv1.DeliverRequest]) (*connect.Response[syncv1.DeliverResponse], error) {
	n, err := s.caller(ctx, false)
	if err != nil {
		return nil, err
	}
	if a := len(req.Msg.GetAggregates()); a > maxAggregates {
		return nil, refusal(connect.CodeInvalidArgument, "too-much", fmt.Sprintf("the delivery holds %d aggregates, at most %d are taken at once", a, maxAggregates))
	}
	acknowledged, rejected, err := s.Store.Deliver(ctx, n.ID, req.Msg.GetAggregates())
	if err != nil {
		return nil, s.answer(err)
	}
	if rejected > 0 {
		s.Logger.Warn("aggregates that make no sense were left out", "node", n.Name, "site", n.Site, "count", rejected)
	}
	s.Registry.Heard(n.ID, spoken(ctx), nil)
	return connect.NewResponse(&syncv1.DeliverResponse{AcknowledgedSequence: acknowledged}), nil
}

// Watch streams the desired state whenever it differs from what the node has.
func (s *Service) Watch(ctx context.Context, req *connect.Request[syncv1.WatchRequest], stream *connect.ServerStream[syncv1.WatchResponse]) error {
	n, err := s.caller(ctx, false)
	if err != nil {
		return err
	}
	if err := version.Compatible(version.Current, req.Msg.GetProtocol()); err != nil {
		s.Registry.Heard(n.ID, spoken(ctx), nil)
		return refusal(connect.CodeFailedPrecondition, "protocol", err.Error())
	}
	w, err := s.open(n.ID)
	if err != nil {
		return err
	}
	defer s.close(n.ID, w)
	defer s.Registry.Watching(n.ID, spoken(ctx), req.Msg.GetProtocol())()

	has := store.Desired{Generation: req.Msg.GetGeneration(), Digest: req.Msg.GetDigest()}
	for {
		if has, err = s.tell(ctx, n, has, stream); err != nil {
			return err
		}
		if err := s.pause(ctx, w); err != nil {
			return err
		}
		// The node may have been revoked meanwhile, or its certificate may have expired.
		if n, err = s.caller(ctx, false); err != nil {
			return err
		}
		if peer, ok := transport.PeerFrom(ctx); ok && peer.Certificate != nil && time.Now().After(peer.Certificate.NotAfter) {
			return refusal(connect.CodeUnauthenticated, "expired", "the node's certificate has expired: it is renewed first")
		}
	}
}

// tell sends one message: the state when the node has another one, a sign of life when not. It returns what the node
// has then.
func (s *Service) tell(ctx context.Context, n *store.Node, has store.Desired, stream *connect.ServerStream[syncv1.WatchResponse]) (store.Desired, error) {
	message := &syncv1.WatchResponse{NextSeconds: uint32(s.SignOfLife / time.Second)}
	want, err := s.Store.Desired(ctx, n.ID)
	if err != nil {
		return has, s.answer(err)
	}
	if want.Digest != has.Digest {
		if has.Generation > 0 && want.Generation <= has.Generation {
			s.Logger.Warn("a node has a newer desired state than this manager: the manager was restored from an older backup", "node", n.Name, "site", n.Site,
				"node_generation", has.Generation, "generation", want.Generation)
			if err := s.Store.RecordAhead(ctx, n.ID, has.Generation); err != nil {
				return has, s.answer(err)
			}
			return has, refusal(connect.CodeFailedPrecondition, "ahead", fmt.Sprintf(
				"the node has generation %d of its desired state and this manager only %d: the manager was restored from an older backup; the node keeps what it has until an operator says: dhow node approve %s", has.Generation, want.Generation, n.Name))
		}
		message.State = &syncv1.DesiredEnvelope{Generation: want.Generation, State: want.State, Digest: want.Digest}
	}
	if err := stream.Send(message); err != nil {
		return has, err
	}
	return want, nil
}

// pause waits until there is reason to look again: a wake-up or the time for a sign of life.
func (s *Service) pause(ctx context.Context, w *watch) error {
	timer := time.NewTimer(s.SignOfLife)
	defer timer.Stop()
	select {
	case <-w.wake:
	case <-timer.C:
	case <-w.replaced:
		return refusal(connect.CodeAborted, "replaced", "a newer watch of the same node took the place of this one")
	case <-transport.Draining(ctx):
		return connect.NewError(connect.CodeUnavailable, errors.New("the manager is shutting down: connect again"))
	case <-ctx.Done():
		return connect.NewError(connect.CodeCanceled, errors.New("the watch was ended"))
	}
	return nil
}

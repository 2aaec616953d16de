package api

import (
	"context"

	"connectrpc.com/connect"

	"github.com/dhowfleet/dhow/fleet/resource"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
)

// checkKind refuses a kind that is not written as documents write it.
func checkKind(kind string) error {
	k, err := resource.KindNamed(kind)
	if err != nil {
		return connect.NewError(connect.CodeInvalidArgument, err)
	}
	if k.Name != kind {
		return invalid("the kind is written %s", k.Name)
	}
	return nil
}

// Get returns one resource.
func (s *Service) Get(ctx context.Context, req *connect.Request[fleetv1.GetRequest]) (*connect.Response[fleetv1.GetResponse], error) {
	if err := checkKind(req.Msg.GetKind()); err != nil {
		return nil, err
	}
	r, err := s.Resources.Get(ctx, req.Msg.GetKind(), req.Msg.GetName())
	if err != nil {
		return nil, s.fail(ctx, "read a resource", err)
	}
	return connect.NewResponse(&fleetv1.GetResponse{Resource: r}), nil
}

// List returns the resources of a kind that match, or of all kinds without one, by name.
func (s *Service) List(ctx context.Context, req *connect.Request[fleetv1.ListRequest]) (*connect.Response[fleetv1.ListResponse], error) {
	if kind := req.Msg.GetKind(); kind != "" {
		if err := checkKind(kind); err != nil {
			return nil, err
		}
	}
	list, version, err := s.Resources.List(ctx, req.Msg.GetKind())
	if err != nil {
		return nil, s.fail(ctx, "read resources", err)
	}
	out := &fleetv1.ListResponse{ResourceVersion: version}
	for _, r := range list {
		if resource.Matches(r, req.Msg.GetSelector()) {
			out.Resources = append(out.Resources, r)
		}
	}
	return connect.NewResponse(out), nil
}

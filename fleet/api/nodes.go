package api

import (
	"context"
	"time"

	"connectrpc.com/connect"

	"github.com/dhowfleet/dhow/fleet/resource"
	"github.com/dhowfleet/dhow/fleet/store"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	"github.com/dhowfleet/dhow/protocol/identity"
)

const (
	defaultExpiry = time.Hour
	maxExpiry     = 366 * 24 * time.Hour
	maxUses       = 1_000_000
	maxReason     = 256
)

// CreateJoinToken makes a token that enrols nodes into one site.
func (s *Service) CreateJoinToken(ctx context.Context, req *connect.Request[fleetv1.CreateJoinTokenRequest]) (*connect.Response[fleetv1.CreateJoinTokenResponse], error) {
	m := req.Msg
	expiry := defaultExpiry
	if n := m.GetExpiresSeconds(); n > uint64(maxExpiry/time.Second) {
		return nil, invalid("a join token is good for at most %d days", maxExpiry/(24*time.Hour))
	} else if n > 0 {
		expiry = time.Duration(n) * time.Second
	}
	if m.GetUses() > maxUses {
		return nil, invalid("a join token may be used at most %d times", maxUses)
	}
	// An apply in between could take the site away.
	s.applying.Lock()
	defer s.applying.Unlock()
	if err := s.checkPlace(ctx, m.GetRegion(), m.GetSite()); err != nil {
		return nil, err
	}
	secret, info, err := s.Tokens.CreateJoinToken(ctx, store.JoinTokenSpec{
		Region: m.GetRegion(), Site: m.GetSite(), Uses: max(m.GetUses(), 1),
		ExpiresAt: s.Now().Add(expiry), RequireApproval: m.GetRequireApproval(),
	})
	if err != nil {
		return nil, s.fail(ctx, "make a join token", err)
	}
	token := identity.JoinToken{ID: info.GetId(), Secret: secret, RootPin: s.RootPin}
	s.Logger.Info("join token made", "token", info.GetId(), "region", info.GetRegion(), "site", info.GetSite(), "uses", info.GetUses(), "operator", operator(ctx))
	return connect.NewResponse(&fleetv1.CreateJoinTokenResponse{Token: token.String(), Info: info}), nil
}

func (s *Service) checkPlace(ctx context.Context, region, site string) error {
	if region == "" || site == "" {
		return invalid("a join token is for one site: name its region and the site")
	}
	world := resource.NewWorld()
	for _, kind := range []string{resource.KindRegion, resource.KindSite} {
		list, _, err := s.Resources.List(ctx, kind)
		if err != nil {
			return s.fail(ctx, "read sites", err)
		}
		for _, r := range list {
			world.Put(r)
		}
	}
	if problems := world.CheckPlace(region, site); len(problems) > 0 {
		return refused("%s", problems[0].Message)
	}
	return nil
}

// ListJoinTokens returns all tokens, without their secrets.
func (s *Service) ListJoinTokens(ctx context.Context, _ *connect.Request[fleetv1.ListJoinTokensRequest]) (*connect.Response[fleetv1.ListJoinTokensResponse], error) {
	tokens, err := s.Tokens.ListJoinTokens(ctx)
	if err != nil {
		return nil, s.fail(ctx, "read join tokens", err)
	}
	return connect.NewResponse(&fleetv1.ListJoinTokensResponse{Tokens: tokens}), nil
}

// RevokeJoinToken makes a token useless; nodes that enrolled with it stay.
func (s *Service) RevokeJoinToken(ctx context.Context, req *connect.Request[fleetv1.RevokeJoinTokenRequest]) (*connect.Response[fleetv1.RevokeJoinTokenResponse], error) {
	if err := s.Tokens.RevokeJoinToken(ctx, req.Msg.GetId()); err != nil {
		return nil, s.fail(ctx, "revoke the join token", err)
	}
	s.Logger.Info("join token revoked", "token", req.Msg.GetId(), "operator", operator(ctx))
	return connect.NewResponse(&fleetv1.RevokeJoinTokenResponse{}), nil
}

// ApproveNode lets a pending node have its certificate.
func (s *Service) ApproveNode(ctx context.Context, req *connect.Request[fleetv1.ApproveNodeRequest]) (*connect.Response[fleetv1.ApproveNodeResponse], error) {
	if err := s.Nodes.ApproveNode(ctx, req.Msg.GetName()); err != nil {
		return nil, s.fail(ctx, "approve the node", err)
	}
	s.Logger.Info("node approved", "node", req.Msg.GetName(), "operator", operator(ctx))
	return connect.NewResponse(&fleetv1.ApproveNodeResponse{}), nil
}

// RevokeNode takes a node's certificate from it for good.
func (s *Service) RevokeNode(ctx context.Context, req *connect.Request[fleetv1.RevokeNodeRequest]) (*connect.Response[fleetv1.RevokeNodeResponse], error) {
	if n := len(req.Msg.GetReason()); n > maxReason {
		return nil, invalid("the reason has %d bytes, at most %d are kept", n, maxReason)
	}
	if err := s.Nodes.RevokeNode(ctx, req.Msg.GetName(), req.Msg.GetReason()); err != nil {
		return nil, s.fail(ctx, "revoke the node", err)
	}
	s.Logger.Info("node revoked", "node", req.Msg.GetName(), "reason", req.Msg.GetReason(), "operator", operator(ctx))
	return connect.NewResponse(&fleetv1.RevokeNodeResponse{}), nil
}

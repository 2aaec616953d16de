package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/dhowfleet/dhow/fleet/access"
	"github.com/dhowfleet/dhow/fleet/store"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	"github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1/fleetv1connect"
	"github.com/dhowfleet/dhow/protocol/version"
)

const (
	maxRequestBytes = 8 << 20
	// MaxResponseBytes is the largest message that a manager sends: a list of ten thousand nodes with their reports.
	MaxResponseBytes = 64 << 20
	callTimeout      = 30 * time.Second
)

// Resources keeps what operators declare and presents nodes beside it; fleet/store does.
type Resources interface {
	Apply(ctx context.Context, changes []store.Change) ([]*fleetv1.Resource, error)
	Get(ctx context.Context, kind, name string) (*fleetv1.Resource, error)
	List(ctx context.Context, kind string) ([]*fleetv1.Resource, uint64, error)
	Changes(ctx context.Context, since uint64) ([]store.ChangeRecord, error)
	Notify() (<-chan struct{}, func())
}

// Tokens keeps join tokens; fleet/store does.
type Tokens interface {
	CreateJoinToken(ctx context.Context, spec store.JoinTokenSpec) (secret string, info *fleetv1.JoinToken, err error)
	ListJoinTokens(ctx context.Context) ([]*fleetv1.JoinToken, error)
	RevokeJoinToken(ctx context.Context, id string) error
}

// Nodes decides which nodes belong to the fleet.
type Nodes interface {
	ApproveNode(ctx context.Context, name string) error
	RevokeNode(ctx context.Context, name, reason string) error
}

// Totals adds up what nodes delivered; fleet/store does.
type Totals interface {
	Totals(ctx context.Context, filter store.TotalsFilter) ([]*fleetv1.NodeTotals, error)
}

// Config is what the service needs. All but the last group is required.
type Config struct {
	Resources Resources
	Tokens    Tokens
	Nodes     Nodes
	Totals    Totals
	// RootPin is the SHA-256 of the authority's root certificate; it goes into join tokens.
	RootPin     [32]byte
	TrustDomain string
	Logger      *slog.Logger

	Now func() time.Time // default: time.Now
	// MaxWatchers bounds the watches that are open at once (default 200), WatchPause is how long changes are gathered
	// before the store is asked again (default 100 ms).
	MaxWatchers int
	WatchPause  time.Duration
}

// Service implements fleetv1connect.FleetServiceHandler.
type Service struct {
	Config
	applying sync.Mutex    // held from the check of a change to its commit
	watchers chan struct{} // holds a value for each open watch
}

var _ fleetv1connect.FleetServiceHandler = (*Service)(nil)

// New makes the service.
func New(config Config) (*Service, error) {
	if config.Resources == nil || config.Tokens == nil || config.Nodes == nil || config.Totals == nil || config.Logger == nil {
		return nil, errors.New("cannot make the operators' service: a part that it needs is missing")
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.MaxWatchers <= 0 {
		config.MaxWatchers = 200
	}
	if config.WatchPause <= 0 {
		config.WatchPause = 100 * time.Millisecond
	}
	return &Service{Config: config, watchers: make(chan struct{}, config.MaxWatchers)}, nil
}

// rules says who may call which procedure. A procedure that is missing here is not served.
var rules = []struct {
	procedure string
	rule      access.Rule
}{
	{fleetv1connect.FleetServiceApplyProcedure, access.Operators(access.Admin)},
	{fleetv1connect.FleetServiceGetProcedure, access.Operators(access.Admin)},
	{fleetv1connect.FleetServiceListProcedure, access.Operators(access.Admin)},
	{fleetv1connect.FleetServiceWatchProcedure, access.Operators(access.Admin)},
	{fleetv1connect.FleetServiceDeleteProcedure, access.Operators(access.Admin)},
	{fleetv1connect.FleetServiceCreateJoinTokenProcedure, access.Operators(access.Admin)},
	{fleetv1connect.FleetServiceListJoinTokensProcedure, access.Operators(access.Admin)},
	{fleetv1connect.FleetServiceRevokeJoinTokenProcedure, access.Operators(access.Admin)},
	{fleetv1connect.FleetServiceApproveNodeProcedure, access.Operators(access.Admin)},
	{fleetv1connect.FleetServiceRevokeNodeProcedure, access.Operators(access.Admin)},
	{fleetv1connect.FleetServiceGetTotalsProcedure, access.Operators(access.Admin)},
	{fleetv1connect.FleetServiceGetServerInfoProcedure, access.Operators(access.Admin)},
}

// Routes returns the service's part of the manager's route table.
func (s *Service) Routes() []access.Route {
	_, handler := fleetv1connect.NewFleetServiceHandler(s,
		connect.WithReadMaxBytes(maxRequestBytes), connect.WithSendMaxBytes(MaxResponseBytes),
		connect.WithInterceptors(deadline), connect.WithRecover(s.recovered))
	routes := make([]access.Route, len(rules))
	for i, r := range rules {
		routes[i] = access.Route{Pattern: http.MethodPost + " " + r.procedure, Rule: r.rule, Handler: handler}
	}
	return routes
}

func (s *Service) recovered(_ context.Context, spec connect.Spec, _ http.Header, reason any) error {
	s.Logger.Error("an operator's call failed by a panic", "procedure", spec.Procedure, "panic", reason)
	return errInside
}

// deadline bounds the time of calls that are not streams.
var deadline = connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		return next(ctx, req)
	}
})

// GetServerInfo says what this manager is.
func (s *Service) GetServerInfo(context.Context, *connect.Request[fleetv1.GetServerInfoRequest]) (*connect.Response[fleetv1.GetServerInfoResponse], error) {
	return connect.NewResponse(&fleetv1.GetServerInfoResponse{
		Version: version.Build, Protocol: version.Current, TrustDomain: s.TrustDomain,
	}), nil
}

// GetTotals adds up what nodes delivered.
func (s *Service) GetTotals(ctx context.Context, req *connect.Request[fleetv1.GetTotalsRequest]) (*connect.Response[fleetv1.GetTotalsResponse], error) {
	totals, err := s.Totals.Totals(ctx, store.TotalsFilter{
		Model: req.Msg.GetModel(), Region: req.Msg.GetRegion(), Site: req.Msg.GetSite(), Node: req.Msg.GetNode(),
	})
	if err != nil {
		return nil, s.fail(ctx, "read totals", err)
	}
	return connect.NewResponse(&fleetv1.GetTotalsResponse{Totals: totals}), nil
}

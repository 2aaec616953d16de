// Package sync serves nodes: dhow.sync.v1 over Connect.
//
// Enrolment is called without a certificate. In every other call only the certificate that protocol/transport verified
// says who speaks; what a message says about its sender is not looked at. Every call asks the registry of nodes whether
// this node may speak now.
//
// A watch is level-triggered. It compares the digest of what the node has with what the store holds, at the start and
// whenever Wake names the node, and sends the whole state when they differ; between changes it sends a sign of life.
// So nothing depends on a wake-up that was lost, and a change made while the node was away arrives when it is back. A
// node has one watch: a newer one ends the older.
//
// Reports are handed to the registry, which keeps the last and writes in groups. A delivery is answered when it is
// durable. Sizes, counts, watches and the time of a call are bounded; see the constants.
package sync

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/dhowfleet/dhow/fleet/nodes"
	"github.com/dhowfleet/dhow/fleet/store"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1/syncv1connect"
	"github.com/dhowfleet/dhow/protocol/identity"
	"github.com/dhowfleet/dhow/protocol/transport"
)

const (
	maxEnrolBytes   = 128 << 10
	maxMessageBytes = 4 << 20
	maxCopies       = 500
	maxWarnings     = 200
	maxAggregates   = 10_000
	callTimeout     = 30 * time.Second
	// longestWait bounds what a node is told to wait for between two messages of a watch.
	longestWait = 10 * time.Minute
)

// ReasonHeader carries the code of a refusal beside its sentence, such as "revoked".
const ReasonHeader = "Dhow-Reason"

// Registry knows the nodes; fleet/nodes does.
type Registry interface {
	Enrol(ctx context.Context, q *syncv1.EnrolRequest) (*syncv1.EnrolResponse, error)
	Admit(ctx context.Context, who identity.Node) (*store.Node, error)
	Renew(ctx context.Context, n *store.Node, csr []byte) (*syncv1.Identity, error)
	Watching(nodeID, transport string, protocol uint32) (end func())
	Heard(nodeID, transport string, report *syncv1.ReportRequest)
}

// Store keeps desired states and totals; fleet/store does.
type Store interface {
	Desired(ctx context.Context, nodeID string) (store.Desired, error)
	RecordAhead(ctx context.Context, nodeID string, generation uint64) error
	Deliver(ctx context.Context, nodeID string, aggregates []*syncv1.Aggregate) (acknowledged uint64, rejected int, err error)
}

// Config is what a Service needs. Registry, Store and Logger are required.
type Config struct {
	Registry Registry
	Store    Store
	Logger   *slog.Logger
	// SignOfLife is the longest time between two messages of a watch (default 20 s).
	SignOfLife time.Duration
	// MaxWatches bounds the watches that are open at once (default 20,000).
	MaxWatches int
}

// Service implements syncv1connect.SyncServiceHandler and EnrolmentServiceHandler.
type Service struct {
	Config

	mu      sync.Mutex
	watches map[string]*watch // by node id
}

// watch is one open stream.
type watch struct {
	wake     chan struct{}
	replaced chan struct{} // closed when a newer one took its place
}

var (
	_ syncv1connect.SyncServiceHandler      = (*Service)(nil)
	_ syncv1connect.EnrolmentServiceHandler = (*Service)(nil)
)

// New makes a service.
func New(c Config) *Service {
	if c.SignOfLife <= 0 {
		c.SignOfLife = 20 * time.Second
	}
	c.SignOfLife = max(time.Second, min(c.SignOfLife, longestWait))
	if c.MaxWatches <= 0 {
		c.MaxWatches = 20_000
	}
	return &Service{Config: c, watches: map[string]*watch{}}
}

// SyncHandler returns the handler of SyncService under its path. It must be reached by nodes only.
func (s *Service) SyncHandler() (path string, h http.Handler) {
	path, inner := syncv1connect.NewSyncServiceHandler(s, connect.WithReadMaxBytes(maxMessageBytes), connect.WithInterceptors(deadline))
	return path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		inner.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), spokenKey{}, transport.ProtocolOf(r))))
	})
}

// EnrolmentHandler returns the handler of EnrolmentService under its path.
func (s *Service) EnrolmentHandler() (path string, h http.Handler) {
	return syncv1connect.NewEnrolmentServiceHandler(s, connect.WithReadMaxBytes(maxEnrolBytes), connect.WithInterceptors(deadline))
}

// Wake has the watches of these nodes look at the store again. It never blocks.
func (s *Service) Wake(nodeIDs ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range nodeIDs {
		if w := s.watches[id]; w != nil {
			select {
			case w.wake <- struct{}{}:
			default: // it is going to look anyway
			}
		}
	}
}

// Watches returns how many watches are open.
func (s *Service) Watches() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.watches)
}

// open registers a watch and ends the node's older one.
func (s *Service) open(nodeID string) (*watch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.watches[nodeID]
	if old == nil && len(s.watches) >= s.MaxWatches {
		return nil, refusal(connect.CodeResourceExhausted, "too-many-watches", "the manager holds as many watches as it may; it is tried again later")
	}
	if old != nil {
		close(old.replaced)
	}
	w := &watch{wake: make(chan struct{}, 1), replaced: make(chan struct{})}
	s.watches[nodeID] = w
	return w, nil
}

func (s *Service) close(nodeID string, w *watch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watches[nodeID] == w {
		delete(s.watches, nodeID)
	}
}

// caller returns the node that calls, if it may.
func (s *Service) caller(ctx context.Context, renewing bool) (*store.Node, error) {
	peer, ok := transport.PeerFrom(ctx)
	if !ok {
		return nil, refusal(connect.CodeUnauthenticated, "no-certificate", "this is for nodes, which present a certificate")
	}
	if peer.Expired && !renewing {
		return nil, refusal(connect.CodeUnauthenticated, "expired", "the node's certificate has expired: it is renewed first")
	}
	n, err := s.Registry.Admit(ctx, peer.Node)
	if err != nil {
		return nil, s.answer(err)
	}
	return n, nil
}

func refusal(code connect.Code, reason, text string) error {
	err := connect.NewError(code, errors.New(text))
	err.Meta().Set(ReasonHeader, reason)
	return err
}

// answer turns an error into what the node is told. What is inside the manager stays there: it is logged.
func (s *Service) answer(err error) error {
	var r *nodes.Refusal
	switch {
	case errors.As(err, &r):
		code := connect.CodePermissionDenied
		switch r.Reason {
		case nodes.ReasonBadRequest:
			code = connect.CodeInvalidArgument
		case nodes.ReasonProtocol:
			code = connect.CodeFailedPrecondition
		case nodes.ReasonBusy:
			code = connect.CodeResourceExhausted
		}
		return refusal(code, string(r.Reason), r.Error())
	case errors.Is(err, store.ErrDisorder):
		return refusal(connect.CodeInvalidArgument, "disorder", err.Error())
	case errors.Is(err, store.ErrNotFound):
		return refusal(connect.CodePermissionDenied, string(nodes.ReasonUnknown), "this manager no longer knows the node")
	case errors.Is(err, context.Canceled):
		return connect.NewError(connect.CodeCanceled, errors.New("the call was cancelled"))
	case errors.Is(err, context.DeadlineExceeded):
		return connect.NewError(connect.CodeUnavailable, errors.New("the manager took too long: try again"))
	}
	s.Logger.Error("a node's call failed", "error", err)
	return connect.NewError(connect.CodeUnavailable, errors.New("the manager cannot answer at this moment: try again"))
}

// spokenKey finds the HTTP version of a call in its context.
type spokenKey struct{}

func spoken(ctx context.Context) string {
	p, _ := ctx.Value(spokenKey{}).(string)
	return p
}

// deadline bounds the time of calls that are not streams.
var deadline = connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		return next(ctx, req)
	}
})

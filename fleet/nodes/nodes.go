// Package nodes knows which machines belong to the fleet and which of them are there.
//
// A machine comes in by a join token and a certificate request (Enrol) and stays by renewing its certificate (Renew).
// Admit answers whether the holder of a certificate may speak now; it is asked at every call, so that a revocation
// takes effect at once.
//
// Who is there is kept in memory, since it changes with every word of a node: Watching and Heard note it, and Run
// writes what changed to the store in groups, at most every Config.Flush. A node is Connected while it holds a watch or
// spoke within three report intervals, Enrolling until it first speaks, and Disconnected otherwise: at once when it said
// that it stops. A manager that just started gives every node that was connected before it three intervals to come back.
//
// Everything may be called from any goroutine. Enrol, Renew and Admit wait for the store; Watching and Heard never
// block.
package nodes

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/dhowfleet/dhow/fleet/store"
	"github.com/dhowfleet/dhow/protocol/identity"
)

// Authority signs certificates; fleet/authority does.
type Authority interface {
	SignNode(csrDER []byte, n identity.Node) (chain [][]byte, notAfter time.Time, err error)
	RootsDER() [][]byte
}

// Store keeps nodes; fleet/store does.
type Store interface {
	UseJoinToken(ctx context.Context, e store.Enrolment) (*store.Node, error)
	RecordCertificate(ctx context.Context, nodeID, serial string, expires time.Time, protocol uint32) error
	NodeByID(ctx context.Context, id string) (*store.Node, error)
	Nodes(ctx context.Context) ([]*store.Node, error)
	RecordSightings(ctx context.Context, sightings []store.Sighting) error
}

// Config is what a Registry needs. Store, Authority, TrustDomain and Logger are required.
type Config struct {
	Store       Store
	Authority   Authority
	TrustDomain string
	Logger      *slog.Logger
	Now         func() time.Time // default: time.Now
	// ReportInterval is how often nodes speak at least (default 10 s).
	ReportInterval time.Duration
	// Flush is how long what was heard is gathered before it is written (default 200 ms).
	Flush time.Duration
	// ApprovalRetry is when a node that waits for approval asks again (default 5 s).
	ApprovalRetry time.Duration
}

// Registry is the fleet's list of nodes.
type Registry struct {
	Config

	mu       sync.Mutex
	present  map[string]*presence
	dirty    map[string]struct{}
	wake     chan struct{} // something became dirty
	enrolled chan struct{} // bounds enrolments under way
}

// maxEnrolling bounds the enrolments under way: each costs two signatures and two commits.
const maxEnrolling = 64

// New makes a registry; Run brings it to life.
func New(c Config) *Registry {
	if c.Now == nil {
		c.Now = time.Now
	}
	for _, d := range []struct {
		value *time.Duration
		or    time.Duration
	}{{&c.ReportInterval, 10 * time.Second}, {&c.Flush, 200 * time.Millisecond}, {&c.ApprovalRetry, 5 * time.Second}} {
		if *d.value <= 0 {
			*d.value = d.or
		}
	}
	return &Registry{Config: c, present: map[string]*presence{}, dirty: map[string]struct{}{}, wake: make(chan struct{}, 1), enrolled: make(chan struct{}, maxEnrolling)}
}

// Reason is a code for why a node is refused.
type Reason string

// Reasons for which a node is refused. Those of join tokens are store.TokenReason with "token-" before it.
const (
	ReasonRevoked     Reason = "revoked"
	ReasonUnknown     Reason = "unknown-node"
	ReasonPending     Reason = "pending"
	ReasonPlace       Reason = "other-place"
	ReasonProtocol    Reason = "protocol"
	ReasonBadRequest  Reason = "bad-request"
	ReasonBusy        Reason = "busy"
	reasonTokenPrefix        = "token-"
)

// Refusal says no to a node, with a sentence for its operator.
type Refusal struct {
	Reason Reason
	text   string
}

func (r *Refusal) Error() string { return r.text }

func refuse(reason Reason, text string) error { return &Refusal{reason, text} }

// Admit returns the node that a certificate names if it may speak now, and a *Refusal if not.
func (r *Registry) Admit(ctx context.Context, who identity.Node) (*store.Node, error) {
	n, err := r.Store.NodeByID(ctx, who.ID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, refuse(ReasonUnknown, "this manager knows no node "+who.ID+": it was deleted, or the manager was set up anew; enrol again with a new join token")
	}
	if err != nil {
		return nil, err
	}
	switch {
	case n.State == store.NodeRevoked:
		text := "node " + n.Name + " was revoked"
		if n.RevokedReason != "" {
			text += ": " + n.RevokedReason
		}
		return nil, refuse(ReasonRevoked, text)
	case n.State != store.NodeActive:
		return nil, refuse(ReasonPending, "node "+n.Name+" waits for approval: dhow node approve "+n.Name)
	case who.TrustDomain != r.TrustDomain || who.Region != n.Region || who.Site != n.Site:
		r.Logger.Warn("a certificate names another place than the node has", "node", n.Name, "region", n.Region, "site", n.Site, "certificate_region", who.Region, "certificate_site", who.Site)
		return nil, refuse(ReasonPlace, "the certificate is for region "+who.Region+" and site "+who.Site+", node "+n.Name+" belongs to region "+n.Region+" and site "+n.Site)
	}
	return n, nil
}

// Package uplink keeps the node in touch with its fleet manager: it enrols, renews the certificate, follows the desired
// state, reports, and delivers what was counted.
//
// Each of these is a loop of its own that waits, with full jitter, for the line to come back; none of them is needed
// for serving. What comes down is handed to OnDesired after it is durable. What goes up is read from where it is kept:
// the copies' states, the warnings, the outbox. Run blocks until its context ends; everything else returns at once and
// may be called from any goroutine.
package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dhowfleet/dhow/agent/deploy"
	"github.com/dhowfleet/dhow/agent/health"
	"github.com/dhowfleet/dhow/agent/store"
	"github.com/dhowfleet/dhow/protocol/backoff"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/protocol/identity"
	"github.com/dhowfleet/dhow/protocol/syncclient"
	"github.com/dhowfleet/dhow/protocol/transport"
	"github.com/dhowfleet/dhow/test/failpoint"
)

// BaseURL is the base of all requests to the manager, the registry's included.
const BaseURL = "https://" + identity.NodeServerName

// Config is what an Uplink needs. All fields but Token, the intervals and RetryMax are required.
type Config struct {
	// Server is the manager's host:port.
	Server string
	// Token is needed to enrol, once.
	Token *identity.JoinToken
	// NodeName is the name that the operator sees.
	NodeName    string
	Version     string
	Credentials *Credentials
	Store       *store.Store
	Health      *health.Registry
	Logger      *slog.Logger
	Now         func() time.Time
	StartedAt   time.Time
	// Hardware says what the machine is; it is asked now and then.
	Hardware func(context.Context) *syncv1.Hardware
	// Copies returns the states of the model copies, and Changed receives when they changed.
	Copies  func() []*syncv1.CopyStatus
	Changed <-chan struct{}
	// OnDesired takes a desired state that is durable; OnConnected is told when the manager can be reached again.
	OnDesired   func(*deploy.Desired)
	OnConnected func()
	// RollUp adds up telemetry into the outbox.
	RollUp func(context.Context) error
	// ReportInterval and DeliverInterval win over what the manager says; zero: it says, or 30 s.
	ReportInterval, DeliverInterval time.Duration
	// RetryMax caps the wait between two tries; zero: a minute.
	RetryMax    time.Duration
	DisableQUIC bool
}

// Uplink is the node's side of dhow.sync.v1.
type Uplink struct {
	Config
	link  *transport.Client // as a node
	sync  *syncclient.Client
	renew chan struct{} // renew now

	deliverNow chan struct{}
	reportNow  chan struct{}

	mu        sync.Mutex
	current   *syncv1.DesiredEnvelope
	desired   *syncv1.DesiredState
	connected bool
	since     time.Time // of connected or not
	last      string    // the last error of the watch, in a sentence

	hardware atomic.Pointer[hardware]
}

type hardware struct {
	at    time.Time
	facts *syncv1.Hardware
}

const (
	defaultInterval = 30 * time.Second
	coalesce        = 200 * time.Millisecond
	hardwareEach    = 10 * time.Minute
	leaveWait       = 2 * time.Second
)

// New makes an Uplink that goes on from the desired state in the store.
func New(ctx context.Context, c Config) (*Uplink, error) {
	if c.RetryMax <= 0 {
		c.RetryMax = time.Minute
	}
	u := &Uplink{Config: c, renew: make(chan struct{}, 1), deliverNow: make(chan struct{}, 1), reportNow: make(chan struct{}, 1), since: c.Now()}
	have, err := c.Store.Desired(ctx)
	if err != nil {
		return nil, err
	}
	if have != nil {
		m, d, err := deploy.ParseDesired(have.GetState())
		if err != nil {
			// It was checked when it came, by another version of the agent perhaps. The manager offers it again.
			c.Logger.Error("the stored desired state does not hold", "error", err)
			c.Health.Raise(health.DesiredInvalid, "")
		} else {
			u.current, u.desired = have, m
			c.OnDesired(d)
		}
	}
	u.link = transport.NewClient(transport.ClientConfig{
		Address: c.Server, ServerName: identity.NodeServerName,
		Certificate: c.Credentials.Certificate, Roots: c.Credentials.Roots,
		Now: c.Now, Memory: winners{c.Store, c.Logger}, DisableQUIC: c.DisableQUIC, Logger: c.Logger,
	})
	u.sync = syncclient.New(u.link.HTTPClient(), BaseURL)
	return u, nil
}

// HTTPClient makes requests to the manager as the node, for the registry.
func (u *Uplink) HTTPClient() *http.Client { return u.link.HTTPClient() }

// ErrTokenRefused is wrapped by Run when the node has nothing to live on: it is not enrolled, and the manager refuses
// its token.
var ErrTokenRefused = errors.New("the join token was refused")

// Run works until the context ends and returns nil then.
func (u *Uplink) Run(ctx context.Context) error {
	defer u.link.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var loops sync.WaitGroup
	loops.Go(func() { u.deliverLoop(ctx) })
	err := u.enrolLoop(ctx)
	if err != nil {
		cancel(err)
	} else {
		node := u.Credentials.Node()
		u.Logger.Info("this node is enrolled", "node", node.ID, "name", u.Credentials.Name(), "region", node.Region, "site", node.Site)
		loops.Go(func() { u.renewLoop(ctx) })
		loops.Go(func() { u.watchLoop(ctx) })
		loops.Go(func() { u.reportLoop(ctx) })
	}
	loops.Wait()
	u.leave()
	if err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func (u *Uplink) backoff() backoff.Backoff {
	return backoff.Backoff{Base: min(time.Second, u.RetryMax), Cap: u.RetryMax}
}

// slow is the least wait after an answer that a soon retry does not change.
func (u *Uplink) slow() time.Duration { return 5 * u.RetryMax }

// watchLoop follows the desired state.
func (u *Uplink) watchLoop(ctx context.Context) {
	w := &syncclient.Watcher{
		Client: u.sync, Current: u.have, Accept: u.accept, Backoff: u.backoff(), Slow: u.slow(),
		Connected: func() {
			u.setConnected(true, "")
			u.Logger.Info("connected to the fleet manager", "transport", u.link.Transport())
			for _, code := range []health.Code{health.ManagerUnreachable, health.ManagerRefuses, health.NodeRevoked, health.ProtocolMismatch, health.DesiredOlder} {
				u.Health.Clear(code)
			}
			poke(u.deliverNow)
			poke(u.reportNow)
			u.OnConnected()
		},
		Disconnected: u.disconnected,
		Older: func(offered uint64) {
			u.Logger.Warn("the manager offers a desired state older than the node's; it is ignored", "offered", offered, "have", u.have().GetGeneration())
			u.Health.Raise(health.DesiredOlder, fmt.Sprintf("generation %d is offered, the node has %d", offered, u.have().GetGeneration()))
		},
	}
	_ = w.Run(ctx) // it ends with the context
}

func (u *Uplink) disconnected(err error) {
	sentence := ""
	if err != nil {
		sentence = syncclient.Sentence(err)
	}
	if u.setConnected(false, sentence) || syncclient.ClassOf(err) != syncclient.Retry {
		u.Logger.Info("not connected to the fleet manager", "error", err)
	}
	switch syncclient.ClassOf(err) {
	case syncclient.None:
	case syncclient.Retry:
		u.Health.Raise(health.ManagerUnreachable, u.Server)
	case syncclient.Unauthorised:
		u.Health.Raise(health.ManagerRefuses, sentence)
		poke(u.renew)
	case syncclient.Refused:
		u.Health.Raise(health.ManagerRefuses, sentence)
	case syncclient.Revoked:
		u.Health.Raise(health.NodeRevoked, sentence)
	case syncclient.Incompatible:
		u.Health.Raise(health.ProtocolMismatch, sentence)
	case syncclient.Ahead:
		u.Health.Raise(health.DesiredOlder, sentence)
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (u *Uplink) have() *syncv1.DesiredEnvelope {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.current
}

// setConnected notes whether the manager is there, and returns whether that is news.
func (u *Uplink) setConnected(connected bool, why string) (changed bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	changed = u.connected != connected || u.last == "" && why != ""
	if u.connected != connected {
		u.since = u.Now()
	}
	u.connected, u.last = connected, why
	return changed
}

// accept makes a desired state the node's own. One that does not hold is refused without ending the stream: what the
// manager sends next may hold.
func (u *Uplink) accept(ctx context.Context, e *syncv1.DesiredEnvelope) error {
	m, d, err := deploy.ParseDesired(e.GetState())
	if err != nil {
		u.Logger.Error("the manager sent a desired state that does not hold; the node keeps the one it has", "generation", e.GetGeneration(), "error", err)
		u.Health.Raise(health.DesiredInvalid, err.Error())
		return nil
	}
	if err := u.Store.SetDesired(ctx, e); err != nil {
		u.Health.Raise(health.StateFailed, "")
		return err
	}
	failpoint.Here("uplink/accepted")
	u.Health.Clear(health.DesiredInvalid)
	u.mu.Lock()
	u.current, u.desired = e, m
	u.mu.Unlock()
	u.Logger.Info("a desired state was accepted", "generation", e.GetGeneration(), "copies", len(d.Copies))
	u.OnDesired(d)
	poke(u.reportNow)
	return nil
}

// interval returns how often to do something: as configured here, else as the manager says.
func (u *Uplink) interval(own time.Duration, said func(*syncv1.DesiredState) uint32) time.Duration {
	if own > 0 {
		return own
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.desired != nil && said(u.desired) > 0 {
		return min(time.Duration(said(u.desired))*time.Second, time.Hour)
	}
	return defaultInterval
}

// Status is the uplink's state for the status page.
type Status struct {
	Enrolled   bool
	Node       identity.Node
	Connected  bool
	Since      time.Time // of Connected, or of its contrary
	Transport  string
	Server     string
	LastError  string
	Generation uint64
	Digest     string
	Expires    time.Time // of the certificate
}

// Status returns the uplink's state.
func (u *Uplink) Status() Status {
	_, expires := u.Credentials.Validity()
	u.mu.Lock()
	defer u.mu.Unlock()
	return Status{
		Enrolled: u.Credentials.Enrolled(), Node: u.Credentials.Node(), Connected: u.connected, Since: u.since,
		Transport: u.link.Transport(), Server: u.Server, LastError: u.last,
		Generation: u.current.GetGeneration(), Digest: u.current.GetDigest(), Expires: expires,
	}
}

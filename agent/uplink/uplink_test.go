package uplink

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/dhowfleet/dhow/agent/deploy"
	"github.com/dhowfleet/dhow/agent/health"
	"github.com/dhowfleet/dhow/agent/store"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/protocol/identity"
)

// node is everything around an Uplink.
type node struct {
	t       *testing.T
	dir     string
	m       *manager
	token   *identity.JoinToken
	store   *store.Store
	health  *health.Registry
	up      *Uplink
	changed chan struct{}
	stopped context.CancelFunc
	ended   chan error

	mu      sync.Mutex
	desired []string // versions that were handed over
	nudges  int
}

func newNode(t *testing.T, m *manager) *node {
	n := &node{t: t, dir: t.TempDir(), m: m, token: m.token(), changed: make(chan struct{}, 1)}
	t.Cleanup(func() { n.stop() })
	return n
}

func (n *node) start() {
	t := n.t
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	n.stopped = cancel
	var err error
	n.store, err = store.Open(ctx, n.dir, store.Options{})
	must(t, err)
	n.health = health.New(time.Now)
	c, err := OpenCredentials(filepath.Join(n.dir, "identity"))
	must(t, err)
	n.up, err = New(ctx, Config{
		Server: n.m.address, Token: n.token, NodeName: "till-3", Version: "test", Credentials: c, Store: n.store, Health: n.health,
		Logger: slog.New(slog.DiscardHandler), Now: time.Now, StartedAt: time.Now(),
		Hardware: func(context.Context) *syncv1.Hardware { return &syncv1.Hardware{Arch: "amd64"} },
		Copies:   func() []*syncv1.CopyStatus { return []*syncv1.CopyStatus{{Model: "fashion", Version: "1"}} }, Changed: n.changed,
		OnDesired: func(d *deploy.Desired) {
			n.mu.Lock()
			defer n.mu.Unlock()
			v := ""
			for _, c := range d.Copies {
				v += c.Version
			}
			n.desired = append(n.desired, v)
		},
		OnConnected:    func() { n.mu.Lock(); n.nudges++; n.mu.Unlock() },
		RollUp:         func(context.Context) error { return nil },
		ReportInterval: time.Hour, DeliverInterval: 50 * time.Millisecond, RetryMax: 40 * time.Millisecond,
	})
	must(t, err)
	n.ended = make(chan error, 1)
	go func() { n.ended <- n.up.Run(ctx) }()
}

func (n *node) stop() error {
	if n.stopped == nil {
		return nil
	}
	n.stopped()
	n.stopped = nil
	err := <-n.ended
	must(n.t, n.store.Close())
	return err
}

func (n *node) until(what string, holds func() bool) {
	n.t.Helper()
	deadline := time.After(20 * time.Second)
	for !holds() {
		select {
		case <-deadline:
			n.t.Fatalf("in vain waited so that %s; %+v; %v", what, n.up.Status(), n.health.Warnings())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func (n *node) has(code health.Code) bool {
	return slices.ContainsFunc(n.health.Warnings(), func(w *syncv1.Warning) bool { return w.GetCode() == string(code) })
}

func (n *node) took(version string) func() bool {
	return func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return len(n.desired) > 0 && n.desired[len(n.desired)-1] == version
	}
}

func TestFromTheTokenToDelivery(t *testing.T) {
	m := newManager(t)
	m.pending = 1
	m.desired = envelope(t, 1, "1")
	n := newNode(t, m)
	n.start()
	n.until("it waits for approval", func() bool { return n.has(health.EnrolmentPending) })
	n.until("the desired state is there", n.took("1"))
	if n.has(health.EnrolmentPending) || len(m.enrolled) != 1 {
		t.Fatal(n.health.Warnings(), len(m.enrolled))
	}
	must(t, n.store.RollUp(context.Background(), 0, 5, &syncv1.Aggregate{Requests: []*syncv1.RequestTotals{{Requests: 5}}}))
	n.until("it is delivered", func() (ok bool) { m.get(func() { ok = m.requests == 5 }); return ok })
	n.until("the outbox is empty", func() bool { b, err := n.store.Backlog(context.Background()); return err == nil && b.Pending == 0 })
	n.until("the state is reported", func() (ok bool) {
		m.get(func() { ok = len(m.reports) > 0 && m.reports[len(m.reports)-1].GetGeneration() == 1 })
		return ok
	})
	var before int
	m.get(func() {
		before = len(m.reports)
		if r := m.reports[before-1]; r.GetHardware().GetArch() != "amd64" || r.GetCopies()[0].GetModel() != "fashion" || r.GetBootEpoch() == 0 || r.GetDigest() != m.desired.GetDigest() || r.GetStartedAt() == nil {
			t.Error(r)
		}
	})
	n.health.Raise(health.DiskFull, "")
	n.changed <- struct{}{}
	n.until("changes are reported", func() (ok bool) {
		m.get(func() { ok = len(m.reports) > before && len(m.reports[len(m.reports)-1].GetWarnings()) == 1 })
		return ok
	})
	st := n.up.Status()
	if !st.Connected || !st.Enrolled || st.Node.Site != "deira" || st.Transport != "HTTP/3" || st.Generation != 1 || st.Expires.IsZero() {
		t.Fatalf("%+v", st)
	}
	for _, f := range []string{"key.pem", "cert.pem", "roots.pem"} {
		if info, err := os.Stat(filepath.Join(n.dir, "identity", f)); err != nil || info.Mode().Perm() != 0o600 {
			t.Fatal(f, info.Mode(), err)
		}
	}
	// Its end is told, so that operators need not wait for its silence.
	must(t, n.stop())
	m.get(func() {
		if r := m.reports[len(m.reports)-1]; !r.GetLeaving() || r.GetGeneration() != 1 {
			t.Error("the last report is", r)
		}
	})
	// A restart needs no token, and hands over the stored state before anything else.
	n.token = nil
	n.desired = nil
	n.start()
	if n.up.Credentials.Name() != "till-3-of-deira" {
		t.Errorf("it is called %q", n.up.Credentials.Name())
	}
	if !n.took("1")() {
		t.Fatal("the stored state was not handed over")
	}
	n.until("it is connected", func() bool { return n.up.Status().Connected })
	if m.get(func() { before = len(m.enrolled) }); before != 1 {
		t.Fatal("it enrolled again")
	}
}

func TestChangesArriveAndOlderOnesDoNot(t *testing.T) {
	m := newManager(t)
	m.desired = envelope(t, 3, "3")
	n := newNode(t, m)
	n.start()
	n.until("generation 3", n.took("3"))
	m.set(func() { m.desired = envelope(t, 4, "4") })
	n.until("generation 4", n.took("4"))
	m.set(func() { m.desired = envelope(t, 2, "2") })
	n.until("the older one is warned of", func() bool { return n.has(health.DesiredOlder) })
	bad := envelope(t, 5, "5")
	bad.State = append(bad.State, 0xff)
	m.set(func() { m.desired = bad })
	n.until("a broken digest ends the stream", func() bool { return n.up.Status().LastError != "" })
	m.set(func() { m.desired = envelope(t, 6, "../6") })
	n.until("a state that does not hold is warned of", func() bool { return n.has(health.DesiredInvalid) })
	m.set(func() { m.desired = envelope(t, 7, "") })
	n.until("generation 7, which wants nothing", n.took(""))
	if n.has(health.DesiredInvalid) || strings.Join(n.desired, ",") != "3,4," {
		t.Fatal(n.desired, n.health.Warnings())
	}
}

func TestTheManagerGoesAndComesBack(t *testing.T) {
	m := newManager(t)
	m.desired = envelope(t, 1, "1")
	n := newNode(t, m)
	n.start()
	n.until("generation 1", n.took("1"))
	m.stop()
	n.until("it is missed", func() bool { return n.has(health.ManagerUnreachable) && !n.up.Status().Connected })
	must(t, n.store.RollUp(context.Background(), 0, 5, &syncv1.Aggregate{Requests: []*syncv1.RequestTotals{{Requests: 5}}}))
	m.desired = envelope(t, 2, "2")
	n.mu.Lock()
	nudges := n.nudges
	n.mu.Unlock()
	m.start()
	n.until("what changed meanwhile arrives", n.took("2"))
	n.until("what was counted meanwhile arrives", func() (ok bool) { m.get(func() { ok = m.requests == 5 }); return ok })
	n.until("all is well", func() bool { return len(n.health.Warnings()) == 0 && n.up.Status().Connected })
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.nudges == nudges {
		t.Error("what waits for the network was not told")
	}
}

func TestARefusedTokenEndsTheFirstStartOnly(t *testing.T) {
	m := newManager(t)
	m.refuse = connect.NewError(connect.CodePermissionDenied, errors.New("this token was used already"))
	n := newNode(t, m)
	n.start()
	select {
	case err := <-n.ended:
		if !errors.Is(err, ErrTokenRefused) || !strings.Contains(err.Error(), "used already") {
			t.Fatal(err)
		}
		n.ended <- nil
	case <-time.After(20 * time.Second):
		t.Fatal("it goes on")
	}
	must(t, n.stop())
	// A node that has something to serve, and lost its identity, stays up.
	n.start()
	must(t, n.store.SetDesired(context.Background(), envelope(t, 1, "1")))
	select {
	case <-n.ended:
		n.ended <- nil
	case <-time.After(20 * time.Second):
	}
	must(t, n.stop())
	n.start()
	n.until("it warns", func() bool { return n.has(health.TokenRefused) })
	m.set(func() { m.refuse = nil })
	n.until("it enrols with a token that is good", func() bool { return n.up.Status().Connected })
	must(t, n.stop())

	m.refuse = connect.NewError(connect.CodeUnavailable, errors.New("not now"))
	n = newNode(t, m)
	n.start()
	n.until("a manager that is busy is asked again", func() bool { return n.has(health.ManagerUnreachable) })
	m.set(func() { m.refuse = nil })
	n.until("it enrols", func() bool { return n.up.Status().Enrolled })
}

func TestNoTokenAndNoIdentity(t *testing.T) {
	n := newNode(t, newManager(t))
	n.token = nil
	n.start()
	if err := <-n.ended; !errors.Is(err, ErrTokenRefused) {
		t.Fatal(err)
	}
	n.ended <- nil
}

func TestAManagerOfAnotherRootIsNotTrusted(t *testing.T) {
	m := newManager(t)
	n := newNode(t, m)
	n.token.RootPin[0] ^= 1
	n.start()
	n.until("it does not enrol", func() bool { return strings.Contains(n.up.Status().LastError, "trust") })
	if len(m.enrolled) != 0 {
		t.Fatal("the token was sent to a manager that it does not name")
	}
}

func TestARevokedNodeGoesOnAndSaysSo(t *testing.T) {
	m := newManager(t)
	m.desired = envelope(t, 1, "1")
	n := newNode(t, m)
	n.start()
	n.until("generation 1", n.took("1"))
	m.set(func() { m.deny = connect.NewError(connect.CodePermissionDenied, errors.New("revoked on Tuesday")) })
	n.until("it warns", func() bool { return n.has(health.NodeRevoked) })
	var watches int
	m.get(func() { watches = m.watches })
	time.Sleep(150 * time.Millisecond)
	m.get(func() {
		if m.watches > watches+2 {
			t.Errorf("%d watches in a moment: a revoked node must not hammer", m.watches-watches)
		}
		m.deny = nil
	})
	n.until("it is back when it may be", func() bool { return len(n.health.Warnings()) == 0 && n.up.Status().Connected })
}

// TestWithoutItsIdentityItBecomesANewNode: an operator removed the identity of a node that was revoked or deleted. The
// manager counts the new node's generations from one, below what the old one had.
func TestWithoutItsIdentityItBecomesANewNode(t *testing.T) {
	m := newManager(t)
	m.desired = envelope(t, 7, "1")
	n := newNode(t, m)
	n.start()
	n.until("generation 7", n.took("1"))
	must(t, n.stop())
	must(t, os.RemoveAll(filepath.Join(n.dir, "identity")))
	m.set(func() { m.desired = envelope(t, 1, "2") })
	n.start()
	if !n.took("1")() {
		t.Error("it does not serve what it had")
	}
	n.until("generation 1 of the new node", n.took("2"))
	if len(m.enrolled) != 2 {
		t.Errorf("%d nodes", len(m.enrolled))
	}
	if have, err := n.store.Desired(context.Background()); err != nil || have.GetGeneration() != 1 {
		t.Error(have.GetGeneration(), err)
	}
}

func TestRenewsFromAThirdOfTheLifeOn(t *testing.T) {
	m := newManager(t)
	m.begins = time.Now().Add(-11 * 24 * time.Hour) // of 30 days
	n := newNode(t, m)
	n.start()
	n.until("it was renewed", func() bool {
		_, to := n.up.Credentials.Validity()
		return n.up.Credentials.Enrolled() && time.Until(to) > 29*24*time.Hour
	})
	n.until("it is connected", func() bool { return n.up.Status().Connected })
	m.get(func() {
		if m.renewals != 1 {
			t.Errorf("%d renewals", m.renewals)
		}
	})
}

func TestAnExpiredCertificateIsRenewedWithinItsGrace(t *testing.T) {
	m := newManager(t)
	m.begins = time.Now().Add(-30*24*time.Hour - time.Hour)
	n := newNode(t, m)
	n.start()
	n.until("it is back", func() bool { return n.up.Status().Connected && len(n.health.Warnings()) == 0 })
}

func TestDamagedIdentityIsNamed(t *testing.T) {
	m := newManager(t)
	n := newNode(t, m)
	n.start()
	n.until("it is enrolled", func() bool { return n.up.Status().Enrolled })
	must(t, n.stop())
	dir := filepath.Join(n.dir, "identity")
	for _, f := range []string{"cert.pem", "roots.pem", "key.pem"} {
		good, err := os.ReadFile(filepath.Join(dir, f))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, f), []byte("nothing"), 0o600))
		if _, err := OpenCredentials(dir); err == nil || !strings.Contains(err.Error(), f) {
			t.Fatalf("%s: %v", f, err)
		}
		must(t, os.WriteFile(filepath.Join(dir, f), good, 0o600))
	}
	// A certificate for another key.
	other, err := OpenCredentials(filepath.Join(t.TempDir(), "x"))
	must(t, err)
	request, err := other.Request()
	must(t, err)
	id, err := m.identity(request)
	must(t, err)
	mine, err := OpenCredentials(dir)
	must(t, err)
	if err := mine.Take(id, nil); err == nil {
		t.Fatal("a certificate for another key was taken")
	}
	pin := [32]byte{1}
	if err := other.Take(id, &pin); err == nil || other.Enrolled() {
		t.Fatal("an identity of another root was taken")
	}
	must(t, other.Take(id, nil))
}

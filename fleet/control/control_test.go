package control

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/dhowfleet/dhow/fleet/rollout"
	"github.com/dhowfleet/dhow/fleet/store"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

var errLost = errors.New("lost")

// fragile is a store whose commits can be made to fail, before or after they took effect.
type fragile struct {
	*store.Store
	failDecisions, failDesired func() (before, after bool)
}

func (f *fragile) CommitDecisions(ctx context.Context, d store.Decisions) error {
	before, after := f.failDecisions()
	if before {
		return errLost
	}
	if err := f.Store.CommitDecisions(ctx, d); err != nil {
		return err
	}
	if after {
		return errLost
	}
	return nil
}

func (f *fragile) SetDesired(ctx context.Context, states map[string][]byte) ([]store.Desired, error) {
	before, after := f.failDesired()
	if before {
		return nil, errLost
	}
	out, err := f.Store.SetDesired(ctx, states)
	if err == nil && after {
		return nil, errLost
	}
	return out, err
}

func never() (bool, bool) { return false, false }

type harness struct {
	*Loop
	store *fragile
	mu    sync.Mutex
	told  []string
}

func open(t *testing.T) *harness {
	t.Helper()
	s, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "fleet.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	h := &harness{store: &fragile{s, never, never}}
	h.restart()
	h.apply(t,
		&fleetv1.Resource{Kind: store.KindRegion, Metadata: &fleetv1.Metadata{Name: "ae-dubai"}, Body: &fleetv1.Resource_Region{Region: &fleetv1.Region{}}},
		&fleetv1.Resource{Kind: store.KindSite, Metadata: &fleetv1.Metadata{Name: "deira"},
			Body: &fleetv1.Resource_Site{Site: &fleetv1.Site{Spec: &fleetv1.SiteSpec{Region: "ae-dubai"}}}})
	return h
}

// restart is a new process on the same store.
func (h *harness) restart() {
	h.Loop = New(Config{Store: h.store, Logger: slog.New(slog.DiscardHandler), Gather: time.Millisecond, ReportInterval: 30 * time.Second, Told: func(ids ...string) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.told = append(h.told, ids...)
	}})
}

func (h *harness) apply(t *testing.T, resources ...*fleetv1.Resource) {
	t.Helper()
	var changes []store.Change
	for _, r := range resources {
		changes = append(changes, store.Change{Put: r})
	}
	if _, err := h.store.Apply(t.Context(), changes); err != nil {
		t.Fatal(err)
	}
}

func (h *harness) enrol(t *testing.T, count int) []*store.Node {
	t.Helper()
	secret, info, err := h.store.CreateJoinToken(t.Context(), store.JoinTokenSpec{Region: "ae-dubai", Site: "deira", Uses: uint32(count), ExpiresAt: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	var out []*store.Node
	for i := range count {
		n, err := h.store.UseJoinToken(t.Context(), store.Enrolment{TokenID: info.GetId(), Secret: secret, KeyHash: sha256.Sum256(fmt.Append(nil, i)),
			ID: fmt.Sprintf("n-%s-%d", info.GetId(), i), Name: "till", Protocol: 1, Now: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, n)
	}
	return out
}

func (h *harness) push(t *testing.T, versions ...string) {
	t.Helper()
	for _, v := range versions {
		if err := h.store.RecordVersion(t.Context(), "m", v, "sha256:"+v, 1); err != nil {
			t.Fatal(err)
		}
	}
}

func (h *harness) roll(t *testing.T, version string) {
	t.Helper()
	h.apply(t, &fleetv1.Resource{Kind: store.KindRollout, Metadata: &fleetv1.Metadata{Name: "v" + version},
		Body: &fleetv1.Resource_Rollout{Rollout: &fleetv1.Rollout{Spec: &fleetv1.RolloutSpec{Model: "m", Version: version}}}})
}

func (h *harness) step(t *testing.T) {
	t.Helper()
	if err := h.Step(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// settle steps until the store stays as it is.
func (h *harness) settle(t *testing.T) {
	t.Helper()
	for range 10 {
		_, before, err := h.store.List(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		h.step(t)
		if _, after, err := h.store.List(t.Context(), ""); err != nil || before == after {
			return
		}
	}
	t.Fatal("the loop does not come to rest")
}

// report says what a node does with everything it was told: fails bad digests, serves the rest.
func (h *harness) report(t *testing.T, bad string, nodes ...*store.Node) {
	t.Helper()
	for _, n := range nodes {
		d, state := h.desired(t, n)
		r := &syncv1.ReportRequest{Generation: d.Generation, Digest: d.Digest}
		for _, c := range state.GetCopies() {
			s := syncv1.CopyState_COPY_STATE_SERVING
			if c.GetManifestDigest() == bad {
				s = syncv1.CopyState_COPY_STATE_FAILED
			}
			r.Copies = append(r.Copies, &syncv1.CopyStatus{Model: c.GetModel(), Version: c.GetVersion(), ManifestDigest: c.GetManifestDigest(), State: s, Retry: c.GetRetry(), Reason: "load-failed"})
		}
		if err := h.store.RecordSightings(t.Context(), []store.Sighting{{NodeID: n.ID, SeenAt: time.Now(), Connection: store.Connected, Report: r}}); err != nil {
			t.Fatal(err)
		}
	}
}

func (h *harness) desired(t *testing.T, n *store.Node) (store.Desired, *syncv1.DesiredState) {
	t.Helper()
	d, err := h.store.Desired(t.Context(), n.ID)
	if err != nil {
		t.Fatal(err)
	}
	state := &syncv1.DesiredState{}
	if err := proto.Unmarshal(d.State, state); err != nil {
		t.Fatal(err)
	}
	return d, state
}

func (h *harness) status(t *testing.T, name string) *fleetv1.RolloutStatus {
	t.Helper()
	r, err := h.store.Get(t.Context(), store.KindRollout, name)
	if err != nil {
		t.Fatal(err)
	}
	return r.GetRollout().GetStatus()
}

func TestLoopRollsOutAndComesToRest(t *testing.T) {
	h := open(t)
	nodes := h.enrol(t, 3)
	h.push(t, "1")
	h.roll(t, "1")
	h.settle(t)
	for _, n := range nodes {
		d, state := h.desired(t, n)
		if d.Generation != 1 || len(state.GetCopies()) != 1 || state.GetReportIntervalSeconds() != 30 || state.GetDeliverIntervalSeconds() != 0 {
			t.Fatalf("node %s is told %v (generation %d)", n.ID, state, d.Generation)
		}
		if !slices.Contains(h.told, n.ID) {
			t.Errorf("the watch of %s was not woken", n.ID)
		}
	}
	h.report(t, "", nodes...)
	h.settle(t)
	if s := h.status(t, "v1"); s.GetPhase() != rollout.Complete {
		t.Fatalf("the rollout is %v", s)
	}
	generations := map[string]uint64{}
	for _, n := range nodes {
		d, _ := h.desired(t, n)
		generations[n.ID] = d.Generation
	}
	for range 3 { // reports that say nothing new
		h.report(t, "", nodes...)
		h.settle(t)
	}
	h.restart()
	h.settle(t)
	for _, n := range nodes {
		if d, _ := h.desired(t, n); d.Generation > generations[n.ID]+1 {
			t.Errorf("generation of %s went from %d to %d though nothing happened", n.ID, generations[n.ID], d.Generation)
		}
	}
	r, err := h.store.Get(t.Context(), store.KindRegion, "ae-dubai")
	if err != nil || r.GetRegion().GetStatus().GetNodes() != 3 || r.GetRegion().GetStatus().GetSites() != 1 {
		t.Errorf("the region is %v (%v)", r, err)
	}
	s, err := h.store.Get(t.Context(), store.KindSite, "deira")
	if err != nil || s.GetSite().GetStatus().GetNodes() != 3 {
		t.Errorf("the site is %v (%v)", s, err)
	}
}

// TestFailureIsRememberedBeforeNodesGoBack: a manager that dies between any two commits of a rollback still rolls back,
// though the node has replaced the report that said so.
func TestFailureIsRememberedBeforeNodesGoBack(t *testing.T) {
	moments := map[string]func(h *harness){
		"before the decision":   func(h *harness) { h.store.failDecisions = func() (bool, bool) { return true, false } },
		"after the decision":    func(h *harness) { h.store.failDecisions = func() (bool, bool) { return false, true } },
		"before nodes are told": func(h *harness) { h.store.failDesired = func() (bool, bool) { return true, false } },
		"after nodes are told":  func(h *harness) { h.store.failDesired = func() (bool, bool) { return false, true } },
	}
	for name, fail := range moments {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			n := h.enrol(t, 1)[0]
			h.push(t, "1", "2")
			h.roll(t, "1")
			h.settle(t)
			h.report(t, "", n)
			h.settle(t)
			h.roll(t, "2")
			h.settle(t)
			h.report(t, "sha256:2", n)
			fail(h)
			if err := h.Step(t.Context()); !errors.Is(err, errLost) {
				t.Fatalf("the step ended with %v", err)
			}
			h.store.failDecisions, h.store.failDesired = never, never
			h.restart()
			// The node does what it is told now, whatever that is, and forgets the failed copy if it was told to.
			h.report(t, "sha256:2", n)
			h.settle(t)
			h.report(t, "sha256:2", n)
			h.settle(t)
			if s := h.status(t, "v2"); s.GetPhase() != rollout.RolledBack {
				t.Fatalf("the rollout is %v", s)
			}
			if _, state := h.desired(t, n); len(state.GetCopies()) != 1 || state.GetCopies()[0].GetVersion() != "1" {
				t.Fatalf("the node is told %v", state)
			}
		})
	}
}

func TestLoopFollowsDeletionsAndRestores(t *testing.T) {
	h := open(t)
	n := h.enrol(t, 1)[0]
	h.push(t, "1", "2")
	for _, v := range []string{"1", "2"} {
		h.roll(t, v)
		h.settle(t)
		h.report(t, "", n)
		h.settle(t)
	}
	del := func(kind, name string) {
		t.Helper()
		if _, err := h.store.Apply(t.Context(), []store.Change{{Delete: &store.Key{Kind: kind, Name: name}}}); err != nil {
			t.Fatal(err)
		}
		h.settle(t)
	}
	del(store.KindRollout, "v2")
	if _, state := h.desired(t, n); len(state.GetCopies()) != 1 || state.GetCopies()[0].GetVersion() != "1" {
		t.Fatalf("the node is told %v", state)
	}
	// An operator makes a node that was ahead take what the manager says: the loop goes on from there.
	if err := h.store.RecordAhead(t.Context(), n.ID, 50); err != nil {
		t.Fatal(err)
	}
	if err := h.store.ApproveNode(t.Context(), n.Name); err != nil {
		t.Fatal(err)
	}
	h.settle(t)
	del(store.KindRollout, "v1")
	if d, state := h.desired(t, n); d.Generation != 52 || len(state.GetCopies()) != 0 {
		t.Fatalf("generation %d: %v", d.Generation, state)
	}
	if err := h.store.RevokeNode(t.Context(), n.Name, ""); err != nil {
		t.Fatal(err)
	}
	h.settle(t)
	del(store.KindNode, n.Name)
	if len(h.picture.told) != 0 {
		t.Errorf("a deleted node is kept in memory: %v", h.picture.told)
	}
}

func TestManyNodesAreToldInGroups(t *testing.T) {
	h := open(t)
	h.Group = 5
	nodes := h.enrol(t, 7)
	groups := 0
	h.store.failDesired = func() (bool, bool) { groups++; return false, false }
	h.push(t, "1")
	h.roll(t, "1")
	h.settle(t)
	if groups != 2 || len(h.told) != len(nodes) {
		t.Errorf("%d nodes were told in %d groups", len(h.told), groups)
	}
}

func TestRunLooksWhenTheStoreChanges(t *testing.T) {
	h := open(t)
	n := h.enrol(t, 1)[0]
	h.push(t, "1")
	failures := 1 // the first commit fails and is tried again
	h.store.failDesired = func() (bool, bool) { failures--; return failures == 0, false }
	woken := make(chan struct{}, 100)
	h.Told = func(...string) { woken <- struct{}{} }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	<-woken // the empty state
	h.roll(t, "1")
	<-woken
	if _, state := h.desired(t, n); len(state.GetCopies()) != 1 {
		t.Errorf("the node is told %v", state)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

package sync

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	gosync "sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/dhowfleet/dhow/fleet/authority"
	"github.com/dhowfleet/dhow/fleet/nodes"
	"github.com/dhowfleet/dhow/fleet/store"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1/syncv1connect"
	"github.com/dhowfleet/dhow/protocol/identity"
	"github.com/dhowfleet/dhow/protocol/transport"
	"github.com/dhowfleet/dhow/protocol/version"
)

// harness is a service behind a plain HTTP server that takes the caller from a variable instead of a certificate.
type harness struct {
	*Service
	store    *store.Store
	registry *nodes.Registry
	url      string
	node     *store.Node

	mu   gosync.Mutex
	peer transport.Peer
	none bool
}

func open(t *testing.T, signOfLife time.Duration) *harness {
	t.Helper()
	s, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "fleet.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	a, err := authority.Open(filepath.Join(t.TempDir(), "authority"), "fleet.test", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	h := &harness{store: s}
	h.registry = nodes.New(nodes.Config{Store: s, Authority: a, TrustDomain: "fleet.test", Logger: slog.New(slog.DiscardHandler), Flush: time.Millisecond})
	h.Service = New(Config{Registry: h.registry, Store: s, Logger: slog.New(slog.DiscardHandler), SignOfLife: signOfLife, MaxWatches: 2})
	mux := http.NewServeMux()
	mux.Handle(h.SyncHandler())
	mux.Handle(h.EnrolmentHandler())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		peer, none := h.peer, h.none
		h.mu.Unlock()
		if !none {
			r = r.WithContext(transport.WithPeer(r.Context(), peer))
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(server.CloseClientConnections)
	t.Cleanup(server.Close)
	h.url = server.URL
	h.node = h.enrol(t, 1)
	h.as(h.node)
	return h
}

func (h *harness) enrol(t *testing.T, key int) *store.Node {
	t.Helper()
	_, err := h.store.Apply(t.Context(), []store.Change{
		{Put: &fleetv1.Resource{Kind: store.KindRegion, Metadata: &fleetv1.Metadata{Name: "ae-dubai"}, Body: &fleetv1.Resource_Region{Region: &fleetv1.Region{}}}},
		{Put: &fleetv1.Resource{Kind: store.KindSite, Metadata: &fleetv1.Metadata{Name: "deira"},
			Body: &fleetv1.Resource_Site{Site: &fleetv1.Site{Spec: &fleetv1.SiteSpec{Region: "ae-dubai"}}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	secret, info, err := h.store.CreateJoinToken(t.Context(), store.JoinTokenSpec{Region: "ae-dubai", Site: "deira", ExpiresAt: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	n, err := h.store.UseJoinToken(t.Context(), store.Enrolment{TokenID: info.GetId(), Secret: secret, KeyHash: sha256.Sum256([]byte{byte(key)}),
		ID: fmt.Sprintf("n-%d", key), Name: "till", Protocol: version.Current, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (h *harness) as(n *store.Node, change ...func(*transport.Peer)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.peer = transport.Peer{Node: identity.Node{TrustDomain: "fleet.test", Region: n.Region, Site: n.Site, ID: n.ID}}
	for _, c := range change {
		c(&h.peer)
	}
}

func (h *harness) client() syncv1connect.SyncServiceClient {
	return syncv1connect.NewSyncServiceClient(http.DefaultClient, h.url)
}

func (h *harness) desire(t *testing.T, state string) store.Desired {
	t.Helper()
	if _, err := h.store.SetDesired(t.Context(), map[string][]byte{h.node.ID: []byte(state)}); err != nil {
		t.Fatal(err)
	}
	h.Wake(h.node.ID, "n-nobody")
	d, err := h.store.Desired(t.Context(), h.node.ID)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (h *harness) watch(t *testing.T, q *syncv1.WatchRequest) *connect.ServerStreamForClient[syncv1.WatchResponse] {
	t.Helper()
	q.Protocol = version.Current
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	stream, err := h.client().Watch(ctx, connect.NewRequest(q))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stream.Close() })
	return stream
}

func next(t *testing.T, stream *connect.ServerStreamForClient[syncv1.WatchResponse]) *syncv1.WatchResponse {
	t.Helper()
	if !stream.Receive() {
		t.Fatalf("the watch ended: %v", stream.Err())
	}
	return stream.Msg()
}

func wantRefusal(t *testing.T, err error, code connect.Code, reason string) {
	t.Helper()
	var refused *connect.Error
	if !errors.As(err, &refused) || refused.Code() != code || refused.Meta().Get(ReasonHeader) != reason {
		t.Errorf("got %v, want %s (%s)", err, code, reason)
	}
}

func TestWatchSendsWhatDiffers(t *testing.T) {
	h := open(t, time.Hour)
	stream := h.watch(t, &syncv1.WatchRequest{})
	if m := next(t, stream); m.GetState() != nil || m.GetNextSeconds() == 0 {
		t.Fatalf("before anything was decided: %v", m)
	}
	first := h.desire(t, "one")
	got := next(t, stream).GetState()
	if got.GetGeneration() != first.Generation || string(got.GetState()) != "one" || got.GetDigest() != first.Digest {
		t.Fatalf("got %v", got)
	}
	second := h.desire(t, "two")
	if got := next(t, stream).GetState(); got.GetGeneration() != second.Generation || string(got.GetState()) != "two" {
		t.Fatalf("got %v", got)
	}
	stream.Close()

	// What changed while the node was away arrives when it is back; what it has is not sent again.
	third := h.desire(t, "three")
	if got := next(t, h.watch(t, &syncv1.WatchRequest{Generation: second.Generation, Digest: second.Digest})).GetState(); string(got.GetState()) != "three" {
		t.Fatalf("got %v", got)
	}
	if m := next(t, h.watch(t, &syncv1.WatchRequest{Generation: third.Generation, Digest: third.Digest})); m.GetState() != nil {
		t.Fatalf("what the node has is sent: %v", m)
	}
}

func TestWatchGivesSignsOfLife(t *testing.T) {
	h := open(t, time.Second)
	d := h.desire(t, "one")
	stream := h.watch(t, &syncv1.WatchRequest{Generation: d.Generation, Digest: d.Digest})
	for range 2 {
		if m := next(t, stream); m.GetState() != nil || m.GetNextSeconds() != 1 {
			t.Fatalf("got %v", m)
		}
	}
}

func TestNewerWatchReplacesTheOlder(t *testing.T) {
	h := open(t, time.Hour)
	h.desire(t, "one")
	older := h.watch(t, &syncv1.WatchRequest{})
	next(t, older)
	newer := h.watch(t, &syncv1.WatchRequest{})
	next(t, newer)
	if older.Receive() {
		t.Fatalf("the older watch goes on: %v", older.Msg())
	}
	wantRefusal(t, older.Err(), connect.CodeAborted, "replaced")
	h.desire(t, "two")
	if got := next(t, newer).GetState(); string(got.GetState()) != "two" {
		t.Errorf("got %v", got)
	}
	if h.Watches() != 1 {
		t.Errorf("%d watches are open", h.Watches())
	}
}

func TestWatchesAreBounded(t *testing.T) {
	h := open(t, time.Hour)
	for i := 2; i <= 4; i++ {
		n := h.enrol(t, i)
		h.as(n)
		stream := h.watch(t, &syncv1.WatchRequest{})
		if i < 4 {
			next(t, stream)
			continue
		}
		if stream.Receive() {
			t.Fatal("a watch too many")
		}
		wantRefusal(t, stream.Err(), connect.CodeResourceExhausted, "too-many-watches")
	}
}

func TestRevocationEndsTheWatch(t *testing.T) {
	h := open(t, time.Hour)
	h.desire(t, "one")
	stream := h.watch(t, &syncv1.WatchRequest{})
	next(t, stream)
	if err := h.store.RevokeNode(t.Context(), h.node.Name, "stolen"); err != nil {
		t.Fatal(err)
	}
	h.Wake(h.node.ID)
	if stream.Receive() {
		t.Fatalf("a revoked node is told %v", stream.Msg())
	}
	wantRefusal(t, stream.Err(), connect.CodePermissionDenied, "revoked")
	for name, err := range h.calls(t) {
		wantRefusal(t, err, connect.CodePermissionDenied, "revoked")
		if err == nil {
			t.Errorf("%s is answered to a revoked node", name)
		}
	}
}

// calls makes every call of a node and returns the errors.
func (h *harness) calls(t *testing.T) map[string]error {
	t.Helper()
	out := map[string]error{}
	c := h.client()
	_, out["Report"] = c.Report(t.Context(), connect.NewRequest(&syncv1.ReportRequest{}))
	_, out["Deliver"] = c.Deliver(t.Context(), connect.NewRequest(&syncv1.DeliverRequest{}))
	stream := h.watch(t, &syncv1.WatchRequest{})
	stream.Receive()
	out["Watch"] = stream.Err()
	_, out["Renew"] = c.Renew(t.Context(), connect.NewRequest(&syncv1.RenewRequest{}))
	return out
}

func TestOnlyTheCertificateCounts(t *testing.T) {
	h := open(t, time.Hour)
	h.desire(t, "one")
	h.as(h.node, func(p *transport.Peer) { p.Node.Region = "eu-west" })
	for name, err := range h.calls(t) {
		if connect.CodeOf(err) != connect.CodePermissionDenied {
			t.Errorf("%s with a certificate of another region: %v", name, err)
		}
	}
	h.as(h.node, func(p *transport.Peer) { p.Expired = true })
	for name, err := range h.calls(t) {
		if name == "Renew" {
			wantRefusal(t, err, connect.CodeInvalidArgument, "bad-request") // it came through, with an empty request
			continue
		}
		wantRefusal(t, err, connect.CodeUnauthenticated, "expired")
	}
	h.none = true
	for _, err := range h.calls(t) {
		wantRefusal(t, err, connect.CodeUnauthenticated, "no-certificate")
	}
}

func TestNodeOfAnotherProtocolIsToldWhichSideToUpgrade(t *testing.T) {
	h := open(t, time.Hour)
	stream, err := h.client().Watch(t.Context(), connect.NewRequest(&syncv1.WatchRequest{Protocol: version.Current + 2}))
	if err != nil {
		t.Fatal(err)
	}
	stream.Receive()
	wantRefusal(t, stream.Err(), connect.CodeFailedPrecondition, "protocol")
	if !strings.Contains(stream.Err().Error(), "upgrade the manager") {
		t.Error(stream.Err())
	}
}

func TestNodeAheadIsPausedUntilApproved(t *testing.T) {
	h := open(t, time.Hour)
	d := h.desire(t, "one")
	ahead := &syncv1.WatchRequest{Generation: d.Generation + 5, Digest: "sha256:other"}
	stream := h.watch(t, ahead)
	if stream.Receive() {
		t.Fatalf("a node that is ahead is told %v", stream.Msg())
	}
	wantRefusal(t, stream.Err(), connect.CodeFailedPrecondition, "ahead")
	if err := h.store.ApproveNode(t.Context(), h.node.Name); err != nil {
		t.Fatal(err)
	}
	if got := next(t, h.watch(t, ahead)).GetState(); got.GetGeneration() <= ahead.Generation || string(got.GetState()) != "one" {
		t.Errorf("after approval: %v", got)
	}
}

func TestDeliverAnswersWhatIsDurable(t *testing.T) {
	h := open(t, time.Hour)
	batch := []*syncv1.Aggregate{{Sequence: 3, Requests: []*syncv1.RequestTotals{{Model: "m", Version: "1", Requests: 5}}}, {Sequence: 4}}
	for range 3 {
		out, err := h.client().Deliver(t.Context(), connect.NewRequest(&syncv1.DeliverRequest{Aggregates: batch}))
		if err != nil || out.Msg.GetAcknowledgedSequence() != 4 {
			t.Fatalf("got %v (%v)", out, err)
		}
	}
	totals, err := h.store.Totals(t.Context(), store.TotalsFilter{})
	if err != nil || len(totals) != 1 || totals[0].GetTotals().GetRequests() != 5 {
		t.Errorf("totals are %v (%v)", totals, err)
	}
	for reason, batch := range map[string][]*syncv1.Aggregate{
		"disorder": {{Sequence: 9}, {Sequence: 9}},
		"too-much": make([]*syncv1.Aggregate, maxAggregates+1),
	} {
		for i := range batch {
			if batch[i] == nil {
				batch[i] = &syncv1.Aggregate{}
			}
		}
		_, err := h.client().Deliver(t.Context(), connect.NewRequest(&syncv1.DeliverRequest{Aggregates: batch}))
		wantRefusal(t, err, connect.CodeInvalidArgument, reason)
	}
}

func TestMessagesAreBounded(t *testing.T) {
	h := open(t, time.Hour)
	_, err := h.client().Report(t.Context(), connect.NewRequest(&syncv1.ReportRequest{AgentVersion: strings.Repeat("x", maxMessageBytes)}))
	if connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("a report without end: %v", err)
	}
	_, err = h.client().Report(t.Context(), connect.NewRequest(&syncv1.ReportRequest{Copies: make([]*syncv1.CopyStatus, maxCopies+1)}))
	if connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("a report with too many copies: %v", err)
	}
	enrol := syncv1connect.NewEnrolmentServiceClient(http.DefaultClient, h.url)
	_, err = enrol.Enrol(t.Context(), connect.NewRequest(&syncv1.EnrolRequest{NodeName: strings.Repeat("x", maxEnrolBytes)}))
	if connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("an enrolment without end: %v", err)
	}
	_, err = enrol.Enrol(t.Context(), connect.NewRequest(&syncv1.EnrolRequest{Protocol: version.Current}))
	wantRefusal(t, err, connect.CodePermissionDenied, "token-invalid")
}

func TestWhatIsInsideStaysInside(t *testing.T) {
	h := open(t, time.Hour)
	h.store.Close()
	for name, err := range h.calls(t) {
		if connect.CodeOf(err) != connect.CodeUnavailable || strings.Contains(err.Error(), "sql") {
			t.Errorf("%s with a broken store: %v", name, err)
		}
	}
}

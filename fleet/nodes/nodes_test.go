package nodes

import (
	"crypto/x509"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/fleet/authority"
	"github.com/dhowfleet/dhow/fleet/store"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/protocol/identity"
	"github.com/dhowfleet/dhow/protocol/nodekey"
	"github.com/dhowfleet/dhow/protocol/version"
)

type harness struct {
	*Registry
	store     *store.Store
	authority *authority.Authority
}

func open(t *testing.T) *harness {
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
	_, err = s.Apply(t.Context(), []store.Change{
		{Put: &fleetv1.Resource{Kind: store.KindRegion, Metadata: &fleetv1.Metadata{Name: "ae-dubai"}, Body: &fleetv1.Resource_Region{Region: &fleetv1.Region{}}}},
		{Put: &fleetv1.Resource{Kind: store.KindSite, Metadata: &fleetv1.Metadata{Name: "deira"},
			Body: &fleetv1.Resource_Site{Site: &fleetv1.Site{Spec: &fleetv1.SiteSpec{Region: "ae-dubai"}}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &harness{New(Config{Store: s, Authority: a, TrustDomain: "fleet.test", Logger: slog.New(slog.DiscardHandler)}), s, a}
}

func (h *harness) token(t *testing.T, spec store.JoinTokenSpec) string {
	t.Helper()
	spec.Region, spec.Site = "ae-dubai", "deira"
	spec.ExpiresAt = time.Now().Add(time.Hour)
	secret, info, err := h.store.CreateJoinToken(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return identity.JoinToken{ID: info.GetId(), Secret: secret, RootPin: h.authority.RootPin()}.String()
}

func request(t *testing.T) []byte {
	t.Helper()
	key, err := nodekey.New()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := nodekey.Request(key)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func wantRefusal(t *testing.T, err error, reason Reason) {
	t.Helper()
	var r *Refusal
	if !errors.As(err, &r) || r.Reason != reason || r.Error() == "" {
		t.Errorf("got %v, want a refusal: %s", err, reason)
	}
}

func TestEnrolGivesACertificateOfThePlace(t *testing.T) {
	h := open(t)
	q := &syncv1.EnrolRequest{JoinToken: h.token(t, store.JoinTokenSpec{}), CertificateRequest: request(t), NodeName: "Till 1.branch.local", Protocol: version.Current,
		AgentVersion: "1.0", Hardware: &syncv1.Hardware{Os: "linux"}}
	first, err := h.Enrol(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	id := first.GetIdentity()
	leaf, err := x509.ParseCertificate(id.GetCertificateChain()[0])
	if err != nil {
		t.Fatal(err)
	}
	who, err := identity.FromCertificate(leaf)
	if err != nil || who.Region != "ae-dubai" || who.Site != "deira" || who.ID != id.GetNodeId() || who.TrustDomain != "fleet.test" {
		t.Fatalf("the certificate names %v (%v)", who, err)
	}
	n, err := h.Admit(t.Context(), who)
	if err != nil || n.Name != "till-1" || n.Connection != store.Enrolling || n.Report.GetHardware().GetOs() != "linux" || !n.CertificateExpiresAt.Equal(leaf.NotAfter) {
		t.Fatalf("the node is %+v (%v)", n, err)
	}

	// The answer was lost: the same key asks again.
	again, err := h.Enrol(t.Context(), q)
	if err != nil || again.GetIdentity().GetNodeId() != id.GetNodeId() {
		t.Fatalf("asked again: %v (%v)", again, err)
	}
	q.CertificateRequest = request(t)
	_, err = h.Enrol(t.Context(), q)
	wantRefusal(t, err, "token-used")

	renewed, err := h.Renew(t.Context(), n, request(t))
	if err != nil || renewed.GetNodeId() != id.GetNodeId() || len(renewed.GetTrustRoots()) != 1 {
		t.Fatalf("renewed: %v (%v)", renewed, err)
	}
	_, err = h.Renew(t.Context(), n, []byte("junk"))
	wantRefusal(t, err, ReasonBadRequest)

	for name, other := range map[string]identity.Node{
		"region":       {TrustDomain: "fleet.test", Region: "eu-west", Site: "deira", ID: n.ID},
		"site":         {TrustDomain: "fleet.test", Region: "ae-dubai", Site: "marina", ID: n.ID},
		"trust domain": {TrustDomain: "other.test", Region: "ae-dubai", Site: "deira", ID: n.ID},
	} {
		if _, err := h.Admit(t.Context(), other); err == nil {
			t.Errorf("a certificate of another %s is admitted", name)
		} else {
			wantRefusal(t, err, ReasonPlace)
		}
	}
	_, err = h.Admit(t.Context(), identity.Node{TrustDomain: "fleet.test", Region: "ae-dubai", Site: "deira", ID: "n-nobody"})
	wantRefusal(t, err, ReasonUnknown)
	if err := h.store.RevokeNode(t.Context(), n.Name, "stolen"); err != nil {
		t.Fatal(err)
	}
	_, err = h.Admit(t.Context(), who)
	wantRefusal(t, err, ReasonRevoked)
	if !strings.Contains(err.Error(), "stolen") {
		t.Errorf("the refusal does not say why: %v", err)
	}
	_, err = h.Renew(t.Context(), n, request(t))
	wantRefusal(t, err, ReasonRevoked)
}

func TestPendingNodeWaitsForApproval(t *testing.T) {
	h := open(t)
	q := &syncv1.EnrolRequest{JoinToken: h.token(t, store.JoinTokenSpec{RequireApproval: true}), CertificateRequest: request(t), NodeName: "till", Protocol: version.Current}
	for range 2 {
		out, err := h.Enrol(t.Context(), q)
		if err != nil || !out.GetPending() || out.GetIdentity() != nil || out.GetRetryAfterSeconds() == 0 {
			t.Fatalf("got %v (%v)", out, err)
		}
	}
	if err := h.store.ApproveNode(t.Context(), "till"); err != nil {
		t.Fatal(err)
	}
	if out, err := h.Enrol(t.Context(), q); err != nil || out.GetPending() || out.GetIdentity() == nil {
		t.Fatalf("after approval: %v (%v)", out, err)
	}
}

// TestARefusedMachineStaysOut: it asks again and again with its token and key, also after its node was deleted.
func TestARefusedMachineStaysOut(t *testing.T) {
	h := open(t)
	q := &syncv1.EnrolRequest{JoinToken: h.token(t, store.JoinTokenSpec{RequireApproval: true, Uses: 5}), CertificateRequest: request(t), NodeName: "till", Protocol: version.Current}
	if out, err := h.Enrol(t.Context(), q); err != nil || !out.GetPending() {
		t.Fatalf("got %v (%v)", out, err)
	}
	if err := h.store.RevokeNode(t.Context(), "till", "not ours"); err != nil {
		t.Fatal(err)
	}
	_, err := h.Enrol(t.Context(), q)
	wantRefusal(t, err, ReasonRevoked)
	if _, err := h.store.Apply(t.Context(), []store.Change{{Delete: &store.Key{Kind: store.KindNode, Name: "till"}}}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err = h.Enrol(t.Context(), q)
		wantRefusal(t, err, "token-key-refused")
	}
	if nodes, err := h.store.Nodes(t.Context()); err != nil || len(nodes) != 0 {
		t.Errorf("the refused machine is a node again: %v (%v)", nodes, err)
	}
	q.JoinToken = h.token(t, store.JoinTokenSpec{})
	if out, err := h.Enrol(t.Context(), q); err != nil || out.GetIdentity() == nil {
		t.Errorf("with a new token: %v (%v)", out, err)
	}
}

func TestBadEnrolments(t *testing.T) {
	h := open(t)
	good := h.token(t, store.JoinTokenSpec{Uses: 10})
	for name, c := range map[string]struct {
		change func(*syncv1.EnrolRequest)
		reason Reason
	}{
		"no token":        {func(q *syncv1.EnrolRequest) { q.JoinToken = "" }, "token-invalid"},
		"damaged token":   {func(q *syncv1.EnrolRequest) { q.JoinToken = good[:len(good)-1] }, "token-invalid"},
		"no request":      {func(q *syncv1.EnrolRequest) { q.CertificateRequest = nil }, ReasonBadRequest},
		"huge request":    {func(q *syncv1.EnrolRequest) { q.CertificateRequest = make([]byte, maxRequestBytes+1) }, ReasonBadRequest},
		"spoiled request": {func(q *syncv1.EnrolRequest) { q.CertificateRequest[len(q.CertificateRequest)-1] ^= 1 }, ReasonBadRequest},
		"endless hardware": {func(q *syncv1.EnrolRequest) {
			q.Hardware = &syncv1.Hardware{Kernel: strings.Repeat("x", maxHardwareBytes)}
		}, ReasonBadRequest},
		"old protocol": {func(q *syncv1.EnrolRequest) { q.Protocol = 0 }, ReasonProtocol},
		"far protocol": {func(q *syncv1.EnrolRequest) { q.Protocol = version.Current + 2 }, ReasonProtocol},
	} {
		q := &syncv1.EnrolRequest{JoinToken: good, CertificateRequest: request(t), NodeName: "till", Protocol: version.Current}
		c.change(q)
		if _, err := h.Enrol(t.Context(), q); err == nil {
			t.Errorf("%s: no error", name)
		} else {
			wantRefusal(t, err, c.reason)
		}
	}
	if nodes, err := h.store.Nodes(t.Context()); err != nil || len(nodes) != 0 {
		t.Errorf("refused enrolments left %d nodes (%v)", len(nodes), err)
	}
	for range maxEnrolling {
		h.enrolled <- struct{}{}
	}
	_, err := h.Enrol(t.Context(), &syncv1.EnrolRequest{})
	wantRefusal(t, err, ReasonBusy)
}

func TestParallelUsesOfOneTokenOverTheRegistry(t *testing.T) {
	h := open(t)
	token := h.token(t, store.JoinTokenSpec{})
	var wait sync.WaitGroup
	ids := make(chan string, 40)
	for range 40 {
		csr := request(t)
		wait.Go(func() {
			out, err := h.Enrol(t.Context(), &syncv1.EnrolRequest{JoinToken: token, CertificateRequest: csr, NodeName: "till", Protocol: version.Current})
			if err == nil {
				ids <- out.GetIdentity().GetNodeId()
			}
		})
	}
	wait.Wait()
	if len(ids) != 1 {
		t.Fatalf("%d machines have a certificate, want one", len(ids))
	}
}

func TestValidName(t *testing.T) {
	for host, want := range map[string]string{
		"till-1": "till-1", "TILL_1": "till-1", "a.b.c": "a", "": "node", "...": "node", "---": "node", "Ünï": "n", strings.Repeat("x", 80): strings.Repeat("x", 63),
		strings.Repeat("x", 62) + "-y": strings.Repeat("x", 62),
	} {
		got := validName(host)
		if got != want {
			t.Errorf("%q became %q, want %q", host, got, want)
		}
		if err := identity.ValidName(got); err != nil {
			t.Error(err)
		}
	}
	if err := identity.ValidName(newID()); err != nil {
		t.Error(err)
	}
}

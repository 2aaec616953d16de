package store

import (
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

var start = time.Date(2026, 11, 25, 8, 0, 0, 0, time.UTC)

// invite makes a region, a site and a token for it.
func invite(t *testing.T, s *Store, spec JoinTokenSpec) (id, plain string) {
	t.Helper()
	spec.Region, spec.Site = "ae-dubai", "deira"
	if spec.ExpiresAt.IsZero() {
		spec.ExpiresAt = start.Add(time.Hour)
	}
	apply(t, s, puts(region(spec.Region), site(spec.Site, spec.Region))...)
	plain, info, err := s.CreateJoinToken(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return info.GetId(), plain
}

func enrolment(id, plain, name string, key int) Enrolment {
	return Enrolment{TokenID: id, Secret: plain, KeyHash: sha256.Sum256([]byte(fmt.Sprint(key))), Name: name, ID: fmt.Sprintf("n-%s-%d", id, key), Protocol: 1, Now: start}
}

func enrol(t *testing.T, s *Store, name string, count int) []*Node {
	t.Helper()
	id, plain := invite(t, s, JoinTokenSpec{Uses: uint32(count)})
	var out []*Node
	for i := range count {
		n, err := s.UseJoinToken(t.Context(), enrolment(id, plain, name, i))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, n)
	}
	return out
}

func wantReason(t *testing.T, err error, want TokenReason) {
	t.Helper()
	var refusal *TokenError
	if !errors.As(err, &refusal) || refusal.Reason != want {
		t.Errorf("got %v, want a refusal because the token is %s", err, want)
	}
}

func TestOneUseTokenHasOneWinner(t *testing.T) {
	s := open(t)
	id, plain := invite(t, s, JoinTokenSpec{})
	var winners atomic.Int64
	var wait sync.WaitGroup
	gate := make(chan struct{})
	for i := range 1000 {
		wait.Go(func() {
			<-gate
			_, err := s.UseJoinToken(t.Context(), enrolment(id, plain, "till", i))
			var refusal *TokenError
			switch {
			case err == nil:
				winners.Add(1)
			case !errors.As(err, &refusal) || refusal.Reason != TokenUsed:
				t.Errorf("use %d: %v", i, err)
			}
		})
	}
	close(gate)
	wait.Wait()
	nodes, err := s.Nodes(t.Context())
	if err != nil || winners.Load() != 1 || len(nodes) != 1 {
		t.Fatalf("%d winners and %d nodes (%v), want one", winners.Load(), len(nodes), err)
	}
}

func TestSameKeyGetsTheSameNode(t *testing.T) {
	s := open(t)
	id, plain := invite(t, s, JoinTokenSpec{Uses: 2})
	first, err := s.UseJoinToken(t.Context(), enrolment(id, plain, "till", 1))
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			e := enrolment(id, plain, "another-name", 1)
			e.ID, e.Now = "n-other", start.Add(1000*time.Hour)
			if n, err := s.UseJoinToken(t.Context(), e); err != nil || n.ID != first.ID || n.Name != "till" {
				t.Errorf("the lost answer asked for again is %v (%v)", n, err)
			}
		})
	}
	wait.Wait()
	tokens, err := s.ListJoinTokens(t.Context())
	if err != nil || len(tokens) != 1 || tokens[0].GetUsed() != 1 {
		t.Fatalf("tokens: %v (%v)", tokens, err)
	}
}

func TestTokenRefusals(t *testing.T) {
	s := open(t)
	id, plain := invite(t, s, JoinTokenSpec{Uses: 5})
	use := func(change func(*Enrolment)) error {
		e := enrolment(id, plain, "till", 1)
		change(&e)
		_, err := s.UseJoinToken(t.Context(), e)
		return err
	}
	wantReason(t, use(func(e *Enrolment) { e.TokenID = "nosuch" }), TokenInvalid)
	wantReason(t, use(func(e *Enrolment) { e.Secret = "guess" }), TokenInvalid)
	wantReason(t, use(func(e *Enrolment) { e.Now = start.Add(time.Hour) }), TokenExpired)
	apply(t, s, Change{Delete: &Key{KindSite, "deira"}})
	wantReason(t, use(func(*Enrolment) {}), TokenMoot)
	apply(t, s, puts(site("deira", "ae-dubai"))...)
	if err := use(func(*Enrolment) {}); err != nil {
		t.Error(err)
	}
	if err := s.RevokeJoinToken(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	wantReason(t, use(func(e *Enrolment) { e.KeyHash[0]++; e.ID = "n-2" }), TokenRevoked)
	wantReason(t, use(func(*Enrolment) {}), TokenRevoked)
	if err := s.RevokeJoinToken(t.Context(), "nosuch"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if _, _, err := s.CreateJoinToken(t.Context(), JoinTokenSpec{Region: "eu-west", Site: "deira"}); !errors.Is(err, ErrConflict) {
		t.Errorf("a token for a site of another region: %v", err)
	}
	if _, _, err := s.CreateJoinToken(t.Context(), JoinTokenSpec{Region: "ae-dubai", Site: "nowhere"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a token for a site that is not there: %v", err)
	}
}

// TestADeletedMachineStaysRefused: a machine that was revoked does not come in again by the token it had, though its
// node was deleted; by a new token it does.
func TestADeletedMachineStaysRefused(t *testing.T) {
	for _, approval := range []bool{true, false} {
		s := open(t)
		ctx := t.Context()
		id, plain := invite(t, s, JoinTokenSpec{Uses: 5, RequireApproval: approval})
		again := func(id, plain, node string) (*Node, error) {
			e := enrolment(id, plain, "till", 1)
			e.ID = node
			return s.UseJoinToken(ctx, e)
		}
		if _, err := again(id, plain, "n-first"); err != nil {
			t.Fatal(err)
		}
		if err := s.RevokeNode(ctx, "till", "not ours"); err != nil {
			t.Fatal(err)
		}
		apply(t, s, Change{Delete: &Key{KindNode, "till"}})
		for range 2 {
			_, err := again(id, plain, "n-again")
			wantReason(t, err, TokenKeyRefused)
			for _, want := range []string{`"till"`, "not ours", "dhow node invite"} {
				if !strings.Contains(fmt.Sprint(err), want) {
					t.Errorf("the refusal does not say %s: %v", want, err)
				}
			}
		}
		tokens, err := s.ListJoinTokens(ctx)
		if err != nil || tokens[0].GetUsed() != 1 {
			t.Errorf("refusals use the token up: %v (%v)", tokens, err)
		}
		if _, err := s.UseJoinToken(ctx, enrolment(id, plain, "till", 2)); err != nil {
			t.Errorf("another machine with the token: %v", err)
		}
		next, secret := invite(t, s, JoinTokenSpec{RequireApproval: approval})
		if n, err := again(next, secret, "n-again"); err != nil || n.ID != "n-again" {
			t.Errorf("the machine with a new token: %v (%v)", n, err)
		}
		// A deletion alone refuses nobody: a pending machine asks again.
		if approval {
			apply(t, s, Change{Delete: &Key{KindNode, "till"}})
			if n, err := s.UseJoinToken(ctx, enrolment(id, plain, "till", 2)); err != nil || n.State != NodePending {
				t.Errorf("a machine that was deleted and not revoked: %v (%v)", n, err)
			}
		}
	}
}

func refusedKeys(t *testing.T, s *Store) (n int) {
	t.Helper()
	if err := s.reader.QueryRow(`SELECT COUNT(*) FROM refused_keys`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestRefusedKeysAreBounded: of one token not too many are kept, and none without their token.
func TestRefusedKeysAreBounded(t *testing.T) {
	s := open(t)
	ctx := t.Context()
	id, plain := invite(t, s, JoinTokenSpec{Uses: 2})
	for i := range 2 {
		n, err := s.UseJoinToken(ctx, enrolment(id, plain, "till", i))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.RevokeNode(ctx, n.Name, ""); err != nil {
			t.Fatal(err)
		}
	}
	apply(t, s, Change{Delete: &Key{KindNode, "till"}})
	if err := s.write(ctx, func(tx *sql.Tx) error {
		for i := range maxRefusedKeys - 1 {
			if _, err := tx.ExecContext(ctx, `INSERT INTO refused_keys (token_id, key_hash, node, reason) VALUES ($1, $2, 'x', '')`, id, fmt.Append(nil, i)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	_, err := s.Apply(ctx, []Change{{Delete: &Key{KindNode, "till-2"}}})
	if !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "dhow token revoke "+id) {
		t.Fatalf("one more than is remembered: %v", err)
	}
	if err := s.RevokeJoinToken(ctx, id); err != nil {
		t.Fatal(err)
	}
	apply(t, s, Change{Delete: &Key{KindNode, "till-2"}})
	for i := range 2 {
		_, err = s.UseJoinToken(ctx, enrolment(id, plain, "till", i))
		wantReason(t, err, TokenRevoked)
	}
	if n := refusedKeys(t, s); n != 0 {
		t.Errorf("%d keys are kept of a token that is refused itself", n)
	}

	old, plain := invite(t, s, JoinTokenSpec{Uses: 2})
	n, err := s.UseJoinToken(ctx, enrolment(old, plain, "old", 1))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.RevokeNode(ctx, n.Name, ""); err != nil {
		t.Fatal(err)
	}
	apply(t, s, Change{Delete: &Key{KindNode, n.Name}})
	if n := refusedKeys(t, s); n != 1 {
		t.Fatalf("%d keys are kept, want 1", n)
	}
	s.now = func() time.Time { return start.AddDate(0, 2, 0) }
	invite(t, s, JoinTokenSpec{ExpiresAt: start.AddDate(0, 3, 0)})
	if n := refusedKeys(t, s); n != 0 {
		t.Errorf("%d keys are kept of a token that is forgotten", n)
	}
}

func TestSecretsAreStoredHashed(t *testing.T) {
	s := open(t)
	_, plain := invite(t, s, JoinTokenSpec{})
	operator, err := s.Operators().Create(t.Context(), "bootstrap", "admin")
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"join_tokens", "operator_tokens"} {
		var hash string
		if err := s.reader.QueryRow(`SELECT secret_hash FROM ` + table).Scan(&hash); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(hash, plain) || strings.Contains(hash, operator) || len(hash) != sha256.Size {
			t.Errorf("%s holds %q", table, hash)
		}
	}
}

func TestNamesAreUnique(t *testing.T) {
	s := open(t)
	long := strings.Repeat("a", 60) + "-bb"
	for _, want := range [][]string{{"till", "till-2", "till-3"}, {long, strings.Repeat("a", 60) + "-2", strings.Repeat("a", 60) + "-3"}} {
		for i, n := range enrol(t, s, want[0], len(want)) {
			if n.Name != want[i] || len(n.Name) > 63 {
				t.Errorf("node %d is called %q, want %q", i, n.Name, want[i])
			}
		}
	}
}

func TestNodeLife(t *testing.T) {
	s := open(t)
	ctx := t.Context()
	id, plain := invite(t, s, JoinTokenSpec{RequireApproval: true})
	n, err := s.UseJoinToken(ctx, enrolment(id, plain, "till", 1))
	if err != nil || n.State != NodePending || n.Connection != Enrolling {
		t.Fatalf("the node is %v (%v)", n, err)
	}
	if err := s.RecordCertificate(ctx, n.ID, "1", start, 1); !errors.Is(err, ErrConflict) {
		t.Errorf("a pending node gets a certificate: %v", err)
	}
	for range 2 {
		if err := s.ApproveNode(ctx, "till"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.RecordCertificate(ctx, n.ID, "1", start.Add(time.Hour), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(ctx, []Change{{Delete: &Key{KindNode, "till"}}}); !errors.Is(err, ErrConflict) {
		t.Errorf("an active node is deleted: %v", err)
	}
	labelled := &fleetv1.Resource{Kind: KindNode, Metadata: &fleetv1.Metadata{Name: "till", Labels: map[string]string{"gpu": "no"}}}
	if got := apply(t, s, puts(labelled)...)[0]; got.GetMetadata().GetLabels()["gpu"] != "no" || got.GetNode().GetStatus().GetState() != NodeActive {
		t.Errorf("labelled: %v", got)
	}
	for range 2 {
		if err := s.RevokeNode(ctx, "till", "stolen"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.ApproveNode(ctx, "till"); !errors.Is(err, ErrConflict) {
		t.Errorf("a revoked node is approved: %v", err)
	}
	r, err := s.Get(ctx, KindNode, "till")
	if err != nil || r.GetNode().GetStatus().GetState() != NodeRevoked || !strings.Contains(r.GetNode().GetStatus().GetProtocolNote(), "stolen") {
		t.Errorf("the revoked node is %v (%v)", r, err)
	}
	if _, _, err := s.Deliver(ctx, n.ID, []*syncv1.Aggregate{aggregate(1, 1)}); err != nil {
		t.Error(err)
	}
	apply(t, s, Change{Delete: &Key{KindNode, "till"}})
	if totals, err := s.Totals(ctx, TotalsFilter{}); err != nil || len(totals) != 1 {
		t.Errorf("a deleted node's totals are %v (%v)", totals, err)
	}
	for _, err := range []error{s.ApproveNode(ctx, "till"), s.RevokeNode(ctx, "till", ""), s.RecordCertificate(ctx, n.ID, "1", start, 1)} {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("of a deleted node: %v", err)
		}
	}
}

func TestSightingsWakeOnlyForNews(t *testing.T) {
	s := open(t)
	n := enrol(t, s, "till", 1)[0]
	version := func() uint64 {
		got, err := s.NodeByID(t.Context(), n.ID)
		if err != nil {
			t.Fatal(err)
		}
		return got.Version
	}
	see := func(sight Sighting) {
		sight.NodeID = n.ID
		if err := s.RecordSightings(t.Context(), []Sighting{sight, {NodeID: "n-unknown"}}); err != nil {
			t.Fatal(err)
		}
	}
	see(Sighting{SeenAt: start, Connection: Connected, Transport: "HTTP/3", Report: &syncv1.ReportRequest{AgentVersion: "1", OutboxPending: 3, Hardware: &syncv1.Hardware{DiskFreeBytes: 8}}})
	before := version()
	see(Sighting{SeenAt: start.Add(time.Minute), Report: &syncv1.ReportRequest{AgentVersion: "1", OutboxPending: 9, Hardware: &syncv1.Hardware{DiskFreeBytes: 7}}})
	see(Sighting{SeenAt: start}) // one that comes late
	if version() != before {
		t.Error("being seen and a longer outbox are news")
	}
	got, err := s.NodeByID(t.Context(), n.ID)
	if err != nil || !got.LastSeenAt.Equal(start.Add(time.Minute)) || got.Report.GetOutboxPending() != 9 || got.Transport != "HTTP/3" {
		t.Errorf("the node is %v (%v)", got, err)
	}
	see(Sighting{Connection: Disconnected})
	if version() == before {
		t.Error("a lost connection is no news")
	}
}

// TestNodeAheadOfARestoredManager: the manager asks a person, and what it says then has a generation above the node's.
func TestNodeAheadOfARestoredManager(t *testing.T) {
	s := open(t)
	ctx := t.Context()
	n := enrol(t, s, "till", 1)[0]
	if _, err := s.SetDesired(ctx, map[string][]byte{n.ID: []byte("old")}); err != nil {
		t.Fatal(err)
	}
	for _, generation := range []uint64{7, 7, 1 << 63} {
		if err := s.RecordAhead(ctx, n.ID, generation); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.RecordAhead(ctx, n.ID, 7); err != nil {
		t.Fatal(err)
	}
	r, err := s.Get(ctx, KindNode, "till")
	if err != nil || !strings.Contains(r.GetNode().GetStatus().GetProtocolNote(), "dhow node approve till") {
		t.Fatalf("the node is %v (%v)", r, err)
	}
	if err := s.ApproveNode(ctx, "till"); err != nil {
		t.Fatal(err)
	}
	d, err := s.Desired(ctx, n.ID)
	if err != nil || d.Generation != 8 || string(d.State) != "old" {
		t.Errorf("the desired state is %+v (%v)", d, err)
	}
	if r, err = s.Get(ctx, KindNode, "till"); err != nil || r.GetNode().GetStatus().GetProtocolNote() != "" {
		t.Errorf("the node is %v (%v)", r, err)
	}
}

package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/test/failpoint/killtest"
)

// TestMain is also the process that the tests below let die: it does every kind of change over and over, and says on
// its output what it was told is durable.
func TestMain(m *testing.M) {
	if path := os.Getenv("DHOW_STORE_VICTIM"); path != "" {
		fmt.Fprintln(os.Stderr, victim(path))
		os.Exit(3)
	}
	os.Exit(m.Run())
}

func victim(path string) error {
	ctx := context.Background()
	s, err := Open(ctx, path)
	if err != nil {
		return err
	}
	if _, err := s.Apply(ctx, puts(region("ae-dubai"), site("deira", "ae-dubai"))); err != nil {
		return err
	}
	for i := uint64(1); i <= 5; i++ {
		plain, info, err := s.CreateJoinToken(ctx, JoinTokenSpec{Region: "ae-dubai", Site: "deira", ExpiresAt: start.AddDate(9, 0, 0)})
		if err != nil {
			return err
		}
		n, err := s.UseJoinToken(ctx, enrolment(info.GetId(), plain, "till", int(i)))
		if err != nil {
			return err
		}
		if err := s.RecordCertificate(ctx, n.ID, fmt.Sprint(i), start, 1); err != nil {
			return err
		}
		if err := s.RecordVersion(ctx, "fashion", fmt.Sprint(i), "sha256:x", 1); err != nil {
			return err
		}
		// A region and a site always come and go together.
		pair := puts(region(fmt.Sprintf("r%d", i)), site(fmt.Sprintf("s%d", i), fmt.Sprintf("r%d", i)), rollout("fashion", "fashion", fmt.Sprint(i)))
		applied, err := s.Apply(ctx, pair)
		if err != nil {
			return err
		}
		// A rollout is Complete exactly when there is a release of it.
		r := applied[2]
		r.GetRollout().Status.Phase = "Complete"
		if err := s.CommitDecisions(ctx, Decisions{Statuses: []*fleetv1.Resource{r},
			Releases: []Release{{Rollout: "fashion", Sequence: r.GetRollout().GetStatus().GetSequence(), Model: "fashion", Version: fmt.Sprint(i)}}}); err != nil {
			return err
		}
		if _, err := s.SetDesired(ctx, map[string][]byte{n.ID: []byte(fmt.Sprint(i))}); err != nil {
			return err
		}
		if err := s.RecordSightings(ctx, []Sighting{{NodeID: n.ID, SeenAt: start, Connection: Connected}}); err != nil {
			return err
		}
		acked, _, err := s.Deliver(ctx, n.ID, []*syncv1.Aggregate{aggregate(1, 10), aggregate(2, 10)})
		if err != nil {
			return err
		}
		fmt.Printf("acked %s %d\n", n.ID, acked)
		if i%2 == 1 {
			continue
		}
		if err := s.RevokeNode(ctx, n.Name, "stolen"); err != nil {
			return err
		}
		if _, err := s.Apply(ctx, []Change{{Delete: &Key{KindNode, n.Name}}}); err != nil {
			return err
		}
	}
	return errors.New("nothing killed it")
}

// TestKilledAtEveryWritePoint kills a process at each write point and wants what it left to be whole.
func TestKilledAtEveryWritePoint(t *testing.T) {
	for _, point := range []string{
		"store/apply:2", "store/apply-committed:2", "store/apply:4", "store/apply-committed:4", "store/token:2", "store/enrol:2", "store/enrol-committed:2", "store/certificate:2",
		"store/model-version:2", "store/decisions:2", "store/decisions-committed:2", "store/desired:2", "store/desired-committed:2",
		"store/sightings:2", "store/deliver:2", "store/deliver-committed:2",
	} {
		t.Run(strings.ReplaceAll(point, "/", " "), func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "fleet.db")
			said := killtest.Killed(t, point, []string{"DHOW_STORE_VICTIM=" + path})
			whole(t, openAt(t, path), said)
		})
	}
}

func whole(t *testing.T, s *Store, said string) {
	t.Helper()
	ctx := t.Context()
	var integrity string
	if err := s.reader.QueryRow(`PRAGMA integrity_check`).Scan(&integrity); err != nil || integrity != "ok" {
		t.Fatalf("integrity: %s (%v)", integrity, err)
	}
	for i := 1; i <= 5; i++ {
		_, noRegion := s.Get(ctx, KindRegion, fmt.Sprintf("r%d", i))
		_, noSite := s.Get(ctx, KindSite, fmt.Sprintf("s%d", i))
		if (noRegion == nil) != (noSite == nil) {
			t.Errorf("half an apply is there: %v, %v", noRegion, noSite)
		}
	}
	if r, err := s.Get(ctx, KindRollout, "fashion"); err == nil {
		releases, err := s.Releases(ctx)
		if err != nil {
			t.Fatal(err)
		}
		complete := r.GetRollout().GetStatus().GetPhase() == "Complete"
		newest := len(releases) > 0 && releases[len(releases)-1].Sequence == r.GetRollout().GetStatus().GetSequence()
		// An edited spec keeps the old phase until the next look; then its release is that of the older sequence.
		if newest && !complete || complete && len(releases) == 0 {
			t.Errorf("the rollout is %q, its releases are %v", r.GetRollout().GetStatus().GetPhase(), releases)
		}
	}
	tokens, err := s.ListJoinTokens(ctx)
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := s.Nodes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	used := 0
	for _, token := range tokens {
		used += int(token.GetUsed())
	}
	// A machine that used a token is a node, or one that was revoked and deleted, whose key is refused.
	if refused := refusedKeys(t, s); used != len(nodes)+refused {
		t.Errorf("tokens were used %d times, there are %d nodes and %d refused keys", used, len(nodes), refused)
	}
	for _, n := range nodes {
		acked, _, err := s.Deliver(ctx, n.ID, []*syncv1.Aggregate{aggregate(1, 10), aggregate(2, 10)})
		if err != nil || acked != 2 {
			t.Errorf("acknowledged %d (%v)", acked, err)
		}
	}
	if requests, _, _ := requestsOf(t, ctx, s, ""); requests != uint64(20*used) {
		t.Errorf("%d requests are counted of %d machines that delivered 20 each\n%s", requests, used, said)
	}
}

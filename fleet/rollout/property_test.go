package rollout

import (
	"fmt"
	"math/rand"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"

	"github.com/dhowfleet/dhow/fleet/resource"
)

var specs = rapid.Custom(func(t *rapid.T) *fleetv1.RolloutSpec {
	place := rapid.SampledFrom([][2]string{{"", ""}, {"dubai", ""}, {"west", ""}, {"", "deira"}, {"dubai", "marina"}, {"nowhere", ""}}).Draw(t, "place")
	s := spec(rapid.SampledFrom([]string{"1", "2", "3", "9"}).Draw(t, "version"), in(place[0], place[1]),
		taking(rapid.SampledFrom([]string{"", "", "100%", "30%", "0.0001%"}).Draw(t, "traffic")))
	s.OnFailure = rapid.SampledFrom([]string{"", "rollback", Hold}).Draw(t, "onFailure")
	s.Retry = rapid.Uint32Range(0, 1).Draw(t, "retry")
	return s
})

// step lets one thing happen to the fleet.
func (f *fleet) step(t *rapid.T) {
	name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "rollout")
	node := &f.Nodes[rapid.IntRange(0, len(f.Nodes)-1).Draw(t, "node")]
	switch rapid.IntRange(0, 9).Draw(t, "step") {
	case 0, 1:
		f.apply(name, specs.Draw(t, "spec"))
	case 2:
		f.delete(name)
	case 3:
		node.Connected = !node.Connected
	case 4:
		node.Active = !node.Active
	case 5:
		digest := "sha256:" + rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "digest")
		if rapid.Bool().Draw(t, "atOneNode") {
			digest += "@" + node.Name
		}
		f.bad[digest] = !f.bad[digest]
	case 6:
		if len(f.Nodes) < 6 {
			f.join(fmt.Sprintf("%s/%d", rapid.SampledFrom([]string{"deira", "marina", "rotterdam"}).Draw(t, "site"), len(f.Nodes)))
		}
	default:
		f.act(node)
	}
}

func clone(s Snapshot) Snapshot {
	out := s
	out.Rollouts, out.Nodes = nil, nil
	for _, r := range s.Rollouts {
		out.Rollouts = append(out.Rollouts, proto.CloneOf(r))
	}
	for _, n := range s.Nodes {
		n.Report = proto.CloneOf(n.Report)
		out.Nodes = append(out.Nodes, n)
	}
	out.Releases = slices.Clone(s.Releases)
	return out
}

// TestEveryDecisionIsSafe lets a random fleet live and checks each decision.
func TestEveryDecisionIsSafe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := newFleet("deira/a", "marina/b", "rotterdam/c")
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			f.step(t)
			before := clone(f.Snapshot)
			p := f.decide()
			safe(t, before, p)
			agrees(t, f.Snapshot, before.Releases, p)
			again := Decide(f.Snapshot)
			for id, copies := range again.Copies {
				if !sameCopies(copies, p.Copies[id]) {
					t.Fatalf("nothing happened, yet node %s is told %v instead of %v", id, copies, p.Copies[id])
				}
			}
			if len(again.Completed) != 0 {
				t.Fatalf("completed twice: %v", again.Completed)
			}
		}
	})
}

func safe(t *rapid.T, before Snapshot, p Plan) {
	rollouts := map[string]*fleetv1.Resource{}
	for _, r := range before.Rollouts {
		rollouts[r.GetMetadata().GetName()] = r
	}
	if len(p.Statuses) != len(rollouts) {
		t.Fatalf("%d statuses for %d rollouts", len(p.Statuses), len(rollouts))
	}
	for _, n := range before.Nodes {
		copies, told := p.Copies[n.ID]
		if told != n.Active {
			t.Fatalf("node %s: active is %v, told is %v", n.Name, n.Active, told)
		}
		shares := map[string]uint32{}
		seen := map[string]bool{}
		for _, c := range copies {
			shares[c.GetModel()] += c.GetTrafficMillionths()
			if seen[c.GetModel()+c.GetVersion()] {
				t.Fatalf("node %s is told version %s twice", n.Name, c.GetVersion())
			}
			seen[c.GetModel()+c.GetVersion()] = true
			r := rollouts[c.GetRollout()]
			if r == nil {
				t.Fatalf("node %s holds a copy of rollout %q, which is not declared", n.Name, c.GetRollout())
			}
			checkCopy(t, n, c, r.GetRollout(), p.Statuses[c.GetRollout()])
		}
		for model, share := range shares {
			if share != resource.All {
				t.Fatalf("the shares of model %s at node %s sum to %d", model, n.Name, share)
			}
		}
	}
	for name, s := range p.Statuses {
		r := rollouts[name]
		if s.GetServing()+s.GetFailed()+s.GetWaiting() != s.GetNodes() && s.GetPhase() != RollingBack && s.GetPhase() != RolledBack {
			t.Fatalf("the counts of rollout %s do not add up: %v", name, s)
		}
		if s.GetMessage() == "" || s.GetObservedGeneration() != r.GetMetadata().GetGeneration() || s.GetSequence() != r.GetRollout().GetStatus().GetSequence() {
			t.Fatalf("rollout %s has the status %v", name, s)
		}
		was := r.GetRollout().GetStatus()
		if was.GetObservedGeneration() == s.GetObservedGeneration() {
			checkMove(t, name, was, s)
		}
	}
}

// checkCopy: a copy of what a rollout names now needs a rollout that goes on; anything else must be a release of it.
func checkCopy(t *rapid.T, n Node, c *syncv1.DesiredCopy, r *fleetv1.Rollout, s *fleetv1.RolloutStatus) {
	if c.GetManifestDigest() != "sha256:"+c.GetVersion() {
		t.Fatalf("version %s is told as %s", c.GetVersion(), c.GetManifestDigest())
	}
	if c.GetRole() == syncv1.Role_ROLE_BASELINE {
		return
	}
	if c.GetVersion() != r.GetSpec().GetVersion() {
		t.Fatalf("rollout %s wants version %s and its candidate is %s", c.GetRollout(), r.GetSpec().GetVersion(), c.GetVersion())
	}
	switch s.GetPhase() {
	case Progressing, Complete:
	case Held:
		if !slices.ContainsFunc(n.Told, func(o *syncv1.DesiredCopy) bool { return o.GetManifestDigest() == c.GetManifestDigest() }) {
			t.Fatalf("the held rollout %s begins at node %s", c.GetRollout(), n.Name)
		}
	default:
		t.Fatalf("rollout %s is %s, yet node %s is told its candidate", c.GetRollout(), s.GetPhase(), n.Name)
	}
}

// checkMove: while the spec stays, a rollout moves only along these ways.
func checkMove(t *rapid.T, name string, was, is *fleetv1.RolloutStatus) {
	ways := map[string][]string{
		Pending:     {Progressing, Complete, RollingBack, Held, Superseded},
		Progressing: {Complete, RollingBack, Held, Superseded},
		Complete:    {Superseded},
		RollingBack: {RolledBack, Superseded},
		RolledBack:  {RollingBack, Superseded},
		Held:        {Superseded},
		Superseded:  {Complete},
	}
	if was.GetPhase() == is.GetPhase() || was.GetPhase() == "" {
		return
	}
	if !slices.Contains(ways[was.GetPhase()], is.GetPhase()) {
		t.Fatalf("rollout %s went from %s to %s", name, was.GetPhase(), is.GetPhase())
	}
	if was.GetPhase() == Superseded && was.GetStage() == 0 {
		t.Fatalf("rollout %s resumed after it was superseded", name)
	}
}

// TestOrderDoesNotMatter: the same picture in another order leads to the same plan.
func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := newFleet("deira/a", "marina/b", "rotterdam/c")
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			f.step(t)
			f.decide()
		}
		shuffled := clone(f.Snapshot)
		random := rand.New(rand.NewSource(rapid.Int64().Draw(t, "seed")))
		random.Shuffle(len(shuffled.Nodes), func(i, j int) { shuffled.Nodes[i], shuffled.Nodes[j] = shuffled.Nodes[j], shuffled.Nodes[i] })
		random.Shuffle(len(shuffled.Rollouts), func(i, j int) {
			shuffled.Rollouts[i], shuffled.Rollouts[j] = shuffled.Rollouts[j], shuffled.Rollouts[i]
		})
		random.Shuffle(len(shuffled.Releases), func(i, j int) {
			shuffled.Releases[i], shuffled.Releases[j] = shuffled.Releases[j], shuffled.Releases[i]
		})
		a, b := Decide(f.Snapshot), Decide(shuffled)
		for id, copies := range a.Copies {
			if !sameCopies(copies, b.Copies[id]) {
				t.Fatalf("node %s is told %v or %v", id, copies, b.Copies[id])
			}
		}
		for name, s := range a.Statuses {
			if !proto.Equal(s, b.Statuses[name]) {
				t.Fatalf("rollout %s is %v or %v", name, s, b.Statuses[name])
			}
		}
	})
}

// TestDecideLeavesItsArgumentAlone: a picture may be kept and used again.
func TestDecideLeavesItsArgumentAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := newFleet("deira/a", "rotterdam/c")
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			f.step(t)
			f.decide()
		}
		before := clone(f.Snapshot)
		Decide(f.Snapshot)
		for i, r := range f.Rollouts {
			if !proto.Equal(r, before.Rollouts[i]) {
				t.Fatalf("rollout %v was changed to %v", before.Rollouts[i], r)
			}
		}
	})
}

// TestGoodVersionsArriveEverywhere: whatever happened before, once nothing is bad and everybody is there, the newest
// rollout of a version that was not tried before completes, at every node.
func TestGoodVersionsArriveEverywhere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := newFleet("deira/a", "marina/b", "rotterdam/c")
		for range rapid.IntRange(0, 30).Draw(t, "steps") {
			f.step(t)
			f.decide()
		}
		clear(f.bad)
		for i := range f.Nodes {
			f.Nodes[i].Active, f.Nodes[i].Connected = true, true
		}
		f.apply("last", spec("3", retry(7)))
		f.settle()
		if s := f.Rollouts[len(f.Rollouts)-1].GetRollout().GetStatus(); s.GetPhase() != Complete {
			t.Fatalf("the rollout is %v", s)
		}
		for _, n := range f.Nodes {
			if len(n.Told) != 1 || n.Told[0].GetVersion() != "3" || n.Told[0].GetRole() != syncv1.Role_ROLE_BASELINE {
				t.Fatalf("node %s was told %v", n.Name, n.Told)
			}
		}
		before := f.Nodes[0].Generation
		f.settle()
		if f.Nodes[0].Generation != before {
			t.Fatal("generations rise though nothing happens")
		}
	})
}

// BenchmarkDecide is one look at 10,000 nodes with 20 rollouts.
func BenchmarkDecide(b *testing.B) {
	f := newFleet()
	for i := range 10_000 {
		f.join(fmt.Sprintf("%s/%d", []string{"deira", "marina", "rotterdam"}[i%3], i))
	}
	for i := range 20 {
		f.apply(fmt.Sprintf("r%d", i), spec("1", in([]string{"dubai", "west"}[i%2], "")))
	}
	f.settle()
	b.ResetTimer()
	for range b.N {
		Decide(f.Snapshot)
	}
}

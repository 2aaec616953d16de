package rollout

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

// fleet is a small fleet that keeps what a manager stores and behaves as nodes do.
type fleet struct {
	Snapshot
	sequence uint64
	bad      map[string]bool // digests that fail at every node, by digest, or at one, by "digest@node"
}

func newFleet(nodes ...string) *fleet {
	f := &fleet{bad: map[string]bool{}}
	f.Now = time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	for _, r := range []string{"dubai", "west"} {
		f.Regions = append(f.Regions, &fleetv1.Resource{Kind: "Region", Metadata: &fleetv1.Metadata{Name: r}})
	}
	for _, s := range []string{"deira", "marina", "rotterdam"} {
		region := "dubai"
		if s == "rotterdam" {
			region = "west"
		}
		f.Sites = append(f.Sites, &fleetv1.Resource{Kind: "Site", Metadata: &fleetv1.Metadata{Name: s},
			Body: &fleetv1.Resource_Site{Site: &fleetv1.Site{Spec: &fleetv1.SiteSpec{Region: region}}}})
	}
	var versions []*fleetv1.ModelVersion
	for _, v := range []string{"3", "2", "1"} {
		versions = append(versions, &fleetv1.ModelVersion{Version: v, ManifestDigest: "sha256:" + v})
	}
	f.Models = []*fleetv1.Resource{{Kind: "Model", Metadata: &fleetv1.Metadata{Name: "m"},
		Body: &fleetv1.Resource_Model{Model: &fleetv1.Model{Status: &fleetv1.ModelStatus{Versions: versions}}}}}
	for _, n := range nodes {
		f.join(n)
	}
	return f
}

// join adds an active, connected node called site/number.
func (f *fleet) join(name string) *Node {
	site, _, _ := strings.Cut(name, "/")
	region := "dubai"
	if site == "rotterdam" {
		region = "west"
	}
	f.Nodes = append(f.Nodes, Node{ID: "id-" + name, Name: name, Region: region, Site: site, Active: true, Connected: true})
	return &f.Nodes[len(f.Nodes)-1]
}

func (f *fleet) node(name string) *Node {
	for i := range f.Nodes {
		if f.Nodes[i].Name == name {
			return &f.Nodes[i]
		}
	}
	return nil
}

// apply declares or changes a rollout, as the store does it.
func (f *fleet) apply(name string, spec *fleetv1.RolloutSpec) {
	f.sequence++
	for _, r := range f.Rollouts {
		if r.GetMetadata().GetName() == name {
			if !proto.Equal(r.GetRollout().GetSpec(), spec) {
				r.GetRollout().Spec = spec
				r.Metadata.Generation++
				r.GetRollout().Status.Sequence = f.sequence
			}
			return
		}
	}
	f.Rollouts = append(f.Rollouts, &fleetv1.Resource{Kind: "Rollout", Metadata: &fleetv1.Metadata{Name: name, Generation: 1},
		Body: &fleetv1.Resource_Rollout{Rollout: &fleetv1.Rollout{Spec: spec, Status: &fleetv1.RolloutStatus{Sequence: f.sequence}}}})
}

func (f *fleet) delete(name string) {
	for i, r := range f.Rollouts {
		if r.GetMetadata().GetName() == name {
			f.Rollouts = append(f.Rollouts[:i:i], f.Rollouts[i+1:]...)
			break
		}
	}
	var kept []Release
	for _, r := range f.Releases {
		if r.Rollout != name {
			kept = append(kept, r)
		}
	}
	f.Releases = kept
}

// decide decides and stores what was decided.
func (f *fleet) decide() Plan {
	p := Decide(f.Snapshot)
	for _, r := range f.Rollouts {
		r.GetRollout().Status = p.Statuses[r.GetMetadata().GetName()]
	}
	f.Releases = append(f.Releases, p.Completed...)
	for i := range f.Nodes {
		n := &f.Nodes[i]
		if copies, ok := p.Copies[n.ID]; ok && !sameCopies(copies, n.Told) {
			n.Told = copies
			n.Generation++
		}
	}
	return p
}

func sameCopies(a, b []*syncv1.DesiredCopy) bool {
	return proto.Equal(&syncv1.DesiredState{Copies: a}, &syncv1.DesiredState{Copies: b})
}

// act lets a connected node do what it was told and report it: bad content fails, and what served before goes on.
func (f *fleet) act(n *Node) {
	if !n.Connected || !n.Active {
		return
	}
	report := &syncv1.ReportRequest{Generation: n.Generation}
	for _, c := range n.Told {
		state, reason := syncv1.CopyState_COPY_STATE_SERVING, ""
		if f.bad[c.GetManifestDigest()] || f.bad[c.GetManifestDigest()+"@"+n.Name] {
			state, reason = syncv1.CopyState_COPY_STATE_FAILED, "golden-mismatch"
		}
		report.Copies = append(report.Copies, &syncv1.CopyStatus{Model: c.GetModel(), Version: c.GetVersion(), ManifestDigest: c.GetManifestDigest(),
			State: state, Reason: reason, Message: "0.1 is not 0.9.\n", Retry: c.GetRetry()})
	}
	n.Report = report
}

func (f *fleet) actAll() {
	for i := range f.Nodes {
		f.act(&f.Nodes[i])
	}
}

// settle decides and acts until nothing moves.
func (f *fleet) settle() {
	for range 6 {
		f.decide()
		f.actAll()
	}
	f.decide()
}

func spec(version string, change ...func(*fleetv1.RolloutSpec)) *fleetv1.RolloutSpec {
	s := &fleetv1.RolloutSpec{Model: "m", Version: version, Stages: []*fleetv1.RolloutStage{{Name: "all"}}}
	for _, c := range change {
		c(s)
	}
	return s
}

func in(region, site string) func(*fleetv1.RolloutSpec) {
	return func(s *fleetv1.RolloutSpec) {
		s.Stages[0].Select = &fleetv1.StageSelector{Region: region, Site: site}
	}
}

func taking(traffic string) func(*fleetv1.RolloutSpec) {
	return func(s *fleetv1.RolloutSpec) { s.Stages[0].Traffic = traffic }
}

func holding(s *fleetv1.RolloutSpec) { s.OnFailure = Hold }

func retry(n uint32) func(*fleetv1.RolloutSpec) {
	return func(s *fleetv1.RolloutSpec) { s.Retry = n }
}

func (f *fleet) status(t *testing.T, name string) *fleetv1.RolloutStatus {
	t.Helper()
	for _, r := range f.Rollouts {
		if r.GetMetadata().GetName() == name {
			return r.GetRollout().GetStatus()
		}
	}
	t.Fatalf("there is no rollout %s", name)
	return nil
}

func (f *fleet) want(t *testing.T, name, phase string, sentence ...string) {
	t.Helper()
	s := f.status(t, name)
	if s.GetPhase() != phase {
		t.Fatalf("rollout %s is %s (%s), want %s", name, s.GetPhase(), s.GetMessage(), phase)
	}
	for _, part := range sentence {
		if !strings.Contains(s.GetMessage(), part) {
			t.Errorf("rollout %s says %q, want %q in it", name, s.GetMessage(), part)
		}
	}
}

// wantTold compares what a node was told with "version role share ...".
func (f *fleet) wantTold(t *testing.T, node string, want ...string) {
	t.Helper()
	var got []string
	for _, c := range f.node(node).Told {
		got = append(got, fmt.Sprintf("%s %s %d", c.GetVersion(), strings.ToLower(strings.TrimPrefix(c.GetRole().String(), "ROLE_")), c.GetTrafficMillionths()))
	}
	if strings.Join(got, ", ") != strings.Join(want, ", ") {
		t.Fatalf("node %s was told %q, want %q", node, got, want)
	}
}

func TestRolloutCompletes(t *testing.T) {
	f := newFleet("deira/1", "rotterdam/1")
	f.apply("v1", spec("1"))
	f.decide()
	f.want(t, "v1", Progressing, "0 of 2 nodes serve m version 1, 2 on the way")
	f.wantTold(t, "deira/1", "1 candidate 1000000")
	f.act(f.node("deira/1"))
	f.decide()
	f.want(t, "v1", Progressing, "1 of 2 nodes serves m version 1")
	f.actAll()
	f.decide()
	f.want(t, "v1", Complete, "all 2 nodes serve m version 1")
	f.wantTold(t, "rotterdam/1", "1 baseline 1000000")
	if s := f.status(t, "v1"); s.GetStage() != 1 || s.GetManifestDigest() != "sha256:1" || s.GetObservedGeneration() != 1 {
		t.Errorf("the status is %v", s)
	}

	// One who joins late is included and undoes nothing.
	f.join("marina/1").Connected = false
	f.decide()
	f.want(t, "v1", Complete, "2 of 3 nodes serve m version 1, 1 on the way (1 offline)")
	f.wantTold(t, "marina/1", "1 baseline 1000000")
}

func TestPendingSaysWhatIsMissing(t *testing.T) {
	for want, s := range map[string]*fleetv1.RolloutSpec{
		`no region "north"`:                 spec("1", in("north", "")),
		`no site "souk"`:                    spec("1", in("", "souk")),
		`site "deira" is in region "dubai"`: spec("1", in("west", "deira")),
		`no version "9": push it with dhow model push; there are 3, 2, 1`: spec("9"),
		`no model "other"`: {Model: "other", Version: "1"},
		`2 stages`:         spec("1", func(s *fleetv1.RolloutSpec) { s.Stages = append(s.Stages, s.Stages[0]) }),
		`share of traffic`: spec("1", taking("lots")),
		`onFailure is "x"`: spec("1", func(s *fleetv1.RolloutSpec) { s.OnFailure = "x" }),
	} {
		f := newFleet("deira/1")
		f.apply("v1", spec("1"))
		f.settle()
		f.apply("next", s)
		f.settle()
		f.want(t, "next", Pending, want)
		f.wantTold(t, "deira/1", "1 baseline 1000000") // what waits governs nobody
	}
	f := newFleet("deira/1")
	f.apply("v9", spec("9"))
	f.decide()
	f.Models[0].GetModel().Status.Versions[0].Version = "9"
	f.settle()
	f.want(t, "v9", Complete)
}

func TestFailureRollsBack(t *testing.T) {
	f := newFleet("deira/1", "deira/2", "rotterdam/1")
	f.apply("v1", spec("1"))
	f.settle()
	f.bad["sha256:2@deira/2"] = true
	f.apply("v2", spec("2"))
	f.decide()
	f.wantTold(t, "rotterdam/1", "2 candidate 1000000")
	f.node("rotterdam/1").Connected = false
	f.actAll()
	f.decide()
	f.want(t, "v2", RollingBack, "node deira/2 failed: golden-mismatch (0.1 is not 0.9)", "0 of 3 nodes back (1 offline)")
	for _, n := range []string{"deira/1", "deira/2", "rotterdam/1"} {
		f.wantTold(t, n, "1 baseline 1000000")
	}
	f.act(f.node("deira/1"))
	f.decide()
	f.want(t, "v2", RollingBack, "1 of 3 nodes back")
	f.settle()
	f.want(t, "v2", RolledBack, "node deira/2 failed: golden-mismatch", "2 of 3 nodes (1 offline)")
	f.want(t, "v1", Complete, "all 3 nodes")
	f.node("rotterdam/1").Connected = true
	f.settle()
	f.want(t, "v2", RolledBack, "all 3 nodes")
	if s := f.status(t, "v2"); s.GetFailed() != 1 {
		t.Errorf("the failure is forgotten: %v", s)
	}

	// It stays so until the retry counter rises.
	delete(f.bad, "sha256:2@deira/2")
	f.settle()
	f.want(t, "v2", RolledBack)
	f.apply("v2", spec("2", retry(1)))
	f.settle()
	f.want(t, "v2", Complete)
	f.want(t, "v1", Superseded, "was complete; superseded by rollout v2 (version 2)")
}

func TestRememberedFailureCountsOnlyWithItsRetry(t *testing.T) {
	f := newFleet("deira/1")
	n := f.node("deira/1")
	f.apply("v2", spec("2", retry(1)))
	f.decide()
	n.Report = &syncv1.ReportRequest{Copies: []*syncv1.CopyStatus{{Model: "m", Version: "2", ManifestDigest: "sha256:2", State: syncv1.CopyState_COPY_STATE_FAILED}}}
	f.decide()
	f.want(t, "v2", Progressing)
	n.Report.Copies[0].Retry = 1
	f.decide()
	f.want(t, "v2", RollingBack, "no reason was given")
}

func TestStatesThatAreNotTheNodesFault(t *testing.T) {
	f := newFleet("deira/1", "deira/2")
	f.apply("v1", spec("1"))
	f.decide()
	f.node("deira/2").Connected = false
	for _, state := range []syncv1.CopyState{0, 1, 2, 3, 4, 5, 7} {
		for i := range f.Nodes {
			f.Nodes[i].Report = &syncv1.ReportRequest{Copies: []*syncv1.CopyStatus{{Model: "m", Version: "1", ManifestDigest: "sha256:1", State: state}}}
		}
		f.decide()
		f.want(t, "v1", Progressing, "0 of 2 nodes serve m version 1, 2 on the way (1 offline)")
		if s := f.status(t, "v1"); s.GetWaiting() != 2 {
			t.Errorf("in state %s the status is %v", state, s)
		}
	}
}

func TestFirstVersionThatFailsLeavesNothing(t *testing.T) {
	f := newFleet("deira/1")
	f.bad["sha256:1"] = true
	f.apply("v1", spec("1"))
	f.settle()
	f.want(t, "v1", RolledBack)
	f.wantTold(t, "deira/1")
}

func TestHoldKeepsNodesAsTheyAre(t *testing.T) {
	f := newFleet("deira/1", "deira/2")
	f.apply("v1", spec("1"))
	f.settle()
	f.bad["sha256:2@deira/2"] = true
	f.apply("v2", spec("2", holding))
	f.settle()
	f.want(t, "v2", Held, "node deira/2 failed: golden-mismatch", "held: 1 of 2 nodes serves m version 2, 1 failed")
	f.join("marina/1")
	f.settle()
	f.wantTold(t, "deira/1", "2 candidate 1000000")
	f.wantTold(t, "deira/2", "2 candidate 1000000")
	f.wantTold(t, "marina/1", "1 baseline 1000000")
	f.apply("v2", spec("2", holding, retry(1)))
	delete(f.bad, "sha256:2@deira/2")
	f.settle()
	f.want(t, "v2", Complete)
}

func TestShareLeavesTheRestToTheBaseline(t *testing.T) {
	f := newFleet("deira/1")
	f.apply("v1", spec("1"))
	f.settle()
	f.apply("v2", spec("2", taking("10%")))
	f.settle()
	f.want(t, "v2", Complete, "to 10% of requests")
	f.wantTold(t, "deira/1", "1 baseline 900000", "2 candidate 100000")

	// A share is no ground to go back to: what took all requests is.
	f.bad["sha256:3"] = true
	f.apply("v3", spec("3", taking("50%")))
	f.decide()
	f.wantTold(t, "deira/1", "1 baseline 500000", "3 candidate 500000")
	f.settle()
	f.want(t, "v3", RolledBack)
	f.wantTold(t, "deira/1", "1 baseline 1000000")

	// With nothing before it, a share is all.
	f.join("rotterdam/1")
	f.delete("v3")
	f.delete("v1")
	f.settle()
	f.wantTold(t, "rotterdam/1", "2 baseline 1000000")
}

func TestEditedRolloutGoesBackToWhatItWas(t *testing.T) {
	f := newFleet("deira/1")
	f.bad["sha256:2"] = true
	f.apply("fashion", spec("1"))
	f.settle()
	f.apply("fashion", spec("2"))
	f.settle()
	f.want(t, "fashion", RolledBack)
	f.wantTold(t, "deira/1", "1 baseline 1000000")
	f.apply("fashion", spec("1"))
	f.settle()
	f.want(t, "fashion", Complete)
	f.wantTold(t, "deira/1", "1 baseline 1000000")
}

func TestDeletingReturnsToThePreviousOrNone(t *testing.T) {
	f := newFleet("deira/1")
	f.apply("v1", spec("1"))
	f.settle()
	f.apply("v2", spec("2"))
	f.settle()
	f.delete("v2")
	f.settle()
	f.want(t, "v1", Complete)
	f.wantTold(t, "deira/1", "1 baseline 1000000")
	f.delete("v1")
	f.settle()
	f.wantTold(t, "deira/1")
}

func TestNewerRolloutSupersedes(t *testing.T) {
	f := newFleet("deira/1", "rotterdam/1")
	f.apply("v1", spec("1"))
	f.decide()
	f.apply("v2", spec("2"))
	f.decide()
	f.want(t, "v1", Superseded, "superseded by rollout v2 (version 2) before it was complete")
	f.delete("v2")
	f.settle()
	f.want(t, "v1", Superseded) // it never resumes by itself
	f.wantTold(t, "deira/1")

	f.apply("v1", spec("1", retry(1)))
	f.settle()
	f.apply("dubai", spec("3", in("dubai", "")))
	f.settle()
	f.want(t, "v1", Complete, "1 of 1 node")
	f.want(t, "dubai", Complete, "1 of 1 node")
	f.wantTold(t, "deira/1", "3 baseline 1000000")
	f.wantTold(t, "rotterdam/1", "1 baseline 1000000")
	f.apply("deira", spec("2", in("", "deira")))
	f.settle()
	f.want(t, "dubai", Complete, "was complete with m version 3; the only node that it selects follows rollout deira")
	f.apply("dubai2", spec("1", in("dubai", "")))
	f.settle()
	f.want(t, "deira", Superseded)
	f.want(t, "dubai", Superseded)
}

func TestOnlyActiveNodesAreTold(t *testing.T) {
	f := newFleet("deira/1")
	f.Nodes[0].Active = false
	f.apply("v1", spec("1"))
	p := f.decide()
	f.want(t, "v1", Progressing, "no active node is selected yet")
	if len(p.Copies) != 0 {
		t.Errorf("an inactive node is told %v", p.Copies)
	}
}

func TestWhatNodesSayIsCutToALine(t *testing.T) {
	got := clean("a\x1b[31m\nb" + strings.Repeat("é", 400))
	if strings.ContainsAny(got, "\x1b\n") || len([]rune(got)) > 303 {
		t.Errorf("%q", got)
	}
}

// TestFailureBeforeAnythingWasCompleteKeepsWhatServes: version 1 answers requests on a node that had no time to tell so
// before version 2 was declared. That version 2 fails takes nothing from the node.
func TestFailureBeforeAnythingWasCompleteKeepsWhatServes(t *testing.T) {
	f := newFleet("deira/1", "deira/2")
	f.apply("v1", spec("1"))
	f.decide()
	f.bad["sha256:2"] = true
	f.apply("v2", spec("2"))
	f.decide()
	f.want(t, "v1", Superseded)
	f.actAll()
	n := f.node("deira/1")
	n.Report.Copies = append(n.Report.Copies, &syncv1.CopyStatus{Model: "m", Version: "1", ManifestDigest: "sha256:1", State: syncv1.CopyState_COPY_STATE_SERVING})
	f.decide()
	f.want(t, "v2", RollingBack)
	f.wantTold(t, "deira/1", "1 baseline 1000000")
	f.wantTold(t, "deira/2") // it never served version 1, and an abandoned rollout starts no further node
	f.settle()
	f.want(t, "v2", RolledBack)
	f.wantTold(t, "deira/1", "1 baseline 1000000")
}

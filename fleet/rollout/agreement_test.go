package rollout

import (
	"fmt"
	"strings"

	"pgregory.net/rapid"

	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"

	"github.com/dhowfleet/dhow/fleet/resource"
)

// agrees checks that statuses say what nodes are told. It knows nothing of how either was decided: after is what is
// stored now, with the statuses, and releases are those from before and from now.
func agrees(t *rapid.T, after Snapshot, releases []Release, p Plan) {
	releases = append(releases[:len(releases):len(releases)], p.Completed...)
	seen := map[string]*sight{}
	for _, r := range after.Rollouts {
		seen[r.GetMetadata().GetName()] = &sight{Resource: r, versions: map[string]bool{}}
	}
	for _, n := range after.Nodes {
		if !n.Active {
			continue
		}
		governor := Governing(after.Rollouts, "m", n.Region, n.Site)
		copies := p.Copies[n.ID]
		if governor == nil {
			if len(copies) != 0 {
				t.Fatalf("nobody governs node %s, yet it is told %v", n.Name, copies)
			}
			continue
		}
		for _, s := range seen {
			s.look(t, n, s.Resource == governor, copies)
		}
	}
	for name, s := range seen {
		s.compare(t, name, releases)
	}
}

// sight is what an onlooker sees of a rollout at the nodes.
type sight struct {
	*fleetv1.Resource
	selected, governed, all, rest, bare uint32
	versions                            map[string]bool // that governed nodes are left with
}

func (s *sight) look(t *rapid.T, n Node, governs bool, copies []*syncv1.DesiredCopy) {
	spec, status := s.GetRollout().GetSpec(), s.GetRollout().GetStatus()
	if in := selector(spec); status.GetPhase() == Pending || !selects(in.GetRegion(), in.GetSite(), &n) {
		return
	}
	s.selected++
	if governs {
		s.governed++
	}
	var mine *syncv1.DesiredCopy
	for _, c := range copies {
		if c.GetRollout() == s.GetMetadata().GetName() && c.GetManifestDigest() == status.GetManifestDigest() {
			mine = c
		}
	}
	switch phase := status.GetPhase(); {
	case governs && (phase == RollingBack || phase == RolledBack):
		if len(copies) == 0 {
			s.bare++
		}
		for _, c := range copies {
			s.versions[c.GetVersion()] = true
		}
	case governs && (phase == Progressing || phase == Complete) && mine == nil:
		t.Fatalf("rollout %s governs node %s and is %s, yet the node is told %v", s.GetMetadata().GetName(), n.Name, phase, copies)
	case mine == nil:
	case phase == Held && governs && mine.GetRole() != syncv1.Role_ROLE_CANDIDATE:
		// It is left with the same content from before.
	case mine.GetTrafficMillionths() < resource.All && !governs:
		s.rest++
	case mine.GetTrafficMillionths() == resource.All && (status.GetStage() == 1 || governs):
		if share := spec.GetStages()[0].GetTraffic(); share != "" && share != "100%" {
			s.all++
		}
	}
}

func (s *sight) compare(t *rapid.T, name string, releases []Release) {
	status := s.GetRollout().GetStatus()
	message := status.GetMessage()
	want := func(when bool, part string) {
		t.Helper()
		if when != strings.Contains(message, part) {
			t.Fatalf("rollout %s is %v; that it says %q must be %v", name, status, part, when)
		}
	}
	if status.GetPhase() == Pending {
		if status.GetNodes()+status.GetOvertaken()+status.GetTakingAll() != 0 {
			t.Fatalf("rollout %s is pending and counts nodes: %v", name, status)
		}
		return
	}
	if status.GetNodes()+status.GetOvertaken() != s.selected || status.GetNodes() < s.governed {
		t.Fatalf("rollout %s selects %d nodes and governs %d: %v", name, s.selected, s.governed, status)
	}
	// What it was before its spec changed lives on as releases of its name, which these counts are not about.
	once := true
	for _, r := range releases {
		once = once && (r.Rollout != name || r.Sequence == status.GetSequence())
	}
	if once && status.GetTakingAll() != s.all {
		t.Fatalf("rollout %s is told to take all requests at %d nodes, and says %v", name, s.all, status)
	}
	want(status.GetTakingAll() > 0, "nothing else serves there")
	switch status.GetPhase() {
	case RollingBack, RolledBack:
		_, back, _ := strings.Cut(message, between)
		for v := range s.versions {
			if !strings.Contains(back, fmt.Sprintf("m version %s", v)) {
				t.Fatalf("rollout %s leaves nodes with version %s, and says %v", name, v, status)
			}
		}
		want(s.bare > 0, "requests for m")
	case Progressing, Complete:
		want(status.GetOvertaken() > 0, "follow")
	}
	if once && status.GetStage() == 1 && status.GetPhase() != RollingBack {
		want(s.rest > 0, "still takes the rest")
	}
}

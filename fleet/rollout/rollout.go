// Package rollout decides which copies of models each node should hold, and how each rollout stands.
//
// Decide is a function of a picture of the fleet: the declared rollouts with the statuses that were stored last, the
// models' versions, the nodes with what they were told and what they reported, and the releases, which are the rollouts
// that once were complete. It returns the copies for every active node, the new statuses, and new releases. It keeps
// nothing, so that a manager that died at any point decides the same again from what is stored.
//
// # Which rollout governs a node
//
// Rollouts of a model are ordered by their sequence, the moment at which their spec was last changed. The newest that
// selects a node governs it; one that cannot begin (Pending) governs nobody. What governs and neither failed nor was
// overtaken gives the node its version, as candidate until the rollout is complete and as baseline from then on. With a
// share below all, the rest goes to the base: the newest release from before this rollout that selects the node too.
// A rollout that failed leaves the node with the base alone, or with nothing where nothing was complete before.
//
// # Shares, and what is gone back to
//
// A share is kept only where there is a base to take the rest. Where nothing else was complete, the version takes all
// requests: an operator who asks for 10 % wants a trial beside what serves, not nine of ten requests refused at a branch
// where nothing serves yet. The status says so and counts these nodes. The share begins to hold by itself as soon as an
// older rollout becomes complete there, and ends to hold when the last one is deleted.
//
// A share is a trial and no ground to go back to: among releases the newest that took all requests is the base, even
// though a trial became complete after it. Only where there is none, the newest trial is, and then takes all. So after a
// failure requests go to one version that was trusted with all of them, and the status names it, or says that there is
// none and that requests are refused.
//
// # Phases
//
//	Pending      something it names is not there (yet), the sentence says what
//	Progressing  nodes are on their way
//	Complete     at one moment every node that it governs served it. It stays so: nodes that join later or fail later
//	             get it and undo nothing; the counts and the sentence tell how many of all serve it now
//	RollingBack  a node reported its copy as failed; nodes are going back
//	RolledBack   every node that can be reached is back
//	Held         a node failed and onFailure is "hold": nodes keep what they have, no further node begins
//	Superseded   a newer rollout governs all nodes that this one selects; one that was not complete never resumes.
//	             It may still be what takes the rest of requests, or what nodes were left with: the sentence says so
//
// Selected nodes that a newer rollout governs are no part of a rollout's counts, but for those that came back to it;
// they are counted apart, and the sentence names whom they follow.
//
// Failed phases end when the spec changes, by another version or a higher retry. Only a copy reported as failed with
// the rollout's digest and retry counter is a failure. Being offline, waiting or downloading never is.
package rollout

import (
	"cmp"
	"slices"
	"time"

	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"

	"github.com/dhowfleet/dhow/fleet/resource"
)

// Phases of a rollout.
const (
	Pending     = "Pending"
	Progressing = "Progressing"
	Complete    = "Complete"
	RollingBack = "RollingBack"
	RolledBack  = "RolledBack"
	Held        = "Held"
	Superseded  = "Superseded"
)

// Hold is the value of onFailure that keeps nodes as they are.
const Hold = "hold"

// Node is a node as far as rollouts care.
type Node struct {
	ID, Name, Region, Site string
	// Active is false while a node waits for approval and after it was revoked: then it is told nothing.
	Active    bool
	Connected bool
	// Told are the copies that the node was told to hold last, under Generation.
	Told       []*syncv1.DesiredCopy
	Generation uint64
	Report     *syncv1.ReportRequest
}

// Release is a rollout that was complete.
type Release struct {
	Rollout                string
	Sequence               uint64
	Model, Version, Digest string
	Region, Site           string
	Millionths             uint32
	Retry                  uint32
	CompletedAt            time.Time
}

// Snapshot is the picture that is decided upon.
type Snapshot struct {
	// Rollouts, Models, Regions and Sites are the declared resources of these kinds.
	Rollouts, Models, Regions, Sites []*fleetv1.Resource
	Nodes                            []Node
	Releases                         []Release
	Now                              time.Time
}

// Plan is what was decided.
type Plan struct {
	// Copies are those of each active node by its id, in a fixed order; nil for a node that should hold nothing.
	Copies map[string][]*syncv1.DesiredCopy
	// Statuses are those of all rollouts by name.
	Statuses map[string]*fleetv1.RolloutStatus
	// Completed are the rollouts that became complete now.
	Completed []Release
}

// plan is a rollout on its way through Decide.
type plan struct {
	name         string
	spec         *fleetv1.RolloutSpec
	was          *fleetv1.RolloutStatus // as stored; empty when it is about an older spec
	generation   uint64
	sequence     uint64
	region, site string
	millionths   uint32
	digest       string
	phase        string
	message      string
	complete     bool
	nodes        []*Node // those that it governs
	newer        *plan   // governs all nodes that it selects
	count        tally   // of what nodes report
	told         orders  // of what nodes are told
}

type decision struct {
	Snapshot
	byModel  map[string][]*plan   // newest first
	byName   map[string]*plan     //
	releases map[string][]Release // by model, newest first
	regionOf map[string]string    // of a site
	groups   map[group]uint32     // nodes
}

// Decide decides. It changes nothing of what it is given.
func Decide(s Snapshot) Plan {
	d := &decision{Snapshot: s, byModel: map[string][]*plan{}, byName: map[string]*plan{}, releases: map[string][]Release{}, regionOf: map[string]string{},
		groups: map[group]uint32{}}
	for _, site := range s.Sites {
		d.regionOf[site.GetMetadata().GetName()] = site.GetSite().GetSpec().GetRegion()
	}
	d.readReleases(s.Releases)
	d.readRollouts()
	out := Plan{Copies: map[string][]*syncv1.DesiredCopy{}, Statuses: map[string]*fleetv1.RolloutStatus{}}

	// Who governs whom depends on what was declared only. Phases follow from what the governed report, and copies from
	// the phases: so a failure that is seen now starts no further node.
	for i := range d.Nodes {
		if n := &d.Nodes[i]; n.Active {
			for _, plans := range d.byModel {
				if p := governing(plans, n); p != nil {
					p.nodes = append(p.nodes, n)
				}
			}
		}
	}
	for _, plans := range d.byModel {
		for _, p := range plans { // newest first
			if release, done := d.decidePhase(p); done {
				out.Completed = append(out.Completed, release)
			}
			d.handBack(p)
		}
	}
	d.readReleases(out.Completed) // what is complete now is a base from now on
	// Sentences come last and count what was told, so that a status says what the desired states say.
	for i := range d.Nodes {
		if n := &d.Nodes[i]; n.Active {
			out.Copies[n.ID] = d.copies(n)
		}
	}
	d.follow()
	for name, p := range d.byName {
		out.Statuses[name] = d.status(p)
	}
	slices.SortFunc(out.Completed, func(a, b Release) int { return cmp.Compare(a.Sequence, b.Sequence) })
	return out
}

func (d *decision) readReleases(releases []Release) {
	for _, r := range releases {
		d.releases[r.Model] = append(d.releases[r.Model], r)
	}
	for _, rs := range d.releases {
		slices.SortFunc(rs, func(a, b Release) int {
			return cmp.Or(cmp.Compare(b.Sequence, a.Sequence), cmp.Compare(a.Rollout, b.Rollout))
		})
	}
}

func (d *decision) readRollouts() {
	for _, r := range d.Rollouts {
		spec, status := r.GetRollout().GetSpec(), r.GetRollout().GetStatus()
		p := &plan{name: r.GetMetadata().GetName(), spec: spec, generation: r.GetMetadata().GetGeneration(), sequence: status.GetSequence(), was: status}
		if status.GetObservedGeneration() != p.generation {
			p.was = &fleetv1.RolloutStatus{}
		}
		p.phase, p.digest = p.was.GetPhase(), p.was.GetManifestDigest()
		p.complete = slices.ContainsFunc(d.releases[spec.GetModel()], func(r Release) bool { return r.Rollout == p.name && r.Sequence == p.sequence })
		p.millionths = resource.All
		if problem := d.begin(p); problem != "" {
			p.phase, p.message = Pending, problem
		}
		d.byName[p.name] = p
		d.byModel[spec.GetModel()] = append(d.byModel[spec.GetModel()], p)
	}
	for _, plans := range d.byModel {
		slices.SortFunc(plans, func(a, b *plan) int {
			return cmp.Or(cmp.Compare(b.sequence, a.sequence), cmp.Compare(a.name, b.name))
		})
	}
}

// governing returns the newest rollout that selects the node and could begin.
func governing(plans []*plan, n *Node) *plan {
	for _, p := range plans {
		if p.phase != Pending && selects(p.region, p.site, n) {
			return p
		}
	}
	return nil
}

func selects(region, site string, n *Node) bool {
	return (region == "" || region == n.Region) && (site == "" || site == n.Site)
}

// handBack counts the nodes that p governs but does not hold among those of the rollout that they fall back to, which
// is older and decided later.
func (d *decision) handBack(p *plan) {
	for _, n := range p.nodes {
		if p.holds(n) {
			continue
		}
		if base, ok := d.base(p, n); ok {
			if older := d.rolloutOf(base); older != nil {
				older.nodes = append(older.nodes, n)
			}
		}
	}
}

// covers tells whether p selects every node that other could select.
func (d *decision) covers(p, other *plan) bool {
	if p.site != "" && p.site != other.site {
		return false
	}
	return p.region == "" || p.region == other.region || other.site != "" && d.regionOf[other.site] == p.region
}

// Governing returns the rollout of a model that governs the nodes of a place, by the statuses that were decided last, or
// nil. It is for those who look at a fleet from outside; a rollout that was not decided upon yet governs nobody.
func Governing(rollouts []*fleetv1.Resource, model, region, site string) *fleetv1.Resource {
	place := Node{Region: region, Site: site}
	var newest *fleetv1.Resource
	for _, r := range rollouts {
		spec, status := r.GetRollout().GetSpec(), r.GetRollout().GetStatus()
		if spec.GetModel() != model || status.GetPhase() == "" || status.GetPhase() == Pending || status.GetObservedGeneration() != r.GetMetadata().GetGeneration() {
			continue
		}
		in := selector(spec)
		if !selects(in.GetRegion(), in.GetSite(), &place) {
			continue
		}
		if newest == nil || status.GetSequence() > newest.GetRollout().GetStatus().GetSequence() ||
			status.GetSequence() == newest.GetRollout().GetStatus().GetSequence() && r.GetMetadata().GetName() < newest.GetMetadata().GetName() {
			newest = r
		}
	}
	return newest
}

// selector returns what the one stage of a rollout selects; nil selects all.
func selector(spec *fleetv1.RolloutSpec) *fleetv1.StageSelector {
	if stages := spec.GetStages(); len(stages) > 0 {
		return stages[0].GetSelect()
	}
	return nil
}

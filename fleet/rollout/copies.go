package rollout

import (
	"cmp"
	"slices"

	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"

	"github.com/dhowfleet/dhow/fleet/resource"
)

// orders counts what nodes are told about a rollout: of those that it governs, and of those that a newer one governs and
// that hold its copy nevertheless.
type orders struct {
	selected  uint32            // active nodes that it selects
	following []string          // the newer rollouts that govern such nodes and did not hand them back
	all       uint32            // send it all requests, though its share is less
	rest      uint32            // send it what the share of a newer rollout leaves
	kept      uint32            // go on with it, though it was superseded before it was complete
	goBack    map[string]uint32 // do without it, by the version that they are left with
	bare      uint32            // do without it and have nothing else
}

// base returns what a node falls back to, or shares its requests with: the newest release from before p that took all
// requests, or where there is none the newest that took a share.
func (d *decision) base(p *plan, n *Node) (Release, bool) {
	var partial *Release
	releases := d.releases[p.spec.GetModel()]
	for i := range releases {
		r := &releases[i]
		if r.Sequence >= p.sequence || !selects(r.Region, r.Site, n) || !d.stands(r, n) {
			continue
		}
		if r.Millionths == resource.All {
			return *r, true
		}
		if partial == nil {
			partial = r
		}
	}
	if partial != nil {
		return *partial, true
	}
	return Release{}, false
}

// stands tells whether the rollout that a release was of is still declared for this model and this node. Deleting a
// rollout, or pointing it at other nodes, takes its releases from the nodes too.
func (d *decision) stands(r *Release, n *Node) bool {
	p := d.byName[r.Rollout]
	return p != nil && p.spec.GetModel() == r.Model && selects(p.region, p.site, n)
}

// kept returns the copy of a rollout that p superseded before it was complete, if that copy is what the node serves.
// Where nothing was complete before, a failed successor must not take from a node what answers its requests.
func (d *decision) kept(p *plan, n *Node) (*plan, *syncv1.DesiredCopy) {
	for _, older := range d.byModel[p.spec.GetModel()] {
		if older.sequence >= p.sequence || older.phase != Superseded || older.digest == p.digest || !selects(older.region, older.site, n) {
			continue
		}
		c := reported(n, older.spec.GetModel(), older.spec.GetVersion(), older.digest)
		if c.GetState() == syncv1.CopyState_COPY_STATE_SERVING {
			return older, &syncv1.DesiredCopy{Model: c.GetModel(), Version: c.GetVersion(), ManifestDigest: c.GetManifestDigest(),
				Role: syncv1.Role_ROLE_BASELINE, TrafficMillionths: resource.All, Retry: older.spec.GetRetry(), Rollout: older.name}
		}
	}
	return nil, nil
}

// rolloutOf returns the rollout that a release was of, or nil if its spec has changed since.
func (d *decision) rolloutOf(r Release) *plan {
	if p := d.byName[r.Rollout]; p != nil && p.sequence == r.Sequence {
		return p
	}
	return nil
}

// copies returns what a node should hold, ordered by model and version, and counts it in the plans.
func (d *decision) copies(n *Node) []*syncv1.DesiredCopy {
	var out []*syncv1.DesiredCopy
	for _, plans := range d.byModel {
		p := governing(plans, n)
		if p == nil {
			continue
		}
		base, hasBase := d.base(p, n)
		var back *plan // the rollout whose node it is again
		mine := &syncv1.DesiredCopy{Model: p.spec.GetModel(), Version: p.spec.GetVersion(), ManifestDigest: p.digest, Rollout: p.name,
			Role: syncv1.Role_ROLE_CANDIDATE, TrafficMillionths: resource.All, Retry: p.spec.GetRetry()}
		switch holds := p.holds(n); {
		case !holds && hasBase:
			out = append(out, baseCopy(base, resource.All))
			p.told.left(base.Version)
			if back = d.rolloutOf(base); back != nil && back.millionths < resource.All {
				back.told.all++
			}
		case !holds:
			older, kept := d.kept(p, n)
			if kept == nil {
				p.told.bare++
				break
			}
			out = append(out, kept)
			p.told.left(kept.GetVersion())
			older.told.kept++
		case hasBase && p.millionths < resource.All && base.Digest != p.digest:
			mine.TrafficMillionths = p.millionths
			out = append(out, baseCopy(base, resource.All-p.millionths), mine)
			if older := d.rolloutOf(base); older != nil {
				older.told.rest++
			}
		default:
			if p.complete {
				mine.Role = syncv1.Role_ROLE_BASELINE
			}
			out = append(out, mine)
			if p.millionths < resource.All {
				p.told.all++
			}
		}
		d.groups[group{p, back, n.Region, n.Site}]++
	}
	slices.SortFunc(out, func(a, b *syncv1.DesiredCopy) int {
		return cmp.Or(cmp.Compare(a.GetModel(), b.GetModel()), cmp.Compare(a.GetVersion(), b.GetVersion()))
	})
	return out
}

// group is nodes that are alike for all rollouts of a model: one governs them, and back, unless nil, has them again.
type group struct {
	governor, back *plan
	region, site   string
}

// follow counts each group in the plans that select it.
func (d *decision) follow() {
	for g, nodes := range d.groups {
		for _, p := range d.byModel[g.governor.spec.GetModel()] {
			if p.phase == Pending || !selects(p.region, p.site, &Node{Region: g.region, Site: g.site}) {
				continue
			}
			p.told.selected += nodes
			if p != g.governor && p != g.back && !slices.Contains(p.told.following, g.governor.name) {
				p.told.following = append(p.told.following, g.governor.name)
			}
		}
	}
}

func (o *orders) left(version string) {
	if o.goBack == nil {
		o.goBack = map[string]uint32{}
	}
	o.goBack[version]++
}

// overtaken counts the active nodes that p selects and that are not its own.
func (p *plan) overtaken() uint32 { return p.told.selected - p.count.nodes }

// holds tells whether a node that p governs should have its copy.
func (p *plan) holds(n *Node) bool {
	switch p.phase {
	case Progressing, Complete:
		return true
	case Held:
		return slices.ContainsFunc(n.Told, func(c *syncv1.DesiredCopy) bool {
			return c.GetRollout() == p.name && c.GetManifestDigest() == p.digest && c.GetRole() == syncv1.Role_ROLE_CANDIDATE && c.GetRetry() == p.spec.GetRetry()
		})
	}
	return false
}

func baseCopy(r Release, millionths uint32) *syncv1.DesiredCopy {
	return &syncv1.DesiredCopy{Model: r.Model, Version: r.Version, ManifestDigest: r.Digest, Role: syncv1.Role_ROLE_BASELINE,
		TrafficMillionths: millionths, Retry: r.Retry, Rollout: r.Rollout}
}

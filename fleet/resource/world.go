package resource

import (
	"fmt"
	"strings"

	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
)

// World is what exists, as far as resources refer to each other. It is a value of the caller's: build it from a
// snapshot, change it as an apply would, and ask it whether every reference holds. It is not safe for concurrent use.
type World struct {
	byKind map[string]map[string]*fleetv1.Resource
}

// NewWorld returns a world of the given resources.
func NewWorld(resources ...*fleetv1.Resource) *World {
	w := &World{byKind: map[string]map[string]*fleetv1.Resource{}}
	for _, r := range resources {
		w.Put(r)
	}
	return w
}

// Get returns a resource, or nil.
func (w *World) Get(kind, name string) *fleetv1.Resource { return w.byKind[kind][name] }

// Put adds or replaces a resource.
func (w *World) Put(r *fleetv1.Resource) {
	if w.byKind[r.GetKind()] == nil {
		w.byKind[r.GetKind()] = map[string]*fleetv1.Resource{}
	}
	w.byKind[r.GetKind()][r.GetMetadata().GetName()] = r
}

// Remove takes a resource away; it need not exist.
func (w *World) Remove(kind, name string) { delete(w.byKind[kind], name) }

// Names returns the names of a kind, sorted.
func (w *World) Names(kind string) []string { return sortedKeys(w.byKind[kind]) }

// Check returns what r refers to and does not exist. r need not be in the world.
func (w *World) Check(r *fleetv1.Resource) []Problem {
	var p problems
	switch body := r.GetBody().(type) {
	case *fleetv1.Resource_Site:
		region := body.Site.GetSpec().GetRegion()
		w.exists(&p, "spec.region", KindRegion, region)
		// A node's certificate names its region, so a site cannot be moved from under its nodes.
		if n, first := w.nodes(r.GetMetadata().GetName(), func(nodeRegion string) bool { return nodeRegion != region }); n > 0 {
			p.add("spec.region", "%s of this site %s enrolled in region %s: revoke what should move and enrol it again", counted(n, "node"), plural(n, "is", "are"), first.GetNode().GetStatus().GetRegion())
		}
	case *fleetv1.Resource_Rollout:
		w.rollout(&p, body.Rollout.GetSpec())
	}
	return p
}

func (w *World) rollout(p *problems, s *fleetv1.RolloutSpec) {
	if w.exists(p, "spec.model", KindModel, s.GetModel()) {
		var versions []string
		found := false
		for _, v := range w.Get(KindModel, s.GetModel()).GetModel().GetStatus().GetVersions() {
			found = found || v.GetVersion() == s.GetVersion()
			versions = append(versions, v.GetVersion())
		}
		switch {
		case found:
		case len(versions) == 0:
			p.add("spec.version", "no version of the model %s has been pushed yet: push one with dhow model push", s.GetModel())
		default:
			p.add("spec.version", "the model %s has no version %q: pushed are %s", s.GetModel(), s.GetVersion(), listed(versions))
		}
	}
	for i, stage := range s.GetStages() {
		w.place(p, fmt.Sprintf("spec.stages[%d].select", i), stage.GetSelect().GetRegion(), stage.GetSelect().GetSite())
	}
}

// CheckPlace returns what is wrong with a region and a site of it; an empty name is not looked at.
func (w *World) CheckPlace(region, site string) []Problem {
	var p problems
	w.place(&p, "", region, site)
	return p
}

func (w *World) place(p *problems, path, region, site string) {
	at := func(field string) string { return strings.TrimPrefix(path+"."+field, ".") }
	if region != "" {
		w.exists(p, at("region"), KindRegion, region)
	}
	if site == "" || !w.exists(p, at("site"), KindSite, site) {
		return
	}
	if in := w.Get(KindSite, site).GetSite().GetSpec().GetRegion(); region != "" && in != region {
		p.add(at("site"), "the site %s is in the region %s, not in %s", site, in, region)
	}
}

func (w *World) exists(p *problems, path, kind, name string) bool {
	if w.Get(kind, name) != nil {
		return true
	}
	what := strings.ToLower(kind)
	names := w.Names(kind)
	switch near := nearest(name, names); {
	case near != "":
		p.add(path, "there is no %s %q: did you mean %s?", what, clip(name), near)
	case len(names) == 0:
		p.add(path, "there is no %s %q, nor any other yet", what, clip(name))
	default:
		p.add(path, "there is no %s %q: there are %s", what, clip(name), listed(names))
	}
	return false
}

// Referrers says in words what refers to a resource, such as "2 nodes (deira-1, deira-2)"; empty when nothing does and
// it may be deleted.
func (w *World) Referrers(kind, name string) string {
	var by []string
	add := func(kind, what string, match func(*fleetv1.Resource) bool) {
		var names []string
		for _, n := range w.Names(kind) {
			if match(w.Get(kind, n)) {
				names = append(names, n)
			}
		}
		if len(names) > 0 {
			by = append(by, fmt.Sprintf("%s (%s)", counted(len(names), what), listed(names)))
		}
	}
	switch kind {
	case KindRegion:
		add(KindSite, "site", func(r *fleetv1.Resource) bool { return r.GetSite().GetSpec().GetRegion() == name })
		add(KindRollout, "rollout", func(r *fleetv1.Resource) bool {
			return selects(r, func(s *fleetv1.StageSelector) bool { return s.GetRegion() == name })
		})
		add(KindNode, "node", func(r *fleetv1.Resource) bool { return enrolled(r) && Region(r) == name })
	case KindSite:
		add(KindNode, "node", func(r *fleetv1.Resource) bool { return enrolled(r) && r.GetNode().GetStatus().GetSite() == name })
		add(KindRollout, "rollout", func(r *fleetv1.Resource) bool {
			return selects(r, func(s *fleetv1.StageSelector) bool { return s.GetSite() == name })
		})
	case KindModel:
		add(KindRollout, "rollout", func(r *fleetv1.Resource) bool { return r.GetRollout().GetSpec().GetModel() == name })
	}
	return strings.Join(by, " and ")
}

func (w *World) nodes(site string, match func(region string) bool) (n int, first *fleetv1.Resource) {
	for _, name := range w.Names(KindNode) {
		r := w.Get(KindNode, name)
		if enrolled(r) && r.GetNode().GetStatus().GetSite() == site && match(Region(r)) {
			if n == 0 {
				first = r
			}
			n++
		}
	}
	return n, first
}

// enrolled is false for a revoked node: it is kept to be seen, and holds on to nothing.
func enrolled(r *fleetv1.Resource) bool { return r.GetNode().GetStatus().GetState() != "Revoked" }

func selects(r *fleetv1.Resource, match func(*fleetv1.StageSelector) bool) bool {
	for _, s := range r.GetRollout().GetSpec().GetStages() {
		if match(s.GetSelect()) {
			return true
		}
	}
	return false
}

func counted(n int, what string) string {
	return fmt.Sprintf("%d %s", n, plural(n, what, what+"s"))
}

func plural(n int, one, more string) string {
	if n == 1 {
		return one
	}
	return more
}

// listed names the first few of many.
func listed(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

package control

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/dhowfleet/dhow/fleet/rollout"
	"github.com/dhowfleet/dhow/fleet/store"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

// told is what a node was told last.
type told struct {
	generation uint64
	state      *syncv1.DesiredState
}

// picture is the fleet as the store had it at version.
type picture struct {
	version   uint64
	resources map[store.Key]*fleetv1.Resource
	told      map[string]told // by node id
	releases  []rollout.Release
	fresh     bool // nothing was decided upon it yet
}

func read(ctx context.Context, s Store) (*picture, error) {
	p := &picture{resources: map[store.Key]*fleetv1.Resource{}, told: map[string]told{}, fresh: true}
	all, version, err := s.List(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("cannot read the fleet: %w", err)
	}
	p.version = version
	for _, r := range all {
		p.resources[store.Key{Kind: r.GetKind(), Name: r.GetMetadata().GetName()}] = r
	}
	desired, err := s.AllDesired(ctx)
	if err != nil {
		return nil, err
	}
	for id, d := range desired {
		state := &syncv1.DesiredState{}
		if err := proto.Unmarshal(d.State, state); err != nil {
			return nil, fmt.Errorf("the desired state of node %s cannot be read: %w", id, err)
		}
		p.told[id] = told{generation: d.Generation, state: state}
	}
	return p, p.readReleases(ctx, s)
}

func (p *picture) readReleases(ctx context.Context, s Store) error {
	releases, err := s.Releases(ctx)
	if err != nil {
		return err
	}
	p.releases = p.releases[:0]
	for _, r := range releases {
		p.releases = append(p.releases, rollout.Release(r))
	}
	return nil
}

// follow takes in what changed since the picture was taken and tells whether anything did.
func (p *picture) follow(ctx context.Context, s Store) (bool, error) {
	changed, deleted := p.fresh, false
	p.fresh = false
	for {
		records, err := s.Changes(ctx, p.version)
		if err != nil {
			return false, err
		}
		if len(records) == 0 {
			break
		}
		changed = true
		for _, c := range records {
			k := store.Key{Kind: c.Kind, Name: c.Name}
			p.version = c.Version
			if c.Deleted {
				deleted = deleted || c.Kind == store.KindRollout
				delete(p.told, p.resources[k].GetNode().GetStatus().GetNodeId())
				delete(p.resources, k)
				continue
			}
			p.resources[k] = c.Resource
			if status := c.Resource.GetNode().GetStatus(); status != nil {
				if t, ok := p.told[status.GetNodeId()]; ok {
					t.generation = status.GetDesiredGeneration()
					p.told[status.GetNodeId()] = t
				}
			}
		}
	}
	if deleted {
		return true, p.readReleases(ctx, s)
	}
	return changed, nil
}

func (p *picture) get(kind, name string) *fleetv1.Resource {
	return p.resources[store.Key{Kind: kind, Name: name}]
}

func (p *picture) snapshot(now time.Time) rollout.Snapshot {
	s := rollout.Snapshot{Now: now, Releases: p.releases}
	for _, r := range p.resources {
		switch r.GetKind() {
		case store.KindRegion:
			s.Regions = append(s.Regions, r)
		case store.KindSite:
			s.Sites = append(s.Sites, r)
		case store.KindModel:
			s.Models = append(s.Models, r)
		case store.KindRollout:
			s.Rollouts = append(s.Rollouts, r)
		case store.KindNode:
			n := r.GetNode().GetStatus()
			t := p.told[n.GetNodeId()]
			s.Nodes = append(s.Nodes, rollout.Node{ID: n.GetNodeId(), Name: r.GetMetadata().GetName(), Region: n.GetRegion(), Site: n.GetSite(),
				Active: n.GetState() == store.NodeActive, Connected: n.GetConnection() != store.Disconnected,
				Told: t.state.GetCopies(), Generation: t.generation, Report: n.GetReport()})
		}
	}
	return s
}

// places returns the regions and sites whose counts changed, with their new statuses. Revoked nodes do not count.
func (p *picture) places() []*fleetv1.Resource {
	sites, nodesOfRegion, nodesOfSite := map[string]uint32{}, map[string]uint32{}, map[string]uint32{}
	for _, r := range p.resources {
		if site := r.GetSite(); site != nil {
			sites[site.GetSpec().GetRegion()]++
		}
		if n := r.GetNode().GetStatus(); n != nil && n.GetState() != store.NodeRevoked {
			nodesOfRegion[n.GetRegion()]++
			nodesOfSite[n.GetSite()]++
		}
	}
	var out []*fleetv1.Resource
	for k, r := range p.resources {
		switch k.Kind {
		case store.KindRegion:
			status := &fleetv1.RegionStatus{Sites: sites[k.Name], Nodes: nodesOfRegion[k.Name]}
			if r.GetRegion().GetStatus() == nil || !proto.Equal(r.GetRegion().GetStatus(), status) {
				out = append(out, &fleetv1.Resource{Kind: k.Kind, Metadata: r.GetMetadata(),
					Body: &fleetv1.Resource_Region{Region: &fleetv1.Region{Spec: r.GetRegion().GetSpec(), Status: status}}})
			}
		case store.KindSite:
			status := &fleetv1.SiteStatus{Nodes: nodesOfSite[k.Name]}
			if r.GetSite().GetStatus() == nil || !proto.Equal(r.GetSite().GetStatus(), status) {
				out = append(out, &fleetv1.Resource{Kind: k.Kind, Metadata: r.GetMetadata(),
					Body: &fleetv1.Resource_Site{Site: &fleetv1.Site{Spec: r.GetSite().GetSpec(), Status: status}}})
			}
		}
	}
	return out
}

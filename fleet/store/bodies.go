package store

import (
	"maps"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
)

// bodyKind is the kind that a resource's body belongs to; "" without a body.
func bodyKind(r *fleetv1.Resource) string {
	switch {
	case r.GetRegion() != nil:
		return KindRegion
	case r.GetSite() != nil:
		return KindSite
	case r.GetModel() != nil:
		return KindModel
	case r.GetRollout() != nil:
		return KindRollout
	case r.GetNode() != nil:
		return KindNode
	}
	return ""
}

// specOf returns what the generation counts changes of. An absent spec equals an empty one.
func specOf(r *fleetv1.Resource) proto.Message {
	switch b := r.GetBody().(type) {
	case *fleetv1.Resource_Region:
		if s := b.Region.GetSpec(); s != nil {
			return s
		}
		return &fleetv1.RegionSpec{}
	case *fleetv1.Resource_Site:
		if s := b.Site.GetSpec(); s != nil {
			return s
		}
		return &fleetv1.SiteSpec{}
	case *fleetv1.Resource_Model:
		if s := b.Model.GetSpec(); s != nil {
			return s
		}
		return &fleetv1.ModelSpec{}
	case *fleetv1.Resource_Rollout:
		if s := b.Rollout.GetSpec(); s != nil {
			return s
		}
		return &fleetv1.RolloutSpec{}
	}
	return nil
}

func clearStatus(r *fleetv1.Resource) {
	switch b := r.GetBody().(type) {
	case *fleetv1.Resource_Region:
		b.Region.Status = nil
	case *fleetv1.Resource_Site:
		b.Site.Status = nil
	case *fleetv1.Resource_Model:
		b.Model.Status = nil
	case *fleetv1.Resource_Rollout:
		b.Rollout.Status = nil
	}
}

// keepStatus gives r the status of from, which has the same kind.
func keepStatus(r, from *fleetv1.Resource) {
	switch b := r.GetBody().(type) {
	case *fleetv1.Resource_Region:
		b.Region.Status = from.GetRegion().GetStatus()
	case *fleetv1.Resource_Site:
		b.Site.Status = from.GetSite().GetStatus()
	case *fleetv1.Resource_Model:
		b.Model.Status = from.GetModel().GetStatus()
	case *fleetv1.Resource_Rollout:
		b.Rollout.Status = from.GetRollout().GetStatus()
	}
}

func sameLabels(a, b *fleetv1.Resource) bool {
	return maps.Equal(a.GetMetadata().GetLabels(), b.GetMetadata().GetLabels())
}

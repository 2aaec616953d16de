// Package tally adds up what nodes counted, and tells what cannot be true of it. Everything here is a function of its
// arguments.
package tally

import (
	"google.golang.org/protobuf/proto"

	"github.com/dhowfleet/dhow/fleet/store/latency"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/protocol/identity"
)

const (
	// MaxCounts is how many named counts are kept of a key.
	MaxCounts     = 256
	maxNameLength = 128
	maxPlausible  = 1 << 53
)

// Key is what counts are added up by.
type Key struct {
	Model, Version string
	Role           syncv1.Role
}

// Sums are totals by key.
type Sums map[Key]*syncv1.RequestTotals

// Add adds an aggregate, unless it makes no sense: then it changes nothing and returns false.
func (s Sums) Add(a *syncv1.Aggregate) bool {
	if !sane(a) {
		return false
	}
	for _, r := range a.GetRequests() {
		k := Key{r.GetModel(), r.GetVersion(), r.GetRole()}
		s[k] = Plus(s[k], r)
	}
	return true
}

// sane tells whether the numbers can be true. What it lets pass stays far from where sums would overflow.
func sane(a *syncv1.Aggregate) bool {
	for _, r := range a.GetRequests() {
		if identity.ValidName(r.GetModel()) != nil || r.GetVersion() == "" || len(r.GetVersion()) > maxNameLength {
			return false
		}
		if _, known := syncv1.Role_name[int32(r.GetRole())]; !known {
			return false
		}
		if r.GetRequests() > maxPlausible || r.GetErrors() > r.GetRequests() || len(r.GetCounts()) > MaxCounts || !latency.Sane(r.GetLatency()) {
			return false
		}
		for _, c := range r.GetCounts() {
			if c.GetName() == "" || len(c.GetName()) > maxNameLength {
				return false
			}
		}
	}
	return true
}

// Plus adds r to sum, which it changes and returns; without a sum it returns a copy of r. Counts of new names find room
// up to MaxCounts.
func Plus(sum, r *syncv1.RequestTotals) *syncv1.RequestTotals {
	if sum == nil {
		return proto.CloneOf(r)
	}
	sum.Requests = latency.Add(sum.GetRequests(), r.GetRequests())
	sum.Errors = latency.Add(sum.GetErrors(), r.GetErrors())
	sum.LatencySumNs = latency.Add(sum.GetLatencySumNs(), r.GetLatencySumNs())
	sum.Latency = latency.Merge(sum.GetLatency(), r.GetLatency())
	for _, c := range r.GetCounts() {
		found := false
		for _, have := range sum.Counts {
			if have.GetName() == c.GetName() {
				have.Value = latency.Add(have.GetValue(), c.GetValue())
				found = true
				break
			}
		}
		if !found && len(sum.Counts) < MaxCounts {
			sum.Counts = append(sum.Counts, proto.CloneOf(c))
		}
	}
	return sum
}

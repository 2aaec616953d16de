package tally

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

// TestSumsHoldWhatWasAdded: of sane aggregates every request is in the sums, and what was added is not changed.
func TestSumsHoldWhatWasAdded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sums := Sums{}
		want := map[Key]uint64{}
		for range rapid.IntRange(0, 5).Draw(t, "aggregates") {
			a := &syncv1.Aggregate{}
			for range rapid.IntRange(0, 4).Draw(t, "totals") {
				k := Key{rapid.SampledFrom([]string{"a", "b"}).Draw(t, "model"), rapid.SampledFrom([]string{"1", "2"}).Draw(t, "version"),
					rapid.SampledFrom([]syncv1.Role{syncv1.Role_ROLE_BASELINE, syncv1.Role_ROLE_CANDIDATE}).Draw(t, "role")}
				n := rapid.Uint64Range(0, 100).Draw(t, "requests")
				want[k] += n
				a.Requests = append(a.Requests, &syncv1.RequestTotals{Model: k.Model, Version: k.Version, Role: k.Role, Requests: n,
					Counts: []*syncv1.NamedCount{{Name: rapid.SampledFrom([]string{"png", "jpeg"}).Draw(t, "name"), Value: n}}})
			}
			before := proto.CloneOf(a)
			if !sums.Add(a) || !proto.Equal(a, before) {
				t.Fatalf("%v became %v", before, a)
			}
		}
		for k, n := range want {
			counted := uint64(0)
			for _, c := range sums[k].GetCounts() {
				counted += c.GetValue()
			}
			if sums[k].GetRequests() != n || counted != n {
				t.Errorf("%v has %v, want %d", k, sums[k], n)
			}
		}
		if len(sums) != len(want) {
			t.Errorf("%d keys, want %d", len(sums), len(want))
		}
		if left := proto.CloneOf(sums[Key{"a", "1", syncv1.Role_ROLE_BASELINE}]); sums.Add(&syncv1.Aggregate{Requests: []*syncv1.RequestTotals{{Model: "a", Version: "1", Role: syncv1.Role_ROLE_BASELINE, Requests: 1}, {Model: "A"}}}) ||
			!proto.Equal(left, sums[Key{"a", "1", syncv1.Role_ROLE_BASELINE}]) {
			t.Error("half of an aggregate that makes no sense was added")
		}
	})
}

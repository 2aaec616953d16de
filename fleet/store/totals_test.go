package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/fleet/store/latency"
	"github.com/dhowfleet/dhow/fleet/store/tally"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

func aggregate(sequence, requests uint64) *syncv1.Aggregate {
	return &syncv1.Aggregate{Sequence: sequence, Requests: []*syncv1.RequestTotals{{
		Model: "fashion", Version: "1", Role: syncv1.Role_ROLE_BASELINE, Requests: requests, LatencySumNs: requests * 10,
		Latency: &syncv1.LatencyHistogram{Scale: 3, Offset: int32(sequence % 50), Buckets: []uint64{requests}},
		Counts:  []*syncv1.NamedCount{{Name: "photo_png", Value: requests}},
	}}}
}

func requestsOf(t rapid.TB, ctx context.Context, s *Store, node string) (requests, buckets, counts uint64) {
	totals, err := s.Totals(ctx, TotalsFilter{Model: "fashion", Node: node})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range totals {
		requests += n.GetTotals().GetRequests()
		for _, b := range n.GetTotals().GetLatency().GetBuckets() {
			buckets += b
		}
		for _, c := range n.GetTotals().GetCounts() {
			counts += c.GetValue()
		}
	}
	return requests, buckets, counts
}

// TestDeliveriesCountOnce sends batches that overlap, repeat and come concurrently, as after lost answers, and wants
// each aggregate counted once.
func TestDeliveriesCountOnce(t *testing.T) {
	s := open(t)
	rapid.Check(t, func(rt *rapid.T) {
		n := enrol(t, s, "till", 1)[0]
		var outbox []*syncv1.Aggregate
		var want uint64
		sequence := uint64(0)
		for range rapid.IntRange(1, 6).Draw(rt, "aggregates") {
			sequence += rapid.Uint64Range(1, 3).Draw(rt, "gap")
			requests := rapid.Uint64Range(0, 100).Draw(rt, "requests")
			outbox = append(outbox, aggregate(sequence, requests))
			want += requests
		}
		done := 0
		for done < len(outbox) {
			to := rapid.IntRange(done, len(outbox)).Draw(rt, "to")
			from := rapid.IntRange(0, done).Draw(rt, "from") // earlier ones again
			var wait sync.WaitGroup
			for range rapid.IntRange(1, 3).Draw(rt, "copies") {
				wait.Go(func() {
					if _, _, err := s.Deliver(t.Context(), n.ID, outbox[from:to]); err != nil {
						t.Error(err)
					}
				})
			}
			wait.Wait()
			done = to
		}
		acked, rejected, err := s.Deliver(t.Context(), n.ID, outbox)
		if err != nil || acked != sequence || rejected != 0 {
			rt.Fatalf("acknowledged %d of %d, %d rejected (%v)", acked, sequence, rejected, err)
		}
		requests, buckets, counts := requestsOf(rt, t.Context(), s, n.Name)
		if requests != want || buckets != want || counts != want {
			rt.Fatalf("counted %d requests, %d latencies, %d photos, want %d", requests, buckets, counts, want)
		}
	})
}

func TestDeliverRefusals(t *testing.T) {
	s := open(t)
	n := enrol(t, s, "till", 1)[0]
	for name, batch := range map[string][]*syncv1.Aggregate{
		"not rising": {aggregate(2, 1), aggregate(2, 1)},
		"falling":    {aggregate(2, 1), aggregate(1, 1)},
		"zero":       {aggregate(0, 1)},
		"beyond":     {aggregate(math.MaxUint64, 1)},
	} {
		if _, _, err := s.Deliver(t.Context(), n.ID, batch); !errors.Is(err, ErrDisorder) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := s.Deliver(t.Context(), "n-unknown", []*syncv1.Aggregate{aggregate(1, 1)}); !errors.Is(err, ErrNotFound) {
		t.Errorf("an unknown node: %v", err)
	}
	spoil := func(change func(*syncv1.RequestTotals)) *syncv1.Aggregate {
		a := aggregate(1, 5)
		change(a.Requests[0])
		return a
	}
	bad := []*syncv1.Aggregate{
		spoil(func(r *syncv1.RequestTotals) { r.Model = "../x" }),
		spoil(func(r *syncv1.RequestTotals) { r.Version = "" }),
		spoil(func(r *syncv1.RequestTotals) { r.Role = 77 }),
		spoil(func(r *syncv1.RequestTotals) { r.Requests = math.MaxUint64 }),
		spoil(func(r *syncv1.RequestTotals) { r.Errors = 6 }),
		spoil(func(r *syncv1.RequestTotals) { r.Counts[0].Name = "" }),
		spoil(func(r *syncv1.RequestTotals) { r.Counts = make([]*syncv1.NamedCount, tally.MaxCounts+1) }),
		spoil(func(r *syncv1.RequestTotals) { r.Latency.Scale = 99 }),
		spoil(func(r *syncv1.RequestTotals) { r.Latency.Offset = math.MaxInt32 }),
		spoil(func(r *syncv1.RequestTotals) { r.Latency.Offset = math.MinInt32 }),
		spoil(func(r *syncv1.RequestTotals) { r.Latency.Buckets = make([]uint64, latency.MaxBuckets+1) }),
	}
	for i, a := range bad {
		a.Sequence = uint64(i + 1)
	}
	good := aggregate(uint64(len(bad)+1), 7)
	acked, rejected, err := s.Deliver(t.Context(), n.ID, append(bad, good))
	if err != nil || acked != good.Sequence || rejected != len(bad) {
		t.Fatalf("acknowledged %d, rejected %d of %d (%v)", acked, rejected, len(bad), err)
	}
	if requests, _, _ := requestsOf(t, t.Context(), s, ""); requests != 7 {
		t.Errorf("counted %d requests, want 7", requests)
	}
}

func TestTotalsOfANodeAreBounded(t *testing.T) {
	s := open(t)
	n := enrol(t, s, "till", 1)[0]
	a := &syncv1.Aggregate{Sequence: 1}
	for i := range maxTotalsPerNode + 10 {
		a.Requests = append(a.Requests, &syncv1.RequestTotals{Model: "m", Version: fmt.Sprint(i), Requests: 1})
	}
	if _, rejected, err := s.Deliver(t.Context(), n.ID, []*syncv1.Aggregate{a}); err != nil || rejected != 10 {
		t.Fatalf("%d rejected (%v), want 10", rejected, err)
	}
}

func TestTotalsFilter(t *testing.T) {
	s := open(t)
	n := enrol(t, s, "till", 1)[0]
	if _, _, err := s.Deliver(t.Context(), n.ID, []*syncv1.Aggregate{aggregate(1, 1)}); err != nil {
		t.Fatal(err)
	}
	for f, want := range map[TotalsFilter]int{
		{}: 1, {Model: "fashion"}: 1, {Region: "ae-dubai", Site: "deira", Node: "till"}: 1,
		{Model: "x"}: 0, {Region: "x"}: 0, {Site: "x"}: 0, {Node: "x"}: 0,
	} {
		if got, err := s.Totals(t.Context(), f); err != nil || len(got) != want {
			t.Errorf("%+v finds %d (%v), want %d", f, len(got), err, want)
		}
	}
}

// TestTotalsOutliveTheirNode: the requests were answered, whatever becomes of the machine. A node that joins under the
// same name afterwards counts for itself.
func TestTotalsOutliveTheirNode(t *testing.T) {
	s := open(t)
	ctx := t.Context()
	deliver := func(n *Node, requests uint64) {
		t.Helper()
		if acked, rejected, err := s.Deliver(ctx, n.ID, []*syncv1.Aggregate{aggregate(1, requests)}); err != nil || acked != 1 || rejected != 0 {
			t.Fatalf("%s delivers: acknowledged %d, rejected %d (%v)", n.ID, acked, rejected, err)
		}
	}
	old := enrol(t, s, "till", 1)[0]
	deliver(old, 5)
	if err := s.RevokeNode(ctx, "till", "stolen"); err != nil {
		t.Fatal(err)
	}
	apply(t, s, Change{Delete: &Key{KindNode, "till"}})
	next := enrol(t, s, "till", 1)[0]
	if next.Name != "till" || next.ID == old.ID {
		t.Fatalf("the second machine is %+v", next)
	}
	deliver(next, 7)
	for _, f := range []TotalsFilter{{}, {Node: "till"}, {Region: "ae-dubai", Site: "deira"}, {Model: "fashion"}} {
		got, err := s.Totals(ctx, f)
		if err != nil || len(got) != 2 {
			t.Fatalf("%+v finds %v (%v), want those of both machines", f, got, err)
		}
		for i, want := range []struct {
			id       string
			deleted  bool
			requests uint64
		}{{next.ID, false, 7}, {old.ID, true, 5}} {
			g := got[i]
			if g.GetNode() != "till" || g.GetRegion() != "ae-dubai" || g.GetSite() != "deira" || g.GetNodeId() != want.id ||
				g.GetNodeDeleted() != want.deleted || g.GetTotals().GetRequests() != want.requests {
				t.Errorf("%+v: entry %d is %v, want %+v", f, i, g, want)
			}
		}
	}
	if _, _, err := s.Deliver(ctx, old.ID, []*syncv1.Aggregate{aggregate(2, 1)}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a deleted node delivers: %v", err)
	}
}

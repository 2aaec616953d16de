package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

func aggregate(sequence, requests uint64) *syncv1.Aggregate {
	return &syncv1.Aggregate{Sequence: sequence, Requests: []*syncv1.RequestTotals{{
		Model: "fashion", Version: "1", Role: syncv1.Role_ROLE_BASELINE, Requests: requests, LatencySumNs: requests * 10,
		Latency: &syncv1.LatencyHistogram{Scale: 3, Offset: int32(sequence % 50), Buckets: []uint64{requests}},
		Counts:  []*syncv1.NamedCount{{Name: "photo_png", Value: requests}},
	}}}
}

func requestsOf(t rapid.TB, ctx context.Context, s *Store) (requests, buckets, counts uint64) {
	totals, err := s.Totals(ctx, TotalsFilter{Model: "fashion"})
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
	rapid.Check(t, func(rt *rapid.T) {
		s := open(t)
		defer s.Close()
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
		requests, buckets, counts := requestsOf(rt, t.Context(), s)
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
		spoil(func(r *syncv1.RequestTotals) { r.Counts = make([]*syncv1.NamedCount, maxCounts+1) }),
		spoil(func(r *syncv1.RequestTotals) { r.Latency.Scale = 99 }),
		spoil(func(r *syncv1.RequestTotals) { r.Latency.Offset = math.MaxInt32 }),
		spoil(func(r *syncv1.RequestTotals) { r.Latency.Offset = math.MinInt32 }),
		spoil(func(r *syncv1.RequestTotals) { r.Latency.Buckets = make([]uint64, maxBuckets+1) }),
	}
	for i, a := range bad {
		a.Sequence = uint64(i + 1)
	}
	good := aggregate(uint64(len(bad)+1), 7)
	acked, rejected, err := s.Deliver(t.Context(), n.ID, append(bad, good))
	if err != nil || acked != good.Sequence || rejected != len(bad) {
		t.Fatalf("acknowledged %d, rejected %d of %d (%v)", acked, rejected, len(bad), err)
	}
	if requests, _, _ := requestsOf(t, t.Context(), s); requests != 7 {
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

var histograms = rapid.Custom(func(t *rapid.T) *syncv1.LatencyHistogram {
	scale := rapid.Int32Range(-3, 5).Draw(t, "scale")
	return &syncv1.LatencyHistogram{Scale: scale, Offset: rapid.Int32Range(-1, 60<<max(0, scale)).Draw(t, "offset"),
		Buckets: rapid.SliceOfN(rapid.Uint64Range(0, 9), 0, 40).Draw(t, "buckets")}
})

// TestMergedHistogramKeepsEveryCountInItsRange: a count of bucket i at scale s lies in the bucket of the sum that
// covers the same latencies.
func TestMergedHistogramKeepsEveryCountInItsRange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := histograms.Draw(t, "a"), histograms.Draw(t, "b")
		a0, b0 := proto.CloneOf(a), proto.CloneOf(b)
		sum := mergeHistograms(a, b)
		if !proto.Equal(a, a0) || !proto.Equal(b, b0) {
			t.Fatal("merging changed an argument")
		}
		if len(a.Buckets) > 0 && len(b.Buckets) > 0 && len(sum.Buckets) > maxBuckets {
			t.Fatalf("%d buckets", len(sum.Buckets))
		}
		want := map[int]uint64{}
		for _, h := range []*syncv1.LatencyHistogram{a, b} {
			for i, n := range h.Buckets {
				// Bucket i begins at 2^(i/2^scale).
				at := math.Floor(float64(int(h.Offset)+i) * math.Exp2(float64(sum.Scale-h.Scale)))
				want[int(at)] += n
			}
		}
		for i, n := range sum.Buckets {
			if want[int(sum.Offset)+i] != n {
				t.Fatalf("bucket %d holds %d, want %d", int(sum.Offset)+i, n, want[int(sum.Offset)+i])
			}
			delete(want, int(sum.Offset)+i)
		}
		for i, n := range want {
			if n != 0 {
				t.Fatalf("%d counts of bucket %d are lost", n, i)
			}
		}
		if !proto.Equal(mergeHistograms(b, a), sum) && len(a.Buckets) > 0 && len(b.Buckets) > 0 {
			t.Fatal("merging depends on the order")
		}
	})
}

func TestWideHistogramsAreMadeCoarser(t *testing.T) {
	a := &syncv1.LatencyHistogram{Scale: 8, Offset: 0, Buckets: []uint64{1}}
	b := &syncv1.LatencyHistogram{Scale: 8, Offset: 60 << 8, Buckets: []uint64{2}}
	sum := mergeHistograms(a, b)
	var total uint64
	for _, n := range sum.Buckets {
		total += n
	}
	if len(sum.Buckets) > maxBuckets || total != 3 || sum.Scale >= 8 {
		t.Fatalf("%d buckets at scale %d hold %d", len(sum.Buckets), sum.Scale, total)
	}
	if add(math.MaxUint64, 5) != math.MaxUint64 {
		t.Error("a sum begins again at zero")
	}
}

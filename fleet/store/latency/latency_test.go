package latency

import (
	"math"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

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
		sum := Merge(a, b)
		if !proto.Equal(a, a0) || !proto.Equal(b, b0) {
			t.Fatal("merging changed an argument")
		}
		if len(a.Buckets) > 0 && len(b.Buckets) > 0 && len(sum.Buckets) > MaxBuckets {
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
		if !proto.Equal(Merge(b, a), sum) && len(a.Buckets) > 0 && len(b.Buckets) > 0 {
			t.Fatal("merging depends on the order")
		}
	})
}

func TestWideHistogramsAreMadeCoarser(t *testing.T) {
	a := &syncv1.LatencyHistogram{Scale: 8, Offset: 0, Buckets: []uint64{1}}
	b := &syncv1.LatencyHistogram{Scale: 8, Offset: 60 << 8, Buckets: []uint64{2}}
	sum := Merge(a, b)
	var total uint64
	for _, n := range sum.Buckets {
		total += n
	}
	if len(sum.Buckets) > MaxBuckets || total != 3 || sum.Scale >= 8 {
		t.Fatalf("%d buckets at scale %d hold %d", len(sum.Buckets), sum.Scale, total)
	}
	if Add(math.MaxUint64, 5) != math.MaxUint64 {
		t.Error("a sum begins again at zero")
	}
}

package statistics

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestBucketsAreFoundAsByLooking(t *testing.T) {
	naive := func(ns int64) int {
		i, _ := slices.BinarySearch(bound[:], ns)
		return i
	}
	check := func(ns int64) {
		if got, want := bucket(ns), naive(ns); got != want {
			t.Fatalf("%d ns is in bucket %d, should be in %d", ns, got, want)
		}
	}
	for _, b := range bound {
		for d := int64(-2); d <= 2; d++ {
			check(b + d)
		}
	}
	for _, ns := range []int64{math.MinInt64, -1, 0, 1, longest + 1, math.MaxInt64} {
		check(ns)
	}
	for e := range 63 {
		for d := int64(-1); d <= 1; d++ {
			check(int64(1)<<e + d)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		ns := rapid.Int64().Draw(t, "ns") >> rapid.IntRange(0, 62).Draw(t, "shift")
		if got, want := bucket(ns), naive(ns); got != want {
			t.Fatalf("%d ns is in bucket %d, should be in %d", ns, got, want)
		}
	})
}

func TestOtherHistogramsCanBeCut(t *testing.T) {
	for scale := time.Microsecond; scale < 1000*time.Second; scale *= 10 {
		for _, times := range []float64{1, 2, 2.5, 4, 5} {
			d := time.Duration(times * float64(scale))
			if _, exact := slices.BinarySearch(bound[:], int64(d)); !exact {
				t.Errorf("%v is no bound", d)
			}
		}
	}
	var h Histogram
	for _, d := range []time.Duration{0, time.Microsecond, 99 * time.Millisecond, 100 * time.Millisecond, 101 * time.Millisecond, time.Hour} {
		h.add(d)
	}
	for d, want := range map[time.Duration]uint64{0: 0, time.Microsecond: 2, 100 * time.Millisecond: 4, time.Second: 5, 1000 * time.Second: 5} {
		if got := h.AtMost(d); got != want {
			t.Errorf("%d of %d took at most %v, should be %d", got, h.Count, d, want)
		}
	}
}

func TestQuantilesAreNearTheTrueOnes(t *testing.T) {
	var none Histogram
	if none.Quantile(0.5) != 0 {
		t.Error("nothing has a median")
	}
	rapid.Check(t, func(t *rapid.T) {
		var h Histogram
		times := rapid.SliceOfN(rapid.Int64Range(shortest+1, longest), 1, 200).Draw(t, "times")
		for _, ns := range times {
			h.add(time.Duration(ns))
		}
		slices.Sort(times)
		before := time.Duration(0)
		for _, q := range []float64{-1, 0.01, 0.5, 0.95, 0.99, 1, 2} {
			got := h.Quantile(q)
			if got < before {
				t.Fatalf("the quantile %v is below that before it", q)
			}
			before = got
			// The nearest rank, give or take the width of its bucket.
			want := float64(times[min(max(int(math.Ceil(q*float64(len(times))))-1, 0), len(times)-1)])
			if f := float64(got); f < want/1.15 || f > want*1.15 {
				t.Fatalf("quantile %v is %v, should be about %v", q, got, time.Duration(want))
			}
		}
	})
	h := Histogram{}
	h.add(2 * time.Hour)
	if h.Quantile(1) != longest {
		t.Error("what is off the scale is not its end")
	}
}

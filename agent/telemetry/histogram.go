package telemetry

import (
	"math"
	"math/bits"

	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

// scale is that of the protocol's latency histogram: eight buckets for each power of two, so that a bucket is 9 % wide.
const scale = 3

// eighths[j] is 2^(j/8).
var eighths = func() (t [9]float64) {
	for j := range t {
		t[j] = math.Exp2(float64(j) / 8)
	}
	return t
}()

// bucket returns the index i of the bucket (2^(i/8), 2^((i+1)/8)] that holds ns. What took no time at all counts as 1 ns.
func bucket(ns int64) int {
	v := uint64(max(ns, 1))
	e := bits.Len64(v) - 1
	x := math.Ldexp(float64(v), -e) // in [1, 2)
	j := 0
	for x > eighths[j] {
		j++
	}
	return 8*e + j - 1
}

// histogram counts latencies by bucket.
type histogram map[int]uint64

// message returns the histogram as it is sent: dense between the lowest and the highest bucket that counted.
func (h histogram) message() *syncv1.LatencyHistogram {
	if len(h) == 0 {
		return nil
	}
	low, high := math.MaxInt, math.MinInt
	for i := range h {
		low, high = min(low, i), max(high, i)
	}
	m := &syncv1.LatencyHistogram{Scale: scale, Offset: int32(low), Buckets: make([]uint64, high-low+1)}
	for i, n := range h {
		m.Buckets[i-low] = n
	}
	return m
}

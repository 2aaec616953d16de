// Package latency adds up latency histograms of nodes, exactly.
//
// Histograms are exponential ones as OpenTelemetry defines them: at scale s, bucket i counts latencies in
// (2^(i/2^s), 2^((i+1)/2^s)] nanoseconds. Two of the same scale add up bucket by bucket, and one of a finer scale can be
// brought to a coarser one without guessing. Everything here is a function of its arguments.
package latency

import (
	"math"
	"slices"

	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

const (
	maxScale = 20
	minScale = -10
	// MaxBuckets is how many buckets a histogram may have; a sum is made coarser until it has no more.
	MaxBuckets = 1024
	// maxIndex bounds bucket numbers at scale 0: latencies in uint64 nanoseconds lie below 2^64.
	maxIndex = 64
)

// Sane tells whether a histogram can be one of latencies, with numbers that Merge can take.
func Sane(h *syncv1.LatencyHistogram) bool {
	if h == nil || len(h.GetBuckets()) == 0 {
		return true
	}
	scale := h.GetScale()
	if scale < minScale || scale > maxScale || len(h.GetBuckets()) > MaxBuckets {
		return false
	}
	first, last := int64(h.GetOffset()), int64(h.GetOffset())+int64(len(h.GetBuckets()))-1
	bound := int64(maxIndex) << max(0, scale)
	return first >= -1 && last <= bound
}

// Merge adds two histograms that are Sane. The finer one is brought to the coarser scale, which moves bucket i to floor(i / 2^d), and both are brought further down until the sum has no
// more buckets than are kept. It changes neither argument.
func Merge(a, b *syncv1.LatencyHistogram) *syncv1.LatencyHistogram {
	if len(a.GetBuckets()) == 0 {
		return b
	}
	if len(b.GetBuckets()) == 0 {
		return a
	}
	scale := min(a.GetScale(), b.GetScale())
	for {
		x, y := coarsen(a, scale), coarsen(b, scale)
		first := min(x.Offset, y.Offset)
		last := max(x.Offset+int32(len(x.Buckets)), y.Offset+int32(len(y.Buckets)))
		if int(last-first) > MaxBuckets && scale > minScale {
			scale--
			continue
		}
		sum := &syncv1.LatencyHistogram{Scale: scale, Offset: first, Buckets: make([]uint64, last-first)}
		for _, h := range []*syncv1.LatencyHistogram{x, y} {
			for i, n := range h.Buckets {
				at := &sum.Buckets[int(h.Offset-first)+i]
				*at = Add(*at, n)
			}
		}
		return sum
	}
}

func coarsen(h *syncv1.LatencyHistogram, scale int32) *syncv1.LatencyHistogram {
	by := h.GetScale() - scale
	if by <= 0 {
		return &syncv1.LatencyHistogram{Scale: h.GetScale(), Offset: h.GetOffset(), Buckets: slices.Clone(h.GetBuckets())}
	}
	// >> of a signed number rounds down, as floor does.
	first := h.GetOffset() >> by
	last := (h.GetOffset() + int32(len(h.GetBuckets())) - 1) >> by
	out := &syncv1.LatencyHistogram{Scale: scale, Offset: first, Buckets: make([]uint64, last-first+1)}
	for i, n := range h.GetBuckets() {
		at := &out.Buckets[((h.GetOffset()+int32(i))>>by)-first]
		*at = Add(*at, n)
	}
	return out
}

// Add adds and stays at the largest number instead of starting again at zero.
func Add(a, b uint64) uint64 {
	if a > math.MaxUint64-b {
		return math.MaxUint64
	}
	return a + b
}

package statistics

import (
	"math/bits"
	"time"
)

// The buckets of a Histogram. Bucket 0 holds what took at most a microsecond; then come twenty for each decade up to
// 1000 s, at the preferred numbers R20 of ISO 3, and the last holds what took longer. So a bucket is 11 to 14 % wide,
// and 1, 2, 2.5, 4 and 5 of every decade are bounds, at which other histograms can be cut from one without guessing.
const (
	perDecade = 20
	decades   = 9
	bounds    = decades*perDecade + 1
	buckets   = bounds + 1

	shortest = 1_000             // ns: the first bound
	longest  = 1_000_000_000_000 // ns: the last
)

var preferred = [perDecade]int64{100, 112, 125, 140, 160, 180, 200, 224, 250, 280, 315, 355, 400, 450, 500, 560, 630, 710, 800, 900}

// bound[i] is the longest time, in ns, that bucket i holds.
var bound = func() (b [bounds]int64) {
	scale := int64(shortest / 100)
	for i := range b {
		b[i] = preferred[i%perDecade] * scale
		if i%perDecade == perDecade-1 {
			scale *= 10
		}
	}
	return b
}()

// A cell is a sixteenth of a power of two. It is narrower than a bucket, so that at most one bound lies in it.
const cells = 40 * 16 // 2^40 ns is above longest

// first[c] is the bucket of the shortest time of cell c.
var first = func() (f [cells]uint8) {
	b := 0
	for c := range f {
		e := c >> 4
		if e < 4 {
			continue
		}
		low := int64(16+c&15) << (e - 4)
		for b < bounds && bound[b] < low {
			b++
		}
		f[c] = uint8(b)
	}
	return f
}()

// bucket returns the index of the bucket that holds ns, in constant time.
func bucket(ns int64) int {
	switch {
	case ns <= shortest:
		return 0
	case ns > longest:
		return bounds
	}
	e := bits.Len64(uint64(ns)) - 1
	b := int(first[e<<4|int(ns>>(e-4))&15])
	if ns > bound[b] {
		b++
	}
	return b
}

// Histogram counts times by how long they are, to about 12 %.
type Histogram struct {
	Count uint64
	Sum   time.Duration
	in    [buckets]uint64
}

func (h *Histogram) add(d time.Duration) {
	h.Count++
	h.Sum += d
	h.in[bucket(int64(d))]++
}

func (h *Histogram) merge(o *Histogram) {
	h.Count += o.Count
	h.Sum += o.Sum
	for i, n := range &o.in {
		h.in[i] += n
	}
}

// since returns what h counted after it was before.
func (h *Histogram) since(before *Histogram) Histogram {
	out := Histogram{Count: h.Count - before.Count, Sum: h.Sum - before.Sum}
	for i := range out.in {
		out.in[i] = h.in[i] - before.in[i]
	}
	return out
}

// AtMost returns how many took no longer than d. It is exact where d is 1, 2, 2.5, 4 or 5 times a power of ten between
// 1 us and 1000 s; elsewhere it leaves out what is in d's own bucket.
func (h *Histogram) AtMost(d time.Duration) uint64 {
	var n uint64
	for i, b := range &bound {
		if b > int64(d) {
			break
		}
		n += h.in[i]
	}
	return n
}

// Quantile returns the time that the part q of the counted ones did not exceed, taking those in a bucket as spread
// evenly over it; 0 when nothing was counted. What took longer than 1000 s counts as that.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.Count == 0 {
		return 0
	}
	rank := min(max(q, 0), 1) * float64(h.Count)
	var below float64
	for i, n := range &h.in {
		if n == 0 || below+float64(n) < rank {
			below += float64(n)
			continue
		}
		if i == bounds {
			break
		}
		low := int64(0)
		if i > 0 {
			low = bound[i-1]
		}
		part := max(rank-below, 0) / float64(n)
		return time.Duration(float64(low) + part*float64(bound[i]-low))
	}
	return longest
}

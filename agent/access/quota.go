package access

import "time"

// Quota bounds what a key may ask for; zeros bound nothing.
type Quota struct {
	RequestsPerMinute int
	Burst             int // requests at once after a pause; 0: what ten seconds allow, at least one
	Concurrent        int // requests at the same time
}

// interval is what one request takes of the minute.
func (q *Quota) interval() time.Duration { return time.Minute / time.Duration(q.RequestsPerMinute) }

func (q *Quota) burst() int {
	if q.Burst > 0 {
		return q.Burst
	}
	return max(q.RequestsPerMinute/6, 1)
}

// bucket is a token bucket, kept as the time at which it is full again. The zero value is full.
type bucket struct{ full time.Time }

// take takes one token, or returns how long it is until there is one. It decides by its arguments alone, and takes
// nothing when it refuses. However full the bucket was under another quota, it is not emptier than empty under this one.
func (b *bucket) take(now time.Time, q *Quota) (wait time.Duration) {
	each := q.interval()
	capacity := each * time.Duration(q.burst())
	missing := min(max(b.full.Sub(now), 0), capacity)
	if wait = missing + each - capacity; wait > 0 {
		return wait
	}
	b.full = now.Add(missing + each)
	return 0
}

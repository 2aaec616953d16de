package access

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestQuotaProperties: whatever comes when, no stretch of time lets more in than the burst and what was refilled, a
// refusal changes nothing, and what it says to wait is exactly enough.
func TestQuotaProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := Quota{RequestsPerMinute: rapid.IntRange(1, maxPerMinute).Draw(t, "rate"), Burst: rapid.IntRange(0, 50).Draw(t, "burst")}
		each := q.interval()
		var b bucket
		at := now
		var let []time.Time
		for _, gap := range rapid.SliceOfN(rapid.Int64Range(0, int64(3*each)), 1, 100).Draw(t, "gaps") {
			at = at.Add(time.Duration(gap))
			before := b
			wait := b.take(at, &q)
			if wait <= 0 {
				let = append(let, at)
				continue
			}
			if b != before {
				t.Fatal("a refusal took something")
			}
			early, then := b, b
			if early.take(at.Add(wait-1), &q) == 0 {
				t.Fatalf("less than the wait of %s was enough", wait)
			}
			if then.take(at.Add(wait), &q) != 0 {
				t.Fatalf("the wait of %s was not enough", wait)
			}
		}
		if len(let) == 0 {
			t.Fatal("a full bucket let nothing in")
		}
		for i := range let {
			for j := i; j < len(let); j++ {
				if most := int64(q.burst()) + int64(let[j].Sub(let[i])/each); int64(j-i+1) > most {
					t.Fatalf("%d in %s, at most %d", j-i+1, let[j].Sub(let[i]), most)
				}
			}
		}
	})
}

// TestAnotherQuotaIsNoDebt: after a change of the quota, or of the clock, nobody waits longer than from empty.
func TestAnotherQuotaIsNoDebt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := bucket{full: now.Add(time.Duration(rapid.Int64Range(-1<<50, 1<<50).Draw(t, "full")))}
		q := Quota{RequestsPerMinute: rapid.IntRange(1, maxPerMinute).Draw(t, "rate"), Burst: rapid.IntRange(0, maxBurst).Draw(t, "burst")}
		if wait := b.take(now, &q); wait > q.interval() {
			t.Fatalf("wait of %s for a token every %s", wait, q.interval())
		}
	})
}

// TestMatchAgreesWithTrying compares with a way that tries everything.
func TestMatchAgreesWithTrying(t *testing.T) {
	var naive func(p, n string) bool
	naive = func(p, n string) bool {
		if p == "" {
			return n == ""
		}
		if p[0] == '*' {
			return naive(p[1:], n) || n != "" && naive(p, n[1:])
		}
		return n != "" && p[0] == n[0] && naive(p[1:], n[1:])
	}
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.StringOfN(rapid.SampledFrom([]rune("ab*/")), 0, 8, -1).Draw(t, "pattern")
		n := rapid.StringOfN(rapid.SampledFrom([]rune("ab/")), 0, 10, -1).Draw(t, "name")
		if match(p, n) != naive(p, n) {
			t.Fatalf("match(%q, %q) = %v", p, n, match(p, n))
		}
	})
}

package routing

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// count returns how many of all points each variant has.
func count(t interface{ Fatalf(string, ...any) }, shares []Share) []uint32 {
	s := NewSplit(shares)
	out := make([]uint32, len(shares))
	for p := uint32(0); p < Whole; p++ {
		i := s.Pick(p)
		if i < 0 || i >= len(shares) {
			t.Fatalf("point %d of %v goes to variant %d", p, shares, i)
		}
		out[i]++
	}
	return out
}

func TestSharesAreMetExactly(t *testing.T) {
	for _, c := range []struct {
		shares []Share
		want   []uint32
	}{
		{[]Share{{Whole, true}}, []uint32{Whole}},
		{[]Share{{0, false}}, []uint32{Whole}},
		{[]Share{{900_000, true}, {100_000, false}}, []uint32{900_000, 100_000}},
		{[]Share{{100_000, false}, {900_000, true}}, []uint32{100_000, 900_000}},
		{[]Share{{0, true}, {1, false}}, []uint32{Whole - 1, 1}},
		{[]Share{{0, true}, {Whole, false}}, []uint32{0, Whole}},
		{[]Share{{7, true}, {600_000, false}, {600_000, false}}, []uint32{0, 600_000, 400_000}},
		{[]Share{{200_000, false}, {100_000, false}}, []uint32{900_000, 100_000}},
		{[]Share{{0, true}, {10, false}, {20, false}, {30, false}}, []uint32{Whole - 60, 10, 20, 30}},
		{[]Share{{1 << 31, false}, {1 << 31, false}}, []uint32{0, Whole}},
	} {
		got := count(t, c.shares)
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%v: %v, want %v", c.shares, got, c.want)
		}
	}
	var zero Split
	none := NewSplit(nil)
	if a, b, c := none.Pick(5), zero.Pick(5), zero.Rest(); a != -1 || b != -1 || c != -1 {
		t.Errorf("no variants, but variants %d, %d, %d", a, b, c)
	}
}

// TestAChangeMovesOnlyTheDifference: of up to two candidates each keeps all that its old and new share have in common,
// and with one candidate the baseline does too.
func TestAChangeMovesOnlyTheDifference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		one := rapid.Bool().Draw(t, "one candidate")
		draw := func(label string) []Share {
			a := rapid.Uint32Range(0, Whole).Draw(t, label+" a")
			if one {
				return []Share{{Whole - a, true}, {a, false}}
			}
			b := rapid.Uint32Range(0, Whole-a).Draw(t, label+" b")
			return []Share{{Whole - a - b, true}, {a, false}, {b, false}}
		}
		before, after := draw("before"), draw("after")
		s1, s2 := NewSplit(before), NewSplit(after)
		kept := make([]uint32, len(before))
		for p := uint32(0); p < Whole; p++ {
			if i := s1.Pick(p); i == s2.Pick(p) {
				kept[i]++
			}
		}
		for i := range before {
			if i == 0 && !one {
				continue
			}
			if common := min(before[i].Millionths, after[i].Millionths); kept[i] != common {
				t.Fatalf("%v to %v: variant %d kept %d points of %d", before, after, i, kept[i], common)
			}
		}
	})
}

func TestAllPointsAlwaysHaveAVariant(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shares := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Share {
			return Share{rapid.Uint32().Draw(t, "millionths"), rapid.Bool().Draw(t, "baseline")}
		}), 1, 6).Draw(t, "shares")
		s := NewSplit(shares)
		for _, p := range append(rapid.SliceOfN(rapid.Uint32Range(0, Whole-1), 50, 50).Draw(t, "points"), 0, Whole-1) {
			if i := s.Pick(p); i < 0 || i >= len(shares) {
				t.Fatalf("point %d of %v goes to variant %d", p, shares, i)
			}
		}
	})
}

// TestPointsAreSpreadEvenly: ids as clients make them, counters above all, must meet each variant by its share.
func TestPointsAreSpreadEvenly(t *testing.T) {
	for _, form := range []string{"%d", "req-%08d", "7e57d004-2b97-0e7a-b45f-5387367791c%x", "%d-x"} {
		const n, bins = 100_000, 20
		var bin [bins]int
		for i := range n {
			bin[Point("fashion", fmt.Sprintf(form, i))*bins/Whole]++
		}
		chi := 0.0
		for _, got := range bin {
			d := float64(got) - n/bins
			chi += d * d / (n / bins)
		}
		if chi > 60 { // 19 degrees of freedom: once in some 300,000
			t.Errorf("%s: chi-square %.1f, bins %v", form, chi, bin)
		}
	}
}

func TestPointsNeverChange(t *testing.T) {
	for _, c := range []struct {
		model, id string
		want      uint32
	}{{"fashion", "1", 744140}, {"fashion", "2", 620901}, {"", "", 108358}, {"a", "b", 480427}, {"ab", "", 673275}} {
		if got := Point(c.model, c.id); got != c.want {
			t.Errorf("{%q, %q, %d},", c.model, c.id, got)
		}
	}
}

func TestNothingIsAllocated(t *testing.T) {
	s := NewSplit([]Share{{900_000, true}, {100_000, false}})
	if n := testing.AllocsPerRun(100, func() { s.Pick(Point("fashion", "7e57d004-2b97-0e7a-b45f-5387367791cd")) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPointAndPick(b *testing.B) {
	s := NewSplit([]Share{{900_000, true}, {100_000, false}})
	for b.Loop() {
		s.Pick(Point("fashion", "7e57d004-2b97-0e7a-b45f-5387367791cd"))
	}
}

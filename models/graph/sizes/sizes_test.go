package sizes

import (
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

// TestLeastNeverWraps against whole numbers of any size.
func TestLeastNeverWraps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dims := rapid.SliceOfN(rapid.OneOf(rapid.Int64Range(-1, 8), rapid.Int64Range(-1, 1<<62)), 0, 6).Draw(t, "dims")
		want := big.NewInt(1)
		for _, d := range dims {
			if d >= 0 {
				want.Mul(want, big.NewInt(d))
			}
		}
		if most := big.NewInt(huge); want.Cmp(most) > 0 {
			want = most
		}
		if got := Least(dims); want.Cmp(new(big.Int).SetUint64(got)) != 0 {
			t.Fatalf("%v has %d elements, want %v", dims, got, want)
		}
	})
}

// TestDeepValuesAreDropped: numbers that could be followed are bounded over the whole graph, so that the one who checks
// does not run out of memory.
func TestDeepValuesAreDropped(t *testing.T) {
	main := &Body{Constants: map[ID]*Constant{1: {Name: 1, Shape: Shape{true, []int64{MaxValues}, 64}, Values: make([]float64, MaxValues)}}}
	const n = 2 * maxKept / MaxValues
	for i := range ID(n) {
		main.Nodes = append(main.Nodes, Node{Op: "Neg", In: []ID{i + 1}, Out: []ID{i + 2}})
	}
	r := &reckoning{model: &Model{Main: main}}
	s := &scope{values: map[ID]value{1: {Shape: main.Constants[1].Shape, values: main.Constants[1].Values, constant: true}}}
	for i := range main.Nodes {
		if err := r.run(&main.Nodes[i], main, s, 0); err != nil {
			t.Fatal(err)
		}
	}
	if first, last := s.values[2], s.values[n+1]; first.values == nil || last.values != nil || len(last.Dims) != 1 {
		t.Errorf("%d and %d values are kept", len(first.values), len(last.values))
	}
}

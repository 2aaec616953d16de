package main

import (
	"fmt"
	"math"
	"sort"
	"testing"

	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/models/tensor"
)

func TestTheThreeLikeliest(t *testing.T) {
	if err := configure([]byte("a\r\nb\n\n c d \ne\n")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		in     []float32
		labels string
		scores []float32
		shape  []int64
	}{
		{[]float32{.1, .6, .1, .2}, "[b e a]", []float32{.6, .2, .1}, []int64{3}},
		{[]float32{.25, .25, .25, .25}, "[a b c d]", []float32{.25, .25, .25}, []int64{3}},
		{[]float32{0, 0, 0, 1, 1, 0, 0, 0}, "[e a b a b c d]", []float32{1, 0, 0, 1, 0, 0}, []int64{2, 3}},
	} {
		out, err := process([]tensor.Tensor{tensor.FromFloat32("probabilities", []int64{int64(len(c.in) / 4), 4}, c.in)})
		if err != nil {
			t.Fatal(err)
		}
		names, err := tensor.SplitBytes(out[0].Data)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%s", names); got != c.labels || fmt.Sprint(out[1].Float32s()) != fmt.Sprint(c.scores) || fmt.Sprint(out[0].Shape) != fmt.Sprint(c.shape) {
			t.Errorf("%v: %s %v %v", c.in, got, out[1].Float32s(), out[0].Shape)
		}
		for i := range out {
			if err := out[i].Validate(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestLikeliestIsTheHeadOfASort(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SliceOfN(rapid.SampledFrom([]float32{0, .1, .2, .3, .5, 1}), top, 12).Draw(t, "probabilities")
		order := make([]int, len(p))
		for i := range order {
			order[i] = i
		}
		sort.SliceStable(order, func(a, b int) bool { return p[order[a]] > p[order[b]] })
		if got := likeliest(p); got != [top]int(order[:top]) {
			t.Fatalf("%v: %v, want %v", p, got, order[:top])
		}
	})
}

func TestWhatDoesNotFitIsRefused(t *testing.T) {
	if configure([]byte("one\ntwo\n")) == nil {
		t.Error("two labels were accepted")
	}
	if err := configure([]byte("a\nb\nc")); err != nil {
		t.Fatal(err)
	}
	for what, in := range map[string][]tensor.Tensor{
		"nothing":      nil,
		"another name": {tensor.FromFloat32("logits", []int64{1, 3}, make([]float32, 3))},
		"a vector":     {tensor.FromFloat32("probabilities", []int64{3}, make([]float32, 3))},
		"more classes": {tensor.FromFloat32("probabilities", []int64{1, 4}, make([]float32, 4))},
		"text":         {tensor.FromStrings("probabilities", "a", "b", "c")},
	} {
		if _, err := process(in); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
	nan := float32(math.NaN())
	if _, err := process([]tensor.Tensor{tensor.FromFloat32("probabilities", []int64{1, 3}, []float32{nan, nan, nan})}); err != nil {
		t.Errorf("a model gone astray: %v", err)
	}
}

package tensor

import (
	"bytes"
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestElementsRefusesWhatCannotBe(t *testing.T) {
	for _, shape := range [][]int64{{-1}, {math.MaxInt64, 2}, {1 << 40, 1 << 40}, make([]int64, MaxRank+1)} {
		if n, err := Elements(shape); err == nil {
			t.Errorf("Elements(%v) = %d, want an error", shape, n)
		}
	}
	for _, c := range []struct {
		shape []int64
		want  int64
	}{{nil, 1}, {[]int64{}, 1}, {[]int64{0}, 0}, {[]int64{2, 0, 3}, 0}, {[]int64{2, 3}, 6}, {[]int64{0, 1 << 40}, 0}} {
		if n, err := Elements(c.shape); err != nil || n != c.want {
			t.Errorf("Elements(%v) = %d, %v, want %d", c.shape, n, err, c.want)
		}
	}
}

func TestBytesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.SliceOf(rapid.SliceOf(rapid.Byte())).Draw(t, "elements")
		var data []byte
		for _, e := range in {
			data = AppendBytes(data, e)
		}
		out, err := SplitBytes(data)
		if err != nil || len(out) != len(in) {
			t.Fatalf("%d elements came back as %d: %v", len(in), len(out), err)
		}
		for i := range in {
			if !bytes.Equal(in[i], out[i]) {
				t.Fatalf("element %d is %x, was %x", i, out[i], in[i])
			}
		}
		tn := Tensor{Name: "x", Datatype: Bytes, Shape: []int64{int64(len(in))}, Data: data}
		if err := tn.Validate(); err != nil {
			t.Fatal(err)
		}
		tn.Shape[0]++
		if tn.Validate() == nil {
			t.Fatal("one element too few was accepted")
		}
	})
}

func TestValidateComparesDataWithShape(t *testing.T) {
	for d := Bool; d.Valid(); d++ {
		if d == Bytes {
			continue
		}
		tn := Tensor{Name: "x", Datatype: d, Shape: []int64{2, 3}, Data: make([]byte, 6*d.Size())}
		if err := tn.Validate(); err != nil {
			t.Errorf("%s: %v", d, err)
		}
		tn.Data = tn.Data[1:]
		if tn.Validate() == nil {
			t.Errorf("%s: a byte too few was accepted", d)
		}
		if got, err := ParseDatatype(d.String()); err != nil || got != d {
			t.Errorf("ParseDatatype(%s) = %v, %v", d, got, err)
		}
	}
}

func TestSpecAccepts(t *testing.T) {
	s := Spec{Name: "x", Datatype: FP32, Shape: []int64{-1, 3}}
	for _, c := range []struct {
		t  Tensor
		ok bool
	}{
		{Tensor{Datatype: FP32, Shape: []int64{7, 3}}, true},
		{Tensor{Datatype: FP32, Shape: []int64{7, 4}}, false},
		{Tensor{Datatype: FP64, Shape: []int64{7, 3}}, false},
		{Tensor{Datatype: FP32, Shape: []int64{3}}, false},
	} {
		if err := s.Accepts(&c.t); (err == nil) != c.ok {
			t.Errorf("%v: %v", c.t, err)
		}
	}
}

package classification

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/models/tensor"
)

func texts(t interface{ Fatal(...any) }, out tensor.Tensor) []string {
	parts, err := tensor.SplitBytes(out.Data)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]string, len(parts))
	for i, p := range parts {
		got[i] = string(p)
	}
	return got
}

func words(d tensor.Datatype, values ...uint64) []byte {
	var b []byte
	for _, v := range values {
		b = append(b, binary.LittleEndian.AppendUint64(nil, v)[:d.Size()]...)
	}
	return b
}

func TestApplyRanks(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	f := tensor.FromFloat32
	minus := ^uint64(0)
	for _, c := range []struct {
		name    string
		in      tensor.Tensor
		n       int
		batched bool
		labels  []string
		shape   []int64
		want    []string
	}{
		{"highest first, with labels", f("y", []int64{3}, []float32{.1, .7, .2}), 2, false, []string{"cat", "dog", "cow"}, []int64{2}, []string{"0.700000:1:dog", "0.200000:2:cow"}},
		{"a batch", f("y", []int64{2, 3}, []float32{.1, .7, .2, 3, 2, 1}), 1, true, []string{"a", "b"}, []int64{2, 1}, []string{"0.700000:1:b", "3.000000:0:a"}},
		{"no batch flattens", f("y", []int64{2, 2}, []float32{1, 4, 3, 2}), 3, false, nil, []int64{3}, []string{"4.000000:1", "3.000000:2", "2.000000:3"}},
		{"rows of two dimensions", f("y", []int64{1, 2, 2}, []float32{1, 4, 3, 2}), 9, true, nil, []int64{1, 4}, []string{"4.000000:1", "3.000000:2", "2.000000:3", "1.000000:0"}},
		{"labels too short", f("y", []int64{2}, []float32{1, 2}), 2, false, []string{"only"}, []int64{2}, []string{"2.000000:1", "1.000000:0:only"}},
		{"equal ones by index", f("y", []int64{4}, []float32{1, 1, 1, 1}), 3, false, nil, []int64{3}, []string{"1.000000:0", "1.000000:1", "1.000000:2"}},
		{"zeros are equal", f("y", []int64{2}, []float32{float32(math.Copysign(0, -1)), 0}), 2, false, nil, []int64{2}, []string{"-0.000000:0", "0.000000:1"}},
		{"nan last", f("y", []int64{4}, []float32{nan, -inf, inf, -1}), 4, false, nil, []int64{4}, []string{"inf:2", "-1.000000:3", "-inf:1", "nan:0"}},
		{"a row of one dimension", f("y", []int64{2}, []float32{5, 6}), 7, true, nil, []int64{2, 1}, []string{"5.000000:0", "6.000000:0"}},
		{"a scalar", f("y", nil, []float32{5}), 7, false, nil, []int64{1}, []string{"5.000000:0"}},
		{"no rows", f("y", []int64{0, 3}, nil), 2, true, nil, []int64{0, 2}, []string{}},
		{"no classes", f("y", []int64{3, 0}, nil), 2, true, nil, []int64{3, 0}, []string{}},
		{"uint8", tensor.Tensor{Datatype: tensor.Uint8, Shape: []int64{3}, Data: []byte{1, 255, 7}}, 2, false, nil, []int64{2}, []string{"255:1", "7:2"}},
		{"uint16", tensor.Tensor{Datatype: tensor.Uint16, Shape: []int64{2}, Data: words(tensor.Uint16, 1, 65535)}, 1, false, nil, []int64{1}, []string{"65535:1"}},
		{"uint32", tensor.Tensor{Datatype: tensor.Uint32, Shape: []int64{2}, Data: words(tensor.Uint32, 1, 1<<31)}, 1, false, nil, []int64{1}, []string{"2147483648:1"}},
		{"uint64", tensor.Tensor{Datatype: tensor.Uint64, Shape: []int64{2}, Data: words(tensor.Uint64, 1, minus)}, 1, false, nil, []int64{1}, []string{"18446744073709551615:1"}},
		{"int8", tensor.Tensor{Datatype: tensor.Int8, Shape: []int64{2}, Data: []byte{255, 3}}, 2, false, nil, []int64{2}, []string{"3:1", "-1:0"}},
		{"int16", tensor.Tensor{Datatype: tensor.Int16, Shape: []int64{2}, Data: words(tensor.Int16, minus, 3)}, 2, false, nil, []int64{2}, []string{"3:1", "-1:0"}},
		{"int32", tensor.Tensor{Datatype: tensor.Int32, Shape: []int64{2}, Data: words(tensor.Int32, minus, 3)}, 2, false, nil, []int64{2}, []string{"3:1", "-1:0"}},
		{"int64", tensor.Tensor{Datatype: tensor.Int64, Shape: []int64{2}, Data: words(tensor.Int64, 1<<63, 3)}, 2, false, nil, []int64{2}, []string{"3:1", "-9223372036854775808:0"}},
		{"fp16", tensor.Tensor{Datatype: tensor.FP16, Shape: []int64{6}, Data: words(tensor.FP16, 0x3c00, 0xc000, 0x0001, 0x7c00, 0x7e00, 0x7bff)}, 6, false, nil, []int64{6}, []string{"inf:3", "65504.000000:5", "1.000000:0", "0.000000:2", "-2.000000:1", "nan:4"}},
		{"bf16", tensor.Tensor{Datatype: tensor.BF16, Shape: []int64{2}, Data: words(tensor.BF16, 0x3f80, 0x4000)}, 1, false, nil, []int64{1}, []string{"2.000000:1"}},
		{"fp64", tensor.Tensor{Datatype: tensor.FP64, Shape: []int64{2}, Data: words(tensor.FP64, math.Float64bits(1), math.Float64bits(2.5))}, 1, false, nil, []int64{1}, []string{"2.500000:1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := Apply(c.in, c.n, c.batched, c.labels)
			if err != nil {
				t.Fatal(err)
			}
			if err := out.Validate(); err != nil {
				t.Error(err)
			}
			if out.Name != c.in.Name || out.Datatype != tensor.Bytes || !slices.Equal(out.Shape, c.shape) {
				t.Errorf("got %q %s %v, want %q BYTES %v", out.Name, out.Datatype, out.Shape, c.in.Name, c.shape)
			}
			if got := texts(t, out); !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestApplyRefuses(t *testing.T) {
	for _, c := range []struct {
		in      tensor.Tensor
		n       int
		batched bool
		say     string
	}{
		{tensor.FromFloat32("y", []int64{1}, []float32{1}), 0, false, "at least 1"},
		{tensor.FromFloat32("y", []int64{1}, []float32{1}), math.MinInt, false, "at least 1"},
		{tensor.FromFloat32("y", nil, []float32{1}), 1, true, "no batch dimension"},
		{tensor.FromStrings("y", "a"), 1, false, "BYTES"},
		{tensor.Tensor{Name: "y", Datatype: tensor.Bool, Shape: []int64{1}, Data: []byte{1}}, 1, false, "BOOL"},
		{tensor.Tensor{Name: "y", Datatype: tensor.FP32, Shape: []int64{2}, Data: []byte{1}}, 1, false, "needs 8 bytes"},
		{tensor.Tensor{Name: "y", Datatype: tensor.FP32, Shape: []int64{0, 1 << 62, 1 << 62}}, 1, true, "too many"},
		{tensor.Tensor{Name: "y", Datatype: tensor.Uint8, Shape: []int64{MaxResults + 1}, Data: make([]byte, MaxResults+1)}, math.MaxInt, false, "fewer classes"},
		{tensor.Tensor{Name: "y", Datatype: tensor.Uint8, Shape: []int64{1 << 11, 1 << 10}, Data: make([]byte, 1<<21)}, 1 << 10, true, "fewer classes"},
	} {
		_, err := Apply(c.in, c.n, c.batched, nil)
		var input *inference.InputError
		if !errors.As(err, &input) || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s %v, %d classes: %v, want an InputError with %q", c.in.Datatype, c.in.Shape, c.n, err, c.say)
		}
	}
}

// TestApplyIsASort compares with sorting everything, which is what it means.
func TestApplyIsASort(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Few values, so that many are equal.
		scores := rapid.SliceOfN(rapid.Int16Range(-5, 5), 1, 50).Draw(t, "scores")
		n := rapid.IntRange(1, 60).Draw(t, "n")
		var data []byte
		indices := make([]int, len(scores))
		for i, s := range scores {
			data = binary.LittleEndian.AppendUint16(data, uint16(s))
			indices[i] = i
		}
		slices.SortStableFunc(indices, func(a, b int) int { return cmp.Compare(scores[b], scores[a]) })
		var want []string
		for _, i := range indices[:min(n, len(indices))] {
			want = append(want, fmt.Sprintf("%d:%d", scores[i], i))
		}
		out, err := Apply(tensor.Tensor{Datatype: tensor.Int16, Shape: []int64{int64(len(scores))}, Data: data}, n, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := texts(t, out); !slices.Equal(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
	})
}

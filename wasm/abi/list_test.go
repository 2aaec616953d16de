package abi

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/models/tensor"
)

// tensorGen draws valid tensors, scalars and empty ones among them.
func tensorGen(name string) *rapid.Generator[tensor.Tensor] {
	return rapid.Custom(func(t *rapid.T) tensor.Tensor {
		out := tensor.Tensor{Name: name, Datatype: tensor.Datatype(rapid.IntRange(int(tensor.Bool), int(tensor.BF16)).Draw(t, "datatype"))}
		n := int64(1)
		for range rapid.IntRange(0, 4).Draw(t, "rank") {
			d := rapid.Int64Range(0, 4).Draw(t, "dimension")
			out.Shape = append(out.Shape, d)
			n *= d
		}
		if out.Datatype == tensor.Bytes {
			for range n {
				out.Data = tensor.AppendBytes(out.Data, rapid.SliceOfN(rapid.Byte(), 0, 9).Draw(t, "element"))
			}
		} else {
			size := int(n) * out.Datatype.Size()
			out.Data = rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, "data")
		}
		return out
	})
}

func TestListRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.StringN(1, 20, MaxName), 0, 6, rapid.ID).Draw(t, "names")
		var in []tensor.Tensor
		for _, name := range names {
			in = append(in, tensorGen(name).Draw(t, "tensor"))
		}
		list, err := Encode(in)
		if err != nil {
			t.Fatal(err)
		}
		out, err := Decode(list)
		if err != nil || len(out) != len(in) {
			t.Fatalf("%d tensors came back as %d: %v", len(in), len(out), err)
		}
		for i := range in {
			a, b := &in[i], &out[i]
			if a.Name != b.Name || a.Datatype != b.Datatype || !bytes.Equal(a.Data, b.Data) || len(a.Shape) != len(b.Shape) {
				t.Fatalf("tensor %d is %+v, was %+v", i, b, a)
			}
			for j := range a.Shape {
				if a.Shape[j] != b.Shape[j] {
					t.Fatalf("tensor %d is %+v, was %+v", i, b, a)
				}
			}
		}
		// Every strict beginning of a list, and a list with something after it, is refused.
		cut := rapid.IntRange(0, len(list)-1).Draw(t, "cut")
		if _, err := Decode(list[:cut]); err == nil {
			t.Fatalf("the first %d of %d bytes were accepted", cut, len(list))
		}
		if _, err := Decode(append(bytes.Clone(list), make([]byte, 8)...)); err == nil {
			t.Fatal("bytes after the list were accepted")
		}
	})
}

func TestDataIsAlignedInTheList(t *testing.T) {
	list, err := Encode([]tensor.Tensor{
		tensor.FromStrings("photo", "abc"),
		{Name: "x", Datatype: tensor.FP64, Data: []byte{1, 2, 3, 4, 5, 6, 7, 8}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if at := bytes.Index(list, []byte{1, 2, 3, 4, 5, 6, 7, 8}); at%Align != 0 {
		t.Fatalf("data lies at %d", at)
	}
}

// TestTheFormStays is the contract byte by byte: a guest built years ago must still be understood.
func TestTheFormStays(t *testing.T) {
	list, err := Encode([]tensor.Tensor{{Name: "ab", Datatype: tensor.FP16, Shape: []int64{1, 3}, Data: []byte{9, 8, 7, 6, 5, 4}}})
	if err != nil {
		t.Fatal(err)
	}
	want := []byte{
		1, 0, 0, 0, 48, 0, 0, 0,
		10, 2, 2, 0, 6, 0, 0, 0,
		1, 0, 0, 0, 0, 0, 0, 0,
		3, 0, 0, 0, 0, 0, 0, 0,
		'a', 'b', 0, 0, 0, 0, 0, 0,
		9, 8, 7, 6, 5, 4, 0, 0,
	}
	if !bytes.Equal(list, want) {
		t.Fatalf("list is\n%v, want\n%v", list, want)
	}
}

func TestEncodeRefusesWhatTheContractForbids(t *testing.T) {
	scalar := func(name string) tensor.Tensor {
		return tensor.Tensor{Name: name, Datatype: tensor.Uint8, Data: []byte{1}}
	}
	many := make([]tensor.Tensor, MaxTensors+1)
	for i := range many {
		many[i] = scalar(strings.Repeat("x", i+1))
	}
	for what, ts := range map[string][]tensor.Tensor{
		"no name":         {scalar("")},
		"a long name":     {scalar(strings.Repeat("x", MaxName+1))},
		"a name twice":    {scalar("x"), scalar("y"), scalar("x")},
		"no datatype":     {{Name: "x"}},
		"many tensors":    many,
		"many dimensions": {{Name: "x", Datatype: tensor.Uint8, Shape: make([]int64, MaxRank+1)}},
	} {
		if _, err := Encode(ts); err == nil {
			t.Errorf("%s was encoded", what)
		}
	}
	if err := Put(make([]byte, 5), []tensor.Tensor{scalar("x")}); err == nil {
		t.Error("a list was written into 5 bytes")
	}
	if _, err := Encode(many[:MaxTensors]); err != nil {
		t.Errorf("%d tensors: %v", MaxTensors, err)
	}
}

func TestReturnArea(t *testing.T) {
	var b [ReturnAreaSize]byte
	want := ReturnArea{Status: StatusGuestError, Ptr: math.MaxUint32, Len: 7}
	PutReturnArea(b[:], want)
	if got, err := ParseReturnArea(b[:]); err != nil || got != want {
		t.Fatalf("%+v, %v", got, err)
	}
	b[0] = 3
	if _, err := ParseReturnArea(b[:]); err == nil {
		t.Error("status 3 was accepted")
	}
	if _, err := ParseReturnArea(b[:11]); err == nil {
		t.Error("11 bytes were accepted")
	}
}

// FuzzDecode: no input panics, and what is accepted is the one encoding of what it means.
func FuzzDecode(f *testing.F) {
	for _, ts := range [][]tensor.Tensor{
		nil,
		{tensor.FromStrings("photo", "a", "", "bcd")},
		{tensor.FromFloat32("image", []int64{1, 2}, []float32{1, 2}), {Name: "n", Datatype: tensor.Int64, Data: make([]byte, 8)}},
	} {
		list, err := Encode(ts)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(list)
		f.Add(list[:len(list)-1])
	}
	f.Fuzz(func(t *testing.T, list []byte) {
		ts, err := Decode(list)
		if err != nil {
			return
		}
		again, err := Encode(ts)
		if err != nil {
			t.Fatalf("decoded but not encoded: %v", err)
		}
		if !bytes.Equal(again, list) {
			t.Fatalf("%x decodes to what encodes as %x", list, again)
		}
	})
}

func BenchmarkPutDecode602KB(b *testing.B) {
	ts := []tensor.Tensor{tensor.FromFloat32("image", []int64{1, 3, 224, 224}, make([]float32, 3*224*224))}
	size, err := Size(ts)
	if err != nil {
		b.Fatal(err)
	}
	dst := make([]byte, size)
	b.SetBytes(int64(size))
	for b.Loop() {
		if err := Put(dst, ts); err != nil {
			b.Fatal(err)
		}
		if _, err := Decode(dst); err != nil {
			b.Fatal(err)
		}
	}
}

// TestDecodingIntoRoomIsDecoding: whatever the room held, and however large it was, the list is read as without it; a
// list of the same form takes no allocation.
func TestDecodingIntoRoomIsDecoding(t *testing.T) {
	lists := [][]tensor.Tensor{
		{},
		{tensor.FromFloat32("x", []int64{2, 1}, []float32{1, 2})},
		{tensor.FromFloat32("y", []int64{1, 1, 3}, []float32{1, 2, 3}), tensor.FromStrings("x", "a", "b"), {Name: "z", Datatype: tensor.Uint8, Data: []byte{1}}},
	}
	var room []tensor.Tensor
	for i := range 9 {
		list, err := Encode(lists[(i*i)%len(lists)])
		if err != nil {
			t.Fatal(err)
		}
		want, err := Decode(list)
		if err != nil {
			t.Fatal(err)
		}
		if room, err = DecodeInto(room, list); err != nil || fmt.Sprint(room) != fmt.Sprint(want) {
			t.Fatalf("%v, want %v: %v", room, want, err)
		}
		if n := testing.AllocsPerRun(10, func() { _, _ = DecodeInto(room, list) }); n != 0 {
			t.Errorf("decoding list %d into its own room takes %v allocations", i, n)
		}
	}
}

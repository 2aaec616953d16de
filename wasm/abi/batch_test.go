package abi

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/models/tensor"
)

func TestBatchRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var requests [][]tensor.Tensor
		for range rapid.IntRange(1, 5).Draw(t, "requests") {
			var list []tensor.Tensor
			for _, name := range rapid.SliceOfNDistinct(rapid.StringN(1, 20, MaxName), 0, 3, rapid.ID).Draw(t, "names") {
				list = append(list, tensorGen(name).Draw(t, "tensor"))
			}
			requests = append(requests, list)
		}
		size, err := BatchSize(requests)
		if err != nil {
			t.Fatal(err)
		}
		batch := bytes.Repeat([]byte{0xa5}, size) // the padding has to be written, not found
		if err := PutBatch(batch, requests); err != nil {
			t.Fatal(err)
		}
		items, err := DecodeBatch(batch)
		if err != nil || len(items) != len(requests) {
			t.Fatalf("%d requests came back as %d: %v", len(requests), len(items), err)
		}
		for i := range items {
			want, err := Encode(requests[i])
			if err != nil || items[i].Status != StatusTensors || !bytes.Equal(items[i].Payload, want) {
				t.Fatalf("request %d is %+v, want %x (%v)", i, items[i], want, err)
			}
		}
		again, err := EncodeAnswers(items)
		if err != nil || !bytes.Equal(again, batch) {
			t.Fatalf("the same batch is encoded as %x and %x (%v)", again, batch, err)
		}
		cut := rapid.IntRange(0, len(batch)-1).Draw(t, "cut")
		if _, err := DecodeBatch(batch[:cut]); err == nil {
			t.Fatalf("the first %d of %d bytes were accepted", cut, len(batch))
		}
	})
}

func TestBatchBounds(t *testing.T) {
	if _, err := BatchSize(nil); err == nil {
		t.Error("a batch of nothing was accepted")
	}
	if _, err := BatchSize(make([][]tensor.Tensor, MaxBatch+1)); err == nil {
		t.Error("a batch that is too long was accepted")
	}
	if _, err := EncodeAnswers([]Item{{Status: StatusGuestError + 1}}); err == nil {
		t.Error("an unknown status was encoded")
	}
	for what, batch := range map[string][]byte{
		"no items":       {0, 0, 0, 0, 8, 0, 0, 0},
		"unknown status": {1, 0, 0, 0, 16, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0},
		"padding":        {1, 0, 0, 0, 24, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 'x', 0, 0, 1, 0, 0, 0, 0},
		"a wrong length": {1, 0, 0, 0, 24, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 'x', 0, 0, 0, 0, 0, 0, 0},
		"something left": {1, 0, 0, 0, 24, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
	} {
		if items, err := DecodeBatch(batch); err == nil {
			t.Errorf("%s: accepted as %+v", what, items)
		}
	}
}

func FuzzDecodeBatch(f *testing.F) {
	one, _ := EncodeAnswers([]Item{{StatusInputError, []byte("no photo")}, {StatusTensors, make([]byte, 8)}})
	f.Add(one)
	f.Fuzz(func(t *testing.T, b []byte) {
		items, err := DecodeBatch(b)
		if err != nil {
			return
		}
		if again, err := EncodeAnswers(items); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x was accepted and is encoded as %x (%v)", b, again, err)
		}
	})
}

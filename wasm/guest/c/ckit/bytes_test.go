package ckit

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
)

// tensors draws lists of every datatype, shape and length that the contract allows, small ones.
func tensors(t *rapid.T) []tensor.Tensor {
	names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-zé]{1,20}`), 0, 5, rapid.ID[string]).Draw(t, "names")
	list := make([]tensor.Tensor, len(names))
	for i := range list {
		list[i] = tensor.Tensor{
			Name:     names[i],
			Datatype: tensor.Datatype(rapid.IntRange(1, 14).Draw(t, "datatype")),
			Shape:    rapid.SliceOfN(rapid.Int64Range(0, 4), 0, 4).Draw(t, "shape"),
		}
		n, err := tensor.Elements(list[i].Shape)
		if err != nil {
			t.Fatal(err)
		}
		if list[i].Datatype == tensor.Bytes {
			for range n {
				list[i].Data = tensor.AppendBytes(list[i].Data, rapid.SliceOfN(rapid.Byte(), 0, 9).Draw(t, "string"))
			}
			continue
		}
		size := int(n) * list[i].Datatype.Size()
		list[i].Data = rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, "data")
	}
	return list
}

func encode(t interface{ Fatal(...any) }, list []tensor.Tensor) []byte {
	b, err := abi.Encode(list)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// agree hands the guest a list and holds its verdict against the host's own: what the host reads, the guest reads as the
// same, and what the host refuses, the guest refuses.
func agree(t interface {
	Fatal(...any)
	Fatalf(string, ...any)
}, g *Guest, list []byte) {
	status, payload := g.Ask(abi.ExportProcess, list)
	in, err := abi.Decode(list)
	switch {
	case err != nil && (status != abi.StatusGuestError || !strings.HasPrefix(string(payload), "cannot read the request: ")):
		t.Fatalf("the host says %v, the guest answers %d %q to %x", err, status, payload, list)
	case err == nil && strings.HasPrefix(string(payload), "cannot read the request: "):
		t.Fatalf("the guest cannot read what the host can: %q, %x", payload, list)
	case err == nil && status == abi.StatusTensors && len(in) > 0 && echoed[in[0].Name] && !bytes.Equal(payload, list):
		t.Fatalf("echo of %x is %x", list, payload)
	}
}

var echoed = map[string]bool{"gaps": true, "a": true, "EXACT": true}

func TestAnEchoIsTheSameBytes(t *testing.T) {
	g := Start(t, Build(t, "testdata/kit.c"))
	rapid.Check(t, func(r *rapid.T) {
		list := tensors(r)
		if len(list) > 0 {
			list[0].Name = rapid.SampledFrom([]string{"EXACT", "gaps"}).Draw(r, "first")
		}
		b := encode(r, list)
		if status, payload := g.Ask(abi.ExportProcess, b); status != abi.StatusTensors || !bytes.Equal(payload, b) {
			r.Fatalf("status %d, %x, want %x", status, payload, b)
		}
	})
}

// TestTheGuestRefusesWhatTheHostRefuses, for lists with a few bytes changed, cut off or added.
func TestTheGuestRefusesWhatTheHostRefuses(t *testing.T) {
	g := Start(t, Build(t, "testdata/kit.c"))
	rapid.Check(t, func(r *rapid.T) {
		list := tensors(r)
		if len(list) > 0 {
			list[0].Name = "EXACT"
		}
		b := encode(r, list)
		switch rapid.IntRange(0, 3).Draw(r, "damage") {
		case 0:
			b = b[:rapid.IntRange(0, len(b)).Draw(r, "length")]
			if len(b) >= 8 && rapid.Bool().Draw(r, "admitted") {
				binary.LittleEndian.PutUint32(b[4:], uint32(len(b)))
			}
		case 1:
			b = append(b, rapid.SliceOfN(rapid.Byte(), 1, 9).Draw(r, "more")...)
			binary.LittleEndian.PutUint32(b[4:], uint32(len(b)))
		default:
			for range rapid.IntRange(1, 3).Draw(r, "changes") {
				b[rapid.IntRange(0, len(b)-1).Draw(r, "at")] = rapid.SampledFrom([]byte{0, 1, 2, 4, 8, 13, 14, 15, 16, 17, 0x7f, 0x80, 0xff}).Draw(r, "byte")
			}
		}
		agree(r, g, b)
	})
}

func TestEveryTruncation(t *testing.T) {
	g := Start(t, Build(t, "testdata/kit.c"))
	whole := encode(t, []tensor.Tensor{
		tensor.FromStrings("a", "", "one", "three"),
		tensor.FromFloat32("b", []int64{1, 3}, []float32{1, 2, 3}),
		{Name: "c", Datatype: tensor.Bool, Data: []byte{1}},
	})
	for n := range whole {
		b := append([]byte(nil), whole[:n]...)
		agree(t, g, b)
		if n >= 8 {
			binary.LittleEndian.PutUint32(b[4:], uint32(n))
			agree(t, g, b)
		}
	}
	if status, payload := g.Ask(abi.ExportProcess, whole); status != abi.StatusTensors || !bytes.Equal(payload, whole) {
		t.Errorf("after all of them: %d %q", status, payload)
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(encode(f, nil))
	f.Add(encode(f, []tensor.Tensor{tensor.FromStrings("a", "", "one", "three"), tensor.FromFloat32("b", []int64{1, 3}, []float32{1, 2, 3})}))
	f.Add(encode(f, []tensor.Tensor{{Name: "x", Datatype: tensor.BF16, Shape: []int64{0, 1 << 40}}, {Name: "b", Datatype: tensor.FP64, Data: make([]byte, 8)}}))
	code := Build(f, "testdata/kit.c")
	g := Start(f, code)
	f.Fuzz(func(t *testing.T, list []byte) {
		if len(list) > 1<<16 || (len(list) > 20 && bytes.Contains(list, []byte("wrong"))) {
			return // that one traps when it is asked to
		}
		agree(t, g.For(t), list)
	})
}

// TestABatchIsItsRequestsOneByOne, errors and gaps between outputs included.
func TestABatchIsItsRequestsOneByOne(t *testing.T) {
	g := Start(t, Build(t, "testdata/kit.c"))
	wrong := func(what byte) []tensor.Tensor {
		return []tensor.Tensor{{Name: "wrong", Datatype: tensor.Uint8, Shape: []int64{1}, Data: []byte{what}}}
	}
	rapid.Check(t, func(r *rapid.T) {
		requests := make([][]tensor.Tensor, rapid.IntRange(1, 6).Draw(r, "requests"))
		want := make([]abi.Item, len(requests))
		for i := range requests {
			switch rapid.IntRange(0, 2).Draw(r, "kind") {
			case 0:
				requests[i] = wrong(byte(rapid.IntRange(0, 14).Draw(r, "what")))
			case 1:
				requests[i] = tensors(r)
				if len(requests[i]) > 0 {
					requests[i][0].Name = "gaps"
				}
			default:
				requests[i] = []tensor.Tensor{tensor.FromFloat32("rows", nil, []float32{1}), tensor.FromFloat32("x", []int64{4}, []float32{1, -1, 2, -2})}
			}
			status, payload := g.Ask(abi.ExportProcess, encode(r, requests[i]))
			want[i] = abi.Item{Status: status, Payload: payload}
		}
		status, payload := g.Ask(abi.ExportBatch, batch(r, requests))
		answers, err := abi.EncodeAnswers(want)
		if err != nil {
			r.Fatal(err)
		}
		if status != abi.StatusTensors || !bytes.Equal(payload, answers) {
			r.Fatalf("status %d, %x, want %x", status, payload, answers)
		}
	})
}

func batch(t interface{ Fatal(...any) }, requests [][]tensor.Tensor) []byte {
	size, err := abi.BatchSize(requests)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if err := abi.PutBatch(b, requests); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestTheGuestRefusesTheBatchesThatTheHostRefuses, and answers all others.
func TestTheGuestRefusesTheBatchesThatTheHostRefuses(t *testing.T) {
	g := Start(t, Build(t, "testdata/kit.c"))
	rapid.Check(t, func(r *rapid.T) {
		requests := make([][]tensor.Tensor, rapid.IntRange(1, 3).Draw(r, "requests"))
		for i := range requests {
			requests[i] = tensors(r)
		}
		b := batch(r, requests)
		if rapid.Bool().Draw(r, "cut") {
			b = b[:rapid.IntRange(0, len(b)).Draw(r, "length")]
			if len(b) >= 8 {
				binary.LittleEndian.PutUint32(b[4:], uint32(len(b)))
			}
		} else {
			b[rapid.IntRange(0, len(b)-1).Draw(r, "at")] = rapid.Byte().Draw(r, "byte")
		}
		_, err := abi.DecodeBatch(b)
		status, payload := g.Ask(abi.ExportBatch, b)
		if refused := status == abi.StatusGuestError && strings.HasPrefix(string(payload), "cannot read the batch: "); refused != (err != nil) {
			r.Fatalf("the host says %v, the guest %d %q", err, status, payload)
		}
		if err == nil {
			if _, err := abi.DecodeBatch(payload); err != nil || status != abi.StatusTensors {
				r.Fatalf("status %d, %v", status, err)
			}
		}
	})
}

// TestMemoryIsUsedAgain: an instance that is kept for many requests does not grow with their number.
func TestMemoryIsUsedAgain(t *testing.T) {
	g := Start(t, Build(t, "testdata/kit.c"))
	small := encode(t, []tensor.Tensor{{Name: "gaps", Datatype: tensor.Uint8, Shape: []int64{100_000}, Data: make([]byte, 100_000)}})
	g.Ask(abi.ExportProcess, small)
	g.Ask(abi.ExportBatch, batch(t, [][]tensor.Tensor{{{Name: "gaps", Datatype: tensor.Uint8, Shape: []int64{100_000}, Data: make([]byte, 100_000)}}}))
	before := g.Memory()
	for range 200 {
		g.Ask(abi.ExportProcess, small)
	}
	if after := g.Memory(); after != before {
		t.Errorf("memory grew from %d to %d bytes", before, after)
	}
	if room := g.Call(abi.ExportRealloc, 0, 0, 8, 1<<30+1); room != 0 {
		t.Errorf("room beyond the contract's bound at %d", room)
	}
	if room := g.Call(abi.ExportRealloc, 8, 8, 8, 16); room != 0 {
		t.Errorf("a new size for old room: %d", room)
	}
}

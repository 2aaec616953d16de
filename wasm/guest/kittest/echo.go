package kittest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
	"github.com/dhowfleet/dhow/wasm/host"
)

// Tensor draws a valid tensor, scalars and empty ones among them.
func Tensor(name string) *rapid.Generator[tensor.Tensor] {
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
				out.Data = tensor.AppendBytes(out.Data, rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "element"))
			}
		} else {
			size := int(n) * out.Datatype.Size()
			out.Data = rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, "data")
		}
		return out
	})
}

// List draws the encoding of up to five tensors. Their names are not those that mean something to an echo guest.
func List() *rapid.Generator[[]byte] {
	return rapid.Custom(func(t *rapid.T) []byte {
		var in []tensor.Tensor
		for _, name := range rapid.SliceOfNDistinct(rapid.StringN(1, 20, abi.MaxName-1), 0, 5, rapid.ID).Draw(t, "names") {
			in = append(in, Tensor(">"+name).Draw(t, "tensor"))
		}
		list, err := abi.Encode(in)
		if err != nil {
			t.Fatal(err)
		}
		return list
	})
}

// Echo runs every test on an echo guest.
func Echo(t *testing.T, code []byte) {
	b := NewBare(t, code, nil)
	t.Run("every list comes back", func(t *testing.T) { b.lists(t) })
	t.Run("damaged lists", func(t *testing.T) { b.damaged(t) })
	t.Run("batches", func(t *testing.T) { b.batches(t) })
	t.Run("memory", func(t *testing.T) { b.memory(t) })
	t.Run("in the host", func(t *testing.T) { inHost(t, code) })
	t.Run("faults", func(t *testing.T) { faults(t, code) })
}

func (b *Bare) lists(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := List().Draw(t, "list")
		item, err := b.Answer(abi.ExportProcess, list)
		if err != nil || item.Status != abi.StatusTensors || !bytes.Equal(item.Payload, list) {
			t.Fatalf("%x came back as %+v, %v", list, item, err)
		}
	})
}

// judge holds an answer to a list of any bytes against package abi, which tells the sound from the damaged.
func judge(list []byte, item abi.Item, err error) error {
	_, problem := abi.Decode(list)
	switch {
	case err != nil:
		return fmt.Errorf("%x made the guest trap: %v", list, err)
	case problem == nil && (item.Status != abi.StatusTensors || !bytes.Equal(item.Payload, list)):
		return fmt.Errorf("%x is sound, the guest says %d %q", list, item.Status, item.Payload)
	case problem != nil && item.Status != abi.StatusGuestError:
		return fmt.Errorf("%x is damaged (%v), the guest says %d %x", list, problem, item.Status, item.Payload)
	case problem != nil && !bytes.HasPrefix(item.Payload, []byte("cannot read the request: ")):
		return fmt.Errorf("%x: the guest says %q", list, item.Payload)
	}
	return nil
}

// sample is a list of several kinds of tensors whose bytes are all worth damaging.
func sample(t testing.TB) []byte {
	t.Helper()
	list, err := abi.Encode([]tensor.Tensor{
		tensor.FromStrings(">b", "", "one", "a longer element"),
		{Name: ">a name of more than eight bytes", Datatype: tensor.Uint16, Shape: []int64{1, 3}, Data: []byte{1, 2, 3, 4, 5, 6}},
		{Name: ">none", Datatype: tensor.FP64, Shape: []int64{2, 0}},
		{Name: ">scalar", Datatype: tensor.Bool, Data: []byte{1}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// truncations are all beginnings of a list or batch, as they are and with a header that gives their length.
func truncations(whole []byte) [][]byte {
	var out [][]byte
	for n := range whole {
		out = append(out, whole[:n])
		if n >= 8 {
			cut := bytes.Clone(whole[:n])
			binary.LittleEndian.PutUint32(cut[4:], uint32(n))
			out = append(out, cut)
		}
	}
	return out
}

// damaged hands in every truncation, every byte changed in several ways, and lists damaged at random.
func (b *Bare) damaged(t *testing.T) {
	whole := sample(t)
	lists := append(truncations(whole), append(bytes.Clone(whole), make([]byte, 8)...))
	for i := range whole {
		for _, c := range []byte{0, 1, 2, 13, 14, 15, 17, 0x7f, 0x80, 0xff, whole[i] + 1, whole[i] - 1} {
			mutant := bytes.Clone(whole)
			mutant[i] = c
			lists = append(lists, mutant)
		}
	}
	for _, list := range lists {
		item, err := b.Answer(abi.ExportProcess, list)
		if err := judge(list, item, err); err != nil {
			t.Fatal(err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		list := List().Draw(t, "list")
		for range rapid.IntRange(1, 4).Draw(t, "changes") {
			at := rapid.IntRange(0, len(list)-1).Draw(t, "at")
			switch rapid.IntRange(0, 2).Draw(t, "kind") {
			case 0:
				list[at] = rapid.Byte().Draw(t, "byte")
			case 1:
				at &^= 7
				copy(list[at:], rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "word"))
			default:
				binary.LittleEndian.PutUint32(list[at&^3:], rapid.SampledFrom([]uint32{0, 1, 7, 8, 1 << 31, 1<<32 - 1, 1<<32 - 7}).Draw(t, "length"))
			}
		}
		item, err := b.Answer(abi.ExportProcess, list)
		if err := judge(list, item, err); err != nil {
			t.Fatal(err)
		}
	})
}

func batch(lists ...[]byte) []byte {
	items := make([]abi.Item, len(lists))
	for i := range lists {
		items[i].Payload = lists[i]
	}
	out, err := abi.EncodeAnswers(items)
	if err != nil {
		panic(err)
	}
	return out
}

func (b *Bare) batches(t *testing.T) {
	fail, err := abi.Encode([]tensor.Tensor{tensor.FromStrings("fail", "x")})
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		lists := rapid.SliceOfN(List(), 1, 6).Draw(t, "lists")
		bad := rapid.IntRange(0, len(lists)-1).Draw(t, "bad one")
		lists[bad] = fail
		if len(lists) > 1 { // and one that is damaged
			other := (bad + 1) % len(lists)
			lists[other] = lists[other][:len(lists[other])-rapid.IntRange(1, 8).Draw(t, "cut")]
		}
		item, err := b.Answer(abi.ExportBatch, batch(lists...))
		if err != nil || item.Status != abi.StatusTensors {
			t.Fatalf("%d %q, %v", item.Status, item.Payload, err)
		}
		answers, err := abi.DecodeBatch(item.Payload)
		if err != nil || len(answers) != len(lists) {
			t.Fatalf("%d requests have %d answers: %v", len(lists), len(answers), err)
		}
		for i, a := range answers {
			if i == bad {
				if a.Status != abi.StatusInputError || string(a.Payload) != "no photo" {
					t.Fatalf("answer %d is %d %q", i, a.Status, a.Payload)
				}
				continue
			}
			if err := judge(lists[i], a, nil); err != nil {
				t.Fatal(err)
			}
		}
	})
	whole := batch(sample(t), fail, sample(t))
	refused := append(truncations(whole), append(bytes.Clone(whole), make([]byte, 8)...),
		[]byte{0, 0, 0, 0, 8, 0, 0, 0},                                     // no items
		append([]byte{1, 1, 0, 0, 8, 8, 0, 0}, make([]byte, 8*257-8+8)...)) // 257 items
	for _, b8 := range []int{8, 9, len(whole) - 1} { // a status, and padding
		mutant := bytes.Clone(whole)
		mutant[b8] ^= 0x40
		if _, err := abi.DecodeBatch(mutant); err != nil || b8 == 8 {
			refused = append(refused, mutant)
		}
	}
	for _, cut := range refused {
		item, err := b.Answer(abi.ExportBatch, cut)
		if err != nil || item.Status != abi.StatusGuestError || !bytes.HasPrefix(item.Payload, []byte("cannot read the batch: ")) {
			t.Fatalf("%x: %d %q, %v", cut, item.Status, item.Payload, err)
		}
	}
}

// memory: an instance that keeps its state answers thousands of requests, of changing sizes, in the memory that one takes.
func (b *Bare) memory(t *testing.T) {
	large := tensor.Tensor{Name: ">x", Datatype: tensor.Uint8, Shape: []int64{2 << 20}, Data: make([]byte, 2<<20)}
	small := tensor.Tensor{Name: ">x", Datatype: tensor.Uint8, Shape: []int64{4096}, Data: make([]byte, 4096)}
	for round := range 3 {
		for _, x := range []tensor.Tensor{large, small} {
			list, err := abi.Encode([]tensor.Tensor{x})
			if err != nil {
				t.Fatal(err)
			}
			for range 10 {
				if item, err := b.Answer(abi.ExportProcess, list); err != nil || item.Status != abi.StatusTensors || !bytes.Equal(item.Payload, list) {
					t.Fatalf("round %d: %d, %v", round, item.Status, err)
				}
			}
		}
	}
	if b.Memory() > 12<<20 {
		t.Errorf("after requests of 2 MiB the instance has %d KiB of memory", b.Memory()>>10)
	}
}

// sink keeps what a guest emitted.
type sink struct{ got []string }

func (s *sink) Feature(name string, v float64) { s.got = append(s.got, fmt.Sprint(name, "=", v)) }
func (s *sink) Count(name string, n uint64)    { s.got = append(s.got, fmt.Sprint(name, "+", n)) }

func one(name string) []tensor.Tensor { return []tensor.Tensor{tensor.FromStrings(name, "x")} }

func inHost(t *testing.T, code []byte) {
	ctx := context.Background()
	var logged bytes.Buffer
	m := Compile(t, code, host.Options{
		Name: "echo.wasm", Configuration: []byte("á\nb\n"), Counters: []string{"known"}, Features: []string{"bright"},
		Logger: slog.New(slog.NewTextHandler(&logged, nil)),
	})
	s := &sink{}
	in := append(one("emit"), tensor.FromFloat32("y", []int64{2, 1}, []float32{1, 2}))
	out, err := m.Process(ctx, in, s)
	if err != nil || fmt.Sprint(out) != fmt.Sprint(in) {
		t.Errorf("%v, %v", out, err)
	}
	if got := strings.Join(s.got, " "); got != "known+3 bright=0.5" {
		t.Errorf("emitted %q", got)
	}
	if !strings.Contains(logged.String(), "level=WARN") || !strings.Contains(logged.String(), "so far so good") {
		t.Errorf("logged %q", logged.String())
	}
	if out, err = m.Process(ctx, one("configuration"), nil); err != nil || len(out) != 1 || string(out[0].Data[4:]) != "á\nb\n" || out[0].Validate() != nil {
		t.Errorf("the configuration is %v, %v", out, err)
	}
	for mode, want := range map[string]host.GuestError{
		"fail": {Input: true, Message: "no photo"}, "break": {Message: "lost"}, "large": {Message: `tensor "large"`}, "twice": {Message: `tensor name "x" occurs twice`}, "short": {Message: "given 1 element"},
	} {
		in := one(mode)
		if mode == "twice" {
			in = append(in, tensor.FromStrings("x"))
		}
		var got *host.GuestError
		if _, err := m.Process(ctx, in, nil); !errors.As(err, &got) || got.Input != want.Input || !strings.Contains(got.Message, want.Message) {
			t.Errorf("%s: %v", mode, err)
		}
	}
	r, err := host.NewRuntime(ctx, host.Config{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Compile(ctx, code, host.Options{Configuration: []byte("refuse me")})
	if !errors.Is(err, host.ErrTrap) || !strings.Contains(err.Error(), "refuses its configuration: these labels are not mine") {
		t.Errorf("a refused configuration: %v", err)
	}
}

// faults: a guest that breaks or does not end fails its request alone.
func faults(t *testing.T, code []byte) {
	m := Compile(t, code, host.Options{Limits: host.Limits{Memory: 8 << 20, Timeout: time.Second}, Instances: 1})
	for mode, c := range map[string]struct {
		errs []error
		text string
	}{
		"panic": {[]error{host.ErrTrap}, "so be it"},
		"deep":  {[]error{host.ErrTrap, host.ErrStack}, ""}, // a language may have a stack of its own in linear memory, which may end first
		"hoard": {[]error{host.ErrTrap}, ""},
		"spin":  {[]error{host.ErrDeadline}, ""},
	} {
		_, err := m.Process(context.Background(), one(mode), nil)
		named := slices.ContainsFunc(c.errs, func(e error) bool { return errors.Is(err, e) })
		if !named || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", mode, err)
		} else {
			t.Logf("%s: %v", mode, err)
		}
		if out, err := m.Process(context.Background(), one("after"), nil); err != nil || len(out) != 1 {
			t.Errorf("the request after %s: %v, %v", mode, out, err)
		}
	}
}

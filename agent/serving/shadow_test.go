package serving

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host"
)

// reading keeps what it was asked.
type reading struct {
	*fake
	asked [][]tensor.Tensor
}

func (r *reading) Infer(ctx context.Context, in []tensor.Tensor, wanted []string, sink host.Sink) ([]tensor.Tensor, error) {
	r.asked = append(r.asked, in)
	return r.fake.Infer(ctx, in, wanted, sink)
}

func TestAShadowGetsCopiesAndAnswersNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		table := NewTable(Options{Recorder: rec})
		dark := &reading{fake: newFake("dark")}
		dark.run = func(context.Context, host.Sink) error { time.Sleep(time.Second); return errors.New("it fails") }
		table.Set("m", []Variant{
			{Version: "1", Role: baseline, Runner: newFake("1")},
			{Version: "dark", Role: shadow, ShareMillionths: 250_000, Runner: dark},
		})
		const requests = 400
		for i := range requests {
			data := []byte(fmt.Sprintf("request %03d", i))
			before := time.Now()
			got := infer(t, table, Request{Model: "m", ID: fmt.Sprint(i), Inputs: []tensor.Tensor{{Name: "x", Datatype: tensor.Uint8, Shape: []int64{11}, Data: data}}})
			if got != "1" || time.Since(before) != 0 {
				t.Fatalf("%s answered after %v", got, time.Since(before))
			}
			clear(data) // it is the caller's again
			time.Sleep(2 * time.Second)
		}
		synctest.Wait()
		shadows := 0
		for _, o := range rec.seen {
			if o.Version == "dark" {
				shadows++
				if o.Role != shadow || o.RequestID == "" || o.Code == 0 {
					t.Fatalf("%+v", o)
				}
			}
		}
		if shadows < requests/4-50 || shadows > requests/4+50 || len(rec.seen) != requests+shadows || len(dark.asked) != shadows {
			t.Fatalf("%d requests, %d copies, %d records", requests, shadows, len(rec.seen))
		}
		for _, in := range dark.asked {
			if !bytes.HasPrefix(in[0].Data, []byte("request ")) || in[0].Name != "x" || in[0].Shape[0] != 11 {
				t.Fatalf("the shadow was asked %+v", in[0])
			}
		}
		if table.Dropped() != 0 {
			t.Fatalf("%d were dropped", table.Dropped())
		}
	})
}

func TestCopiesAreBoundedAndTheShadowIsClosedAfterThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := NewTable(Options{Concurrency: 2, Queue: 1000})
		dark, end := blocking("dark")
		table.Set("m", []Variant{
			{Version: "1", Role: baseline, Runner: newFake("1")},
			{Version: "dark", Role: shadow, ShareMillionths: 1_000_000, Runner: dark},
		})
		inputs := []tensor.Tensor{{Name: "x", Datatype: tensor.Uint8, Shape: []int64{1}, Data: []byte{1}}}
		// One copy computes. The next request waits for a place neither, since the second one is free.
		for range maxCopies + 10 {
			infer(t, table, Request{Model: "m", Inputs: inputs})
			synctest.Wait()
			if table.copies.number.Load() >= 2 {
				break // both places are taken by copies from here on
			}
		}
		drain := table.Set("m", []Variant{{Version: "2", Role: baseline, Runner: newFake("2")}})
		synctest.Wait()
		if dark.closed.Load() {
			t.Fatal("the shadow was closed under its copies")
		}
		close(end)
		if err := drain.Wait(t.Context()); err != nil || !dark.closed.Load() {
			t.Fatalf("%v, closed %v", err, dark.closed.Load())
		}
		if n, size := table.copies.number.Load(), table.copies.size.Load(); n != 0 || size != 0 {
			t.Fatalf("%d copies of %d bytes are left", n, size)
		}
	})
}

func TestTooManyCopiesAreNotMade(t *testing.T) {
	table := NewTable(Options{})
	table.Set("m", []Variant{
		{Version: "1", Role: baseline, Runner: newFake("1")},
		{Version: "dark", Role: shadow, ShareMillionths: 1_000_000, Runner: newFake("dark")},
	})
	big := []tensor.Tensor{{Name: "x", Datatype: tensor.Uint8, Shape: []int64{maxCopiedSize + 1}, Data: make([]byte, maxCopiedSize+1)}}
	infer(t, table, Request{Model: "m", Inputs: big})
	table.copies.number.Store(maxCopies)
	infer(t, table, Request{Model: "m"})
	if table.Dropped() != 2 || table.copies.number.Load() != maxCopies || table.copies.size.Load() != 0 {
		t.Fatalf("%d dropped, %d copies, %d bytes", table.Dropped(), table.copies.number.Load(), table.copies.size.Load())
	}
}

func TestARequestThatHadNoPlaceIsNotCopied(t *testing.T) {
	table := NewTable(Options{})
	failing := newFake("1")
	failing.run = func(context.Context, host.Sink) error { return context.DeadlineExceeded }
	dark := &reading{fake: newFake("dark")}
	table.Set("m", []Variant{
		{Version: "1", Role: baseline, Runner: failing},
		{Version: "dark", Role: shadow, ShareMillionths: 1_000_000, Runner: dark},
	})
	if _, err := table.Infer(t.Context(), Request{Model: "m"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if err := table.Close(t.Context()); err != nil || len(dark.asked) != 0 || table.Dropped() != 1 {
		t.Fatalf("%v, asked %d times, %d dropped", err, len(dark.asked), table.Dropped())
	}
}

package host

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
	"github.com/dhowfleet/dhow/wasm/wasmtest"
)

func batch(modes ...string) [][]tensor.Tensor {
	out := make([][]tensor.Tensor, len(modes))
	for i, m := range modes {
		out[i] = request(m)
	}
	return out
}

// TestABatchIsAnsweredInOneCall, each request by its own answer, and what was emitted comes back.
func TestABatchIsAnsweredInOneCall(t *testing.T) {
	m := goModule(t)
	if !m.Info().Batches {
		t.Fatal("the Go guest takes no batches")
	}
	before := m.Stats()
	s := &sink{}
	answers := m.Batch(context.Background(), batch("a", "emit then fail", "panic", "emit", "b"), s)
	if after := m.Stats(); after.Resets != before.Resets+1 {
		t.Errorf("it took %d calls", after.Resets-before.Resets)
	}
	for i, want := range []string{"a", "no  \uFFFDphoto here", "panic: so be it", "emit", "b"} {
		switch a := answers[i]; {
		case i == 1 || i == 2:
			var guestErr *GuestError
			if !errors.As(a.Err, &guestErr) || guestErr.Message != want || guestErr.Input != (i == 1) {
				t.Errorf("answer %d: %v", i, a.Err)
			}
		case a.Err != nil || len(a.Tensors) != 1 || a.Tensors[0].Name != want:
			t.Errorf("answer %d: %v, %v", i, a.Tensors, a.Err)
		}
	}
	if got := strings.Join(s.got, " "); got != "known+1 known+3 bright=0.5" {
		t.Errorf("emitted %q", got)
	}
}

// TestOneRequestOfABatchCannotTakeTheOthersAlong: when the common call fails, each is asked by itself.
func TestOneRequestOfABatchCannotTakeTheOthersAlong(t *testing.T) {
	s := &sink{}
	m := goModule(t)
	modes := []string{"emit", "exit", "calls", "hoard", "last"}
	answers := m.Batch(context.Background(), batch(modes...), s)
	for i, a := range answers {
		if failed := errors.Is(a.Err, ErrTrap); failed != (modes[i] == "exit" || modes[i] == "hoard") || (a.Err != nil) != failed {
			t.Errorf("%s: %v", modes[i], a.Err)
		}
	}
	if len(s.got) != 2 {
		t.Errorf("emitted %v, once is enough", s.got)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, a := range m.Batch(ctx, batch("a", "b"), nil) {
		if !errors.Is(a.Err, context.Canceled) {
			t.Errorf("%v", a.Err)
		}
	}
}

// TestBatchesOfAnySize: none, one, more than the contract allows in one call, and more than the memory holds.
func TestBatchesOfAnySize(t *testing.T) {
	m := goModule(t)
	for _, n := range []int{0, 1, abi.MaxBatch + 3} {
		modes := make([]string, n)
		for i := range modes {
			modes[i] = fmt.Sprint("r", i)
		}
		answers := m.Batch(context.Background(), batch(modes...), nil)
		if len(answers) != n {
			t.Fatalf("%d answers to %d requests", len(answers), n)
		}
		for i, a := range answers {
			if a.Err != nil || a.Tensors[0].Name != modes[i] {
				t.Errorf("answer %d of %d: %v, %v", i, n, a.Tensors, a.Err)
			}
		}
	}
	large := append([][]tensor.Tensor{bytesOf(40 << 20), {{Name: "no datatype"}}}, batch("small")...)
	answers := m.Batch(context.Background(), large, nil)
	var guestErr *GuestError
	for i := range 2 {
		if !errors.As(answers[i].Err, &guestErr) || !guestErr.Input {
			t.Errorf("answer %d: %v", i, answers[i].Err)
		}
	}
	if answers[2].Err != nil || answers[2].Tensors[0].Name != "small" {
		t.Errorf("%v", answers[2])
	}
}

// TestWhatAGuestReturnsForABatchIsNotBelieved: the number of answers, their statuses and their lists are checked, and the
// requests are then asked one by one.
func TestWhatAGuestReturnsForABatchIsNotBelieved(t *testing.T) {
	encode := func(items ...abi.Item) []byte {
		b, err := abi.EncodeAnswers(items)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	empty := abi.Item{Payload: wasmtest.EmptyList}
	for what, c := range map[string]struct {
		area    abi.ReturnArea
		payload []byte
		traps   uint64
		err     string // of every answer
	}{
		"two answers":      {payload: encode(empty, empty)},
		"one answer":       {payload: encode(empty), traps: 1},
		"three answers":    {payload: encode(empty, empty, empty), traps: 1},
		"a broken list":    {payload: encode(empty, abi.Item{Payload: []byte("broken list")}), traps: 1},
		"no batch":         {payload: wasmtest.EmptyList, traps: 1},
		"a refusal of all": {area: abi.ReturnArea{Status: abi.StatusGuestError}, payload: []byte("not today"), err: "not today"},
		"a result outside": {area: abi.ReturnArea{Ptr: 1 << 16, Len: 8}, traps: 1},
	} {
		t.Run(what, func(t *testing.T) {
			g := wasmtest.NewGuest()
			both := wasmtest.Sig{Params: wasmtest.Repeat(wasmtest.I32, 2), Results: []wasmtest.Type{wasmtest.I32}}
			g.Export(abi.ExportBatch, wasmtest.KindFunction, g.Func(both, wasmtest.I32Const(wasmtest.AnswerAt)).Index)
			g.Area, g.Payload = c.area, c.payload
			// Asked one by one, it answers with a list of no tensors from elsewhere.
			g.Data(1024, []byte{0, 0, 0, 0, 0x10, 4, 0, 0, 8, 0, 0, 0})
			g.Data(1040, wasmtest.EmptyList)
			g.Process.Body(wasmtest.I32Const(1024))
			m := module(t, g, Options{})
			for i, a := range m.Batch(context.Background(), batch("a", "b"), nil) {
				if c.err == "" && a.Err != nil || c.err != "" && (a.Err == nil || a.Err.Error() != c.err) {
					t.Errorf("answer %d: %v", i, a.Err)
				}
			}
			if s := m.Stats(); s.Traps != c.traps || s.Started != 1 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestTheLimitsOfABatchAreThoseOfAsManyCalls.
func TestTheLimitsOfABatchAreThoseOfAsManyCalls(t *testing.T) {
	for _, c := range [][3]int64{{7, 3, 21}, {math.MaxInt64, 2, math.MaxInt64}, {math.MaxInt64 / 2, 3, math.MaxInt64}, {int64(time.Second), 256, int64(256 * time.Second)}} {
		if got := times(c[0], c[1]); got != c[2] {
			t.Errorf("%d times %d is %d", c[0], c[1], got)
		}
	}
}

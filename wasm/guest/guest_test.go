package guest

import (
	"errors"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
)

func TestAnswerTellsWhoseFaultItIs(t *testing.T) {
	list, err := abi.Encode([]tensor.Tensor{tensor.FromStrings("x", "a")})
	if err != nil {
		t.Fatal(err)
	}
	var nothing []int
	for what, c := range map[string]struct {
		handler Handler
		list    []byte
		status  abi.Status
		text    string
	}{
		"a result":         {func(in []tensor.Tensor) ([]tensor.Tensor, error) { return in, nil }, list, abi.StatusTensors, ""},
		"a bad request":    {func([]tensor.Tensor) ([]tensor.Tensor, error) { return nil, InputError("no photo") }, list, abi.StatusInputError, "no photo"},
		"another error":    {func([]tensor.Tensor) ([]tensor.Tensor, error) { return nil, errors.New("lost") }, list, abi.StatusGuestError, "lost"},
		"a panic":          {func([]tensor.Tensor) ([]tensor.Tensor, error) { _ = nothing[len(list)]; return nil, nil }, list, abi.StatusGuestError, "panic: runtime error: index out of range"},
		"a panic of text":  {func([]tensor.Tensor) ([]tensor.Tensor, error) { panic("so") }, list, abi.StatusGuestError, "panic: so"},
		"no handler":       {nil, list, abi.StatusGuestError, "guest.Handle"},
		"a broken request": {func(in []tensor.Tensor) ([]tensor.Tensor, error) { return in, nil }, list[:9], abi.StatusGuestError, "cannot read the request"},
		"a broken result":  {func([]tensor.Tensor) ([]tensor.Tensor, error) { return []tensor.Tensor{{Name: "x"}}, nil }, list, abi.StatusGuestError, "cannot encode the result"},
	} {
		t.Run(what, func(t *testing.T) {
			Handle(c.handler)
			defer Handle(nil)
			status, payload := answer(c.list)
			if status != c.status || (status != abi.StatusTensors && !strings.Contains(string(payload), c.text)) {
				t.Fatalf("status %d, %q", status, payload)
			}
			if status == abi.StatusTensors && string(payload) != string(list) {
				t.Fatalf("payload %x, want %x", payload, list)
			}
		})
	}
}

func TestConfigurationCanBeRefused(t *testing.T) {
	defer OnConfigure(nil)
	if !setConfiguration([]byte("a")) || string(Configuration()) != "a" {
		t.Fatal("a configuration that nobody reads was refused")
	}
	OnConfigure(func(c []byte) error { return errors.New("no labels") })
	if setConfiguration(nil) {
		t.Fatal("a refused configuration was accepted")
	}
	OnConfigure(func(c []byte) error { panic("so") })
	if setConfiguration(nil) {
		t.Fatal("a panic was accepted")
	}
}

func TestABatchAnswersEachRequestByItself(t *testing.T) {
	Handle(func(in []tensor.Tensor) ([]tensor.Tensor, error) {
		if in[0].Name == "bad" {
			return nil, InputError("no photo")
		}
		return in, nil
	})
	defer Handle(nil)
	requests := [][]tensor.Tensor{
		{tensor.FromStrings("x", "first")},
		{tensor.FromStrings("bad", "")},
		{tensor.FromStrings("x", "last, and longer than the first")},
	}
	size, err := abi.BatchSize(requests)
	if err != nil {
		t.Fatal(err)
	}
	batch := make([]byte, size)
	if err := abi.PutBatch(batch, requests); err != nil {
		t.Fatal(err)
	}
	status, payload := answerBatch(batch)
	items, err := abi.DecodeBatch(payload)
	if status != abi.StatusTensors || err != nil || len(items) != len(requests) {
		t.Fatalf("status %d, %d items, %v", status, len(items), err)
	}
	for i := range requests {
		want, err := abi.Encode(requests[i])
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case i == 1:
			if items[i].Status != abi.StatusInputError || string(items[i].Payload) != "no photo" {
				t.Errorf("item %d is %d %q", i, items[i].Status, items[i].Payload)
			}
		case items[i].Status != abi.StatusTensors || string(items[i].Payload) != string(want):
			t.Errorf("item %d is %d %x, want %x", i, items[i].Status, items[i].Payload, want)
		}
	}
	if status, payload := answerBatch(batch[:size-8]); status != abi.StatusGuestError || !strings.Contains(string(payload), "cannot read the batch") {
		t.Errorf("a batch that is cut off: %d %q", status, payload)
	}
}

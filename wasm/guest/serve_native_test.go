//go:build !wasip1

package guest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
)

func frames(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(p))), p...)
	}
	return b
}

// replies takes apart what serve wrote.
func replies(t *testing.T, b []byte) (status []abi.Status, payload []string) {
	t.Helper()
	for len(b) > 0 {
		if len(b) < 16 || uint32(len(b)-16) < binary.LittleEndian.Uint32(b[12:]) {
			t.Fatalf("a reply is cut off: %x", b)
		}
		n := 16 + int(binary.LittleEndian.Uint32(b[12:]))
		status, payload = append(status, abi.Status(binary.LittleEndian.Uint32(b[8:]))), append(payload, string(b[16:n]))
		b = b[n:]
	}
	return status, payload
}

func TestServeAnswersWhatTheModuleWould(t *testing.T) {
	OnConfigure(func(c []byte) error {
		if string(c) != "labels" {
			return errors.New("no labels")
		}
		return nil
	})
	Handle(func(in []tensor.Tensor) ([]tensor.Tensor, error) {
		if in[0].Name == "bad" {
			return nil, InputError("no photo")
		}
		return in, nil
	})
	defer func() { OnConfigure(nil); Handle(nil) }()
	good, _ := abi.Encode([]tensor.Tensor{tensor.FromStrings("x", "a", strings.Repeat("b", 100_000))})
	bad, _ := abi.Encode([]tensor.Tensor{tensor.FromStrings("bad")})
	var out bytes.Buffer
	if err := serve(bytes.NewReader(frames([]byte("labels"), good, bad, []byte("junk"), good)), &out); err != nil {
		t.Fatal(err)
	}
	status, payload := replies(t, out.Bytes())
	want := []string{"", string(good), "no photo", "cannot read the request", string(good)}
	if len(status) != len(want) || status[2] != abi.StatusInputError || status[3] != abi.StatusGuestError {
		t.Fatalf("statuses %v", status)
	}
	for i := range want {
		if i == 3 && strings.HasPrefix(payload[i], want[i]) {
			continue
		}
		if payload[i] != want[i] {
			t.Errorf("reply %d is %.60q, want %.60q", i, payload[i], want[i])
		}
	}

	out.Reset()
	if err := serve(bytes.NewReader(frames(nil)), &out); err != nil {
		t.Fatal(err)
	}
	if status, payload := replies(t, out.Bytes()); len(status) != 1 || status[0] != abi.StatusGuestError || !strings.Contains(payload[0], "refused its configuration") {
		t.Errorf("%v %q", status, payload)
	}
}

// Wherever the input is cut off, serve says so and has answered what came before.
func TestServeEndsWhereItsInputIsCutOff(t *testing.T) {
	Handle(func(in []tensor.Tensor) ([]tensor.Tensor, error) { return in, nil })
	defer Handle(nil)
	list, _ := abi.Encode([]tensor.Tensor{tensor.FromStrings("x", "a")})
	whole := frames([]byte("c"), list, list)
	for n := range whole {
		var out bytes.Buffer
		err := serve(bytes.NewReader(whole[:n]), &out)
		status, _ := replies(t, out.Bytes())
		atBorder := n == 5 || n == 5+4+len(list)
		if (err == nil) != atBorder {
			t.Errorf("cut at %d: %v", n, err)
		}
		if want := len(frames([]byte("c"))); n >= want && len(status) != 1+(n-want)/(4+len(list)) {
			t.Errorf("cut at %d: %d replies", n, len(status))
		}
	}
	var out bytes.Buffer
	if err := serve(bytes.NewReader([]byte{0xff, 0xff, 0xff, 0xff}), &out); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("a frame of 4 GiB: %v", err)
	}
}

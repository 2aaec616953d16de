package host

import (
	"strings"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/wasi"
)

func TestAModuleGetsWhatItAsksForAndTheMachineGrants(t *testing.T) {
	asked := map[string]wasi.Grants{"clock": {Clock: true}, "random": {Random: true}, "files": {Files: t.TempDir()}}
	granted := map[string]Policy{"nothing": {}, "clock": {Clock: true}, "random": {Random: true}, "files": {Files: true}}
	for name, p := range granted {
		if err := p.permits(wasi.Grants{}); err != nil {
			t.Errorf("a module that asks for nothing, where %s is granted: %v", name, err)
		}
		for what, g := range asked {
			err := p.permits(g)
			if ok := name == what; ok != (err == nil) || err != nil && !strings.Contains(err.Error(), "wasm-allow: "+what) {
				t.Errorf("%s is asked for, %s is granted: %v", what, name, err)
			}
		}
	}
	r, err := NewRuntime(t.Context(), Config{Policy: Policy{Random: true}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Compile(t.Context(), assembly{}.build(), Options{Name: "pre.wasm", Grants: wasi.Grants{Clock: true, Random: true}})
	if err == nil || !strings.Contains(err.Error(), "cannot compile pre.wasm: it asks for the clock") {
		t.Errorf("%v", err)
	}
}

func TestTheTimeOfWhoLooksIsNotTheGuests(t *testing.T) {
	// cabi_post_process counts to 5,000 in memory, so that the clock is looked at after the result was.
	counts := []byte{
		0x03, 0x40, // loop
		0x41, 0x84, 0x07, 0x41, 0x84, 0x07, 0x28, 2, 0, 0x41, 1, 0x6a, 0x36, 2, 0, // i32.store 900 (i32.load 900 + 1)
		0x41, 0x84, 0x07, 0x28, 2, 0, 0x41, 0x88, 0x27, 0x49, 0x0d, 0, // br_if (i32.load 900 < 5000)
		0x0b,
	}
	m, err := compile(t, assembly{post: counts}, Options{Limits: Limits{Timeout: 20 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := m.View(t.Context(), request("x"), nil, func([]tensor.Tensor) error {
			time.Sleep(60 * time.Millisecond)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if s := m.Stats(); s.DeadlineTraps != 0 || s.Discarded != 0 {
		t.Errorf("%+v", s)
	}
}

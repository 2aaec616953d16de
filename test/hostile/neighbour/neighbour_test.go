package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/agent/inference/onnxruntime"
	"github.com/dhowfleet/dhow/test/hostile"
)

// TestMain lets this program be the client, as its own child.
func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "-client") {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestTheSortsAreInTheCorpus(t *testing.T) {
	if n := len(choose(false, "")); n != len(sorts) {
		t.Errorf("%d of the %d modules of a short run reach a request", n, len(sorts))
	}
	if n := len(choose(true, "")); n < 100 {
		t.Errorf("only %d modules reach a request", n)
	}
	if c := choose(false, "chase-straight"); len(c) != 1 {
		t.Errorf("%v", c)
	}
}

// TestTheNeighbourAnswers: every request to it, beside a module without end; what is measured is there. How long it
// took is not the test's business.
func TestTheNeighbourAnswers(t *testing.T) {
	if _, err := onnxruntime.Find(""); err != nil {
		t.Skip("needs ONNX Runtime:", err)
	}
	s, err := serve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	for _, c := range choose(false, "loop-br_table") {
		if c.Want != (hostile.Verdict{Where: hostile.Call, What: hostile.Fuel}) {
			t.Fatalf("%s has an end", c.Name)
		}
		for _, busy := range []bool{true, false} {
			if err := s.put(t.Context(), c.Build(), busy); err != nil {
				t.Fatal(err)
			}
			m, err := s.window(t.Context(), 100, 500*time.Millisecond, 1)
			if err != nil {
				t.Fatal(err)
			}
			if len(m.times) < 10 || !slices.IsSorted(m.times) || m.times[0] <= 0 || m.hostile == 0 || m.pauses.count() == 0 {
				t.Errorf("%d times, %d hostile requests, %d pauses", len(m.times), m.hostile, m.pauses.count())
			}
		}
	}
}

func TestTheClientSaysWhatFails(t *testing.T) {
	var out bytes.Buffer
	if err := ask(t.Context(), "http://127.0.0.1:1", 100, time.Second, &out); err == nil || out.Len() > 0 {
		t.Errorf("%v, %q", err, out.String())
	}
	if err := ask(t.Context(), "http://127.0.0.1:1", 0, time.Second, &out); err == nil {
		t.Error("a rate of nothing was taken")
	}
	if !json.Valid(body(width)) {
		t.Errorf("%s", body(width))
	}
	text, err := exec.Command(os.Args[0], "-client", "http://127.0.0.1:1").CombinedOutput()
	if err == nil || !strings.Contains(string(text), "refused") {
		t.Errorf("%v: %s", err, text)
	}
}

func TestTheHistogram(t *testing.T) {
	h := histogram{counts: []uint64{0, 98, 0, 2}, bounds: []float64{0, 0.001, 0.002, 0.003, 0.004}}
	var sum histogram
	sum.add(h)
	sum.add(h)
	sum.subtract(h)
	for q, want := range map[float64]time.Duration{0.5: 2 * time.Millisecond, 0.98: 2 * time.Millisecond, 0.99: 4 * time.Millisecond, 1: 4 * time.Millisecond} {
		if got := sum.quantile(q); got != want {
			t.Errorf("quantile %v is %s, want %s", q, got, want)
		}
	}
	if quantile(nil, 50) != 0 || quantile([]time.Duration{1, 2, 3, 4}, 99) != 4 {
		t.Error("quantiles of times")
	}
}

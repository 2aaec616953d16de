package main

import (
	"os"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []time.Duration
		want time.Duration
	}{{[]time.Duration{3}, 3}, {[]time.Duration{3, 1, 2}, 2}, {[]time.Duration{4, 1, 3, 2}, 2}} {
		if got := median(c.in); got != c.want {
			t.Errorf("%v, want %v", got, c.want)
		}
	}
}

// TestEveryPathAnswers keeps the program working: one short round of each path, whatever it takes.
func TestEveryPathAnswers(t *testing.T) {
	b, err := newBench(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	results, err := measure(t.Context(), b.paths(), 1, 100, b.recorder.Flush)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.p50 <= 0 || r.p99 < r.p50 {
			t.Errorf("%+v", r)
		}
		if r.path.name == "route, admit, record, without a model" && r.allocations != "0" {
			t.Errorf("%s allocates %s times", r.path.name, r.allocations)
		}
	}
}

func TestAPictureIsDecoded(t *testing.T) {
	took, size, err := decode(1, func(int) string { return "0.5" })
	if err != nil || took <= 0 || size != 4*3*224*224+1 {
		t.Errorf("%v for %d bytes, %v", took, size, err)
	}
}

func TestTheCPUTimeOfAProcessIsRead(t *testing.T) {
	for {
		// What this test has taken shows as soon as it is a hundredth of a second.
		if d, err := cpuTime(os.Getpid()); err != nil {
			t.Fatal(err)
		} else if d > 0 {
			break
		}
	}
	if _, err := cpuTime(0); err == nil {
		t.Error("no process has the number 0")
	}
}

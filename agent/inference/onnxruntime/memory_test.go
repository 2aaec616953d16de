package onnxruntime

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
	"github.com/dhowfleet/dhow/models/tensor"
)

func TestMemoryIsGivenBackAfterWhatIsUnusual(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	clock := func() time.Time { return now }
	var m memory
	step := func(what string, size int, want bool) {
		t.Helper()
		if got := m.note(size, true, clock); got != want {
			t.Errorf("%s: %v", what, got)
		}
	}
	const mega = 1 << 20
	step("the first", 1000, false)
	for range 100 {
		step("the usual", 1000, false)
	}
	step("large, but no matter", mega-1, false)
	step("the usual", 1000, false)
	step("huge", 100*mega, false)
	step("the one after", 1000, true)
	step("the second after", 1000, false)
	for range 100 {
		step("the usual", 1000, false)
	}
	step("huge", 100*mega, false)
	step("too soon", 1000, false)
	now = now.Add(shrinkEvery)
	step("in time", 1000, true)
	for range 100 { // what comes often is not huge
		m.note(100*mega, true, clock)
	}
	now = now.Add(shrinkEvery)
	m.note(1000, true, clock)
	now = now.Add(shrinkEvery)
	step("large", 100*mega, false)
	step("small", 1000, false)

	m = memory{}
	m.note(100*mega, false, clock)
	for i := range mostMissed {
		if m.note(1000, false, clock) {
			t.Errorf("run %d, which leaves its outputs where nothing could be given back", i)
		}
	}
	if !m.note(1000, false, clock) {
		t.Error("no run was good enough")
	}
}

// anonymous is the process's memory without files and without what Go holds.
func anonymous(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("this system does not say how much memory a process has:", err)
	}
	for line := range strings.Lines(string(status)) {
		if kib, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			n, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(kib), "kB")))
			if err != nil {
				t.Fatal(err)
			}
			var s runtime.MemStats
			runtime.ReadMemStats(&s)
			return n<<10 - int(s.HeapSys-s.HeapReleased)
		}
	}
	t.Skip("this system does not say how much memory of a process is anonymous")
	return 0
}

// TestOneHugeRequestDoesNotKeepItsMemory looks at the process: of what a huge run took, ordinary ones give back most.
func TestOneHugeRequestDoesNotKeepItsMemory(t *testing.T) {
	dims := []int64{-1, 64}
	m := load(t, write(t, &onnxtest.Graph{
		Inputs:  []onnxtest.Value{{Name: "x", Type: onnxtest.Float, Dims: dims}},
		Outputs: []onnxtest.Value{{Name: "y", Type: onnxtest.Float, Dims: dims}},
		Nodes: []onnxtest.Node{
			{Op: "Exp", Inputs: []string{"x"}, Outputs: []string{"e"}},
			{Op: "Add", Inputs: []string{"x", "e"}, Outputs: []string{"s"}},
			{Op: "Sub", Inputs: []string{"s", "e"}, Outputs: []string{"y"}},
		},
	}))
	huge := make([]byte, 16<<20)
	for i := range huge {
		huge[i] = 0x3f // 0.747, and there from the start
	}
	ask := func(rows int) {
		t.Helper()
		run(t, m, nil, tensor.Tensor{Name: "x", Datatype: tensor.FP32, Shape: []int64{int64(rows), 64}, Data: huge[:rows*256]})
		debug.FreeOSMemory()
	}
	ask(16)
	before := anonymous(t)
	ask(len(huge) / 256)
	after := anonymous(t)
	ask(16)
	ask(16)
	grown, kept := after-before, anonymous(t)-before
	if grown < 3*len(huge)/2 || kept > grown/2 {
		t.Errorf("a run over %d MiB took %d MiB, of which %d were kept", len(huge)>>20, grown>>20, kept>>20)
	}
	runtime.KeepAlive(huge)
}

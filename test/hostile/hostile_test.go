package hostile

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/wasm/host"
	"github.com/dhowfleet/dhow/wasm/metering"
	"github.com/dhowfleet/dhow/wasm/wasmtest"
)

// neighbour is a good module in the same Runtime: it must answer, whatever was run before it.
func neighbour(t *testing.T, r *host.Runtime) func(after string) {
	t.Helper()
	g := wasmtest.NewGuest()
	g.Payload = tensors()
	m, err := r.Compile(t.Context(), g.Bytes(), host.Options{Name: "neighbour", Instances: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return func(after string) {
		t.Helper()
		out, err := m.Process(t.Context(), Request(), nil)
		if err != nil || len(out) != 1 || out[0].Name != "y" {
			t.Errorf("after %s, the neighbour answers %v, %v", after, out, err)
		}
	}
}

func newRuntime(t *testing.T) *host.Runtime {
	t.Helper()
	r, err := host.NewRuntime(t.Context(), host.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// chosen are the cases that match; the large ones are among them only in the long form.
func chosen(match func(*Case) bool) (out []Case) {
	for _, c := range Cases() {
		if (!c.Large || long()) && match(&c) {
			out = append(out, c)
		}
	}
	return out
}

func long() bool { return os.Getenv("DHOW_FAULTS") == "long" }

// TestVerdicts: each module ends where the table says and for that reason, within its bounds, and its neighbour answers.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	r := newRuntime(t)
	answers := neighbour(t, r)
	reasons := metering.Reasons()
	var starting sync.WaitGroup
	for _, c := range Cases() {
		if c.Want.Where == Rewriter && !slices.Contains(reasons, metering.Reason(c.Want.What)) {
			t.Errorf("%s: %q is no reason of the rewriter's", c.Name, c.Want.What)
		}
		check := func() {
			o := Run(t.Context(), r, &c, Limits, nil)
			if o.Verdict != c.Want {
				t.Errorf("%s (%s) ends as %q, want %q: %v", c.Name, c.Does, o.Verdict, c.Want, o.Err)
			}
			if o.Stats.MappedBytes != 0 || o.Stats.Idle != 0 {
				t.Errorf("%s: instances are left after it was closed: %+v", c.Name, o.Stats)
			}
			if o.Err != nil && len(o.Err.Error()) > 8<<10 {
				t.Errorf("%s makes an error of %d bytes", c.Name, len(o.Err.Error()))
			}
		}
		if c.Want == (Verdict{Start, Deadline}) {
			starting.Go(check) // they do nothing but wait for their time to be up
			continue
		}
		check()
		answers(c.Name)
	}
	starting.Wait()
	answers("all")
}

// TestTheDeadlineStopsThemToo: what has no end and no budget is ended by the clock.
func TestTheDeadlineStopsThemToo(t *testing.T) {
	t.Parallel()
	r := newRuntime(t)
	answers := neighbour(t, r)
	limits := Limits
	limits.Fuel, limits.Timeout = 0, 5*time.Millisecond
	cases := chosen((*Case).Endless)
	for _, c := range cases {
		o := Run(t.Context(), r, &c, limits, nil)
		if want := (Verdict{Call, Deadline}); o.Verdict != want {
			t.Errorf("%s ends as %q, want %q: %v", c.Name, o.Verdict, want, o.Err)
		}
		answers(c.Name)
	}
	if len(cases) < 30 {
		t.Errorf("only %d modules have no end", len(cases))
	}
}

// TestARequestThatIsGivenUpEnds: a caller who goes away is noticed by every module that has no end.
func TestARequestThatIsGivenUpEnds(t *testing.T) {
	t.Parallel()
	r := newRuntime(t)
	gone := errors.New("the caller went away")
	limits := Limits
	limits.Fuel = 0
	for _, c := range chosen((*Case).Endless) {
		m, err := r.Compile(t.Context(), c.Build(), host.Options{Name: c.Name, Limits: limits, Instances: 1})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		stop := time.AfterFunc(2*time.Millisecond, func() { cancel(gone) })
		if _, err := m.Process(ctx, Request(), nil); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", c.Name, err)
		}
		stop.Stop()
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestTheSameFuelOnEveryRun: where a module's fuel ends depends neither on the machine nor on how often the host looks.
func TestTheSameFuelOnEveryRun(t *testing.T) {
	t.Parallel()
	r := newRuntime(t)
	limits := Limits
	limits.Fuel = 300_000
	for _, c := range chosen((*Case).Endless) {
		var usages [2]host.Usage
		for i := range usages {
			limits.Quantum = []int64{1_000, 100_000}[i]
			m, err := r.Compile(t.Context(), c.Build(), host.Options{Name: c.Name, Limits: limits, Instances: 1})
			if err != nil {
				t.Fatal(err)
			}
			_, usages[i], err = m.Measure(t.Context(), Request(), nil)
			if !errors.Is(err, host.ErrFuel) {
				t.Errorf("%s: %v", c.Name, err)
			}
			_ = m.Close()
		}
		if usages[0].Fuel != usages[1].Fuel {
			t.Errorf("%s used %d, and then %d", c.Name, usages[0].Fuel, usages[1].Fuel)
		}
	}
}

// TestOneAfterAnotherInOneModule: what a request did to an instance, the next request does not notice: deep stacks,
// dirty memory, dropped segments, changed tables.
func TestOneAfterAnotherInOneModule(t *testing.T) {
	t.Parallel()
	r := newRuntime(t)
	limits := Limits
	limits.Fuel = 300_000
	for _, c := range chosen(func(c *Case) bool { return c.Want.Where == Call || c.Want.Where == Nowhere }) {
		m, err := r.Compile(t.Context(), c.Build(), host.Options{
			Name: c.Name, Limits: limits, Instances: 1, Features: []string{"feature"}, Counters: []string{"counter"},
		})
		if err != nil {
			t.Fatal(err)
		}
		var first string
		for i := range 3 {
			_, err := m.Process(t.Context(), Request(), nil)
			text := "an answer"
			if err != nil {
				text = err.Error()
			}
			if i == 0 {
				first = text
			} else if text != first {
				t.Errorf("%s: first %q, then %q", c.Name, first, text)
			}
		}
		_ = m.Close()
	}
}

// TestWhatIsDroppedIsCounted: floods within a call's bounds leave what is allowed and a count of the rest.
func TestWhatIsDroppedIsCounted(t *testing.T) {
	t.Parallel()
	r := newRuntime(t)
	var out counted
	want := map[string]struct {
		emitted                   int
		droppedEmits, droppedLine uint64
	}{
		"emit-5000":          {1024, 5000 - 1024, 0},
		"emit-unknown":       {0, 1, 0},
		"emit-not-a-number":  {0, 2, 0},
		"emit-name-outside":  {0, 1, 0},
		"emit-name-8MB":      {0, 1, 0},
		"emit-name-not-utf8": {0, 1, 0},
		"log-1000":           {0, 0, 1000 - 20},
		"log-outside":        {0, 0, 0},
	}
	for _, c := range Cases() {
		w, ok := want[c.Name]
		if !ok {
			continue
		}
		o := Run(t.Context(), r, &c, Limits, slog.New(slog.NewTextHandler(&out, nil)))
		if o.Err != nil || o.Emitted != w.emitted || o.Stats.DroppedEmits != w.droppedEmits || o.Stats.DroppedLines != w.droppedLine {
			t.Errorf("%s: %v, %d emitted, %+v", c.Name, o.Err, o.Emitted, o.Stats)
		}
		delete(want, c.Name)
	}
	if len(want) > 0 {
		t.Errorf("not in the corpus: %v", want)
	}
}

type counted int

func (c *counted) Write(p []byte) (int, error) { *c += counted(len(p)); return len(p), nil }

// TestNothingIsLeft: goroutines, files and mappings come back. The large modules are left out, because the room that
// they take on the heap hides what is looked for; a guest's memory that was not unmapped would be 64 MB.
func TestNothingIsLeft(t *testing.T) {
	r := newRuntime(t)
	answers := neighbour(t, r)
	limits := Limits
	limits.Fuel = 200_000
	small := chosen(func(c *Case) bool {
		return !c.Large && c.Want.Where != Rewriter && c.Want != (Verdict{Start, Deadline}) && len(c.Build()) < 1<<20
	})
	if !long() { // every third
		for i := range len(small) / 3 {
			small[i] = small[3*i]
		}
		small = small[:len(small)/3]
	}
	pass := func() {
		for i := range small {
			Run(t.Context(), r, &small[i], limits, nil)
		}
		answers("a pass")
	}
	pass()
	// The heap grows by mappings too, now and then; what a module leaves would be there after every pass.
	var before, after left
	for range 4 {
		before = measure(t)
		pass()
		after = measure(t)
		t.Logf("%d modules: before %+v, after %+v", len(small), before, after)
		if after.within(before) {
			return
		}
	}
	t.Errorf("goroutines, files or mappings are left after every pass: before %+v, after %+v", before, after)
}

type left struct {
	goroutines, files, mappings int
	space                       int64 // bytes of address space
}

func (l left) within(before left) bool {
	return l.goroutines <= before.goroutines && l.files <= before.files && l.mappings <= before.mappings+20 && l.space <= before.space+32<<20
}

func measure(t *testing.T) left {
	t.Helper()
	for range 3 { // finalizers run between collections
		runtime.GC()
		time.Sleep(10 * time.Millisecond)
	}
	debug.FreeOSMemory()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("this system has no /proc, where open files and mappings are counted")
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(statm))[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return left{runtime.NumGoroutine(), len(files), strings.Count(string(maps), "\n"), pages * int64(os.Getpagesize())}
}

// TestTheDocumentIsOfToday: docs/wasm-hostile.md is what Document makes.
func TestTheDocumentIsOfToday(t *testing.T) {
	have, err := os.ReadFile("../../docs/wasm-hostile.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != Document(Cases()) {
		t.Error("docs/wasm-hostile.md is stale: run go run ./test/hostile/table -o docs/wasm-hostile.md")
	}
}

package memory

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/agent/admission"
	"github.com/dhowfleet/dhow/models/graph"
)

const mb = 1 << 20

func machine(memory, available int64) func() admission.Machine {
	return func() admission.Machine { return admission.Machine{Memory: memory, Available: available} }
}

func TestAGrantCountsUntilItIsReleased(t *testing.T) {
	a := New(Options{Total: 300 * mb, Machine: machine(2048*mb, 2048*mb)})
	first, err := a.Admit("m", "1", admission.Need{Estimate: 200 * mb}, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.Admit("m", "2", admission.Need{Estimate: 200 * mb}, 0)
	refused, ok := errors.AsType[*admission.Refused](err)
	if !ok || refused.Lasting || !strings.Contains(err.Error(), "200MiB of the 300MiB") {
		t.Fatal(err)
	}
	// It took less than it was thought to.
	first.Measured(90 * mb)
	if a.Room() != 210*mb || a.Bytes("m", "1") != 90*mb || a.Bytes("m", "2") != 0 {
		t.Error(a.Room(), a.Bytes("m", "1"))
	}
	second, err := a.Admit("m", "2", admission.Need{Estimate: 200 * mb}, 0)
	if err != nil {
		t.Fatal(err)
	}
	first.Release()
	first.Release()
	if a.Room() != 100*mb {
		t.Error("a grant was released twice, or not:", a.Room())
	}
	second.Release()
	if err := a.Check("m", "2", admission.Need{Estimate: 200 * mb}, 100*mb); err == nil || !strings.Contains(err.Error(), "one model may take 100MiB") {
		t.Error(err)
	}
	if a.Room() != 300*mb {
		t.Error("a question was taken for a grant:", a.Room())
	}
	// What served before is loaded all the same, and keeps others out.
	big := a.Note("big", "1", admission.Need{Estimate: 400 * mb})
	if a.Room() != 0 || a.Check("m", "2", admission.Need{Estimate: mb}, 0) == nil {
		t.Error("what was noted does not count")
	}
	big.Release()
}

func TestWhatIsLeftToOthers(t *testing.T) {
	for _, c := range []struct{ memory, available, room int64 }{
		{0, 0, 1 << 50},
		{512 * mb, 0, 448 * mb},
		{4096 * mb, 1024 * mb, 768 * mb},
		{256 << 30, 256 << 30, 255 << 30},
		{4096 * mb, 100 * mb, 0},
	} {
		if got := New(Options{Machine: machine(c.memory, c.available)}).Room(); got != c.room {
			t.Errorf("of %d MiB, %d free: room for %d MiB, want %d", c.memory/mb, c.available/mb, got/mb, c.room/mb)
		}
	}
	if New(Options{}).Room() <= 0 {
		t.Error("this machine has room for no model")
	}
}

func TestNeed(t *testing.T) {
	if n := Of(&graph.Graph{FileBytes: 10 * mb, Nodes: 256}, 3); n != 3*(10*mb+mb) {
		t.Error(n)
	}
	if n := Of(&graph.Graph{FileBytes: 1 << 62, ExternalBytes: 1 << 62}, 1<<30); n <= 0 {
		t.Error("a sum left its range:", n)
	}
}

// TestRoomAndAdmitAgree, whatever is granted and released before.
func TestRoomAndAdmitAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(0, 3000)
		a := New(Options{Total: size.Draw(t, "total") * mb, Machine: machine(size.Draw(t, "memory")*mb, size.Draw(t, "available")*mb)})
		var grants []*Grant
		for i := range rapid.IntRange(0, 5).Draw(t, "steps") {
			if len(grants) > 0 && rapid.Bool().Draw(t, "release") {
				grants[0].Release()
				grants = grants[1:]
				continue
			}
			if g, err := a.Admit("m", fmt.Sprint(i), admission.Need{Estimate: size.Draw(t, "need") * mb}, 0); err == nil {
				grants = append(grants, g)
			}
		}
		room := a.Room()
		if room > 0 && a.Check("x", "1", admission.Need{Estimate: room}, 0) != nil {
			t.Fatalf("there is room for %d, which is refused", room)
		}
		if room < 1<<50 && a.Check("x", "1", admission.Need{Estimate: room + 1}, 0) == nil {
			t.Fatalf("there is room for %d alone, but more is granted", room)
		}
	})
}

func TestManyAtOnce(t *testing.T) {
	a := New(Options{Total: 100, Machine: machine(0, 0)})
	var wg sync.WaitGroup
	var mu sync.Mutex
	granted := 0
	for i := range 64 {
		wg.Go(func() {
			if _, err := a.Admit("m", fmt.Sprint(i), admission.Need{Estimate: 10}, 0); err == nil {
				mu.Lock()
				granted++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if granted != 10 {
		t.Errorf("%d of 10 were granted", granted)
	}
}

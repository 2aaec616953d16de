package headroom

import (
	"context"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func TestRoomIsGivenToTheBusyAndTakenBack(t *testing.T) {
	p := policy{percent: Quiet}
	if d := p.next(busy-1, 3<<20); d != (decision{percent: Quiet}) {
		t.Errorf("a quiet agent gets %+v", d)
	}
	if d := p.next(busy, 3<<20); d != (decision{percent: highest}) {
		t.Errorf("a small heap that is busy gets %+v, should get all the room", d)
	}
	if d := p.next(busy, 32<<20); d.percent != 100 {
		t.Errorf("32 MB get %+v, should get as much again", d)
	}
	if d := p.next(busy, 1<<30); d.percent != Quiet {
		t.Errorf("a large heap gets %+v", d)
	}
	p.next(busy, 3<<20)
	for range patience - 1 {
		if d := p.next(0, 3<<20); d != (decision{percent: highest}) {
			t.Fatalf("between two waves: %+v", d)
		}
	}
	if d := p.next(0, 3<<20); d != (decision{percent: Quiet, release: true}) {
		t.Errorf("after the last wave: %+v", d)
	}
	if d := p.next(0, 3<<20); d.release {
		t.Error("memory is given back twice")
	}
}

func TestThePolicyHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := policy{percent: Quiet}
		still := patience
		for _, allocated := range rapid.SliceOfN(rapid.Uint64Range(0, 2*busy), 1, 60).Draw(t, "allocated") {
			alive := rapid.Uint64Range(0, 1<<40).Draw(t, "alive")
			before := p.percent
			d := p.next(allocated, alive)
			if d.percent < Quiet || d.percent > highest {
				t.Fatalf("percent %d", d.percent)
			}
			if allocated >= busy {
				still = 0
				// What is allowed beyond what is alive is never more than Room, but for what a quiet agent has too.
				if extra := alive / 100 * uint64(d.percent); d.percent > Quiet && extra > Room {
					t.Fatalf("%d bytes alive may grow by %d", alive, extra)
				}
			} else {
				still++
			}
			if still >= patience && d.percent != Quiet {
				t.Fatalf("%d quiet intervals, and percent %d", still, d.percent)
			}
			if d.release != (before != Quiet && allocated < busy && d.percent == Quiet) {
				t.Fatalf("from %d to %+v", before, d)
			}
		}
	})
}

func percentNow() int {
	now := debug.SetGCPercent(100)
	debug.SetGCPercent(now)
	return now
}

var sink []byte

func TestTheCollectorFollows(t *testing.T) {
	t.Setenv("GOGC", "")
	was := percentNow()
	defer debug.SetGCPercent(was)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		go Run(ctx)
		synctest.Wait()
		if got := percentNow(); got != Quiet {
			t.Errorf("at the start: %d", got)
		}
		for range 3 {
			for range 2 * busy / 4096 {
				sink = make([]byte, 4096)
			}
			time.Sleep(interval)
			synctest.Wait()
		}
		if got := percentNow(); got <= Quiet {
			t.Errorf("while memory is allocated: %d", got)
		}
		time.Sleep((patience + 1) * interval)
		synctest.Wait()
		if got := percentNow(); got != Quiet {
			t.Errorf("afterwards: %d", got)
		}
		cancel()
	})
}

func TestTheEnvironmentWins(t *testing.T) {
	t.Setenv("GOGC", "300")
	was := debug.SetGCPercent(300)
	defer debug.SetGCPercent(was)
	Run(t.Context()) // returns at once
	if got := percentNow(); got != 300 {
		t.Errorf("%d", got)
	}
}

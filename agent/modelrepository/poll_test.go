package modelrepository

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
)

func TestPollingWaitsUntilFilesAreStill(t *testing.T) {
	ctx := context.Background()
	b := newBench(t, Config{Mode: Poll})
	b.start()
	model := string(onnxtest.Negate(3).Model())
	b.define("m", 1)
	b.write("m/1/model.onnx", model[:len(model)/2]) // being copied
	b.repo.look(ctx)
	b.write("m/1/model.onnx", model)
	b.repo.look(ctx)
	if got := b.index(false); got != "m" || b.engine.Loads() != 0 {
		t.Fatalf("what changes between two looks was loaded: %s", got)
	}
	b.repo.look(ctx)
	b.serves("m", "", 1)
	loads := b.engine.Loads()
	b.repo.look(ctx)
	b.repo.look(ctx)
	if b.engine.Loads() != loads {
		t.Error("what has not changed was loaded again")
	}
	// A new version, and a bad one after it.
	b.add("m", 2)
	b.repo.look(ctx)
	b.serves("m", "", 1)
	b.repo.look(ctx)
	b.serves("m", "", 2)
	b.write("m/3/model.onnx", "bad")
	b.repo.look(ctx)
	b.repo.look(ctx)
	b.serves("m", "", 2)
	if got := b.reason("m", "3"); got == "" {
		t.Error("the index does not say why version 3 is not served")
	}
	// An ensemble that comes before its model.
	b.write("e/config.pbtxt", chain("m", "late"))
	b.repo.look(ctx)
	b.repo.look(ctx)
	b.absent("e", "")
	b.add("late", 4)
	b.repo.look(ctx)
	b.repo.look(ctx)
	b.serves("e", "", 6)
	if err := os.RemoveAll(filepath.Join(b.dir, "late")); err != nil {
		t.Fatal(err)
	}
	b.repo.look(ctx)
	b.serves("e", "", 6)
	b.repo.look(ctx)
	b.absent("late", "")
	b.absent("e", "")
	b.serves("m", "", 2)
}

func TestAFolderThatIsAwayStopsNothing(t *testing.T) {
	b := newBench(t, Config{Mode: Poll})
	b.add("m", 1)
	b.start()
	away := b.dir + ".away"
	if err := os.Rename(b.dir, away); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		b.repo.look(context.Background())
	}
	b.serves("m", "", 1)
	if err := os.Rename(away, b.dir); err != nil {
		t.Fatal(err)
	}
	b.repo.look(context.Background())
	b.serves("m", "", 1)
}

func TestRunLooksWhenItsTimeComes(t *testing.T) {
	b := newBench(t, Config{Mode: Poll, PollInterval: time.Millisecond})
	b.start()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.repo.Run(ctx)
	}()
	b.add("m", 1)
	for b.table.Has("m", "") != nil {
		time.Sleep(time.Millisecond)
	}
	cancel()
	<-done
	b.serves("m", "", 1)
}

// TestTheTableFollowsTheFolder makes random changes to a folder and holds what serves against a naive model of it: for
// each model the versions that its policy chooses, or what served before when one of them is bad.
func TestTheTableFollowsTheFolder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "r")
		if err != nil {
			rt.Fatal(err)
		}
		mode := rapid.SampledFrom([]Mode{Poll, Explicit}).Draw(rt, "mode")
		b := newBench(t, Config{Mode: mode, Dir: dir})
		b.start()
		type naive struct {
			good   map[int]bool // by version
			all    bool
			served []int
		}
		models := map[string]*naive{}
		names := []string{"a", "b", "c"}
		settle := func(n *naive) {
			var have []int
			for v := range n.good {
				have = append(have, v)
			}
			slices.Sort(have)
			if !n.all {
				have = have[max(0, len(have)-1):]
			}
			for _, v := range have {
				if !n.good[v] {
					return
				}
			}
			if len(have) > 0 {
				n.served = have
			}
		}
		look := func() {
			if mode == Poll {
				b.repo.look(context.Background())
				b.repo.look(context.Background())
				for _, n := range models {
					settle(n)
				}
			}
		}
		for step := range rapid.IntRange(1, 25).Draw(rt, "steps") {
			name := rapid.SampledFrom(names).Draw(rt, "name")
			n := models[name]
			switch rapid.IntRange(0, 6).Draw(rt, "action") {
			case 0, 1: // a version comes, or changes
				if n == nil {
					n = &naive{good: map[int]bool{}}
					models[name] = n
				}
				v := rapid.IntRange(1, 4).Draw(rt, "version")
				n.good[v] = rapid.IntRange(0, 3).Draw(rt, "good") > 0
				b.add(name, v)
				if !n.good[v] {
					b.write(fmt.Sprintf("%s/%d/model.onnx", name, v), fmt.Sprint("bad ", step))
				}
			case 2: // a version goes
				if n != nil && len(n.good) > 1 {
					v := slices.Sorted(func(yield func(int) bool) {
						for v := range n.good {
							if !yield(v) {
								return
							}
						}
					})[0]
					delete(n.good, v)
					if err := os.RemoveAll(filepath.Join(dir, name, fmt.Sprint(v))); err != nil {
						rt.Fatal(err)
					}
				}
			case 3: // the policy changes
				if n != nil {
					n.all = !n.all
					policy := "version_policy { latest {} }"
					if n.all {
						policy = "version_policy { all {} }"
					}
					b.write(name+"/config.pbtxt", policy)
				}
			case 4: // the model goes
				if n != nil && mode == Poll {
					delete(models, name)
					if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
						rt.Fatal(err)
					}
				}
			case 5:
				if n != nil && mode == Explicit {
					_ = b.repo.Load(context.Background(), name, nil)
					settle(n)
				}
			case 6:
				if n != nil && mode == Explicit {
					if err := b.repo.Unload(context.Background(), name, false); err != nil {
						rt.Fatal(err)
					}
					n.served = nil
				}
			}
			look()
			for _, name := range names {
				for v := 1; v <= 4; v++ {
					want := models[name] != nil && slices.Contains(models[name].served, v)
					added, by := b.ask(name, fmt.Sprint(v))
					if got := by != ""; got != want || got && added != v {
						rt.Fatalf("step %d: version %d of %s served %v (adds %d), want %v; the index has %s", step, v, name, got, added, want, b.index(false))
					}
				}
				if n := models[name]; n != nil && len(n.served) > 0 {
					if _, by := b.ask(name, ""); by != fmt.Sprint(slices.Max(n.served)) {
						rt.Fatalf("step %d: %s is answered by version %q, want the highest of %v", step, name, by, n.served)
					}
				}
			}
		}
		if err := b.repo.Close(context.Background()); err != nil {
			rt.Fatal(err)
		}
		if open := b.engine.Open(); open != 0 {
			rt.Fatalf("%d models are open after Close", open)
		}
	})
}

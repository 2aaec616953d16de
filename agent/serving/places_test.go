package serving

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/wasm/host"
)

func TestTheMostUrgentWaitsLeast(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		priorities := rapid.SliceOfN(rapid.Uint64Range(0, 4), 1, 20).Draw(rt, "priorities")
		given := rapid.SliceOfN(rapid.Bool(), len(priorities), len(priorities)).Draw(rt, "given up")
		synctest.Test(t, func(*testing.T) {
			p := NewPlaces(1)
			if err := p.Acquire(context.Background(), 0); err != nil {
				rt.Fatal(err)
			}
			var mu sync.Mutex
			var served []int
			for i, priority := range priorities {
				ctx, cancel := context.WithCancel(context.Background())
				go func() {
					defer cancel()
					if err := p.Acquire(ctx, priority); err != nil {
						return
					}
					mu.Lock()
					served = append(served, i)
					mu.Unlock()
					p.Release()
				}()
				synctest.Wait() // it waits before the next one comes
				if given[i] {
					cancel()
					synctest.Wait()
				}
			}
			p.Release()
			synctest.Wait()
			want := []int{}
			for i := range priorities {
				if !given[i] {
					want = append(want, i)
				}
			}
			rank := func(i int) uint64 {
				if priorities[i] == 0 {
					return 100
				}
				return priorities[i]
			}
			slices.SortStableFunc(want, func(a, b int) int { return int(rank(a)) - int(rank(b)) })
			if !slices.Equal(served, want) {
				rt.Fatalf("priorities %v, given up %v: served in the order %v and not %v", priorities, given, served, want)
			}
			if p.free != 1 || p.first != nil {
				rt.Fatalf("%d places are free at the end", p.free)
			}
		})
	})
}

// blocking is a runner whose requests end when they are told.
func blocking(name string) (*fake, chan struct{}) {
	end := make(chan struct{})
	f := newFake(name)
	f.run = func(ctx context.Context, _ host.Sink) error {
		select {
		case <-end:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return f, end
}

func TestAModelThatIsAskedTooMuchLeavesOthersAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := NewTable(Options{Concurrency: 4, Queue: 8})
		busy, end := blocking("busy")
		table.Set("busy", []Variant{{Version: "busy", Role: baseline, Runner: busy, Concurrency: 2, Queue: 3}})
		table.Set("calm", []Variant{{Version: "calm", Role: baseline, Runner: newFake("calm")}})
		results := make(chan error, 20)
		for range 20 {
			go func() {
				_, err := table.Infer(context.Background(), Request{Model: "busy"})
				results <- err
			}()
		}
		synctest.Wait()
		if got := infer(t, table, Request{Model: "calm"}); got != "calm" {
			t.Fatal(got)
		}
		close(end)
		synctest.Wait()
		refused := 0
		for range 20 {
			if err := <-results; errors.Is(err, ErrOverloaded) {
				refused++
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if refused != 20-2-3 {
			t.Fatalf("%d of 20 were refused where 2 run and 3 wait", refused)
		}
	})
}

func TestARequestMayWantLessTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := NewTable(Options{})
		slow, _ := blocking("slow")
		table.Set("m", []Variant{{Version: "slow", Role: baseline, Runner: slow, Timeout: time.Minute}})
		for asked, want := range map[time.Duration]time.Duration{time.Second: time.Second, time.Hour: time.Minute, 0: time.Minute} {
			begun := time.Now()
			_, err := table.Infer(context.Background(), Request{Model: "m", Timeout: asked})
			if took := time.Since(begun); err == nil || took != want {
				t.Errorf("a request that gave itself %v ended after %v: %v", asked, took, err)
			}
		}
	})
}

func TestPriorityReachesTheRunner(t *testing.T) {
	table := NewTable(Options{})
	f := newFake("1")
	var seen uint64
	f.run = func(ctx context.Context, _ host.Sink) error {
		seen = PriorityOf(ctx)
		return nil
	}
	table.Set("m", []Variant{{Version: "1", Role: baseline, Runner: f}})
	infer(t, table, Request{Model: "m", Priority: 7})
	if seen != 7 {
		t.Fatal(seen)
	}
	if PriorityOf(context.Background()) != 0 {
		t.Fatal("a context without a request has a priority")
	}
}

// own is a runner that takes places by itself.
type own struct {
	*fake
	places *Places
}

func (own) Scheduled() bool { return true }

func TestARunnerThatSchedulesIsGivenNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		places := NewPlaces(1)
		table := NewTable(Options{Concurrency: 1, Places: places, Queue: 4})
		f := newFake("own")
		f.run = func(ctx context.Context, _ host.Sink) error {
			if err := places.Acquire(ctx, PriorityOf(ctx)); err != nil {
				return err
			}
			defer places.Release()
			time.Sleep(time.Second)
			return nil
		}
		table.Set("m", []Variant{{Version: "own", Role: baseline, Runner: own{f, places}}})
		results := make(chan error, 10)
		for range 10 {
			go func() {
				_, err := table.Infer(context.Background(), Request{Model: "m"})
				results <- err
			}()
		}
		failed := map[string]int{}
		for range 10 {
			failed[fmt.Sprint(<-results)]++
		}
		if failed["<nil>"] != 5 || failed[ErrOverloaded.Error()] != 5 {
			t.Fatalf("%v", failed)
		}
	})
}

func TestVersionsAreInOrder(t *testing.T) {
	i := Info{Variants: []VariantInfo{{Version: "10"}, {Version: "b"}, {Version: "9"}, {Version: "a"}}}
	if got := i.Versions(""); !slices.Equal(got, []string{"9", "10", "a", "b"}) {
		t.Error(got)
	}
	if got := i.Versions("9"); !slices.Equal(got, []string{"9"}) {
		t.Error(got)
	}
}

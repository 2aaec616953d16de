package serving

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

type key struct{}

// TestACallIsAContext: whoever derives a context from it or waits for it must see what context.WithTimeout shows.
func TestACallIsAContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
		defer cancel()
		c := newCall(parent, time.Now().Add(time.Second))
		if d, ok := c.Deadline(); !ok || time.Until(d) != time.Second || c.Value(key{}) != "value" || c.Err() != nil {
			t.Error(d, ok, c.Err())
		}
		derived, stop := context.WithTimeout(c, time.Minute)
		defer stop()
		<-derived.Done()
		if err := derived.Err(); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(c.Err(), context.DeadlineExceeded) {
			t.Error(err, c.Err())
		}
		c.end()

		c = newCall(parent, time.Now().Add(time.Hour))
		derived, stop = context.WithCancel(c)
		defer stop()
		cancel()
		<-derived.Done()
		if !errors.Is(derived.Err(), context.Canceled) || !errors.Is(c.Err(), context.Canceled) {
			t.Error(derived.Err(), c.Err())
		}
		c.end()
	})
}

// TestACallThatEndedIsOver: what a runner started and left behind is told to stop, and does not live on in the call of
// another request.
func TestACallThatEndedIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCall(t.Context(), time.Now().Add(time.Hour))
		left, stop := context.WithCancel(c)
		defer stop()
		c.end()
		<-left.Done()
		for range 10 {
			next := newCall(t.Context(), time.Now().Add(time.Hour))
			if next == c {
				t.Fatal("a call whose Done was asked for was reused")
			}
			defer next.end()
		}
		if !errors.Is(c.Err(), context.Canceled) {
			t.Error(c.Err())
		}
	})
}

func TestTheParentsDeadlineCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c := newCall(parent, time.Now().Add(time.Hour))
		defer c.end()
		if d, _ := c.Deadline(); time.Until(d) != time.Second {
			t.Error(d)
		}
		time.Sleep(2 * time.Second)
		if !errors.Is(c.Err(), context.DeadlineExceeded) {
			t.Error(c.Err())
		}
	})
}

package backoff

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func TestBackoff(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, "base"))
		limit := time.Duration(rapid.Int64Range(1, int64(24*time.Hour)).Draw(t, "cap"))
		b := Backoff{Base: base, Cap: limit, Random: func() float64 { return rapid.Float64Range(0, 0.999999).Draw(t, "chance") }}
		window := min(base, limit)
		for range rapid.IntRange(1, 100).Draw(t, "attempts") {
			atLeast := time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "at least"))
			d := b.Next(atLeast)
			if d < atLeast || d > atLeast+window || d < 0 {
				t.Fatalf("waits %v with a window of %v, at least %v", d, window, atLeast)
			}
			window = min(2*window, limit)
		}
		b.Reset()
		if d := b.Next(0); d > min(base, limit) {
			t.Fatalf("waits %v after a reset", d)
		}
	})
}

func TestBackoffUsesTheWholeWindow(t *testing.T) {
	b := Backoff{Random: func() float64 { return 0.5 }}
	var got []string
	for range 8 {
		got = append(got, b.Next(0).String())
	}
	if want := "500ms 1s 2s 4s 8s 16s 30s 30s"; strings.Join(got, " ") != want {
		t.Errorf("waits %v, want %s", got, want)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		begin := time.Now()
		if err := b.Wait(ctx, 0); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != 5*time.Second {
			t.Errorf("%v after %v, want the context's end after 5 s", err, time.Since(begin))
		}
	})
}

package lines

import (
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/wasm/abi"
)

func nowhere() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// TestStandardErrorBecomesLines, however it is cut, and a guest that never ends its line keeps no more than one.
func TestStandardErrorBecomesLines(t *testing.T) {
	var logged strings.Builder
	o := Output{Log: New(slog.New(slog.NewTextHandler(&logged, nil)))}
	for _, piece := range []string{"panic: ", "so\n\n", "goroutine 1", " [running]:\nmore"} {
		if n, err := o.Write([]byte(piece)); n != len(piece) || err != nil {
			t.Fatal(n, err)
		}
	}
	for _, want := range []string{`line="panic: so"`, `line="goroutine 1 [running]:"`} {
		if !strings.Contains(logged.String(), want) {
			t.Errorf("no %s in %s", want, logged.String())
		}
	}
	if got := o.Said(); got != ": panic: so" {
		t.Errorf("the complaint is %q", got)
	}
	o.Reset()
	for range 100 {
		_, _ = o.Write([]byte(strings.Repeat("x", 1000)))
	}
	if len(o.part) != abi.MaxLogLine {
		t.Errorf("%d bytes are kept", len(o.part))
	}
}

func TestTheTokenBucket(t *testing.T) {
	now := time.Unix(0, 0)
	l := New(nowhere())
	l.now = func() time.Time { return now }
	for range Burst + 5 {
		l.allow(0)
	}
	if d := l.dropped.Load(); d != 5 {
		t.Errorf("%d lines beyond a burst of %d were dropped, want 5", d, Burst)
	}
	now = now.Add(3 * time.Second)
	for range 3*Rate + 1 {
		l.allow(0)
	}
	if d := l.dropped.Load(); d != 6 {
		t.Errorf("after 3 s, %d lines have been dropped, want 6", d)
	}
}

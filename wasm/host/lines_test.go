package host

import (
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/wasm/abi"
)

func nowhere() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// TestStandardErrorBecomesLines, however it is cut, and a guest that never ends its line keeps no more than one.
func TestStandardErrorBecomesLines(t *testing.T) {
	var logged strings.Builder
	o := output{lines: newLines(slog.New(slog.NewTextHandler(&logged, nil)))}
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
	if got := o.said(); got != ": panic: so" {
		t.Errorf("the complaint is %q", got)
	}
	o.reset()
	for range 100 {
		_, _ = o.Write([]byte(strings.Repeat("x", 1000)))
	}
	if len(o.part) != abi.MaxLogLine {
		t.Errorf("%d bytes are kept", len(o.part))
	}
}

package metering

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

// FuzzRewrite: whatever the bytes are, rewriting ends without a panic, refuses by a named reason, and never makes a
// valid module of an invalid one or the other way round. The compiler's own front judges.
func FuzzRewrite(f *testing.F) {
	paths := corpus(f)
	for i, path := range paths {
		// A module of each of the specification's files, the small ones.
		if base := path[strings.LastIndexByte(path, '/')+1:]; i%7 != 0 && !strings.HasSuffix(base, ".0.wasm") {
			continue
		}
		code, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		if len(code) < 2000 {
			f.Add(code)
		}
	}
	check := newJudge(f, interpreter())
	f.Fuzz(func(t *testing.T, code []byte) {
		for _, o := range []Options{{}, {Mode: Trap, MemoryPages: 100}} {
			m, err := Rewrite(code, o)
			if err != nil {
				var why *Error
				if !errors.As(err, &why) || !slices.Contains(Reasons(), why.Reason) {
					t.Fatalf("refused without a named reason: %v", err)
				}
				return
			}
			plain, metered := check.compiles(code), check.compiles(m.Code)
			if (plain == nil) != (metered == nil) {
				t.Fatalf("plain: %v\nmetered: %v", plain, metered)
			}
		}
	})
}

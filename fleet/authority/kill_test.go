package authority

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/dhowfleet/dhow/test/failpoint/killtest"
)

const killedIn = "DHOW_TEST_AUTHORITY_DIR"

// TestMain is also the process that the next test kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv(killedIn); dir != "" {
		if _, err := Open(dir, domain, (&clock{now: start}).Now); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestKilledAtEveryWritePoint ends the process at every step of making an authority: what is left must open, and a root
// that was once complete must stay.
func TestKilledAtEveryWritePoint(t *testing.T) {
	for _, point := range []string{"written", "synced", "renamed", "durable"} {
		for pass := 1; pass <= 2; pass++ { // the root, then the issuing certificate
			dir := t.TempDir()
			killtest.Killed(t, fmt.Sprintf("authority/%s:%d", point, pass), []string{killedIn + "=" + dir})
			var before *pair
			if p, err := readPair(dir + "/" + rootFile); err == nil {
				before = p
			} else if !errors.Is(err, os.ErrNotExist) {
				t.Fatalf("%s, passing %d: the root is neither there nor absent: %v", point, pass, err)
			}
			if pass == 2 && before == nil {
				t.Fatalf("%s: the root was lost while the issuing certificate was written", point)
			}
			a, _ := open(t, dir)
			if before != nil && !a.root.cert.Equal(before.cert) {
				t.Errorf("%s, passing %d: the root was made anew", point, pass)
			}
		}
	}
}

package authority

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

const killedIn = "DHOW_TEST_AUTHORITY_DIR"

// TestHelperOpensAndDies is the process that the next test kills; it does nothing by itself.
func TestHelperOpensAndDies(t *testing.T) {
	dir := os.Getenv(killedIn)
	if dir == "" {
		t.Skip("only run as a child of TestKilledAtEveryWritePoint")
	}
	open(t, dir)
}

// TestKilledAtEveryWritePoint ends the process at every step of making an authority: what is left must open, and a root
// that was once complete must stay.
func TestKilledAtEveryWritePoint(t *testing.T) {
	for _, point := range []string{"written", "synced", "renamed", "durable"} {
		for pass := 1; pass <= 2; pass++ { // the root, then the issuing certificate
			dir := t.TempDir()
			cmd := exec.Command(os.Args[0], "-test.run=^TestHelperOpensAndDies$")
			cmd.Env = append(os.Environ(), killedIn+"="+dir, fmt.Sprintf("DHOW_FAILPOINT=authority/%s:%d", point, pass))
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("%s, passing %d: the child was not killed: %v\n%s", point, pass, err, out)
			}
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

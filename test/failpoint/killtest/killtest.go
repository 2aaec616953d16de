// Package killtest is for the tests that let a process die at a write point of test/failpoint: the test's own program is
// started again as the victim, which its TestMain recognises by the environment, and is expected to be killed.
package killtest

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"testing"
)

// Run starts the victim with more variables ("NAME=value") and arguments, and point armed ("package/step" or
// "package/step:n"; empty arms none). It returns what the victim printed and whether it was killed. One that ended in
// peace was not; any other end fails the test.
func Run(t *testing.T, point string, env []string, args ...string) (stdout string, killed bool) {
	t.Helper()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	cmd := exec.Command(executable, args...)
	cmd.Env = append(append(os.Environ(), env...), "DHOW_FAILPOINT="+point)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	if err == nil {
		return out.String(), false
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("with %q: %v\n%s%s", point, err, &out, &errs)
	}
	return out.String(), true
}

// Killed is Run for a victim that must be killed.
func Killed(t *testing.T, point string, env []string, args ...string) (stdout string) {
	t.Helper()
	stdout, killed := Run(t, point, env, args...)
	if !killed {
		t.Fatalf("it was not killed at %s:\n%s", point, stdout)
	}
	return stdout
}

// Lives is Run without a point, for a victim that must end in peace.
func Lives(t *testing.T, env []string, args ...string) (stdout string) {
	t.Helper()
	stdout, killed := Run(t, "", env, args...)
	if killed {
		t.Fatal("killed without a failpoint")
	}
	return stdout
}

var here = regexp.MustCompile(`failpoint\.Here\("([^"]+)"\)`)

// Listed checks that points are exactly the write points of the package under test.
func Listed(t *testing.T, points []string) {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range here.FindAllSubmatch(text, -1) {
			found = append(found, string(m[1]))
		}
	}
	slices.Sort(found)
	if want := slices.Sorted(slices.Values(points)); !slices.Equal(slices.Compact(found), want) {
		t.Fatalf("the source passes %q, the test kills at %q", found, want)
	}
}

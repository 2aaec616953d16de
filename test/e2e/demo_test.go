package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// runDemo runs `dhow demo` until its end, behind a prefix such as a network namespace, and returns what it printed and its
// exit code. With keep it asks the demo to stay up, and interrupts it when it says that it does.
func runDemo(t *testing.T, bundle string, keep bool, prefix ...string) (string, int) {
	t.Helper()
	bin, temp := built(t), t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	args := append(prefix, bin+"/dhow", "demo", "--bin", bin, "--bundle", bundle, "--photos", photos())
	if keep {
		args = append(args, "--keep")
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	out := &narration{until: "Everything stays up until", then: cancel}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	t.Log(out.text.String())
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if left := processesIn(t, temp); len(left) > 0 {
		t.Errorf("these processes are left: %q", left)
	}
	files, err := os.ReadDir(temp)
	if held := cmd.ProcessState.ExitCode() == 0; err != nil || held && len(files) > 0 || !held && len(files) == 0 {
		t.Errorf("with exit code %d, %v is left (%v)", cmd.ProcessState.ExitCode(), files, err)
	}
	return out.text.String(), cmd.ProcessState.ExitCode()
}

// narration gathers what the demo says, and acts when it says something.
type narration struct {
	text  bytes.Buffer
	until string
	then  func()
}

func (n *narration) Write(p []byte) (int, error) {
	n.text.Write(p)
	if n.then != nil && strings.Contains(n.text.String(), n.until) {
		n.then()
		n.then = nil
	}
	return len(p), nil
}

// processesIn returns the command lines that name a folder.
func processesIn(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err == nil && bytes.Contains(line, []byte(dir)) { // an error: it has ended
			found = append(found, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}

// TestDemo is the whole path: publish, roll out over QUIC, serve, lose the manager, restart a branch, count once. It is
// asked to stay up, says what to try, and leaves nothing behind when it is interrupted. The demos have the machine for
// themselves as far as this package goes: three branches compile at once, and give up after a minute.
func TestDemo(t *testing.T) {
	out, code := runDemo(t, bundle(t), true)
	if code != 0 {
		t.Fatalf("the demo did not hold: exit code %d", code)
	}
	for _, want := range []string{"connected over HTTP/3 (3)", "1000 requests sent, 1000 counted", "All held.", "describe node deira-1"} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q", want)
		}
	}
}

// TestDemoEndsWithTheStepThatDoesNotHold: there is no bundle to publish.
func TestDemoEndsWithTheStepThatDoesNotHold(t *testing.T) {
	t.Parallel()
	out, code := runDemo(t, t.TempDir(), true)
	if code == 0 || !strings.Contains(out, "The demo did not hold:") || !strings.Contains(out, "bundle.yaml") || strings.Contains(out, "4. Send") {
		t.Errorf("exit code %d", code)
	}
}

// TestDemoWithUDPBlocked is the same in a network that drops UDP, as many branch firewalls do.
func TestDemoWithUDPBlocked(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make a network namespace")
	}
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s to block UDP in a network namespace", tool)
		}
	}
	const name = "dhow-e2e-noudp"
	script := `set -e
ip link set lo up
nft add table inet block
nft add chain inet block out '{ type filter hook output priority 0; }'
nft add rule inet block out meta l4proto udp drop
exec "$@"`
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		t.Skipf("cannot make a network namespace here: %s", out)
	}
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", name).Run() })
	out, code := runDemo(t, bundle(t), false, "ip", "netns", "exec", name, "sh", "-c", script, "sh")
	if code != 0 {
		t.Fatalf("the demo did not hold: exit code %d", code)
	}
	if !strings.Contains(out, "connected over HTTP/2 (3)") {
		t.Error("the branches are not connected over HTTP/2")
	}
}

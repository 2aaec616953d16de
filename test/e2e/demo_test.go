package e2e

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// runDemo runs `dhow demo`, behind a prefix such as a network namespace, and returns what it printed.
func runDemo(t *testing.T, prefix ...string) string {
	t.Helper()
	bin := built(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	args := append(prefix, bin+"/dhow", "demo", "--bin", bin, "--bundle", bundle(t), "--photos", photos())
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = root
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	t.Log(out.String())
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("the demo did not hold: %v", exit)
		}
		t.Fatal(err)
	}
	return out.String()
}

// TestDemo is the whole path: publish, roll out over QUIC, serve, lose the manager, restart a branch, count once.
func TestDemo(t *testing.T) {
	t.Parallel()
	out := runDemo(t)
	if !strings.Contains(out, "connected over HTTP/3 (3)") {
		t.Error("the branches are not connected over HTTP/3")
	}
}

// TestDemoWithUDPBlocked is the same in a network that drops UDP, as many branch firewalls do.
func TestDemoWithUDPBlocked(t *testing.T) {
	t.Parallel()
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
	out := runDemo(t, "ip", "netns", "exec", name, "sh", "-c", script, "sh")
	if !strings.Contains(out, "connected over HTTP/2 (3)") {
		t.Error("the branches are not connected over HTTP/2")
	}
}

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/cmd/dhow/localfleet"
)

// TestIdleAgentIsSmall: an enrolled agent without a model keeps at most 12 MB of memory of its own and 32 MB with the
// pages of its program.
func TestIdleAgentIsSmall(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "n1")
	n := f.Nodes[0]
	must(t, f.Invite(t.Context(), n))
	must(t, f.StartAgent(n))
	must(t, localfleet.Until(t.Context(), 20*time.Second, func(ctx context.Context) error {
		nodes, err := f.CLI.Nodes(ctx)
		if err == nil && nodes["n1"].GetConnection() != "Connected" {
			err = fmt.Errorf("the node is %q", nodes["n1"].GetConnection())
		}
		return err
	}))
	// What start-up took is given back to the system in the seconds after it.
	must(t, localfleet.Until(t.Context(), 40*time.Second, func(context.Context) error {
		anonymous, all := memory(t, n.Agent.PID(), "RssAnon"), memory(t, n.Agent.PID(), "VmRSS")
		if anonymous > 12_000 || all > 32_000 {
			return fmt.Errorf("the agent holds %d kB of its own and %d kB in all", anonymous, all)
		}
		t.Logf("the agent holds %d kB of its own and %d kB in all", anonymous, all)
		return nil
	}))
}

// memory returns a field of /proc/PID/status in kB.
func memory(t *testing.T, pid int, field string) int {
	t.Helper()
	status, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	defer status.Close()
	for lines := bufio.NewScanner(status); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), field+":"); ok {
			kB, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(value, "kB")))
			must(t, err)
			return kB
		}
	}
	t.Fatalf("no %s in /proc/%d/status", field, pid)
	return 0
}

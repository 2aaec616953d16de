package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/fleet/store"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

// decided stores a rollout's status as the manager's loop does.
func (c *cli) decided(ctx context.Context, name string, status *fleetv1.RolloutStatus) {
	c.t.Helper()
	r, err := c.m.Store.Get(ctx, store.KindRollout, name)
	if err != nil {
		c.t.Fatal(err)
	}
	status.ObservedGeneration = r.GetMetadata().GetGeneration()
	r.GetRollout().Status = status
	if err := c.m.Store.UpdateStatus(ctx, r); err != nil {
		c.t.Fatal(err)
	}
}

// line returns the line of a text that begins with a word, its columns parted by one space.
func line(t *testing.T, text, word string) string {
	t.Helper()
	for l := range strings.Lines(text) {
		if fields := strings.Fields(l); len(fields) > 0 && fields[0] == word {
			return strings.Join(fields, " ")
		}
	}
	t.Fatalf("no line begins with %q in\n%s", word, text)
	return ""
}

func TestDescribeRolloutSaysWhoGoverns(t *testing.T) {
	c := start(t)
	c.push("fashion", "1")
	c.push("fashion", "2")
	c.ok("apply", "-f", c.file("f.yaml", fleetYAML), "-f", c.file("r.yaml", rolloutYAML))
	for _, n := range [][2]string{{"deira", "deira-1"}, {"deira", "deira-2"}, {"marina", "marina-1"}} {
		c.m.Enrol("ae-dubai", n[0], n[1], false)
	}
	c.m.Enrol("ae-dubai", "marina", "marina-2", true) // waits for approval
	report := &syncv1.ReportRequest{Copies: []*syncv1.CopyStatus{{Model: "fashion", Version: "1", State: syncv1.CopyState_COPY_STATE_SERVING}}}
	if err := c.m.Store.RecordSightings(t.Context(), []store.Sighting{{NodeID: "n-deira-1", SeenAt: time.Now(), Connection: "Connected", Report: report}}); err != nil {
		t.Fatal(err)
	}

	// Not decided upon yet: nobody is governed.
	out := c.ok("describe", "rollout", "fashion-v1")
	contains(t, out, "Phase:          not looked at yet\n", "GOVERNED BY")
	if got, want := line(t, out, "marina-1"), "marina-1 marina Enrolling - none - -"; got != want {
		t.Errorf("%q, want %q", got, want)
	}

	// Complete, and two nodes joined since; the share is not kept where nothing else serves.
	c.decided(t.Context(), "fashion-v1", &fleetv1.RolloutStatus{Phase: "Complete", Message: "m", Stage: 1, Nodes: 3, Serving: 1, Waiting: 2, TakingAll: 3})
	out = c.ok("describe", "rollout", "fashion-v1")
	contains(t, out, "Phase:          Complete (1/3): 2 nodes joined since, or lost it\n",
		"Traffic:        10% asked for; all of it at 3 nodes, where nothing else serves fashion\n",
		"Nodes:          3, of which 1 serves, 2 wait, 0 failed\n")
	if got, want := line(t, out, "deira-1"), "deira-1 deira Connected fashion-v1 serving - -"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := line(t, out, "marina-2"); !strings.Contains(got, "nobody: it waits for approval none") {
		t.Errorf("%q", got)
	}
	if got := line(t, c.ok("get", "rollouts"), "fashion-v1"); !strings.Contains(got, "Complete (1/3)") {
		t.Errorf("%q does not show who came late", got)
	}

	// A newer rollout takes the nodes of a site.
	c.ok("apply", "-f", c.file("deira.yaml", `kind: Rollout
metadata: {name: deira}
spec: {model: fashion, version: "2", stages: [{name: all, select: {site: deira}}]}
`))
	contains(t, line(t, c.ok("describe", "rollout", "fashion-v1"), "deira-2"), "Enrolling fashion-v1")
	c.decided(t.Context(), "deira", &fleetv1.RolloutStatus{Phase: "Progressing", Message: "m", Nodes: 2, Waiting: 2})
	c.decided(t.Context(), "fashion-v1", &fleetv1.RolloutStatus{Phase: "Complete", Message: "m", Stage: 1, Nodes: 1, Serving: 1, Overtaken: 2})
	out = c.ok("describe", "rollout", "fashion-v1")
	contains(t, out, "Phase:          Complete\n", "Traffic:        10%\n", "Nodes:          1, of which 1 serves, 0 wait, 0 failed; 2 more are selected and follow newer rollouts\n")
	contains(t, line(t, out, "deira-1"), "Connected deira serving")
	contains(t, line(t, out, "marina-1"), "Enrolling fashion-v1 none")
	contains(t, line(t, c.ok("describe", "rollout", "deira"), "deira-2"), "Enrolling deira none")

	// One that failed still governs, and says that it did.
	c.decided(t.Context(), "deira", &fleetv1.RolloutStatus{Phase: "RolledBack", Message: "m", Nodes: 2})
	contains(t, line(t, c.ok("describe", "rollout", "fashion-v1"), "deira-1"), "Connected deira (RolledBack) serving")
}

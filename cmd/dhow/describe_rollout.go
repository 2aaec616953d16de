package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/dhowfleet/dhow/fleet/client"
	"github.com/dhowfleet/dhow/fleet/resource"
	"github.com/dhowfleet/dhow/fleet/rollout"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

func (a *app) describeRollout(ctx context.Context, c *client.Client, d *description, r *fleetv1.Resource) error {
	spec, status := r.GetRollout().GetSpec(), r.GetRollout().GetStatus()
	d.field("Model", spec.GetModel())
	d.field("Version", spec.GetVersion())
	d.field("Digest", status.GetManifestDigest())
	d.field("Selects", selects(r))
	d.field("Traffic", takes(r))
	d.field("On failure", firstOf(spec.GetOnFailure(), "rollback"))
	if spec.GetRetry() > 0 {
		d.field("Retry", number(spec.GetRetry()))
	}
	d.field("Phase", firstOf(late(status), "not looked at yet"))
	d.field("Message", status.GetMessage())
	d.field("Nodes", counted(status))

	selector := map[string]string{}
	for _, s := range spec.GetStages() {
		if s.GetSelect().GetRegion() != "" {
			selector["region"] = s.GetSelect().GetRegion()
		}
		if s.GetSelect().GetSite() != "" {
			selector["site"] = s.GetSelect().GetSite()
		}
	}
	nodes, err := a.list(ctx, c, resource.KindNode, selector)
	if err != nil {
		return err
	}
	rollouts, err := a.list(ctx, c, resource.KindRollout, nil)
	if err != nil {
		return err
	}
	d.section("On the nodes")
	t := d.table("NODE", "SITE", "CONNECTION", "GOVERNED BY", "COPY", "REASON", "MESSAGE")
	shown := 0
	for _, n := range nodes.GetResources() {
		s := n.GetNode().GetStatus()
		if s.GetState() == "Revoked" {
			continue
		}
		copied := copyOf(s, spec)
		t.row(n.GetMetadata().GetName(), s.GetSite(), s.GetConnection(), governor(rollouts.GetResources(), spec.GetModel(), s),
			firstOf(copyState(copied), "none"), copied.GetReason(), copied.GetMessage())
		shown++
	}
	if shown == 0 {
		d.note("it selects no nodes")
		return nil
	}
	t.flush()
	return nil
}

// governor names the rollout that a node follows for a model, with its phase where it failed: then the node has gone
// back to something older.
func governor(rollouts []*fleetv1.Resource, model string, s *fleetv1.NodeStatus) string {
	if s.GetState() == "Pending" {
		return "nobody: it waits for approval"
	}
	r := rollout.Governing(rollouts, model, s.GetRegion(), s.GetSite())
	switch p := r.GetRollout().GetStatus().GetPhase(); p {
	case rollout.RollingBack, rollout.RolledBack, rollout.Held:
		return fmt.Sprintf("%s (%s)", r.GetMetadata().GetName(), p)
	}
	return r.GetMetadata().GetName()
}

// takes says the share of requests that is asked for, and where it is not kept.
func takes(r *fleetv1.Resource) string {
	n := r.GetRollout().GetStatus().GetTakingAll()
	if n == 0 {
		return traffic(r)
	}
	return fmt.Sprintf("%s asked for; all of it at %s, where nothing else serves %s", traffic(r), count(int(n), "node"), r.GetRollout().GetSpec().GetModel())
}

// late says the phase, and of a complete rollout who does not serve it yet.
func late(s *fleetv1.RolloutStatus) string {
	if s.GetPhase() != rollout.Complete || s.GetServing() >= s.GetNodes() {
		return phase(s)
	}
	return fmt.Sprintf("%s: %s joined since, or lost it", phase(s), count(int(s.GetNodes()-s.GetServing()), "node"))
}

func counted(s *fleetv1.RolloutStatus) string {
	serve, wait := "serve", "wait"
	if s.GetServing() == 1 {
		serve = "serves"
	}
	if s.GetWaiting() == 1 {
		wait = "waits"
	}
	text := fmt.Sprintf("%d, of which %d %s, %d %s, %d failed", s.GetNodes(), s.GetServing(), serve, s.GetWaiting(), wait, s.GetFailed())
	switch n := s.GetOvertaken(); {
	case n == 1:
		text += "; 1 more is selected and follows a newer rollout"
	case n > 1:
		text += fmt.Sprintf("; %d more are selected and follow newer rollouts", n)
	}
	return text
}

// copyOf finds a node's copy of what a rollout brings, or nil.
func copyOf(s *fleetv1.NodeStatus, spec *fleetv1.RolloutSpec) *syncv1.CopyStatus {
	for _, c := range s.GetReport().GetCopies() {
		if c.GetModel() == spec.GetModel() && c.GetVersion() == spec.GetVersion() {
			return c
		}
	}
	return nil
}

// copyState says a copy's state in a word, with how far a download is.
func copyState(c *syncv1.CopyStatus) string {
	if c == nil {
		return ""
	}
	state := strings.ToLower(strings.TrimPrefix(c.GetState().String(), "COPY_STATE_"))
	if c.GetState() == syncv1.CopyState_COPY_STATE_DOWNLOADING && c.GetBytesTotal() > 0 {
		state += fmt.Sprintf(" %.0f%%", 100*float64(c.GetBytesDone())/float64(c.GetBytesTotal()))
	}
	return state
}

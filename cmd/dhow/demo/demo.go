// Package demo runs Dhow's main job on this machine with real processes: one fleet manager, two regions, three
// branches, a real model and real photos. It is what `make demo` shows, and the first end-to-end test.
//
// Everything is done as an operator would do it, by the three programs' command lines, in a temporary folder and on
// loopback. Each step says in a line what it does; the first step that does not hold ends the demo with an error. Run
// returns after it has stopped every process that it started, unless Options.Keep asks it to leave them up until the
// context ends.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/dhowfleet/dhow/cmd/dhow/localfleet"
)

// Options say where the demo finds its parts.
type Options struct {
	// Bin is the folder of dhow, dhow-fleet and dhow-agent.
	Bin string
	// Bundle is the folder of the assembled fashion bundle, Photos the folder of its test photos.
	Bundle, Photos string
	// Keep leaves everything running at the end until the context is cancelled.
	Keep bool
	// Out takes the narration.
	Out io.Writer
	// PhotosPerBranch is how many photos each branch is sent in the first round; the later rounds send half of it.
	PhotosPerBranch int
}

// branch is one machine of the demo with what it answered so far.
type branch struct {
	*localfleet.Node
	score   score
	counted uint64 // requests of this branch that the manager has added up
}

type demo struct {
	Options
	fleet    *localfleet.Fleet
	branches []*branch
	photos   []localfleet.Photo
	started  time.Time
	steps    int
}

const manifest = `kind: Region
metadata: {name: ae-dubai}
spec: {jurisdiction: uae-mainland, egress: [health, metrics]}
---
kind: Region
metadata: {name: eu-west}
spec: {jurisdiction: eu, egress: [health, metrics]}
---
kind: Site
metadata: {name: deira}
spec: {region: ae-dubai, latitude: 25.2711, longitude: 55.3075}
---
kind: Site
metadata: {name: marina}
spec: {region: ae-dubai, latitude: 25.0805, longitude: 55.1403}
---
kind: Site
metadata: {name: rotterdam}
spec: {region: eu-west, latitude: 51.9244, longitude: 4.4777}
`

const rollout = `kind: Rollout
metadata: {name: fashion-v1}
spec:
  model: fashion
  version: "1"
  stages:
    - {name: all, traffic: 100%}
`

// Run runs the demo and returns the first step that did not hold.
func Run(ctx context.Context, o Options) (err error) {
	if o.PhotosPerBranch == 0 {
		o.PhotosPerBranch = 200
	}
	dir, err := os.MkdirTemp("", "dhow-demo-")
	if err != nil {
		return fmt.Errorf("cannot make a folder for the demo: %w", err)
	}
	d := &demo{Options: o, started: time.Now()}
	nodes := []*localfleet.Node{
		{Name: "deira-1", Region: "ae-dubai", Site: "deira"},
		{Name: "marina-1", Region: "ae-dubai", Site: "marina"},
		{Name: "rotterdam-1", Region: "eu-west", Site: "rotterdam"},
	}
	if d.fleet, err = localfleet.New(o.Bin, dir, d.say, nodes...); err != nil {
		return err
	}
	for _, n := range nodes {
		d.branches = append(d.branches, &branch{Node: n})
	}
	defer func() {
		err = errors.Join(err, d.fleet.Stop())
		if err != nil {
			fmt.Fprintf(o.Out, "\nThe demo did not hold: %v\nLogs and state are in %s\n", err, dir)
			return
		}
		err = os.RemoveAll(dir)
	}()
	for _, step := range []func(context.Context) error{
		d.startFleet, d.startBranches, d.pushAndRollOut, d.firstRound, d.countFirstRound,
		d.loseManager, d.restartBranchOffline, d.managerReturns,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	d.table()
	if o.Keep {
		d.invite()
		<-ctx.Done()
	}
	return nil
}

func (d *demo) startFleet(ctx context.Context) error {
	d.step("Start a fleet manager and tell it of two regions and three sites")
	if err := d.fleet.Init(ctx); err != nil {
		return err
	}
	return d.fleet.Apply(ctx, "fleet", manifest)
}

func (d *demo) startBranches(ctx context.Context) error {
	d.step("Three branches join, each with a token of its own site")
	for _, b := range d.branches {
		if err := d.fleet.Invite(ctx, b.Node); err != nil {
			return err
		}
		if err := d.fleet.StartAgent(b.Node); err != nil {
			return err
		}
	}
	return d.until(ctx, "all branches are connected", 20*time.Second, func(ctx context.Context) (string, error) {
		nodes, err := d.fleet.CLI.Nodes(ctx)
		if err != nil {
			return "", err
		}
		connected, over := 0, map[string]int{}
		for _, status := range nodes {
			if status.GetConnection() == "Connected" {
				connected++
				over[status.GetTransport()]++
			}
		}
		if connected < len(d.branches) {
			return "", fmt.Errorf("%d of %d are", connected, len(d.branches))
		}
		return "connected over " + counts(over), nil
	})
}

func (d *demo) pushAndRollOut(ctx context.Context) error {
	d.step("Publish a model with its code, and roll it out")
	if _, err := d.fleet.CLI.Run(ctx, "model", "push", d.Bundle); err != nil {
		return err
	}
	if err := d.fleet.Apply(ctx, "rollout", rollout); err != nil {
		return err
	}
	return d.until(ctx, "the rollout is complete and every branch serves", 60*time.Second, func(ctx context.Context) (string, error) {
		s, err := d.fleet.CLI.Rollout(ctx, "fashion-v1")
		if err != nil {
			return "", err
		}
		if s.GetPhase() == "RolledBack" || s.GetPhase() == "Held" {
			return "", localfleet.Final(fmt.Errorf("the rollout is %s: %s", s.GetPhase(), s.GetMessage()))
		}
		if s.GetPhase() != "Complete" {
			return "", fmt.Errorf("it is %s: %s", s.GetPhase(), s.GetMessage())
		}
		for _, b := range d.branches {
			if err := localfleet.Ready(ctx, b.URL(), "fashion"); err != nil {
				return "", err
			}
		}
		return s.GetMessage(), nil
	})
}

func (d *demo) firstRound(ctx context.Context) error {
	d.step(fmt.Sprintf("Send %d real photos to each branch", d.PhotosPerBranch))
	var err error
	if d.photos, err = localfleet.ReadPhotos(d.Photos); err != nil {
		return err
	}
	for i, b := range d.branches {
		if err := d.classify(ctx, b, i*d.PhotosPerBranch, d.PhotosPerBranch); err != nil {
			return err
		}
		if b.score.accuracy() < 0.8 {
			return fmt.Errorf("%s answers with an accuracy of %.3f, the model has 0.89", b.Site, b.score.accuracy())
		}
	}
	return nil
}

func (d *demo) countFirstRound(ctx context.Context) error {
	return d.until(ctx, "the manager has counted every request once", 20*time.Second, d.countsAgree)
}

func (d *demo) loseManager(ctx context.Context) error {
	d.step("The line goes down: kill the manager; branches go on")
	d.fleet.Manager.Kill()
	for i, b := range d.branches {
		if err := d.classify(ctx, b, i*d.PhotosPerBranch, d.PhotosPerBranch/2); err != nil {
			return fmt.Errorf("with no manager: %w", err)
		}
	}
	return nil
}

func (d *demo) restartBranchOffline(ctx context.Context) error {
	b := d.branches[0]
	d.step(fmt.Sprintf("Restart the agent of %s with no manager to ask", b.Site))
	if err := b.Agent.Stop(15 * time.Second); err != nil {
		return err
	}
	if err := d.fleet.StartAgent(b.Node); err != nil {
		return err
	}
	if err := d.until(ctx, "it serves again", 20*time.Second, func(ctx context.Context) (string, error) {
		return "", localfleet.Ready(ctx, b.URL(), "fashion")
	}); err != nil {
		return err
	}
	return d.classify(ctx, b, 0, d.PhotosPerBranch/2)
}

func (d *demo) managerReturns(ctx context.Context) error {
	d.step("Bring the manager back: what was counted meanwhile arrives, once")
	if err := d.fleet.StartManager(ctx); err != nil {
		return err
	}
	return d.until(ctx, "the outboxes are empty and every request is counted once", 40*time.Second, d.countsAgree)
}

// countsAgree compares what the manager added up with what was sent. More than sent is final: nothing mends a request
// counted twice.
func (d *demo) countsAgree(ctx context.Context) (string, error) {
	got, err := d.fleet.CLI.RequestsBySite(ctx)
	if err != nil {
		return "", err
	}
	var total uint64
	var missing error
	for _, b := range d.branches {
		sent := uint64(b.score.sent)
		b.counted = got[b.Site]
		total += b.counted
		if b.counted > sent {
			return "", localfleet.Final(fmt.Errorf("%s: the manager counts %d requests, only %d were sent", b.Site, b.counted, sent))
		}
		if b.counted < sent {
			missing = errors.Join(missing, fmt.Errorf("%s: the manager counts %d of %d requests", b.Site, b.counted, sent))
		}
	}
	if missing != nil {
		return "", missing
	}
	return fmt.Sprintf("%d requests sent, %d counted", total, total), nil
}

// score is what a branch answered so far.
type score struct {
	sent, right int
	latencies   []time.Duration
}

func (s *score) accuracy() float64 { return float64(s.right) / float64(max(1, s.sent)) }

func (s *score) percentile(p float64) time.Duration {
	if len(s.latencies) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s.latencies))
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))]
}

// classify sends n photos one after the other, as a till or a camera would.
func (d *demo) classify(ctx context.Context, b *branch, from, n int) error {
	round := score{}
	for i := range n {
		p := d.photos[(from+i)%len(d.photos)]
		begin := time.Now()
		answer, err := localfleet.Infer(ctx, b.URL(), "fashion", fmt.Sprintf("%s-%d", b.Site, b.score.sent+i), p.Data)
		if err != nil {
			return fmt.Errorf("%s, photo %s: %w", b.Site, p.Name, err)
		}
		round.latencies = append(round.latencies, time.Since(begin))
		round.sent++
		if answer.Label == localfleet.Products[p.Label] {
			round.right++
		}
	}
	d.say(fmt.Sprintf("%-10s answered %d photos, accuracy %.3f, p50 %s, p99 %s", b.Site, n, round.accuracy(),
		round.percentile(.5).Round(10*time.Microsecond), round.percentile(.99).Round(10*time.Microsecond)))
	b.score.sent += round.sent
	b.score.right += round.right
	b.score.latencies = append(b.score.latencies, round.latencies...)
	return nil
}

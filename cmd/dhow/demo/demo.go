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
	"path/filepath"
	"time"
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

// branch is one machine of the demo: a node of its own site.
type branch struct {
	site, region string
	agent        *process
	dir          string
	listen       string // address of the Open Inference endpoint
	tokenFile    string
	score        score
	counted      uint64 // requests of this branch that the manager has added up
}

func (b *branch) url() string { return "http://" + b.listen }

type demo struct {
	Options
	dir      string
	cli      cli
	fleet    *process
	address  string // of the manager
	branches []*branch
	photos   []photo
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
	d := &demo{Options: o, dir: dir, started: time.Now()}
	d.cli = cli{binary: filepath.Join(o.Bin, "dhow"), configHome: filepath.Join(dir, "operator"), echo: d.say}
	defer func() {
		d.stopAll()
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
	d.step("Start a fleet manager")
	ports, err := freePorts(4)
	if err != nil {
		return err
	}
	d.address = ports[0]
	for i, b := range []branch{{site: "deira", region: "ae-dubai"}, {site: "marina", region: "ae-dubai"}, {site: "rotterdam", region: "eu-west"}} {
		b.listen = ports[i+1]
		b.dir = filepath.Join(d.dir, b.site)
		b.tokenFile = filepath.Join(d.dir, b.site+".token")
		d.branches = append(d.branches, &b)
	}
	pin, err := d.initFleet(ctx)
	if err != nil {
		return err
	}
	if err := d.runFleet(ctx); err != nil {
		return err
	}
	token := filepath.Join(d.dir, "fleet", "bootstrap-token")
	if _, err := d.cli.run(ctx, "login", "--server", d.address, "--token-file", token, "--ca-sha256", pin); err != nil {
		return err
	}
	file := filepath.Join(d.dir, "fleet.yaml")
	if err := os.WriteFile(file, []byte(manifest), 0o600); err != nil {
		return err
	}
	_, err = d.cli.run(ctx, "apply", "-f", file)
	return err
}

func (d *demo) startBranches(ctx context.Context) error {
	d.step("Three branches join, each with a token of its own site")
	for _, b := range d.branches {
		out, err := d.cli.run(ctx, "node", "invite", "--region", b.region, "--site", b.site, "-o", "token")
		if err != nil {
			return err
		}
		if err := os.WriteFile(b.tokenFile, []byte(out), 0o600); err != nil {
			return err
		}
		if err := d.runAgent(b); err != nil {
			return err
		}
	}
	return d.until(ctx, "all branches are connected", 20*time.Second, func(ctx context.Context) (string, error) {
		nodes, err := d.cli.nodes(ctx)
		if err != nil {
			return "", err
		}
		connected, over := 0, map[string]int{}
		for _, n := range nodes {
			if n.GetNode().GetStatus().GetConnection() == "Connected" {
				connected++
				over[n.GetNode().GetStatus().GetTransport()]++
			}
		}
		if connected < len(d.branches) {
			return "", fmt.Errorf("%d of %d are", connected, len(d.branches))
		}
		return fmt.Sprintf("connected over %s", counts(over)), nil
	})
}

func (d *demo) pushAndRollOut(ctx context.Context) error {
	d.step("Publish a model with its code, and roll it out")
	if _, err := d.cli.run(ctx, "model", "push", d.Bundle); err != nil {
		return err
	}
	file := filepath.Join(d.dir, "rollout.yaml")
	if err := os.WriteFile(file, []byte(rollout), 0o600); err != nil {
		return err
	}
	if _, err := d.cli.run(ctx, "apply", "-f", file); err != nil {
		return err
	}
	return d.until(ctx, "the rollout is complete and every branch serves", 60*time.Second, func(ctx context.Context) (string, error) {
		r, err := d.cli.rollout(ctx, "fashion-v1")
		if err != nil {
			return "", err
		}
		s := r.GetRollout().GetStatus()
		if s.GetPhase() == "RolledBack" || s.GetPhase() == "Held" {
			return "", final(fmt.Errorf("the rollout is %s: %s", s.GetPhase(), s.GetMessage()))
		}
		if s.GetPhase() != "Complete" {
			return "", fmt.Errorf("it is %s: %s", s.GetPhase(), s.GetMessage())
		}
		for _, b := range d.branches {
			if err := ready(ctx, b.url(), "fashion"); err != nil {
				return "", err
			}
		}
		return s.GetMessage(), nil
	})
}

func (d *demo) firstRound(ctx context.Context) error {
	d.step(fmt.Sprintf("Send %d real photos to each branch", d.PhotosPerBranch))
	var err error
	if d.photos, err = readPhotos(d.Photos); err != nil {
		return err
	}
	for i, b := range d.branches {
		if err := d.classify(ctx, b, i*d.PhotosPerBranch, d.PhotosPerBranch); err != nil {
			return err
		}
		if b.score.accuracy() < 0.8 {
			return fmt.Errorf("%s answers with an accuracy of %.3f, the model has 0.89", b.site, b.score.accuracy())
		}
	}
	return nil
}

func (d *demo) countFirstRound(ctx context.Context) error {
	return d.until(ctx, "the manager has counted every request once", 20*time.Second, d.countsAgree)
}

func (d *demo) loseManager(ctx context.Context) error {
	d.step("The line goes down: kill the manager; branches go on")
	d.fleet.kill()
	for i, b := range d.branches {
		if err := d.classify(ctx, b, i*d.PhotosPerBranch, d.PhotosPerBranch/2); err != nil {
			return fmt.Errorf("with no manager: %w", err)
		}
	}
	return nil
}

func (d *demo) restartBranchOffline(ctx context.Context) error {
	b := d.branches[0]
	d.step(fmt.Sprintf("Restart the agent of %s with no manager to ask", b.site))
	if err := b.agent.stop(15 * time.Second); err != nil {
		return err
	}
	if err := d.runAgent(b); err != nil {
		return err
	}
	if err := d.until(ctx, "it serves again", 20*time.Second, func(ctx context.Context) (string, error) {
		return "", ready(ctx, b.url(), "fashion")
	}); err != nil {
		return err
	}
	return d.classify(ctx, b, 0, d.PhotosPerBranch/2)
}

func (d *demo) managerReturns(ctx context.Context) error {
	d.step("Bring the manager back: what was counted meanwhile arrives, once")
	if err := d.runFleet(ctx); err != nil {
		return err
	}
	return d.until(ctx, "the outboxes are empty and every request is counted once", 40*time.Second, d.countsAgree)
}

// countsAgree compares what the manager added up with what was sent. More than sent is final: nothing mends a request
// counted twice.
func (d *demo) countsAgree(ctx context.Context) (string, error) {
	got, err := d.cli.requestsBySite(ctx)
	if err != nil {
		return "", err
	}
	var total uint64
	var missing error
	for _, b := range d.branches {
		sent := uint64(b.score.sent)
		b.counted = got[b.site]
		total += b.counted
		if got[b.site] > sent {
			return "", final(fmt.Errorf("%s: the manager counts %d requests, only %d were sent", b.site, got[b.site], sent))
		}
		if got[b.site] < sent {
			missing = errors.Join(missing, fmt.Errorf("%s: the manager counts %d of %d requests", b.site, got[b.site], sent))
		}
	}
	if missing != nil {
		return "", missing
	}
	return fmt.Sprintf("%d requests sent, %d counted", total, total), nil
}

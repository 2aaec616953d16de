// Package control runs the manager's one loop: look at the fleet, decide, commit, tell.
//
// A look is incremental. The loop keeps the resources in memory, follows the store's changes, and asks fleet/rollout
// what every node should hold and how every rollout stands. What differs from what is stored is committed in two steps,
// and their order matters. First the statuses and releases: that a rollout failed is known only from a report that the
// node replaces soon, so it must be remembered before any node is told to go back. Then the desired states, in groups.
// A manager that dies between the steps decides the same desired states again when it is back.
//
// After a failed step everything is read anew. One loop runs per store; Run blocks until its context ends.
package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/dhowfleet/dhow/fleet/rollout"
	"github.com/dhowfleet/dhow/fleet/store"
	"github.com/dhowfleet/dhow/protocol/backoff"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

// Store is where the loop looks and what it commits to; fleet/store is one.
type Store interface {
	List(ctx context.Context, kind string) ([]*fleetv1.Resource, uint64, error)
	Changes(ctx context.Context, since uint64) ([]store.ChangeRecord, error)
	Notify() (<-chan struct{}, func())
	AllDesired(ctx context.Context) (map[string]store.Desired, error)
	Releases(ctx context.Context) ([]store.Release, error)
	CommitDecisions(ctx context.Context, d store.Decisions) error
	SetDesired(ctx context.Context, states map[string][]byte) ([]store.Desired, error)
}

// Config is what a Loop needs. Store, Told and Logger are required.
type Config struct {
	Store Store
	// Told is called with the ids of the nodes whose desired state changed. It must not block.
	Told   func(nodeIDs ...string)
	Logger *slog.Logger
	Now    func() time.Time // default: time.Now
	// Gather is how long changes are gathered before a look (default 50 ms).
	Gather time.Duration
	// Recheck is the longest time between two looks, in case a wake-up was lost (default 1 min).
	Recheck time.Duration
	// Group bounds the desired states of one transaction, so that reports and deliveries get their turn in between
	// (default 500).
	Group int
	// ReportInterval and DeliverInterval are what nodes are told; zero leaves it to them.
	ReportInterval, DeliverInterval time.Duration
}

// Loop is the loop and what it remembers of the fleet.
type Loop struct {
	Config
	picture *picture // nil: to be read anew
}

// New makes a loop.
func New(c Config) *Loop {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Gather <= 0 {
		c.Gather = 50 * time.Millisecond
	}
	if c.Recheck <= 0 {
		c.Recheck = time.Minute
	}
	if c.Group <= 0 {
		c.Group = 500
	}
	return &Loop{Config: c}
}

// Run looks whenever the store changed, until ctx ends.
func (l *Loop) Run(ctx context.Context) error {
	wake, cancel := l.Store.Notify()
	defer cancel()
	var backoff backoff.Backoff
	for {
		err := l.Step(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			l.Logger.Error("the fleet could not be looked at; trying again", "error", err)
			if backoff.Wait(ctx, 0) != nil {
				return nil
			}
			continue
		}
		backoff.Reset()
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
			// A burst of reports becomes one look.
			select {
			case <-time.After(l.Gather):
			case <-ctx.Done():
				return nil
			}
		case <-time.After(l.Recheck):
		}
	}
}

// Step looks once and commits what follows. It is not for several goroutines.
func (l *Loop) Step(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			l.picture = nil // it may be half of something
		}
	}()
	if l.picture == nil {
		if l.picture, err = read(ctx, l.Store); err != nil {
			return err
		}
	}
	changed, err := l.picture.follow(ctx, l.Store)
	if errors.Is(err, store.ErrCompacted) {
		if l.picture, err = read(ctx, l.Store); err != nil {
			return err
		}
		changed = true
	}
	if err != nil || !changed {
		return err
	}
	plan := rollout.Decide(l.picture.snapshot(l.Now()))
	if err := l.commitDecisions(ctx, plan); err != nil {
		return err
	}
	return l.commitDesired(ctx, plan)
}

func (l *Loop) commitDecisions(ctx context.Context, plan rollout.Plan) error {
	var d store.Decisions
	for name, status := range plan.Statuses {
		r := l.picture.get(store.KindRollout, name)
		was := r.GetRollout().GetStatus()
		if proto.Equal(was, status) {
			continue
		}
		if was.GetPhase() != status.GetPhase() {
			l.Logger.Info("rollout is "+status.GetPhase(), "rollout", name, "model", r.GetRollout().GetSpec().GetModel(),
				"version", r.GetRollout().GetSpec().GetVersion(), "message", status.GetMessage())
		}
		d.Statuses = append(d.Statuses, &fleetv1.Resource{Kind: store.KindRollout, Metadata: r.GetMetadata(),
			Body: &fleetv1.Resource_Rollout{Rollout: &fleetv1.Rollout{Spec: r.GetRollout().GetSpec(), Status: status}}})
	}
	d.Statuses = append(d.Statuses, l.picture.places()...)
	for _, r := range plan.Completed {
		d.Releases = append(d.Releases, store.Release(r))
	}
	if len(d.Statuses) == 0 && len(d.Releases) == 0 {
		return nil
	}
	if err := l.Store.CommitDecisions(ctx, d); err != nil {
		return err
	}
	if len(plan.Completed) > 0 {
		// Read again instead of adding: a decision about a spec that changed meanwhile was dropped.
		return l.picture.readReleases(ctx, l.Store)
	}
	return nil
}

func (l *Loop) commitDesired(ctx context.Context, plan rollout.Plan) error {
	group := map[string][]byte{}
	states := map[string]*syncv1.DesiredState{}
	commit := func() error {
		if len(group) == 0 {
			return nil
		}
		set, err := l.Store.SetDesired(ctx, group)
		if err != nil {
			return err
		}
		ids := make([]string, 0, len(set))
		for _, d := range set {
			ids = append(ids, d.NodeID)
			l.picture.told[d.NodeID] = told{generation: d.Generation, state: states[d.NodeID]}
		}
		l.Told(ids...)
		clear(group)
		return nil
	}
	for id, copies := range plan.Copies {
		state := &syncv1.DesiredState{Copies: copies, ReportIntervalSeconds: seconds(l.ReportInterval), DeliverIntervalSeconds: seconds(l.DeliverInterval)}
		// Compared as messages, since a newer build may write the same message as other bytes.
		if have, ok := l.picture.told[id]; ok && proto.Equal(have.state, state) {
			continue
		}
		body, err := proto.MarshalOptions{Deterministic: true}.Marshal(state)
		if err != nil {
			return fmt.Errorf("cannot write the desired state of node %s: %w", id, err)
		}
		group[id], states[id] = body, state
		if len(group) == l.Group {
			if err := commit(); err != nil {
				return err
			}
		}
	}
	return commit()
}

func seconds(d time.Duration) uint32 {
	if d <= 0 {
		return 0
	}
	return uint32(max(1, d/time.Second))
}

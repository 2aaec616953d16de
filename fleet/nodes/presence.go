package nodes

import (
	"context"
	"errors"
	"time"

	"github.com/dhowfleet/dhow/fleet/store"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

const (
	// silences is how many report intervals a node may be silent before it counts as disconnected.
	silences = 3
	// maxGroup bounds how many nodes are written in one transaction, so that others get their turn.
	maxGroup = 1000
	// lastWrite bounds the write of what was heard last when the manager stops.
	lastWrite = 5 * time.Second
)

// presence is what is known of a node since it was first heard of by this process.
type presence struct {
	watches   int
	heard     time.Time // when it last spoke, or when this manager began to wait for it
	seen      time.Time // when it last spoke; zero: not since this manager started
	connected bool      // as written last
	left      bool      // it said that it stops, and has not spoken since
	transport string
	protocol  uint32
	report    *syncv1.ReportRequest // not yet written
}

// Watching notes that a node holds a watch, until the returned function is called.
func (r *Registry) Watching(nodeID, transport string, protocol uint32) (end func()) {
	r.heard(nodeID, func(p *presence) {
		p.watches++
		p.transport, p.protocol = transport, protocol
	})
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if p := r.present[nodeID]; p != nil {
			p.watches--
			p.heard = r.Now()
		}
	}
}

// Heard notes that a node spoke, and its report if there is one. The report is the registry's from then on.
func (r *Registry) Heard(nodeID, transport string, report *syncv1.ReportRequest) {
	r.heard(nodeID, func(p *presence) {
		p.transport = transport
		if report != nil {
			p.report = report
			p.left = report.GetLeaving()
		}
	})
}

func (r *Registry) heard(nodeID string, note func(*presence)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.present[nodeID]
	if p == nil {
		p = &presence{}
		r.present[nodeID] = p
	}
	p.heard = r.Now()
	p.seen, p.left = p.heard, false
	note(p)
	r.dirty[nodeID] = struct{}{}
	select {
	case r.wake <- struct{}{}:
	default: // Run is going to look anyway
	}
}

// Run writes what was heard until ctx ends, and then once more. It returns an error only if the nodes cannot be read at
// the start.
func (r *Registry) Run(ctx context.Context) error {
	if err := r.expect(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	sweep := time.NewTicker(max(r.Flush, r.ReportInterval/2))
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWrite)
			defer cancel()
			r.flush(last)
			return nil
		case <-r.wake:
			// Gather what else arrives in this moment: thousands of reports become one transaction.
			select {
			case <-time.After(r.Flush):
			case <-ctx.Done():
			}
			r.flush(ctx)
		case <-sweep.C:
			r.sweep()
			r.flush(ctx)
		}
	}
}

// expect takes up the nodes that were connected when the manager ended.
func (r *Registry) expect(ctx context.Context) error {
	all, err := r.Store.Nodes(ctx)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range all {
		if n.Connection == store.Connected && r.present[n.ID] == nil {
			r.present[n.ID] = &presence{heard: r.Now(), connected: true, transport: n.Transport}
		}
	}
	return nil
}

// sweep finds nodes that fell silent.
func (r *Registry) sweep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.Now()
	for id, p := range r.present {
		if r.there(p, now) {
			continue
		}
		if p.connected {
			r.dirty[id] = struct{}{}
		} else if p.report == nil && p.watches == 0 { // an open watch of a node that left counts itself out later
			delete(r.present, id) // nothing is left to say about it
			delete(r.dirty, id)
		}
	}
}

// there says whether a node counts as connected.
func (r *Registry) there(p *presence, now time.Time) bool {
	return !p.left && (p.watches > 0 || now.Sub(p.heard) <= silences*r.ReportInterval)
}

// flush writes what is dirty. What cannot be written stays dirty and is tried again with the next sweep.
func (r *Registry) flush(ctx context.Context) {
	for {
		group := r.gather()
		if len(group) == 0 {
			return
		}
		if err := r.Store.RecordSightings(ctx, group); err != nil {
			if ctx.Err() == nil || !errors.Is(err, ctx.Err()) {
				r.Logger.Error("cannot write what nodes reported; trying again", "nodes", len(group), "error", err)
			}
			r.putBack(group)
			return
		}
	}
}

func (r *Registry) gather() []store.Sighting {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.Now()
	var group []store.Sighting
	for id := range r.dirty {
		delete(r.dirty, id)
		p := r.present[id]
		if p == nil {
			continue
		}
		p.connected = r.there(p, now)
		s := store.Sighting{NodeID: id, SeenAt: p.seen, Connection: store.Disconnected, Transport: p.transport, Protocol: p.protocol, Report: p.report}
		if p.connected {
			s.Connection = store.Connected
		} else if p.left {
			r.Logger.Info("node stopped", "node", id)
		} else {
			r.Logger.Info("node fell silent", "node", id)
		}
		p.report = nil
		if group = append(group, s); len(group) == maxGroup {
			break
		}
	}
	return group
}

func (r *Registry) putBack(group []store.Sighting) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range group {
		p := r.present[s.NodeID]
		if p == nil {
			continue
		}
		if p.report == nil {
			p.report = s.Report // unless a newer one came meanwhile
		}
		r.dirty[s.NodeID] = struct{}{}
	}
}

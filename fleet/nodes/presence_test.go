package nodes

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dhowfleet/dhow/fleet/store"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

// memory is a store that only remembers sightings.
type memory struct {
	Store
	mu     sync.Mutex
	nodes  []*store.Node
	seen   map[string]store.Sighting
	groups int
	err    error
}

func (m *memory) Nodes(context.Context) ([]*store.Node, error) { return m.nodes, nil }

func (m *memory) RecordSightings(_ context.Context, group []store.Sighting) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return m.err
	}
	m.groups++
	for _, s := range group {
		if old := m.seen[s.NodeID]; s.Report == nil {
			s.Report = old.Report
		}
		m.seen[s.NodeID] = s
	}
	return nil
}

func (m *memory) last(id string) store.Sighting {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen[id]
}

func (m *memory) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

// running starts a registry in a bubble of its own time; stop ends it.
func running(t *testing.T, m *memory) (r *Registry, stop func()) {
	t.Helper()
	m.seen = map[string]store.Sighting{}
	r = New(Config{Store: m, Logger: slog.New(slog.DiscardHandler), ReportInterval: 10 * time.Second})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	return r, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestConnectionFollowsWatchAndReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		r, stop := running(t, m)
		defer stop()
		want := func(connection string) {
			t.Helper()
			synctest.Wait()
			if got := m.last("n-1").Connection; got != connection {
				t.Fatalf("after %s the node is %q, want %q", time.Since(began), got, connection)
			}
		}
		end := r.Watching("n-1", "HTTP/3", 1)
		time.Sleep(time.Second)
		want(store.Connected)
		time.Sleep(time.Hour) // a watch is enough
		want(store.Connected)
		end()
		time.Sleep(25 * time.Second)
		want(store.Connected)
		time.Sleep(15 * time.Second)
		want(store.Disconnected)
		end = r.Watching("n-1", "HTTP/3", 1)
		time.Sleep(time.Second)
		want(store.Connected)
		r.Heard("n-1", "HTTP/3", &syncv1.ReportRequest{Leaving: true}) // what it says counts more than its open watch
		time.Sleep(time.Second)
		want(store.Disconnected)
		end()
		r.Heard("n-1", "HTTP/3", nil)
		time.Sleep(time.Second)
		want(store.Connected)
		for range 10 { // so are reports
			r.Heard("n-1", "HTTP/2", &syncv1.ReportRequest{AgentVersion: "1"})
			time.Sleep(20 * time.Second)
			want(store.Connected)
		}
		if s := m.last("n-1"); s.Transport != "HTTP/2" || s.Report.GetAgentVersion() != "1" || s.SeenAt.IsZero() {
			t.Errorf("the sighting is %+v", s)
		}
		time.Sleep(time.Minute)
		want(store.Disconnected)
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.present) != 0 {
			t.Errorf("%d silent nodes are kept in memory", len(r.present))
		}
	})
}

// TestAnOldWatchEndsAfterTheNodeCameBack: the manager sees the end of a watch when the network tells it, which may be
// long after the node stopped, was forgotten, and holds another one.
func TestAnOldWatchEndsAfterTheNodeCameBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		r, stop := running(t, m)
		defer stop()
		endOld := r.Watching("n-1", "HTTP/3", 1)
		r.Heard("n-1", "HTTP/3", &syncv1.ReportRequest{Leaving: true})
		time.Sleep(time.Hour)
		end := r.Watching("n-1", "HTTP/3", 1)
		defer end()
		endOld()
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := m.last("n-1").Connection; got != store.Connected {
			t.Errorf("a node with an open watch is %q", got)
		}
	})
}

var began = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // of a bubble's clock

func TestManyReportsAreOneGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		r, stop := running(t, m)
		defer stop()
		for range 50 {
			for _, id := range []string{"n-1", "n-2", "n-3"} {
				r.Heard(id, "HTTP/3", &syncv1.ReportRequest{})
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.groups != 1 || len(m.seen) != 3 {
			t.Errorf("%d groups of %d nodes", m.groups, len(m.seen))
		}
	})
}

func TestRestartedManagerWaitsForItsNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{nodes: []*store.Node{{ID: "n-1", Connection: store.Connected, LastSeenAt: time.Now().Add(-time.Hour)}, {ID: "n-2", Connection: store.Disconnected}}}
		_, stop := running(t, m)
		defer stop()
		time.Sleep(25 * time.Second)
		synctest.Wait()
		if s := m.last("n-1"); s.NodeID != "" {
			t.Errorf("already said: %v", s)
		}
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if s := m.last("n-1"); s.Connection != store.Disconnected || !s.SeenAt.IsZero() {
			t.Errorf("the node that did not come back is %+v", s)
		}
		if m.last("n-2").NodeID != "" {
			t.Error("a node that was not there before is spoken of")
		}
	})
}

func TestWhatCannotBeWrittenIsWrittenLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{err: errors.New("disk full")}
		r, stop := running(t, m)
		r.Heard("n-1", "HTTP/3", &syncv1.ReportRequest{AgentVersion: "old"})
		r.Heard("n-2", "HTTP/3", &syncv1.ReportRequest{AgentVersion: "kept"})
		time.Sleep(time.Second)
		r.Heard("n-1", "HTTP/3", &syncv1.ReportRequest{AgentVersion: "new"})
		m.fail(nil)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if m.last("n-1").Report.GetAgentVersion() != "new" || m.last("n-2").Report.GetAgentVersion() != "kept" {
			t.Errorf("written: %+v and %+v", m.last("n-1"), m.last("n-2"))
		}
		r.Heard("n-1", "HTTP/3", &syncv1.ReportRequest{AgentVersion: "last"})
		stop()
		if m.last("n-1").Report.GetAgentVersion() != "last" {
			t.Error("what was heard last is lost when the manager stops")
		}
	})
}

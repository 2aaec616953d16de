package statistics

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/dhowfleet/dhow/agent/telemetry"
)

// Registry has the counters of every model version.
type Registry struct {
	mu     sync.Mutex
	models map[key]*Model
}

type key struct{ name, version string }

// New returns an empty registry.
func New() *Registry { return &Registry{models: map[key]*Model{}} }

// Model returns the counters of a version; they begin at zero and are the same for every caller until Forget.
func (r *Registry) Model(name, version string) *Model {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := key{name, version}
	m := r.models[k]
	if m == nil {
		m = &Model{Name: name, Version: version}
		r.models[k] = m
	}
	return m
}

// Forget drops the counters of a version that is no longer served.
func (r *Registry) Forget(name, version string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.models, key{name, version})
}

// Model has the counters of one version.
type Model struct {
	Name, Version string

	pending atomic.Int64
	success Duration
	fail    Duration
}

// Duration counts events and adds up how long they took.
type Duration struct{ Count, Nanos atomic.Int64 }

func (d *Duration) add(t time.Duration) {
	d.Count.Add(1)
	d.Nanos.Add(int64(t))
}

// Begin counts a request that came.
func (m *Model) Begin() { m.pending.Add(1) }

// End counts how a request ended, total after it came. The timing is the caller's again when End returns.
func (m *Model) End(code telemetry.Code, total time.Duration, t *Timing) {
	m.pending.Add(-1)
	if code == telemetry.OK {
		m.success.add(total)
	} else {
		m.fail.add(total)
	}
}

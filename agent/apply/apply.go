// Package apply performs what agent/deploy decides about model copies.
//
// A Reconciler takes a snapshot, asks deploy.Plan, records each change of a copy in state.db before it goes on, and
// performs the steps: download, check, probe in a child process, load, route, drain, remove. Steps run in goroutines
// of their own, at most one of each kind; when one ends, its outcome is recorded and the plan is made anew. So a kill at
// any point finds the copies in the old or the new state, and the next start goes on from there, with or without a
// network: what served before is loaded first, after a look at the sizes of its files; their digests are compared later,
// in the background.
//
// SetDesired, Nudge, Status and Changed may be called from any goroutine and do not block for steps. Restore and Run
// are called once, in this order. Only Restore, Run and the steps touch disk or network.
package apply

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dhowfleet/dhow/agent/deploy"
	"github.com/dhowfleet/dhow/agent/health"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/blob"
	"github.com/dhowfleet/dhow/models/bundle"
)

// Fetcher brings artifacts into the blob store; protocol/artifact has one.
type Fetcher interface {
	Manifest(ctx context.Context, repository string, d digest.Digest) ([]byte, error)
	Blob(ctx context.Context, repository string, d digest.Digest, size int64, progress func(done int64)) error
}

// Records keeps copies durably; agent/store does.
type Records interface {
	Copies(ctx context.Context) ([]deploy.Record, error)
	PutCopy(ctx context.Context, r deploy.Record) error
	DeleteCopy(ctx context.Context, k deploy.Key) error
	Failures(ctx context.Context) ([]deploy.Failure, error)
}

// Table is where loaded copies answer requests; agent/serving has one.
type Table interface {
	Set(model string, variants []serving.Variant) *serving.Drain
}

// Verdict is what a probe found.
type Verdict struct {
	OK bool
	// Reason and Message say why a copy must not serve.
	Reason, Message string
}

// Runner is a loaded copy.
type Runner interface {
	serving.Runner
	Provider() string
}

// Deps are what a Reconciler works with.
type Deps struct {
	Dir     string // holds a folder models/ of linked bundles; on the file system of Blobs
	Records Records
	Blobs   *blob.Store
	Fetch   Fetcher
	Table   Table
	// Probe tries a bundle in a process of its own. An error says that the node could not, and nothing of the bundle; an
	// *admission.Refused that there is no memory for it.
	Probe func(ctx context.Context, dir string, spec *bundle.Spec) (Verdict, error)
	// Open loads a bundle into this process. One that has served before is loaded whatever memory there is: a node must not
	// lose a model by being started again. Otherwise the error may be an *admission.Refused.
	Open func(ctx context.Context, dir string, spec *bundle.Spec, served bool) (Runner, error)
	// Declare says which counters of a version may leave the node.
	Declare func(ctx context.Context, model, version string, counters []string) error
	Health  *health.Registry
	Logger  *slog.Logger
	Now     func() time.Time
	// RetryMax caps the wait between two tries of a step; zero: a minute.
	RetryMax time.Duration
	// Grace is how long a blob that no copy needs stays; zero: ten minutes.
	Grace time.Duration
}

// Reconciler brings the node's copies to what is desired.
type Reconciler struct {
	Deps
	mu      sync.Mutex // guards everything below
	desired *deploy.Desired
	copies  map[deploy.Key]*entry
	failed  []deploy.Failure
	routes  map[string][]deploy.Route
	stopped bool

	wake    chan struct{}
	changed chan struct{}
	steps   sync.WaitGroup
	collect sync.Mutex // one collection of blobs at a time
}

// entry is a copy and what this process holds of it.
type entry struct {
	deploy.Copy
	unsaved  bool // the record could not be written; it is tried again
	deleted  bool
	cancel   context.CancelFunc
	run      *int // identifies the step under way, so that an outcome that comes too late is known as such
	runner   Runner
	spec     *bundle.Spec
	files    []bundle.FileRef // of the manifest, once it is known
	done     int64            // bytes that are there
	provider string
}

// New makes a Reconciler. It reads what state.db holds and starts nothing.
func New(ctx context.Context, d Deps) (*Reconciler, error) {
	if d.RetryMax <= 0 {
		d.RetryMax = time.Minute
	}
	if d.Grace <= 0 {
		d.Grace = 10 * time.Minute
	}
	r := &Reconciler{
		Deps: d, copies: map[deploy.Key]*entry{}, routes: map[string][]deploy.Route{},
		wake: make(chan struct{}, 1), changed: make(chan struct{}, 1),
	}
	records, err := d.Records.Copies(ctx)
	if err != nil {
		return nil, err
	}
	if r.failed, err = d.Records.Failures(ctx); err != nil {
		return nil, err
	}
	for _, rec := range records {
		r.copies[rec.Key] = &entry{Copy: deploy.Copy{Record: rec}}
	}
	return r, nil
}

// SetDesired makes d what the node works towards.
func (r *Reconciler) SetDesired(d *deploy.Desired) {
	r.mu.Lock()
	r.desired = d
	r.mu.Unlock()
	r.signal()
}

// Nudge ends the waits of copies that wait for the network: it is there again.
func (r *Reconciler) Nudge() {
	r.mu.Lock()
	for _, e := range r.copies {
		if e.Reason == deploy.WaitOffline {
			e.NotBefore = time.Time{}
		}
	}
	r.mu.Unlock()
	r.signal()
}

// Changed receives after the state of a copy changed; several changes may be one.
func (r *Reconciler) Changed() <-chan struct{} { return r.changed }

func (r *Reconciler) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *Reconciler) notify() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// Restore loads what served before the process ended, and returns when that is done or patience is over; what takes
// longer goes on in Run. The steps that it begins end with ctx.
func (r *Reconciler) Restore(ctx context.Context, patience time.Duration) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		if _, loading := r.advance(ctx); !loading {
			return
		}
		select {
		case <-r.wake:
		case <-timer.C:
			r.Logger.Warn("models that served before are still being loaded", "waited", patience)
			return
		case <-ctx.Done():
			return
		}
	}
}

// The times of the background work.
const (
	saveRetry   = 5 * time.Second
	collectEach = 6 * time.Hour
	stopWait    = 10 * time.Second
)

// Run works until the context ends, and then waits a moment for steps to end.
func (r *Reconciler) Run(ctx context.Context) error {
	r.steps.Go(func() { r.scrub(ctx) })
	for {
		next, _ := r.advance(ctx)
		timer := time.NewTimer(next)
		select {
		case <-r.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return r.stop()
		}
	}
}

// stop waits for the steps. A load cannot be interrupted, and is not waited for longer than stopWait.
func (r *Reconciler) stop() error {
	r.mu.Lock()
	r.stopped = true
	r.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		r.steps.Wait()
		close(ended)
	}()
	timer := time.NewTimer(stopWait)
	defer timer.Stop()
	select {
	case <-ended:
		return nil
	case <-timer.C:
		return fmt.Errorf("a step of a model copy did not end within %s", stopWait)
	}
}

// advance performs the plan until there is nothing to do at once. It returns how long it may be left alone, and whether a
// copy was being loaded when there was nothing more to do; after a start those that served before come first. Both are
// said of one moment: a copy whose load ends in the next one has not been given its requests yet.
func (r *Reconciler) advance(ctx context.Context) (next time.Duration, loading bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.save(ctx)
	for ctx.Err() == nil && !r.stopped {
		now := r.Now()
		snapshot := r.snapshot()
		actions := deploy.Plan(snapshot, now)
		if len(actions) == 0 {
			r.warn()
			next := collectEach
			loading := false
			if at := deploy.Wake(snapshot, now); !at.IsZero() {
				next = min(next, at.Sub(now))
			}
			for _, e := range r.copies {
				if e.unsaved {
					next = min(next, saveRetry)
				}
				loading = loading || e.Busy == deploy.Load
			}
			return max(next, time.Millisecond), loading
		}
		for _, a := range actions {
			r.perform(ctx, a)
		}
		r.notify()
	}
	return saveRetry, false
}

// warn raises the warnings that copies give cause for, and clears those that none does.
func (r *Reconciler) warn() {
	for reason, code := range map[string]health.Code{
		deploy.WaitSpace: health.DiskFull, deploy.WaitMemory: health.MemoryShort, deploy.WaitNodeFault: health.NodeFault, deploy.WaitCorrupt: health.BlobCorrupt,
	} {
		var names []string
		for _, e := range r.copies {
			if e.Reason == reason || reason == deploy.WaitCorrupt && e.Reload {
				names = append(names, e.Key.String())
			}
		}
		slices.Sort(names)
		r.Health.Set(code, len(names) > 0, strings.Join(names, ", "))
	}
}

// snapshot is called with mu held.
func (r *Reconciler) snapshot() deploy.Snapshot {
	s := deploy.Snapshot{Desired: r.desired, Failures: r.failed, Routes: r.routes, Copies: make([]deploy.Copy, 0, len(r.copies))}
	for _, e := range r.copies {
		s.Copies = append(s.Copies, e.Copy)
	}
	slices.SortFunc(s.Copies, func(a, b deploy.Copy) int { return deploy.CompareKeys(a.Key, b.Key) })
	return s
}

// put records a copy. The node goes on when the disk does not take it: what was not recorded is done again after a
// restart, and a full disk must not stop what serves.
func (r *Reconciler) put(ctx context.Context, e *entry) {
	err := r.Records.PutCopy(context.WithoutCancel(ctx), e.Record)
	e.unsaved = err != nil
	if err != nil {
		r.Logger.Error("cannot record a model copy; trying again", "model", e.Model, "version", e.Version, "error", err)
		r.Health.Raise(health.StateFailed, "")
	}
}

// save writes again what could not be written.
func (r *Reconciler) save(ctx context.Context) {
	tried, failed := false, false
	for _, e := range r.copies {
		if e.unsaved {
			r.put(ctx, e)
			tried, failed = true, failed || e.unsaved
		}
	}
	if tried && !failed {
		r.Health.Clear(health.StateFailed)
	}
}

// pause returns the wait before the next try of a step that did not succeed: full jitter below a doubling bound.
func (r *Reconciler) pause(attempts int) time.Duration {
	window := r.RetryMax
	if attempts < 16 {
		window = min(window, time.Second<<attempts)
	}
	return time.Duration(rand.Float64() * float64(window))
}

// dir is where a copy's bundle is linked.
func (r *Reconciler) dir(k deploy.Key) string {
	d := digest.Digest(k.Digest).Encoded()
	return filepath.Join(r.Dir, "models", k.Model, k.Version+"-"+d[:min(16, len(d))])
}

func repository(model string) string { return "models/" + model }

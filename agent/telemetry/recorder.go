package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/dhowfleet/dhow/agent/database"
	"github.com/dhowfleet/dhow/agent/health"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

// The limits of the queue and of a group of rows.
const (
	maxQueued     = 8192                   // observations that wait for the writer
	groupRows     = 1000                   // a group is written when it has so many rows
	groupDelay    = 100 * time.Millisecond // or when its first row has waited so long
	maxRequestID  = 128                    // bytes kept of a request id
	maxPerRequest = 64                     // counts and features kept of a request, each
	keepBuffer    = 1024                   // a longer buffer is given back when it is no longer needed
)

// Outbox is where roll-ups go; agent/store is one.
type Outbox interface {
	Checkpoint(ctx context.Context) (id uint64, known bool, err error)
	SetCheckpoint(ctx context.Context, id uint64) error
	RollUp(ctx context.Context, from, to uint64, a *syncv1.Aggregate) error
}

// Options say how a Recorder keeps its rows.
type Options struct {
	Logger *slog.Logger
	Health *health.Registry
	Now    func() time.Time // nil: time.Now
	// MaxBytes and MaxAge bound telemetry.db; zero: 256 MiB and 30 days. Beyond them the oldest rows that were added up
	// go first; when nothing has been added up for so long that the file is twice as large, new rows are dropped.
	MaxBytes int64
	MaxAge   time.Duration
}

// Stats count what became of observations since the start.
type Stats struct {
	Written uint64 // rows written
	Dropped uint64 // observations dropped because the queue was full
	Lost    uint64 // rows that could not be written
}

// Recorder takes observations and writes them down. It starts one goroutine, which ends with Close.
type Recorder struct {
	rows   *rows
	outbox Outbox
	log    *slog.Logger
	health *health.Registry
	now    func() time.Time

	mu    sync.Mutex // guards what follows
	queue []slot
	n     int // slots in use
	open  bool
	stats Stats

	wake    chan struct{}
	flushes chan chan struct{}
	closing chan struct{}
	done    chan struct{}
	spare   []slot // the writer's own buffer, exchanged with queue

	rollUp sync.Mutex // one roll-up at a time
	cut    time.Time  // the end of the last window
}

// slot is an observation in the queue. Its buffers are used again, so that recording allocates nothing once they have
// grown.
type slot struct {
	at, duration   int64
	model, version string
	role           uint8
	code           Code
	requestID      []byte
	counts         []Count
	features       []Feature
}

// Open opens or creates dir/telemetry.db and starts the writer.
func Open(ctx context.Context, dir string, outbox Outbox, o Options) (*Recorder, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 256 << 20
	}
	if o.MaxAge <= 0 {
		o.MaxAge = 30 * 24 * time.Hour
	}
	rows, setAside, err := openRows(ctx, dir, o)
	if err != nil {
		return nil, err
	}
	if setAside != "" {
		o.Health.Raise(health.TelemetrySetAside, setAside)
	}
	r := &Recorder{
		rows: rows, outbox: outbox, log: o.Logger, health: o.Health, now: o.Now, open: true,
		wake: make(chan struct{}, 1), flushes: make(chan chan struct{}), closing: make(chan struct{}), done: make(chan struct{}),
	}
	if err := r.align(ctx); err != nil {
		_ = rows.close() // the first error says what is wrong
		return nil, err
	}
	go r.write()
	return r, nil
}

// align makes row ids go on above the rows that are there and above those that were added up, so that no id is ever
// used twice, also when telemetry.db or state.db was lost.
func (r *Recorder) align(ctx context.Context) error {
	last, err := r.rows.last(ctx)
	if err != nil {
		return err
	}
	checkpoint, known, err := r.outbox.Checkpoint(ctx)
	if err != nil {
		return err
	}
	if !known {
		// How far the rows were added up is lost with state.db. Counting them again would be worse than not at all.
		checkpoint = last
		if err := r.outbox.SetCheckpoint(ctx, checkpoint); err != nil {
			return err
		}
	}
	r.rows.next = max(last, checkpoint) + 1
	r.rows.rolledUp.Store(checkpoint)
	return nil
}

// Record takes an observation. It copies what it needs and never blocks; when the writer is behind by the whole queue
// the observation is dropped and counted.
func (r *Recorder) Record(o *Observation) {
	r.mu.Lock()
	if r.n == maxQueued || !r.open {
		r.stats.Dropped++
		r.mu.Unlock()
		return
	}
	if r.n == len(r.queue) {
		r.queue = append(r.queue, slot{})
		r.queue = r.queue[:cap(r.queue)]
	}
	s := &r.queue[r.n]
	s.at, s.duration = o.At.UnixNano(), int64(o.Duration)
	s.model, s.version, s.role, s.code = o.Model, o.Version, o.Role, o.Code
	s.requestID = append(s.requestID[:0], o.RequestID[:min(len(o.RequestID), maxRequestID)]...)
	s.counts = append(s.counts[:0], o.Counts[:min(len(o.Counts), maxPerRequest)]...)
	s.features = append(s.features[:0], o.Features[:min(len(o.Features), maxPerRequest)]...)
	r.n++
	signal := r.n == 1 || r.n == groupRows
	r.mu.Unlock()
	if signal {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// write is the writer: it waits for a first row, gives others a moment to join it, and writes the group.
func (r *Recorder) write() {
	defer close(r.done)
	timer := time.NewTimer(groupDelay)
	timer.Stop()
	for {
		select {
		case <-r.wake:
		case flushed := <-r.flushes:
			r.flush()
			close(flushed)
			continue
		case <-r.closing:
			r.flush()
			return
		}
		timer.Reset(groupDelay)
		var flushed chan struct{}
		select {
		case <-timer.C:
		case <-r.wake: // the group is full
		case flushed = <-r.flushes:
		case <-r.closing:
		}
		timer.Stop()
		r.flush()
		if flushed != nil {
			close(flushed)
		}
	}
}

// flush writes everything that is queued.
func (r *Recorder) flush() {
	for {
		r.mu.Lock()
		batch, n := r.queue, r.n
		r.queue, r.n = r.spare, 0
		dropped := r.stats.Dropped
		r.mu.Unlock()
		r.spare = batch
		if n == 0 {
			return
		}
		err := r.rows.write(batch[:n])
		if database.Malformed(err) && r.begin(context.Background(), err) {
			err = r.rows.write(batch[:n])
		}
		r.mu.Lock()
		if err != nil {
			r.stats.Lost += uint64(n)
		} else {
			r.stats.Written += uint64(n)
		}
		r.mu.Unlock()
		if err != nil {
			r.log.Error("cannot write telemetry rows; they are not counted", "rows", n, "error", err)
			r.health.Raise(health.TelemetryFailed, "")
		} else {
			r.health.Clear(health.TelemetryFailed)
		}
		if dropped > 0 {
			r.health.Raise(health.TelemetryDropped, fmt.Sprintf("%d so far", dropped))
		}
		if len(r.spare) > keepBuffer && n < len(r.spare)/8 {
			r.spare = nil // a burst is over
		}
	}
}

// begin begins a new file in place of a damaged one, and reports whether it could.
func (r *Recorder) begin(ctx context.Context, damage error) bool {
	setAside, err := r.rows.renew(context.WithoutCancel(ctx))
	r.log.Error("telemetry.db is damaged; it is begun anew", "error", damage, "kept", setAside, "failed", err)
	if err != nil {
		return false
	}
	r.health.Raise(health.TelemetrySetAside, setAside)
	return true
}

// Flush waits until everything that was recorded before is written or lost.
func (r *Recorder) Flush(ctx context.Context) error {
	flushed := make(chan struct{})
	select {
	case r.flushes <- flushed:
	case <-r.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	<-flushed
	return nil
}

// Stats returns what became of observations so far.
func (r *Recorder) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stats
}

// Declare says which counters of a model version may leave the node, in the order of its bundle's declaration. It is
// durable, so that rows can be added up after the version is gone.
func (r *Recorder) Declare(ctx context.Context, model, version string, counters []string) error {
	return r.rows.declare(ctx, model, version, counters)
}

// Close writes what is queued and closes the file. Observations recorded later are dropped.
func (r *Recorder) Close() error {
	r.mu.Lock()
	wasOpen := r.open
	r.open = false
	r.mu.Unlock()
	if !wasOpen {
		return nil
	}
	close(r.closing)
	<-r.done
	r.rollUp.Lock() // a roll-up under way reads the file
	defer r.rollUp.Unlock()
	return r.rows.close()
}

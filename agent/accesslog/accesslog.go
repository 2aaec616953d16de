// Package accesslog writes a line of JSON for every request, beside the request's way.
//
// Record puts an entry into a bounded queue and returns; one goroutine encodes and writes what has come, a few times a
// second. When requests come faster than the log can be written, entries are dropped and counted, and the log says how
// many: no request waits for a disk. A line holds names, numbers and times, nothing of what a request asked or was
// answered. A file that was renamed or removed, as logrotate does, is made anew before the next lines are written.
//
// Everything is safe for concurrent use. Record never blocks and allocates nothing once the queue has grown to its
// usual length; Close writes what is queued and waits for that.
package accesslog

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Entry is one request. Its strings must not change later.
type Entry struct {
	Time           time.Time // when the request came
	Protocol       string    // http, grpc or unix
	Method         string    // GET, POST, or the gRPC method
	Group          string    // what was asked for, by the names of the endpoint groups: inference, health, ...
	Model, Version string
	ID             string // the request's own; the sender chose it
	Caller         string // the name of the key that was used, never the key
	Status         int    // of HTTP; 0 where there is none
	Code           string // how it ended: ok, invalid-input, ..., or the gRPC code
	BytesIn        int64
	BytesOut       int64
	Duration       time.Duration
	Queue          time.Duration // of Duration, spent waiting
	TraceID        string
}

// Options of a log.
type Options struct {
	// Writer gets the lines, a few at a time. When it is nil they go to the file Path, or to standard output when Path
	// is "-".
	Writer io.Writer
	Path   string
	// Queue is how many entries may wait; 0 means 8192.
	Queue int
	// Every is how often they are written; 0 means 200 ms.
	Every  time.Duration
	Logger *slog.Logger // nil logs nothing
}

// Log is an access log. A nil *Log records nothing.
type Log struct {
	out   io.Writer
	file  *file // nil when out is not ours
	limit int
	every time.Duration
	log   *slog.Logger

	mu       sync.Mutex
	queue    []Entry
	spare    []Entry // empty; becomes the queue when that is taken
	closed   bool
	stats    Stats
	reported uint64 // of stats.Dropped, in the log itself

	wake    chan struct{} // after the first entry of a batch
	hurry   chan struct{} // when half of the queue is full
	closing chan struct{}
	done    chan struct{}

	encoder encoder // of the writing goroutine
	failing bool    // the last write failed; of the writing goroutine
}

// Stats is what became of entries.
type Stats struct{ Written, Dropped uint64 }

// New opens a log. It is closed by Close.
func New(o Options) (*Log, error) {
	l := &Log{
		out: o.Writer, limit: o.Queue, every: o.Every, log: o.Logger,
		wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{}),
	}
	if l.limit <= 0 {
		l.limit = 8192
	}
	if l.every <= 0 {
		l.every = 200 * time.Millisecond
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	switch {
	case l.out != nil:
	case o.Path == "-":
		l.out = os.Stdout
	default:
		f, err := openFile(o.Path)
		if err != nil {
			return nil, fmt.Errorf("cannot open the access log: %w; name a file in a folder that the agent may write to, or - for standard output", err)
		}
		l.out, l.file = f, f
	}
	go l.run()
	return l, nil
}

// Record queues an entry, or drops it when the queue is full. The entry is copied.
func (l *Log) Record(e *Entry) {
	if l == nil {
		return
	}
	l.mu.Lock()
	n := len(l.queue)
	if l.closed || n >= l.limit {
		l.stats.Dropped++
		l.mu.Unlock()
		return
	}
	l.queue = append(l.queue, *e)
	l.mu.Unlock()
	// Waking a goroutine costs more than everything above: it is done for the first of a batch only, and once more when
	// the batch grows so fast that it must not wait.
	switch n {
	case 0:
		signal(l.wake)
	case l.limit / 2:
		signal(l.hurry)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Stats returns what became of entries so far.
func (l *Log) Stats() Stats {
	if l == nil {
		return Stats{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats
}

// Close writes what is queued and closes the file. When ctx ends before, Close returns its error, and the goroutine goes
// on until the writer lets go of it.
func (l *Log) Close(ctx context.Context) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.closing)
	}
	l.mu.Unlock()
	select {
	case <-l.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cannot finish the access log: %w", ctx.Err())
	}
}

// run writes batches until the log is closed.
func (l *Log) run() {
	defer close(l.done)
	timer := time.NewTimer(l.every)
	defer timer.Stop()
	for {
		select {
		case <-l.wake:
		case <-l.closing:
			l.write()
			if l.file != nil {
				if err := l.file.Close(); err != nil {
					l.log.Error("cannot close the access log", "error", err)
				}
			}
			return
		}
		timer.Reset(l.every)
		select {
		case <-timer.C:
		case <-l.hurry:
		case <-l.closing:
		}
		l.write()
	}
}

// chunk is how much is encoded before it is written.
const chunk = 64 << 10

// write takes the queue and writes it down.
func (l *Log) write() {
	l.mu.Lock()
	batch := l.queue
	l.queue = l.spare
	dropped := l.stats.Dropped - l.reported
	l.mu.Unlock()
	if l.file != nil {
		l.file.follow()
	}
	var written, lost uint64
	lines := uint64(0)
	flush := func() {
		if l.encoder.Len() == 0 {
			return
		}
		_, err := l.out.Write(l.encoder.Bytes())
		l.encoder.Reset()
		if err != nil {
			lost += lines
		} else {
			written += lines
		}
		lines = 0
		l.tell(err)
	}
	for i := range batch {
		l.encoder.entry(&batch[i])
		lines++
		if l.encoder.Len() >= chunk {
			flush()
		}
	}
	if dropped > 0 {
		l.encoder.dropped(time.Now(), dropped)
	}
	flush()
	clear(batch) // lets go of the strings
	l.mu.Lock()
	l.spare = batch[:0]
	l.stats.Written += written
	l.stats.Dropped += lost
	if !l.failing {
		l.reported += dropped
	}
	l.mu.Unlock()
}

// tell logs when writing begins to fail and when it works again.
func (l *Log) tell(err error) {
	switch {
	case err != nil && !l.failing:
		l.log.Error("cannot write the access log; its lines are dropped until it can be written", "error", err)
	case err == nil && l.failing:
		l.log.Info("the access log can be written again")
	}
	l.failing = err != nil
}

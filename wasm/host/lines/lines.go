// Package lines takes what guests write into the node's log: cut, limited in rate, and marked.
//
// A module has one Log, in front of the logger: a token bucket for all its instances together. An instance has an Output,
// into which its standard output and error go as they are cut, and its lines of the contract's log. What a guest wrote,
// and the stack of one that trapped, may hold what requests hold: every line has the attribute class=guest, so that
// whoever sends logs elsewhere can leave it out.
//
// A Log is safe for concurrent use and blocks as its logger does. An Output belongs to its instance and keeps no more
// than two lines.
package lines

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dhowfleet/dhow/wasm/abi"
)

// Burst is how many lines a guest may write at once, Rate how many a second in the long run, all of a module's
// instances together.
const (
	Burst = 20
	Rate  = 2
)

// Log is a module's way into the log: a token bucket in front of the logger.
type Log struct {
	logger  *slog.Logger
	now     func() time.Time
	dropped atomic.Uint64

	mu     sync.Mutex
	tokens float64
	filled time.Time
	missed uint64 // since the last line that got through
}

// New returns the way into logger.
func New(logger *slog.Logger) *Log {
	return &Log{logger: logger, now: time.Now, tokens: Burst}
}

// guestClass marks what a guest wrote, or what it was doing: it may hold what requests hold, and is not to leave the
// node.
var guestClass = slog.String("class", "guest")

// Logger is what lines go to.
func (l *Log) Logger() *slog.Logger { return l.logger }

// Dropped is how many lines did not get through.
func (l *Log) Dropped() uint64 { return l.dropped.Load() }

// allow reports whether a line may be written now, and how many before it were not.
func (l *Log) allow(level slog.Level) (missed uint64, ok bool) {
	if !l.logger.Enabled(context.Background(), level) {
		return 0, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if !l.filled.IsZero() {
		l.tokens = min(Burst, l.tokens+max(0, now.Sub(l.filled).Seconds())*Rate)
	}
	l.filled = now
	if l.tokens < 1 {
		l.missed++
		l.dropped.Add(1)
		return 0, false
	}
	l.tokens--
	missed, l.missed = l.missed, 0
	return missed, true
}

func (l *Log) log(level slog.Level, text string, missed uint64, attrs ...slog.Attr) {
	attrs = append(attrs, guestClass)
	if missed > 0 {
		attrs = append(attrs, slog.Uint64("dropped_before", missed))
	}
	l.logger.LogAttrs(context.Background(), level, text, attrs...)
}

// Trace logs the stack of a guest that trapped.
func (l *Log) Trace(reason, stack string) {
	missed, ok := l.allow(slog.LevelWarn)
	if !ok {
		return
	}
	l.log(slog.LevelWarn, "wasm guest trapped", missed, slog.String("reason", reason), slog.String("stack", stack[:min(len(stack), 2*abi.MaxLogLine)]))
}

// Output is what one instance writes: standard output and error, which a language's run time uses for its last words,
// and lines of the contract's log. It remembers the latest error line of the call in flight, since that is usually the
// reason for what happens next.
type Output struct {
	Log  *Log
	part []byte // of a line that has not ended
	last string
}

// Reset begins a new call.
func (o *Output) Reset() { o.part, o.last = o.part[:0], "" }

// Write implements io.Writer for WASI's standard output and error.
func (o *Output) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		piece := p
		if end >= 0 {
			piece = p[:end]
		}
		o.part = append(o.part, piece[:min(len(piece), abi.MaxLogLine-len(o.part))]...)
		if end < 0 {
			break
		}
		if len(o.part) > 0 {
			o.Line(slog.LevelWarn, o.part)
			o.part = o.part[:0]
		}
		p = p[end+1:]
	}
	return n, nil
}

// Line takes one line of a level.
func (o *Output) Line(level slog.Level, b []byte) {
	missed, ok := o.Log.allow(level)
	first := level >= slog.LevelWarn && o.last == ""
	if !ok && !first {
		return // a flood costs no more than counting it
	}
	text := Sentence(b, abi.MaxLogLine)
	if first {
		o.last = text
	}
	if ok {
		o.Log.log(level, "wasm guest says", missed, slog.String("line", text))
	}
}

// Sentence makes a guest's bytes fit for logs and answers.
func Sentence(b []byte, limit int) string {
	s := strings.ToValidUTF8(string(b[:min(len(b), limit)]), "\uFFFD")
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if s = strings.TrimSpace(s); s == "" {
		return "the guest gave no reason"
	}
	return s
}

// Said returns the first complaint of the call as the end of a sentence.
func (o *Output) Said() string {
	if o.last == "" && len(o.part) > 0 {
		o.last = Sentence(o.part, abi.MaxLogLine)
	}
	if o.last == "" {
		return ""
	}
	return ": " + o.last
}

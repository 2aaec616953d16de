package host

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

// A guest may write so many lines at once, and so many a second in the long run, all of a module's instances together.
const (
	lineBurst = 20
	lineRate  = 2
)

// lines is a module's way into the log: a token bucket in front of the logger.
type lines struct {
	logger  *slog.Logger
	now     func() time.Time
	dropped atomic.Uint64

	mu     sync.Mutex
	tokens float64
	filled time.Time
	missed uint64 // since the last line that got through
}

func newLines(logger *slog.Logger) *lines {
	return &lines{logger: logger, now: time.Now, tokens: lineBurst}
}

// guestClass marks what a guest wrote, or what it was doing: it may hold what requests hold, and is not to leave the
// node.
var guestClass = slog.String("class", "guest")

// allow reports whether a line may be written now, and how many before it were not.
func (l *lines) allow(level slog.Level) (missed uint64, ok bool) {
	if !l.logger.Enabled(context.Background(), level) {
		return 0, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if !l.filled.IsZero() {
		l.tokens = min(lineBurst, l.tokens+max(0, now.Sub(l.filled).Seconds())*lineRate)
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

func (l *lines) log(level slog.Level, text string, missed uint64, attrs ...slog.Attr) {
	attrs = append(attrs, guestClass)
	if missed > 0 {
		attrs = append(attrs, slog.Uint64("dropped_before", missed))
	}
	l.logger.LogAttrs(context.Background(), level, text, attrs...)
}

// trace logs the stack of a guest that trapped.
func (l *lines) trace(reason, stack string) {
	missed, ok := l.allow(slog.LevelWarn)
	if !ok {
		return
	}
	l.log(slog.LevelWarn, "wasm guest trapped", missed, slog.String("reason", reason), slog.String("stack", stack[:min(len(stack), 2*abi.MaxLogLine)]))
}

// output is what one instance writes: standard output and error, which a language's run time uses for its last words,
// and lines of the contract's log. It remembers the latest error line of the call in flight, since that is usually the
// reason for what happens next.
type output struct {
	lines *lines
	part  []byte // of a line that has not ended
	last  string
}

func (o *output) reset() { o.part, o.last = o.part[:0], "" }

// Write implements io.Writer for WASI's standard output and error.
func (o *output) Write(p []byte) (int, error) {
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
			o.line(slog.LevelWarn, o.part)
			o.part = o.part[:0]
		}
		p = p[end+1:]
	}
	return n, nil
}

func (o *output) line(level slog.Level, b []byte) {
	missed, ok := o.lines.allow(level)
	first := level >= slog.LevelWarn && o.last == ""
	if !ok && !first {
		return // a flood costs no more than counting it
	}
	text := sentence(b, abi.MaxLogLine)
	if first {
		o.last = text
	}
	if ok {
		o.lines.log(level, "wasm guest says", missed, slog.String("line", text))
	}
}

// sentence makes a guest's bytes fit for logs and answers.
func sentence(b []byte, limit int) string {
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

// said returns the first complaint of the call as the end of a sentence.
func (o *output) said() string {
	if o.last == "" && len(o.part) > 0 {
		o.last = sentence(o.part, abi.MaxLogLine)
	}
	if o.last == "" {
		return ""
	}
	return ": " + o.last
}

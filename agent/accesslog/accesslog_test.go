package accesslog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// line is what a reader of the log takes from it.
type line struct {
	Time       time.Time `json:"time"`
	Protocol   string    `json:"protocol"`
	Method     string    `json:"method"`
	Group      string    `json:"group"`
	Model      string    `json:"model"`
	Version    string    `json:"version"`
	ID         string    `json:"id"`
	Caller     string    `json:"caller"`
	Status     int       `json:"status"`
	Code       string    `json:"code"`
	BytesIn    int64     `json:"bytes_in"`
	BytesOut   int64     `json:"bytes_out"`
	DurationUs int64     `json:"duration_us"`
	QueueUs    int64     `json:"queue_us"`
	TraceID    string    `json:"trace_id"`
	Dropped    uint64    `json:"dropped"`
}

func read(t interface{ Fatalf(string, ...any) }, data []byte) []line {
	var out []line
	for l := range bytes.Lines(data) {
		var x line
		d := json.NewDecoder(bytes.NewReader(l))
		d.DisallowUnknownFields()
		if err := d.Decode(&x); err != nil {
			t.Fatalf("%q: %v", l, err)
		}
		out = append(out, x)
	}
	return out
}

// sink is a writer that can fail and block.
type sink struct {
	mu   sync.Mutex
	data bytes.Buffer
	err  error
	gate chan struct{} // nil: open
}

func (s *sink) Write(p []byte) (int, error) {
	if s.gate != nil {
		<-s.gate
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	return s.data.Write(p)
}

func (s *sink) set(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *sink) lines(t *testing.T) []line {
	s.mu.Lock()
	defer s.mu.Unlock()
	return read(t, s.data.Bytes())
}

func TestALineSaysWhatTheEntrySays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sink
		l, err := New(Options{Writer: &s})
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		l.Record(&Entry{
			Time: now, Protocol: "http", Method: "POST", Group: "inference", Model: "fashion", Version: "2", ID: "7e57d004", Caller: "till-3",
			Status: 200, Code: "ok", BytesIn: 4096, BytesOut: 41, Duration: 1500 * time.Microsecond, Queue: 20 * time.Microsecond, TraceID: "4bf9",
		})
		l.Record(&Entry{Time: now, Protocol: "grpc", Method: "ServerLive", Group: "health"})
		synctest.Wait()
		if len(s.lines(t)) != 0 {
			t.Error("a line was written while the request might have waited for it")
		}
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		want := []line{
			{now.UTC(), "http", "POST", "inference", "fashion", "2", "7e57d004", "till-3", 200, "ok", 4096, 41, 1500, 20, "4bf9", 0},
			{Time: now.UTC(), Protocol: "grpc", Method: "ServerLive", Group: "health"},
		}
		got := s.lines(t)
		if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
			t.Errorf("%+v", got)
		}
		if strings.Contains(s.data.String(), `"caller":""`) {
			t.Error("a caller without a name is named")
		}
		if err := l.Close(t.Context()); err != nil || l.Close(t.Context()) != nil {
			t.Error(err)
		}
		l.Record(&Entry{})
		if st := l.Stats(); st != (Stats{Written: 2, Dropped: 1}) {
			t.Errorf("%+v", st)
		}
	})
}

func TestTextsStayInTheirLines(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }),
			rapid.SampledFrom([]string{"a\nb", `"},{"x":"`, "\x1b[31m", "\u2028\u202e", strings.Repeat("é", 200)})).Draw(t, "text")
		var e encoder
		e.entry(&Entry{Model: text, ID: text})
		got := read(t, e.Bytes())
		if len(got) != 1 || got[0].Model != got[0].ID {
			t.Fatalf("%q became %q", text, e.String())
		}
		want := strings.ToValidUTF8(text, "\uFFFD")
		if len(text) <= maxText && strings.Count(want, "\uFFFD") == strings.Count(string([]rune(text)), "\uFFFD") && got[0].Model != want {
			t.Fatalf("%q became %q", text, got[0].Model)
		}
		if len(got[0].Model) > 3*maxText+8 {
			t.Fatalf("%d bytes of text", len(got[0].Model))
		}
		for _, r := range e.String() {
			if r != '\n' && r < 0x20 || r == 0x7f || r == '\u202e' {
				t.Fatalf("%q has a character that rules a terminal", e.String())
			}
		}
	})
}

func TestNoRequestWaitsForTheWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sink{gate: make(chan struct{})}
		l, err := New(Options{Writer: &s, Queue: 10})
		if err != nil {
			t.Fatal(err)
		}
		l.Record(&Entry{Model: "first"})
		time.Sleep(time.Second)
		synctest.Wait() // the writer is stuck with the first entry
		for range 25 {
			l.Record(&Entry{Model: "more"})
		}
		if st := l.Stats(); st.Dropped != 15 {
			t.Errorf("%+v", st)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := l.Close(ctx); !errors.Is(err, context.DeadlineExceeded) && err == nil {
			t.Error("a stuck log was closed")
		}
		close(s.gate)
		if err := l.Close(t.Context()); err != nil {
			t.Error(err)
		}
		got := s.lines(t)
		if len(got) != 12 || got[11].Dropped != 15 || got[10].Model != "more" {
			t.Errorf("%+v", got)
		}
		if st := l.Stats(); st != (Stats{Written: 11, Dropped: 15}) {
			t.Errorf("%+v", st)
		}
	})
}

func TestAFullQueueIsWrittenBeforeItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sink
		l, err := New(Options{Writer: &s, Queue: 10, Every: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		for range 6 {
			l.Record(&Entry{})
		}
		synctest.Wait()
		if n := len(s.lines(t)); n != 6 {
			t.Errorf("%d lines", n)
		}
		if err := l.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestAFailingWriterIsSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sink
		var log bytes.Buffer
		s.set(errors.New("no space left"))
		l, err := New(Options{Writer: &s, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			l.Record(&Entry{Model: "lost"})
			time.Sleep(time.Second)
		}
		synctest.Wait()
		s.set(nil)
		l.Record(&Entry{Model: "kept"})
		if err := l.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if got := s.lines(t); len(got) != 2 || got[0].Model != "kept" || got[1].Dropped != 3 {
			t.Errorf("%+v", got)
		}
		if st := l.Stats(); st != (Stats{Written: 1, Dropped: 3}) {
			t.Errorf("%+v", st)
		}
		if strings.Count(log.String(), "cannot write the access log") != 1 || strings.Count(log.String(), "can be written again") != 1 {
			t.Error(log.String())
		}
	})
}

func TestTheLogFollowsItsName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	l, err := New(Options{Path: path, Every: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	// write records one entry and waits until it is in the file.
	write := func(model, path string) []line {
		written := l.Stats().Written
		l.Record(&Entry{Model: model})
		for l.Stats().Written == written {
			time.Sleep(time.Millisecond)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return read(t, data)
	}
	if got := write("one", path); len(got) != 1 {
		t.Errorf("%+v", got)
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if got := write("two", path); len(got) != 1 || got[0].Model != "two" {
		t.Errorf("after a rename: %+v", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := write("three", path); len(got) != 1 || got[0].Model != "three" {
		t.Errorf("after a removal: %+v", got)
	}
	// The name cannot be used: the lines go on where they went.
	if err := os.Rename(path, path+".2"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if got := write("four", path+".2"); len(got) != 2 || got[1].Model != "four" {
		t.Errorf("without a name: %+v", got)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(path + ".1"); err != nil || info.Mode().Perm()&0o007 != 0 {
		t.Errorf("others may read the log: %v %v", info.Mode(), err)
	}
}

func TestALogThatCannotBeOpened(t *testing.T) {
	if _, err := New(Options{Path: filepath.Join(t.TempDir(), "missing", "access.log")}); err == nil || !strings.Contains(err.Error(), "standard output") {
		t.Error(err)
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{Path: pipe}); err == nil || !strings.Contains(err.Error(), "is a pipe") {
		t.Error(err)
	}
	var l *Log
	l.Record(&Entry{})
	if l.Stats() != (Stats{}) || l.Close(t.Context()) != nil {
		t.Error("no log is not no log")
	}
}

func TestRecordingAllocatesNothing(t *testing.T) {
	l, err := New(Options{Writer: &sink{}, Queue: 4000, Every: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	l.queue = make([]Entry, 0, 4000)
	l.mu.Unlock()
	e := Entry{Model: "m", Code: "ok"}
	if n := testing.AllocsPerRun(1000, func() { l.Record(&e) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// BenchmarkRecord empties the queue itself, so that every entry finds room.
func BenchmarkRecord(b *testing.B) {
	const queue = 1 << 13
	l, err := New(Options{Writer: discard{}, Queue: queue, Every: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	e := Entry{Time: time.Now(), Protocol: "http", Method: "POST", Group: "inference", Model: "fashion", Version: "2", Status: 200, Code: "ok"}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%(queue/2) == 0 {
			l.mu.Lock()
			l.queue = l.queue[:0]
			l.mu.Unlock()
		}
		l.Record(&e)
	}
	if l.Stats().Dropped > 0 {
		b.Error("entries were dropped")
	}
}

func BenchmarkEncode(b *testing.B) {
	var enc encoder
	e := Entry{Time: time.Now(), Protocol: "http", Method: "POST", Group: "inference", Model: "fashion", Version: "2", Status: 200, Code: "ok"}
	b.ReportAllocs()
	for b.Loop() {
		enc.Reset()
		enc.entry(&e)
	}
}

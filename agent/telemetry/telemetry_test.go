package telemetry

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"math"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/agent/health"
	"github.com/dhowfleet/dhow/agent/store"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

var ctx = context.Background()

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openBoth(t testing.TB, dir string, o Options) (*Recorder, *store.Store) {
	t.Helper()
	s, err := store.Open(ctx, dir, store.Options{})
	must(t, err)
	o.Logger = slog.New(slog.DiscardHandler)
	o.Health = health.New(time.Now)
	r, err := Open(ctx, dir, s, o)
	must(t, err)
	t.Cleanup(func() {
		_ = r.Close()
		_ = s.Close()
	})
	return r, s
}

func observation(i int) *Observation {
	return &Observation{
		At: time.Unix(1_800_000_000, int64(i)), Duration: time.Duration(1000 + i), Model: "fashion", Version: "1", Role: 1,
		RequestID: fmt.Sprint("r", i), Counts: []Count{{"photo_png", 1}, {"secret", 1}}, Features: []Feature{{"brightness", 0.5}},
	}
}

func outbox(t testing.TB, s *store.Store) []*syncv1.Aggregate {
	t.Helper()
	all, err := s.Peek(ctx, 1000, 1<<30)
	must(t, err)
	return all
}

func requests(all []*syncv1.Aggregate) (n uint64) {
	for _, a := range all {
		for _, r := range a.GetRequests() {
			n += r.GetRequests()
		}
	}
	return n
}

func TestBucketBoundaries(t *testing.T) {
	// The bounds to 200 bits, by square roots: 2^(1/8) is the square root of the square root of the square root of 2.
	root := new(big.Float).SetPrec(200).SetInt64(2)
	for range 3 {
		root.Sqrt(root)
	}
	bound := func(i int) *big.Float { // base^i
		b := new(big.Float).SetPrec(200).SetInt64(1)
		for range i {
			b.Mul(b, root)
		}
		return b
	}
	check := func(ns int64) {
		i := bucket(ns)
		v := new(big.Float).SetPrec(200).SetInt64(ns)
		if i < 0 && ns > 1 || i >= 0 && (v.Cmp(bound(i)) <= 0 && i%8 != 0 || v.Cmp(new(big.Float).Mul(bound(i+1), big.NewFloat(1+1e-50).SetPrec(200))) > 0) {
			t.Fatalf("%d ns is in bucket %d", ns, i)
		}
	}
	for i := 8; i < 300; i++ {
		n, _ := bound(i).Int64()
		for d := int64(-1); d <= 2; d++ {
			if n+d > 1 {
				check(n + d)
			}
		}
	}
	for e := 1; e < 50; e++ { // powers of two are the upper bound of their bucket
		if got := bucket(1 << e); got != 8*e-1 {
			t.Fatalf("2^%d is in bucket %d, want %d", e, got, 8*e-1)
		}
		if got := bucket(1<<e + 1); e > 4 && got != 8*e {
			t.Fatalf("2^%d+1 is in bucket %d, want %d", e, got, 8*e)
		}
	}
	for _, ns := range []int64{math.MinInt64, -1, 0, 1} {
		if got := bucket(ns); got != -1 {
			t.Fatalf("%d ns is in bucket %d", ns, got)
		}
	}
	bucket(math.MaxInt64)
}

func TestRollUp(t *testing.T) {
	now := time.Unix(1_800_000_100, 0)
	r, s := openBoth(t, t.TempDir(), Options{Now: func() time.Time { return now }})
	must(t, r.Declare(ctx, "fashion", "1", []string{"photo_jpeg", "photo_png"}))
	for i := range 10 {
		r.Record(observation(i))
	}
	o := observation(10)
	o.Version, o.Role, o.Code = "2", 2, ModelError
	r.Record(o)
	o = observation(11)
	o.Code, o.Counts = InvalidInput, []Count{{"photo_jpeg", 2}, {"photo_jpeg", 3}, {"photo_png", math.MaxUint64}}
	r.Record(o)
	must(t, r.Flush(ctx))
	must(t, r.RollUp(ctx))
	must(t, r.RollUp(ctx)) // nothing new: no aggregate
	all := outbox(t, s)
	if len(all) != 1 || len(all[0].GetRequests()) != 2 {
		t.Fatal(all)
	}
	one, two := all[0].GetRequests()[0], all[0].GetRequests()[1]
	if one.GetRequests() != 11 || one.GetErrors() != 0 || two.GetRequests() != 1 || two.GetErrors() != 1 || two.GetRole() != 2 || one.GetLatencySumNs() != 10*1000+45+1011 {
		t.Fatal(one, two)
	}
	if c := one.GetCounts(); len(c) != 2 || c[0].GetName() != "photo_jpeg" || c[0].GetValue() != 5 || c[1].GetValue() != 10+maxCount {
		t.Fatalf("counts %v", c)
	}
	if len(two.GetCounts()) != 0 {
		t.Fatalf("counts that no bundle declares leave the node: %v", two.GetCounts())
	}
	if h := one.GetLatency(); h.GetScale() != 3 || h.GetOffset() != int32(bucket(1000)) || h.GetBuckets()[0] != 11 {
		t.Fatal(h)
	}
	if a := all[0]; a.GetWindowStart().AsTime().UnixNano() != observation(0).At.UnixNano() || !a.GetWindowEnd().AsTime().Equal(now) {
		t.Fatalf("the window is %s to %s", a.GetWindowStart().AsTime(), a.GetWindowEnd().AsTime())
	}
	now = now.Add(time.Minute)
	r.Record(&Observation{At: now, Model: "fashion", Version: "1"})
	must(t, r.Flush(ctx))
	must(t, r.RollUp(ctx))
	if a := outbox(t, s)[1]; !a.GetWindowStart().AsTime().Equal(now.Add(-time.Minute)) {
		t.Fatalf("the second window begins at %s", a.GetWindowStart().AsTime())
	}
}

// TestRowsHoldWhatWasRecorded reads the file as an operator would.
func TestRowsHoldWhatWasRecorded(t *testing.T) {
	dir := t.TempDir()
	r, s := openBoth(t, dir, Options{})
	o := observation(1)
	o.RequestID = strings.Repeat("x", 1000)
	r.Record(o)
	for i := range 200 {
		r.Record(observation(i))
	}
	must(t, r.Close())
	must(t, s.Close())
	db, err := sql.Open("sqlite3", filepath.Join(dir, "telemetry.db"))
	must(t, err)
	defer db.Close()
	var n, counts, features, longest int
	must(t, db.QueryRow("SELECT (SELECT count(*) FROM requests WHERE model = 'fashion' AND version = '1' AND role = 1), (SELECT count(*) FROM counts), (SELECT count(*) FROM features WHERE value = 0.5), (SELECT max(length(request_id)) FROM requests)").
		Scan(&n, &counts, &features, &longest))
	if n != 201 || counts != 402 || features != 201 || longest != maxRequestID {
		t.Fatal(n, counts, features, longest)
	}
}

// TestEveryRowIsCountedOnce: whatever the order of recording, adding up, restarting and losing one of the two files,
// the outbox has every row that was added up exactly once, and in the end every row that was not lost with its file.
func TestEveryRowIsCountedOnce(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		must(t, err)
		var s *store.Store
		var r *Recorder
		begin := func() {
			s, err = store.Open(ctx, dir, store.Options{})
			must(t, err)
			r, err = Open(ctx, dir, s, Options{Logger: slog.New(slog.DiscardHandler), Health: health.New(time.Now)})
			must(t, err)
		}
		end := func() {
			must(t, r.Close())
			must(t, s.Close())
		}
		begin()
		defer func() { end() }()
		var delivered, waiting, recorded uint64 // at the manager; in rows not added up; in all
		for range rapid.IntRange(1, 8).Draw(rt, "steps") {
			switch rapid.IntRange(0, 6).Draw(rt, "step") {
			case 0, 1, 2:
				n := rapid.IntRange(1, 300).Draw(rt, "n")
				for i := range n {
					r.Record(observation(i))
				}
				must(t, r.Flush(ctx))
				waiting += uint64(n)
				recorded += uint64(n)
			case 3:
				must(t, r.RollUp(ctx))
				waiting = 0
				delivered += requests(outbox(t, s))
				if all := outbox(t, s); len(all) > 0 {
					_, err := s.Acknowledge(ctx, all[len(all)-1].GetSequence())
					must(t, err)
				}
			case 4:
				end()
				begin()
			case 5:
				end()
				must(t, os.Remove(filepath.Join(dir, "telemetry.db")))
				recorded -= waiting
				waiting = 0
				begin()
			case 6:
				end()
				must(t, os.Remove(filepath.Join(dir, "state.db")))
				recorded -= waiting // what cannot be known to be new is not counted
				waiting = 0
				begin()
			}
			if delivered+waiting != recorded {
				rt.Fatalf("%d delivered and %d waiting of %d", delivered, waiting, recorded)
			}
		}
	})
}

func TestRollUpInSteps(t *testing.T) {
	r, s := openBoth(t, t.TempDir(), Options{})
	const n = rollUpRows + 100
	for i := range n {
		for r.queued() == maxQueued {
			must(t, r.Flush(ctx))
		}
		r.Record(observation(i))
	}
	must(t, r.Flush(ctx))
	must(t, r.RollUp(ctx))
	if all := outbox(t, s); len(all) != 2 || requests(all) != n {
		t.Fatalf("%d aggregates with %d requests", len(all), requests(all))
	}
}

func (r *Recorder) queued() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}

func TestAFullQueueDropsAndCounts(t *testing.T) {
	r, _ := openBoth(t, t.TempDir(), Options{})
	r.rows.mu.Lock() // the disk hangs
	for i := range 3*maxQueued + 10 {
		r.Record(observation(i))
	}
	r.rows.mu.Unlock()
	must(t, r.Flush(ctx))
	st := r.Stats()
	if st.Dropped < maxQueued || st.Written+st.Dropped != 3*maxQueued+10 {
		t.Fatalf("%+v", st)
	}
	if w := r.health.Warnings(); len(w) != 1 || w[0].GetCode() != string(health.TelemetryDropped) {
		t.Fatal(w)
	}
}

func TestTrimDropsTheOldestThatWereAddedUp(t *testing.T) {
	r, s := openBoth(t, t.TempDir(), Options{MaxBytes: 150_000})
	write := func(n int) {
		for i := range n {
			r.Record(observation(i))
			if i%500 == 499 {
				must(t, r.Flush(ctx))
			}
		}
		must(t, r.Flush(ctx))
	}
	count := func() (n, first int64) {
		must(t, r.rows.conn.QueryRowContext(ctx, "SELECT count(*), min(id) FROM rows").Scan(&n, &first))
		return n, first
	}
	write(2000)
	r.rows.groups = 0
	write(1)
	if n, _ := count(); n != 2001 {
		t.Fatalf("%d rows: some were dropped before they were added up", n)
	}
	must(t, r.RollUp(ctx))
	r.rows.groups = 0
	write(1)
	if n, first := count(); n >= 2001 || first <= 1 {
		t.Fatalf("%d rows, from %d: the file does not shrink", n, first)
	}
	if got := requests(outbox(t, s)); got != 2001 {
		t.Fatal(got)
	}
	must(t, r.RollUp(ctx))
	write(9000) // far beyond, with nothing added up: new rows are refused
	r.rows.groups = 0
	write(1) // drops what had been added up, which is little
	before := r.Stats().Lost
	write(1)
	if r.Stats().Lost != before+1 || len(r.health.Warnings()) == 0 {
		t.Fatalf("%+v %v", r.Stats(), r.health.Warnings())
	}
	must(t, r.RollUp(ctx))
	r.rows.groups = 0
	write(1)
	if r.Stats().Lost != before+1 || len(r.health.Warnings()) != 0 {
		t.Fatalf("it did not recover: %+v %v", r.Stats(), r.health.Warnings())
	}
}

func TestTrimByAge(t *testing.T) {
	now := observation(0).At.Add(time.Minute)
	r, _ := openBoth(t, t.TempDir(), Options{MaxAge: time.Hour, Now: func() time.Time { return now }})
	r.Record(observation(0))
	must(t, r.Flush(ctx))
	must(t, r.RollUp(ctx))
	now = now.Add(2 * time.Hour)
	r.rows.groups = 0
	o := observation(1)
	o.At = now
	r.Record(o)
	must(t, r.Flush(ctx))
	var n, counts int
	must(t, r.rows.conn.QueryRowContext(ctx, "SELECT count(*), (SELECT count(*) FROM counts) FROM rows").Scan(&n, &counts))
	if n != 1 || counts != 2 {
		t.Fatal(n, counts)
	}
}

func TestADamagedFileIsBegunAnew(t *testing.T) {
	dir := t.TempDir()
	r, s := openBoth(t, dir, Options{})
	for i := range 10 {
		r.Record(observation(i))
	}
	must(t, r.Flush(ctx))
	must(t, r.RollUp(ctx))
	must(t, r.Close())
	must(t, s.Close())
	must(t, os.WriteFile(filepath.Join(dir, "telemetry.db"), bytes.Repeat([]byte("no"), 4096), 0o600))
	r, s = openBoth(t, dir, Options{})
	if w := r.health.Warnings(); len(w) != 1 || w[0].GetCode() != string(health.TelemetrySetAside) {
		t.Fatal(w)
	}
	r.Record(observation(0))
	must(t, r.Flush(ctx))
	must(t, r.RollUp(ctx))
	if got := requests(outbox(t, s)); got != 11 {
		t.Fatalf("%d requests, want the 10 from before and one", got)
	}
}

// TestDamageWhileRunning: pages that go bad under a running agent cost the rows in that file and nothing more.
func TestDamageWhileRunning(t *testing.T) {
	dir := t.TempDir()
	r, s := openBoth(t, dir, Options{})
	must(t, r.Declare(ctx, "fashion", "1", []string{"photo_png"}))
	for i := range 500 {
		r.Record(observation(i))
	}
	must(t, r.Flush(ctx))
	must(t, r.RollUp(ctx))
	if _, err := r.rows.conn.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "telemetry.db"), os.O_RDWR, 0)
	must(t, err)
	info, err := f.Stat()
	must(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte{0xa5}, int(info.Size())-4096), 4096)
	must(t, err)
	must(t, f.Close())
	_, err = r.rows.conn.ExecContext(ctx, "PRAGMA shrink_memory")
	must(t, err)
	for i := range 500 {
		r.Record(observation(i))
	}
	must(t, r.Flush(ctx))
	must(t, r.RollUp(ctx))
	if got, st := requests(outbox(t, s)), r.Stats(); got != 1000 || st.Lost != 0 {
		t.Fatalf("%d requests were added up; %+v", got, st)
	}
	if w := r.health.Warnings(); len(w) != 1 || w[0].GetCode() != string(health.TelemetrySetAside) {
		t.Fatal(w)
	}
}

func TestRecordingAllocatesNothing(t *testing.T) {
	r, _ := openBoth(t, t.TempDir(), Options{})
	o := observation(0)
	r.rows.mu.Lock() // the writer's own allocations are not the request's
	defer r.rows.mu.Unlock()
	// The writer, which cannot write now, may exchange the two buffers once more: then the other one is filled too.
	var n float64
	for range 3 {
		for range maxQueued {
			r.Record(o)
		}
		r.mu.Lock()
		r.n = 0
		r.mu.Unlock()
		if n = testing.AllocsPerRun(1000, func() { r.Record(o) }); n == 0 {
			return
		}
	}
	t.Fatalf("%v allocations a record", n)
}

func TestRolesAreKept(t *testing.T) {
	if got := reflect.TypeOf(Observation{}.Role).Size(); got != 1 {
		t.Fatal(got)
	}
	if OK.String() != "ok" || Internal.String() != "internal" || Code(200).String() != "unknown" {
		t.Fatal("codes have lost their names")
	}
}

func BenchmarkRecord(b *testing.B) {
	r, _ := openBoth(b, b.TempDir(), Options{})
	o := observation(0)
	o.Counts, o.Features = nil, nil
	r.rows.mu.Lock() // the writer sleeps; the queue is emptied here
	defer r.rows.mu.Unlock()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r.Record(o)
		if i%maxQueued == maxQueued-1 {
			r.mu.Lock()
			r.n = 0
			r.mu.Unlock()
		}
	}
	b.ReportMetric(float64(r.Stats().Dropped)/float64(b.N), "dropped/op")
}

func BenchmarkWriteRows(b *testing.B) {
	for _, c := range []struct {
		name string
		side bool
	}{{"plain", false}, {"with counts and features", true}} {
		b.Run(c.name, func(b *testing.B) {
			r, _ := openBoth(b, b.TempDir(), Options{})
			batch := make([]slot, groupRows)
			for i := range batch {
				o := observation(i)
				batch[i] = slot{at: o.At.UnixNano(), duration: int64(o.Duration), model: o.Model, version: o.Version, role: 1, requestID: []byte(o.RequestID)}
				if c.side {
					batch[i].counts, batch[i].features = o.Counts, o.Features
				}
			}
			for b.Loop() {
				must(b, r.rows.write(batch))
			}
			b.ReportMetric(float64(b.N)*groupRows/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

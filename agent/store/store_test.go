package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/agent/deploy"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

var ctx = context.Background()

func open(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(ctx, dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func reopen(t testing.TB, s *Store, dir string, o Options) *Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return open(t, dir, o)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestEverythingOutlivesTheProcess(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	first := s.BootEpoch()
	if d, err := s.Desired(ctx); d != nil || err != nil {
		t.Fatalf("a new store has the desired state %v, %v", d, err)
	}
	must(t, s.SetDesired(ctx, &syncv1.DesiredEnvelope{Generation: 7, Digest: "sha256:x", State: []byte("seven")}))
	r := deploy.Record{Key: deploy.Key{Model: "fashion", Version: "1", Digest: "sha256:a"}, State: deploy.Probing, Since: time.Unix(5, 6), Retry: 2, Crashes: 1}
	must(t, s.PutCopy(ctx, r))
	must(t, s.RollUp(ctx, 0, 10, &syncv1.Aggregate{Requests: []*syncv1.RequestTotals{{Model: "fashion", Requests: 3}}}))
	won := Winner{Protocol: "HTTP/2", At: time.Unix(9, 0), Demotions: 3}
	must(t, s.PutWinner(ctx, "a|b", won))

	s = reopen(t, s, dir, Options{})
	if s.BootEpoch() != first+1 {
		t.Fatalf("the boot epoch went from %d to %d", first, s.BootEpoch())
	}
	d, err := s.Desired(ctx)
	if err != nil || d.GetGeneration() != 7 || !bytes.Equal(d.GetState(), []byte("seven")) || d.GetDigest() != "sha256:x" {
		t.Fatal(d, err)
	}
	copies, err := s.Copies(ctx)
	if err != nil || len(copies) != 1 || !reflect.DeepEqual(copies[0], r) {
		t.Fatalf("%+v %v", copies, err)
	}
	if id, known, err := s.Checkpoint(ctx); id != 10 || !known || err != nil {
		t.Fatal(id, known, err)
	}
	if b, err := s.Backlog(ctx); err != nil || b.Pending != 1 || b.Bytes == 0 {
		t.Fatal(b, err)
	}
	if got, ok, err := s.Winner(ctx, "a|b"); !ok || err != nil || !reflect.DeepEqual(got, won) {
		t.Fatal(got, ok, err)
	}
	must(t, s.DeleteCopy(ctx, r.Key))
	if copies, err := s.Copies(ctx); err != nil || len(copies) != 0 {
		t.Fatal(copies, err)
	}
}

func TestGenerationsOnlyRise(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	must(t, s.SetDesired(ctx, &syncv1.DesiredEnvelope{Generation: 5, State: []byte("a")}))
	must(t, s.SetDesired(ctx, &syncv1.DesiredEnvelope{Generation: 5, State: []byte("b")}))
	if err := s.SetDesired(ctx, &syncv1.DesiredEnvelope{Generation: 4, State: []byte("c")}); !errors.Is(err, ErrOlder) {
		t.Fatalf("an older desired state was kept: %v", err)
	}
	if d, err := s.Desired(ctx); err != nil || string(d.GetState()) != "b" {
		t.Fatal(d, err)
	}
}

func TestFailuresAreRemembered(t *testing.T) {
	now := time.Unix(100, 0)
	s := open(t, t.TempDir(), Options{Now: func() time.Time { now = now.Add(time.Second); return now }})
	k := deploy.Key{Model: "fashion", Version: "1", Digest: "sha256:a"}
	must(t, s.PutCopy(ctx, deploy.Record{Key: k, State: deploy.Failed, Retry: 1, Reason: "crashed", Message: "it crashed"}))
	must(t, s.DeleteCopy(ctx, k))
	want := []deploy.Failure{{Model: "fashion", Digest: "sha256:a", Retry: 1, Reason: "crashed", Message: "it crashed"}}
	if got, err := s.Failures(ctx); err != nil || !reflect.DeepEqual(got, want) {
		t.Fatal(got, err)
	}
	must(t, s.PutCopy(ctx, deploy.Record{Key: k, State: deploy.Pending, Retry: 1}))
	if got, err := s.Failures(ctx); err != nil || len(got) != 1 {
		t.Fatalf("forgotten without another try: %v, %v", got, err)
	}
	must(t, s.PutCopy(ctx, deploy.Record{Key: k, State: deploy.Pending, Retry: 2}))
	if got, err := s.Failures(ctx); err != nil || len(got) != 0 {
		t.Fatalf("remembered over another try: %v, %v", got, err)
	}
	for i := range maxFailures + 3 {
		must(t, s.PutCopy(ctx, deploy.Record{Key: deploy.Key{Model: "m", Version: "1", Digest: fmt.Sprint(i)}, State: deploy.Failed}))
	}
	got, err := s.Failures(ctx)
	if err != nil || len(got) != maxFailures {
		t.Fatal(len(got), err)
	}
	for _, f := range got {
		if f.Digest == "0" {
			t.Fatal("the oldest failure was not the first to be forgotten")
		}
	}
}

func rollUp(t testing.TB, s *Store, n uint64) *syncv1.Aggregate {
	t.Helper()
	from, _, err := s.Checkpoint(ctx)
	must(t, err)
	a := &syncv1.Aggregate{Requests: []*syncv1.RequestTotals{{Model: "fashion", Version: "1", Requests: n}}}
	must(t, s.RollUp(ctx, from, from+n, a))
	return a
}

func TestARowIsRolledUpOnce(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	must(t, s.SetCheckpoint(ctx, 40))
	must(t, s.SetCheckpoint(ctx, 10)) // too late: the first counts
	must(t, s.RollUp(ctx, 40, 50, &syncv1.Aggregate{}))
	if err := s.RollUp(ctx, 40, 50, &syncv1.Aggregate{}); !errors.Is(err, ErrCheckpoint) {
		t.Fatalf("the same rows were rolled up twice: %v", err)
	}
	must(t, s.RollUp(ctx, 50, 60, nil))
	if b, err := s.Backlog(ctx); err != nil || b.Pending != 1 {
		t.Fatal(b, err)
	}
}

// TestOutbox compares the outbox with the simplest model of one: numbers rise for ever, nothing is lost but by the cap,
// and what is dropped is the oldest and counted.
func TestOutbox(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		must(t, err)
		o := Options{OutboxBytes: 400}
		s := open(t, dir, o)
		defer func() { s.Close() }()
		var model []*syncv1.Aggregate
		var last, dropped uint64
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			switch rapid.IntRange(0, 3).Draw(rt, "step") {
			case 0, 1:
				a := rollUp(t, s, rapid.Uint64Range(1, 1000).Draw(rt, "n"))
				if a.GetSequence() <= last {
					rt.Fatalf("sequence %d after %d", a.GetSequence(), last)
				}
				last = a.GetSequence()
				model = append(model, a)
			case 2:
				if len(model) > 0 {
					i := rapid.IntRange(0, len(model)-1).Draw(rt, "ack")
					if renumbered, err := s.Acknowledge(ctx, model[i].GetSequence()); err != nil || renumbered {
						rt.Fatal(renumbered, err)
					}
					model = model[i+1:]
				}
			case 3:
				s = reopen(t, s, dir, o)
			}
			got, err := s.Peek(ctx, 1000, 1<<20)
			must(t, err)
			b, err := s.Backlog(ctx)
			must(t, err)
			if b.Bytes > 400 || b.Pending != uint64(len(got)) || b.Dropped < dropped {
				rt.Fatalf("the backlog is %+v with %d aggregates, %d were dropped before", b, len(got), dropped)
			}
			model = model[b.Dropped-dropped:]
			dropped = b.Dropped
			if len(got) != len(model) {
				rt.Fatalf("%d aggregates wait, want %d", len(got), len(model))
			}
			for i := range got {
				if got[i].GetSequence() != model[i].GetSequence() || got[i].GetRequests()[0].GetRequests() != model[i].GetRequests()[0].GetRequests() {
					rt.Fatalf("aggregate %d is %v, want %v", i, got[i], model[i])
				}
			}
		}
	})
}

func TestPeekIsBounded(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	for range 5 {
		rollUp(t, s, 1)
	}
	if got, err := s.Peek(ctx, 2, 1<<20); err != nil || len(got) != 2 {
		t.Fatal(len(got), err)
	}
	if got, err := s.Peek(ctx, 10, 1); err != nil || len(got) != 1 {
		t.Fatalf("an aggregate larger than the bound would never be delivered: %d %v", len(got), err)
	}
}

// TestALostCounterHealsItself: a store that begins anew, or fell back, finds the manager ahead of its numbers.
func TestALostCounterHealsItself(t *testing.T) {
	clock := func(sec int64) Options { return Options{Now: func() time.Time { return time.Unix(sec, 0) }} }
	old := open(t, t.TempDir(), clock(1_700_000_000))
	fresh := open(t, t.TempDir(), clock(1_800_000_000))
	if a, b := rollUp(t, old, 1), rollUp(t, fresh, 1); b.GetSequence() <= a.GetSequence() || fresh.BootEpoch() <= old.BootEpoch() {
		t.Fatalf("a store made later begins at sequence %d, epoch %d; one made earlier is at %d, %d", b.GetSequence(), fresh.BootEpoch(), a.GetSequence(), old.BootEpoch())
	}
	behind := open(t, t.TempDir(), clock(0)) // the clock is not set yet
	for n := uint64(1); n <= 3; n++ {
		rollUp(t, behind, n)
	}
	const ahead = 1_700_000_000_123
	if renumbered, err := behind.Acknowledge(ctx, ahead); err != nil || !renumbered {
		t.Fatal(renumbered, err)
	}
	got, err := behind.Peek(ctx, 10, 1<<20)
	must(t, err)
	for i, a := range got {
		if a.GetSequence() != ahead+uint64(i)+1 || a.GetRequests()[0].GetRequests() != uint64(i)+1 {
			t.Fatalf("renumbered, the outbox is %v", got)
		}
	}
	if a := rollUp(t, behind, 9); len(got) != 3 || a.GetSequence() != ahead+4 {
		t.Fatalf("%d aggregates, the next is %d", len(got), a.GetSequence())
	}
}

func TestWinnersAreBounded(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	for i := range maxWinners + 2 {
		must(t, s.PutWinner(ctx, fmt.Sprint(i), Winner{Protocol: "HTTP/3", At: time.Unix(int64(i), 0)}))
	}
	for network, want := range map[string]bool{"0": false, "1": false, "2": true, fmt.Sprint(maxWinners + 1): true} {
		if _, ok, err := s.Winner(ctx, network); ok != want || err != nil {
			t.Fatalf("network %s is remembered: %v, %v", network, ok, err)
		}
	}
}

func TestADamagedFileIsSetAside(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	must(t, s.SetDesired(ctx, &syncv1.DesiredEnvelope{Generation: 7}))
	must(t, s.Close())
	must(t, os.WriteFile(filepath.Join(dir, "state.db"), bytes.Repeat([]byte("no"), 4096), 0o600))
	s = open(t, dir, Options{})
	if s.SetAside() != filepath.Join(dir, "state.db.corrupt-1") {
		t.Fatalf("set aside as %q", s.SetAside())
	}
	if d, err := s.Desired(ctx); d != nil || err != nil {
		t.Fatal(d, err)
	}
	if _, known, err := s.Checkpoint(ctx); known || err != nil {
		t.Fatal("a checkpoint out of nowhere", err)
	}
}

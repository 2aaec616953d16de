package api_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/dhowfleet/dhow/fleet/api"
	"github.com/dhowfleet/dhow/fleet/store"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
)

type watching struct {
	t      *testing.T
	stream *connect.ServerStreamForClient[fleetv1.WatchResponse]
}

func (f *fixture) watch(req *fleetv1.WatchRequest) *watching {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 20*time.Second)
	stream, err := f.Watch(ctx, connect.NewRequest(req))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { cancel(); stream.Close() })
	return &watching{f.t, stream}
}

// expect receives events and compares them with "type name".
func (w *watching) expect(events ...string) {
	w.t.Helper()
	for _, want := range events {
		if !w.stream.Receive() {
			w.t.Fatalf("the watch ended before %q: %v", want, w.stream.Err())
		}
		got := w.stream.Msg().GetType()
		if name := w.stream.Msg().GetResource().GetMetadata().GetName(); name != "" {
			got += " " + name
		}
		if got != want {
			w.t.Fatalf("told %q, want %q", got, want)
		}
	}
}

func TestWatchTellsWhatIsAndWhatChanges(t *testing.T) {
	f := serve(t, nil)
	f.mustApply(dubai)
	all, one := f.watch(&fleetv1.WatchRequest{}), f.watch(&fleetv1.WatchRequest{Kind: "Site", Name: "marina"})
	all.expect("current ae-dubai", "current deira", "synced")
	one.expect("synced")
	f.mustApply("kind: Site\nmetadata: {name: marina}\nspec: {region: ae-dubai}\n")
	all.expect("changed marina")
	one.expect("changed marina")
	f.mustApply("kind: Site\nmetadata: {name: deira, labels: {a: b}}\nspec: {region: ae-dubai}\n")
	all.expect("changed deira")
	if _, err := f.Delete(t.Context(), connect.NewRequest(&fleetv1.DeleteRequest{Kind: "Site", Name: "marina"})); err != nil {
		t.Fatal(err)
	}
	all.expect("deleted marina")
	one.expect("deleted marina")
	f.enrol("ae-dubai", "deira", "deira-1", false)
	all.expect("changed deira-1")
}

func TestWatchBySelectorTellsWhatLeavesTheSelection(t *testing.T) {
	f := serve(t, nil)
	f.mustApply(dubai)
	w := f.watch(&fleetv1.WatchRequest{Kind: "Site", Selector: map[string]string{"tier": "gold"}})
	w.expect("synced")
	gold := "kind: Site\nmetadata: {name: deira, labels: {tier: gold}}\nspec: {region: ae-dubai}\n"
	f.mustApply(gold)
	w.expect("changed deira")
	f.mustApply("kind: Site\nmetadata: {name: deira}\nspec: {region: ae-dubai}\n")
	w.expect("deleted deira")
	f.mustApply("kind: Region\nmetadata: {name: eu}\nspec: {jurisdiction: eu}\n")
	f.mustApply(gold)
	w.expect("changed deira") // and nothing of the region between
}

func TestWatchesAreBounded(t *testing.T) {
	f := serve(t, func(c *api.Config) { c.MaxWatchers = 1 })
	first := f.watch(&fleetv1.WatchRequest{})
	first.expect("synced")
	second := f.watch(&fleetv1.WatchRequest{})
	if second.stream.Receive() {
		t.Fatal("a watch too many is served")
	}
	refused(t, second.stream.Err(), connect.CodeResourceExhausted, "too many watches")
	if third := f.watch(&fleetv1.WatchRequest{Name: "x"}); third.stream.Receive() || connect.CodeOf(third.stream.Err()) != connect.CodeInvalidArgument {
		t.Errorf("a name without a kind: %v", third.stream.Err())
	}
}

// scripted gives a watch the changes that a test wants it to see.
type scripted struct {
	api.Resources
	wake    chan struct{}
	changes func(since uint64) ([]store.ChangeRecord, error)
}

func (s *scripted) Notify() (<-chan struct{}, func()) { return s.wake, func() {} }
func (s *scripted) Changes(_ context.Context, since uint64) ([]store.ChangeRecord, error) {
	return s.changes(since)
}

func TestWatchIsCutWhenTooFarBehind(t *testing.T) {
	s := &scripted{wake: make(chan struct{}, 1), changes: func(uint64) ([]store.ChangeRecord, error) {
		return nil, fmt.Errorf("%w: since 1", store.ErrCompacted)
	}}
	f := serve(t, func(c *api.Config) { s.Resources, c.Resources = c.Resources, s })
	w := f.watch(&fleetv1.WatchRequest{})
	w.expect("synced")
	s.wake <- struct{}{}
	if w.stream.Receive() {
		t.Fatal("the watch goes on with a gap")
	}
	refused(t, w.stream.Err(), connect.CodeResourceExhausted, "fell too far behind: watch anew")
}

func TestWatchReadsOnWhileThereIsMoreAndSkipsWhatItToldAlready(t *testing.T) {
	at := func(v uint64) store.ChangeRecord {
		r := &fleetv1.Resource{Kind: "Region", Metadata: &fleetv1.Metadata{Name: "r", ResourceVersion: v}}
		return store.ChangeRecord{Kind: "Region", Name: "r", Version: v, Resource: r}
	}
	batches := map[uint64][]store.ChangeRecord{
		0: {at(3)},
		3: {at(3), at(5)}, // once more, and on
		5: {{Kind: "Region", Name: "r", Version: 4, Deleted: true}, {Kind: "Region", Name: "never-told", Version: 6, Deleted: true}, {Kind: "Region", Name: "r", Version: 7, Deleted: true}},
		7: {at(9)},
	}
	s := &scripted{wake: make(chan struct{}, 1), changes: func(since uint64) ([]store.ChangeRecord, error) { return batches[since], nil }}
	f := serve(t, func(c *api.Config) { s.Resources, c.Resources = c.Resources, s })
	w := f.watch(&fleetv1.WatchRequest{})
	w.expect("synced")
	s.wake <- struct{}{}
	w.expect("changed r", "changed r", "deleted r", "changed r")
}

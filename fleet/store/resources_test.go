package store

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
)

func TestGenerationRisesWithTheSpecOnly(t *testing.T) {
	s := open(t)
	r := apply(t, s, puts(rollout("r", "m", "1"))...)[0]
	if m := r.GetMetadata(); m.GetGeneration() != 1 || m.GetResourceVersion() == 0 || m.GetCreatedAt() == nil {
		t.Fatalf("created with %v", m)
	}
	sequence := r.GetRollout().GetStatus().GetSequence()
	if sequence != r.GetMetadata().GetResourceVersion() {
		t.Errorf("sequence %d, want the resource version %d", sequence, r.GetMetadata().GetResourceVersion())
	}

	labelled := rollout("r", "m", "1")
	labelled.Metadata.Labels = map[string]string{"team": "till"}
	again := apply(t, s, puts(labelled)...)[0]
	if again.GetMetadata().GetGeneration() != 1 || again.GetMetadata().GetResourceVersion() <= r.GetMetadata().GetResourceVersion() {
		t.Errorf("labels changed: %v", again.GetMetadata())
	}
	if got := again.GetRollout().GetStatus().GetSequence(); got != sequence {
		t.Errorf("labels moved the rollout's sequence from %d to %d", sequence, got)
	}

	same := apply(t, s, puts(labelled)...)[0]
	if same.GetMetadata().GetResourceVersion() != again.GetMetadata().GetResourceVersion() {
		t.Error("an apply that changes nothing took a resource version")
	}

	next := rollout("r", "m", "2")
	next.Metadata.Labels = labelled.Metadata.Labels
	changed := apply(t, s, puts(next)...)[0]
	if changed.GetMetadata().GetGeneration() != 2 || changed.GetRollout().GetStatus().GetSequence() != changed.GetMetadata().GetResourceVersion() {
		t.Errorf("spec changed: %v", changed)
	}
	if !proto.Equal(changed.GetMetadata().GetCreatedAt(), r.GetMetadata().GetCreatedAt()) {
		t.Error("created_at moved")
	}
}

func TestStatusIsNobodysButTheManagers(t *testing.T) {
	s := open(t)
	r := rollout("r", "m", "1")
	r.GetRollout().Status = &fleetv1.RolloutStatus{Phase: "Complete", Sequence: 99}
	r.Metadata.Generation, r.Metadata.ResourceVersion = 77, 88
	r = apply(t, s, puts(r)...)[0]
	if st := r.GetRollout().GetStatus(); st.GetPhase() != "" || st.GetSequence() == 99 || r.GetMetadata().GetGeneration() != 1 {
		t.Fatalf("an operator set the status: %v", r)
	}

	r.GetRollout().Status.Phase = "Progressing"
	r.GetRollout().Status.Sequence = 1234
	r.GetRollout().Spec.Version = "other"
	if err := s.UpdateStatus(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	got, err := s.Get(t.Context(), KindRollout, "r")
	if err != nil {
		t.Fatal(err)
	}
	if got.GetRollout().GetStatus().GetPhase() != "Progressing" || got.GetRollout().GetStatus().GetSequence() == 1234 ||
		got.GetRollout().GetSpec().GetVersion() != "1" || got.GetMetadata().GetGeneration() != 1 {
		t.Fatalf("after UpdateStatus: %v", got)
	}
	version := got.GetMetadata().GetResourceVersion()
	if err := s.UpdateStatus(t.Context(), got); err != nil {
		t.Fatal(err)
	}
	again := apply(t, s, puts(rollout("r", "m", "1"))...)[0]
	if again.GetMetadata().GetResourceVersion() != version || again.GetRollout().GetStatus().GetPhase() != "Progressing" {
		t.Errorf("the same status or spec changed something: %v", again)
	}
}

func TestApplyIsAllOrNone(t *testing.T) {
	s := open(t)
	have := apply(t, s, puts(region("a"))...)[0]
	before, version, err := s.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for name, last := range map[string]Change{
		"delete what is not there":      {Delete: &Key{KindSite, "nowhere"}},
		"another version":               {Put: region("a"), IfVersion: have.GetMetadata().GetResourceVersion() + 5},
		"version of what is not there":  {Put: region("z"), IfVersion: 1},
		"body of another kind":          {Put: &fleetv1.Resource{Kind: KindSite, Metadata: &fleetv1.Metadata{Name: "x"}, Body: region("x").Body}},
		"no body":                       {Put: &fleetv1.Resource{Kind: KindRegion, Metadata: &fleetv1.Metadata{Name: "x"}}},
		"empty body":                    {Put: &fleetv1.Resource{Kind: KindRegion, Metadata: &fleetv1.Metadata{Name: "x"}, Body: &fleetv1.Resource_Region{}}},
		"no name":                       {Put: region("")},
		"a node that never enrolled":    {Put: &fleetv1.Resource{Kind: KindNode, Metadata: &fleetv1.Metadata{Name: "x"}}},
		"labels without end":            {Put: bigRegion()},
		"nothing at all":                {},
		"delete with another version":   {Delete: &Key{KindRegion, "a"}, IfVersion: 12345},
		"a node's deletion, not there":  {Delete: &Key{KindNode, "a"}},
		"unknown kind without its body": {Put: &fleetv1.Resource{Kind: "Gateway", Metadata: &fleetv1.Metadata{Name: "x"}}},
	} {
		_, err := s.Apply(t.Context(), append(puts(region("new"), site("new", "new")), last))
		if !errors.Is(err, ErrConflict) && !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	after, v, err := s.List(t.Context(), "")
	if err != nil || v != version || len(after) != len(before) {
		t.Errorf("after refused applies there are %d resources at version %d, want %d at %d (%v)", len(after), v, len(before), version, err)
	}
}

func bigRegion() *fleetv1.Resource {
	r := region("big")
	r.Metadata.Labels = map[string]string{"x": string(make([]byte, maxResourceBytes))}
	return r
}

func TestDeleteLeavesATombstone(t *testing.T) {
	s := open(t)
	created := apply(t, s, puts(region("a"), region("b"))...)
	since := created[1].GetMetadata().GetResourceVersion()
	gone := apply(t, s, Change{Delete: &Key{KindRegion, "a"}, IfVersion: created[0].GetMetadata().GetResourceVersion()})
	if gone[0].GetMetadata().GetName() != "a" {
		t.Errorf("a deletion returned %v", gone[0])
	}
	if _, err := s.Get(t.Context(), KindRegion, "a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a deleted region is %v", err)
	}
	changes, err := s.Changes(t.Context(), since)
	if err != nil || len(changes) != 1 || !changes[0].Deleted || changes[0].Name != "a" || changes[0].Resource != nil {
		t.Fatalf("changes are %v (%v)", changes, err)
	}
	again := apply(t, s, puts(region("a"))...)[0]
	changes, err = s.Changes(t.Context(), since)
	if err != nil || len(changes) != 2 || changes[1].Version != again.GetMetadata().GetResourceVersion() {
		t.Fatalf("after a new one of the same name, changes are %v (%v)", changes, err)
	}
}

func TestForgottenDeletionsAreSaid(t *testing.T) {
	s := open(t)
	first := apply(t, s, puts(region("a"))...)[0].GetMetadata().GetResourceVersion()
	// As if ten thousand and one things had been deleted since.
	if _, err := s.writer.Exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10001)
		INSERT INTO tombstones (version, kind, name) SELECT $1 + i, 'Region', 'x' FROM n`, int64(first)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.writer.Exec(`UPDATE counters SET value = $1`, int64(first)+10001); err != nil {
		t.Fatal(err)
	}
	apply(t, s, Change{Delete: &Key{KindRegion, "a"}})
	if _, err := s.Changes(t.Context(), first); !errors.Is(err, ErrCompacted) {
		t.Fatalf("one who missed deletions gets %v", err)
	}
	_, version, err := s.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if changes, err := s.Changes(t.Context(), version); err != nil || len(changes) != 0 {
		t.Errorf("after a new list: %v, %v", changes, err)
	}
	if changes, err := s.Changes(t.Context(), version-maxTombstones+1); err != nil || len(changes) > maxChangesAtATime {
		t.Errorf("%d changes at a time (%v)", len(changes), err)
	}
}

// TestChangesLeadToTheSamePicture: one who lists once and then follows Changes sees what one who lists again sees.
func TestChangesLeadToTheSamePicture(t *testing.T) {
	s := open(t)
	_, start, err := s.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	type follower struct {
		at   uint64
		seen map[Key]*fleetv1.Resource
	}
	f := follower{at: start, seen: map[Key]*fleetv1.Resource{}}
	rapid.Check(t, func(rt *rapid.T) {
		for range rapid.IntRange(1, 8).Draw(rt, "steps") {
			name := fmt.Sprintf("r%d", rapid.IntRange(0, 4).Draw(rt, "name"))
			c := Change{Put: rollout(name, "m", rapid.SampledFrom([]string{"1", "2"}).Draw(rt, "version"))}
			if rapid.IntRange(0, 3).Draw(rt, "delete") == 0 {
				c = Change{Delete: &Key{KindRollout, name}}
			}
			if _, err := s.Apply(t.Context(), []Change{c}); err != nil && !errors.Is(err, ErrNotFound) {
				rt.Fatal(err)
			}
		}
		changes, err := s.Changes(t.Context(), f.at)
		if err != nil {
			rt.Fatal(err)
		}
		for _, c := range changes {
			if c.Version <= f.at {
				rt.Fatalf("version %d comes after %d", c.Version, f.at)
			}
			f.at = c.Version
			if c.Deleted {
				delete(f.seen, Key{c.Kind, c.Name})
			} else {
				f.seen[Key{c.Kind, c.Name}] = c.Resource
			}
		}
		all, version, err := s.List(t.Context(), "")
		if err != nil || version != f.at && len(changes) > 0 {
			rt.Fatalf("the list is at version %d, the follower at %d (%v)", version, f.at, err)
		}
		want := map[Key]*fleetv1.Resource{}
		for _, r := range all {
			want[Key{r.GetKind(), r.GetMetadata().GetName()}] = r
		}
		if !maps.EqualFunc(f.seen, want, func(a, b *fleetv1.Resource) bool { return proto.Equal(a, b) }) {
			rt.Fatalf("the follower sees %v, there is %v", slices.Collect(maps.Keys(f.seen)), slices.Collect(maps.Keys(want)))
		}
	})
}

func TestVersionNamesOneContent(t *testing.T) {
	s := open(t)
	push := func(version, digest string) error {
		return s.RecordVersion(t.Context(), "fashion", version, digest, 10)
	}
	for _, v := range []string{"1", "2"} {
		if err := push(v, "sha256:"+v); err != nil {
			t.Fatal(err)
		}
	}
	before, err := s.Get(t.Context(), KindModel, "fashion")
	if err != nil {
		t.Fatal(err)
	}
	if vs := before.GetModel().GetStatus().GetVersions(); len(vs) != 2 || vs[0].GetVersion() != "2" || before.GetMetadata().GetGeneration() != 1 {
		t.Fatalf("the model is %v", before)
	}
	if err := push("1", "sha256:1"); err != nil {
		t.Errorf("pushing the same again: %v", err)
	}
	if err := push("1", "sha256:9"); !errors.Is(err, ErrConflict) {
		t.Errorf("pushing another content: %v", err)
	}
	model := &fleetv1.Resource{Kind: KindModel, Metadata: &fleetv1.Metadata{Name: "fashion"},
		Body: &fleetv1.Resource_Model{Model: &fleetv1.Model{Spec: &fleetv1.ModelSpec{Description: "clothes"}}}}
	after := apply(t, s, puts(model)...)[0]
	if !proto.Equal(after.GetModel().GetStatus(), before.GetModel().GetStatus()) {
		t.Error("declaring the model lost its versions")
	}
}

func TestDesiredGenerationRisesWithTheBytesOnly(t *testing.T) {
	s := open(t)
	n := enrol(t, s, "n", 1)[0]
	rapid.Check(t, func(rt *rapid.T) {
		before, err := s.Desired(t.Context(), n.ID)
		if err != nil {
			rt.Fatal(err)
		}
		state := rapid.SampledFrom([][]byte{nil, []byte("a"), []byte("b")}).Draw(rt, "state")
		changed, err := s.SetDesired(t.Context(), map[string][]byte{n.ID: state, "n-unknown": state})
		if err != nil {
			rt.Fatal(err)
		}
		after, err := s.Desired(t.Context(), n.ID)
		if err != nil {
			rt.Fatal(err)
		}
		same := before.Generation > 0 && string(before.State) == string(state)
		if same != (len(changed) == 0) || same && after.Generation != before.Generation || !same && after.Generation != before.Generation+1 {
			rt.Fatalf("%q at %d became %q at %d (%d changed)", before.State, before.Generation, after.State, after.Generation, len(changed))
		}
		all, err := s.AllDesired(t.Context())
		if err != nil || len(all) != 1 || all[n.ID].Digest != after.Digest || string(all[n.ID].State) != string(state) {
			rt.Fatalf("AllDesired returns %v (%v)", all, err)
		}
	})
}

func TestDecisionsAboutAnOlderSpecAreDropped(t *testing.T) {
	s := open(t)
	old := apply(t, s, puts(rollout("r", "m", "1"))...)[0]
	apply(t, s, puts(rollout("r", "m", "2"))...)
	decided := proto.CloneOf(old)
	decided.GetRollout().Status.Phase = "Complete"
	gone := region("gone")
	gone.GetRegion().Status = &fleetv1.RegionStatus{Nodes: 4}
	err := s.CommitDecisions(t.Context(), Decisions{
		Statuses: []*fleetv1.Resource{decided, gone},
		Releases: []Release{{Rollout: "r", Sequence: old.GetRollout().GetStatus().GetSequence(), Model: "m", Version: "1"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	now, err := s.Get(t.Context(), KindRollout, "r")
	if err != nil || now.GetRollout().GetStatus().GetPhase() != "" {
		t.Errorf("the new spec took the old one's status: %v (%v)", now, err)
	}
	if releases, err := s.Releases(t.Context()); err != nil || len(releases) != 0 {
		t.Errorf("releases: %v (%v)", releases, err)
	}

	now.GetRollout().Status.Phase = "Complete"
	release := Release{Rollout: "r", Sequence: now.GetRollout().GetStatus().GetSequence(), Model: "m", Version: "2", Millionths: 1_000_000}
	for range 2 {
		if err := s.CommitDecisions(t.Context(), Decisions{Statuses: []*fleetv1.Resource{now}, Releases: []Release{release}}); err != nil {
			t.Fatal(err)
		}
	}
	if releases, err := s.Releases(t.Context()); err != nil || len(releases) != 1 || releases[0] != release {
		t.Errorf("releases: %v (%v)", releases, err)
	}
	apply(t, s, Change{Delete: &Key{KindRollout, "r"}})
	if releases, err := s.Releases(t.Context()); err != nil || len(releases) != 0 {
		t.Errorf("a deleted rollout left releases: %v (%v)", releases, err)
	}
}

func TestReleasesAreBounded(t *testing.T) {
	s := open(t)
	for i := range maxReleases + 5 {
		r := apply(t, s, puts(rollout("r", "m", fmt.Sprint(i)))...)[0]
		if err := s.CommitDecisions(t.Context(), Decisions{Releases: []Release{{Rollout: "r", Model: "m", Version: fmt.Sprint(i), Sequence: r.GetRollout().GetStatus().GetSequence()}}}); err != nil {
			t.Fatal(err)
		}
	}
	releases, err := s.Releases(t.Context())
	if err != nil || len(releases) != maxReleases || releases[len(releases)-1].Version != fmt.Sprint(maxReleases+4) {
		t.Fatalf("%d releases are kept (%v)", len(releases), err)
	}
}

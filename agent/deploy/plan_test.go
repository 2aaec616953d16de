package deploy

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

// TestConverges: whatever was wanted before and however far the node had come, the last desired state is what the node
// comes to rest at, and it rests.
func TestConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := newNode()
		for _, d := range digests {
			switch rapid.IntRange(0, 5).Draw(t, "nature of "+d) {
			case 0:
				n.faulty[d] = Refused
			case 1:
				n.deadly[d] = true
			}
		}
		retry := uint32(0)
		for range rapid.IntRange(1, 8).Draw(t, "changes") {
			retry += rapid.Uint32Range(0, 1).Draw(t, "retry")
			n.desired = drawDesired(t, retry)
			for range rapid.IntRange(0, 12).Draw(t, "steps") {
				if err := n.perform(Plan(n.snapshot(), n.now)); err != nil {
					t.Fatal(err)
				}
				for i := range n.copies {
					if i < len(n.copies) && n.copies[i].Busy != None && rapid.Bool().Draw(t, "ends") {
						o := n.outcome(&n.copies[i])
						if o.Result == Done && rapid.IntRange(0, 3).Draw(t, "luck") == 0 {
							o.Result = rapid.SampledFrom([]Result{Unavailable, NoSpace, NoMemory, NodeFault, Missing, Mismatch, Corrupt, Canceled}).Draw(t, "misfortune")
						}
						n.end(&n.copies[i], o)
					}
				}
				if rapid.IntRange(0, 15).Draw(t, "power") == 0 {
					n.reboot()
				}
				n.now = n.now.Add(time.Duration(rapid.IntRange(0, 90).Draw(t, "seconds")) * time.Second)
			}
		}
		if err := n.settle(); err != nil {
			t.Fatal(err)
		}
		good := map[string]bool{} // models with a wanted primary copy that did not fail
		for _, d := range n.desired.Copies {
			c := n.copy(d.Key)
			if c == nil {
				t.Fatalf("%s is wanted and not there", d.Key)
			}
			if c.State != Serving && c.State != Failed && (d.Role != syncv1.Role_ROLE_SHADOW || good[d.Model]) {
				t.Fatalf("%s came to rest as %s", d.Key, c.State)
			}
			if d.Role != syncv1.Role_ROLE_SHADOW && c.State == Serving {
				good[d.Model] = true
			}
			if c.State == Serving && (n.faulty[d.Digest] == Refused || n.deadly[d.Digest]) {
				t.Fatalf("%s serves though it is at fault", d.Key)
			}
		}
		allGood := map[string]bool{}
		for m := range good {
			allGood[m] = true
		}
		for _, d := range n.desired.Copies {
			if c := n.copy(d.Key); c.State == Failed {
				delete(allGood, d.Model)
			}
		}
		for m := range good {
			if len(n.routes[m]) == 0 {
				t.Fatalf("%s has a good copy and is not served", m)
			}
			if !allGood[m] {
				continue
			}
			var want []Route
			for _, d := range n.desired.Copies {
				if d.Model == m {
					want = append(want, Route{Key: d.Key, Role: d.Role, Millionths: d.Millionths})
				}
			}
			if !slices.Equal(want, n.routes[m]) {
				t.Fatalf("%s is routed as %v, wanted is %v", m, n.routes[m], want)
			}
			for _, c := range n.copies {
				if c.Model == m && !routed(want, c.Key) {
					t.Fatalf("%s is still there as %s", c.Key, c.State)
				}
			}
		}
	})
}

// TestNeverWithoutAServingCopy: once a model is served, no change of version, failure, misfortune or lack of space takes
// it away, as long as the process lives and the model is wanted.
func TestNeverWithoutAServingCopy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := newNode()
		for _, d := range digests[1:] {
			n.faulty[d] = rapid.SampledFrom([]Result{Done, Done, Refused}).Draw(t, d)
		}
		first := Key{Model: "fashion", Version: "0", Digest: digests[0]}
		n.desired = &Desired{Copies: []DesiredCopy{{Key: first, Role: syncv1.Role_ROLE_BASELINE, Millionths: Whole}}}
		if err := n.settle(); err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if rapid.IntRange(0, 5).Draw(t, "change") == 0 {
				d := drawDesired(t, 0)
				if !slices.ContainsFunc(d.Copies, func(c DesiredCopy) bool { return c.Model == "fashion" }) {
					continue
				}
				n.desired = d
			}
			if err := n.perform(Plan(n.snapshot(), n.now)); err != nil {
				t.Fatal(err)
			}
			if len(n.routes["fashion"]) == 0 {
				t.Fatalf("the model is not served; copies: %v", n.copies)
			}
			for i := range n.copies {
				if n.copies[i].Busy != None && rapid.Bool().Draw(t, "ends") {
					o := n.outcome(&n.copies[i])
					if o.Result == Done && rapid.IntRange(0, 3).Draw(t, "luck") == 0 {
						o.Result = rapid.SampledFrom([]Result{Unavailable, NoSpace, NoMemory, NodeFault, Missing, Mismatch, Corrupt, Canceled}).Draw(t, "misfortune")
					}
					n.end(&n.copies[i], o)
				}
			}
			n.now = n.now.Add(time.Duration(rapid.IntRange(0, 90).Draw(t, "seconds")) * time.Second)
		}
	})
}

func one(v int, retry uint32) *Desired {
	return &Desired{Copies: []DesiredCopy{{Key: Key{Model: "fashion", Version: fmt.Sprint(v), Digest: digests[v]}, Role: syncv1.Role_ROLE_BASELINE, Millionths: Whole, Retry: retry}}}
}

func TestAFailedDigestIsNotTriedAgainUnlessAsked(t *testing.T) {
	n := newNode()
	n.faulty[digests[1]] = Refused
	for _, d := range []*Desired{one(0, 0), one(1, 0)} {
		n.desired = d
		if err := n.settle(); err != nil {
			t.Fatal(err)
		}
	}
	bad := n.desired.Copies[0].Key
	if c := n.copy(bad); c.State != Failed || c.Reason != "golden-mismatch" {
		t.Fatalf("the bad copy is %+v", c)
	}
	if !routed(n.routes["fashion"], Key{Model: "fashion", Version: "0", Digest: digests[0]}) {
		t.Fatal("the copy that served before does not serve any more")
	}
	// Away and back: remembered.
	n.desired = one(0, 0)
	if err := n.settle(); err != nil {
		t.Fatal(err)
	}
	n.log = nil
	n.desired = one(1, 0)
	if err := n.settle(); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(n.log, "download fashion:1") {
		t.Fatalf("it was fetched again unasked: %v", n.log)
	}
	// Mended and asked for.
	n.faulty[digests[1]] = Done
	n.desired = one(1, 1)
	if err := n.settle(); err != nil {
		t.Fatal(err)
	}
	if c := n.copy(bad); c.State != Serving || c.Retry != 1 {
		t.Fatalf("asked for, it is %+v", c)
	}
}

func TestACopyThatKillsTheProcessStepsAside(t *testing.T) {
	n := newNode()
	n.desired = one(0, 0)
	if err := n.settle(); err != nil {
		t.Fatal(err)
	}
	n.deadly[digests[1]] = true
	n.desired = one(1, 0)
	if err := n.settle(); err != nil {
		t.Fatal(err)
	}
	if n.crashes != MaxCrashes {
		t.Fatalf("the process died %d times", n.crashes)
	}
	if c := n.copy(n.desired.Copies[0].Key); c.State != Failed || c.Reason != ReasonCrashedProcess {
		t.Fatalf("the deadly copy is %+v", c)
	}
	if !routed(n.routes["fashion"], Key{Model: "fashion", Version: "0", Digest: digests[0]}) {
		t.Fatal("the old copy does not serve")
	}
}

// TestThePredecessorStaysUntilTheSuccessorIsProven: a successor that served for a moment and then kills the process
// finds its predecessor on disk, and it is the predecessor that is loaded first.
func TestThePredecessorStaysUntilTheSuccessorIsProven(t *testing.T) {
	n := newNode()
	for _, d := range []*Desired{one(0, 0), one(1, 0)} {
		n.desired = d
		for range 30 {
			if err := n.perform(Plan(n.snapshot(), n.now)); err != nil {
				t.Fatal(err)
			}
			for i := range n.copies {
				if n.copies[i].Busy != None {
					n.end(&n.copies[i], Outcome{})
				}
			}
		}
	}
	old, successor := Key{Model: "fashion", Version: "0", Digest: digests[0]}, n.desired.Copies[0].Key
	if c := n.copy(old); c == nil || c.State != Draining || !routed(n.routes["fashion"], successor) {
		t.Fatalf("the predecessor is %+v, the routes are %v", c, n.routes)
	}
	n.copy(successor).Crashes = 1
	n.reboot()
	got := Plan(n.snapshot(), n.now)
	if len(got) != 1 || got[0].Kind != Load || got[0].Key != old {
		t.Fatalf("the plan is %v, want a load of %s alone", got, old)
	}
	if err := n.settle(); err != nil {
		t.Fatal(err)
	}
	if n.copy(old) != nil || !routed(n.routes["fashion"], successor) {
		t.Fatalf("it came to rest with %v, routed %v", n.copies, n.routes)
	}
}

// TestAtBootTheOldOneIsLoadedFirst: with a download unfinished and nobody to ask, what served before serves.
func TestAtBootTheOldOneIsLoadedFirst(t *testing.T) {
	n := newNode()
	n.desired = one(0, 0)
	if err := n.settle(); err != nil {
		t.Fatal(err)
	}
	n.desired = one(1, 0)
	for range 2 {
		if err := n.perform(Plan(n.snapshot(), n.now)); err != nil {
			t.Fatal(err)
		}
	}
	if c := n.copy(n.desired.Copies[0].Key); c.State != Downloading {
		t.Fatalf("the new copy is %s", c.State)
	}
	n.reboot()
	got := Plan(n.snapshot(), n.now)
	want := []Action{{Kind: Load, Key: Key{Model: "fashion", Version: "0", Digest: digests[0]}}}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("the first actions after a boot are %v, want %v", got, want)
	}
}

func TestOverdueStepsFail(t *testing.T) {
	n := newNode()
	n.desired = one(0, 0)
	for range 2 {
		if err := n.perform(Plan(n.snapshot(), n.now)); err != nil {
			t.Fatal(err)
		}
	}
	c := &n.copies[0]
	if at := Wake(n.snapshot(), n.now); c.Busy != Download || !at.IsZero() {
		t.Fatalf("a download (%s) has a deadline at %s", c.Busy, at)
	}
	n.end(c, Outcome{})
	if err := n.perform(Plan(n.snapshot(), n.now)); err != nil {
		t.Fatal(err)
	}
	at := Wake(n.snapshot(), n.now)
	if c.Busy != Verify || !at.Equal(n.now.Add(limits[Verify])) {
		t.Fatalf("busy with %s, deadline %s", c.Busy, at)
	}
	n.now = at
	got := Plan(n.snapshot(), n.now)
	if len(got) != 1 || got[0].Kind != Fail || got[0].Reason != ReasonTimeLimit {
		t.Fatalf("overdue, the plan is %v", got)
	}
}

func TestNothingIsRemovedBeforeTheFirstDesiredState(t *testing.T) {
	n := newNode()
	n.copies = []Copy{{Record: Record{Key: Key{Model: "fashion", Version: "0", Digest: digests[0]}, State: Serving}}}
	if got := Plan(n.snapshot(), n.now); len(got) != 0 {
		t.Fatalf("with nothing known, the plan is %v", got)
	}
}

const someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestParseDesired(t *testing.T) {
	good := func() *syncv1.DesiredState {
		return &syncv1.DesiredState{Copies: []*syncv1.DesiredCopy{
			{Model: "fashion", Version: "1.2_a", ManifestDigest: someDigest, Role: syncv1.Role_ROLE_BASELINE, TrafficMillionths: 900_000, Retry: 2, Rollout: "r"},
			{Model: "fashion", Version: "2", ManifestDigest: someDigest, Role: syncv1.Role_ROLE_CANDIDATE, TrafficMillionths: 100_000},
			{Model: "fashion", Version: "3", ManifestDigest: someDigest, Role: syncv1.Role_ROLE_SHADOW},
		}, ReportIntervalSeconds: 7}
	}
	for _, tc := range []struct {
		name, want string
		change     func(*syncv1.DesiredState)
	}{
		{"good", "", func(*syncv1.DesiredState) {}},
		{"a path for a model", "model", func(m *syncv1.DesiredState) { m.Copies[0].Model = "../x" }},
		{"a path for a version", "version", func(m *syncv1.DesiredState) { m.Copies[1].Version = ".." }},
		{"no digest", "digest", func(m *syncv1.DesiredState) { m.Copies[0].ManifestDigest = "sha256:12" }},
		{"a future role", "role", func(m *syncv1.DesiredState) { m.Copies[0].Role = 9 }},
		{"shares", "sum", func(m *syncv1.DesiredState) { m.Copies[0].TrafficMillionths++ }},
		{"shares that wrap around", "sum", func(m *syncv1.DesiredState) {
			m.Copies[0].TrafficMillionths, m.Copies[1].TrafficMillionths = 1<<32-1, Whole+1
		}},
		{"a shadow's share", "share", func(m *syncv1.DesiredState) { m.Copies[2].TrafficMillionths = 1 }},
		{"twice", "twice", func(m *syncv1.DesiredState) { m.Copies = append(m.Copies, m.Copies[0]) }},
		{"too many", "at most", func(m *syncv1.DesiredState) {
			for range MaxCopies {
				m.Copies = append(m.Copies, m.Copies[0])
			}
		}},
	} {
		m := good()
		tc.change(m)
		data, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		_, d, err := ParseDesired(data)
		if tc.want == "" {
			if err != nil || len(d.Copies) != 3 || d.Copies[0].Retry != 2 {
				t.Fatalf("%s: %v %v", tc.name, d, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func FuzzParseDesired(f *testing.F) {
	data, err := proto.Marshal(&syncv1.DesiredState{Copies: []*syncv1.DesiredCopy{{Model: "m", Version: "1", ManifestDigest: someDigest, Role: syncv1.Role_ROLE_BASELINE, TrafficMillionths: Whole}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte{0x0a, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		_, d, err := ParseDesired(data)
		if err != nil {
			return
		}
		n := newNode()
		n.desired = d
		if err := n.settle(); err != nil {
			t.Fatal(err)
		}
	})
}

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

// node is the simplest thing that obeys Plan: it performs actions at once or after a while, with outcomes that the
// test draws, and it can lose its process.
type node struct {
	now     time.Time
	desired *Desired
	copies  []Copy
	fails   []Failure
	routes  map[string][]Route
	faulty  map[string]Result // by digest: how its probe ends
	deadly  map[string]bool   // by digest: loading it kills the process
	log     []string
	crashes int
}

func newNode() *node {
	return &node{now: time.Unix(1_800_000_000, 0), routes: map[string][]Route{}, faulty: map[string]Result{}, deadly: map[string]bool{}}
}

func (n *node) snapshot() Snapshot {
	return Snapshot{Desired: n.desired, Copies: slices.Clone(n.copies), Failures: n.fails, Routes: n.routes}
}

func (n *node) copy(k Key) *Copy {
	for i := range n.copies {
		if n.copies[i].Key == k {
			return &n.copies[i]
		}
	}
	return nil
}

// reboot is what the agent's start does: everything that is not durable is gone.
func (n *node) reboot() {
	for i := range n.copies {
		n.copies[i] = Copy{Record: n.copies[i].Record}
	}
	n.routes = map[string][]Route{}
}

func (n *node) enter(c *Copy, s State) {
	if c.State != s {
		c.State, c.Since = s, n.now
	}
}

func (n *node) fail(c *Copy, reason, text string) {
	n.enter(c, Failed)
	c.Reason, c.Message, c.Busy = reason, text, None
	n.fails = slices.DeleteFunc(n.fails, func(f Failure) bool { return f.Model == c.Model && f.Digest == c.Digest })
	n.fails = append(n.fails, Failure{Model: c.Model, Digest: c.Digest, Retry: c.Retry, Reason: reason, Message: text})
}

// do performs one action and returns what was broken by it.
func (n *node) do(a Action) error {
	n.log = append(n.log, fmt.Sprintf("%s %s", a.Kind, a.Key))
	c := n.copy(a.Key)
	if c == nil && a.Kind != Create && a.Kind != RouteModel {
		return fmt.Errorf("%s of %s, which the node does not have", a.Kind, a.Key)
	}
	if c != nil && c.Busy != None && a.Kind != Cancel && a.Kind != Fail {
		return fmt.Errorf("%s of %s, which is busy with %s", a.Kind, a.Key, c.Busy)
	}
	switch a.Kind {
	case Create:
		if c != nil {
			return fmt.Errorf("%s is made twice", a.Key)
		}
		n.copies = append(n.copies, Copy{Record: Record{Key: a.Key, State: a.State, Since: n.now, Retry: a.Retry, Reason: a.Reason, Message: a.Text}})
	case Adopt:
		c.Retry = a.Retry
	case Retry:
		c.Retry, c.Reason, c.Message, c.Crashes = a.Retry, "", "", 0
		n.enter(c, Pending)
	case Mark:
		n.enter(c, a.State)
	case Fail:
		n.fail(c, a.Reason, a.Text)
	case Cancel:
		c.Busy = Cancel
	case Download:
		n.enter(c, Downloading)
		fallthrough
	case Verify, Probe, Load:
		if c.State == Failed {
			return fmt.Errorf("%s of %s, which failed", a.Kind, a.Key)
		}
		if slices.ContainsFunc(n.copies, func(o Copy) bool { return o.Busy == a.Kind }) {
			return fmt.Errorf("%s of %s beside another %s", a.Kind, a.Key, a.Kind)
		}
		c.Busy, c.BusySince = a.Kind, n.now
		if a.Kind == Load {
			c.Crashes++
		}
	case Remove:
		if routed(n.routes[a.Key.Model], a.Key) {
			return fmt.Errorf("%s is removed while requests are routed to it", a.Key)
		}
		n.copies = slices.DeleteFunc(n.copies, func(c Copy) bool { return c.Key == a.Key })
	case RouteModel:
		sum := uint32(0)
		for _, r := range a.Routes {
			if c := n.copy(r.Key); c == nil || !c.Loaded {
				return fmt.Errorf("requests are routed to %s, which is not loaded", r.Key)
			}
			sum += r.Millionths
		}
		if len(a.Routes) > 0 && sum != Whole {
			return fmt.Errorf("the shares of %s sum to %d", a.Key.Model, sum)
		}
		for _, r := range n.routes[a.Key.Model] {
			if !routed(a.Routes, r.Key) {
				c := n.copy(r.Key)
				c.Loaded, c.Busy = false, Drain
			}
		}
		n.routes[a.Key.Model] = a.Routes
		if len(a.Routes) == 0 {
			delete(n.routes, a.Key.Model)
		}
	}
	return nil
}

// end ends what a copy is busy with.
func (n *node) end(c *Copy, o Outcome) {
	kind := c.Busy
	if kind == Load && n.deadly[c.Digest] {
		n.crashes++
		n.reboot()
		return
	}
	if kind == Cancel || kind == Drain {
		c.Busy = None
		return
	}
	was := c.State
	*c = Settle(*c, kind, o, n.now, time.Second)
	if c.State == Failed && was != Failed {
		n.fail(c, c.Reason, c.Message)
	}
}

func (n *node) outcome(c *Copy) Outcome {
	if r := n.faulty[c.Digest]; r != Done && c.Busy == Probe {
		return Outcome{Result: r, Reason: "golden-mismatch", Text: "wrong"}
	}
	return Outcome{}
}

// settle runs until nothing happens any more, with every step ending well unless the bundle is at fault.
func (n *node) settle() error {
	for range 400 {
		actions := Plan(n.snapshot(), n.now)
		if again := Plan(n.snapshot(), n.now); !reflect.DeepEqual(actions, again) {
			return fmt.Errorf("the same snapshot gave %v and %v", actions, again)
		}
		if err := n.perform(actions); err != nil {
			return err
		}
		progressed := len(actions) > 0
		for i := range n.copies {
			if n.copies[i].Busy != None {
				progressed = true
				n.end(&n.copies[i], n.outcome(&n.copies[i]))
			}
		}
		if !progressed {
			at := Wake(n.snapshot(), n.now)
			if at.IsZero() {
				return nil
			}
			n.now = at
		}
	}
	return fmt.Errorf("it did not come to rest; the last actions were\n%s", strings.Join(n.log[max(0, len(n.log)-20):], "\n"))
}

func (n *node) perform(actions []Action) error {
	seen := map[Key]bool{}
	for _, a := range actions {
		if a.Kind != RouteModel {
			if seen[a.Key] {
				return fmt.Errorf("two actions for %s in one plan: %v", a.Key, actions)
			}
			seen[a.Key] = true
		}
		if err := n.do(a); err != nil {
			return fmt.Errorf("%w\nplan: %v", err, actions)
		}
	}
	return nil
}

var digests = []string{"sha256:a", "sha256:b", "sha256:c", "sha256:d", "sha256:e"}

func drawDesired(t *rapid.T, retry uint32) *Desired {
	d := &Desired{}
	for _, m := range []string{"fashion", "motor"} {
		picks := rapid.SliceOfNDistinct(rapid.IntRange(0, len(digests)-1), 0, 3, rapid.ID[int]).Draw(t, m)
		left := uint32(Whole)
		for i, v := range picks {
			c := DesiredCopy{Key: Key{Model: m, Version: fmt.Sprint(v), Digest: digests[v]}, Role: syncv1.Role_ROLE_BASELINE, Retry: retry}
			switch {
			case i == 2:
				c.Role = syncv1.Role_ROLE_SHADOW
			case i == 1:
				c.Role = syncv1.Role_ROLE_CANDIDATE
				c.Millionths = rapid.Uint32Range(0, Whole).Draw(t, "share")
				left -= c.Millionths
			}
			d.Copies = append(d.Copies, c)
		}
		for i := range d.Copies {
			if d.Copies[i].Model == m && d.Copies[i].Role == syncv1.Role_ROLE_BASELINE {
				d.Copies[i].Millionths = left
			}
		}
	}
	return d
}

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
							o.Result = rapid.SampledFrom([]Result{Unavailable, NoSpace, NodeFault, Missing, Mismatch, Corrupt, Canceled}).Draw(t, "misfortune")
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
						o.Result = rapid.SampledFrom([]Result{Unavailable, NoSpace, NodeFault, Missing, Mismatch, Corrupt, Canceled}).Draw(t, "misfortune")
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

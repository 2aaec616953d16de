package deploy

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

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

package deploy

import (
	"cmp"
	"maps"
	"slices"
	"time"

	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

// Plan returns what to do next; an empty answer means that nothing can be done before something changes or until the
// time that Wake returns. It never returns two actions for one copy, nor a step of a kind that is under way elsewhere:
// one download, one check, one probe and one load at a time are what a small machine bears while it serves.
func Plan(s Snapshot, now time.Time) []Action {
	if s.Desired == nil {
		return nil
	}
	p := &planner{now: now, routes: s.Routes, failures: s.Failures, copies: map[Key]*Copy{}, wanted: map[Key]bool{}}
	models := map[string][]DesiredCopy{}
	for i := range s.Copies {
		c := &s.Copies[i]
		p.copies[c.Key] = c
		p.busy[c.Busy]++
		models[c.Model] = nil
	}
	for m := range s.Routes {
		models[m] = nil
	}
	for _, d := range s.Desired.Copies {
		models[d.Model] = append(models[d.Model], d)
		p.wanted[d.Key] = true
	}
	for _, m := range slices.Sorted(maps.Keys(models)) {
		p.model(m, models[m])
	}
	p.steps()
	return p.out
}

const crashedText = "the agent died each time that it loaded this copy"

type planner struct {
	now      time.Time
	routes   map[string][]Route
	failures []Failure
	copies   map[Key]*Copy
	wanted   map[Key]bool
	busy     [RouteModel + 1]int
	next     []*Copy // copies whose next step may begin, in the order of preference within a kind
	out      []Action
}

func (p *planner) add(a Action) { p.out = append(p.out, a) }

// model decides about the copies of one model.
func (p *planner) model(name string, desired []DesiredCopy) {
	var wanted []*Copy // of desired, those that have a record
	for _, d := range desired {
		c := p.copies[d.Key]
		if c == nil {
			p.create(d)
			continue
		}
		wanted = append(wanted, c)
		p.advance(c, d)
	}
	var others []*Copy
	for _, c := range p.copies {
		if c.Model == name && !p.wanted[c.Key] {
			others = append(others, c)
		}
	}
	slices.SortFunc(others, func(a, b *Copy) int { return CompareKeys(a.Key, b.Key) })
	standIn := best(append(slices.Clone(others), failedButLoaded(wanted)...))
	if len(desired) == 0 {
		standIn = nil
	}
	target, load := p.target(desired, standIn)
	if load {
		p.next = append(p.next, standIn)
	}
	if !slices.Equal(target, p.routes[name]) {
		p.add(Action{Kind: RouteModel, Key: Key{Model: name}, Routes: target})
	}
	for _, c := range others {
		p.retire(c, target, c == standIn, p.proven(desired), load && c == standIn)
	}
	for _, c := range wanted {
		if c.Busy == None && !p.acted(c.Key) && c.Loaded && !c.Reload && (c.State == Ready || c.State == Draining) && routed(p.routes[name], c.Key) {
			p.add(Action{Kind: Mark, Key: c.Key, State: Serving})
		}
	}
}

// create makes the record of a copy that is new to the node. One whose digest failed before starts as failed.
func (p *planner) create(d DesiredCopy) {
	a := Action{Kind: Create, Key: d.Key, State: Pending, Retry: d.Retry}
	for _, f := range p.failures {
		if f.Model == d.Model && f.Digest == d.Digest && d.Retry <= f.Retry {
			a.State, a.Retry, a.Reason, a.Text = Failed, f.Retry, f.Reason, f.Message
		}
	}
	p.add(a)
}

// advance decides about a copy that is wanted.
func (p *planner) advance(c *Copy, d DesiredCopy) {
	switch {
	case c.Busy != None:
		if limit, ok := limits[c.Busy]; ok && p.now.Sub(c.BusySince) >= limit {
			p.add(Action{Kind: Fail, Key: c.Key, Reason: ReasonTimeLimit, Text: "the step " + c.Busy.String() + " did not end within " + limit.String()})
		}
	case c.State == Failed:
		if d.Retry > c.Retry {
			p.add(Action{Kind: Retry, Key: c.Key, Retry: d.Retry})
		}
	case d.Retry > c.Retry:
		p.add(Action{Kind: Adopt, Key: c.Key, Retry: d.Retry})
	case c.State == Draining && !c.Loaded:
		p.add(Action{Kind: Mark, Key: c.Key, State: Ready})
	case c.Crashes >= MaxCrashes && !c.Loaded:
		p.add(Action{Kind: Fail, Key: c.Key, Reason: ReasonCrashedProcess, Text: crashedText})
	case p.now.Before(c.NotBefore):
	case step(c) != None:
		p.next = append(p.next, c)
	}
}

// step returns what an idle copy that is wanted needs next.
func step(c *Copy) Kind {
	switch c.State {
	case Pending, Downloading:
		return Download
	case Verifying:
		return Verify
	case Probing:
		return Probe
	case Ready, Serving, Draining:
		if !c.Loaded || c.Reload {
			return Load
		}
	}
	return None
}

// target returns the routes that the model should have now, and whether the stand-in has to be loaded for them. A
// share whose copy is not loaded goes to the wanted baseline; when that is not loaded, to the stand-in, which is the
// copy that served before; when there is none, to the wanted copy with the largest share; and at last to a shadow.
func (p *planner) target(desired []DesiredCopy, standIn *Copy) (routes []Route, load bool) {
	missing, coming := uint32(0), false
	baseline, largest := -1, -1
	for _, d := range desired {
		c := p.copies[d.Key]
		primary := d.Role != syncv1.Role_ROLE_SHADOW
		if c == nil || !c.Loaded || c.State == Failed {
			missing += d.Millionths
			coming = coming || c != nil && primary && p.aboutToLoad(c)
			continue
		}
		routes = append(routes, Route{Key: d.Key, Role: d.Role, Millionths: d.Millionths})
		i := len(routes) - 1
		if d.Role == syncv1.Role_ROLE_BASELINE && baseline < 0 {
			baseline = i
		}
		if primary && (largest < 0 || d.Millionths > routes[largest].Millionths) {
			largest = i
		}
	}
	switch {
	case missing == 0 && largest >= 0:
	case baseline >= 0:
		routes[baseline].Millionths += missing
	case standIn != nil && standIn.Loaded:
		routes = append(routes, Route{Key: standIn.Key, Role: syncv1.Role_ROLE_BASELINE, Millionths: missing})
	case largest >= 0:
		routes[largest].Millionths += missing
	case len(routes) > 0: // a shadow, probed and loaded, beats none at all
		routes[0].Role, routes[0].Millionths = syncv1.Role_ROLE_BASELINE, missing
	default:
		load = standIn != nil && !coming && standIn.Busy == None && !p.now.Before(standIn.NotBefore)
	}
	return routes, load
}

// aboutToLoad reports whether a wanted copy will be in memory shortly, so that loading its predecessor from disk would
// be for nothing. A copy during whose last load the process died is not counted on.
func (p *planner) aboutToLoad(c *Copy) bool {
	return c.Busy == Load && c.Crashes <= 1 && c.Attempts == 0 || c.Busy == None && step(c) == Load && c.Crashes == 0 && !p.now.Before(c.NotBefore)
}

// proven reports whether a wanted copy has served for Soak, so that its predecessors may leave the disk.
func (p *planner) proven(desired []DesiredCopy) bool {
	for _, d := range desired {
		c := p.copies[d.Key]
		if d.Role != syncv1.Role_ROLE_SHADOW && c != nil && c.State == Serving && c.Loaded && p.now.Sub(c.Since).Abs() >= Soak {
			return true
		}
	}
	return len(desired) == 0
}

// retire decides about a copy that is not wanted. A stand-in stays on disk until its successor is proven.
func (p *planner) retire(c *Copy, target []Route, standIn, proven, loading bool) {
	inTarget, inTable := routed(target, c.Key), routed(p.routes[c.Model], c.Key)
	switch {
	case c.Busy == Cancel, c.Busy == Remove, c.Busy == Drain, c.Busy == Load && standIn:
	case c.Busy != None:
		p.add(Action{Kind: Cancel, Key: c.Key})
	case loading && c.Crashes >= MaxCrashes:
		p.drop(c)
		p.add(Action{Kind: Fail, Key: c.Key, Reason: ReasonCrashedProcess, Text: crashedText})
	case inTarget && inTable && (c.State == Draining || c.State == Ready):
		p.add(Action{Kind: Mark, Key: c.Key, State: Serving})
	case inTarget, inTable, loading:
	case c.State == Serving && (len(target) > 0 || !standIn):
		p.add(Action{Kind: Mark, Key: c.Key, State: Draining})
	case (!standIn || proven) && !p.now.Before(c.NotBefore):
		p.add(Action{Kind: Remove, Key: c.Key})
	}
}

// drop takes a copy out of those that may begin a step.
func (p *planner) drop(c *Copy) {
	p.next = slices.DeleteFunc(p.next, func(n *Copy) bool { return n == c })
}

// steps begins at most one step of each kind. What served before is loaded before anything else is begun, and a copy
// during whose last load the process died is loaded when no other load is left to do.
func (p *planner) steps() {
	slices.SortStableFunc(p.next, func(a, b *Copy) int {
		return cmp.Or(cmp.Compare(a.Crashes, b.Crashes), cmp.Compare(order(a.State), order(b.State)))
	})
	restoring := p.busy[Load] > 0
	for _, c := range p.next {
		restoring = restoring || step(c) == Load && !c.Loaded && c.State == Serving
	}
	for _, c := range p.next {
		kind := step(c)
		if p.busy[kind] > 0 || restoring && kind != Load {
			continue
		}
		p.busy[kind]++
		p.add(Action{Kind: kind, Key: c.Key})
	}
}

// order puts what served before first among the loads.
func order(s State) int {
	switch s {
	case Serving:
		return 0
	case Draining:
		return 2
	}
	return 1
}

func (p *planner) acted(k Key) bool {
	return slices.ContainsFunc(p.out, func(a Action) bool { return a.Key == k && a.Kind != RouteModel })
}

// best returns the copy that may stand in for one that is wanted and not there yet: one that is loaded, else the one
// that served last.
func best(candidates []*Copy) *Copy {
	var b *Copy
	for _, c := range candidates {
		onDisk := c.State == Serving || c.State == Draining || c.State == Ready
		if !c.Loaded && !onDisk || c.Busy == Drain || c.Busy == Remove || c.Busy == Cancel {
			continue
		}
		if b == nil || rank(c) > rank(b) || rank(c) == rank(b) && c.Since.After(b.Since) {
			b = c
		}
	}
	return b
}

func rank(c *Copy) int {
	r := 0
	if c.Loaded {
		r += 10
	}
	switch c.State {
	case Serving:
		r += 3
	case Draining:
		r += 2
	case Ready:
		r++
	}
	return r
}

// failedButLoaded returns wanted copies that failed anew while a session of them still answers.
func failedButLoaded(wanted []*Copy) []*Copy {
	var out []*Copy
	for _, c := range wanted {
		if c.State == Failed && c.Loaded {
			out = append(out, c)
		}
	}
	return out
}

func routed(routes []Route, k Key) bool {
	return slices.ContainsFunc(routes, func(r Route) bool { return r.Key == k })
}

// CompareKeys orders keys by model, version and digest.
func CompareKeys(a, b Key) int {
	return cmp.Or(cmp.Compare(a.Model, b.Model), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Digest, b.Digest))
}

// Wake returns when Plan should be asked again though nothing changed, or the zero time.
func Wake(s Snapshot, now time.Time) time.Time {
	var at time.Time
	consider := func(t time.Time) {
		if t.After(now) && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	for i := range s.Copies {
		c := &s.Copies[i]
		if limit, ok := limits[c.Busy]; ok {
			consider(c.BusySince.Add(limit))
		}
		if c.Busy == None {
			consider(c.NotBefore)
		}
		if c.State == Serving {
			consider(c.Since.Add(Soak))
		}
	}
	return at
}

package rollout

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dhowfleet/dhow/fleet/resource"
)

// between parts the cause of a failure from what is done about it, so that the cause is kept when nodes no longer
// report it.
const between = " | "

// afterFailure is what an operator can do about a rollout that failed.
const afterFailure = "; publish another version, or raise retry"

// sentence says how a rollout stands and why. It comes after everything is counted.
func (p *plan) sentence() string {
	cause := p.cause()
	switch p.phase {
	case Superseded:
		return p.supersededSentence()
	case RollingBack:
		return cause + between + p.goingBack()
	case RolledBack:
		return cause + between + p.wentBack() + afterFailure
	case Held:
		return cause + between + fmt.Sprintf("held: %s, %d failed; nothing changes until the rollout is changed or deleted", p.serving(), p.count.failed) + p.takesAll() + p.others()
	}
	c, what := &p.count, p.what()
	if c.nodes == 0 {
		switch {
		case p.complete && p.overtaken() > 0:
			return fmt.Sprintf("was complete with %s", what) + p.others()
		case p.complete:
			return fmt.Sprintf("was complete with %s; no node is selected now", what)
		case p.overtaken() > 0:
			return "no node has to take " + what + " yet" + p.others()
		}
		return fmt.Sprintf("no active node is selected yet; the first to join gets %s", what)
	}
	text := p.serving()
	if p.complete && c.serving < c.nodes {
		text = "was complete; now " + text
	}
	if w := c.waiting(); w > 0 {
		text += fmt.Sprintf(", %d on the way%s", w, offline(c.offline))
	}
	if c.failed > 0 {
		text += fmt.Sprintf(", %d failed (%s)", c.failed, cause)
	}
	return text + p.takesAll() + p.others()
}

// cause says what failed first. Once a rollout failed, its cause stays, whatever nodes report later.
func (p *plan) cause() string {
	switch p.was.GetPhase() {
	case RollingBack, RolledBack, Held:
		if cause, _, _ := strings.Cut(p.was.GetMessage(), between); cause != "" {
			return cause
		}
	}
	if p.count.failed == 0 {
		return ""
	}
	return fmt.Sprintf("node %s failed: %s", p.count.causeNode, p.count.cause)
}

func (p *plan) supersededSentence() string {
	by := "a newer rollout"
	if p.newer != nil {
		by = fmt.Sprintf("rollout %s (version %s)", p.newer.name, p.newer.spec.GetVersion())
	}
	if p.complete {
		return "was complete; superseded by " + by + p.takesAll() + p.takesRest()
	}
	text := fmt.Sprintf("superseded by %s before it was complete; apply a change, such as a higher retry, to begin again", by)
	if n := p.told.kept; n > 0 {
		text += fmt.Sprintf("; %s with it, since nothing newer succeeded there", verb(n, "node goes on", "nodes go on"))
	}
	return text
}

// goingBack says where nodes are on their way to.
func (p *plan) goingBack() string {
	c := &p.count
	back := of(c.back, c.nodes)
	if len(p.told.goBack) == 0 {
		return fmt.Sprintf("no version of %s was complete before, so version %s is taken away and requests for %s are refused: %s done%s",
			p.spec.GetModel(), p.spec.GetVersion(), p.spec.GetModel(), back, offline(c.awayOffline))
	}
	return fmt.Sprintf("going back to %s: %s back%s%s", p.versionsBefore(), back, offline(c.awayOffline), p.nothingBefore())
}

// wentBack says where nodes are.
func (p *plan) wentBack() string {
	c := &p.count
	if c.nodes == 0 {
		return "no node is selected now"
	}
	back := of(c.back, c.nodes) + offline(c.awayOffline)
	if len(p.told.goBack) == 0 {
		return fmt.Sprintf("no version of %s was complete before, so requests for %s are refused: %s", p.spec.GetModel(), p.spec.GetModel(), back)
	}
	return fmt.Sprintf("back at %s: %s%s", p.versionsBefore(), back, p.nothingBefore())
}

// versionsBefore names the versions that nodes are left with, the most frequent first.
func (p *plan) versionsBefore() string {
	versions := slices.SortedFunc(maps.Keys(p.told.goBack), func(a, b string) int {
		return cmp.Or(cmp.Compare(p.told.goBack[b], p.told.goBack[a]), cmp.Compare(a, b))
	})
	if len(versions) == 1 {
		return p.spec.GetModel() + " version " + versions[0]
	}
	var parts []string
	for _, v := range versions {
		parts = append(parts, fmt.Sprintf("%s version %s at %s", p.spec.GetModel(), v, verb(p.told.goBack[v], "node", "nodes")))
	}
	return some(parts)
}

// nothingBefore tells of nodes that have nothing to go back to, beside others that have.
func (p *plan) nothingBefore() string {
	n := p.told.bare
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("; %s requests for %s", verb(n, "node has nothing to go back to and refuses", "nodes have nothing to go back to and refuse"), p.spec.GetModel())
}

func (p *plan) what() string {
	return fmt.Sprintf("%s version %s", p.spec.GetModel(), p.spec.GetVersion())
}

// serving says how many serve, and to which share of requests if it is kept anywhere.
func (p *plan) serving() string {
	c := &p.count
	text := of(c.serving, c.nodes) + " serve "
	if c.serving == 1 {
		text = of(c.serving, c.nodes) + " serves "
	}
	text += p.what()
	if p.millionths < resource.All && p.told.all < c.nodes {
		text += fmt.Sprintf(" to %s of requests", p.share())
	}
	return text
}

func (p *plan) share() string { return p.spec.GetStages()[0].GetTraffic() }

// takesAll tells of nodes where the share is not kept.
func (p *plan) takesAll() string {
	const why = "since nothing else serves there"
	switch n := p.told.all; {
	case n == 0:
		return ""
	case n >= p.count.nodes:
		return fmt.Sprintf("; it takes all requests instead of %s, %s", p.share(), why)
	default:
		return fmt.Sprintf("; at %s it takes all, %s", verb(n, "node", "nodes"), why)
	}
}

// takesRest tells of nodes that newer rollouts govern and that need this one nevertheless: who would delete it should
// know.
func (p *plan) takesRest() string {
	if p.told.rest == 0 {
		return ""
	}
	return fmt.Sprintf("; it still takes the rest of requests at %s", verb(p.told.rest, "node", "nodes"))
}

// others tells of selected nodes that follow newer rollouts.
func (p *plan) others() string {
	n := p.overtaken()
	if n == 0 {
		return p.takesRest()
	}
	names := slices.Sorted(slices.Values(p.told.following))
	whom := "newer rollouts (" + some(names) + ")"
	if len(names) == 1 {
		whom = "rollout " + names[0]
	}
	who := verb(n, "more node follows", "more nodes follow")
	if p.count.nodes == 0 {
		if who = "the only node that it selects follows"; n > 1 {
			who = fmt.Sprintf("the %d nodes that it selects follow", n)
		}
	}
	return fmt.Sprintf("; %s %s", who, whom) + p.takesRest()
}

// some lists a few and says how many more there are: a sentence must not grow with the fleet.
func some(parts []string) string {
	const shown = 3
	if len(parts) > shown {
		return strings.Join(parts[:shown], ", ") + fmt.Sprintf(" and %d more", len(parts)-shown)
	}
	return strings.Join(parts, ", ")
}

// verb counts, with what follows in the right number.
func verb(n uint32, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func of(n, all uint32) string {
	if all == 1 {
		return fmt.Sprintf("%d of 1 node", n)
	}
	if n == all {
		return fmt.Sprintf("all %d nodes", n)
	}
	return fmt.Sprintf("%d of %d nodes", n, all)
}

func offline(n uint32) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" (%d offline)", n)
}

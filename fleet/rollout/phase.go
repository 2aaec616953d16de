package rollout

import (
	"fmt"
	"strings"
	"unicode"

	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"

	"github.com/dhowfleet/dhow/fleet/resource"
)

// tally counts a rollout's nodes by what they report of its copy.
type tally struct {
	nodes, serving, failed, offline uint32
	back                            uint32 // hold it no more
	awayOffline                     uint32 // not back, and offline
	cause                           string // of the first failure by the node's name
	causeNode                       string
}

func (t *tally) waiting() uint32 { return t.nodes - t.serving - t.failed }

// reported returns what a node says of a copy, or nil.
func reported(n *Node, model, version, digest string) *syncv1.CopyStatus {
	for _, c := range n.Report.GetCopies() {
		if c.GetModel() == model && c.GetVersion() == version && c.GetManifestDigest() == digest {
			return c
		}
	}
	return nil
}

func (p *plan) tally(d *decision) {
	t := tally{nodes: uint32(len(p.nodes))}
	for _, n := range p.nodes {
		c := reported(n, p.spec.GetModel(), p.spec.GetVersion(), p.digest)
		state := c.GetState()
		switch {
		case state == syncv1.CopyState_COPY_STATE_SERVING:
			t.serving++
		case state == syncv1.CopyState_COPY_STATE_FAILED && c.GetRetry() >= p.spec.GetRetry():
			t.failed++
			if t.causeNode == "" || n.Name < t.causeNode {
				t.causeNode, t.cause = n.Name, causeOf(c)
			}
		case !n.Connected:
			t.offline++
		}
		switch {
		case d.isBack(p, n, state):
			t.back++
		case !n.Connected:
			t.awayOffline++
		}
	}
	p.count = t
}

// isBack tells whether a node has taken in that it should not hold the rollout's copy, and holds it no more.
func (d *decision) isBack(p *plan, n *Node, state syncv1.CopyState) bool {
	if base, ok := d.base(p, n); ok && base.Digest == p.digest {
		return true // the same content was complete before and stays
	}
	for _, c := range n.Told {
		if c.GetModel() == p.spec.GetModel() && c.GetManifestDigest() == p.digest {
			return false
		}
	}
	gone := state == syncv1.CopyState_COPY_STATE_UNSPECIFIED || state == syncv1.CopyState_COPY_STATE_FAILED
	return gone && n.Report.GetGeneration() >= n.Generation
}

func causeOf(c *syncv1.CopyStatus) string {
	text := c.GetReason()
	if text == "" {
		text = "no reason was given"
	}
	if m := clean(c.GetMessage()); m != "" {
		text += " (" + m + ")"
	}
	return text
}

// clean makes one short line of what a node sent.
func clean(s string) string {
	const longest = 300
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	if r := []rune(s); len(r) > longest {
		s = string(r[:longest]) + "..."
	}
	return strings.TrimRight(strings.TrimSpace(s), ".")
}

// decidePhase moves a rollout on. When it became complete now, its release is returned.
func (d *decision) decidePhase(p *plan) (Release, bool) {
	if p.phase == Pending {
		return Release{}, false
	}
	p.tally(d)
	newer := d.overtakenBy(p)
	switch {
	case p.complete:
		// Complete stays so: a node that joins or fails later does not undo what all nodes served.
		p.phase = Complete
		if newer != nil && (newer.phase == Progressing || newer.phase == Complete || newer.phase == Held) {
			p.phase = Superseded // until then it is what nodes go back to
		}
	case p.phase == Superseded:
	case newer != nil:
		p.phase = Superseded
	case p.phase == RollingBack || p.phase == RolledBack:
		p.phase = RollingBack
		if p.count.back+p.count.awayOffline == p.count.nodes {
			p.phase = RolledBack
		}
	case p.phase == Held:
	case p.count.failed > 0 && p.spec.GetOnFailure() == Hold:
		p.phase = Held
	case p.count.failed > 0:
		p.phase = RollingBack
	case p.count.nodes > 0 && p.count.serving == p.count.nodes:
		p.phase, p.complete = Complete, true
		p.message = d.sentence(p, newer)
		release := Release{Rollout: p.name, Sequence: p.sequence, Model: p.spec.GetModel(), Version: p.spec.GetVersion(), Digest: p.digest,
			Region: p.region, Site: p.site, Millionths: p.millionths, Retry: p.spec.GetRetry(), CompletedAt: d.Now}
		return release, true
	default:
		p.phase = Progressing
	}
	p.message = d.sentence(p, newer)
	return Release{}, false
}

// overtakenBy returns the newest rollout that governs all nodes which p selects, or nil. Rollouts of a model are
// decided newest first, so its phase is decided.
func (d *decision) overtakenBy(p *plan) *plan {
	for _, other := range d.byModel[p.spec.GetModel()] {
		if other == p {
			return nil
		}
		if other.phase != Pending && d.covers(other, p) {
			return other
		}
	}
	return nil
}

// between parts the cause of a failure from what is done about it, so that the cause is kept when nodes no longer
// report it.
const between = " | "

func (d *decision) sentence(p *plan, newer *plan) string {
	c := &p.count
	what := fmt.Sprintf("%s version %s", p.spec.GetModel(), p.spec.GetVersion())
	cause, _, _ := strings.Cut(p.was.GetMessage(), between)
	switch p.was.GetPhase() {
	case RollingBack, RolledBack, Held:
	default:
		cause = ""
	}
	if cause == "" && c.failed > 0 {
		cause = fmt.Sprintf("node %s failed: %s", c.causeNode, c.cause)
	}
	switch p.phase {
	case Superseded:
		by := "a newer rollout"
		if newer != nil {
			by = fmt.Sprintf("rollout %s (version %s)", newer.name, newer.spec.GetVersion())
		}
		if p.complete {
			return fmt.Sprintf("was complete; superseded by %s", by)
		}
		return fmt.Sprintf("superseded by %s before it was complete; apply a change, such as a higher retry, to begin again", by)
	case RollingBack:
		return cause + between + fmt.Sprintf("going back to what was complete before: %s back%s", of(c.back, c.nodes), offline(c.awayOffline))
	case RolledBack:
		return cause + between + fmt.Sprintf("back at what was complete before: %s%s; publish another version, or raise retry", of(c.back, c.nodes), offline(c.awayOffline))
	case Held:
		return cause + between + fmt.Sprintf("held: %s %s, %d failed; nothing changes until the rollout is changed or deleted", of(c.serving, c.nodes), serves(c.serving, what), c.failed)
	}
	if c.nodes == 0 {
		if p.complete {
			return fmt.Sprintf("was complete with %s; no node is selected now", what)
		}
		return fmt.Sprintf("no active node is selected yet; the first to join gets %s", what)
	}
	if c.serving == c.nodes {
		return fmt.Sprintf("%s %s%s", of(c.serving, c.nodes), serves(c.serving, what), share(p))
	}
	text := fmt.Sprintf("%s %s%s", of(c.serving, c.nodes), serves(c.serving, what), share(p))
	if w := c.waiting(); w > 0 {
		text += fmt.Sprintf(", %d on the way%s", w, offline(c.offline))
	}
	if c.failed > 0 {
		text += fmt.Sprintf(", %d failed (%s)", c.failed, cause)
	}
	return text
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

func serves(n uint32, what string) string {
	if n == 1 {
		return "serves " + what
	}
	return "serve " + what
}

func share(p *plan) string {
	if p.millionths == resource.All {
		return ""
	}
	return fmt.Sprintf(" to %s of requests", p.spec.GetStages()[0].GetTraffic())
}

func offline(n uint32) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" (%d offline)", n)
}

func (d *decision) status(p *plan) *fleetv1.RolloutStatus {
	s := &fleetv1.RolloutStatus{Phase: p.phase, Message: p.message, Nodes: p.count.nodes, Serving: p.count.serving, Failed: p.count.failed,
		Waiting: p.count.waiting(), ManifestDigest: p.digest, ObservedGeneration: p.generation, Sequence: p.sequence}
	if p.complete {
		s.Stage = 1
	}
	switch p.phase {
	case Pending:
		s.ManifestDigest = ""
	case RollingBack, RolledBack:
		// What failed is told of, not what was waiting: nobody waits for a rollout that failed.
		s.Failed, s.Waiting = max(s.Failed, p.was.GetFailed()), 0
	}
	return s
}

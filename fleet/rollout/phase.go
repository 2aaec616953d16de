package rollout

import (
	"strings"
	"unicode"

	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
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
	p.newer = newer
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
		release := Release{Rollout: p.name, Sequence: p.sequence, Model: p.spec.GetModel(), Version: p.spec.GetVersion(), Digest: p.digest,
			Region: p.region, Site: p.site, Millionths: p.millionths, Retry: p.spec.GetRetry(), CompletedAt: d.Now}
		return release, true
	default:
		p.phase = Progressing
	}
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

func (d *decision) status(p *plan) *fleetv1.RolloutStatus {
	if p.phase != Pending {
		p.message = p.sentence()
	}
	s := &fleetv1.RolloutStatus{Phase: p.phase, Message: p.message, Nodes: p.count.nodes, Serving: p.count.serving, Failed: p.count.failed,
		Waiting: p.count.waiting(), ManifestDigest: p.digest, ObservedGeneration: p.generation, Sequence: p.sequence,
		TakingAll: p.told.all, Overtaken: p.overtaken()}
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

package deploy

import "time"

// Result is how a step ended.
type Result uint8

// The results. All but Done and Refused leave the copy waiting, and some of them not for ever.
const (
	Done        Result = iota
	Unavailable        // offline, or asked to come later: not the artifact's fault, tried for ever
	NoSpace            // the disk is full: tried for ever
	NoMemory           // others take the memory that it needs: tried for ever
	Missing            // the registry answers that it does not have it
	Mismatch           // what came is not what the digest names
	Corrupt            // a file on disk is no longer what its digest names: fetched again
	NodeFault          // the node could not do its part: tried for ever
	Refused            // the copy is at fault: it fails, with the outcome's reason
	Canceled           // the node gave the step up, because it stops or the copy is no longer wanted
)

// Outcome is what a step came to.
type Outcome struct {
	Result     Result
	Reason     string        // of Refused
	Text       string        // a sentence made of codes and numbers, never text of a request or of a guest
	RetryAfter time.Duration // what the manager asked for
}

// tries bounds how often in a row a step may end so before the copy fails; what is not listed is tried for ever.
var tries = map[Result]int{Missing: 6, Mismatch: 3, Corrupt: 3}

var waits = map[Result]string{
	Unavailable: WaitOffline, NoSpace: WaitSpace, NoMemory: WaitMemory, Missing: WaitMissing, Mismatch: WaitMismatch, Corrupt: WaitCorrupt, NodeFault: WaitNodeFault,
}

var exhausted = map[Result]string{
	Missing: ReasonArtifactMissing, Mismatch: ReasonDigestMismatch, Corrupt: ReasonDigestMismatch,
}

// Settle returns the copy as it is after a step ended at now. pause is the jittered pause before the next try.
func Settle(c Copy, kind Kind, o Outcome, now time.Time, pause time.Duration) Copy {
	c.Busy, c.BusySince = None, time.Time{}
	if kind == Load {
		c.Crashes = 0 // it ended, and the process lives
	}
	enter := func(s State) {
		if c.State != s {
			c.State, c.Since, c.Attempts, c.NotBefore = s, now, 0, time.Time{}
		}
	}
	fail := func(reason string) {
		enter(Failed)
		c.Reason, c.Message = reason, o.Text
	}
	switch o.Result {
	case Canceled:
		return c
	case Done:
		c.Reason, c.Message, c.Attempts, c.NotBefore = "", "", 0, time.Time{}
		switch kind {
		case Download:
			enter(Verifying)
		case Verify:
			enter(Probing)
		case Probe:
			enter(Ready)
		case Load:
			c.Loaded, c.Reload, c.Rounds = true, false, 0
		}
		return c
	case Refused:
		fail(o.Reason)
		return c
	}
	c.Attempts++
	count := c.Attempts
	if o.Result == Corrupt {
		c.Rounds++ // over rounds of fetching and checking, each of which begins its attempts anew
		count = c.Rounds
	}
	if limit, ok := tries[o.Result]; ok && count >= limit {
		fail(exhausted[o.Result])
		return c
	}
	if o.Result == Corrupt {
		enter(Pending)
	}
	c.Reason, c.Message = waits[o.Result], o.Text
	c.NotBefore = now.Add(max(pause, o.RetryAfter))
	return c
}

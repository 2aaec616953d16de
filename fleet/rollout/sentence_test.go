package rollout

import (
	"strings"
	"testing"
)

// TestCanaryWithNothingBesideItTakesAll: a share needs a version that takes the rest. Where there is none the node is
// told to send all requests to the canary, and the status says so.
func TestCanaryWithNothingBesideItTakesAll(t *testing.T) {
	f := newFleet("deira/1", "rotterdam/1")
	f.apply("v2", spec("2", taking("10%")))
	f.decide()
	f.wantTold(t, "deira/1", "2 candidate 1000000")
	f.want(t, "v2", Progressing, "0 of 2 nodes serve m version 2, 2 on the way; it takes all requests instead of 10%, since nothing else serves there")
	f.settle()
	f.wantTold(t, "deira/1", "2 baseline 1000000")
	f.want(t, "v2", Complete, "all 2 nodes serve m version 2; it takes all requests instead of 10%")
	if n := f.status(t, "v2").GetTakingAll(); n != 2 {
		t.Errorf("it takes all at %d nodes", n)
	}

	// With something before it at one node, both are said.
	f.apply("dubai", spec("1", in("dubai", "")))
	f.settle()
	f.apply("v3", spec("3", taking("30%")))
	f.delete("v2")
	f.settle()
	f.wantTold(t, "deira/1", "1 baseline 700000", "3 candidate 300000")
	f.wantTold(t, "rotterdam/1", "3 baseline 1000000")
	f.want(t, "v3", Complete, "all 2 nodes serve m version 3 to 30% of requests; at 1 node it takes all, since nothing else serves there")
	if n := f.status(t, "v3").GetTakingAll(); n != 1 {
		t.Errorf("it takes all at %d nodes", n)
	}

	// When what took the rest is taken away, the status says it at once.
	f.want(t, "dubai", Superseded, "was complete; superseded by rollout v3 (version 3); it still takes the rest of requests at 1 node")
	f.delete("dubai")
	f.decide()
	f.wantTold(t, "deira/1", "3 baseline 1000000")
	f.want(t, "v3", Complete, "it takes all requests instead of 30%")
}

// TestShareThatIsFallenBackToTakesAll: so it is told, and so it says.
func TestShareThatIsFallenBackToTakesAll(t *testing.T) {
	f := newFleet("deira/1")
	f.apply("v2", spec("2", taking("10%")))
	f.settle()
	f.bad["sha256:3"] = true
	f.apply("v3", spec("3"))
	f.settle()
	f.wantTold(t, "deira/1", "2 baseline 1000000")
	f.want(t, "v3", RolledBack, "back at m version 2: 1 of 1 node")
	f.want(t, "v2", Complete, "1 of 1 node serves m version 2; it takes all requests instead of 10%")
}

// TestHeldShareSaysWhatItTakes: an operator who holds a canary reads what it takes meanwhile.
func TestHeldShareSaysWhatItTakes(t *testing.T) {
	f := newFleet("deira/1", "deira/2")
	f.apply("v1", spec("1"))
	f.settle()
	f.bad["sha256:2@deira/2"] = true
	f.apply("v2", spec("2", taking("20%"), holding))
	f.settle()
	f.want(t, "v2", Held, "held: 1 of 2 nodes serves m version 2 to 20% of requests, 1 failed; nothing changes")
	f.want(t, "v1", Superseded, "it still takes the rest of requests at 2 nodes")
}

// TestRollbackNamesWhatItGoesBackTo: the release that took all requests, though one that took a share came after it.
func TestRollbackNamesWhatItGoesBackTo(t *testing.T) {
	f := newFleet("deira/1", "rotterdam/1")
	f.apply("v1", spec("1"))
	f.settle()
	f.apply("v2", spec("2", taking("10%")))
	f.settle()
	f.bad["sha256:3"] = true
	f.apply("v3", spec("3", in("dubai", "")))
	f.decide()
	f.actAll()
	f.decide()
	f.want(t, "v3", RollingBack, "going back to m version 1: 0 of 1 node back")
	f.settle()
	f.want(t, "v3", RolledBack, "back at m version 1: 1 of 1 node; publish another version, or raise retry")
	f.wantTold(t, "deira/1", "1 baseline 1000000")
}

// TestRollbackNamesEachVersionAndWhoHasNone: nodes of one rollout can go back to different things.
func TestRollbackNamesEachVersionAndWhoHasNone(t *testing.T) {
	f := newFleet("deira/1", "deira/2", "marina/1", "rotterdam/1")
	f.apply("deira", spec("1", in("", "deira")))
	f.apply("marina", spec("2", in("", "marina")))
	f.settle()
	f.bad["sha256:3@deira/1"] = true
	f.apply("v3", spec("3"))
	f.settle()
	f.want(t, "v3", RolledBack, "back at m version 1 at 2 nodes, m version 2 at 1 node: all 4 nodes; 1 node has nothing to go back to and refuses requests for m;")
	f.wantTold(t, "rotterdam/1")
}

func TestRollbackToNothingSaysWhatHappens(t *testing.T) {
	f := newFleet("deira/1", "deira/2")
	f.bad["sha256:1@deira/1"] = true
	f.apply("v1", spec("1"))
	f.decide()
	f.actAll()
	f.decide()
	f.want(t, "v1", RollingBack, "node deira/1 failed: golden-mismatch", "no version of m was complete before, so version 1 is taken away and requests for m are refused: 0 of 2 nodes done")
	f.settle()
	f.want(t, "v1", RolledBack, "no version of m was complete before, so requests for m are refused: all 2 nodes; publish another version, or raise retry")
	f.Nodes = nil
	f.decide()
	f.want(t, "v1", RolledBack, "no node is selected now; publish another version, or raise retry")
}

// TestLateJoinersAreSeen: complete stays complete, and the sentence tells who is not there yet.
func TestLateJoinersAreSeen(t *testing.T) {
	f := newFleet("deira/1")
	f.apply("v1", spec("1"))
	f.settle()
	f.join("deira/2")
	f.join("deira/3").Connected = false
	f.decide()
	f.want(t, "v1", Complete, "was complete; now 1 of 3 nodes serves m version 1, 2 on the way (1 offline)")
	f.bad["sha256:1@deira/2"] = true
	f.actAll()
	f.decide()
	f.want(t, "v1", Complete, "was complete; now 1 of 3 nodes serves m version 1, 1 on the way (1 offline), 1 failed (node deira/2 failed: golden-mismatch")
	s := f.status(t, "v1")
	if s.GetNodes() != 3 || s.GetServing() != 1 || s.GetWaiting() != 1 || s.GetFailed() != 1 {
		t.Errorf("the status is %v", s)
	}
}

// TestNodesOfANewerRolloutAreCountedApart: they are selected, and follow another.
func TestNodesOfANewerRolloutAreCountedApart(t *testing.T) {
	f := newFleet("deira/1", "deira/2", "marina/1", "rotterdam/1")
	f.apply("v1", spec("1"))
	f.settle()
	f.apply("deira", spec("2", in("", "deira")))
	f.settle()
	f.want(t, "v1", Complete, "all 2 nodes serve m version 1; 2 more nodes follow rollout deira")
	if s := f.status(t, "v1"); s.GetNodes() != 2 || s.GetOvertaken() != 2 {
		t.Errorf("the status is %v", s)
	}
	f.apply("marina", spec("3", in("", "marina"), taking("5%")))
	f.settle()
	f.want(t, "v1", Complete, "1 of 1 node serves m version 1; 3 more nodes follow newer rollouts (deira, marina); it still takes the rest of requests at 1 node")
	f.apply("rotterdam", spec("3", in("west", "")))
	f.settle()
	f.want(t, "v1", Complete, "was complete with m version 1; the 4 nodes that it selects follow newer rollouts (deira, marina, rotterdam)")

	// One that failed hands its nodes back.
	f.delete("rotterdam")
	f.settle()
	f.want(t, "v1", Complete, "1 of 1 node serves m version 1; 3 more")
	f.bad["sha256:3"] = true
	f.apply("rotterdam", spec("3", in("west", "")))
	f.settle()
	f.want(t, "rotterdam", RolledBack, "back at m version 1: 1 of 1 node")
	if s := f.status(t, "v1"); s.GetNodes() != 1 || s.GetOvertaken() != 3 {
		t.Errorf("the status is %v", s)
	}
}

// TestKeptCopyIsTold: an operator who would delete the superseded rollout reads that a node still lives on it.
func TestKeptCopyIsTold(t *testing.T) {
	f := newFleet("deira/1")
	f.apply("v1", spec("1"))
	f.decide()
	f.actAll()
	f.join("deira/2")
	f.bad["sha256:2@deira/2"] = true
	f.apply("v2", spec("2"))
	f.decide()
	reports := f.node("deira/1").Report
	f.actAll()
	f.node("deira/1").Report.Copies = append(f.node("deira/1").Report.Copies, reports.GetCopies()...)
	f.decide()
	f.wantTold(t, "deira/1", "1 baseline 1000000")
	f.want(t, "v2", RollingBack, "going back to m version 1: 0 of 2 nodes back; 1 node has nothing to go back to and refuses requests for m")
	f.want(t, "v1", Superseded, "before it was complete", "1 node goes on with it, since nothing newer succeeded there")
}

// TestGoverning reads from stored statuses who governs a place, as a client of the API does.
func TestGoverning(t *testing.T) {
	f := newFleet("deira/1", "rotterdam/1")
	f.apply("v1", spec("1"))
	f.apply("dubai", spec("2", in("dubai", "")))
	f.apply("later", spec("9", in("", "deira"))) // there is no such version: it governs nobody
	name := func(model, region, site string) string {
		return Governing(f.Rollouts, model, region, site).GetMetadata().GetName()
	}
	if got := name("m", "dubai", "deira"); got != "" {
		t.Errorf("before anything is decided %q governs", got)
	}
	f.decide()
	got := strings.Join([]string{name("m", "dubai", "deira"), name("m", "west", "rotterdam"), name("other", "west", "rotterdam")}, " ")
	if got != "dubai v1 " {
		t.Errorf("governed by %q", got)
	}
	f.apply("v1", spec("1", retry(1))) // newest now, and not looked at yet
	if got := name("m", "dubai", "deira"); got != "dubai" {
		t.Errorf("what was not looked at yet counts: %q", got)
	}
	f.decide()
	if got := name("m", "dubai", "deira"); got != "v1" {
		t.Errorf("after the look %q governs", got)
	}
}

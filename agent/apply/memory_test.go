package apply

import (
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/agent/admission"
	"github.com/dhowfleet/dhow/agent/deploy"
	"github.com/dhowfleet/dhow/agent/health"
)

// TestNoMemory: a copy waits while others have the memory that it needs, fails when there will never be enough, and is
// loaded all the same when it has served before.
func TestNoMemory(t *testing.T) {
	m := newMachine(t)
	set := func(version string, err error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.loadErr[version] = err
	}
	full := &admission.Refused{Code: "memory-machine", Message: "it needs 9GiB, but only 2GiB are free", Remedy: "end other programs"}
	set("1", full)
	d := m.reg.publish(t, "fashion", "1", 2)
	m.rec.SetDesired(want("fashion", "1", d, 0))
	m.until("it waits and warns", func() bool {
		s, w := m.status("1"), m.health.Warnings()
		return s.GetState() == deploy.Ready && s.GetReason() == deploy.WaitMemory && strings.Contains(s.GetMessage(), "only 2GiB are free; end other") &&
			len(w) == 1 && w[0].GetCode() == string(health.MemoryShort) && strings.Contains(w[0].GetMessage(), "fashion:1")
	})
	set("1", nil)
	m.until("it serves and warns no more", func() bool { return m.answers("fashion") == "1" && len(m.health.Warnings()) == 0 })

	// The next version will never fit: the one that serves goes on.
	set("2", &admission.Refused{Code: "memory-machine", Message: "it needs 90GiB, the machine has 8GiB", Remedy: "give it more", Lasting: true})
	next := m.reg.publish(t, "fashion", "2", 2)
	m.rec.SetDesired(want("fashion", "2", next, 0))
	m.until("it failed", func() bool { return m.status("2").GetState() == deploy.Failed })
	if s := m.status("2"); s.GetReason() != deploy.ReasonMemoryLimit || !strings.Contains(s.GetMessage(), "90GiB") || m.answers("fashion") != "1" {
		t.Fatal(s)
	}

	// After a restart on a machine that has become full, what served before serves.
	m.rec.SetDesired(want("fashion", "1", d, 0))
	m.until("it serves", func() bool { return m.answers("fashion") == "1" && m.status("1").GetState() == deploy.Serving })
	m.stop()
	set("1", full)
	m.start(want("fashion", "1", d, 0))
	m.until("it serves again", func() bool { return m.answers("fashion") == "1" })
}

// Package headroom gives Go's garbage collector room while requests flow, and takes it back when they do not.
//
// The heap of an agent is small, since models and most tensors lie outside it, and it is kept small while the agent is
// idle: the machine is also a shop's till. But a heap of a few megabytes that may grow by half is collected every few
// hundred requests, and that was up to a third of the CPU time of small ones. So the collector's percentage follows the
// rate at which memory is allocated: a busy agent gets about Room bytes beyond what is alive, whatever that is, and a
// quiet one the percentage that it was started with.
//
//	counters of the runtime, once a second -> policy.next -> debug.SetGCPercent, debug.FreeOSMemory
//
// Run is called once for a process and blocks until its context ends. It does nothing to a process whose environment
// has GOGC: whoever set it knows better.
package headroom

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// Quiet is the percentage of an agent that does nothing.
	Quiet = 50
	// Room is how much a busy agent may allocate between two collections.
	Room = 32 << 20
	// highest is a percentage that a heap of a few megabytes needs for Room; Go's least heap is 4 MiB times it.
	highest = 100 * Room / (4 << 20)

	interval = time.Second
	// busy is how much is allocated in an interval by an agent that is worth the room: some hundred requests.
	busy = 1 << 20
	// patience is for how many intervals less was, before the room is taken back: requests come in waves.
	patience = 10
)

// policy decides on the percentage.
type policy struct {
	percent int
	still   int // intervals since the last busy one
}

// decision is what is to be done.
type decision struct {
	percent int
	// release says that memory is to be given back to the system.
	release bool
}

// next takes what was allocated in the last interval, and what was alive after the last collection, in bytes.
func (p *policy) next(allocated, alive uint64) decision {
	if allocated >= busy {
		p.still = 0
		p.percent = percentFor(alive)
		return decision{percent: p.percent}
	}
	if p.percent == Quiet {
		return decision{percent: Quiet}
	}
	if p.still++; p.still < patience {
		return decision{percent: p.percent}
	}
	p.percent, p.still = Quiet, 0
	return decision{percent: Quiet, release: true}
}

// percentFor is the percentage by which a heap of so many bytes grows by Room, or what a quiet agent has if that is more.
func percentFor(alive uint64) int {
	return int(min(max(100*Room/max(alive, 1), Quiet), highest))
}

// Start sets the percentage of a quiet agent, unless the environment has one, and says whether it did.
func Start() bool {
	if os.Getenv("GOGC") != "" {
		return false
	}
	debug.SetGCPercent(Quiet)
	return true
}

// Run follows the load until ctx ends.
func Run(ctx context.Context) {
	if !Start() {
		return
	}
	samples := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(samples)
	before := samples[0].Value.Uint64()
	p := policy{percent: Quiet}
	set := Quiet
	for tick := time.NewTicker(interval); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
		metrics.Read(samples)
		now := samples[0].Value.Uint64()
		d := p.next(now-before, samples[1].Value.Uint64())
		before = now
		// Setting it stops the world for a moment, so that small changes are not worth it.
		if d.percent != set && (d.percent == Quiet || d.percent < set*3/4 || d.percent > set*4/3) {
			debug.SetGCPercent(d.percent)
			set = d.percent
		}
		if d.release {
			debug.FreeOSMemory()
		}
	}
}

package onnxruntime

// #include "direct.h"
import "C"

import (
	"sync/atomic"
	"time"
)

const (
	// A request is huge when its inputs have at least hugeFrom bytes and hugeOver times as many as is usual.
	hugeFrom = 1 << 20
	hugeOver = 4
	// shrinkEvery is how often memory is given back at most: the next huge request has to get it again.
	shrinkEvery = time.Minute
	// mostMissed is how many runs are waited for one that has its outputs in memory of ours.
	mostMissed = 8
)

// memory sees to it that one huge request does not keep its memory for ever. A session keeps what its largest run needed
// until it is closed; told so, it gives back at the end of a run those regions in which nothing is used. What a run leaves
// in them then is its outputs, unless they lie in memory of ours: an ordinary run after the huge one whose outputs do is
// the one to wait for, some runs long. Doing so after every run would have each allocate anew.
type memory struct {
	usual  atomic.Int64 // bytes of inputs, averaged over the last runs
	huge   atomic.Bool  // there was a huge run since memory was given back
	missed atomic.Int64 // runs since then with outputs in the session's memory
	shrunk atomic.Int64 // when memory was given back, in Unix nanoseconds
}

// note counts a run with so many bytes of inputs, and says whether memory is to be given back after it. bound says that
// its outputs lie in memory of ours.
func (m *memory) note(size int, bound bool, now func() time.Time) (shrink bool) {
	n, usual := int64(size), m.usual.Load()
	if n != usual {
		// Runs beside each other may overwrite one another's average; it is none the worse.
		m.usual.Store(usual + (n-usual)/8)
	}
	if n >= hugeFrom && n > hugeOver*usual {
		m.missed.Store(0)
		m.huge.Store(true)
		return false
	}
	if !m.huge.Load() || !bound && m.missed.Add(1) <= mostMissed {
		return false
	}
	at, last := now().UnixNano(), m.shrunk.Load()
	return at-last >= int64(shrinkEvery) && m.shrunk.CompareAndSwap(last, at) && m.huge.Swap(false)
}

// shrink sets whether the session gives memory back after this call.
func (r *call) shrink(on bool) {
	r.shrinking = on
	var to C.int
	if on {
		to = 1
	}
	C.dhow_run_shrink(r.c, to)
}

// Package statistics counts what became of requests and where their time went, for each version of each model.
//
// A request carries a Timing, which the parts that it passes fill in: the queue says how long it waited, the model how
// long it computed. When the request ends, serving.Table records it into the version's Model, which only adds to
// counters: nothing is kept of a request, and nothing is allocated. Snapshots are read by the statistics endpoint, the
// metrics and the status page; each agrees with itself for every request that had ended.
//
// What is counted follows Triton's statistics, so that tools made for them mean the same here: queue and compute times
// are of successful requests, those answered by the response cache count in no inference. Beside that are a histogram of
// latencies and the last hour by minute, which take the same memory however many requests come.
//
// Everything is safe for concurrent use and returns at once; a Timing belongs to its request's goroutine.
package statistics

import (
	"context"
	"time"
)

// Timing is where the time of one request went.
type Timing struct {
	// Queue is the time spent waiting for a place or for others to batch with.
	Queue time.Duration
	// Input, Infer and Output are the times to prepare the inputs (WASM before the model among it), to compute, and to
	// take the outputs (WASM after it among it).
	Input, Infer, Output time.Duration
	// Rows is how many inferences the request held: its batch dimension, 1 where the model has none.
	Rows int
	// Executed is the number of rows of the execution that this request stands for: of all requests that ran as one
	// batch, one has the sum of their rows and the others 0.
	Executed int
	// Lookup is the time spent in the response cache; Hit says that the answer came from it, Missed that it did not.
	Lookup      time.Duration
	Hit, Missed bool
}

type timingKey struct{}

// Key is what a request's context answers with its *Timing.
var Key any = timingKey{}

// Of returns the timing of the request that ctx belongs to, or nil when it has none.
func Of(ctx context.Context) *Timing {
	t, _ := ctx.Value(Key).(*Timing)
	return t
}

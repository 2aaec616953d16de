package serving

import (
	"context"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/agent/telemetry"
	"github.com/dhowfleet/dhow/models/tensor"
)

// Bounds of the copies that wait for a shadow or run in one. What is above them is not copied: a shadow must not cost
// those who are answered.
const (
	maxCopies     = 64
	maxCopiedSize = 64 << 20 // bytes
)

// copies counts the copies that there are, and those that were not made.
type copies struct {
	number, size atomic.Int64
	dropped      atomic.Uint64
}

// copied is a request on its way to a shadow.
type copied struct {
	table   *Table
	shadow  *held // held
	request Request
	size    int64
}

// copy makes a request's copy for a shadow that is held, or lets go of the shadow when there are too many.
func (t *Table) copy(shadow *held, req *Request) *copied {
	size := int64(0)
	for i := range req.Inputs {
		size += int64(len(req.Inputs[i].Data))
	}
	c := &copied{table: t, shadow: shadow, request: *req, size: size}
	number, all := t.copies.number.Add(1), t.copies.size.Add(size)
	if number > maxCopies || all > maxCopiedSize {
		t.copies.dropped.Add(1)
		c.done()
		return nil
	}
	// Which outputs were asked for says nothing of whether the shadow would answer.
	c.request.Inputs, c.request.Outputs = make([]tensor.Tensor, len(req.Inputs)), nil
	data := make([]byte, 0, size)
	for i := range req.Inputs {
		from := &req.Inputs[i]
		at := len(data)
		data = append(data, from.Data...)
		c.request.Inputs[i] = tensor.Tensor{Name: from.Name, Datatype: from.Datatype, Shape: slices.Clone(from.Shape), Data: data[at:len(data):len(data)]}
	}
	return c
}

// follow runs the copy after its request ended as code says. Requests that were given up for lack of time or places say
// that there is none for copies either.
func (c *copied) follow(code telemetry.Code) {
	switch code {
	case telemetry.Overloaded, telemetry.Deadline, telemetry.Canceled:
		c.table.copies.dropped.Add(1)
		c.done()
		return
	}
	go func() {
		defer c.done()
		c.request.Priority = math.MaxUint64
		var timing statistics.Timing
		// Its answer is for nobody; that it was recorded is what it was for.
		_, _ = c.table.answer(context.Background(), time.Now(), c.shadow.timeout, c.shadow, &c.request, &timing)
	}()
}

func (c *copied) done() {
	c.table.copies.size.Add(-c.size)
	c.table.copies.number.Add(-1)
	c.shadow.release()
}

// Dropped is how many requests a shadow was to get a copy of and did not, since too many copies waited.
func (t *Table) Dropped() uint64 { return t.copies.dropped.Load() }

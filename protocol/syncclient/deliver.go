package syncclient

import (
	"context"
	"fmt"

	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

// The bounds of one batch.
const (
	batchAggregates = 256
	batchBytes      = 512 << 10
)

// Outbox holds what waits for delivery, durably and in order; agent/store has one.
type Outbox interface {
	// Peek returns the oldest aggregates, at most n and, beyond the first, at most size bytes.
	Peek(ctx context.Context, n, size int) ([]*syncv1.Aggregate, error)
	// Acknowledge deletes what the manager has. renumbered says that the sequence was unknown here and the outbox has
	// new numbers, under which it is to be delivered.
	Acknowledge(ctx context.Context, sequence uint64) (renumbered bool, err error)
}

// Deliver hands over everything that waits, one batch after the other, and deletes what is acknowledged. It returns
// how many aggregates were delivered and, when something is left, why.
func (c *Client) Deliver(ctx context.Context, epoch uint64, outbox Outbox) (delivered int, err error) {
	for healed := false; ; {
		batch, err := outbox.Peek(ctx, batchAggregates, batchBytes)
		if err != nil || len(batch) == 0 {
			return delivered, err
		}
		a, err := call(ctx, batchTimeout, "deliver", c.sync.Deliver, &syncv1.DeliverRequest{BootEpoch: epoch, Aggregates: batch})
		if err != nil {
			return delivered, err
		}
		acknowledged := a.GetAcknowledgedSequence()
		if acknowledged < batch[0].GetSequence() {
			return delivered, fmt.Errorf("cannot deliver: the manager acknowledges %d of what begins at %d", acknowledged, batch[0].GetSequence())
		}
		renumbered, err := outbox.Acknowledge(ctx, acknowledged)
		if err != nil {
			return delivered, err
		}
		if renumbered {
			if healed {
				return delivered, fmt.Errorf("cannot deliver: the manager acknowledges %d, which was never sent", acknowledged)
			}
			healed = true
			continue
		}
		for _, sent := range batch {
			if sent.GetSequence() <= acknowledged {
				delivered++
			}
		}
	}
}

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/test/failpoint"
)

// Checkpoint returns the id of the last telemetry row that was added up, and whether one is known: after a state.db was
// lost it is not, and rows that are there must not be counted again.
func (s *Store) Checkpoint(ctx context.Context) (id uint64, known bool, err error) {
	id, known, err = number(ctx, s.db, metaCheckpoint)
	if err != nil {
		return 0, false, fmt.Errorf("cannot read the telemetry checkpoint: %w", err)
	}
	return id, known, nil
}

// SetCheckpoint sets the first checkpoint of a new state.db.
func (s *Store) SetCheckpoint(ctx context.Context, id uint64) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		if _, known, err := number(ctx, tx, metaCheckpoint); err != nil || known {
			return err
		}
		return setNumber(ctx, tx, metaCheckpoint, id)
	})
	if err != nil {
		return fmt.Errorf("cannot set the telemetry checkpoint: %w", err)
	}
	return nil
}

// ErrCheckpoint means that the rows were added up already.
var ErrCheckpoint = errors.New("the telemetry checkpoint is not where the roll-up began")

// RollUp moves the telemetry checkpoint from one row id to another and puts the aggregate of the rows between into the
// outbox, in one transaction. The aggregate is given its sequence number; nil moves the checkpoint alone.
func (s *Store) RollUp(ctx context.Context, from, to uint64, a *syncv1.Aggregate) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		if have, known, err := number(ctx, tx, metaCheckpoint); err != nil {
			return err
		} else if known && have != from {
			return ErrCheckpoint
		}
		if err := setNumber(ctx, tx, metaCheckpoint, to); err != nil {
			return err
		}
		if a != nil {
			if err := s.append(ctx, tx, a); err != nil {
				return err
			}
		}
		failpoint.Here("store/roll-up")
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot put an aggregate into the outbox: %w", err)
	}
	failpoint.Here("store/rolled-up")
	return nil
}

func (s *Store) append(ctx context.Context, tx *sql.Tx, a *syncv1.Aggregate) error {
	last, _, err := number(ctx, tx, metaSequence)
	if err != nil {
		return err
	}
	a.Sequence = last + 1
	payload, err := proto.Marshal(a)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO outbox (sequence, payload) VALUES (?, ?)", int64(a.GetSequence()), payload); err != nil {
		return err
	}
	if err := setNumber(ctx, tx, metaSequence, a.GetSequence()); err != nil {
		return err
	}
	size, _, err := number(ctx, tx, metaOutbox)
	if err != nil {
		return err
	}
	size += uint64(len(payload))
	if size > uint64(s.cap) {
		if size, err = s.dropOldest(ctx, tx, size); err != nil {
			return err
		}
	}
	return setNumber(ctx, tx, metaOutbox, size)
}

// dropOldest makes room for a tenth of the cap, so that it is not done for each aggregate, and counts what it drops.
// The newest aggregate stays.
func (s *Store) dropOldest(ctx context.Context, tx *sql.Tx, size uint64) (uint64, error) {
	rows, err := tx.QueryContext(ctx, "SELECT sequence, length(payload) FROM outbox ORDER BY sequence")
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var upTo int64
	var dropped uint64
	for size > uint64(s.cap/10*9) && rows.Next() {
		var sequence, length int64
		if err := rows.Scan(&sequence, &length); err != nil {
			return 0, err
		}
		if size <= uint64(length) {
			break
		}
		upTo, size, dropped = sequence, size-uint64(length), dropped+1
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return 0, err
	}
	if _, err := tx.ExecContext(ctx, "DELETE FROM outbox WHERE sequence <= ?", upTo); err != nil {
		return 0, err
	}
	before, _, err := number(ctx, tx, metaDropped)
	if err != nil {
		return 0, err
	}
	return size, setNumber(ctx, tx, metaDropped, before+dropped)
}

// Peek returns the oldest aggregates of the outbox, at most n of them and, beyond the first, at most size bytes.
func (s *Store) Peek(ctx context.Context, n, size int) ([]*syncv1.Aggregate, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT sequence, payload FROM outbox ORDER BY sequence LIMIT ?", n)
	if err != nil {
		return nil, fmt.Errorf("cannot read the outbox: %w", err)
	}
	defer rows.Close()
	var out []*syncv1.Aggregate
	for rows.Next() {
		var sequence int64
		var payload sql.RawBytes
		if err := rows.Scan(&sequence, &payload); err != nil {
			return nil, fmt.Errorf("cannot read the outbox: %w", err)
		}
		if size -= len(payload); size < 0 && len(out) > 0 {
			break
		}
		var a syncv1.Aggregate
		if err := proto.Unmarshal(payload, &a); err != nil {
			return nil, fmt.Errorf("cannot read aggregate %d of the outbox: %w", sequence, err)
		}
		a.Sequence = uint64(sequence)
		out = append(out, &a)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("cannot read the outbox: %w", err)
	}
	return out, nil
}

// Acknowledge deletes the aggregates up to a sequence number that the manager acknowledged.
//
// A number above every one that this node ever gave means that the node's own counter fell back, as with a state.db
// restored from an old copy: the manager then took what was delivered for something it had counted long ago. The
// outbox is renumbered above the manager's number and delivered again; nothing of it was counted.
func (s *Store) Acknowledge(ctx context.Context, sequence uint64) (renumbered bool, err error) {
	err = s.change(ctx, func(tx *sql.Tx) error {
		last, _, err := number(ctx, tx, metaSequence)
		if err != nil {
			return err
		}
		if sequence > last {
			renumbered = true
			// Through negative numbers, since new and old ones may overlap.
			if _, err := tx.ExecContext(ctx, "UPDATE outbox SET sequence = -sequence"); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `UPDATE outbox SET sequence = ?1 + r.n FROM
				(SELECT sequence AS old, row_number() OVER (ORDER BY sequence DESC) AS n FROM outbox) AS r WHERE outbox.sequence = r.old`, int64(sequence)); err != nil {
				return err
			}
			var newest int64
			if err := tx.QueryRowContext(ctx, "SELECT coalesce(max(sequence), ?) FROM outbox", int64(sequence)).Scan(&newest); err != nil {
				return err
			}
			return setNumber(ctx, tx, metaSequence, uint64(newest))
		}
		var freed int64
		if err := tx.QueryRowContext(ctx, "SELECT coalesce(sum(length(payload)), 0) FROM outbox WHERE sequence <= ?", int64(sequence)).Scan(&freed); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "DELETE FROM outbox WHERE sequence <= ?", int64(sequence)); err != nil {
			return err
		}
		size, _, err := number(ctx, tx, metaOutbox)
		if err != nil {
			return err
		}
		failpoint.Here("store/acknowledge")
		return setNumber(ctx, tx, metaOutbox, size-min(size, uint64(freed)))
	})
	if err != nil {
		return false, fmt.Errorf("cannot delete what was delivered: %w", err)
	}
	failpoint.Here("store/acknowledged")
	return renumbered, nil
}

// Backlog is what waits in the outbox.
type Backlog struct {
	Pending uint64 // aggregates
	Bytes   uint64
	Dropped uint64 // aggregates dropped so far for want of room
}

// Backlog returns what waits in the outbox.
func (s *Store) Backlog(ctx context.Context) (Backlog, error) {
	var b Backlog
	var pending int64
	err := s.db.QueryRowContext(ctx, "SELECT count(*) FROM outbox").Scan(&pending)
	b.Pending = uint64(pending)
	if err == nil {
		b.Bytes, _, err = number(ctx, s.db, metaOutbox)
	}
	if err == nil {
		b.Dropped, _, err = number(ctx, s.db, metaDropped)
	}
	if err != nil {
		return Backlog{}, fmt.Errorf("cannot read the outbox: %w", err)
	}
	return b, nil
}

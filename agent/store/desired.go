package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/dhowfleet/dhow/agent/deploy"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/test/failpoint"
)

// maxFailures bounds how many failed digests are remembered; the oldest are forgotten first.
const maxFailures = 256

// ErrOlder means that a desired state is older than the one that the node has.
var ErrOlder = errors.New("the desired state is older than the one that the node has")

// Desired returns the last desired state that was accepted, or nil.
func (s *Store) Desired(ctx context.Context) (*syncv1.DesiredEnvelope, error) {
	var e syncv1.DesiredEnvelope
	var generation int64
	switch err := s.db.QueryRowContext(ctx, "SELECT generation, digest, state FROM desired").Scan(&generation, &e.Digest, &e.State); {
	case errors.Is(err, sql.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("cannot read the desired state: %w", err)
	}
	e.Generation = uint64(generation)
	return &e, nil
}

// SetDesired replaces the desired state. One of a lower generation is refused with ErrOlder.
func (s *Store) SetDesired(ctx context.Context, e *syncv1.DesiredEnvelope) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		var have int64
		if err := tx.QueryRowContext(ctx, "SELECT coalesce(max(generation), 0) FROM desired").Scan(&have); err != nil {
			return err
		}
		if e.GetGeneration() < uint64(have) {
			return ErrOlder
		}
		state := e.GetState()
		if state == nil {
			state = []byte{} // a desired state of nothing is no bytes, which is not the same as no state
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO desired (one, generation, digest, state) VALUES (1, ?, ?, ?)
			ON CONFLICT (one) DO UPDATE SET generation = excluded.generation, digest = excluded.digest, state = excluded.state`,
			int64(e.GetGeneration()), e.GetDigest(), state)
		failpoint.Here("store/desired")
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot keep the desired state: %w", err)
	}
	failpoint.Here("store/desired-kept")
	return nil
}

// ForgetGeneration makes any generation acceptable again, as to a node that is about to be another one to its manager,
// which counts from one. What the node should do stays. It is one statement, so that a crash leaves either.
func (s *Store) ForgetGeneration(ctx context.Context) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "UPDATE desired SET generation = 0, digest = ''")
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot forget the desired state's generation: %w", err)
	}
	return nil
}

// Copies returns the records of all model copies.
func (s *Store) Copies(ctx context.Context) ([]deploy.Record, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT model, version, digest, state, since, retry, reason, message, crashes FROM copies ORDER BY model, version, digest")
	if err != nil {
		return nil, fmt.Errorf("cannot read the model copies: %w", err)
	}
	defer rows.Close()
	var out []deploy.Record
	for rows.Next() {
		var r deploy.Record
		var since int64
		if err := rows.Scan(&r.Model, &r.Version, &r.Digest, &r.State, &since, &r.Retry, &r.Reason, &r.Message, &r.Crashes); err != nil {
			return nil, fmt.Errorf("cannot read the model copies: %w", err)
		}
		r.Since = time.Unix(0, since)
		out = append(out, r)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("cannot read the model copies: %w", err)
	}
	return out, nil
}

// PutCopy records a copy. A failed one is remembered by its digest too, beyond the life of the record; one that is
// pending anew because another try was asked for is forgotten again.
func (s *Store) PutCopy(ctx context.Context, r deploy.Record) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO copies (model, version, digest, state, since, retry, reason, message, crashes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (model, version, digest) DO UPDATE SET state = excluded.state, since = excluded.since, retry = excluded.retry,
			reason = excluded.reason, message = excluded.message, crashes = excluded.crashes`,
			r.Model, r.Version, r.Digest, int64(r.State), r.Since.UnixNano(), int64(r.Retry), r.Reason, r.Message, int64(r.Crashes))
		if err != nil {
			return err
		}
		if r.State == deploy.Failed {
			_, err = tx.ExecContext(ctx, `INSERT INTO failures (model, digest, retry, reason, message, at) VALUES (?, ?, ?, ?, ?, ?)
				ON CONFLICT (model, digest) DO UPDATE SET retry = excluded.retry, reason = excluded.reason, message = excluded.message, at = excluded.at`,
				r.Model, r.Digest, int64(r.Retry), r.Reason, r.Message, s.now().UnixNano())
			if err == nil {
				_, err = tx.ExecContext(ctx, `DELETE FROM failures WHERE (model, digest) IN
					(SELECT model, digest FROM failures ORDER BY at DESC, model, digest LIMIT -1 OFFSET ?)`, maxFailures)
			}
		} else {
			_, err = tx.ExecContext(ctx, "DELETE FROM failures WHERE model = ? AND digest = ? AND retry < ?", r.Model, r.Digest, int64(r.Retry))
		}
		failpoint.Here("store/copy")
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot record %s as %s: %w", r.Key, r.State, err)
	}
	failpoint.Here("store/copy-recorded")
	return nil
}

// DeleteCopy forgets a copy; that its digest failed is still remembered.
func (s *Store) DeleteCopy(ctx context.Context, k deploy.Key) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM copies WHERE model = ? AND version = ? AND digest = ?", k.Model, k.Version, k.Digest)
		failpoint.Here("store/copy-deleted")
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot forget %s: %w", k, err)
	}
	return nil
}

// Failures returns the digests that failed.
func (s *Store) Failures(ctx context.Context) ([]deploy.Failure, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT model, digest, retry, reason, message FROM failures ORDER BY model, digest")
	if err != nil {
		return nil, fmt.Errorf("cannot read the failed digests: %w", err)
	}
	defer rows.Close()
	var out []deploy.Failure
	for rows.Next() {
		var f deploy.Failure
		if err := rows.Scan(&f.Model, &f.Digest, &f.Retry, &f.Reason, &f.Message); err != nil {
			return nil, fmt.Errorf("cannot read the failed digests: %w", err)
		}
		out = append(out, f)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("cannot read the failed digests: %w", err)
	}
	return out, nil
}

// Package store keeps the agent's durable state in state.db: what the manager wants, what became of each model copy,
// which digests failed, the outbox of aggregates, and how far telemetry has been added up.
//
// Every change is one transaction with synchronous=FULL: after kill -9 or a power cut the old or the new state is
// there, never half of one. A damaged file is set aside and a new one begun (SetAside says so); the node then syncs
// anew, since its identity lies in files of its own. All methods may be called from any goroutine; they run one after
// the other on one connection and block for a disk flush.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/dhowfleet/dhow/agent/database"
	"github.com/dhowfleet/dhow/test/failpoint"
)

var migrations = []string{`
CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE desired (
	one INTEGER PRIMARY KEY CHECK (one = 1),
	generation INTEGER NOT NULL, digest TEXT NOT NULL, state BLOB NOT NULL
) STRICT;
CREATE TABLE copies (
	model TEXT NOT NULL, version TEXT NOT NULL, digest TEXT NOT NULL,
	state INTEGER NOT NULL, since INTEGER NOT NULL, retry INTEGER NOT NULL,
	reason TEXT NOT NULL, message TEXT NOT NULL, crashes INTEGER NOT NULL,
	PRIMARY KEY (model, version, digest)
) STRICT, WITHOUT ROWID;
CREATE TABLE failures (
	model TEXT NOT NULL, digest TEXT NOT NULL,
	retry INTEGER NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL, at INTEGER NOT NULL,
	PRIMARY KEY (model, digest)
) STRICT, WITHOUT ROWID;
CREATE TABLE winners (
	network TEXT PRIMARY KEY, protocol TEXT NOT NULL, at INTEGER NOT NULL, demotions INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE outbox (sequence INTEGER PRIMARY KEY, payload BLOB NOT NULL) STRICT;
`}

// Options say how the store is opened.
type Options struct {
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// OutboxBytes caps the outbox; the oldest aggregates are dropped, and counted, beyond it. Zero: 64 MiB.
	OutboxBytes int64
}

// Store is an open state.db.
type Store struct {
	db       *sql.DB
	now      func() time.Time
	cap      int64
	epoch    uint64
	setAside string
}

// Open opens or creates dir/state.db and begins a new boot epoch.
func Open(ctx context.Context, dir string, o Options) (*Store, error) {
	db, setAside, err := database.Open(ctx, filepath.Join(dir, "state.db"), database.Options{
		Full: true, Check: true, CacheKiB: 256, Connections: 1, Migrations: migrations,
	})
	if err != nil {
		return nil, err
	}
	s := &Store{db: db, now: o.Now, cap: o.OutboxBytes, setAside: setAside}
	if s.now == nil {
		s.now = time.Now
	}
	if s.cap <= 0 {
		s.cap = 64 << 20
	}
	if err := s.begin(ctx); err != nil {
		_ = db.Close() // the first error says what is wrong
		return nil, err
	}
	return s, nil
}

// begin starts a boot epoch. A file that is new begins its numbers at the clock, so that they are above those of a
// file that was lost: the manager takes an aggregate whose number it has seen for one that it has counted.
func (s *Store) begin(ctx context.Context) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		epoch, known, err := number(ctx, tx, metaEpoch)
		if err != nil {
			return err
		}
		if !known {
			now := s.now()
			epoch = uint64(max(now.Unix(), 0))
			if err := setNumber(ctx, tx, metaSequence, uint64(max(now.UnixMilli(), 0))); err != nil {
				return err
			}
		}
		s.epoch = epoch + 1
		if err := setNumber(ctx, tx, metaEpoch, s.epoch); err != nil {
			return err
		}
		failpoint.Here("store/epoch")
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot begin a boot epoch: %w", err)
	}
	return nil
}

// Close closes the file.
func (s *Store) Close() error { return s.db.Close() }

// BootEpoch is a number that rises each time that the store is opened.
func (s *Store) BootEpoch() uint64 { return s.epoch }

// SetAside names the damaged file that Open moved out of the way, or is empty.
func (s *Store) SetAside() string { return s.setAside }

// The keys of meta.
const (
	metaEpoch      = "boot-epoch"
	metaSequence   = "last-sequence"        // the highest sequence number ever given
	metaCheckpoint = "telemetry-checkpoint" // the id of the last row that was added up
	metaDropped    = "outbox-dropped"       // aggregates dropped for want of room
	metaOutbox     = "outbox-bytes"
)

// change runs one transaction.
func (s *Store) change(ctx context.Context, fn func(*sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		_ = tx.Rollback() // the first error says what is wrong
		return err
	}
	return tx.Commit()
}

type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func number(ctx context.Context, q querier, key string) (uint64, bool, error) {
	var v int64
	switch err := q.QueryRowContext(ctx, "SELECT value FROM meta WHERE key = ?", key).Scan(&v); {
	case errors.Is(err, sql.ErrNoRows):
		return 0, false, nil
	case err != nil:
		return 0, false, err
	}
	return uint64(v), true, nil
}

func setNumber(ctx context.Context, tx *sql.Tx, key string, v uint64) error {
	_, err := tx.ExecContext(ctx, "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", key, int64(v))
	return err
}

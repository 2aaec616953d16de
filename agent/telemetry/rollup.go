package telemetry

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/dhowfleet/dhow/agent/database"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

// rollUpRows bounds the rows of one aggregate, so that what piled up is added up in steps.
const rollUpRows = 50_000

// RollUp adds up the rows since the last time and puts the aggregates into the outbox. Rows that are still queued are
// left for the next time.
func (r *Recorder) RollUp(ctx context.Context) error {
	r.rollUp.Lock()
	defer r.rollUp.Unlock()
	for {
		more, err := r.rollUpOnce(ctx)
		if err != nil {
			return fmt.Errorf("cannot add up telemetry: %w", err)
		}
		if !more {
			return nil
		}
	}
}

func (r *Recorder) rollUpOnce(ctx context.Context) (more bool, err error) {
	from := r.rows.rolledUp.Load()
	sums, err := r.rows.sum(ctx, from)
	if database.Malformed(err) {
		r.begin(ctx, err)
		return false, err
	}
	if err != nil || sums.last == from {
		return false, err
	}
	end := r.now()
	start := r.cut
	if first := time.Unix(0, sums.first); start.IsZero() || first.Before(start) {
		start = first // the first window of this process, or a clock that was set back
	}
	a := &syncv1.Aggregate{WindowStart: timestamppb.New(start), WindowEnd: timestamppb.New(end), Requests: sums.totals()}
	if err := r.outbox.RollUp(ctx, from, sums.last, a); err != nil {
		// Whether it was written is for the outbox to say, also after an error.
		if at, known, readErr := r.outbox.Checkpoint(ctx); readErr == nil && known {
			r.rows.rolledUp.Store(at)
		}
		return false, err
	}
	r.rows.rolledUp.Store(sums.last)
	r.cut = end
	return sums.full, nil
}

// sums are the rows of a window, added up by copy.
type sums struct {
	first int64  // the earliest time of a row
	last  uint64 // the highest id
	full  bool   // there may be more rows
	by    map[int64]*sum
}

type sum struct {
	copyKey
	requests, errors, nanos uint64
	latency                 histogram
	counts                  map[string]uint64
	declared                []string
}

// sum reads the rows after from, in one snapshot of the file.
func (r *rows) sum(ctx context.Context, from uint64) (*sums, error) {
	r.mu.Lock()
	db := r.db
	r.mu.Unlock()
	tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer tx.Rollback() // it only read
	s := &sums{last: from, by: map[int64]*sum{}}
	if err := s.readRows(ctx, tx, from); err != nil || s.last == from {
		return s, err
	}
	if err := s.readCopies(ctx, tx); err != nil {
		return nil, err
	}
	return s, s.readCounts(ctx, tx, from)
}

func (s *sums) readRows(ctx context.Context, tx *sql.Tx, from uint64) error {
	rows, err := tx.QueryContext(ctx, "SELECT id, at, copy, code, duration_ns FROM rows WHERE id > ? ORDER BY id LIMIT ?", int64(from), rollUpRows)
	if err != nil {
		return err
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		var id, at, copied, code, duration int64
		if err := rows.Scan(&id, &at, &copied, &code, &duration); err != nil {
			return err
		}
		if n == 0 || at < s.first {
			s.first = at
		}
		n++
		s.last = uint64(id)
		c := s.by[copied]
		if c == nil {
			c = &sum{latency: histogram{}, counts: map[string]uint64{}}
			s.by[copied] = c
		}
		c.requests++
		switch Code(code) {
		case OK, InvalidInput, Canceled:
		default:
			c.errors++
		}
		c.nanos += uint64(max(duration, 0))
		c.latency[bucket(duration)]++
	}
	s.full = n == rollUpRows
	return errors.Join(rows.Err(), rows.Close())
}

func (s *sums) readCopies(ctx context.Context, tx *sql.Tx) error {
	for id, c := range s.by {
		var role int64
		var counters sql.NullString
		err := tx.QueryRowContext(ctx, `SELECT copies.model, copies.version, copies.role, declared.counters FROM copies
			LEFT JOIN declared ON declared.model = copies.model AND declared.version = copies.version WHERE copies.id = ?`, id).
			Scan(&c.model, &c.version, &role, &counters)
		if err != nil {
			return err
		}
		c.role = uint8(role)
		if counters.Valid {
			if err := json.Unmarshal([]byte(counters.String), &c.declared); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *sums) readCounts(ctx context.Context, tx *sql.Tx, from uint64) error {
	rows, err := tx.QueryContext(ctx, `SELECT rows.copy, names.name, sum(counts.n) FROM counts
		JOIN rows ON rows.id = counts.row JOIN names ON names.id = counts.name
		WHERE counts.row > ? AND counts.row <= ? GROUP BY rows.copy, counts.name`, int64(from), int64(s.last))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var copied, n int64
		var name string
		if err := rows.Scan(&copied, &name, &n); err != nil {
			return err
		}
		s.by[copied].counts[name] = uint64(n)
	}
	return errors.Join(rows.Err(), rows.Close())
}

// totals returns the sums as they are sent, ordered by copy. A counter that the bundle does not declare stays here.
func (s *sums) totals() []*syncv1.RequestTotals {
	all := make([]*sum, 0, len(s.by))
	for _, c := range s.by {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *sum) int {
		return cmp.Or(cmp.Compare(a.model, b.model), cmp.Compare(a.version, b.version), cmp.Compare(a.role, b.role))
	})
	out := make([]*syncv1.RequestTotals, 0, len(all))
	for _, c := range all {
		t := &syncv1.RequestTotals{
			Model: c.model, Version: c.version, Role: syncv1.Role(c.role),
			Requests: c.requests, Errors: c.errors, LatencySumNs: c.nanos, Latency: c.latency.message(),
		}
		for _, name := range c.declared {
			if n, ok := c.counts[name]; ok {
				t.Counts = append(t.Counts, &syncv1.NamedCount{Name: name, Value: n})
			}
		}
		out = append(out, t)
	}
	return out
}

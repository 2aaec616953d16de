package telemetry

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dhowfleet/dhow/agent/database"
	"github.com/dhowfleet/dhow/test/failpoint"
)

// The schema of telemetry.db. Model, version and role of a row, and the names of counts and features, are written once
// and referred to by number, so that a row is some forty bytes.
var migrations = []string{`
CREATE TABLE copies (id INTEGER PRIMARY KEY, model TEXT NOT NULL, version TEXT NOT NULL, role INTEGER NOT NULL, UNIQUE (model, version, role)) STRICT;
CREATE TABLE names (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE rows (
	id INTEGER PRIMARY KEY,
	at INTEGER NOT NULL,          -- nanoseconds since 1970
	copy INTEGER NOT NULL,
	request_id TEXT NOT NULL,
	code INTEGER NOT NULL,
	duration_ns INTEGER NOT NULL
) STRICT;
CREATE TABLE counts (row INTEGER NOT NULL, name INTEGER NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (row, name)) STRICT, WITHOUT ROWID;
CREATE TABLE features (row INTEGER NOT NULL, name INTEGER NOT NULL, value REAL NOT NULL, PRIMARY KEY (row, name)) STRICT, WITHOUT ROWID;
CREATE TABLE declared (model TEXT NOT NULL, version TEXT NOT NULL, counters TEXT NOT NULL, PRIMARY KEY (model, version)) STRICT, WITHOUT ROWID;
CREATE VIEW requests AS
	SELECT rows.id, rows.at, copies.model, copies.version, copies.role, rows.request_id, rows.code, rows.duration_ns
	FROM rows JOIN copies ON copies.id = rows.copy;
`}

const (
	insertRows   = 64   // rows of one INSERT; each statement costs more than each row
	maxNames     = 4096 // names of counts and features, and copies: bundles declare them, so more is a fault
	trimInterval = 64   // groups between two looks at the file's size
	trimRows     = 20_000
	maxCount     = 1 << 40 // what one request may add to a counter: sums of a window then always fit
)

// rows is telemetry.db. Its write method is for one goroutine; the others may be called meanwhile.
type rows struct {
	path     string
	now      func() time.Time
	maxBytes int64
	maxAge   time.Duration

	rolledUp atomic.Uint64 // the last row that was added up; only such rows may be trimmed

	mu     sync.Mutex // guards what follows: one writer at a time
	db     *sql.DB
	conn   *sql.Conn
	next   uint64 // the id of the next row
	copies map[copyKey]int64
	names  map[string]int64
	groups int
}

type copyKey struct {
	model, version string
	role           uint8
}

func openRows(ctx context.Context, dir string, o Options) (*rows, string, error) {
	r := &rows{path: filepath.Join(dir, "telemetry.db"), now: o.Now, maxBytes: o.MaxBytes, maxAge: o.MaxAge, copies: map[copyKey]int64{}, names: map[string]int64{}}
	db, setAside, err := database.Open(ctx, r.path, settings)
	if err != nil {
		return nil, "", err
	}
	return r, setAside, r.use(ctx, db)
}

var settings = database.Options{CacheKiB: 512, Connections: 2, Migrations: migrations}

// use makes db the file that is written to.
func (r *rows) use(ctx context.Context, db *sql.DB) error {
	db.SetMaxIdleConns(0) // the writer holds one; one for reading is opened when it is needed
	conn, err := db.Conn(ctx)
	if err != nil {
		_ = db.Close() // the first error says what is wrong
		return fmt.Errorf("cannot open telemetry.db: %w", err)
	}
	r.db, r.conn = db, conn
	return nil
}

// renew begins a new file in place of one that turned out to be damaged. Row ids go on.
func (r *rows) renew(ctx context.Context) (setAside string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = errors.Join(r.conn.Close(), r.db.Close()) // it is damaged
	db, setAside, err := database.Replace(ctx, r.path, settings)
	if err != nil {
		return "", err
	}
	clear(r.copies)
	clear(r.names)
	return setAside, r.use(ctx, db)
}

func (r *rows) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(r.conn.Close(), r.db.Close())
}

// last returns the highest row id that was ever written to this file and is still there.
func (r *rows) last(ctx context.Context) (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var id int64
	if err := r.conn.QueryRowContext(ctx, "SELECT coalesce(max(id), 0) FROM rows").Scan(&id); err != nil {
		return 0, fmt.Errorf("cannot read telemetry.db: %w", err)
	}
	return uint64(id), nil
}

var errTooLarge = errors.New("the file is twice as large as it may be and no row of it was added up")

// write writes a group in one transaction.
func (r *rows) write(batch []slot) error {
	ctx := context.Background() // a group that is begun is written, also when the agent is about to stop
	r.mu.Lock()
	defer r.mu.Unlock()
	r.groups++
	if r.groups%trimInterval == 1 {
		if err := r.trim(ctx); err != nil {
			return err
		}
	}
	first := r.next
	r.next += uint64(len(batch)) // an id is never tried twice, whatever becomes of this group
	err := r.insert(ctx, first, batch)
	if err != nil {
		// What was given a number in a transaction that failed has none.
		clear(r.copies)
		clear(r.names)
	}
	return err
}

func (r *rows) insert(ctx context.Context, first uint64, batch []slot) error {
	tx, err := r.conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // after Commit it does nothing
	args := make([]any, 0, insertRows*6)
	for begin := 0; begin < len(batch); begin += insertRows {
		part := batch[begin:min(begin+insertRows, len(batch))]
		args = args[:0]
		for i := range part {
			s := &part[i]
			c, err := r.copyID(ctx, tx, copyKey{s.model, s.version, s.role})
			if err != nil {
				return err
			}
			args = append(args, int64(first)+int64(begin+i), s.at, c, string(s.requestID), int64(s.code), s.duration)
		}
		if _, err := tx.ExecContext(ctx, intoRows.sql(len(part)), args...); err != nil {
			return err
		}
	}
	if err := r.insertSide(ctx, tx, intoCounts, first, batch, func(s *slot, add func(string, any)) {
		for _, c := range s.counts {
			add(c.Name, int64(min(c.N, maxCount)))
		}
	}); err != nil {
		return err
	}
	if err := r.insertSide(ctx, tx, intoFeatures, first, batch, func(s *slot, add func(string, any)) {
		for _, f := range s.features {
			add(f.Name, f.Value)
		}
	}); err != nil {
		return err
	}
	failpoint.Here("telemetry/rows")
	if err := tx.Commit(); err != nil {
		return err
	}
	failpoint.Here("telemetry/rows-written")
	return nil
}

// insertSide writes what requests have several of. A counter named twice for a request is added up, of a feature the
// last value counts.
func (r *rows) insertSide(ctx context.Context, tx *sql.Tx, into *inserter, first uint64, batch []slot, each func(*slot, func(string, any))) error {
	var args []any
	var failed error
	for i := range batch {
		row := int64(first) + int64(i)
		each(&batch[i], func(name string, v any) {
			if failed != nil {
				return
			}
			id, err := r.nameID(ctx, tx, name)
			if err != nil {
				failed = err
				return
			}
			args = append(args, row, id, v)
			if len(args) == 3*insertRows {
				_, failed = tx.ExecContext(ctx, into.full, args...)
				args = args[:0]
			}
		})
		if failed != nil {
			return failed
		}
	}
	if len(args) == 0 {
		return nil
	}
	_, err := tx.ExecContext(ctx, into.sql(len(args)/3), args...)
	return err
}

// inserter makes the INSERT of n rows into one table. The driver keeps prepared statements by their text, so that the
// text of a full statement is made once.
type inserter struct {
	into, onConflict string
	columns          int
	full             string
}

func newInserter(into, onConflict string, columns int) *inserter {
	i := &inserter{into: into, onConflict: onConflict, columns: columns}
	i.full = i.text(insertRows)
	return i
}

func (i *inserter) sql(n int) string {
	if n == insertRows {
		return i.full
	}
	return i.text(n)
}

func (i *inserter) text(n int) string {
	tuple := "(" + strings.Repeat("?, ", i.columns-1) + "?)"
	return "INSERT INTO " + i.into + " VALUES " + strings.Repeat(tuple+", ", n-1) + tuple + i.onConflict
}

var (
	intoRows     = newInserter("rows (id, at, copy, request_id, code, duration_ns)", "", 6)
	intoCounts   = newInserter("counts (row, name, n)", " ON CONFLICT (row, name) DO UPDATE SET n = min(n + excluded.n, 1 << 40)", 3)
	intoFeatures = newInserter("features (row, name, value)", " ON CONFLICT (row, name) DO UPDATE SET value = excluded.value", 3)
)

func (r *rows) copyID(ctx context.Context, tx *sql.Tx, k copyKey) (int64, error) {
	if id, ok := r.copies[k]; ok {
		return id, nil
	}
	if len(r.copies) >= maxNames {
		clear(r.copies)
	}
	var id int64
	err := tx.QueryRowContext(ctx, `INSERT INTO copies (model, version, role) VALUES (?, ?, ?)
		ON CONFLICT (model, version, role) DO UPDATE SET role = excluded.role RETURNING id`, k.model, k.version, int64(k.role)).Scan(&id)
	if err == nil {
		r.copies[k] = id
	}
	return id, err
}

func (r *rows) nameID(ctx context.Context, tx *sql.Tx, name string) (int64, error) {
	if id, ok := r.names[name]; ok {
		return id, nil
	}
	if len(r.names) >= maxNames {
		clear(r.names)
	}
	var id int64
	err := tx.QueryRowContext(ctx, "INSERT INTO names (name) VALUES (?) ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id", name).Scan(&id)
	if err == nil {
		r.names[name] = id
	}
	return id, err
}

// trim drops the oldest rows that were added up while the file is larger or they are older than they may be.
func (r *rows) trim(ctx context.Context) error {
	var pages, free, size int64
	if err := r.conn.QueryRowContext(ctx, "SELECT (SELECT page_count FROM pragma_page_count), (SELECT freelist_count FROM pragma_freelist_count), (SELECT page_size FROM pragma_page_size)").Scan(&pages, &free, &size); err != nil {
		return err
	}
	used := (pages - free) * size
	oldest := r.now().Add(-r.maxAge).UnixNano()
	rolledUp := int64(r.rolledUp.Load())
	var upTo int64
	err := r.conn.QueryRowContext(ctx, "SELECT coalesce(max(id), 0) FROM (SELECT id FROM rows WHERE id <= ? AND (? OR at < ?) ORDER BY id LIMIT ?)",
		rolledUp, used > r.maxBytes, oldest, trimRows).Scan(&upTo)
	if err != nil {
		return err
	}
	if upTo == 0 {
		if used > 2*r.maxBytes {
			return errTooLarge
		}
		return nil
	}
	tx, err := r.conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // after Commit it does nothing
	for _, sql := range []string{"DELETE FROM counts WHERE row <= ?", "DELETE FROM features WHERE row <= ?", "DELETE FROM rows WHERE id <= ?"} {
		if _, err := tx.ExecContext(ctx, sql, upTo); err != nil {
			return err
		}
	}
	failpoint.Here("telemetry/trim")
	if err := tx.Commit(); err != nil {
		return err
	}
	if used > r.maxBytes {
		r.groups = 0 // look again at the next group
	}
	return nil
}

func (r *rows) declare(ctx context.Context, model, version string, counters []string) error {
	if counters == nil {
		counters = []string{}
	}
	text, err := json.Marshal(counters)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.conn.ExecContext(ctx, `INSERT INTO declared (model, version, counters) VALUES (?, ?, ?)
		ON CONFLICT (model, version) DO UPDATE SET counters = excluded.counters`, model, version, string(text)); err != nil {
		return fmt.Errorf("cannot record the counters of %s:%s: %w", model, version, err)
	}
	return nil
}

// Package store keeps everything the fleet manager must not forget, in one SQLite database.
//
// It holds declared resources, nodes with their desired and reported states, join tokens, the releases that a failed
// rollout can go back to, and the totals that nodes delivered; store/operators keeps the operators' tokens beside them.
// Nodes live in tables of their own and are presented as resources of kind Node beside the declared ones.
//
// Every change takes one or more numbers of a single counter, the resource version, so that all changes of the fleet
// have an order: Changes returns what happened after a version, and Notify wakes whoever wants to ask. A deletion
// leaves a tombstone; only the newest tombstones are kept, and Changes says ErrCompacted to one who is further behind,
// who then begins again with List.
//
// A method that writes is one transaction, durable when it returns (WAL, synchronous=FULL): after kill -9 or a power
// cut the old or the new state is there. There is one writer at a time; writers wait for each other and obey their
// context. Readers see a consistent picture and wait for nobody. All methods are safe for concurrent use. SQL is kept
// to what SQLite and PostgreSQL share.
package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	_ "github.com/mattn/go-sqlite3" // the driver called "sqlite3"
	"github.com/pressly/goose/v3"

	"github.com/dhowfleet/dhow/fleet/store/operators"
)

var (
	// ErrNotFound: there is no such thing.
	ErrNotFound = errors.New("not found")
	// ErrConflict: the change does not fit what is there, such as another resource version than the expected one.
	ErrConflict = errors.New("conflict")
	// ErrCompacted: the changes asked for are forgotten; begin again with List.
	ErrCompacted = errors.New("changes are forgotten")
	// ErrNewerDatabase: a newer dhow-fleet wrote this database.
	ErrNewerDatabase = errors.New("the database was written by a newer dhow-fleet")
)

//go:embed migrations/*.sql
var migrations embed.FS

const (
	busyMillis = 5000 // how long a writer waits for another process's lock, such as a backup's
	readers    = 4
)

// Store is the manager's database.
type Store struct {
	path string
	// writer has one connection, so that writers queue in order instead of finding the database busy.
	writer, reader, shared *sql.DB
	now                    func() time.Time
	epoch                  string

	mu       sync.Mutex
	watchers map[*watcher]struct{}
}

type watcher struct{ wake chan struct{} }

// Open opens the database at path, makes it (0600) when it is not there, and brings its schema up to date.
func Open(ctx context.Context, path string) (*Store, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the database: %w", err)
	}
	f.Close()
	s := &Store{path: path, now: time.Now, watchers: map[*watcher]struct{}{}}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open the database %s: %w", path, err), s.Close())
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	var err error
	if s.writer, err = connect(s.path, "_txlock=immediate", 1); err != nil {
		return err
	}
	if err := migrate(ctx, s.writer); err != nil {
		return err
	}
	if s.reader, err = connect(s.path, "_query_only=1", readers); err != nil {
		return err
	}
	if s.shared, err = connect(s.path, "_txlock=immediate", readers); err != nil {
		return err
	}
	return s.write(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `SELECT value FROM meta WHERE name = 'epoch'`).Scan(&s.epoch)
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		s.epoch = rand.Text()
		_, err = tx.ExecContext(ctx, `INSERT INTO meta (name, value) VALUES ('epoch', $1)`, s.epoch)
		return err
	})
}

func connect(path, option string, connections int) (*sql.DB, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	dsn := fmt.Sprintf("file:%s?_journal_mode=WAL&_synchronous=FULL&_foreign_keys=1&_busy_timeout=%d&%s",
		(&url.URL{Path: absolute}).EscapedPath(), busyMillis, option)
	db, err := sql.Open("sqlite3", dsn)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	return db, nil
}

func provider(db *sql.DB) (*goose.Provider, error) {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(goose.DialectSQLite3, db, dir, goose.WithDisableGlobalRegistry(true))
}

func migrate(ctx context.Context, db *sql.DB) error {
	p, err := provider(db)
	if err != nil {
		return err
	}
	have, want, err := p.GetVersions(ctx)
	if err != nil {
		return err
	}
	if have > want {
		return fmt.Errorf("%w: its schema has version %d, this program knows %d; install the newer dhow-fleet again", ErrNewerDatabase, have, want)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("cannot bring the schema up to date: %w", err)
	}
	return nil
}

// Close closes the database after running transactions.
func (s *Store) Close() error {
	var errs []error
	for _, db := range []*sql.DB{s.shared, s.reader, s.writer} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// DB is the database for packages that keep tables of their own in it, such as the registry's index. Its transactions
// begin immediate and wait for the store's writers for at most five seconds.
func (s *Store) DB() *sql.DB { return s.shared }

// Operators are the operators' tokens.
func (s *Store) Operators() *operators.Tokens { return operators.New(s.write, s.reader, s.now) }

// Epoch names this database: it is made once and differs from that of every other manager.
func (s *Store) Epoch() string { return s.epoch }

// Ping tells whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	var one int
	return s.reader.QueryRowContext(ctx, `SELECT 1`).Scan(&one)
}

// Notify returns a channel that gets a value after commits, at most one while nobody reads, and a function that ends
// it. The channel is never closed.
func (s *Store) Notify() (<-chan struct{}, func()) {
	w := &watcher{wake: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchers[w] = struct{}{}
	return w.wake, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watchers, w)
	}
}

func (s *Store) notify() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watchers {
		select {
		case w.wake <- struct{}{}:
		default: // it has not looked since the last one and will see this change too
		}
	}
}

// errUnchanged ends a transaction that found nothing to change: it is rolled back and nobody is woken.
var errUnchanged = errors.New("unchanged")

// write runs do in the one writing transaction and wakes watchers after it is durable.
func (s *Store) write(ctx context.Context, do func(tx *sql.Tx) error) error {
	tx, err := s.writer.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("cannot begin a transaction: %w", err)
	}
	defer tx.Rollback()
	if err := do(tx); err != nil {
		if errors.Is(err, errUnchanged) {
			return nil
		}
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("cannot commit: %w", err)
	}
	s.notify()
	return nil
}

// read runs do on one consistent picture of the database.
func (s *Store) read(ctx context.Context, do func(tx *sql.Tx) error) error {
	tx, err := s.reader.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("cannot begin reading: %w", err)
	}
	defer tx.Rollback()
	return do(tx)
}

// take takes the next n resource versions and returns the first.
func take(ctx context.Context, tx *sql.Tx, n int) (uint64, error) {
	var last int64
	err := tx.QueryRowContext(ctx, `UPDATE counters SET value = value + $1 WHERE name = 'resource_version' RETURNING value`, n).Scan(&last)
	if err != nil {
		return 0, fmt.Errorf("cannot take a resource version: %w", err)
	}
	return uint64(last-int64(n)) + 1, nil
}

func newest(ctx context.Context, tx *sql.Tx) (uint64, error) {
	var v int64
	err := tx.QueryRowContext(ctx, `SELECT value FROM counters WHERE name = 'resource_version'`).Scan(&v)
	return uint64(v), err
}

// nanos is how times are stored; the zero time is 0.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// bytesOf keeps no bytes from being stored as NULL: an empty message has none.
func bytesOf(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

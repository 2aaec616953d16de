// Package database opens the agent's SQLite files: state.db and telemetry.db.
//
// It knows the settings that both need (WAL, bounded log, small page cache, one schema version per file) and what to
// do with a file that SQLite cannot read: it is set aside as <name>.corrupt-<n> beside the new, empty one, so that an
// agent whose disk lied to it still starts and says what it lost. A file that a newer agent wrote is refused instead,
// since it is whole and worth keeping. Open blocks for the time of a consistency check; the *sql.DB that it returns
// has as many connections as asked for and may be used from any goroutine.
package database

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"

	"github.com/mattn/go-sqlite3"
)

// Options say how a file is opened.
type Options struct {
	// Full makes every commit durable against power loss; without it a commit survives the process only.
	Full bool
	// Check reads the whole file for damage at open. For small files.
	Check bool
	// CacheKiB bounds the page cache of each connection.
	CacheKiB int
	// Connections bounds the pool.
	Connections int
	// Migrations are the schema's steps; the file's user_version counts those that it has.
	Migrations []string
}

// maxSetAside bounds how many damaged files are kept beside the one in use.
const maxSetAside = 3

// ErrNewer means that the file's schema is one that this build does not know.
var ErrNewer = errors.New("written by a newer version of the agent")

// Open opens or creates the file. setAside names the damaged file that was moved out of the way, or is empty.
func Open(ctx context.Context, path string, o Options) (db *sql.DB, setAside string, err error) {
	db, err = open(ctx, path, o)
	if err == nil || !Malformed(err) {
		return db, "", err
	}
	return Replace(ctx, path, o)
}

// Replace sets the file aside and opens a new one. Whoever has the old one open keeps it.
func Replace(ctx context.Context, path string, o Options) (db *sql.DB, setAside string, err error) {
	if setAside, err = moveAside(path); err != nil {
		return nil, "", fmt.Errorf("cannot set the damaged %s aside: %w", path, err)
	}
	db, err = open(ctx, path, o)
	return db, setAside, err
}

// Malformed reports whether err says that the file is damaged or is no database.
func Malformed(err error) bool {
	var e sqlite3.Error
	if errors.As(err, &e) {
		return e.Code == sqlite3.ErrCorrupt || e.Code == sqlite3.ErrNotADB
	}
	return errors.Is(err, errDamaged)
}

// Full reports whether err says that the disk is full.
func Full(err error) bool {
	var e sqlite3.Error
	return errors.As(err, &e) && e.Code == sqlite3.ErrFull
}

var errDamaged = errors.New("the consistency check failed")

type connector struct {
	dsn    string
	driver *sqlite3.SQLiteDriver
}

func (c *connector) Connect(context.Context) (driver.Conn, error) { return c.driver.Open(c.dsn) }
func (c *connector) Driver() driver.Driver                        { return c.driver }

func open(ctx context.Context, path string, o Options) (*sql.DB, error) {
	if f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", path, err)
	} else if err := f.Close(); err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", path, err)
	}
	sync := "NORMAL"
	if o.Full {
		sync = "FULL"
	}
	dsn := "file:" + url.PathEscape(path) + "?_journal_mode=WAL&_busy_timeout=5000&_stmt_cache_size=16&_synchronous=" + sync +
		"&_cache_size=-" + strconv.Itoa(max(o.CacheKiB, 64))
	db := sql.OpenDB(&connector{dsn: dsn, driver: &sqlite3.SQLiteDriver{ConnectHook: func(c *sqlite3.SQLiteConn) error {
		// The log is cut back to 4 MiB after each checkpoint, so that a burst does not hold the disk for ever.
		_, err := c.Exec("PRAGMA wal_autocheckpoint = 1000; PRAGMA journal_size_limit = 4194304; PRAGMA temp_store = MEMORY", nil)
		return err
	}}})
	db.SetMaxOpenConns(max(o.Connections, 1))
	db.SetMaxIdleConns(1)
	if err := prepare(ctx, db, path, o); err != nil {
		_ = db.Close() // the first error says what is wrong
		return nil, err
	}
	return db, nil
}

func prepare(ctx context.Context, db *sql.DB, path string, o Options) error {
	var have int
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have); err != nil {
		return fmt.Errorf("cannot read %s: %w", path, err)
	}
	if have > len(o.Migrations) {
		return fmt.Errorf("cannot use %s (schema %d, this build knows %d): %w", path, have, len(o.Migrations), ErrNewer)
	}
	if o.Check && have > 0 {
		var verdict string
		if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
			return fmt.Errorf("cannot check %s: %w", path, err)
		}
		if verdict != "ok" {
			return fmt.Errorf("%s: %w: %s", path, errDamaged, verdict)
		}
	}
	for ; have < len(o.Migrations); have++ {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return fmt.Errorf("cannot upgrade %s: %w", path, err)
		}
		_, err = tx.ExecContext(ctx, o.Migrations[have]+"; PRAGMA user_version = "+strconv.Itoa(have+1))
		if err == nil {
			err = tx.Commit()
		}
		if err != nil {
			_ = tx.Rollback() // already over when Commit failed
			return fmt.Errorf("cannot upgrade %s to schema %d: %w", path, have+1, err)
		}
	}
	return nil
}

// moveAside renames the file, its log and its index, and forgets the oldest set-aside files beyond maxSetAside.
func moveAside(path string) (string, error) {
	n := 1
	for ; ; n++ {
		if _, err := os.Lstat(path + ".corrupt-" + strconv.Itoa(n)); errors.Is(err, os.ErrNotExist) {
			break
		} else if err != nil {
			return "", err
		}
		if n >= maxSetAside {
			break // the newest damage replaces the one before
		}
	}
	aside := path + ".corrupt-" + strconv.Itoa(n)
	for _, suffix := range []string{"-wal", "-shm", ""} {
		if err := os.Rename(path+suffix, aside+suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	return aside, nil
}

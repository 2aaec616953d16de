// Package sqlindex keeps the registry's index in an SQL database.
//
// # Contract
//
// Index implements registry.Index on a *sql.DB that somebody else opened, in tables of its own whose names begin with
// registry_. Every method is one transaction and durable as far as the database makes it so (SQLite: synchronous=FULL).
// The statements keep to what SQLite and PostgreSQL share: numbered parameters, ON CONFLICT, no types but TEXT and
// BIGINT. Lists are in byte order, which for PostgreSQL asks for a database with the collation C.
//
// # Concurrency
//
// All methods may be called from many goroutines and block for the database. Every transaction begins with a write, so
// that two of them never both read and then both wait to write.
package sqlindex

import (
	"context"
	"database/sql"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dhowfleet/dhow/fleet/registry"
)

//go:embed schema.sql
var schema string

// Index is a registry.Index.
type Index struct{ db *sql.DB }

var _ registry.Index = (*Index)(nil)

// Open makes the tables that are missing.
func Open(ctx context.Context, db *sql.DB) (*Index, error) {
	if _, err := db.ExecContext(ctx, schema); err != nil {
		return nil, fmt.Errorf("cannot make the registry's tables: %w", err)
	}
	return &Index{db}, nil
}

// update runs fn in a transaction.
func (x *Index) update(ctx context.Context, fn func(tx *sql.Tx) error) error {
	tx, err := x.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("cannot write registry index: %w", err)
	}
	defer tx.Rollback()
	if err := fn(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("cannot write registry index: %w", err)
	}
	return nil
}

// affected turns the result of a write to one row into ErrUnknown when there was none.
func affected(result sql.Result, err error) error {
	if err != nil {
		return fmt.Errorf("cannot write registry index: %w", err)
	}
	n, err := result.RowsAffected()
	if err == nil && n == 0 {
		return registry.ErrUnknown
	}
	return err
}

// found turns the error of reading one row into ErrUnknown when there was none.
func found(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return registry.ErrUnknown
	}
	if err != nil {
		return fmt.Errorf("cannot read registry index: %w", err)
	}
	return nil
}

// LinkBlob implements registry.Index.
func (x *Index) LinkBlob(ctx context.Context, repository string, d digest.Digest, size int64, now time.Time) error {
	_, err := x.db.ExecContext(ctx, `INSERT INTO registry_blobs (repository, digest, size, linked_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (repository, digest) DO UPDATE SET linked_at = excluded.linked_at, size = excluded.size`,
		repository, d.String(), size, now.UnixMicro())
	if err != nil {
		return fmt.Errorf("cannot write registry index: %w", err)
	}
	return nil
}

// Blob implements registry.Index.
func (x *Index) Blob(ctx context.Context, repository string, d digest.Digest) (int64, time.Time, error) {
	var size, linked int64
	err := x.db.QueryRowContext(ctx, `SELECT size, linked_at FROM registry_blobs WHERE repository = $1 AND digest = $2`,
		repository, d.String()).Scan(&size, &linked)
	return size, time.UnixMicro(linked), found(err)
}

// UnlinkBlob implements registry.Index.
func (x *Index) UnlinkBlob(ctx context.Context, repository string, d digest.Digest) error {
	err := affected(x.db.ExecContext(ctx, `DELETE FROM registry_blobs WHERE repository = $1 AND digest = $2
		AND NOT EXISTS (SELECT 1 FROM registry_references r WHERE r.repository = registry_blobs.repository AND r.digest = registry_blobs.digest)`,
		repository, d.String()))
	if errors.Is(err, registry.ErrUnknown) {
		if _, _, found := x.Blob(ctx, repository, d); found == nil {
			return registry.ErrReferenced
		}
	}
	return err
}

// PutManifest implements registry.Index.
func (x *Index) PutManifest(ctx context.Context, repository string, m registry.Manifest, now time.Time) (created bool, err error) {
	annotations, err := json.Marshal(m.Annotations)
	if err != nil {
		return false, fmt.Errorf("cannot write registry index: %w", err)
	}
	err = x.update(ctx, func(tx *sql.Tx) error {
		err := affected(tx.ExecContext(ctx, `INSERT INTO registry_manifests
			(repository, digest, media_type, artifact_type, size, subject, annotations, pushed_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
			ON CONFLICT (repository, digest) DO NOTHING`,
			repository, m.Digest.String(), m.MediaType, m.ArtifactType, m.Size, m.Subject.String(), string(annotations), now.UnixMicro()))
		created = err == nil
		if err != nil && !errors.Is(err, registry.ErrUnknown) {
			return err
		}
		// The write above holds off whoever would unlink what is looked for here. A manifest that was there already is
		// looked at again: a blob of it may have been lost and its row removed by hand.
		for _, d := range m.Blobs {
			if err := exists(ctx, tx, `SELECT 1 FROM registry_blobs WHERE repository = $1 AND digest = $2`, repository, d); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `INSERT INTO registry_references (repository, manifest, digest) VALUES ($1, $2, $3)
				ON CONFLICT (repository, manifest, digest) DO NOTHING`, repository, m.Digest.String(), d.String()); err != nil {
				return fmt.Errorf("cannot write registry index: %w", err)
			}
		}
		for _, d := range m.Manifests {
			if err := exists(ctx, tx, `SELECT 1 FROM registry_manifests WHERE repository = $1 AND digest = $2`, repository, d); err != nil {
				return err
			}
		}
		return nil
	})
	return created && err == nil, err
}

func exists(ctx context.Context, tx *sql.Tx, query, repository string, d digest.Digest) error {
	var one int
	err := found(tx.QueryRowContext(ctx, query, repository, d.String()).Scan(&one))
	if errors.Is(err, registry.ErrUnknown) {
		return &registry.MissingError{Digest: d}
	}
	return err
}

const manifestColumns = `digest, media_type, artifact_type, size, subject, annotations`

func scanManifest(scan func(...any) error) (registry.Manifest, error) {
	var m registry.Manifest
	var annotations string
	if err := scan(&m.Digest, &m.MediaType, &m.ArtifactType, &m.Size, &m.Subject, &annotations); err != nil {
		return m, err
	}
	return m, json.Unmarshal([]byte(annotations), &m.Annotations)
}

// Manifest implements registry.Index.
func (x *Index) Manifest(ctx context.Context, repository string, d digest.Digest) (registry.Manifest, error) {
	m, err := scanManifest(x.db.QueryRowContext(ctx, `SELECT `+manifestColumns+` FROM registry_manifests WHERE repository = $1 AND digest = $2`,
		repository, d.String()).Scan)
	return m, found(err)
}

// DeleteManifest implements registry.Index.
func (x *Index) DeleteManifest(ctx context.Context, repository string, d digest.Digest) error {
	return x.update(ctx, func(tx *sql.Tx) error {
		if err := affected(tx.ExecContext(ctx, `DELETE FROM registry_manifests WHERE repository = $1 AND digest = $2`, repository, d.String())); err != nil {
			return err
		}
		for _, statement := range []string{
			`DELETE FROM registry_references WHERE repository = $1 AND manifest = $2`,
			`DELETE FROM registry_tags WHERE repository = $1 AND digest = $2`,
		} {
			if _, err := tx.ExecContext(ctx, statement, repository, d.String()); err != nil {
				return fmt.Errorf("cannot write registry index: %w", err)
			}
		}
		return nil
	})
}

// Referrers implements registry.Index.
func (x *Index) Referrers(ctx context.Context, repository string, d digest.Digest, artifactType, after string, fn func(registry.Manifest) bool) error {
	rows, err := x.db.QueryContext(ctx, `SELECT `+manifestColumns+` FROM registry_manifests
		WHERE repository = $1 AND subject = $2 AND digest > $3 AND ($4 = '' OR artifact_type = $4) ORDER BY digest`,
		repository, d.String(), after, artifactType)
	if err != nil {
		return fmt.Errorf("cannot read registry index: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		m, err := scanManifest(rows.Scan)
		if err != nil {
			return fmt.Errorf("cannot read registry index: %w", err)
		}
		if !fn(m) {
			return nil
		}
	}
	return rows.Err()
}

// PutTag implements registry.Index.
func (x *Index) PutTag(ctx context.Context, repository, tag string, d digest.Digest, final bool, now time.Time) error {
	return x.update(ctx, func(tx *sql.Tx) error {
		statement := `INSERT INTO registry_tags (repository, tag, digest, tagged_at) VALUES ($1, $2, $3, $4)
			ON CONFLICT (repository, tag) DO UPDATE SET digest = excluded.digest, tagged_at = excluded.tagged_at`
		if final {
			statement += ` WHERE registry_tags.digest = excluded.digest`
		}
		err := affected(tx.ExecContext(ctx, statement, repository, tag, d.String(), now.UnixMicro()))
		if errors.Is(err, registry.ErrUnknown) {
			return registry.ErrTagTaken
		}
		if err != nil {
			return err
		}
		// The manifest may have been deleted since it was put.
		return found(tx.QueryRowContext(ctx, `SELECT digest FROM registry_manifests WHERE repository = $1 AND digest = $2`, repository, d.String()).Scan(&tag))
	})
}

// Tag implements registry.Index.
func (x *Index) Tag(ctx context.Context, repository, tag string) (digest.Digest, error) {
	var d digest.Digest
	err := x.db.QueryRowContext(ctx, `SELECT digest FROM registry_tags WHERE repository = $1 AND tag = $2`, repository, tag).Scan(&d)
	return d, found(err)
}

// DeleteTag implements registry.Index.
func (x *Index) DeleteTag(ctx context.Context, repository, tag string) error {
	return affected(x.db.ExecContext(ctx, `DELETE FROM registry_tags WHERE repository = $1 AND tag = $2`, repository, tag))
}

package sqlindex

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dhowfleet/dhow/fleet/registry"
)

// all reads the rows of a query.
func all[T any](ctx context.Context, db *sql.DB, scan func(*sql.Rows) (T, error), query string, args ...any) ([]T, error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("cannot read registry index: %w", err)
	}
	defer rows.Close()
	var list []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("cannot read registry index: %w", err)
		}
		list = append(list, v)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("cannot read registry index: %w", err)
	}
	return list, nil
}

func text(rows *sql.Rows) (s string, err error) { return s, rows.Scan(&s) }

// Tags implements registry.Index.
func (x *Index) Tags(ctx context.Context, repository, after string, limit int) ([]string, error) {
	tags, err := all(ctx, x.db, text, `SELECT tag FROM registry_tags WHERE repository = $1 AND tag > $2 ORDER BY tag LIMIT $3`, repository, after, limit)
	if err != nil || len(tags) > 0 {
		return tags, err
	}
	var one int
	return nil, found(x.db.QueryRowContext(ctx, `SELECT 1 WHERE EXISTS (SELECT 1 FROM registry_blobs WHERE repository = $1)
		OR EXISTS (SELECT 1 FROM registry_manifests WHERE repository = $1)`, repository).Scan(&one))
}

// Repositories implements registry.Index.
func (x *Index) Repositories(ctx context.Context, after string, limit int) ([]string, error) {
	return all(ctx, x.db, text, `SELECT repository FROM registry_blobs WHERE repository > $1
		UNION SELECT repository FROM registry_manifests WHERE repository > $1 ORDER BY repository LIMIT $2`, after, limit)
}

// AddUpload implements registry.Index.
func (x *Index) AddUpload(ctx context.Context, u registry.Upload) error {
	_, err := x.db.ExecContext(ctx, `INSERT INTO registry_uploads (id, repository, size, used_at) VALUES ($1, $2, $3, $4)`,
		u.ID, u.Repository, u.Size, u.Used.UnixMicro())
	if err != nil {
		return fmt.Errorf("cannot write registry index: %w", err)
	}
	return nil
}

// SetUpload implements registry.Index.
func (x *Index) SetUpload(ctx context.Context, u registry.Upload) error {
	return affected(x.db.ExecContext(ctx, `UPDATE registry_uploads SET size = $1, used_at = $2 WHERE id = $3 AND repository = $4`,
		u.Size, u.Used.UnixMicro(), u.ID, u.Repository))
}

// Upload implements registry.Index.
func (x *Index) Upload(ctx context.Context, repository, id string) (registry.Upload, error) {
	u := registry.Upload{ID: id, Repository: repository}
	var used int64
	err := x.db.QueryRowContext(ctx, `SELECT size, used_at FROM registry_uploads WHERE id = $1 AND repository = $2`, id, repository).Scan(&u.Size, &used)
	u.Used = time.UnixMicro(used)
	return u, found(err)
}

// RemoveUpload implements registry.Index.
func (x *Index) RemoveUpload(ctx context.Context, id string) error {
	if _, err := x.db.ExecContext(ctx, `DELETE FROM registry_uploads WHERE id = $1`, id); err != nil {
		return fmt.Errorf("cannot write registry index: %w", err)
	}
	return nil
}

// Uploads implements registry.Index.
func (x *Index) Uploads(ctx context.Context) ([]registry.Upload, error) {
	return all(ctx, x.db, func(rows *sql.Rows) (u registry.Upload, err error) {
		var used int64
		err = rows.Scan(&u.ID, &u.Repository, &u.Size, &used)
		u.Used = time.UnixMicro(used)
		return u, err
	}, `SELECT id, repository, size, used_at FROM registry_uploads ORDER BY id`)
}

// Usage implements registry.Index.
func (x *Index) Usage(ctx context.Context, repository string) (ofRepository, total int64, err error) {
	err = x.db.QueryRowContext(ctx, `SELECT
		(SELECT COALESCE(SUM(size), 0) FROM (SELECT digest, size FROM registry_blobs WHERE repository = $1
			UNION SELECT digest, size FROM registry_manifests WHERE repository = $1) AS own),
		(SELECT COALESCE(SUM(size), 0) FROM (SELECT digest, size FROM registry_blobs
			UNION SELECT digest, size FROM registry_manifests) AS everything)`, repository).Scan(&ofRepository, &total)
	return ofRepository, total, found(err)
}

// UnlinkUnused implements registry.Index.
func (x *Index) UnlinkUnused(ctx context.Context, before time.Time) (int, error) {
	result, err := x.db.ExecContext(ctx, `DELETE FROM registry_blobs WHERE linked_at < $1
		AND NOT EXISTS (SELECT 1 FROM registry_references r WHERE r.repository = registry_blobs.repository AND r.digest = registry_blobs.digest)
		AND NOT EXISTS (SELECT 1 FROM registry_uploads u WHERE u.repository = registry_blobs.repository)`, before.UnixMicro())
	if err != nil {
		return 0, fmt.Errorf("cannot write registry index: %w", err)
	}
	n, err := result.RowsAffected()
	return int(n), err
}

// Digests implements registry.Index.
func (x *Index) Digests(ctx context.Context) (map[digest.Digest]struct{}, error) {
	list, err := all(ctx, x.db, text, `SELECT digest FROM registry_blobs UNION SELECT digest FROM registry_manifests`)
	if err != nil {
		return nil, err
	}
	digests := make(map[digest.Digest]struct{}, len(list))
	for _, d := range list {
		digests[digest.Digest(d)] = struct{}{}
	}
	return digests, nil
}

package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/opencontainers/go-digest"

	"github.com/dhowfleet/dhow/models/blob"
	"github.com/dhowfleet/dhow/test/failpoint"
)

// Collected counts what Collect removed.
type Collected struct {
	Uploads, Links int
	blob.Collected
}

// Scrub hashes every blob again and moves those that are corrupt out of the way: from then on a pull of one is answered
// with 404 instead of wrong content, and the next push stores it anew. It reads the whole store, blocks for as long, and
// returns the digests of what was corrupt, also when ctx ends it early.
func (r *Registry) Scrub(ctx context.Context) (corrupt []digest.Digest, err error) {
	err = r.Store.Walk(func(i blob.Info) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := r.Store.Verify(i.Digest)
		if errors.Is(err, blob.ErrCorrupt) {
			corrupt = append(corrupt, i.Digest)
			r.Logger.LogAttrs(ctx, slog.LevelError, "registry blob is corrupt; push the models that use it again", slog.String("digest", i.Digest.String()))
			return nil
		}
		if errors.Is(err, blob.ErrNotFound) {
			return nil
		}
		return err
	})
	return corrupt, err
}

// Collect ends the upload sessions that rested too long, unlinks the blobs that no manifest needs, and removes the files
// that no repository has. It may run while pushes do; call it every hour or so.
func (r *Registry) Collect(ctx context.Context) (Collected, error) {
	var c Collected
	now := r.Now()
	uploads, err := r.Index.Uploads(ctx)
	if err != nil {
		return c, fmt.Errorf("cannot collect: %w", err)
	}
	for _, u := range uploads {
		if now.Sub(u.Used) <= r.UploadAge {
			continue
		}
		err := r.Store.RemoveSession(u.ID)
		if errors.Is(err, blob.ErrBusy) {
			// It rests no longer.
			continue
		}
		if err == nil {
			failpoint.Here("registry/session-expired")
			err = r.Index.RemoveUpload(ctx, u.ID)
		}
		if err != nil {
			return c, fmt.Errorf("cannot collect: %w", err)
		}
		r.ledger.end(u.ID)
		c.Uploads++
	}
	if c.Links, err = r.Index.UnlinkUnused(ctx, now.Add(-r.Grace)); err != nil {
		return c, fmt.Errorf("cannot collect: %w", err)
	}
	failpoint.Here("registry/links-collected")
	// What is linked from here on was stored or touched just before, and is spared for that.
	used, err := r.Index.Digests(ctx)
	if err != nil {
		return c, fmt.Errorf("cannot collect: %w", err)
	}
	c.Collected, err = r.Store.Collect(func(d digest.Digest) bool {
		_, ok := used[d]
		return ok
	}, max(r.Grace, r.UploadAge))
	failpoint.Here("registry/collected")
	return c, err
}

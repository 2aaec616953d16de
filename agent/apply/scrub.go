package apply

import (
	"context"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dhowfleet/dhow/agent/deploy"
	"github.com/dhowfleet/dhow/models/blob"
	"github.com/dhowfleet/dhow/models/bundle"
)

// scrub compares the digests of what is loaded once after a start, and collects what no copy needs now and then.
func (r *Reconciler) scrub(ctx context.Context) {
	for _, k := range r.loaded() {
		if ctx.Err() != nil {
			return
		}
		r.scrubCopy(ctx, k)
	}
	timer := time.NewTicker(collectEach)
	defer timer.Stop()
	for {
		r.collectBlobs(r.Grace)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
}

func (r *Reconciler) loaded() []deploy.Key {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []deploy.Key
	for _, e := range r.copies {
		if e.Loaded {
			out = append(out, e.Key)
		}
	}
	return out
}

// scrubCopy hashes the files of a copy. One that is corrupt is fetched again while the copy goes on serving from
// memory; then a session made from the good files takes its place.
func (r *Reconciler) scrubCopy(ctx context.Context, k deploy.Key) {
	files, err := r.manifestFiles(k)
	if err == nil {
		for _, f := range files {
			if ctx.Err() != nil {
				return
			}
			err = errors.Join(err, r.Blobs.Verify(f.Digest))
		}
	}
	switch {
	case err == nil:
		return
	case !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrNotFound):
		r.Logger.Warn("cannot check the files of a model", "model", k.Model, "version", k.Version, "error", err)
		return
	}
	r.Logger.Warn("a file of a model that serves is corrupt on disk and is fetched again", "model", k.Model, "version", k.Version, "error", err)
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.copies[k]
	if e == nil || e.Busy != deploy.None || e.State != deploy.Serving {
		return // it is on its way already, or leaving
	}
	e.Reload = true
	e.Reason, e.Message = deploy.WaitCorrupt, "a file of the bundle changed on disk and is fetched again"
	r.enter(e, deploy.Pending)
	r.put(ctx, e)
	r.signal()
	r.notify()
}

// quarantine hashes the files of a copy, so that those that are corrupt are moved out of the way.
func (r *Reconciler) quarantine(k deploy.Key) {
	files, err := r.manifestFiles(k)
	if err != nil {
		return // the manifest itself is what is corrupt, and was moved by reading it
	}
	for _, f := range files {
		if err := r.Blobs.Verify(f.Digest); err != nil {
			r.Logger.Warn("a file of a bundle is corrupt", "model", k.Model, "version", k.Version, "path", f.Path, "error", err)
		}
	}
}

// collectBlobs removes what no copy needs. Without a desired state, or when a manifest cannot be read, it is not known
// what is needed, and everything stays.
func (r *Reconciler) collectBlobs(grace time.Duration) {
	r.collect.Lock()
	defer r.collect.Unlock()
	r.mu.Lock()
	known := r.desired != nil
	keys := make([]deploy.Key, 0, len(r.copies))
	keep := map[digest.Digest]bool{}
	note := func(files []bundle.FileRef) {
		for _, f := range files {
			keep[f.Digest] = true
		}
	}
	for k, e := range r.copies {
		if e.deleted {
			continue
		}
		keys = append(keys, k)
		keep[digest.Digest(k.Digest)] = true
		note(e.files)
	}
	r.mu.Unlock()
	if !known {
		return
	}
	for _, k := range keys {
		files, err := r.manifestFiles(k)
		if errors.Is(err, blob.ErrNotFound) {
			continue // not fetched yet, so that it needs nothing that is here but for what e.files says
		}
		if err != nil {
			r.Logger.Warn("cannot say which files are needed; none is removed", "model", k.Model, "version", k.Version, "error", err)
			return
		}
		note(files)
	}
	got, err := r.Blobs.Collect(func(d digest.Digest) bool { return keep[d] }, grace)
	if err != nil {
		r.Logger.Warn("cannot remove files that no model needs", "error", err)
		return
	}
	if got.Blobs+got.Partials > 0 {
		r.Logger.Info("files that no model needs were removed", "blobs", got.Blobs, "partials", got.Partials, "bytes", got.Bytes)
	}
}

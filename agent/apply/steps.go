package apply

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/dhowfleet/dhow/agent/admission"
	"github.com/dhowfleet/dhow/agent/deploy"
	"github.com/dhowfleet/dhow/agent/health"
	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/models/blob"
	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/protocol/artifact"
	"github.com/dhowfleet/dhow/test/failpoint"
)

// download brings the manifest and every file of a bundle into the blob store.
func (r *Reconciler) download(ctx context.Context, k deploy.Key) deploy.Outcome {
	manifest, err := r.Fetch.Manifest(ctx, repository(k.Model), digest.Digest(k.Digest))
	if err != nil {
		return r.fetchOutcome(k, err)
	}
	files, err := bundle.FilesOf(manifest)
	if err != nil {
		return refused(deploy.ReasonBundleInvalid, err)
	}
	var total int64
	for _, f := range files {
		total += f.Size
	}
	r.mu.Lock()
	if e := r.copies[k]; e != nil {
		e.files, e.done = files, 0
	}
	r.mu.Unlock()
	before := int64(0)
	for _, f := range files {
		err := r.Fetch.Blob(ctx, repository(k.Model), f.Digest, f.Size, func(done int64) { r.progress(k, before+done) })
		if err != nil {
			return r.fetchOutcome(k, err)
		}
		before += f.Size
		r.progress(k, before)
	}
	failpoint.Here("apply/downloaded")
	r.Logger.Info("a bundle was fetched", "model", k.Model, "version", k.Version, "bytes", total, "files", len(files))
	return deploy.Outcome{}
}

func (r *Reconciler) progress(k deploy.Key, done int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.copies[k]; e != nil {
		e.done = done
	}
}

// fetchOutcome says what an error of a fetch means for the copy.
func (r *Reconciler) fetchOutcome(k deploy.Key, err error) deploy.Outcome {
	o := deploy.Outcome{RetryAfter: artifact.RetryAfter(err)}
	switch {
	case errors.Is(err, artifact.ErrUnavailable), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		o.Result, o.Text = deploy.Unavailable, "the manager cannot deliver the bundle now; the node tries again"
	case errors.Is(err, artifact.ErrNotFound):
		o.Result, o.Text = deploy.Missing, "the manager's registry does not have the bundle"
	case errors.Is(err, artifact.ErrDigestMismatch):
		o.Result, o.Text = deploy.Mismatch, "what the manager's registry sent is not what the digest names"
	case errors.Is(err, artifact.ErrNoSpace):
		o.Result, o.Text = deploy.NoSpace, "the disk has no room for the bundle"
		r.collectBlobs(0) // what no copy needs may make room at once
	case errors.Is(err, blob.ErrBusy):
		o.Result, o.Text = deploy.Unavailable, "another fetch of the same file is under way"
	default:
		o.Result, o.Text = deploy.NodeFault, "the bundle could not be written to disk"
		r.nodeFault(k, err)
	}
	r.Logger.Info("a bundle could not be fetched", "model", k.Model, "version", k.Version, "error", err)
	return o
}

func (r *Reconciler) nodeFault(k deploy.Key, err error) {
	r.Logger.Error("the node could not do its part for a model copy", "model", k.Model, "version", k.Version, "error", err)
}

// refused is the outcome of a copy that is at fault.
func refused(reason string, err error) deploy.Outcome {
	return deploy.Outcome{Result: deploy.Refused, Reason: reason, Text: bounded(err.Error())}
}

func bounded(text string) string {
	const most = 400
	if len(text) > most {
		return text[:most] + "..."
	}
	return text
}

// manifestFiles returns the files of a copy, from its manifest in the blob store.
func (r *Reconciler) manifestFiles(k deploy.Key) ([]bundle.FileRef, error) {
	manifest, err := r.Blobs.Read(digest.Digest(k.Digest), artifact.MaxManifest)
	if err != nil {
		return nil, err
	}
	return bundle.FilesOf(manifest)
}

// verify links the bundle's folder and checks everything that can be checked without running it.
func (r *Reconciler) verify(ctx context.Context, k deploy.Key) deploy.Outcome {
	files, err := r.manifestFiles(k)
	if err != nil {
		return r.diskOutcome(k, err)
	}
	if err := r.link(k, files); err != nil {
		return r.diskOutcome(k, err)
	}
	failpoint.Here("apply/linked")
	b, err := bundle.Load(os.DirFS(r.dir(k)))
	if err != nil {
		if err := ctx.Err(); err != nil {
			return deploy.Outcome{Result: deploy.Canceled}
		}
		// Corrupt files on disk are this node's fault and not the bundle's.
		if bad := r.verifyBlobs(files); bad != nil {
			return r.diskOutcome(k, bad)
		}
		return refused(deploy.ReasonBundleInvalid, err)
	}
	if b.Spec.Name != k.Model || b.Spec.Version != k.Version {
		return deploy.Outcome{Result: deploy.Refused, Reason: deploy.ReasonBundleInvalid,
			Text: fmt.Sprintf("the bundle calls itself %s:%s", b.Spec.Name, b.Spec.Version)}
	}
	r.keepSpec(k, &b.Spec, files)
	return deploy.Outcome{}
}

func (r *Reconciler) keepSpec(k deploy.Key, spec *bundle.Spec, files []bundle.FileRef) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.copies[k]; e != nil {
		e.spec, e.files = spec, files
		if e.done == 0 {
			for _, f := range files {
				e.done += f.Size
			}
		}
	}
}

func (r *Reconciler) link(k deploy.Key, files []bundle.FileRef) error {
	tree := make(map[string]digest.Digest, len(files))
	for _, f := range files {
		tree[f.Path] = f.Digest
	}
	if err := os.MkdirAll(filepath.Dir(r.dir(k)), 0o700); err != nil {
		return err
	}
	return r.Blobs.LinkTree(r.dir(k), tree)
}

// verifyBlobs hashes files again and returns the first error.
func (r *Reconciler) verifyBlobs(files []bundle.FileRef) error {
	for _, f := range files {
		if err := r.Blobs.Verify(f.Digest); err != nil {
			return err
		}
	}
	return nil
}

// diskOutcome says what an error of the blob store means for the copy.
func (r *Reconciler) diskOutcome(k deploy.Key, err error) deploy.Outcome {
	switch {
	case errors.Is(err, blob.ErrCorrupt), errors.Is(err, blob.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		r.Logger.Warn("a file of a bundle is corrupt or gone and is fetched again", "model", k.Model, "version", k.Version, "error", err)
		return deploy.Outcome{Result: deploy.Corrupt, Text: "a file of the bundle changed on disk and is fetched again"}
	case errors.Is(err, blob.ErrNoSpace):
		return deploy.Outcome{Result: deploy.NoSpace, Text: "the disk has no room for the bundle"}
	}
	r.nodeFault(k, err)
	return deploy.Outcome{Result: deploy.NodeFault, Text: "the bundle could not be read from disk"}
}

// spec returns bundle.yaml of a linked copy.
func (r *Reconciler) readSpec(k deploy.Key) (*bundle.Spec, error) {
	data, err := os.ReadFile(filepath.Join(r.dir(k), bundle.SpecFile))
	if err != nil {
		return nil, err
	}
	spec, err := bundle.ParseSpec(data)
	if err != nil {
		return nil, err
	}
	return &spec, nil
}

// probe runs the bundle in a process of its own.
func (r *Reconciler) probe(ctx context.Context, k deploy.Key) deploy.Outcome {
	spec, err := r.prepared(k)
	if err != nil {
		return r.diskOutcome(k, err)
	}
	v, err := r.Probe(ctx, r.dir(k), spec)
	if err != nil {
		return r.probeOutcome(k, err)
	}
	failpoint.Here("apply/probed")
	if !v.OK {
		if files, err := r.manifestFiles(k); err == nil {
			if bad := r.verifyBlobs(files); bad != nil {
				return r.diskOutcome(k, bad)
			}
		}
		return deploy.Outcome{Result: deploy.Refused, Reason: v.Reason, Text: bounded(v.Message)}
	}
	return deploy.Outcome{}
}

// probeOutcome says what it means for the copy that the node could not probe it.
func (r *Reconciler) probeOutcome(k deploy.Key, err error) deploy.Outcome {
	if refused, ok := errors.AsType[*admission.Refused](err); ok {
		return r.noMemory(k, refused)
	}
	r.nodeFault(k, err)
	if runtime, ok := errors.AsType[*inference.RuntimeError](err); ok {
		r.Health.Raise(health.OnnxRuntimeMissing, runtime.Message+" ("+runtime.Remedy+")")
		return deploy.Outcome{Result: deploy.NodeFault, Text: runtime.Code}
	}
	return deploy.Outcome{Result: deploy.NodeFault, Text: "the node could not probe the bundle"}
}

// remove takes a copy off the node. Its failure, if it failed, stays known.
func (r *Reconciler) remove(ctx context.Context, k deploy.Key) deploy.Outcome {
	r.mu.Lock()
	var runner Runner
	if e := r.copies[k]; e != nil {
		runner = e.runner
		e.runner, e.Loaded = nil, false
	}
	r.mu.Unlock()
	if runner != nil { // loaded, but never routed to
		if err := runner.Close(); err != nil {
			r.Logger.Warn("a model did not close cleanly", "model", k.Model, "version", k.Version, "error", err)
		}
	}
	if err := os.RemoveAll(r.dir(k)); err != nil {
		r.nodeFault(k, err)
		return deploy.Outcome{Result: deploy.NodeFault, Text: "the bundle could not be removed from disk"}
	}
	failpoint.Here("apply/removed")
	if err := r.Records.DeleteCopy(context.WithoutCancel(ctx), k); err != nil {
		r.Health.Raise(health.StateFailed, "")
		r.nodeFault(k, err)
		return deploy.Outcome{Result: deploy.NodeFault, Text: "the bundle's record could not be removed"}
	}
	r.mu.Lock()
	if e := r.copies[k]; e != nil {
		e.deleted = true
	}
	r.mu.Unlock()
	r.Logger.Info("a model copy is gone", "model", k.Model, "version", k.Version)
	r.collectBlobs(r.Grace)
	return deploy.Outcome{}
}

package apply

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dhowfleet/dhow/agent/admission"
	"github.com/dhowfleet/dhow/agent/deploy"
	"github.com/dhowfleet/dhow/agent/health"
	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/pipeline"
	"github.com/dhowfleet/dhow/agent/telemetry"
	"github.com/dhowfleet/dhow/models/blob"
	"github.com/dhowfleet/dhow/models/bundle"
)

// prepared makes sure that a copy's folder is there and whole by the sizes of its files, linking it anew when it is
// not, and returns its bundle.yaml.
func (r *Reconciler) prepared(k deploy.Key) (*bundle.Spec, error) {
	files, err := r.manifestFiles(k)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		info, err := os.Lstat(filepath.Join(r.dir(k), filepath.FromSlash(f.Path)))
		if err == nil && info.Mode().IsRegular() && info.Size() == f.Size {
			continue
		}
		if size, err := r.Blobs.Size(f.Digest); err != nil {
			return nil, err
		} else if size != f.Size {
			return nil, fmt.Errorf("%s has %d bytes, not %d: %w", f.Path, size, f.Size, blob.ErrCorrupt)
		}
		if err := r.link(k, files); err != nil {
			return nil, err
		}
		break
	}
	spec, err := r.readSpec(k)
	if err != nil {
		// It was checked when it came, so that what does not hold now changed on disk.
		return nil, errors.Join(err, blob.ErrCorrupt)
	}
	r.keepSpec(k, spec, files)
	return spec, nil
}

// load loads a copy into this process and runs it once, so that the first request finds it warm, and so that a copy
// that kills the process does so while the mark is set.
func (r *Reconciler) load(ctx context.Context, k deploy.Key) deploy.Outcome {
	spec, err := r.prepared(k)
	if err != nil {
		if errors.Is(err, blob.ErrCorrupt) {
			r.quarantine(k)
		}
		return r.diskOutcome(k, err)
	}
	if err := r.Declare(ctx, k.Model, k.Version, spec.Counters); err != nil {
		// The counters stay on the node; what the model answers matters more.
		r.Logger.Error("cannot record which counters may leave the node", "model", k.Model, "version", k.Version, "error", err)
	}
	runner, err := r.Open(ctx, r.dir(k), spec, served(r, k))
	if err != nil {
		return r.loadOutcome(ctx, k, err)
	}
	r.warm(ctx, k, spec, runner)
	r.mu.Lock()
	e := r.copies[k]
	if e != nil && !r.stopped {
		e.runner, e.provider = runner, runner.Provider()
		runner = nil
	}
	r.mu.Unlock()
	if runner != nil {
		return deploy.Outcome{Result: deploy.Canceled, Text: closeQuietly(runner)}
	}
	r.Health.Clear(health.OnnxRuntimeMissing)
	return deploy.Outcome{}
}

func closeQuietly(runner Runner) string {
	if err := runner.Close(); err != nil {
		return err.Error()
	}
	return ""
}

// warm answers the first golden sample. Its answer was compared in the probe; here only dying matters.
func (r *Reconciler) warm(ctx context.Context, k deploy.Key, spec *bundle.Spec, runner Runner) {
	samples, err := spec.Golden(os.DirFS(r.dir(k)))
	if err != nil || len(samples) == 0 {
		return
	}
	if _, err := runner.Infer(ctx, samples[0].Inputs, nil, nil); err != nil {
		r.Logger.Warn("a loaded model did not answer its first sample", "model", k.Model, "version", k.Version, "error", err)
	}
}

// loadOutcome says what an error of a load means for the copy.
func (r *Reconciler) loadOutcome(ctx context.Context, k deploy.Key, err error) deploy.Outcome {
	if ctx.Err() != nil {
		return deploy.Outcome{Result: deploy.Canceled}
	}
	if refused, ok := errors.AsType[*admission.Refused](err); ok {
		return r.noMemory(k, refused)
	}
	r.Logger.Error("cannot load a model", "model", k.Model, "version", k.Version, "error", err)
	if runtime, ok := errors.AsType[*inference.RuntimeError](err); ok {
		r.Health.Raise(health.OnnxRuntimeMissing, runtime.Message+" ("+runtime.Remedy+")")
		return deploy.Outcome{Result: deploy.NodeFault, Text: runtime.Code}
	}
	if files, filesErr := r.manifestFiles(k); filesErr != nil {
		return r.diskOutcome(k, filesErr)
	} else if bad := r.verifyBlobs(files); bad != nil {
		return r.diskOutcome(k, bad)
	}
	switch serving := served(r, k); codeOf(err) {
	case telemetry.Internal:
		r.nodeFault(k, err)
		return deploy.Outcome{Result: deploy.NodeFault, Text: "the node could not load the bundle"}
	case telemetry.Deadline:
		if serving { // it was quick enough before: the machine is busy
			return deploy.Outcome{Result: deploy.NodeFault, Text: "loading took longer than the bundle allows; the node tries again"}
		}
		return deploy.Outcome{Result: deploy.Refused, Reason: deploy.ReasonTimeLimit, Text: "loading took longer than the bundle allows"}
	}
	// The error itself may quote a WASM step; what goes to the manager is made of names.
	part := "the bundle"
	if failed, ok := errors.AsType[*pipeline.Error](err); ok && failed.Step != "" {
		part = failed.Step
	}
	return deploy.Outcome{Result: deploy.Refused, Reason: deploy.ReasonLoadFailed, Text: part + " could not be loaded; the agent's log says why"}
}

// noMemory says what it means that a copy is not admitted: others may go, but the machine does not grow.
func (r *Reconciler) noMemory(k deploy.Key, refused *admission.Refused) deploy.Outcome {
	r.Logger.Warn("there is no memory for a model", "model", k.Model, "version", k.Version, "code", refused.Code, "message", refused.Message, "remedy", refused.Remedy)
	if refused.Lasting {
		return deploy.Outcome{Result: deploy.Refused, Reason: deploy.ReasonMemoryLimit, Text: bounded(refused.Error())}
	}
	return deploy.Outcome{Result: deploy.NoMemory, Text: bounded(refused.Error())}
}

func codeOf(err error) telemetry.Code {
	var coded interface{ Code() telemetry.Code }
	if errors.As(err, &coded) {
		return coded.Code()
	}
	return telemetry.ModelError
}

// served reports whether the copy has served before.
func served(r *Reconciler, k deploy.Key) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.copies[k]
	return e != nil && (e.State == deploy.Serving || e.State == deploy.Draining)
}

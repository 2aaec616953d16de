package fleet

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/dhowfleet/dhow/fleet/store"
	"github.com/dhowfleet/dhow/models/bundle"
)

// modelsPrefix begins the repositories whose tags are versions of models.
const modelsPrefix = "models/"

// onTag checks and records what is pushed as a version of a model. It comes before the tag is acknowledged, and again
// when the same is pushed again, so that a version whose tag was lost in a crash is complete after one more push.
func (m *Manager) onTag(ctx context.Context, repository, tag string, d digest.Digest, manifest []byte) error {
	model, ok := strings.CutPrefix(repository, modelsPrefix)
	if !ok {
		return nil
	}
	if err := bundle.ValidName(model); err != nil {
		return fmt.Errorf("repository %s: %w", repository, err)
	}
	if err := bundle.ValidVersion(tag); err != nil {
		return fmt.Errorf("the tags of %s are versions: %w", repository, err)
	}
	files, err := bundle.FilesOf(manifest)
	if err != nil {
		return err
	}
	var size uint64
	for _, f := range files {
		size += uint64(f.Size)
		if f.Path != bundle.SpecFile {
			continue
		}
		// bundle.yaml is the truth of what the bundle is called; annotations only repeat it.
		data, err := m.blobs.Read(f.Digest, bundle.MaxSpecBytes)
		if err != nil {
			return fmt.Errorf("cannot read %s of the bundle: %w", bundle.SpecFile, err)
		}
		spec, err := bundle.ParseSpec(data)
		if err != nil {
			return err
		}
		if spec.Name != model || spec.Version != tag {
			return fmt.Errorf("%s is that of %s version %s, it cannot be pushed as %s version %s", bundle.SpecFile, spec.Name, spec.Version, model, tag)
		}
	}
	if err := m.store.RecordVersion(ctx, model, tag, d.String(), size); err != nil {
		return err
	}
	m.deps.Logger.Info("version published", "model", model, "version", tag, "digest", d.String(), "bytes", size)
	return nil
}

// onDelete keeps the content of recorded versions: nodes pull it by digest for as long as a rollout may name it.
func (m *Manager) onDelete(ctx context.Context, repository, reference string) error {
	model, ok := strings.CutPrefix(repository, modelsPrefix)
	if !ok {
		return nil
	}
	r, err := m.store.Get(ctx, store.KindModel, model)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, v := range r.GetModel().GetStatus().GetVersions() {
		if reference == v.GetVersion() || reference == v.GetManifestDigest() {
			return fmt.Errorf("it is version %s of model %s; delete the model first", v.GetVersion(), model)
		}
	}
	return nil
}

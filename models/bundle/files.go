package bundle

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// FileRef is a file of a bundle as its manifest describes it.
type FileRef struct {
	Path      string
	Digest    digest.Digest
	Size      int64
	MediaType string
}

// FilesOf reads the manifest of a bundle, which may come from anywhere. The paths that it returns are valid, distinct
// (on a file system that ignores case too) and none is a folder of another; sizes are within the bounds of a bundle;
// digests are well-formed SHA-256; bundle.yaml is among them. Files are in the order of the manifest.
func FilesOf(manifestJSON []byte) ([]FileRef, error) {
	m, err := parseManifest(manifestJSON)
	if err != nil {
		return nil, err
	}
	var known paths
	var total int64
	var out []FileRef
	for i, l := range m.Layers {
		p, ok := l.Annotations[AnnotationFilepath]
		if !ok {
			p, ok = l.Annotations[draftFilepath]
		}
		switch {
		case !ok:
			return nil, fmt.Errorf("layer %d of the manifest has no annotation %s", i, AnnotationFilepath)
		case !strings.HasPrefix(l.MediaType, "application/vnd.cncf.model.") && !strings.HasPrefix(l.MediaType, "application/vnd.cnai.model.") || !strings.HasSuffix(l.MediaType, ".raw"):
			return nil, fmt.Errorf("layer %d of the manifest (%q) has the media type %q; only single files as they are can be used, not archives", i, p, l.MediaType)
		}
		if err := ValidPath(p); err != nil {
			return nil, fmt.Errorf("layer %d of the manifest: %w", i, err)
		}
		if err := known.add(p); err != nil {
			return nil, fmt.Errorf("layer %d of the manifest: %w", i, err)
		}
		if err := l.check(MaxFileBytes); err != nil {
			return nil, fmt.Errorf("layer %d of the manifest (%q): %w", i, p, err)
		}
		if total += l.Size; total > MaxTotalBytes {
			return nil, fmt.Errorf("the manifest's layers have more than %s", FormatSize(MaxTotalBytes))
		}
		out = append(out, FileRef{Path: p, Digest: l.Digest, Size: l.Size, MediaType: l.MediaType})
	}
	at := slices.IndexFunc(out, func(f FileRef) bool { return f.Path == SpecFile })
	if at < 0 {
		return nil, fmt.Errorf("the manifest is no bundle's: it has no %s", SpecFile)
	}
	if out[at].Size > MaxSpecBytes {
		return nil, fmt.Errorf("%s has %d bytes, at most %d are allowed", SpecFile, out[at].Size, MaxSpecBytes)
	}
	return out, nil
}

// NameOf returns the name and version that a bundle's manifest gives itself. They are checked for form only: the truth
// is bundle.yaml.
func NameOf(manifestJSON []byte) (name, version string, err error) {
	m, err := parseManifest(manifestJSON)
	if err != nil {
		return "", "", err
	}
	name, version = m.Annotations[AnnotationTitle], m.Annotations[AnnotationVersion]
	if err := ValidName(name); err != nil {
		return "", "", fmt.Errorf("annotation %s of the manifest: %w", AnnotationTitle, err)
	}
	if err := ValidVersion(version); err != nil {
		return "", "", fmt.Errorf("annotation %s of the manifest: %w", AnnotationVersion, err)
	}
	return name, version, nil
}

func parseManifest(data []byte) (*manifest, error) {
	if len(data) > MaxManifestBytes {
		return nil, fmt.Errorf("the manifest has %d bytes, at most %d are allowed", len(data), MaxManifestBytes)
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("the manifest is no JSON of an image manifest: %w", err)
	}
	switch {
	case m.SchemaVersion != 2 || m.MediaType != MediaTypeManifest:
		return nil, fmt.Errorf("the manifest is of type %q, schema %d; a bundle has %s, schema 2", m.MediaType, m.SchemaVersion, MediaTypeManifest)
	case m.ArtifactType != ArtifactType && m.Config.MediaType != MediaTypeConfig:
		return nil, fmt.Errorf("the manifest describes %q, not a model", m.ArtifactType)
	case len(m.Layers) == 0 || len(m.Layers) > MaxFiles:
		return nil, fmt.Errorf("the manifest has %d layers; a bundle has 1 to %d", len(m.Layers), MaxFiles)
	}
	if err := m.Config.check(MaxManifestBytes); err != nil {
		return nil, fmt.Errorf("the manifest's config: %w", err)
	}
	return &m, nil
}

func (d *descriptor) check(most int64) error {
	if d.Size < 0 || d.Size > most {
		return fmt.Errorf("its size of %d bytes is outside of 0 to %d", d.Size, most)
	}
	if err := d.Digest.Validate(); err != nil || d.Digest.Algorithm() != digest.SHA256 {
		return fmt.Errorf("%q is no sha256 digest", d.Digest)
	}
	return nil
}

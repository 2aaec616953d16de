package bundle

import (
	_ "crypto/sha256" // digest.SHA256 needs it linked in
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// The media types and annotations of ModelPack, and of the OCI image manifest that carries them.
const (
	MediaTypeManifest = "application/vnd.oci.image.manifest.v1+json"
	ArtifactType      = "application/vnd.cncf.model.manifest.v1+json"
	MediaTypeConfig   = "application/vnd.cncf.model.config.v1+json"

	MediaTypeWeight       = "application/vnd.cncf.model.weight.v1.raw"
	MediaTypeWeightConfig = "application/vnd.cncf.model.weight.config.v1.raw"
	MediaTypeDoc          = "application/vnd.cncf.model.doc.v1.raw"
	MediaTypeCode         = "application/vnd.cncf.model.code.v1.raw"
	MediaTypeDataset      = "application/vnd.cncf.model.dataset.v1.raw"

	AnnotationFilepath = "org.cncf.model.filepath"
	AnnotationMetadata = "org.cncf.model.file.metadata+json"
	// AnnotationVersion on the manifest is the bundle's version, AnnotationTitle its name.
	AnnotationVersion = "org.opencontainers.image.version"
	AnnotationTitle   = "org.opencontainers.image.title"

	// draftFilepath is what ModelPack's drafts called AnnotationFilepath.
	draftFilepath = "org.cnai.model.filepath"
)

// MaxManifestBytes bounds a manifest; OCI registries accept as much.
const MaxManifestBytes = 4 << 20

// Hash fills in the digest of every file. It reads the whole bundle.
func (b *Bundle) Hash(fsys fs.FS) error {
	for i := range b.Files {
		f := &b.Files[i]
		r, err := fsys.Open(f.Path)
		if err != nil {
			return fmt.Errorf("cannot open %s: %w", f.Path, err)
		}
		h := digest.SHA256.Digester()
		n, err := io.Copy(h.Hash(), r)
		r.Close()
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", f.Path, err)
		}
		if n != f.Size {
			return fmt.Errorf("%s had %d bytes when the bundle was checked and has %d now", f.Path, f.Size, n)
		}
		f.Digest = h.Digest()
	}
	return nil
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      digest.Digest     `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        descriptor        `json:"config"`
	Layers        []descriptor      `json:"layers"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

type fileMetadata struct {
	Name     string `json:"name"`
	Mode     uint32 `json:"mode"`
	UID      uint32 `json:"uid"`
	GID      uint32 `json:"gid"`
	Size     int64  `json:"size"`
	ModTime  string `json:"mtime"`
	Typeflag byte   `json:"typeflag"`
}

type modelConfig struct {
	Descriptor struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	} `json:"descriptor"`
	ModelFS struct {
		Type    string          `json:"type"`
		DiffIDs []digest.Digest `json:"diffIds"`
	} `json:"modelfs"`
	Config struct {
		Format string `json:"format"`
	} `json:"config"`
}

// Manifest returns the OCI manifest of a hashed bundle and the config blob that it refers to, both to be pushed as they
// are. The same files give the same bytes: nothing in them tells when or where they were made.
func (b *Bundle) Manifest() (manifestJSON, configJSON []byte, err error) {
	var c modelConfig
	c.Descriptor.Name, c.Descriptor.Version = b.Spec.Name, b.Spec.Version
	c.ModelFS.Type, c.Config.Format = "layers", "onnx"
	m := manifest{
		SchemaVersion: 2, MediaType: MediaTypeManifest, ArtifactType: ArtifactType,
		Annotations: map[string]string{AnnotationTitle: b.Spec.Name, AnnotationVersion: b.Spec.Version},
	}
	for _, f := range b.Files {
		if f.Digest == "" {
			return nil, nil, fmt.Errorf("cannot describe %s: its digest is not known", f.Path)
		}
		meta, err := json.Marshal(fileMetadata{Name: path.Base(f.Path), Mode: 0o644, Size: f.Size, ModTime: "1970-01-01T00:00:00Z", Typeflag: '0'})
		if err != nil {
			return nil, nil, err
		}
		c.ModelFS.DiffIDs = append(c.ModelFS.DiffIDs, f.Digest)
		m.Layers = append(m.Layers, descriptor{
			MediaType: b.mediaType(f.Path), Digest: f.Digest, Size: f.Size,
			Annotations: map[string]string{AnnotationFilepath: f.Path, AnnotationMetadata: string(meta)},
		})
	}
	if configJSON, err = json.Marshal(c); err != nil {
		return nil, nil, err
	}
	m.Config = descriptor{MediaType: MediaTypeConfig, Digest: digest.FromBytes(configJSON), Size: int64(len(configJSON))}
	if manifestJSON, err = json.Marshal(m); err != nil {
		return nil, nil, err
	}
	if len(manifestJSON) > MaxManifestBytes {
		return nil, nil, fmt.Errorf("the manifest has %d bytes, at most %d are allowed: the bundle has too many files", len(manifestJSON), MaxManifestBytes)
	}
	return manifestJSON, configJSON, nil
}

// mediaType says what a file is to those who know ModelPack but not Dhow.
func (b *Bundle) mediaType(p string) string {
	isVariant := slices.ContainsFunc(b.Spec.Variants, func(v Variant) bool { return v.File == p })
	switch ext := strings.ToLower(path.Ext(p)); {
	case isVariant || ext == ".onnx" || ext == ".data" || ext == ".bin":
		return MediaTypeWeight
	case ext == ".wasm":
		return MediaTypeCode
	case b.Spec.GoldenDir != "" && strings.HasPrefix(p, b.Spec.GoldenDir+"/"):
		return MediaTypeDataset
	case ext == ".md" || p == "LICENSE" || p == "NOTICE":
		return MediaTypeDoc
	}
	return MediaTypeWeightConfig
}

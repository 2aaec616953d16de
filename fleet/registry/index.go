package registry

import (
	"context"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"
)

var (
	// ErrUnknown says that the index has no such row.
	ErrUnknown = errors.New("unknown")
	// ErrReferenced says that a manifest of the repository refers to the blob.
	ErrReferenced = errors.New("referenced by a manifest")
	// ErrTagTaken says that the tag names another digest and may not move.
	ErrTagTaken = errors.New("tag names another digest")
)

// MissingError says which reference of a manifest the repository does not have.
type MissingError struct{ Digest digest.Digest }

func (e *MissingError) Error() string { return "repository does not have " + e.Digest.String() }

// Manifest is what the index knows of a manifest.
type Manifest struct {
	Digest       digest.Digest
	MediaType    string
	ArtifactType string
	Size         int64
	Subject      digest.Digest // empty: none
	Annotations  map[string]string
	// Blobs and Manifests are what it refers to and the repository must have. They are set when it is put, not read.
	Blobs, Manifests []digest.Digest
}

// Upload is an open upload session.
type Upload struct {
	ID, Repository string
	Size           int64
	Used           time.Time
}

// Index knows which repository has what. Every change is one transaction, durable when the call returns. Methods with a
// repository return ErrUnknown for what that repository does not have. Lists are in byte order and begin after the name
// "after".
type Index interface {
	// LinkBlob says that the repository has the blob, from now on.
	LinkBlob(ctx context.Context, repository string, d digest.Digest, size int64, now time.Time) error
	// Blob returns the blob's size and when it was last linked.
	Blob(ctx context.Context, repository string, d digest.Digest) (size int64, linked time.Time, err error)
	// UnlinkBlob fails with ErrReferenced while a manifest of the repository refers to the blob.
	UnlinkBlob(ctx context.Context, repository string, d digest.Digest) error

	// PutManifest stores the row and the references of a manifest and reports whether it is new. It fails with a
	// *MissingError when the repository does not have all it refers to.
	PutManifest(ctx context.Context, repository string, m Manifest, now time.Time) (created bool, err error)
	Manifest(ctx context.Context, repository string, d digest.Digest) (Manifest, error)
	// DeleteManifest removes it and the tags that name it.
	DeleteManifest(ctx context.Context, repository string, d digest.Digest) error
	// Referrers calls fn for the manifests whose subject is d until fn returns false; artifactType "" is any.
	Referrers(ctx context.Context, repository string, d digest.Digest, artifactType, after string, fn func(Manifest) bool) error

	// PutTag fails with ErrTagTaken when final is set and the tag names another digest.
	PutTag(ctx context.Context, repository, tag string, d digest.Digest, final bool, now time.Time) error
	Tag(ctx context.Context, repository, tag string) (digest.Digest, error)
	DeleteTag(ctx context.Context, repository, tag string) error
	// Tags returns ErrUnknown for a repository that has nothing at all.
	Tags(ctx context.Context, repository, after string, limit int) ([]string, error)
	Repositories(ctx context.Context, after string, limit int) ([]string, error)

	// AddUpload stores a new session; SetUpload changes size and time of one that exists.
	AddUpload(ctx context.Context, u Upload) error
	SetUpload(ctx context.Context, u Upload) error
	Upload(ctx context.Context, repository, id string) (Upload, error)
	RemoveUpload(ctx context.Context, id string) error
	Uploads(ctx context.Context) ([]Upload, error)

	// Usage returns the bytes of one repository, and of all with shared content counted once.
	Usage(ctx context.Context, repository string) (ofRepository, total int64, err error)
	// UnlinkUnused removes the links made before a time, in repositories without upload sessions, of blobs to which no
	// manifest of the repository refers, and returns their number.
	UnlinkUnused(ctx context.Context, before time.Time) (int, error)
	// Digests returns the blobs and manifests that any repository has.
	Digests(ctx context.Context) (map[digest.Digest]struct{}, error)
}

package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dhowfleet/dhow/models/blob"
	"github.com/dhowfleet/dhow/test/failpoint"
)

const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"

	// maxReferences bounds the descriptors in a manifest, maxTags the tags set with one push.
	maxReferences = 4096
	maxTags       = 16
)

func unknownManifest(reference string) error {
	return refuse(http.StatusNotFound, "MANIFEST_UNKNOWN", "the repository does not have manifest %s", reference)
}

func invalidManifest(format string, args ...any) error {
	return refuse(http.StatusBadRequest, "MANIFEST_INVALID", format, args...)
}

// document is what the registry reads of a manifest, be it an image's or an index.
type document struct {
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType"`
	Config       *v1.Descriptor    `json:"config"`
	Layers       []v1.Descriptor   `json:"layers"`
	Manifests    []v1.Descriptor   `json:"manifests"`
	Subject      *v1.Descriptor    `json:"subject"`
	Annotations  map[string]string `json:"annotations"`
}

// readManifest checks a manifest and returns what the index shall know of it, and the descriptors of the blobs that it
// needs.
func readManifest(data []byte, contentType string) (Manifest, []v1.Descriptor, error) {
	var doc document
	if err := json.Unmarshal(data, &doc); err != nil {
		return Manifest{}, nil, invalidManifest("the manifest is not the JSON of one: %v", err)
	}
	mediaType := doc.MediaType
	if contentType != "" {
		declared, _, err := mime.ParseMediaType(contentType)
		if err != nil {
			return Manifest{}, nil, invalidManifest("content type %q cannot be read", contentType)
		}
		if mediaType != "" && mediaType != declared {
			return Manifest{}, nil, invalidManifest("the content type is %s, the manifest says it is %s", declared, mediaType)
		}
		mediaType = declared
	}
	m := Manifest{MediaType: mediaType, ArtifactType: doc.ArtifactType, Size: int64(len(data)), Annotations: doc.Annotations}
	var blobs, manifests []v1.Descriptor
	switch mediaType {
	case v1.MediaTypeImageManifest, dockerManifest:
		if doc.Config == nil || doc.Manifests != nil {
			return Manifest{}, nil, invalidManifest("an image's manifest has a config and no manifests")
		}
		blobs = append([]v1.Descriptor{*doc.Config}, doc.Layers...)
		if m.ArtifactType == "" {
			m.ArtifactType = doc.Config.MediaType
		}
	case v1.MediaTypeImageIndex, dockerList:
		if doc.Config != nil || doc.Layers != nil {
			return Manifest{}, nil, invalidManifest("an index has manifests, no config and no layers")
		}
		manifests = doc.Manifests
	default:
		return Manifest{}, nil, refuse(http.StatusUnsupportedMediaType, "MANIFEST_INVALID", "manifests of type %q are not supported", mediaType)
	}
	if len(blobs)+len(manifests) > maxReferences {
		return Manifest{}, nil, invalidManifest("it refers to %d things, at most %d", len(blobs)+len(manifests), maxReferences)
	}
	// Content that may not be distributed lies elsewhere, as its URLs say.
	blobs = slices.DeleteFunc(blobs, func(d v1.Descriptor) bool {
		return strings.Contains(d.MediaType, ".nondistributable.") || strings.Contains(d.MediaType, ".foreign.")
	})
	for _, d := range slices.Concat(blobs, manifests) {
		if blob.Check(d.Digest) != nil || d.Size < 0 {
			return Manifest{}, nil, invalidManifest("descriptor %q of %d bytes is malformed", d.Digest, d.Size)
		}
	}
	for _, d := range blobs {
		m.Blobs = append(m.Blobs, d.Digest)
	}
	for _, d := range manifests {
		m.Manifests = append(m.Manifests, d.Digest)
	}
	if doc.Subject != nil {
		if blob.Check(doc.Subject.Digest) != nil {
			return Manifest{}, nil, invalidManifest("subject %q is malformed", doc.Subject.Digest)
		}
		m.Subject = doc.Subject.Digest
	}
	slices.Sort(m.Blobs)
	slices.Sort(m.Manifests)
	m.Blobs, m.Manifests = slices.Compact(m.Blobs), slices.Compact(m.Manifests)
	return m, blobs, nil
}

// putManifest serves PUT by tag, by digest, and by digest with tags as parameters.
func (r *Registry) putManifest(w http.ResponseWriter, req *http.Request, t target) error {
	if req.ContentLength > MaxManifest {
		return tooLarge()
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(r.StallTimeout)) // Where it is not supported, the transport limits.
	data, err := io.ReadAll(io.LimitReader(req.Body, MaxManifest+1))
	_ = control.SetReadDeadline(time.Time{})
	if err != nil {
		return invalidManifest("the body ended early")
	}
	if len(data) > MaxManifest {
		return tooLarge()
	}
	m, blobs, err := readManifest(data, req.Header.Get("Content-Type"))
	if err != nil {
		return err
	}
	tags := slices.Compact(slices.Sorted(slices.Values(req.URL.Query()["tag"])))
	if tagName.MatchString(t.reference) {
		m.Digest = digest.FromBytes(data)
		tags = []string{t.reference}
	} else {
		if m.Digest, err = parseDigest(t.reference); err != nil {
			return err
		}
		if m.Digest.Algorithm().FromBytes(data) != m.Digest {
			return refuse(http.StatusBadRequest, "DIGEST_INVALID", "the manifest's digest is not %s", m.Digest)
		}
	}
	if len(tags) > maxTags {
		return invalidManifest("%d tags are too many for one push, at most %d", len(tags), maxTags)
	}
	for _, tag := range tags {
		if !tagName.MatchString(tag) {
			return refuse(http.StatusBadRequest, "TAG_INVALID", "%q cannot be a tag", tag)
		}
	}
	if err := r.has(req, t.repository, blobs); err != nil {
		return err
	}
	if err := r.store(req, t.repository, m, data, tags); err != nil {
		return err
	}
	if m.Subject != "" {
		w.Header().Set("OCI-Subject", m.Subject.String())
	}
	for _, tag := range tags {
		w.Header().Add("OCI-Tag", tag)
	}
	created(w, "/v2/"+t.repository+"/manifests/"+m.Digest.String(), m.Digest)
	return nil
}

func tooLarge() error {
	return refuse(http.StatusRequestEntityTooLarge, "MANIFEST_INVALID", "a manifest has at most %d bytes", MaxManifest)
}

// has checks that the repository has each blob, on disk and of the size that the manifest promises: a node refuses to
// pull what is not. It keeps Collect away from them until the manifest refers to them.
func (r *Registry) has(req *http.Request, repository string, blobs []v1.Descriptor) error {
	for _, d := range blobs {
		size, _, err := r.Index.Blob(req.Context(), repository, d.Digest)
		if err == nil {
			err = r.Store.Touch(d.Digest)
		}
		if errors.Is(err, ErrUnknown) || errors.Is(err, blob.ErrNotFound) {
			return missing(d.Digest)
		}
		if err != nil {
			return err
		}
		if size != d.Size {
			return invalidManifest("blob %s has %d bytes, the manifest says %d", d.Digest, size, d.Size)
		}
	}
	return nil
}

func missing(d digest.Digest) error {
	return &fault{
		status: http.StatusNotFound, code: "MANIFEST_BLOB_UNKNOWN",
		message: "the manifest refers to " + d.String() + ", which the repository does not have", detail: map[string]any{"digest": d},
	}
}

// store keeps the manifest and then sets its tags.
func (r *Registry) store(req *http.Request, repository string, m Manifest, data []byte, tags []string) error {
	ctx := req.Context()
	if _, err := r.Index.Manifest(ctx, repository, m.Digest); errors.Is(err, ErrUnknown) {
		a, err := r.allowance(ctx, repository)
		if err != nil {
			return err
		}
		if err := a.fits(m.Size, m.Size); err != nil {
			return err
		}
	}
	// Reading first finds out whether what is there is corrupt, so that this push mends it.
	if _, err := r.Store.Read(m.Digest, MaxManifest); err != nil {
		if err := r.Store.Put(ctx, bytes.NewReader(data), m.Digest, m.Size); err != nil {
			return err
		}
	} else if err := r.Store.Touch(m.Digest); err != nil {
		return err
	}
	failpoint.Here("registry/manifest-stored")
	isNew, err := r.Index.PutManifest(ctx, repository, m, r.Now())
	var absent *MissingError
	if errors.As(err, &absent) {
		return missing(absent.Digest)
	}
	if err != nil {
		return err
	}
	failpoint.Here("registry/manifest-indexed")
	for _, tag := range tags {
		if err := r.tag(req, repository, tag, m.Digest, data); err != nil {
			if isNew {
				// Nobody asked for it without its tag. If this fails, an untagged manifest remains, which is harmless.
				_ = r.Index.DeleteManifest(ctx, repository, m.Digest)
			}
			return err
		}
	}
	return nil
}

// tag asks OnTag and sets the tag.
func (r *Registry) tag(req *http.Request, repository, tag string, d digest.Digest, data []byte) error {
	ctx := req.Context()
	r.tagging.Lock()
	defer r.tagging.Unlock()
	final := r.Immutable(repository)
	taken := refuse(http.StatusConflict, "TAG_IMMUTABLE", "tag %s of %s names other content and never moves; push under a new tag", tag, repository)
	if final {
		now, err := r.Index.Tag(ctx, repository, tag)
		if err == nil && now != d {
			return taken
		}
		if err != nil && !errors.Is(err, ErrUnknown) {
			return err
		}
	}
	if r.OnTag != nil {
		if err := r.OnTag(ctx, repository, tag, d, data); err != nil {
			return refuse(http.StatusBadRequest, "MANIFEST_INVALID", "%s", strings.ToValidUTF8(err.Error(), "?"))
		}
	}
	failpoint.Here("registry/tag-accepted")
	err := r.Index.PutTag(ctx, repository, tag, d, final, r.Now())
	if errors.Is(err, ErrTagTaken) {
		return taken
	}
	if err != nil {
		return err
	}
	failpoint.Here("registry/tagged")
	return nil
}

// resolve finds the manifest that a tag or digest names.
func (r *Registry) resolve(req *http.Request, t target) (Manifest, error) {
	d := digest.Digest(t.reference)
	if tagName.MatchString(t.reference) {
		var err error
		if d, err = r.Index.Tag(req.Context(), t.repository, t.reference); err != nil {
			if errors.Is(err, ErrUnknown) {
				return Manifest{}, unknownManifest(t.reference)
			}
			return Manifest{}, err
		}
	} else if _, err := parseDigest(t.reference); err != nil {
		return Manifest{}, err
	}
	m, err := r.Index.Manifest(req.Context(), t.repository, d)
	if errors.Is(err, ErrUnknown) {
		return Manifest{}, unknownManifest(t.reference)
	}
	return m, err
}

// getManifest serves GET and HEAD.
func (r *Registry) getManifest(w http.ResponseWriter, req *http.Request, t target) error {
	m, err := r.resolve(req, t)
	if err != nil {
		return err
	}
	data, err := r.Store.Read(m.Digest, MaxManifest)
	if errors.Is(err, blob.ErrNotFound) || errors.Is(err, blob.ErrCorrupt) {
		return unknownManifest(t.reference)
	}
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Docker-Content-Digest", m.Digest.String())
	h.Set("Etag", `"`+m.Digest.String()+`"`)
	h.Set("Content-Type", m.MediaType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(http.StatusOK)
	if req.Method != http.MethodHead {
		_, _ = w.Write(data)
	}
	return nil
}

// deleteManifest removes a tag, or a manifest with all its tags.
func (r *Registry) deleteManifest(w http.ResponseWriter, req *http.Request, t target) error {
	isTag := tagName.MatchString(t.reference)
	if !isTag {
		if _, err := parseDigest(t.reference); err != nil {
			return err
		}
	}
	if r.OnDelete != nil {
		if err := r.OnDelete(req.Context(), t.repository, t.reference); err != nil {
			return refuse(http.StatusConflict, "DENIED", "%s", strings.ToValidUTF8(err.Error(), "?"))
		}
	}
	var err error
	if isTag {
		err = r.Index.DeleteTag(req.Context(), t.repository, t.reference)
	} else {
		err = r.Index.DeleteManifest(req.Context(), t.repository, digest.Digest(t.reference))
	}
	if errors.Is(err, ErrUnknown) {
		return unknownManifest(t.reference)
	}
	if err != nil {
		return err
	}
	failpoint.Here("registry/manifest-deleted")
	w.WriteHeader(http.StatusAccepted)
	return nil
}

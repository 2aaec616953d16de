package registry

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dhowfleet/dhow/models/blob"
	"github.com/dhowfleet/dhow/test/failpoint"
)

func unknownBlob(d digest.Digest) error {
	return refuse(http.StatusNotFound, "BLOB_UNKNOWN", "the repository does not have blob %s", d)
}

// getBlob serves GET and HEAD, with ranges.
func (r *Registry) getBlob(w http.ResponseWriter, req *http.Request, t target) error {
	d, err := parseDigest(t.reference)
	if err != nil {
		return err
	}
	size, linked, err := r.Index.Blob(req.Context(), t.repository, d)
	if errors.Is(err, ErrUnknown) {
		return unknownBlob(d)
	}
	if err != nil {
		return err
	}
	if req.Method == http.MethodHead {
		// Whoever pushes asks like this and then leaves out the blob, so it must not be collected before the manifest
		// comes. Writing is spared while the last link is young.
		if now := r.Now(); now.Sub(linked) > r.Grace/8 {
			if err := r.link(req, t.repository, d, size, now); err != nil {
				return err
			}
		}
	}
	if req.Method == http.MethodGet {
		select {
		case r.downloads <- struct{}{}:
			defer func() { <-r.downloads }()
		default:
			return refuse(http.StatusTooManyRequests, "TOOMANYREQUESTS", "%d downloads are under way, which is all that may be", r.MaxDownloads)
		}
	}
	f, _, err := r.Store.Open(d)
	if errors.Is(err, blob.ErrNotFound) {
		return unknownBlob(d)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	h := w.Header()
	h.Set("Docker-Content-Digest", d.String())
	h.Set("Etag", `"`+d.String()+`"`)
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Cache-Control", "max-age=31536000, immutable")
	h.Set("X-Content-Type-Options", "nosniff")
	out := &download{ResponseWriter: w, r: r, req: req, control: http.NewResponseController(w)}
	defer out.end()
	http.ServeContent(out, req, "", time.Time{}, f)
	return nil
}

// link touches the blob on disk and links it; a blob that is gone from the disk is unknown.
func (r *Registry) link(req *http.Request, repository string, d digest.Digest, size int64, now time.Time) error {
	if err := r.Store.Touch(d); err != nil {
		if errors.Is(err, blob.ErrNotFound) {
			return unknownBlob(d)
		}
		return err
	}
	return r.Index.LinkBlob(req.Context(), repository, d, size, now)
}

// download ends a transfer whose peer takes nothing, and gives the errors of http.ServeContent the API's form.
type download struct {
	http.ResponseWriter
	r       *Registry
	req     *http.Request
	control *http.ResponseController
	refused bool
}

func (d *download) WriteHeader(status int) {
	if status == http.StatusRequestedRangeNotSatisfiable {
		d.refused = true
		d.r.fail(d.ResponseWriter, d.req, refuse(status, "RANGE_INVALID", "the blob has no bytes in the range %s",
			strings.ToValidUTF8(d.req.Header.Get("Range"), "?")))
		return
	}
	d.ResponseWriter.WriteHeader(status)
}

func (d *download) Write(p []byte) (int, error) {
	if d.refused {
		return len(p), nil
	}
	_ = d.control.SetWriteDeadline(time.Now().Add(d.r.StallTimeout)) // Where it is not supported, the transport limits.
	return d.ResponseWriter.Write(p)
}

// end takes the deadline away from the connection, which serves other requests after this.
func (d *download) end() { _ = d.control.SetWriteDeadline(time.Time{}) }

// deleteBlob removes the blob from the repository. The file goes when no repository has it any more.
func (r *Registry) deleteBlob(w http.ResponseWriter, req *http.Request, t target) error {
	d, err := parseDigest(t.reference)
	if err != nil {
		return err
	}
	err = r.Index.UnlinkBlob(req.Context(), t.repository, d)
	switch {
	case errors.Is(err, ErrUnknown):
		return unknownBlob(d)
	case errors.Is(err, ErrReferenced):
		return refuse(http.StatusConflict, "DENIED", "a manifest of the repository refers to blob %s; delete that first", d)
	case err != nil:
		return err
	}
	failpoint.Here("registry/blob-unlinked")
	w.WriteHeader(http.StatusAccepted)
	return nil
}

package registry

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dhowfleet/dhow/models/blob"
	"github.com/dhowfleet/dhow/test/failpoint"
)

// startUpload serves POST: a mount, an upload in one piece, or the begin of a session.
func (r *Registry) startUpload(w http.ResponseWriter, req *http.Request, t target) error {
	query := req.URL.Query()
	if query.Has("mount") {
		done, err := r.mount(w, req, t, query.Get("mount"), query.Get("from"))
		if done || err != nil {
			return err
		}
	}
	var want digest.Digest
	if value := query.Get("digest"); value != "" && !query.Has("mount") {
		var err error
		if want, err = parseDigest(value); err != nil {
			return err
		}
	}
	var random [16]byte
	if _, err := rand.Read(random[:]); err != nil {
		return err
	}
	s := &session{r: r, req: req, id: hex.EncodeToString(random[:]), repository: t.repository}
	if !r.ledger.begin(s.id, t.repository, r.MaxUploads) {
		return refuse(http.StatusTooManyRequests, "TOOMANYREQUESTS", "%d uploads are open, which is all that may be; finish or cancel some", r.MaxUploads)
	}
	upload := Upload{ID: s.id, Repository: t.repository, Used: r.Now()}
	err := r.Index.AddUpload(req.Context(), upload)
	if err == nil {
		failpoint.Here("registry/session-recorded")
		s.w, err = r.Store.CreateSession(s.id)
	}
	if err != nil {
		s.drop()
		return err
	}
	defer s.close()
	if want != "" {
		if err := s.receive(w); err != nil {
			s.drop()
			return err
		}
		return s.finish(w, want)
	}
	s.describe(w)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// mount links a blob of another repository. Not done: the caller begins a session instead, as the API wants it.
func (r *Registry) mount(w http.ResponseWriter, req *http.Request, t target, value, from string) (bool, error) {
	d, err := parseDigest(value)
	if err != nil {
		return false, err
	}
	var size, fresh int64
	switch {
	case from != "":
		size, _, err = r.Index.Blob(req.Context(), from, d)
	case r.AnonymousMount:
		size, err = r.Store.Size(d)
		fresh = size
	default:
		return false, nil
	}
	if errors.Is(err, ErrUnknown) || errors.Is(err, blob.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	a, err := r.allowance(req.Context(), t.repository)
	if err != nil {
		return false, err
	}
	if _, _, err := r.Index.Blob(req.Context(), t.repository, d); err != nil {
		if err := a.fits(size, fresh); err != nil {
			return false, err
		}
	}
	if err := r.link(req, t.repository, d, size, r.Now()); err != nil {
		var f *fault
		if errors.As(err, &f) {
			return false, nil
		}
		return false, err
	}
	failpoint.Here("registry/blob-mounted")
	created(w, "/v2/"+t.repository+"/blobs/"+d.String(), d)
	return true, nil
}

func created(w http.ResponseWriter, location string, d digest.Digest) {
	w.Header().Set("Location", location)
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
}

// session is one request's hold on an upload session.
type session struct {
	r              *Registry
	req            *http.Request
	id, repository string
	w              *blob.Writer
}

const (
	// busyWait is how long a request waits for another on the same session: a client that lost its connection is back
	// before we have noticed.
	busyWait = 5 * time.Second
	busyPoll = 50 * time.Millisecond
)

// resume takes hold of the session that a path names.
func (r *Registry) resume(req *http.Request, t target) (*session, error) {
	unknown := refuse(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "there is no such upload; it may have been finished, cancelled, or left too long")
	if _, err := r.Index.Upload(req.Context(), t.repository, t.reference); err != nil {
		if errors.Is(err, ErrUnknown) {
			return nil, unknown
		}
		return nil, err
	}
	s := &session{r: r, req: req, id: t.reference, repository: t.repository}
	for until := time.Now().Add(busyWait); ; {
		var err error
		s.w, err = r.Store.ResumeSession(s.id)
		switch {
		case err == nil:
			return s, nil
		case errors.Is(err, blob.ErrNotFound):
			return nil, unknown
		case !errors.Is(err, blob.ErrBusy):
			return nil, err
		case time.Now().After(until):
			return nil, refuse(http.StatusConflict, "BLOB_UPLOAD_INVALID", "another request is writing to this upload")
		}
		select {
		case <-req.Context().Done():
			return nil, req.Context().Err()
		case <-time.After(busyPoll):
		}
	}
}

// describe sets the headers that say where the session stands.
func (s *session) describe(w http.ResponseWriter) { describe(w, s.repository, s.id, s.w.Offset()) }

func describe(w http.ResponseWriter, repository, id string, offset int64) {
	w.Header().Set("Location", "/v2/"+repository+"/blobs/uploads/"+id)
	w.Header().Set("Docker-Upload-UUID", id)
	w.Header().Set("Range", "0-"+strconv.FormatInt(max(offset-1, 0), 10))
	w.Header().Set("Content-Length", "0")
}

// close keeps the session for later requests and books what it holds.
func (s *session) close() {
	if s.w == nil {
		return
	}
	offset := s.w.Offset()
	if err := s.w.Close(); err != nil {
		s.r.Logger.Error("cannot keep upload", "error", err)
	}
	s.w = nil
	s.r.ledger.set(s.id, s.repository, offset)
	// The request may be over because its client left; what came must be booked all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.req.Context()), busyWait)
	defer cancel()
	if err := s.r.Index.SetUpload(ctx, Upload{ID: s.id, Repository: s.repository, Size: offset, Used: s.r.Now()}); err != nil && !errors.Is(err, ErrUnknown) {
		s.r.Logger.Error("cannot book upload", "error", err)
	}
}

// drop ends the session and removes what it held.
func (s *session) drop() {
	if s.w != nil {
		if err := s.w.Abort(); err != nil {
			s.r.Logger.Error("cannot remove upload", "error", err)
		}
		s.w = nil
	}
	failpoint.Here("registry/session-removed")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.req.Context()), busyWait)
	defer cancel()
	if err := s.r.Index.RemoveUpload(ctx, s.id); err != nil {
		s.r.Logger.Error("cannot forget upload", "error", err)
	}
	s.r.ledger.end(s.id)
}

// receive appends the request's body, within the quota and as long as bytes come.
func (s *session) receive(w http.ResponseWriter) error {
	a, err := s.r.allowance(s.req.Context(), s.repository)
	if err != nil {
		return err
	}
	if n := s.req.ContentLength; n > 0 {
		if err := a.fits(n, n); err != nil {
			return err
		}
	}
	control := http.NewResponseController(w)
	defer func() { _ = control.SetReadDeadline(time.Time{}) }()
	buffer := make([]byte, 256<<10)
	for {
		_ = control.SetReadDeadline(time.Now().Add(s.r.StallTimeout)) // Where it is not supported, the transport limits.
		n, err := io.ReadAtLeast(s.req.Body, buffer, 1)
		if n > 0 {
			if err := a.fits(int64(n), int64(n)); err != nil {
				return err
			}
			if _, err := s.w.Write(buffer[:n]); err != nil {
				return err
			}
			s.r.ledger.set(s.id, s.repository, s.w.Offset())
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return refuse(http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "the body ended early, after byte %d of the upload", s.w.Offset())
		}
	}
}

// inOrder checks that a chunk begins where the session stands.
func (s *session) inOrder(w http.ResponseWriter) error {
	value := s.req.Header.Get("Content-Range")
	if value == "" {
		return nil
	}
	first, last, ok := contentRange(value)
	if !ok || s.req.ContentLength >= 0 && last-first+1 != s.req.ContentLength {
		return refuse(http.StatusBadRequest, "SIZE_INVALID", "Content-Range %q is not the range of a body of %d bytes", strings.ToValidUTF8(value, "?"), s.req.ContentLength)
	}
	if first != s.w.Offset() {
		s.describe(w)
		return refuse(http.StatusRequestedRangeNotSatisfiable, "RANGE_INVALID", "the next chunk begins at byte %d, not at %d", s.w.Offset(), first)
	}
	return nil
}

// contentRange reads "first-last", with or without the unit and the total of the HTTP form.
func contentRange(value string) (first, last int64, ok bool) {
	value = strings.TrimPrefix(value, "bytes ")
	value, _, _ = strings.Cut(value, "/")
	from, to, cut := strings.Cut(value, "-")
	if !cut {
		return 0, 0, false
	}
	first, err1 := strconv.ParseInt(from, 10, 64)
	last, err2 := strconv.ParseInt(to, 10, 64)
	return first, last, err1 == nil && err2 == nil && first >= 0 && last >= first
}

// uploadStatus serves GET.
func (r *Registry) uploadStatus(w http.ResponseWriter, req *http.Request, t target) error {
	s, err := r.resume(req, t)
	if err != nil {
		return err
	}
	defer s.close()
	s.describe(w)
	w.Header().Del("Content-Length") // A 204 has none.
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// continueUpload serves PATCH: a chunk, or a stream without a length. What arrived is kept even if the body ends early.
func (r *Registry) continueUpload(w http.ResponseWriter, req *http.Request, t target) error {
	s, err := r.resume(req, t)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.inOrder(w); err != nil {
		return err
	}
	if err := s.receive(w); err != nil {
		return err
	}
	offset := s.w.Offset()
	s.close()
	failpoint.Here("registry/chunk-kept")
	describe(w, s.repository, s.id, offset)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// finishUpload serves PUT: the last chunk, if any, and the digest.
func (r *Registry) finishUpload(w http.ResponseWriter, req *http.Request, t target) error {
	want, err := parseDigest(req.URL.Query().Get("digest"))
	if err != nil {
		return err
	}
	s, err := r.resume(req, t)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.inOrder(w); err != nil {
		return err
	}
	if err := s.receive(w); err != nil {
		return err
	}
	return s.finish(w, want)
}

// finish makes what the session holds a blob of the repository.
func (s *session) finish(w http.ResponseWriter, want digest.Digest) error {
	a, err := s.r.allowance(s.req.Context(), s.repository)
	if err != nil {
		return err
	}
	// What the session holds is in the ledger already.
	if err := a.fits(0, 0); err != nil {
		return err
	}
	size := s.w.Offset()
	if err := s.w.CommitAs(want); err != nil {
		if errors.Is(err, blob.ErrDigestMismatch) {
			s.drop()
			return refuse(http.StatusBadRequest, "DIGEST_INVALID", "%s", strings.ToValidUTF8(err.Error(), "?"))
		}
		return err
	}
	failpoint.Here("registry/blob-stored")
	if err := s.r.Index.LinkBlob(s.req.Context(), s.repository, want, size, s.r.Now()); err != nil {
		return fmt.Errorf("cannot link blob: %w", err)
	}
	failpoint.Here("registry/blob-linked")
	s.w = nil
	s.drop()
	created(w, "/v2/"+s.repository+"/blobs/"+want.String(), want)
	return nil
}

// cancelUpload serves DELETE.
func (r *Registry) cancelUpload(w http.ResponseWriter, req *http.Request, t target) error {
	s, err := r.resume(req, t)
	if err != nil {
		return err
	}
	s.drop()
	w.WriteHeader(http.StatusNoContent)
	return nil
}

package blob

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"

	"github.com/opencontainers/go-digest"

	"github.com/dhowfleet/dhow/test/failpoint"
)

// Writer writes one blob from the start or from where a former Writer stopped. It is for one goroutine; exactly one of
// Commit, Abort and Close ends it, and a Close after either does nothing.
type Writer struct {
	s    *Store
	want digest.Digest // empty for a session
	size int64         // -1 for a session
	p    *partial      // nil: ended, or the blob was there already
	have bool
	last int64 // the offset at the end
}

// Resume opens the writer of blob d of size bytes. Offset says where to go on. When the blob is on disk already, Offset
// is size and Commit succeeds. Errors: ErrBusy when another writer is at it, ErrNoSpace when the rest does not fit.
func (s *Store) Resume(d digest.Digest, size int64) (*Writer, error) {
	if err := Check(d); err != nil {
		return nil, err
	}
	if size < 0 {
		return nil, fmt.Errorf("cannot write blob %s: size %d is negative", d, size)
	}
	if s.Touch(d) == nil {
		if have, err := s.Size(d); err == nil && have != size {
			return nil, fmt.Errorf("%w: %s has %d bytes, not the promised %d", ErrDigestMismatch, d, have, size)
		}
		return &Writer{s: s, want: d, size: size, have: true, last: size}, nil
	}
	path := filepath.Join(s.dir, partialDir, string(d.Algorithm())+"-"+d.Encoded())
	p, err := s.openPartial(path, d.Algorithm(), size, true)
	if err != nil {
		return nil, err
	}
	if s.Touch(d) == nil {
		// Another writer committed between the two looks.
		err := p.remove()
		p.release()
		return &Writer{s: s, want: d, size: size, have: true, last: size}, err
	}
	if err := s.room(size - p.offset); err != nil {
		p.release()
		return nil, err
	}
	return &Writer{s: s, want: d, size: size, p: p}, nil
}

var sessionID = regexp.MustCompile(`^[a-z0-9]{16,64}$`)

// CreateSession begins content whose digest will be known at its end. The id (16 to 64 of a-z, 0-9) is the caller's
// and must be new.
func (s *Store) CreateSession(id string) (*Writer, error) { return s.session(id, true) }

// ResumeSession goes on with a session, or returns ErrNotFound or ErrBusy.
func (s *Store) ResumeSession(id string) (*Writer, error) { return s.session(id, false) }

func (s *Store) session(id string, create bool) (*Writer, error) {
	if !sessionID.MatchString(id) {
		return nil, fmt.Errorf("%w: no session can be called %q", ErrNotFound, id)
	}
	p, err := s.openPartial(filepath.Join(s.dir, uploadDir, id), digest.SHA256, -1, create)
	if err != nil {
		return nil, err
	}
	return &Writer{s: s, size: -1, p: p}, nil
}

// RemoveSession discards a session and what it holds; one that is not there is no error. ErrBusy: somebody writes.
func (s *Store) RemoveSession(id string) error {
	w, err := s.ResumeSession(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return w.Abort()
}

// Offset returns how many bytes are there.
func (w *Writer) Offset() int64 {
	if w.p == nil {
		return w.last
	}
	return w.p.offset
}

// Write appends. It refuses more than the promised size with ErrDigestMismatch. What was written before an error stays.
func (w *Writer) Write(b []byte) (int, error) {
	if w.p == nil {
		return 0, errors.New("cannot write blob: the writer has ended")
	}
	if w.size >= 0 && int64(len(b)) > w.size-w.p.offset {
		return 0, fmt.Errorf("%w: more than the promised %d bytes of %s", ErrDigestMismatch, w.size, w.want)
	}
	return w.p.write(b)
}

// Restart throws away what is there, so that Offset is zero again.
func (w *Writer) Restart() error {
	if w.p == nil {
		return errors.New("cannot restart blob: the writer has ended")
	}
	path, algorithm := w.p.path, w.p.algorithm
	if err := w.Abort(); err != nil {
		return err
	}
	var err error
	w.p, err = w.s.openPartial(path, algorithm, w.size, true)
	return err
}

// Commit makes the content the blob that Resume named. Errors: ErrIncomplete (the content is kept), ErrDigestMismatch
// (the content is discarded).
func (w *Writer) Commit() error {
	if w.have {
		return nil
	}
	if w.want == "" {
		return errors.New("cannot commit: a session needs a digest")
	}
	return w.commit(w.want)
}

// CommitAs makes a session's content the blob d. ErrDigestMismatch: the content is another; it is discarded.
func (w *Writer) CommitAs(d digest.Digest) error {
	if w.want != "" && w.want != d {
		return fmt.Errorf("%w: %s was promised, %s is asked for", ErrDigestMismatch, w.want, d)
	}
	if err := Check(d); err != nil {
		return err
	}
	return w.commit(d)
}

func (w *Writer) commit(d digest.Digest) error {
	if w.p == nil {
		return errors.New("cannot commit blob: the writer has ended")
	}
	if w.size >= 0 && w.p.offset != w.size {
		return fmt.Errorf("%w: %d of %d bytes of %s", ErrIncomplete, w.p.offset, w.size, d)
	}
	got, err := w.sum(d.Algorithm())
	if err != nil {
		return err
	}
	if got != d {
		if err := w.Abort(); err != nil {
			return err
		}
		return fmt.Errorf("%w: promised %s, got %s", ErrDigestMismatch, d, got)
	}
	if err := w.s.publish(w.p.data, d); err != nil {
		return err
	}
	// The data file has moved; what remains is the record.
	err = w.p.remove()
	w.end()
	w.have = true
	failpoint.Here("blob/committed")
	return err
}

// sum returns the digest of the content. It reads the file again when the content was hashed by another algorithm or
// some of it was written in an earlier boot.
func (w *Writer) sum(a digest.Algorithm) (digest.Digest, error) {
	if a == w.p.algorithm && w.p.boot == w.s.boot && w.s.boot != [bootSize]byte{} {
		return digest.NewDigest(a, w.p.hash), nil
	}
	h, err := newHash(a)
	if err != nil {
		return "", err
	}
	if _, err := io.Copy(h, io.NewSectionReader(w.p.data, 0, w.p.offset)); err != nil {
		return "", fmt.Errorf("cannot read partial blob: %w", err)
	}
	return digest.NewDigest(a, h), nil
}

// Abort discards the content.
func (w *Writer) Abort() error {
	if w.p == nil {
		return nil
	}
	err := w.p.remove()
	w.end()
	w.last = 0
	return err
}

// end lets go of the file.
func (w *Writer) end() {
	w.last = w.p.offset
	w.p.release()
	w.p = nil
}

// Close keeps what is there for a later Resume, recorded up to the last byte. After an error it is recorded as far as it
// could be.
func (w *Writer) Close() error {
	if w.p == nil {
		return nil
	}
	var err error
	if w.p.offset > w.p.recorded {
		err = w.p.checkpoint()
	}
	// Collect counts the time at rest from here.
	now := w.s.now()
	if touched := os.Chtimes(w.p.path, now, now); err == nil && touched != nil {
		err = fmt.Errorf("cannot keep partial blob: %w", touched)
	}
	w.end()
	return err
}

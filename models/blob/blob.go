// Package blob keeps files by the digest of their content: the bundles of an agent, the layers of the fleet manager's
// registry.
//
// # Contract
//
// A blob is either wholly there under its digest or not there. Content is written aside, hashed while it streams,
// synced, renamed into place, and the folder synced; a crash or a power cut at any point leaves the old or the new
// state. A blob never changes once it is there. Reads are not verified (they would cost as much as the hash); Verify
// hashes a blob again and moves what is corrupt out of the way, so that the next pull or push really stores it.
//
// A download is resumed with Resume: every 512 KiB the data is synced and a record of the offset and the hash's inner
// state is written, so that a process killed at any byte loses at most that much and nothing is hashed twice. An upload
// whose digest is not yet known is a session and works the same way.
//
// # Folders
//
//	sha256/ab/abcd…   blobs, read-only          tmp/         being put or built, locked by their process
//	partial/          downloads with records    quarantine/  what Verify found corrupt, kept for a while
//	uploads/          sessions with records
//
// # Concurrency
//
// A Store may be used by many goroutines, and several Stores (of several processes, too) may share a folder: every
// file being written is locked with flock, which a dying process releases. A Writer is for one goroutine. All calls
// block for disk I/O; none waits for another's transfer: a second Resume of the same blob is refused with ErrBusy.
package blob

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dhowfleet/dhow/test/failpoint"
)

var (
	// ErrNotFound says that no blob, or no session, has that name.
	ErrNotFound = errors.New("blob not found")
	// ErrCorrupt says that what is on disk no longer has the digest it is kept under; it was moved to quarantine.
	ErrCorrupt = errors.New("blob is corrupt")
	// ErrDigestMismatch says that what was written is not what its digest or size promised; it was discarded.
	ErrDigestMismatch = errors.New("content does not match its digest")
	// ErrNoSpace says that the disk is full, or would hold less than the reserve.
	ErrNoSpace = errors.New("not enough disk space")
	// ErrBusy says that another writer is at the same blob or session.
	ErrBusy = errors.New("blob is being written")
	// ErrIncomplete says that a commit came before all bytes.
	ErrIncomplete = errors.New("content is incomplete")
	// ErrDigest says that a digest is malformed or of an algorithm other than sha256 and sha512.
	ErrDigest = errors.New("unusable digest")
)

// File reads a blob. It stays readable while the blob is collected.
type File interface {
	io.ReaderAt
	io.ReadSeekCloser
}

// Store is a folder of blobs.
type Store struct {
	dir     string
	reserve int64
	now     func() time.Time
	boot    [bootSize]byte

	// mu makes "is it there, then it is in use from now" and "it is unused for long, then remove it" exclude each other.
	mu sync.Mutex

	// fault, if set by a test, is asked before every operation that changes the disk.
	fault func(op string) error
}

// Option changes how a Store works.
type Option func(*Store)

// WithReserve makes writes fail with ErrNoSpace before the file system has less than n bytes left: what is
// left belongs to the databases beside the store, which must go on working when the disk is full.
func WithReserve(n int64) Option { return func(s *Store) { s.reserve = n } }

// WithClock sets the clock by which Collect judges ages.
func WithClock(now func() time.Time) Option { return func(s *Store) { s.now = now } }

const (
	partialDir    = "partial"
	uploadDir     = "uploads"
	tmpDir        = "tmp"
	quarantineDir = "quarantine"
)

// Open opens the store in dir and makes the folder if needed. It removes what a killed process was building.
func Open(dir string, options ...Option) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open blob store: %w", err)
	}
	s := &Store{dir: dir, now: time.Now, boot: thisBoot()}
	for _, o := range options {
		o(s)
	}
	for _, sub := range []string{"", string(digest.SHA256), string(digest.SHA512), partialDir, uploadDir, tmpDir, quarantineDir} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("cannot open blob store: %w", noSpace(err))
		}
	}
	if err := s.sweepTemporary(); err != nil {
		return nil, fmt.Errorf("cannot open blob store: %w", err)
	}
	return s, nil
}

// newHash returns a hash whose state can be saved, or ErrDigest.
func newHash(a digest.Algorithm) (hash.Hash, error) {
	switch a {
	case digest.SHA256:
		return sha256.New(), nil
	case digest.SHA512:
		return sha512.New(), nil
	}
	return nil, fmt.Errorf("%w: algorithm %q is not sha256 or sha512", ErrDigest, a)
}

// Check returns ErrDigest unless d is a well-formed sha256 or sha512 digest.
func Check(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("%w: %q", ErrDigest, d)
	}
	_, err := newHash(d.Algorithm())
	return err
}

// path is where a checked digest's blob lies.
func (s *Store) path(d digest.Digest) string {
	hex := d.Encoded()
	return filepath.Join(s.dir, string(d.Algorithm()), hex[:2], hex)
}

func (s *Store) stat(d digest.Digest) (fs.FileInfo, error) {
	if err := Check(d); err != nil {
		return nil, err
	}
	info, err := os.Lstat(s.path(d))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: %s", ErrNotFound, d)
	case err != nil:
		return nil, fmt.Errorf("cannot look for blob: %w", err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("cannot use blob %s: not a regular file", d)
	}
	return info, nil
}

// Has reports whether the blob is on disk. It looks each time.
func (s *Store) Has(d digest.Digest) bool {
	_, err := s.stat(d)
	return err == nil
}

// Size returns the blob's size in bytes, or ErrNotFound.
func (s *Store) Size(d digest.Digest) (int64, error) {
	info, err := s.stat(d)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Open opens the blob for reading and returns its size, or ErrNotFound.
func (s *Store) Open(d digest.Digest) (File, int64, error) {
	if err := Check(d); err != nil {
		return nil, 0, err
	}
	f, err := os.Open(s.path(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("%w: %s", ErrNotFound, d)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("cannot open blob: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("cannot open blob: %w", err)
	}
	return f, info.Size(), nil
}

// Read returns the whole of a blob of at most limit bytes, verified. A corrupt blob is moved to quarantine.
func (s *Store) Read(d digest.Digest, limit int64) ([]byte, error) {
	f, size, err := s.Open(d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > limit {
		return nil, fmt.Errorf("cannot read blob %s: it has %d bytes, at most %d are read at once", d, size, limit)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("cannot read blob %s: %w", d, err)
	}
	if d.Algorithm().FromBytes(data) != d {
		return nil, s.quarantine(d)
	}
	return data, nil
}

// Touch marks the blob as in use from now on, so that Collect spares it for its grace, or returns ErrNotFound. Call it
// before relying on a blob that somebody else stored.
func (s *Store) Touch(d digest.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.stat(d); err != nil {
		return err
	}
	now := s.now()
	if err := os.Chtimes(s.path(d), now, now); err != nil {
		return fmt.Errorf("cannot touch blob: %w", err)
	}
	return nil
}

// Put stores size bytes of r under d. When the blob is there already r is not read. Content of another size or digest
// is discarded with ErrDigestMismatch. For content that is slow to come, Resume is the better way.
func (s *Store) Put(ctx context.Context, r io.Reader, d digest.Digest, size int64) error {
	if err := Check(d); err != nil {
		return err
	}
	if s.Touch(d) == nil {
		return nil
	}
	if err := s.room(size); err != nil {
		return err
	}
	if err := s.check("create"); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Join(s.dir, tmpDir), "put-")
	if err != nil {
		return fmt.Errorf("cannot put blob: %w", noSpace(err))
	}
	defer f.Close()
	defer func() { _ = os.Remove(f.Name()) }() // After success the name is gone; otherwise a sweep finds it.
	if err := lock(f); err != nil {
		return fmt.Errorf("cannot put blob: %w", err)
	}
	h, _ := newHash(d.Algorithm())
	n, err := io.Copy(io.MultiWriter(&checkedWriter{s, f}, h), io.LimitReader(&contextReader{ctx, r}, size+1))
	if err != nil {
		return fmt.Errorf("cannot put blob: %w", noSpace(err))
	}
	if got := digest.NewDigest(d.Algorithm(), h); n != size || got != d {
		return fmt.Errorf("%w: promised %s of %d bytes, got %s of %d or more", ErrDigestMismatch, d, size, got, n)
	}
	failpoint.Here("blob/put-written")
	return s.publish(f, d)
}

// publish makes the complete content in f the blob d.
func (s *Store) publish(f *os.File, d digest.Digest) error {
	target := s.path(d)
	err := s.check("sync")
	if err == nil {
		err = f.Chmod(0o444)
	}
	if err == nil {
		now := s.now()
		err = os.Chtimes(f.Name(), now, now)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return fmt.Errorf("cannot store blob: %w", noSpace(err))
	}
	failpoint.Here("blob/synced")
	if err := s.shard(filepath.Dir(target)); err != nil {
		return err
	}
	s.mu.Lock()
	if err = s.check("rename"); err == nil {
		err = os.Rename(f.Name(), target)
	}
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("cannot store blob: %w", noSpace(err))
	}
	failpoint.Here("blob/renamed")
	if err := s.syncDir(filepath.Dir(target)); err != nil {
		return err
	}
	failpoint.Here("blob/published")
	return nil
}

// shard makes the folder of the blobs that begin alike.
func (s *Store) shard(dir string) error {
	if err := s.check("mkdir"); err != nil {
		return err
	}
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot store blob: %w", noSpace(err))
	}
	return s.syncDir(filepath.Dir(dir))
}

// Delete removes the blob; one that is not there is no error. Trees linked from it keep their content.
func (s *Store) Delete(d digest.Digest) error {
	if err := Check(d); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.remove(d)
}

// remove deletes a blob; s.mu is held.
func (s *Store) remove(d digest.Digest) error {
	if err := s.check("remove"); err != nil {
		return err
	}
	if err := os.Remove(s.path(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot delete blob: %w", err)
	}
	failpoint.Here("blob/deleted")
	return s.syncDir(filepath.Dir(s.path(d)))
}

// Verify hashes the blob again. A blob that is corrupt is moved to quarantine and ErrCorrupt returned; trees linked
// from it hold the same corrupt content and must be linked anew after another pull.
func (s *Store) Verify(d digest.Digest) error {
	f, _, err := s.Open(d)
	if err != nil {
		return err
	}
	defer f.Close()
	h, err := newHash(d.Algorithm())
	if err != nil {
		return err
	}
	// A disk that cannot read a block answers with an error instead of wrong bytes: the blob is as lost.
	if _, err := io.Copy(h, f); err == nil && digest.NewDigest(d.Algorithm(), h) == d {
		return nil
	}
	return s.quarantine(d)
}

func (s *Store) quarantine(d digest.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	to := filepath.Join(s.dir, quarantineDir, string(d.Algorithm())+"-"+d.Encoded())
	err := s.check("rename")
	if err == nil {
		err = os.Rename(s.path(d), to)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s, and it cannot be moved to quarantine: %w", ErrCorrupt, d, noSpace(err))
	}
	failpoint.Here("blob/quarantined")
	if err := s.syncDir(filepath.Dir(s.path(d))); err != nil {
		return err
	}
	return fmt.Errorf("%w: %s was moved to quarantine", ErrCorrupt, d)
}

// owns reports whether path is where d's blob lies.
func (s *Store) owns(d digest.Digest, path string) bool { return Check(d) == nil && s.path(d) == path }

// Info describes a blob.
type Info struct {
	Digest digest.Digest
	Size   int64
	// Used is when the blob was stored or last touched.
	Used time.Time
}

// Walk calls fn for every blob until it returns an error, which Walk returns. Blobs that come or go meanwhile may be
// missed.
func (s *Store) Walk(fn func(Info) error) error {
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		root := filepath.Join(s.dir, string(algorithm))
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("cannot list blobs: %w", err)
			}
			d := digest.NewDigestFromEncoded(algorithm, entry.Name())
			if !entry.Type().IsRegular() || !s.owns(d, path) {
				return nil
			}
			info, err := entry.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil // It went away between the listing and now.
			}
			if err != nil {
				return fmt.Errorf("cannot list blobs: %w", err)
			}
			return fn(Info{Digest: d, Size: info.Size(), Used: info.ModTime()})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

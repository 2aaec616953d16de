package blob

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Collected counts what Collect removed.
type Collected struct {
	Blobs, Partials int
	Bytes           int64
}

// Collect removes the blobs that keep does not want and that nobody stored or touched for grace, the partial downloads
// of such blobs, sessions and quarantined files older than grace, and what killed processes left in tmp/. The partial
// of a wanted blob stays however old it is: a site may be offline for weeks. What is being written is never removed.
//
// A blob that is stored, touched or found by Put or Resume while Collect runs is spared even if keep did not know it
// yet, as long as grace exceeds the time between that call and the moment keep learns of it.
func (s *Store) Collect(keep func(digest.Digest) bool, grace time.Duration) (Collected, error) {
	var c Collected
	oldest := s.now().Add(-grace)
	err := s.Walk(func(i Info) error {
		if !i.Used.Before(oldest) || keep(i.Digest) {
			return nil
		}
		return s.collect(i.Digest, oldest, &c)
	})
	if err != nil {
		return c, err
	}
	err = s.sweepPartials(partialDir, oldest, &c, func(name string) bool {
		algorithm, hex, _ := strings.Cut(name, "-")
		return keep(digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex))
	})
	if err != nil {
		return c, err
	}
	if err := s.sweepPartials(uploadDir, oldest, &c, func(string) bool { return false }); err != nil {
		return c, err
	}
	if err := s.sweepQuarantine(oldest); err != nil {
		return c, err
	}
	return c, s.sweepTemporary()
}

// collect removes one blob unless it has been touched meanwhile.
func (s *Store) collect(d digest.Digest, oldest time.Time, c *Collected) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	info, err := s.stat(d)
	if errors.Is(err, ErrNotFound) || err == nil && !info.ModTime().Before(oldest) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := s.remove(d); err != nil {
		return err
	}
	c.Blobs++
	c.Bytes += info.Size()
	return nil
}

// sweepPartials removes the partials in a folder that are old, unwanted and not being written.
func (s *Store) sweepPartials(dir string, oldest time.Time, c *Collected, keep func(name string) bool) error {
	return s.each(dir, func(path string, info fs.FileInfo) error {
		if !info.ModTime().Before(oldest) {
			return nil
		}
		if data, isRecord := strings.CutSuffix(path, recordSuffix); isRecord {
			// A record goes with its data; one whose data has become a blob is of no use.
			if _, err := os.Lstat(data); errors.Is(err, fs.ErrNotExist) {
				return ignoreMissing(os.Remove(path))
			}
			return nil
		}
		if keep(filepath.Base(path)) {
			return nil
		}
		f, err := s.openLocked(path, false)
		if errors.Is(err, ErrBusy) || errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		defer f.Close()
		if err := (&partial{s: s, path: path}).remove(); err != nil {
			return err
		}
		c.Partials++
		c.Bytes += info.Size()
		return nil
	})
}

func (s *Store) sweepQuarantine(oldest time.Time) error {
	return s.each(quarantineDir, func(path string, info fs.FileInfo) error {
		if info.ModTime().Before(oldest) {
			return ignoreMissing(os.Remove(path))
		}
		return nil
	})
}

// temporaryAge keeps a sweep away from what was made this instant and is about to be locked.
const temporaryAge = time.Minute

// sweepTemporary removes what lies in tmp/ without a living process that holds its lock.
func (s *Store) sweepTemporary() error {
	return s.each(tmpDir, func(path string, info fs.FileInfo) error {
		if time.Since(info.ModTime()) < temporaryAge {
			return nil
		}
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return ignoreMissing(err)
		}
		defer f.Close()
		if err := lock(f); err != nil {
			if errors.Is(err, ErrBusy) {
				return nil
			}
			return err
		}
		return ignoreMissing(os.RemoveAll(path))
	})
}

// each calls fn for the entries of one of the store's folders.
func (s *Store) each(dir string, fn func(path string, info fs.FileInfo) error) error {
	entries, err := os.ReadDir(filepath.Join(s.dir, dir))
	if err != nil {
		return fmt.Errorf("cannot sweep blob store: %w", err)
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = fn(filepath.Join(s.dir, dir, entry.Name()), info)
		}
		if err != nil {
			return fmt.Errorf("cannot sweep blob store: %w", err)
		}
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

package blob

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// noSpace marks the errors of a full disk or an exhausted disk quota with ErrNoSpace and leaves others alone.
func noSpace(err error) error {
	if err != nil && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)) {
		return fmt.Errorf("%w (%v)", ErrNoSpace, err)
	}
	return err
}

// thisBoot names the machine's current boot, or is zero when the kernel does not say: then nothing resumed is believed
// without reading it again.
func thisBoot() [bootSize]byte {
	var boot [bootSize]byte
	if id, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		sum := sha256.Sum256(id)
		copy(boot[:], sum[:])
	}
	return boot
}

// check lets a test refuse an operation.
func (s *Store) check(op string) error {
	if s.fault == nil {
		return nil
	}
	return noSpace(s.fault(op))
}

// room returns ErrNoSpace when n bytes more would leave less than the reserve.
func (s *Store) room(n int64) error {
	if err := s.check("room"); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return fmt.Errorf("cannot ask for free disk space: %w", err)
	}
	// Bavail counts in units of Frsize where the file system has one.
	unit := st.Frsize
	if unit == 0 {
		unit = st.Bsize
	}
	free := int64(min(st.Bavail, 1<<62/uint64(max(unit, 1)))) * unit
	if n > free-s.reserve {
		return fmt.Errorf("%w: %d bytes are needed, %d are free of which %d are kept for the databases", ErrNoSpace, n, free, s.reserve)
	}
	return nil
}

// syncDir makes the names in a folder durable.
func (s *Store) syncDir(dir string) error {
	if err := s.check("syncdir"); err != nil {
		return err
	}
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("cannot sync folder: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("cannot sync folder: %w", noSpace(err))
	}
	return nil
}

// lock takes the exclusive lock of an open file or folder, or returns ErrBusy. Closing releases it.
func lock(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EWOULDBLOCK):
			return ErrBusy
		case err != nil:
			return fmt.Errorf("cannot lock %s: %w", f.Name(), err)
		}
		return nil
	}
}

// checkedWriter writes to a file of the store.
type checkedWriter struct {
	s *Store
	f *os.File
}

func (w *checkedWriter) Write(p []byte) (int, error) {
	if err := w.s.check("write"); err != nil {
		return 0, err
	}
	return w.f.Write(p)
}

// contextReader stops reading when its context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

package blob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/dhowfleet/dhow/test/failpoint/killtest"
)

// writePoints are the places at which the store changes the disk.
var writePoints = []string{
	"blob/partial-created", "blob/partial-written", "blob/partial-synced", "blob/partial-recorded", "blob/partial-removed",
	"blob/put-written", "blob/synced", "blob/renamed", "blob/published", "blob/committed",
	"blob/tree-built", "blob/tree-placed", "blob/quarantined", "blob/deleted",
}

var (
	big     = content(20, 700_000)
	small   = content(21, 1000)
	session = content(22, 200_000)
	damaged = content(23, 500)
	dropped = content(24, 300)
)

const sessionName = "0123456789abcdef"

// scenario uses everything that changes the disk, and can be run again over what an earlier run left.
func scenario(s *Store, tree string) error {
	ctx := context.Background()
	bigDigest, smallDigest := digest.FromBytes(big), digest.FromBytes(small)
	w, err := s.Resume(bigDigest, int64(len(big)))
	if err != nil {
		return err
	}
	defer w.Close()
	for rest := big[w.Offset():]; len(rest) > 0; {
		n := min(len(rest), 100_000)
		if _, err := w.Write(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	if err := w.Commit(); err != nil {
		return err
	}
	if err := s.Put(ctx, bytes.NewReader(small), smallDigest, int64(len(small))); err != nil {
		return err
	}
	if !s.Has(digest.FromBytes(session)) {
		up, err := s.CreateSession(sessionName)
		if err != nil {
			return err
		}
		defer up.Close()
		if _, err := up.Write(session[up.Offset():]); err != nil {
			return err
		}
		if err := up.CommitAs(digest.FromBytes(session)); err != nil {
			return err
		}
	}
	if err := s.LinkTree(tree, map[string]digest.Digest{"big": bigDigest}); err != nil {
		return err
	}
	if err := s.LinkTree(tree, map[string]digest.Digest{"big": bigDigest, "sub/small": smallDigest}); err != nil {
		return err
	}
	d := digest.FromBytes(damaged)
	if err := s.Put(ctx, bytes.NewReader(damaged), d, int64(len(damaged))); err != nil {
		return err
	}
	if err := os.Chmod(s.path(d), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(s.path(d), []byte("not this"), 0o600); err != nil {
		return err
	}
	if err := s.Verify(d); !errors.Is(err, ErrCorrupt) || s.Has(d) {
		return err
	}
	d = digest.FromBytes(dropped)
	if err := s.Put(ctx, bytes.NewReader(dropped), d, int64(len(dropped))); err != nil {
		return err
	}
	return s.Delete(d)
}

// wantSound fails if anything under a digest or in the tree is not wholly what it should be.
func wantSound(t *testing.T, s *Store, tree string) {
	t.Helper()
	err := s.Walk(func(i Info) error {
		data, err := os.ReadFile(s.path(i.Digest))
		if err != nil {
			return err
		}
		if i.Digest.Algorithm().FromBytes(data) != i.Digest && i.Digest != digest.FromBytes(damaged) {
			return fmt.Errorf("blob %s has other content", i.Digest)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][]byte{"big": big, "sub/small": small} {
		got, err := os.ReadFile(filepath.Join(tree, path))
		if err != nil && (!errors.Is(err, fs.ErrNotExist) || path == "big" && exists(tree)) {
			t.Fatalf("the tree has no %s: %v", path, err)
		}
		if err == nil && !bytes.Equal(got, want) {
			t.Fatalf("%s in the tree has other content", path)
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// wantDone fails unless the scenario has reached its end and left nothing but its results.
func wantDone(t *testing.T, s *Store, tree string) {
	t.Helper()
	wantSound(t, s, tree)
	want := map[string]digest.Digest{"big": digest.FromBytes(big), "sub/small": digest.FromBytes(small)}
	if same, err := s.sameTree(tree, want); err != nil || !same {
		t.Fatalf("the tree is not complete: %v", err)
	}
	wantBlob(t, s, digest.FromBytes(session), session)
	if s.Has(digest.FromBytes(damaged)) || s.Has(digest.FromBytes(dropped)) {
		t.Fatal("a removed blob is there")
	}
	// What a killed process was building goes at the next opening, records without data with a collection.
	old := time.Now().Add(-time.Hour)
	for _, dir := range []string{tmpDir, partialDir, uploadDir} {
		entries, err := os.ReadDir(filepath.Join(s.dir, dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if err := os.Chtimes(filepath.Join(s.dir, dir, e.Name()), old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	s, err := Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	wantEmpty(t, s, tmpDir)
	if _, err := s.Collect(func(digest.Digest) bool { return true }, time.Minute); err != nil {
		t.Fatal(err)
	}
	wantEmpty(t, s, uploadDir)
	entries, err := filepath.Glob(filepath.Join(s.dir, partialDir, "*"))
	if err != nil || len(entries) > 0 {
		t.Fatalf("left %v (%v)", entries, err)
	}
}

// folder returns a folder in memory where there is one: what these tests are about does not depend on the disk, and
// syncing it hundreds of times takes long.
func folder(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "dhow-blob-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestMain(m *testing.M) {
	if dir := os.Getenv("DHOW_BLOB_SCENARIO"); dir != "" {
		s, err := Open(filepath.Join(dir, "store"))
		if err == nil {
			err = scenario(s, filepath.Join(dir, "tree"))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestKilledAtEveryWritePoint ends a process with SIGKILL at each passing of each write point. The next one must find
// the old or the new state and be able to finish.
func TestKilledAtEveryWritePoint(t *testing.T) {
	for _, point := range writePoints {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			n, killed := 0, true
			for killed && n < 2 {
				n++
				dir := folder(t)
				env := []string{"DHOW_BLOB_SCENARIO=" + dir}
				_, killed = killtest.Run(t, fmt.Sprintf("%s:%d", point, n), env)
				s, err := Open(filepath.Join(dir, "store"))
				if err != nil {
					t.Fatal(err)
				}
				tree := filepath.Join(dir, "tree")
				wantSound(t, s, tree)
				if killed {
					killtest.Lives(t, env)
				}
				wantDone(t, s, tree)
			}
			if n == 1 {
				t.Errorf("the scenario never passes %s", point)
			}
		})
	}
}

// TestWritePointsAreListed keeps the list above complete.
func TestWritePointsAreListed(t *testing.T) { killtest.Listed(t, writePoints) }

// TestEveryOperationMayFail refuses each operation on the disk in turn, once as full and once as broken.
func TestEveryOperationMayFail(t *testing.T) {
	t.Parallel()
	for _, refusal := range []error{syscall.ENOSPC, syscall.EIO} {
		for k, done := 1, false; !done; k++ {
			dir := folder(t)
			tree := filepath.Join(dir, "tree")
			s, err := Open(filepath.Join(dir, "store"))
			if err != nil {
				t.Fatal(err)
			}
			count, refused := 0, ""
			s.fault = func(op string) error {
				if count++; count == k {
					refused = op
					return refusal
				}
				return nil
			}
			err = scenario(s, tree)
			switch {
			case refused == "":
				done = true
				if err != nil || k < 30 {
					t.Fatalf("after %d operations: %v", k, err)
				}
			case err == nil:
				t.Fatalf("operation %d (%s) failed with %v, and nobody said so", k, refused, refusal)
			case !errors.Is(refusal, syscall.EIO) && !errors.Is(err, ErrNoSpace):
				t.Fatalf("operation %d (%s) failed with %v, reported as %v", k, refused, refusal, err)
			}
			s.fault = nil
			wantSound(t, s, tree)
			if err := scenario(s, tree); err != nil {
				t.Fatalf("after operation %d (%s) failed with %v: %v", k, refused, refusal, err)
			}
			wantDone(t, s, tree)
		}
	}
}

// TestFullDisk fills a small file system for real.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=3m"); err != nil {
		t.Skipf("cannot mount a small file system (needs root): %v", err)
	}
	defer func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	s, err := Open(filepath.Join(dir, "store"), WithReserve(200_000))
	if err != nil {
		t.Fatal(err)
	}
	before := put(t, s, small)
	_, err = s.Resume(digest.FromString("huge"), 3<<20)
	wantError(t, err, ErrNoSpace)
	wantError(t, s.Put(context.Background(), bytes.NewReader(big), digest.FromBytes(big), 3<<20), ErrNoSpace)

	data := content(25, 2_500_000)
	d := digest.FromBytes(data)
	w, err := s.Resume(d, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data[:1_000_000]); err != nil {
		t.Fatal(err)
	}
	// Something else takes the space meanwhile.
	hog := filepath.Join(dir, "hog")
	if err := os.WriteFile(hog, make([]byte, 1_000_000), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = w.Write(data[1_000_000:])
	wantError(t, err, ErrNoSpace)
	reached := w.Offset()
	if err := w.Close(); err != nil {
		t.Fatalf("what was written cannot be kept: %v", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	if free := int64(st.Bavail) * st.Bsize; free <= 0 {
		t.Fatal("nothing was left of the reserve")
	}
	wantBlob(t, s, before, small)
	if err := os.Remove(hog); err != nil {
		t.Fatal(err)
	}
	if w, err = s.Resume(d, int64(len(data))); err != nil || w.Offset() != reached {
		t.Fatalf("resumed at %d instead of %d: %v", w.Offset(), reached, err)
	}
	if _, err := w.Write(data[w.Offset():]); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	wantBlob(t, s, d, data)

	// Without a reserve the disk really runs full.
	s, err = Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(d); err != nil {
		t.Fatal(err)
	}
	if w, err = s.Resume(d, int64(len(data))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(hog, make([]byte, 1_000_000), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = w.Write(data)
	wantError(t, err, ErrNoSpace)
	if err := w.Close(); err != nil {
		t.Fatalf("what was written cannot be kept: %v", err)
	}
	wantBlob(t, s, before, small)
}

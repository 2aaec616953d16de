package blob

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/dhowfleet/dhow/test/failpoint"
)

// LinkTree makes dir a folder of exactly the given files (slash-separated paths below dir), hard links of blobs: it
// costs no space and the files outlive the blobs. The folder is built aside and takes its place in one step; a folder
// that was there is replaced, one that already is the same tree is left. dir must lie on the store's file system.
// Errors: ErrNotFound names a blob that is missing.
func (s *Store) LinkTree(dir string, files map[string]digest.Digest) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("cannot link tree: %w", err)
	}
	for path, d := range files {
		if !fs.ValidPath(path) || path == "." || strings.ContainsAny(path, "\\\x00") {
			return fmt.Errorf("cannot link tree: %q is not a path inside a folder", path)
		}
		if err := Check(d); err != nil {
			return fmt.Errorf("cannot link tree: %w", err)
		}
	}
	if same, err := s.sameTree(dir, files); err != nil || same {
		return err
	}
	stage, err := os.MkdirTemp(filepath.Join(s.dir, tmpDir), "tree-")
	if err != nil {
		return fmt.Errorf("cannot link tree: %w", noSpace(err))
	}
	defer func() { _ = os.RemoveAll(stage) }() // What remains is swept.
	// The lock tells a sweep in another process that this one is alive.
	held, err := os.Open(stage)
	if err != nil {
		return fmt.Errorf("cannot link tree: %w", err)
	}
	defer held.Close()
	if err := lock(held); err != nil {
		return fmt.Errorf("cannot link tree: %w", err)
	}
	tree := filepath.Join(stage, "tree")
	if err := s.build(tree, files); err != nil {
		return err
	}
	failpoint.Here("blob/tree-built")
	if err := s.replace(tree, dir); err != nil {
		return err
	}
	failpoint.Here("blob/tree-placed")
	return s.syncDir(filepath.Dir(dir))
}

// build makes the tree and syncs its folders.
func (s *Store) build(tree string, files map[string]digest.Digest) error {
	folders := map[string]bool{tree: true}
	if err := os.Mkdir(tree, 0o755); err != nil {
		return fmt.Errorf("cannot link tree: %w", noSpace(err))
	}
	for _, path := range slices.Sorted(maps.Keys(files)) {
		target := filepath.Join(tree, filepath.FromSlash(path))
		parent := filepath.Dir(target)
		if err := os.MkdirAll(parent, 0o755); err != nil {
			return fmt.Errorf("cannot link tree: %w", noSpace(err))
		}
		for p := parent; p != tree; p = filepath.Dir(p) {
			folders[p] = true
		}
		if err := s.check("link"); err != nil {
			return fmt.Errorf("cannot link %s: %w", path, noSpace(err))
		}
		err := os.Link(s.path(files[path]), target)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %s for %s", ErrNotFound, files[path], path)
		}
		if err != nil {
			return fmt.Errorf("cannot link %s: %w", path, noSpace(err))
		}
	}
	for folder := range folders {
		if err := s.syncDir(folder); err != nil {
			return err
		}
	}
	return nil
}

// replace gives tree the name dir.
func (s *Store) replace(tree, dir string) error {
	if err := s.check("rename"); err != nil {
		return fmt.Errorf("cannot place tree: %w", noSpace(err))
	}
	err := unix.Renameat2(unix.AT_FDCWD, tree, unix.AT_FDCWD, dir, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		// What was there ends up in the stage, which is removed.
		err = unix.Renameat2(unix.AT_FDCWD, tree, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// A file system without these calls: the old one goes aside first. Between the two the folder is missing, which
		// costs whoever finds it so another LinkTree.
		if _, statErr := os.Lstat(dir); statErr == nil {
			if err := os.Rename(dir, tree+".old"); err != nil {
				return fmt.Errorf("cannot place tree: %w", noSpace(err))
			}
		}
		err = os.Rename(tree, dir)
	}
	if err != nil {
		return fmt.Errorf("cannot place tree at %s: %w", dir, noSpace(err))
	}
	return nil
}

// sameTree reports whether dir holds exactly the blobs' own files.
func (s *Store) sameTree(dir string, files map[string]digest.Digest) (bool, error) {
	seen := 0
	differs := errors.New("differs")
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return nil
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		d, ok := files[filepath.ToSlash(rel)]
		if !ok {
			return differs
		}
		is, err := entry.Info()
		if err != nil {
			return err
		}
		should, err := os.Lstat(s.path(d))
		if err != nil || !os.SameFile(is, should) {
			return differs
		}
		seen++
		return nil
	})
	switch {
	case errors.Is(err, differs), errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("cannot look at tree: %w", err)
	}
	return seen == len(files), nil
}

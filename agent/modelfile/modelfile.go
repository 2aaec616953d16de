// Package modelfile looks at a model file before a runtime does.
//
// Inspect reads what the file says of itself (models/graph) and follows it to its external data: each file must lie
// below the model's own folder, with no symbolic link on the way, be a regular file that belongs to whoever the model
// file belongs to, and be long enough. So a model from elsewhere cannot make the process read what its author cannot,
// by "..", an absolute path, a symbolic link or a hard link to another user's file.
//
// The model file itself may be a link: stores of blobs link to it, and external data then lies beside the link. Nothing
// is kept, files are closed again, and what was checked can change afterwards: a repository's files are replaced by its
// operator, who is trusted not to race with himself.
//
// Inspect blocks for reading the file's structure, not its weights.
package modelfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/dhowfleet/dhow/models/graph"
)

// Inspect reads the model file at p and checks its external data.
func Inspect(p string) (*graph.Graph, error) {
	name := filepath.Base(p)
	// A pipe would block until somebody writes into it.
	f, err := os.OpenFile(p, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", name, err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", name, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", name)
	}
	const pointer = "version https://git-lfs"
	head := make([]byte, len(pointer))
	if n, _ := f.ReadAt(head, 0); string(head[:n]) == pointer {
		return nil, fmt.Errorf("%s is a Git LFS pointer, not the model; fetch it with: git lfs pull", name)
	}
	g, err := graph.ReadFrom(f, info.Size())
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", name, err)
	}
	if len(g.External) == 0 {
		return g, nil
	}
	root, err := os.OpenRoot(filepath.Dir(p))
	if err != nil {
		return nil, fmt.Errorf("cannot open the folder of %s: %w", name, err)
	}
	defer func() { _ = root.Close() }()
	for _, e := range g.External {
		if err := external(root, e, info); err != nil {
			return nil, fmt.Errorf("%s keeps weights in %q: %w", name, e.Location, err)
		}
	}
	return g, nil
}

// external checks one file of external data.
func external(root *os.Root, e graph.External, model fs.FileInfo) error {
	location := path.Clean(e.Location)
	switch {
	case strings.ContainsAny(e.Location, "\x00\\"):
		return errors.New("that is no path of a file")
	case !filepath.IsLocal(location) || location == ".":
		return errors.New("external data must lie beside the model file")
	}
	// The path as written may go through a folder that does not exist ("no/../weights"): it is cleaned, as the runtime does.
	for at := location; ; at = path.Dir(at) {
		info, err := root.Lstat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("there is no %s", at)
		case err != nil:
			return fmt.Errorf("cannot look at %s: %w", at, err)
		case info.Mode()&fs.ModeSymlink != 0:
			return fmt.Errorf("%s is a symbolic link; put the file itself there", at)
		case at != location:
		case !info.Mode().IsRegular():
			return errors.New("that is no regular file")
		case uint64(info.Size()) < e.End:
			return fmt.Errorf("it has %d bytes, the model has weights in it up to byte %d: it is cut off", info.Size(), e.End)
		case !sameOwner(info, model):
			return errors.New("it belongs to another user than the model file, perhaps by a hard link")
		}
		if path.Dir(at) == "." {
			return nil
		}
	}
}

func sameOwner(a, b fs.FileInfo) bool {
	x, ok := a.Sys().(*syscall.Stat_t)
	y, also := b.Sys().(*syscall.Stat_t)
	return !ok || !also || x.Uid == y.Uid
}

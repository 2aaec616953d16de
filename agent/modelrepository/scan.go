package modelrepository

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// print tells whether files have changed: of their names, sizes, times of change and inodes.
type print [sha256.Size]byte

// folder is a model as it lies in the repository.
type folder struct {
	name     string
	dir      string
	versions []int64 // ascending
	of       map[int64]print
	own      print // of what is beside the versions
	print    print // of everything
	broken   error // why it could not be read, when it could not
}

const (
	maxEntries = 4096 // of the files of one model
	maxDepth   = 8
)

// scan reads the repository's folder.
func (r *Repository) scan() ([]folder, error) {
	entries, err := os.ReadDir(r.root)
	if err != nil {
		return nil, fmt.Errorf("cannot read the model repository: %w", err)
	}
	var out []folder
	for _, e := range entries {
		if !plain(e.Name()) {
			continue
		}
		f, err := r.folder(e.Name())
		switch {
		case errors.Is(err, fs.ErrNotExist): // a file, or gone meanwhile
			continue
		case err != nil: // a reason not to serve this model, and no other
			f.broken, f.print = err, sha256.Sum256([]byte(err.Error()))
		}
		if len(out) == MaxModels {
			return nil, fmt.Errorf("the model repository has more than %d models", MaxModels)
		}
		out = append(out, f)
	}
	return out, nil
}

// names lists the models without looking into them.
func (r *Repository) names() (map[string]bool, error) {
	entries, err := os.ReadDir(r.root)
	if err != nil {
		return nil, fmt.Errorf("cannot read the model repository: %w", err)
	}
	out := map[string]bool{}
	for _, e := range entries {
		if !plain(e.Name()) || len(out) == MaxModels {
			continue
		}
		if info, err := os.Stat(filepath.Join(r.root, e.Name())); err == nil && info.IsDir() {
			out[e.Name()] = true
		}
	}
	return out, nil
}

// folder reads one model's folder; one that is not there, or is none, is fs.ErrNotExist.
func (r *Repository) folder(name string) (folder, error) {
	f := folder{name: name, dir: filepath.Join(r.root, name), of: map[int64]print{}}
	info, err := os.Stat(f.dir)
	if err == nil && !info.IsDir() {
		return f, fs.ErrNotExist
	}
	var entries []os.DirEntry
	if err == nil {
		entries, err = os.ReadDir(f.dir)
	}
	if err != nil {
		return f, fmt.Errorf("cannot read the folder of model %q: %w", name, err)
	}
	own, whole := &walk{hash: sha256.New()}, sha256.New()
	for _, e := range entries {
		v, ok := version(e.Name())
		if !ok {
			if !strings.HasPrefix(e.Name(), ".") {
				own.add(f.dir, e.Name(), 0)
			}
			continue
		}
		if len(f.versions) == MaxVersions {
			return f, fmt.Errorf("model %q has more than %d versions", name, MaxVersions)
		}
		w := &walk{hash: sha256.New()}
		w.add(f.dir, e.Name(), 0)
		f.versions = append(f.versions, v)
		f.of[v] = w.sum()
	}
	slices.Sort(f.versions)
	f.own = own.sum()
	_, _ = whole.Write(f.own[:])
	for _, v := range f.versions {
		p := f.of[v]
		_, _ = whole.Write(binary.LittleEndian.AppendUint64(nil, uint64(v)))
		_, _ = whole.Write(p[:])
	}
	f.print = print(whole.Sum(nil))
	return f, nil
}

// version reads the name of a version's folder.
func version(name string) (int64, bool) {
	v, err := strconv.ParseInt(name, 10, 64)
	return v, err == nil && v > 0 && strconv.FormatInt(v, 10) == name
}

// walk adds files to a print.
type walk struct {
	hash    hash.Hash
	entries int
}

func (w *walk) sum() print { return print(w.hash.Sum(nil)) }

// add adds the file or folder of a name. What cannot be read is added by its name alone: the load says why.
func (w *walk) add(dir, name string, depth int) {
	if w.entries++; w.entries > maxEntries || depth > maxDepth {
		return
	}
	path := filepath.Join(dir, name)
	buf := binary.LittleEndian.AppendUint32(nil, uint32(len(name)))
	buf = append(buf, name...)
	buf = append(buf, byte(depth))
	if target, err := os.Readlink(path); err == nil {
		buf = append(append(buf, target...), 0)
	}
	info, err := os.Stat(path)
	if err != nil {
		_, _ = w.hash.Write(buf)
		return
	}
	if !info.IsDir() {
		buf = binary.LittleEndian.AppendUint64(buf, uint64(info.Size()))
		buf = binary.LittleEndian.AppendUint64(buf, uint64(info.ModTime().UnixNano()))
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			buf = binary.LittleEndian.AppendUint64(buf, stat.Ino)
		}
	}
	_, _ = w.hash.Write(buf)
	if !info.IsDir() {
		return
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return
	}
	for _, e := range entries {
		w.add(path, e.Name(), depth+1)
	}
}

func prints(folders []folder) map[string]print {
	out := make(map[string]print, len(folders))
	for i := range folders {
		out[folders[i].name] = folders[i].print
	}
	return out
}

package host

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/tetratelabs/wazero"

	"github.com/dhowfleet/dhow/test/failpoint"
)

// cache keeps compiled code on disk: a directory for each module, named by the digest of its code, in which wazero puts
// a file of its own naming. Beside that file lies another with its digest, because machine code that was damaged on
// disk would be run as it is. An entry without a matching digest is removed and compiled anew; so is one that another
// process has not sealed yet, which costs time and nothing else.
//
// Files are written aside and renamed, so that processes may share the directory.
type cache struct {
	dir    string
	limit  int64
	logger *slog.Logger
}

const (
	defaultCacheBytes = 256 << 20
	sealName          = "digest"
	abandonedAfter    = time.Hour
)

func newCache(dir string, limit int64, logger *slog.Logger) *cache {
	if limit == 0 {
		limit = defaultCacheBytes
	}
	return &cache{dir: dir, limit: limit, logger: logger}
}

// entry is the cache's directory for one module.
type entry struct {
	cache       *cache
	dir         string
	compilation wazero.CompilationCache
	filled      bool // there was compiled code, and it is whole
}

// open returns the entry for code, emptied if it is damaged.
func (c *cache) open(code []byte) (*entry, error) {
	digest := sha256.Sum256(code)
	e := &entry{cache: c, dir: filepath.Join(c.dir, hex.EncodeToString(digest[:]))}
	if err := os.MkdirAll(e.dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot create the WASM cache: %v", err)
	}
	switch sum, files, err := e.sum(); {
	case err != nil:
		return nil, fmt.Errorf("cannot read the WASM cache: %v", err)
	case files > 0:
		sealed, err := os.ReadFile(filepath.Join(e.dir, sealName))
		if err != nil || string(sealed) != sum {
			c.logger.Info("wasm cache entry is not whole, compiling anew")
			e.clear()
			break
		}
		e.filled = true
		now := time.Now()
		_ = os.Chtimes(e.dir, now, now) // what was used last is removed last
	}
	var err error
	if e.compilation, err = wazero.NewCompilationCacheWithDir(e.dir); err != nil {
		return nil, fmt.Errorf("cannot create the WASM cache: %v", err)
	}
	return e, nil
}

// sum returns the digest of the entry's compiled code and the number of its files.
func (e *entry) sum() (string, int, error) {
	h := sha256.New()
	files := 0
	err := filepath.WalkDir(e.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path == filepath.Join(e.dir, sealName) {
			return err
		}
		if strings.HasSuffix(path, ".tmp") {
			if info, err := d.Info(); err == nil && time.Since(info.ModTime()) > abandonedAfter {
				_ = os.Remove(path)
			}
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		files++
		_, _ = io.WriteString(h, d.Name()+"\n")
		_, err = io.Copy(h, f)
		return err
	})
	return hex.EncodeToString(h.Sum(nil)), files, err
}

// seal records the digest of what was compiled and makes room in the cache. A failure costs the next start some time.
func (e *entry) seal() {
	if e.filled {
		return
	}
	failpoint.Here("wasmcache/compiled")
	sum, files, err := e.sum()
	if err == nil && files > 0 {
		err = writeAside(filepath.Join(e.dir, sealName), []byte(sum))
	}
	failpoint.Here("wasmcache/sealed")
	if err != nil {
		e.cache.logger.Warn("cannot seal the wasm cache entry", slog.Any("error", err))
	}
	e.cache.shrink(e.dir)
}

func writeAside(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// clear empties the entry. The seal goes first: code without a seal is not used.
func (e *entry) clear() {
	_ = os.Remove(filepath.Join(e.dir, sealName))
	left, err := os.ReadDir(e.dir)
	if err != nil {
		return
	}
	for _, d := range left {
		_ = os.RemoveAll(filepath.Join(e.dir, d.Name()))
	}
}

func (e *entry) remove() {
	e.clear()
	_ = os.Remove(e.dir)
}

// shrink removes the entries used longest ago until the cache is within its limit, keep excepted. Code that is loaded
// stays loaded when its entry goes.
func (c *cache) shrink(keep string) {
	dirs, err := os.ReadDir(c.dir)
	if err != nil {
		return
	}
	type used struct {
		dir  string
		at   time.Time
		size int64
	}
	var entries []used
	total := int64(0)
	for _, d := range dirs {
		info, err := d.Info()
		if err != nil || !d.IsDir() {
			continue
		}
		u := used{dir: filepath.Join(c.dir, d.Name()), at: info.ModTime()}
		_ = filepath.WalkDir(u.dir, func(_ string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				if info, err := d.Info(); err == nil {
					u.size += info.Size()
				}
			}
			return nil
		})
		total += u.size
		if u.dir != keep {
			entries = append(entries, u)
		}
	}
	sort.Slice(entries, func(i, j int) bool { return entries[i].at.Before(entries[j].at) })
	for _, u := range entries {
		if total <= c.limit {
			return
		}
		(&entry{cache: c, dir: u.dir}).remove()
		total -= u.size
	}
}

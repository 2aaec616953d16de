package compiled

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/dhowfleet/dhow/test/failpoint"
)

// cache keeps compiled code on disk: a folder for each module, named by the digest of its code, in which wazero puts a
// file of its own naming. Beside that file lies a seal with its digest, because machine code that was damaged on disk
// would be run as it is. What its seal does not describe is removed and compiled anew.
//
// An entry comes into being whole: it is filled in a folder of its own, sealed there and then renamed to its place, and
// it is never changed afterwards. It leaves by being renamed away first. So any number of processes may share the
// folder, without locks, and one that is killed leaves nothing but a folder that nobody looks into, which goes when it
// is an hour old.
type cache struct {
	dir     string
	bytes   int64 // of all entries
	entries int
	logger  *slog.Logger
}

const (
	defaultCacheBytes = 256 << 20
	maxEntries        = 1000
	maxEntryFiles     = 8 // of one entry; there are two, unless another version of wazero filled it too
	sealName          = "digest"
	newPrefix         = "new-" // folders that are being filled
	oldPrefix         = "old-" // folders that are being removed
	abandonedAfter    = time.Hour
)

func newCache(dir string, limit int64, logger *slog.Logger) *cache {
	if limit == 0 {
		limit = defaultCacheBytes
	}
	return &cache{dir: dir, bytes: limit, entries: maxEntries, logger: logger}
}

// place is where the entry for code lies, if there is one.
func (c *cache) place(code []byte) string {
	digest := sha256.Sum256(code)
	return filepath.Join(c.dir, hex.EncodeToString(digest[:]))
}

// find reports whether there is a whole entry at place. One that is not whole is removed.
func (c *cache) find(place string) bool {
	switch err := verify(place); {
	case err == nil:
		now := time.Now()
		_ = os.Chtimes(place, now, now) // what was used last is removed last
		return true
	case !errors.Is(err, fs.ErrNotExist) || exists(place):
		c.logger.Info("wasm cache entry is not whole, compiling anew", slog.Any("error", err))
		c.discard(place)
	}
	return false
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// begin makes the folder in which an entry is to be filled.
func (c *cache) begin() (string, error) {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return "", fmt.Errorf("%w: %v", ErrUnwritable, err)
	}
	return private(c.dir)
}

// private makes a folder for compiled code that nobody else looks into.
func private(parent string) (string, error) {
	dir, err := os.MkdirTemp(parent, newPrefix+"*") // with the permissions 0700
	if err != nil {
		return "", fmt.Errorf("%w: %v", ErrUnwritable, err)
	}
	return dir, nil
}

// publish moves a filled and sealed folder to its place and makes room for it. If another process was faster, its entry
// stays. A failure costs the next start some time, and nothing else.
func (c *cache) publish(dir, place string) {
	if err := os.Rename(dir, place); err != nil {
		if !exists(place) {
			c.logger.Warn("cannot keep compiled wasm code, it will be compiled again", slog.Any("error", err))
		}
		_ = os.RemoveAll(dir)
	}
	failpoint.Here("wasmcache/published")
	c.shrink(place)
}

// discard removes an entry. It is renamed first, so that nobody finds a part of it.
func (c *cache) discard(place string) {
	old, err := os.MkdirTemp(c.dir, oldPrefix+"*")
	if err == nil {
		err = os.Rename(place, filepath.Join(old, sealName))
		_ = os.RemoveAll(old)
	}
	if err != nil && exists(place) { // a full disk has no room for the folder; without its seal the entry is not used
		_ = os.Remove(filepath.Join(place, sealName))
		_ = os.RemoveAll(place)
	}
}

// shrink removes the entries used longest ago until the cache is within its limits, keep excepted, and what processes
// that were killed left behind. Code that is loaded stays loaded when its entry goes.
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
	total, count := int64(0), 0
	for _, d := range dirs {
		info, err := d.Info()
		if err != nil || !d.IsDir() {
			continue
		}
		u := used{dir: filepath.Join(c.dir, d.Name()), at: info.ModTime()}
		if strings.HasPrefix(d.Name(), newPrefix) || strings.HasPrefix(d.Name(), oldPrefix) {
			if time.Since(u.at) > abandonedAfter {
				_ = os.RemoveAll(u.dir)
			}
			continue
		}
		u.size = size(u.dir)
		total += u.size
		count++
		if u.dir != keep {
			entries = append(entries, u)
		}
	}
	sort.Slice(entries, func(i, j int) bool { return entries[i].at.Before(entries[j].at) })
	for _, u := range entries {
		if total <= c.bytes && count <= c.entries {
			return
		}
		c.discard(u.dir)
		total -= u.size
		count--
	}
}

func size(dir string) int64 {
	total := int64(0)
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if info, err := d.Info(); err == nil {
				total += info.Size()
			}
		}
		return nil
	})
	return total
}

// seal writes down the digest of what lies in a folder.
func seal(dir string) error {
	failpoint.Here("wasmcache/compiled")
	digest, err := sum(dir)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, sealName), []byte(digest), 0o600); err != nil {
		return err
	}
	failpoint.Here("wasmcache/sealed")
	return nil
}

// verify returns why what lies in a folder is not what was sealed.
func verify(dir string) error {
	f, err := os.Open(filepath.Join(dir, sealName))
	if err != nil {
		return err
	}
	sealed, err := io.ReadAll(io.LimitReader(f, 2*2*sha256.Size))
	_ = f.Close()
	if err != nil {
		return err
	}
	digest, err := sum(dir)
	if err != nil {
		return err
	}
	if string(sealed) != digest {
		return errors.New("it is not what was sealed")
	}
	return nil
}

// sum returns the digest of a folder's compiled code.
func sum(dir string) (string, error) {
	h := sha256.New()
	files, left := 0, int64(MaxCompiled)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path == filepath.Join(dir, sealName) {
			return err
		}
		if files++; files >= maxEntryFiles || !d.Type().IsRegular() {
			return fmt.Errorf("%s is not what wazero writes", d.Name())
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		_, _ = io.WriteString(h, d.Name()+"\n")
		n, err := io.Copy(h, io.LimitReader(f, left+1))
		if left -= n; left < 0 {
			return fmt.Errorf("there are more than %d bytes of compiled code", MaxCompiled)
		}
		return err
	})
	if err == nil && files == 0 {
		err = errors.New("there is no compiled code")
	}
	return hex.EncodeToString(h.Sum(nil)), err
}

package wasi

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// fill puts some files into dir.
func fill(t testing.TB, dir string) {
	t.Helper()
	for name, content := range map[string]string{"labels.txt": "cat\ndog\n", "sub/a.txt": "0123456789", "sub/b.txt": ""} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// open opens a name from descriptor 3 with the flags of path_open and returns the descriptor.
func (i *instance) open(t testing.TB, e errno, name string, flags uint64) uint64 {
	t.Helper()
	n := copy(i.memory[2048:], name)
	i.must(t, e, "path_open", 3, followLinks, 2048, uint64(n), flags, rightRead, 0, 0, 8)
	return uint64(i.u32(8))
}

// TestFilesCanBeRead by position, in pieces and from the folder that holds them.
func TestFilesCanBeRead(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir)
	i := newWorld(t, Grants{Files: dir}).instance(t)
	defer i.close()
	i.must(t, ok, "fd_prestat_get", 3, 8)
	i.must(t, ok, "fd_prestat_dir_name", 3, 100, 1)
	if i.u32(12) != 1 || i.memory[100] != '/' {
		t.Errorf("%x %q", i.memory[8:16], i.memory[100])
	}
	folder := i.open(t, ok, "sub", openFolder)
	copy(i.memory[100:], "../sub/./a.txt")
	i.must(t, ok, "path_open", folder, 0, 100, 14, 0, rightRead, 0, 0, 8)
	fd := uint64(i.u32(8))
	i.pieces(1000, 3, 1100, 4)
	i.must(t, ok, "fd_read", fd, 64, 2, 8)
	if got := string(i.memory[1000:1003]) + string(i.memory[1100:1104]); got != "0123456" || i.u32(8) != 7 {
		t.Errorf("%q, %d", got, i.u32(8))
	}
	i.must(t, ok, "fd_tell", fd, 16)
	if i.u64(16) != 7 {
		t.Errorf("at %d", i.u64(16))
	}
	minus := int64(-2)
	i.must(t, ok, "fd_seek", fd, uint64(minus), 2, 16)
	i.must(t, ok, "fd_read", fd, 64, 2, 8)
	if string(i.memory[1000:1002]) != "89" || i.u32(8) != 2 {
		t.Errorf("%q, %d", i.memory[1000:1002], i.u32(8))
	}
	i.must(t, ok, "fd_pread", fd, 64, 1, 4, 8)
	if string(i.memory[1000:1003]) != "456" {
		t.Errorf("%q", i.memory[1000:1003])
	}
	i.must(t, errInvalid, "fd_seek", fd, uint64(1)<<63, 0, 16)
	i.must(t, ok, "fd_filestat_get", fd, 1200)
	if i.memory[1216] != typeFile || i.u64(1232) != 10 || i.u64(1248) != 0 {
		t.Errorf("%x", i.memory[1200:1264])
	}
	number := i.u64(1208)
	i.must(t, ok, "fd_readdir", folder, 3000, 100, 0, 8)
	if i.u32(8) != 2*(direntSize+5) || string(i.memory[3024:3029]) != "a.txt" || string(i.memory[3053:3058]) != "b.txt" || i.u64(3008) != number {
		t.Errorf("%d %q", i.u32(8), i.memory[3000:3060])
	}
	i.must(t, ok, "fd_readdir", folder, 3000, 40, i.u64(3000), 8)
	if i.u32(8) != direntSize+5 || string(i.memory[3024:3029]) != "b.txt" {
		t.Errorf("from the second on: %d %q", i.u32(8), i.memory[3000:3060])
	}
	i.must(t, ok, "fd_readdir", folder, 3000, 10, 0, 8)
	if i.u32(8) != 10 {
		t.Errorf("an entry that does not fit fills the room: %d", i.u32(8))
	}
	i.must(t, ok, "fd_renumber", fd, folder)
	i.must(t, errBadf, "fd_tell", fd, 16)
	i.must(t, ok, "fd_tell", folder, 16)
	i.must(t, ok, "fd_close", folder)
	i.must(t, errBadf, "fd_tell", folder, 16)
}

func TestNothingCanBeWritten(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir)
	i := newWorld(t, Grants{Files: dir}).instance(t)
	defer i.close()
	i.open(t, errReadOnly, "new", openCreate)
	i.open(t, errReadOnly, "labels.txt", openTruncate)
	n := copy(i.memory[2048:], "labels.txt")
	i.must(t, errReadOnly, "path_open", 3, 1, 2048, uint64(n), 0, rightRead|rightWrite, 0, 0, 8)
	i.must(t, errReadOnly, "path_unlink_file", 3, 2048, uint64(n))
	i.must(t, errReadOnly, "path_rename", 3, 2048, uint64(n), 3, 2048, 3)
	i.must(t, errReadOnly, "path_symlink", 2048, uint64(n), 3, 2048, 3)
	i.must(t, errReadOnly, "path_create_directory", 3, 2048, 3)
	fd := i.open(t, ok, "labels.txt", 0)
	i.pieces(1000, 3)
	i.must(t, errReadOnly, "fd_write", fd, 64, 1, 8)
	i.must(t, errReadOnly, "fd_filestat_set_size", fd, 0)
	if got, err := os.ReadFile(filepath.Join(dir, "labels.txt")); err != nil || string(got) != "cat\ndog\n" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestNoWayOut: neither a name nor a link leads out of the folder, and what is no file or folder does not open.
func TestNoWayOut(t *testing.T) {
	outside := t.TempDir()
	fill(t, outside)
	dir := filepath.Join(outside, "granted")
	fill(t, dir)
	for link, target := range map[string]string{
		"absolute": filepath.Join(outside, "labels.txt"), "relative": "../labels.txt", "folder": "..", "loop": "loop",
		"inside": "labels.txt", "sub/up": "../../labels.txt", "chain": "relative",
	} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	i := newWorld(t, Grants{Files: dir}).instance(t)
	defer i.close()
	for name, e := range map[string]errno{
		"..": errNotCapable, "../labels.txt": errNotCapable, "sub/../../labels.txt": errNotCapable, "/etc/passwd": errNotCapable,
		"absolute": errNotCapable, "relative": errNotCapable, "folder": errNotCapable, "folder/labels.txt": errNotCapable,
		"sub/up": errNotCapable, "chain": errNotCapable, "missing": errNoEntry, "pipe": errAccess, "labels.txt/x": errNotDir,
		"labels.txt\x00": errInvalid, "": errNoEntry, "../granted/labels.txt": errNotCapable,
	} {
		i.open(t, e, name, 0)
	}
	if e, err := i.do("path_open", 3, 1, 2048, uint64(copy(i.memory[2048:], "loop")), 0, rightRead, 0, 0, 8); err != nil || e == ok {
		t.Errorf("a link to itself: %d, %v", e, err)
	}
	i.open(t, ok, "inside", 0)
	i.must(t, errLoop, "path_open", 3, 0, 2048, uint64(copy(i.memory[2048:], "inside")), 0, rightRead, 0, 0, 8)
	i.must(t, errNotSup, "path_readlink", 3, 2048, 8, 100, 100, 8)
	i.must(t, errNameTooLong, "path_open", 3, 1, 0, maxPath+1, 0, rightRead, 0, 0, 8)
}

// TestTheTableIsBounded, and Reset and Close give files back.
func TestTheTableIsBounded(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir)
	i := newWorld(t, Grants{Files: dir}).instance(t)
	before := openFiles(t)
	kept := i.open(t, ok, "sub/a.txt", 0)
	i.must(t, ok, "fd_seek", kept, 4, 0, 16)
	i.state.Mark()
	for round := range 3 {
		for fd := uint64(5); fd < maxDescriptors; fd++ {
			if got := i.open(t, ok, "labels.txt", 0); got != fd {
				t.Fatalf("descriptor %d, want %d", got, fd)
			}
		}
		i.open(t, errTooMany, "labels.txt", 0)
		if round == 1 {
			i.must(t, ok, "fd_close", kept)
		} else {
			i.must(t, ok, "fd_renumber", 10, kept)
		}
		i.state.Reset()
		i.must(t, ok, "fd_tell", kept, 16)
		i.pieces(1000, 2)
		i.must(t, ok, "fd_read", kept, 64, 1, 8)
		if i.u64(16) != 4 || string(i.memory[1000:1002]) != "45" {
			t.Errorf("round %d: at %d, read %q", round, i.u64(16), i.memory[1000:1002])
		}
		if n := openFiles(t); n != before+2 { // the file and the folder
			t.Errorf("%d files are open, before %d", n, before)
		}
	}
	i.close()
	if n := openFiles(t); n != before {
		t.Errorf("after closing %d files are open, before %d", n, before)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("this system does not list open files: %v", err)
	}
	return len(entries)
}

func TestAFolderOfTooManyFiles(t *testing.T) {
	dir := t.TempDir()
	for n := range maxEntries + 1 {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(n)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	i := newWorld(t, Grants{Files: dir}).instance(t)
	defer i.close()
	i.must(t, errOverflow, "fd_readdir", 3, 3000, 100, 0, 8)
	if err := os.Remove(filepath.Join(dir, "0")); err != nil {
		t.Fatal(err)
	}
	i.must(t, ok, "fd_readdir", 3, 3000, 100, 0, 8)
	for range maxListed/maxEntries - 1 {
		i.must(t, ok, "fd_readdir", i.open(t, ok, ".", openFolder), 3000, 100, 0, 8)
	}
	i.must(t, errOverflow, "fd_readdir", i.open(t, ok, ".", openFolder), 3000, 100, 0, 8)
}

package wasi

import (
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"sort"
	"strings"
	"syscall"
)

func fdPrestatGet(c call, p []uint64) errno {
	d := c.open(p[0])
	if d == nil || !d.granted {
		return errBadf
	}
	b, inside := c.at(p[1], 8)
	if !inside {
		return errFault
	}
	clear(b)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(grantedName)))
	return ok
}

// grantedName is what a guest calls the granted folder.
const grantedName = "/"

func fdPrestatDirName(c call, p []uint64) errno {
	d := c.open(p[0])
	switch {
	case d == nil || !d.granted:
		return errBadf
	case uint32(p[2]) < uint32(len(grantedName)):
		return errNameTooLong
	case !c.WriteString(uint32(p[1]), grantedName):
		return errFault
	}
	return ok
}

// name reads a path and puts it behind that of its folder.
func (c call) name(d *descriptor, ptr, length uint64) (string, errno) {
	n := uint32(length)
	if n > maxPath {
		return "", errNameTooLong
	}
	c.charge(n, perMove)
	b, inside := c.at(ptr, n)
	switch {
	case !inside:
		return "", errFault
	case n == 0:
		return "", errNoEntry
	case b[0] == '/':
		return "", errNotCapable
	case strings.IndexByte(string(b), 0) >= 0:
		return "", errInvalid
	}
	path := string(b)
	if d.path != "." {
		path = d.path + "/" + path
	}
	if len(path) > maxPath {
		return "", errNameTooLong
	}
	return path, ok
}

// folder returns the granted folder. It is held open, so that an instance sees one folder even when its name comes to
// mean another.
func (c call) folder() (*os.Root, errno) {
	if c.root == nil {
		root, err := os.OpenRoot(c.grants.Files)
		if err != nil {
			return nil, number(err)
		}
		c.State.root = root
	}
	return c.root, ok
}

const (
	followLinks  = 1
	openCreate   = 1
	openFolder   = 2
	openTruncate = 8
)

func pathFilestatGet(c call, p []uint64) errno {
	d, e := c.openFolder(p[0])
	if e != ok {
		return e
	}
	path, e := c.name(d, p[2], p[3])
	if e != ok {
		return e
	}
	info, e := c.stat(path, uint32(p[1])&followLinks != 0)
	if e != ok {
		return e
	}
	return c.filestat(p[4], path, typeOf(info.Mode()), info.Size())
}

// stat asks about a name. A name costs as much as the folders that lead to it.
func (c call) stat(path string, follow bool) (fs.FileInfo, errno) {
	c.Charge(costSystem * int64(1+strings.Count(path, "/")))
	root, e := c.folder()
	if e != ok {
		return nil, e
	}
	look := root.Lstat
	if follow {
		look = root.Stat
	}
	info, err := look(path)
	if err != nil {
		return nil, number(err)
	}
	return info, ok
}

func typeOf(m fs.FileMode) byte {
	switch {
	case m.IsRegular():
		return typeFile
	case m.IsDir():
		return typeFolder
	case m&fs.ModeSymlink != 0:
		return typeLink
	}
	return typeUnknown
}

func pathOpen(c call, p []uint64) errno {
	d, e := c.openFolder(p[0])
	if e != ok {
		return e
	}
	flags := uint32(p[4])
	if flags&(openCreate|openTruncate) != 0 || p[5]&rightWrite != 0 && flags&openFolder == 0 {
		return errReadOnly
	}
	path, e := c.name(d, p[2], p[3])
	if e != ok {
		return e
	}
	// What the name means is asked before it is opened, because opening a device can have an effect, and after it was
	// opened, because the answer may have changed.
	info, e := c.stat(path, uint32(p[1])&followLinks != 0)
	if e != ok {
		return e
	}
	opened := descriptor{path: path}
	switch typeOf(info.Mode()) {
	case typeFolder:
		opened.kind = folder
	case typeFile:
		opened.kind = file
	case typeLink:
		return errLoop
	default:
		return errAccess
	}
	if flags&openFolder != 0 && opened.kind != folder {
		return errNotDir
	}
	fd := c.free()
	if fd < 0 {
		return errTooMany
	}
	if _, inside := c.at(p[8], 4); !inside {
		return errFault
	}
	if opened.kind == file {
		if opened.file, e = c.openFile(path); e != ok {
			return e
		}
	}
	c.descriptors[fd] = opened
	c.WriteUint32Le(uint32(p[8]), uint32(fd))
	return ok
}

func (c call) openFile(path string) (*os.File, errno) {
	c.Charge(costSystem * int64(2+strings.Count(path, "/")))
	root, e := c.folder()
	if e != ok {
		return nil, e
	}
	f, err := root.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, number(err)
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		_ = f.Close()
		return nil, errAccess
	}
	return f, ok
}

// free returns the lowest descriptor that is not open, or -1.
func (c call) free() int {
	for i := range c.descriptors {
		if c.descriptors[i].kind == closed {
			return i
		}
	}
	if len(c.descriptors) == maxDescriptors {
		return -1
	}
	c.State.descriptors = append(c.descriptors, descriptor{})
	return len(c.descriptors) - 1
}

const direntSize = 24

// fdReaddir lists a folder by name. The entries are read anew when a guest begins from the front.
func fdReaddir(c call, p []uint64) errno {
	d, e := c.openFolder(p[0])
	if e != ok {
		return e
	}
	b, inside := c.at(p[1], uint32(p[2]))
	if !inside {
		return errFault
	}
	cookie := p[3]
	if cookie == 0 || d.entries == nil {
		if d.entries, e = c.list(d); e != ok {
			return e
		}
	}
	used := 0
	for i := cookie; i < uint64(len(d.entries)) && used < len(b); i++ {
		n := &d.entries[i]
		c.charge(uint32(direntSize+len(n.name)), perMove)
		var head [direntSize]byte
		binary.LittleEndian.PutUint64(head[:], i+1)
		binary.LittleEndian.PutUint64(head[8:], inode(d.path+"/"+n.name))
		binary.LittleEndian.PutUint32(head[16:], uint32(len(n.name)))
		head[20] = n.kind
		// An entry that does not fit is cut off; that the room is full tells the guest to ask again.
		used += copy(b[used:], head[:])
		used += copy(b[used:], n.name)
	}
	return c.moved(p[4], uint32(used))
}

func (c call) list(d *descriptor) ([]entry, errno) {
	c.Charge(costSystem * int64(2+strings.Count(d.path, "/")))
	root, e := c.folder()
	if e != ok {
		return nil, e
	}
	f, err := root.OpenFile(d.path, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, number(err)
	}
	defer f.Close()
	kept := 0
	for i := range c.descriptors {
		if o := &c.descriptors[i]; o != d {
			kept += len(o.entries)
		}
	}
	entries := []entry{}
	for {
		const some = 128
		c.Charge(costEntry * some)
		found, err := f.ReadDir(some)
		for _, n := range found {
			entries = append(entries, entry{name: n.Name(), kind: typeOf(n.Type())})
		}
		if len(entries) > maxEntries || len(entries)+kept > maxListed {
			return nil, errOverflow
		}
		if errors.Is(err, io.EOF) || err == nil && len(found) == 0 {
			break
		}
		if err != nil {
			return nil, number(err)
		}
	}
	sort.Slice(entries, func(i, j int) bool { return entries[i].name < entries[j].name })
	return entries, ok
}

// number returns the error number for what the operating system said. What os.Root refuses by itself is a name that
// leads out of the folder.
func number(err error) errno {
	var system syscall.Errno
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errNoEntry
	case errors.Is(err, fs.ErrPermission):
		return errAccess
	case !errors.As(err, &system):
		return errNotCapable
	}
	switch system {
	case syscall.ENOTDIR:
		return errNotDir
	case syscall.ELOOP:
		return errLoop
	case syscall.ENAMETOOLONG:
		return errNameTooLong
	case syscall.EINVAL:
		return errInvalid
	case syscall.EISDIR:
		return errIsDir
	}
	return errIO
}

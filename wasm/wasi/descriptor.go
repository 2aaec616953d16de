package wasi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"io"
	"os"
	"path"
)

// descriptor is an entry of an instance's table.
type descriptor struct {
	kind    kind
	granted bool     // the folder that the grant opens
	path    string   // of a file or folder, from the granted folder
	file    *os.File // of a file
	offset  int64    // in a file
	entries []entry  // of a folder, once they were read
}

type kind uint8

const (
	closed kind = iota
	stdin
	stdout
	stderr
	file
	folder
)

// entry is one of a folder.
type entry struct {
	name string
	kind byte
}

// The file types of WASI.
const (
	typeUnknown   = 0
	typeCharacter = 2
	typeFolder    = 3
	typeFile      = 4
	typeLink      = 7
)

// The rights that a descriptor can have here.
const (
	rightRead         = 1 << 1
	rightSeek         = 1 << 2
	rightTell         = 1 << 5
	rightWrite        = 1 << 6
	rightOpen         = 1 << 13
	rightReaddir      = 1 << 14
	rightPathFilestat = 1 << 18
	rightFilestat     = 1 << 21
	rightPoll         = 1 << 27

	rightsFile   = rightRead | rightSeek | rightTell | rightFilestat | rightPoll
	rightsFolder = rightOpen | rightReaddir | rightPathFilestat | rightFilestat
)

// open returns an open descriptor, or nil. Without a grant the folder does not exist.
func (c call) open(fd uint64) *descriptor {
	i := uint64(uint32(fd))
	if i >= uint64(len(c.descriptors)) {
		return nil
	}
	d := &c.descriptors[i]
	if d.kind == closed || d.kind == folder && c.grants.Files == "" {
		return nil
	}
	return d
}

func (c call) openFolder(fd uint64) (*descriptor, errno) {
	d := c.open(fd)
	switch {
	case d == nil:
		return nil, errBadf
	case d.kind != folder:
		return nil, errNotDir
	}
	return d, ok
}

func fdClose(c call, p []uint64) errno {
	d := c.open(p[0])
	if d == nil {
		return errBadf
	}
	c.release(d.file)
	*d = descriptor{}
	return ok
}

func fdRenumber(c call, p []uint64) errno {
	from, to := c.open(p[0]), c.open(p[1])
	switch {
	case from == nil || to == nil:
		return errBadf
	case from == to:
		return ok
	case from.granted || to.granted:
		return errNotSup
	}
	c.release(to.file)
	*to, *from = *from, descriptor{}
	return ok
}

func fdFdstatGet(c call, p []uint64) errno {
	d := c.open(p[0])
	if d == nil {
		return errBadf
	}
	b, inside := c.at(p[1], 24)
	if !inside {
		return errFault
	}
	clear(b)
	rights, inheriting := uint64(0), uint64(0)
	switch d.kind {
	case stdin:
		rights = rightRead | rightPoll
	case stdout, stderr:
		rights = rightWrite | rightPoll
	case file:
		rights = rightsFile
	case folder:
		rights, inheriting = rightsFolder, rightsFile|rightsFolder
	}
	b[0] = c.fileType(d)
	binary.LittleEndian.PutUint64(b[8:], rights)
	binary.LittleEndian.PutUint64(b[16:], inheriting)
	return ok
}

// fileType tells a terminal from a pipe: a run time keeps back what it writes to a pipe until there is much of it, and
// ends lines on a terminal, so that a reactor's lines come out before it fails.
func (c call) fileType(d *descriptor) byte {
	switch {
	case d.kind == file:
		return typeFile
	case d.kind == folder:
		return typeFolder
	case c.command && d.kind != stderr:
		return typeUnknown
	}
	return typeCharacter
}

func fdFilestatGet(c call, p []uint64) errno {
	d := c.open(p[0])
	if d == nil {
		return errBadf
	}
	size := int64(0)
	if d.kind == file {
		c.Charge(costSystem)
		info, err := d.file.Stat()
		if err != nil {
			return number(err)
		}
		size = info.Size()
	}
	return c.filestat(p[1], d.path, c.fileType(d), size)
}

// filestat writes what is shown of a file: its type and size, and a number made of its name, by which a guest can tell
// it from others.
func (c call) filestat(ptr uint64, name string, fileType byte, size int64) errno {
	b, inside := c.at(ptr, 64)
	if !inside {
		return errFault
	}
	clear(b)
	binary.LittleEndian.PutUint64(b[8:], inode(name))
	b[16] = fileType
	binary.LittleEndian.PutUint64(b[24:], 1)
	binary.LittleEndian.PutUint64(b[32:], uint64(size))
	return ok
}

// inode makes the number of a file.
func inode(name string) uint64 {
	h := fnv.New64a()
	_, _ = io.WriteString(h, path.Clean(name))
	return h.Sum64()
}

// pieces calls move with each piece of a read or write and writes how much was moved to result. It ends early when move
// moved less than a whole piece.
func (c call) pieces(list, count, result uint64, move func(b []byte) (int, errno)) errno {
	n := uint32(count)
	if n > maxPieces {
		return errInvalid
	}
	c.Charge(costPiece * int64(n))
	total := uint32(0)
	for i := range n {
		v, inside := c.at(uint64(uint32(list)+8*i), 8)
		if !inside {
			return errFault
		}
		b, inside := c.at(uint64(binary.LittleEndian.Uint32(v)), binary.LittleEndian.Uint32(v[4:]))
		if !inside {
			return errFault
		}
		if uint64(total)+uint64(len(b)) > 1<<32-1 {
			return errInvalid
		}
		for len(b) > 0 {
			piece := b[:min(len(b), pieceSize)]
			moved, e := move(piece)
			if e != ok {
				return e
			}
			total += uint32(moved)
			if moved < len(piece) {
				return c.moved(result, total)
			}
			b = b[moved:]
		}
	}
	return c.moved(result, total)
}

func (c call) moved(result uint64, n uint32) errno {
	if !c.WriteUint32Le(uint32(result), n) {
		return errFault
	}
	return ok
}

func fdWrite(c call, p []uint64) errno {
	d := c.open(p[0])
	switch {
	case d == nil:
		return errBadf
	case d.kind == file:
		return errReadOnly
	case d.kind == folder:
		return errIsDir
	case d.kind == stdin:
		return errBadf
	}
	return c.pieces(p[1], p[2], p[3], func(b []byte) (int, errno) {
		if c.command && d.kind == stdout {
			c.charge(uint32(len(b)), perMove)
			c.write(b)
			return len(b), ok
		}
		c.lines(d.kind, b)
		return len(b), ok
	})
}

// lines hands on what is for the log. A line costs far more than its bytes, so they are counted.
func (c call) lines(from kind, b []byte) {
	fd := uint32(1)
	if from == stderr {
		fd = 2
	}
	for len(b) > 0 {
		some := b[:min(len(b), pieceSize/16)]
		c.Charge(costLine*int64(1+bytes.Count(some, newline)) + int64(len(some)/perLine))
		c.Line(fd, some)
		b = b[len(some):]
	}
}

var newline = []byte{'\n'}

func fdRead(c call, p []uint64) errno {
	d := c.open(p[0])
	switch {
	case d == nil:
		return errBadf
	case d.kind == folder:
		return errIsDir
	case d.kind == file:
		return c.pieces(p[1], p[2], p[3], func(b []byte) (int, errno) {
			n, e := c.readFile(d, b, d.offset)
			d.offset += int64(n)
			return n, e
		})
	case d.kind != stdin:
		return errBadf
	}
	return c.pieces(p[1], p[2], p[3], func(b []byte) (int, errno) {
		c.charge(uint32(len(b)), perMove)
		n := copy(b, c.stdin[c.read:])
		c.read += n
		return n, ok
	})
}

func fdPread(c call, p []uint64) errno {
	d := c.open(p[0])
	switch {
	case d == nil:
		return errBadf
	case d.kind == folder:
		return errIsDir
	case d.kind != file:
		return errSeek
	case int64(p[3]) < 0:
		return errInvalid
	}
	offset := int64(p[3])
	return c.pieces(p[1], p[2], p[4], func(b []byte) (int, errno) {
		n, e := c.readFile(d, b, offset)
		offset += int64(n)
		return n, e
	})
}

func (c call) readFile(d *descriptor, b []byte, offset int64) (int, errno) {
	c.Charge(costSystem + int64(len(b)/perRead))
	n, err := d.file.ReadAt(b, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, number(err)
	}
	return n, ok
}

func fdSeek(c call, p []uint64) errno {
	d := c.open(p[0])
	switch {
	case d == nil:
		return errBadf
	case d.kind == folder:
		return errIsDir
	case d.kind != file:
		return errSeek
	}
	base := int64(0)
	switch uint32(p[2]) {
	case io.SeekStart:
	case io.SeekCurrent:
		base = d.offset
	case io.SeekEnd:
		c.Charge(costSystem)
		info, err := d.file.Stat()
		if err != nil {
			return number(err)
		}
		base = info.Size()
	default:
		return errInvalid
	}
	offset := base + int64(p[1])
	if offset < 0 || (int64(p[1]) > 0 && offset < base) {
		return errInvalid
	}
	if !c.WriteUint64Le(uint32(p[3]), uint64(offset)) {
		return errFault
	}
	d.offset = offset
	return ok
}

func fdTell(c call, p []uint64) errno {
	return fdSeek(c, []uint64{p[0], 0, io.SeekCurrent, p[1]})
}

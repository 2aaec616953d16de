// Package memory is the linear memory of a guest's instance: mapped outside the Go heap, bounded, and put back to an
// image after a call.
//
// A Linear is one mapping as long as the limit, of which the kernel provides pages as they are touched. So growing
// neither moves nor copies, the collector does not see it, and Free gives it back at once. It is handed to wazero as an
// experimental.LinearMemory, which asks it for every growth.
//
// # The image
//
// Capture remembers what the memory holds; Restore puts it back, size included. wazero has no way to shrink a memory,
// but it takes whatever Reallocate returns as the new one: during Restore, a growth by one page is answered with the
// image's size. For that the module must declare at least one page more than the guest may use, and the limit that the
// guest sees is this package's. A guest that stands at its module's own maximum cannot be shrunk; Restore then says so.
//
// Restoring copies. Measured against a copy-on-write mapping of a memfd that madvise resets: the copy takes 0.9 us for
// 64 KiB and 110 us for 4 MiB whatever the guest touched, the mapping 20 us and more of page faults for each page that
// it touched (in a virtual machine; 0.5 us without one), so that it wins above some 10 MiB with few pages dirty alone.
// What an image has of zeroes at its end is not kept, and cleared instead of copied. Of pages beyond the image,
// keepResident bytes are cleared and stay, the rest goes back to the kernel.
//
// # Pages
//
// A page that is touched for the first time is a fault, in machine code that nothing can interrupt: 0.5 us on a machine of
// one's own, 20 to 100 us in a virtual machine that has not used that memory yet. A guest that walks through 64 MiB is then
// away for a second between two looks at the clock. So pages of 2 MiB are asked for where the memory is large anyway: all
// of it for a guest that starts with wholeHuge or more, otherwise what lies behind the first of them. Measured: 0.6 us in
// place of 45 for each 4 KiB.
//
// Copying and clearing goes in pieces, between which the Go runtime can stop the goroutine: a collection waits for
// microseconds, and not until 64 MiB are copied.
//
// A Linear is for one goroutine at a time; nothing blocks. Images may be shared.
package memory

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"unsafe"

	"github.com/tetratelabs/wazero/api"
	"golang.org/x/sys/unix"
)

// keepResident is how many bytes beyond the image stay with an instance between calls. Clearing them takes 20 us a
// MiB, having the kernel provide them anew 60 us and more.
const keepResident = 8 << 20

const (
	hugePage  = 2 << 20
	wholeHuge = 1 << 20
	piece     = 256 << 10 // copied or cleared at once
)

// Image is what a memory held. It does not change.
type Image struct {
	size uint64
	head []byte // up to the last byte that is not zero
}

// Size is the memory's size in bytes when the image was taken.
func (i *Image) Size() int64 { return int64(i.size) }

// Linear implements experimental.LinearMemory.
type Linear struct {
	whole   []byte // as it was mapped
	mapping []byte // the memory, which begins where a huge page does
	image   *Image
	shrink  bool // Reallocate answers with the image's size
}

// New maps size bytes for a memory that starts with start of them. None is used yet. Both are multiples of 64 KiB.
func New(size, start int64) (*Linear, error) {
	if size <= 0 {
		return nil, fmt.Errorf("cannot map %d bytes for a guest's memory", size)
	}
	whole, err := unix.Mmap(-1, 0, int(size)+hugePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("cannot map %d bytes for a guest's memory: %v", size, err)
	}
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(whole))) % hugePage
	l := &Linear{whole: whole, mapping: whole[skip : int64(skip)+size : int64(skip)+size]}
	huge := l.mapping
	if start < wholeHuge {
		huge = huge[min(hugePage, len(huge)):]
	}
	if len(huge) >= hugePage {
		_ = unix.Madvise(huge, unix.MADV_HUGEPAGE) // a kernel without them serves with small ones
	}
	return l, nil
}

// Reallocate returns the first size bytes; nil, which the guest sees as memory.grow failing, beyond the limit.
func (l *Linear) Reallocate(size uint64) []byte {
	if l.shrink {
		return l.mapping[:l.image.size]
	}
	if size > uint64(len(l.mapping)) {
		return nil
	}
	return l.mapping[:size]
}

// Capture takes the image that Restore puts back, of the first size bytes. like, which may be nil, is shared if it is
// the same: instances of one module usually are.
func (l *Linear) Capture(size uint32, like *Image) *Image {
	used := l.mapping[:size]
	head := used[:trimmed(used)]
	if like != nil && like.size == uint64(size) && bytes.Equal(like.head, head) {
		l.image = like
	} else {
		l.image = &Image{size: uint64(size), head: bytes.Clone(head)}
	}
	return l.image
}

// trimmed returns the length of b without the zeroes at its end, in whole pages of WASM, which are whole pages of every
// kernel.
func trimmed(b []byte) int {
	const step = 1 << 16
	n := len(b)
	for n >= step && zero(b[n-step:n]) {
		n -= step
	}
	return n
}

func zero(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
	}
	return true
}

// Restore puts memory, which lies in l, back to the image. It reports false if that cannot be done; the instance is
// then not to be used again.
func (l *Linear) Restore(memory api.Memory) bool {
	size := uint64(memory.Size())
	if l.image == nil || size < l.image.size {
		return false
	}
	for at := 0; at < len(l.image.head); at += piece {
		copyPiece(l.mapping[at:], l.image.head[at:min(at+piece, len(l.image.head))])
	}
	tail := l.mapping[len(l.image.head):size]
	for at := 0; at < min(len(tail), keepResident); at += piece {
		clearPiece(tail[at:min(at+piece, len(tail), keepResident)])
	}
	if len(tail) > keepResident {
		if err := unix.Madvise(tail[keepResident:], unix.MADV_DONTNEED); err != nil {
			return false
		}
	}
	if size == l.image.size {
		return true
	}
	l.shrink = true
	_, grown := memory.Grow(1)
	l.shrink = false
	return grown && uint64(memory.Size()) == l.image.size
}

// copyPiece and clearPiece are calls of their own, since it is at a call that the Go runtime stops a goroutine at once.
//
//go:noinline
func copyPiece(to, from []byte) { copy(to, from) }

//go:noinline
func clearPiece(b []byte) { clear(b) }

// Free unmaps the memory. Nothing may run in the instance any more. Calling it again does nothing.
func (l *Linear) Free() {
	if l.whole != nil {
		_ = unix.Munmap(l.whole)
		l.whole, l.mapping = nil, nil
	}
}

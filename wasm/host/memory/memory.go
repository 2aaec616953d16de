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
// A Linear is for one goroutine at a time; nothing blocks. Images may be shared.
package memory

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"syscall"

	"github.com/tetratelabs/wazero/api"
)

// keepResident is how many bytes beyond the image stay with an instance between calls. Clearing them takes 20 us a
// MiB, having the kernel provide them anew 60 us and more.
const keepResident = 8 << 20

// piece is how many bytes are copied or cleared at once: some 10 us, or 1 ms where every page is new.
const piece = 256 << 10

// Image is what a memory held. It does not change.
type Image struct {
	size uint64
	head []byte // up to the last byte that is not zero
}

// Size is the memory's size in bytes when the image was taken.
func (i *Image) Size() int64 { return int64(i.size) }

// Linear implements experimental.LinearMemory.
type Linear struct {
	mapping []byte
	image   *Image
	shrink  bool // Reallocate answers with the image's size
}

// New maps size bytes, of which none is used yet. size is a multiple of 64 KiB.
func New(size int64) (*Linear, error) {
	mapping, err := syscall.Mmap(-1, 0, int(size), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON|syscall.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("cannot map %d bytes for a guest's memory: %v", size, err)
	}
	return &Linear{mapping: mapping}, nil
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
	// In pieces, since the runtime cannot stop the world in the middle of one.
	for at := 0; at < len(l.image.head); at += piece {
		copy(l.mapping[at:], l.image.head[at:min(at+piece, len(l.image.head))])
	}
	tail := l.mapping[len(l.image.head):size]
	for at := 0; at < min(len(tail), keepResident); at += piece {
		clear(tail[at:min(at+piece, len(tail), keepResident)])
	}
	if len(tail) > keepResident {
		if err := syscall.Madvise(tail[keepResident:], syscall.MADV_DONTNEED); err != nil {
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

// Free unmaps the memory. Nothing may run in the instance any more. Calling it again does nothing.
func (l *Linear) Free() {
	if l.mapping != nil {
		_ = syscall.Munmap(l.mapping)
		l.mapping = nil
	}
}

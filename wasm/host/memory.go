package host

import (
	"fmt"
	"sync"
	"syscall"
)

// linear is an instance's memory: one mapping as long as the limit, of which the kernel provides pages as they are
// touched. So growing neither moves nor copies, the Go heap and its collector do not see it, and free gives it back at
// once. It implements experimental.LinearMemory.
type linear struct {
	mu      sync.Mutex
	mapping []byte
}

func newLinear(size int64) (*linear, error) {
	mapping, err := syscall.Mmap(-1, 0, int(size), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON|syscall.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("cannot map %d bytes for a guest's memory: %v", size, err)
	}
	return &linear{mapping: mapping}, nil
}

// Reallocate returns the first size bytes; nil, which the guest sees as memory.grow failing, beyond the limit.
func (l *linear) Reallocate(size uint64) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if size > uint64(len(l.mapping)) {
		return nil
	}
	return l.mapping[:size]
}

// Free unmaps the memory. Nothing may run in the instance any more. Calling it again does nothing: wazero calls it when
// it closes an instance, but not when a deadline closed it.
func (l *linear) Free() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mapping != nil {
		_ = syscall.Munmap(l.mapping)
		l.mapping = nil
	}
}

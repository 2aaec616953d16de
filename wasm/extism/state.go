package extism

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"sort"
	"syscall"

	"github.com/dhowfleet/dhow/wasm/abi"
	"github.com/dhowfleet/dhow/wasm/host/memory"
)

// State is what a plug-in's instance has beside its own memory. It is not safe for concurrent use.
type State struct {
	config map[string][]byte
	limit  uint64 // bytes of the arena

	mapping *memory.Linear
	memory  []byte // as long as limit; pages are there once they are touched
	top     uint64 // behind the last block

	blocks []block // by address
	spare  [64 * steps]int32
	spares bool

	input, output span
	failure       uint64 // the block that says what went wrong; 0 is none

	variables map[string][]byte
	kept      int // bytes of variables
}

type block struct {
	at, size, used uint32
	next           int32 // of the spare ones of one size, plus 1
	active         bool
}

type span struct{ at, length uint64 }

// The bounds that the package's description names.
const (
	maxBlocks        = 1 << 16
	maxVariables     = 1 << 10
	maxVariableBytes = 1 << 20

	first        = 64 // no block lies at 0, which stands for none
	steps        = 4  // sizes of blocks between two powers of two
	keepResident = 8 << 20
	pageSize     = 1 << 16
)

// NewState returns the State of an instance whose arena holds at most limit bytes, input and output included. config is
// what config_get knows; it is shared and must not change.
func NewState(limit int64, config map[string][]byte) (*State, error) {
	if limit < pageSize || limit > 1<<32-pageSize {
		return nil, fmt.Errorf("cannot make a plug-in's memory: %d bytes are not between 64 KiB and 4 GiB", limit)
	}
	limit = (limit + pageSize - 1) &^ (pageSize - 1)
	mapping, err := memory.New(limit, 0)
	if err != nil {
		return nil, err
	}
	return &State{config: config, limit: uint64(limit), mapping: mapping, memory: mapping.Reallocate(uint64(limit)), top: first}, nil
}

// Close gives back the arena. Nothing of the instance may run any more.
func (s *State) Close() {
	s.mapping.Free()
	*s = State{mapping: s.mapping}
}

// Input begins a call and returns room for its n bytes of input, to be written before the plug-in runs.
func (s *State) Input(n int) (room []byte, err error) {
	if uint64(n)+first > s.limit {
		return nil, ErrMemory
	}
	s.Reset()
	at := s.allocate(uint64(n))
	s.input = span{at, uint64(n)}
	return s.memory[at:][:n:n], nil
}

// Output is what the plug-in said its output is, valid until Reset, Input or Close.
func (s *State) Output() []byte {
	return s.memory[s.output.at:][:s.output.length:s.output.length]
}

// Failure is the sentence that the plug-in left about what went wrong, cut off at abi.MaxMessage bytes, and whether it
// left one. It is valid as long as Output.
func (s *State) Failure() ([]byte, bool) {
	if s.failure == 0 {
		return nil, false
	}
	b := s.block(s.failure)
	return b[:min(len(b), abi.MaxMessage)], true
}

// Reset forgets everything that the plug-in did. It allocates nothing.
func (s *State) Reset() {
	s.forget()
	clear(s.variables)
	s.kept = 0
}

// forget empties the arena. What lies beyond keepResident is given back to the kernel, which is cheaper than clearing it.
func (s *State) forget() {
	used := s.memory[:s.top]
	clear(used[:min(len(used), keepResident)])
	if len(used) > keepResident {
		rest := s.memory[keepResident : (len(used)+pageSize-1)&^(pageSize-1)]
		if err := syscall.Madvise(rest, syscall.MADV_DONTNEED); err != nil {
			clear(rest)
		}
	}
	s.top = first
	s.blocks = s.blocks[:0]
	if s.spares {
		s.spare, s.spares = [len(s.spare)]int32{}, false
	}
	s.input, s.output, s.failure = span{}, span{}, 0
}

// sizeClass rounds a size up to one of those that blocks have, so that a freed block fits others of about its size. The
// waste is a quarter at most.
func sizeClass(n uint64) (size uint64, class int) {
	const least = 32
	if n <= least {
		return least, 0
	}
	power := bits.Len64(n-1) - 1 // 2^power < n <= 2^(power+1)
	step := uint64(1) << power / steps
	over := (n - 1 - 1<<power) / step
	return 1<<power + (over+1)*step, power*steps + int(over)
}

// allocate returns the address of a new block; 0 for one of no bytes. It ends the call if there is no room.
func (s *State) allocate(n uint64) uint64 {
	if n == 0 {
		return 0
	}
	if n > s.limit {
		panic(ErrMemory)
	}
	size, class := sizeClass(n)
	if i := s.spare[class]; i > 0 {
		b := &s.blocks[i-1]
		s.spare[class] = b.next
		b.used, b.active = uint32(n), true
		return uint64(b.at)
	}
	size = min(size, s.limit-s.top)
	if n > size || len(s.blocks) == maxBlocks {
		panic(ErrMemory)
	}
	at := s.top
	s.blocks = append(s.blocks, block{at: uint32(at), size: uint32(size), used: uint32(n), active: true})
	s.top += size &^ 7
	return at
}

// find returns the index of the block at an address, or -1.
func (s *State) find(at uint64) int {
	if at >= s.top || at == 0 {
		return -1
	}
	i := sort.Search(len(s.blocks), func(i int) bool { return uint64(s.blocks[i].at) >= at })
	if i == len(s.blocks) || uint64(s.blocks[i].at) != at || !s.blocks[i].active {
		return -1
	}
	return i
}

// block returns the bytes of the block at an address; nil if there is none.
func (s *State) block(at uint64) []byte {
	i := s.find(at)
	if i < 0 {
		return nil
	}
	b := &s.blocks[i]
	return s.memory[b.at:][:b.used:b.used]
}

func (s *State) free(at uint64) {
	i := s.find(at)
	if i < 0 {
		return
	}
	b := &s.blocks[i]
	b.active = false
	if size, class := sizeClass(uint64(b.size)); size == uint64(b.size) { // the last block of a full arena may be smaller
		b.next = s.spare[class]
		s.spare[class], s.spares = int32(i+1), true
	}
	if at == s.input.at {
		s.input.length = 0
	}
}

// inside says whether n bytes from an address lie in the arena.
func (s *State) inside(at, n uint64) bool {
	return at >= first && at < s.top && n <= s.top-at
}

func (s *State) set(where *span, at, n uint64) {
	if n == 0 && at == 0 || s.inside(at, n) {
		*where = span{at, n}
	}
}

func (s *State) load8(at uint64) uint64 {
	if !s.inside(at, 1) {
		return 0
	}
	return uint64(s.memory[at])
}

func (s *State) load64(at uint64) uint64 {
	if !s.inside(at, 8) {
		return 0
	}
	return binary.LittleEndian.Uint64(s.memory[at:])
}

func (s *State) store8(at uint64, v byte) {
	if s.inside(at, 1) {
		s.memory[at] = v
	}
}

func (s *State) store64(at, v uint64) {
	if s.inside(at, 8) {
		binary.LittleEndian.PutUint64(s.memory[at:], v)
	}
}

// keep sets or removes a variable.
func (s *State) keep(name string, value []byte, remove bool) {
	before, found := s.variables[name]
	kept := s.kept
	if found {
		kept -= len(name) + len(before)
	}
	if remove {
		delete(s.variables, name)
		s.kept = kept
		return
	}
	kept += len(name) + len(value)
	if kept > maxVariableBytes || !found && len(s.variables) == maxVariables {
		panic(ErrVariables)
	}
	if s.variables == nil {
		s.variables = map[string][]byte{}
	}
	s.variables[name] = append(before[:0], value...)
	s.kept = kept
}

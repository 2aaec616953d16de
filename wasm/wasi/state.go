package wasi

import (
	"crypto/rand"
	"encoding/binary"
	"math"
	mathrand "math/rand/v2"
	"os"
	"time"
)

// State is what an instance remembers of its world. The zero value is a world that has just begun. It belongs to one
// instance and is not safe for concurrent use.
type State struct {
	world
	began  bool
	marked world // what Reset goes back to

	since  time.Time // the granted monotonic clock begins
	root   *os.Root  // of the granted folder, opened when it is first needed
	pinned []*os.File
	asked  []byte // the subscriptions of a poll

	// What one call of a command gets and leaves.
	command bool
	args    []string
	stdin   []byte
	stdout  []byte
	limit   int
}

// world is the part of a State that Mark remembers.
type world struct {
	looks       int64 // at the clock
	slept       int64 // nanoseconds
	random      mathrand.PCG
	descriptors []descriptor
	read        int // bytes of stdin
}

const (
	clockBegins = 1640995200e9 // 2022-01-01T00:00:00Z
	clockStep   = int64(time.Millisecond)
	maxSlept    = int64(100 * 365 * 24 * time.Hour) // the clock does not run over

	seedHigh, seedLow = 0x64686f77, 0x77617369
)

// start lets the world begin, if it has not.
func (s *State) start() {
	if s.began {
		return
	}
	s.began, s.since = true, time.Now()
	s.random.Seed(seedHigh, seedLow)
	s.descriptors = append(s.descriptors[:0], descriptor{kind: stdin}, descriptor{kind: stdout}, descriptor{kind: stderr}, descriptor{kind: folder, path: ".", granted: true})
	s.marked = s.copy(nil)
}

func (w *world) copy(into []descriptor) world {
	c := *w
	c.descriptors = append(into[:0], w.descriptors...)
	return c
}

// Mark remembers the state of now for Reset. Files that are open stay open until Close.
func (s *State) Mark() {
	s.start()
	s.marked = s.copy(s.marked.descriptors)
	before := s.pinned
	s.pinned = nil
	for i := range s.marked.descriptors {
		if f := s.marked.descriptors[i].file; f != nil {
			s.pinned = append(s.pinned, f)
		}
	}
	for _, f := range before {
		s.release(f)
	}
}

// Reset goes back to the last Mark, or to the beginning. It allocates nothing. What a command was given and what it
// wrote is gone.
func (s *State) Reset() {
	s.command, s.args, s.stdin, s.limit = false, nil, nil, 0
	s.dropOutput()
	if !s.began {
		return
	}
	for i := range s.descriptors {
		s.release(s.descriptors[i].file)
	}
	s.world = s.marked.copy(s.descriptors)
}

// keptOutput is how much room for standard output an instance keeps from one call to the next.
const keptOutput = 1 << 20

func (s *State) dropOutput() {
	if cap(s.stdout) > keptOutput {
		s.stdout = nil
	}
	s.stdout = s.stdout[:0]
}

// Close gives back the open files. The state begins anew after it.
func (s *State) Close() {
	for i := range s.descriptors {
		s.release(s.descriptors[i].file)
	}
	for _, f := range s.pinned {
		_ = f.Close()
	}
	if s.root != nil {
		_ = s.root.Close()
	}
	*s = State{}
}

// release closes f unless a Reset may bring it back.
func (s *State) release(f *os.File) {
	if f == nil {
		return
	}
	for _, p := range s.pinned {
		if p == f {
			return
		}
	}
	_ = f.Close()
}

// Command prepares for one run of a command: its arguments, all of its standard input, which is not copied and must not
// change while it runs, and how many bytes it may write to its standard output. Without it standard input is empty and
// standard output goes to Caller.Line.
func (s *State) Command(args []string, stdin []byte, limit int) {
	s.command, s.args, s.stdin, s.limit = true, args, stdin, limit
	s.read = 0
	s.dropOutput()
}

// Output is what the command wrote to its standard output, valid until Reset, Command or Close.
func (s *State) Output() []byte { return s.stdout }

// write takes a piece of a command's standard output.
func (s *State) write(b []byte) {
	if len(b) > s.limit-len(s.stdout) {
		panic(ErrOutput)
	}
	s.stdout = append(s.stdout, b...)
}

// The clocks of WASI. The two that count a process's or a thread's time are taken for the monotonic one.
const (
	clockReal      = 0
	clockMonotonic = 1
	clockThread    = 3
)

// look returns the time of a clock in nanoseconds.
func (c call) look(clock uint32) int64 {
	if c.grants.Clock {
		c.Charge(costPiece)
		if clock == clockReal {
			return time.Now().UnixNano()
		}
		return int64(time.Since(c.since)) + c.slept
	}
	c.looks++
	return c.virtual(clock)
}

// virtual is the time of a clock without a grant.
func (c call) virtual(clock uint32) int64 {
	t := c.looks*clockStep + c.slept
	if clock == clockReal {
		t += clockBegins
	}
	return t
}

// sleep moves the clock on.
func (c call) sleep(nanoseconds uint64) {
	c.slept += int64(min(nanoseconds, uint64(maxSlept-c.slept)))
}

func clockResGet(c call, p []uint64) errno {
	if uint32(p[0]) > clockThread {
		return errInvalid
	}
	resolution := clockStep
	if c.grants.Clock {
		resolution = 1
	}
	if !c.WriteUint64Le(uint32(p[1]), uint64(resolution)) {
		return errFault
	}
	return ok
}

func clockTimeGet(c call, p []uint64) errno {
	if uint32(p[0]) > clockThread {
		return errInvalid
	}
	if !c.WriteUint64Le(uint32(p[2]), uint64(c.look(uint32(p[0])))) {
		return errFault
	}
	return ok
}

func randomGet(c call, p []uint64) errno {
	b, inside := c.at(p[0], uint32(p[1]))
	if !inside {
		return errFault
	}
	for len(b) > 0 {
		n := min(len(b), pieceSize)
		if c.grants.Random {
			n = min(n, pieceSize/16)
			c.charge(uint32(n), perSecret)
			_, _ = rand.Read(b[:n]) // never fails, and ends the process where the system has none
		} else {
			c.charge(uint32(n), perRandom)
			c.fill(b[:n])
		}
		b = b[n:]
	}
	return ok
}

// fill writes the next bytes of the fixed generator. A call takes whole words from it.
func (s *State) fill(b []byte) {
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, s.random.Uint64())
		b = b[8:]
	}
	if len(b) > 0 {
		var word [8]byte
		binary.LittleEndian.PutUint64(word[:], s.random.Uint64())
		copy(b, word[:])
	}
}

// The layout of a subscription (48 bytes) and an event (32 bytes).
const (
	subscriptionSize = 48
	eventSize        = 32
	eventClock       = 0
	eventRead        = 1
	eventWrite       = 2
	flagAbsolute     = 1
)

// pollOneoff answers at once. Descriptors are always ready; when there are none, the clock that would ring first has
// rung, and those that ring by the same time.
func pollOneoff(c call, p []uint64) errno {
	n := uint32(p[2])
	if n == 0 || n > maxPieces {
		return errInvalid
	}
	c.Charge(costPiece * int64(n))
	in, inside := c.at(p[0], n*subscriptionSize)
	out, outside := c.at(p[1], n*eventSize)
	if !inside || !outside {
		return errFault
	}
	// What the guest asked is copied, because it may want the answer in the same place. A clock's subscription then holds
	// how long it waits from now.
	c.asked = append(c.asked[:0], in...)
	first, descriptors := uint64(math.MaxUint64), false
	for at := 0; at < len(c.asked); at += subscriptionSize {
		s := c.asked[at:][:subscriptionSize]
		switch s[8] {
		case eventClock:
			if binary.LittleEndian.Uint32(s[16:]) > clockThread {
				return errInvalid
			}
			wait := c.wait(s)
			binary.LittleEndian.PutUint64(s[24:], wait)
			first = min(first, wait)
		case eventRead, eventWrite:
			descriptors = true
		default:
			return errInvalid
		}
	}
	if descriptors {
		first = 0
	} else {
		c.sleep(first)
	}
	events := uint32(0)
	for at := 0; at < len(c.asked); at += subscriptionSize {
		s := c.asked[at:][:subscriptionSize]
		var e errno
		available := uint64(0)
		if s[8] == eventClock {
			if binary.LittleEndian.Uint64(s[24:]) > first {
				continue
			}
		} else if d := c.open(uint64(binary.LittleEndian.Uint32(s[16:]))); d == nil {
			e = errBadf
		} else if s[8] == eventRead && d.kind == stdin {
			available = uint64(len(c.stdin) - c.read)
		}
		event := out[events*eventSize:][:eventSize]
		clear(event)
		copy(event, s[:8])
		binary.LittleEndian.PutUint16(event[8:], uint16(e))
		event[10] = s[8]
		binary.LittleEndian.PutUint64(event[16:], available)
		events++
	}
	if !c.WriteUint32Le(uint32(p[3]), events) {
		return errFault
	}
	return ok
}

// wait is how long a clock's subscription has to wait from now.
func (c call) wait(subscription []byte) uint64 {
	timeout := binary.LittleEndian.Uint64(subscription[24:])
	if subscription[40]&flagAbsolute == 0 {
		return timeout
	}
	clock := binary.LittleEndian.Uint32(subscription[16:])
	now := c.virtual(clock)
	if c.grants.Clock {
		now = c.look(clock)
	}
	return timeout - min(timeout, uint64(now))
}

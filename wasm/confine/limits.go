package confine

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"strconv"
	"syscall"
	"time"
)

const (
	// mappedUnused is what a process maps without using it beside what it uses: stacks of threads, arenas of allocators.
	mappedUnused = 256 << 20
	maxOpenFiles = 256
	niceness     = 10
)

// Limits is what a process may take.
type Limits struct {
	Memory     int64  // bytes of anonymous memory; 0 for no limit
	CPUSeconds uint64 // of processor time
	FileBytes  uint64 // of the largest file that it may write; 0: none
}

// Apply bounds this process, which is of no other use afterwards, since the limits stay.
func (l Limits) Apply() error {
	mapped := uint64(math.MaxUint64)
	if l.Memory > 0 {
		mapped = uint64(statusOf(os.Getpid(), "VmData:") + l.Memory + l.Memory/2 + mappedUnused)
	}
	for _, r := range []struct {
		what string
		id   int
		to   uint64
	}{
		// At the hard limit the kernel kills; the soft one only sends a signal that the Go runtime ignores.
		{"processor time", syscall.RLIMIT_CPU, l.CPUSeconds},
		{"file size", syscall.RLIMIT_FSIZE, l.FileBytes},
		{"core dumps", syscall.RLIMIT_CORE, 0},
		{"memory", syscall.RLIMIT_DATA, mapped},
		{"open files", syscall.RLIMIT_NOFILE, maxOpenFiles},
	} {
		var now syscall.Rlimit
		if err := syscall.Getrlimit(r.id, &now); err != nil {
			return fmt.Errorf("%w: %s: %v", ErrLimit, r.what, err)
		}
		to := min(r.to, now.Max)
		if err := syscall.Setrlimit(r.id, &syscall.Rlimit{Cur: to, Max: to}); err != nil {
			return fmt.Errorf("%w: %s: %v", ErrLimit, r.what, err)
		}
	}
	// Should memory run out, this process is the one to lose, and what serves is computed first. Neither is allowed
	// everywhere, and the limits above hold without.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0)
	_ = syscall.Setpriority(syscall.PRIO_PGRP, 0, niceness)
	return nil
}

// Anonymous returns a process's anonymous memory in bytes: what is its own, unlike the files that it has mapped. It is
// 0 when the process is gone.
func Anonymous(pid int) int64 { return statusOf(pid, "RssAnon:") }

// statusOf returns a size of a process's status in bytes.
func statusOf(pid int, key string) int64 {
	status, err := os.ReadFile(procFile(pid, "status"))
	if err != nil {
		return 0
	}
	return size(status, key)
}

func procFile(pid int, name string) string { return "/proc/" + strconv.Itoa(pid) + "/" + name }

// size returns the size that follows key in a process's status, in bytes.
func size(status []byte, key string) int64 {
	_, rest, _ := bytes.Cut(status, []byte(key))
	return number(bytes.TrimLeft(rest, " \t")) << 10
}

// number reads the digits that b begins with.
func number(b []byte) int64 {
	n := int64(0)
	for _, c := range b[:min(len(b), 15)] {
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + int64(c-'0')
	}
	return n
}

// tick is the unit of processor time in /proc, the same on every architecture.
const tick = 10 * time.Millisecond

// processorTime returns user and system time of a process's stat.
func processorTime(stat []byte) time.Duration {
	// The second field is the program's name, which may hold anything; user and system time are fields 14 and 15.
	rest := stat[bytes.LastIndexByte(stat, ')')+1:]
	total := int64(0)
	for field := 2; field <= 15; field++ {
		if field >= 14 {
			total += number(rest)
		}
		_, rest, _ = bytes.Cut(rest, []byte{' '})
	}
	return time.Duration(total) * tick
}

// gauge reads what another process takes, again and again, without making garbage.
type gauge struct {
	status, stat *os.File // nil when the process is gone
	buf          [8 << 10]byte
}

func newGauge(pid int) *gauge {
	g := &gauge{}
	g.status, _ = os.Open(procFile(pid, "status"))
	g.stat, _ = os.Open(procFile(pid, "stat"))
	return g
}

func (g *gauge) read(f *os.File) []byte {
	if f == nil {
		return nil
	}
	n, _ := f.ReadAt(g.buf[:], 0)
	return g.buf[:n]
}

func (g *gauge) memory() int64            { return size(g.read(g.status), "RssAnon:") }
func (g *gauge) processor() time.Duration { return processorTime(g.read(g.stat)) }

func (g *gauge) close() {
	for _, f := range []*os.File{g.status, g.stat} {
		if f != nil {
			_ = f.Close()
		}
	}
}

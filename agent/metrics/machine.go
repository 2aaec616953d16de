package metrics

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Machine is the use of the machine. What is not known is no number (math.NaN).
type Machine struct {
	CPU                     float64 // part of all cores that was busy since it was last asked, 0 to 1
	MemoryTotal, MemoryUsed float64 // bytes
}

// shortestWindow keeps two scrapers that ask at the same time from measuring nothing.
const shortestWindow = time.Second

// NewMachine returns a source for Options.Machine, which begins to measure at once. root is where /proc lies; empty is
// the machine's.
func NewMachine(root string) func() Machine {
	var mu sync.Mutex
	cpu := math.NaN()
	at := time.Now()
	busy, total, ok := readStat(root)
	return func() Machine {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); now.Sub(at) >= shortestWindow {
			nextBusy, nextTotal, nextOK := readStat(root)
			cpu = math.NaN()
			// The kernel's counters may step back a little when cores come and go.
			if ok && nextOK && nextTotal > total {
				cpu = min(max(float64(nextBusy)-float64(busy), 0)/float64(nextTotal-total), 1)
			}
			at, busy, total, ok = now, nextBusy, nextTotal, nextOK
		}
		m := Machine{CPU: cpu}
		m.MemoryTotal, m.MemoryUsed = readMemory(root)
		return m
	}
}

// readStat returns the ticks that all cores were busy, and those that passed.
func readStat(root string) (busy, total uint64, ok bool) {
	data, err := os.ReadFile(filepath.Join(root, "/proc/stat"))
	if err != nil {
		return 0, 0, false
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	fields := strings.Fields(string(line))
	if len(fields) < 5 || fields[0] != "cpu" {
		return 0, 0, false
	}
	// user nice system idle iowait irq softirq steal; what guests took is in user already.
	for i, f := range fields[1:min(len(fields), 9)] {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return 0, 0, false
		}
		total += n
		if i != 3 && i != 4 {
			busy += n
		}
	}
	return busy, total, true
}

// readMemory returns the machine's memory and what of it cannot be had by a program that asks.
func readMemory(root string) (total, used float64) {
	total, available := math.NaN(), math.NaN()
	data, err := os.ReadFile(filepath.Join(root, "/proc/meminfo"))
	if err != nil {
		return total, available
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[2] != "kB" {
			continue
		}
		kB, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil {
			continue
		}
		switch fields[0] {
		case "MemTotal:":
			total = float64(kB) * 1024
		case "MemAvailable:":
			available = float64(kB) * 1024
		}
	}
	return total, max(total-available, 0)
}

// machine writes Triton's metrics of the machine.
func (p *page) machine(m Machine) {
	p.family("nv_cpu_utilization", gauge, "Part of the machine's cores that was busy, 0 to 1.")
	p.value("", m.CPU)
	p.family("nv_cpu_memory_total_bytes", gauge, "The machine's memory, in bytes.")
	p.value("", m.MemoryTotal)
	p.family("nv_cpu_memory_used_bytes", gauge, "The machine's memory that is in use, in bytes.")
	p.value("", m.MemoryUsed)
}

// Process is the agent's own use of the machine.
type Process struct {
	CPU                         time.Duration
	Resident, Anonymous         uint64 // bytes
	OpenFiles, MaxFiles         uint64
	Start                       time.Time
	Goroutines                  int
	HeapInUse, HeapReleased     uint64
	GarbageCollections, Threads uint64
}

// ticks of the kernel's clock in a second, as programs see it on every Linux.
const ticks = 100

// ReadProcess reads what the kernel and Go's runtime say of this process.
func ReadProcess() (Process, bool) {
	return readProcess("")
}

func readProcess(root string) (Process, bool) {
	data, err := os.ReadFile(filepath.Join(root, "/proc/self/stat"))
	if err != nil {
		return Process{}, false
	}
	// The program's name is in brackets and may hold anything; the fields after it are numbered from 3.
	end := bytes.LastIndexByte(data, ')')
	fields := strings.Fields(string(data[end+1:]))
	if end < 0 || len(fields) < 22 {
		return Process{}, false
	}
	field := func(n int) uint64 {
		v, _ := strconv.ParseUint(fields[n-3], 10, 64) // what is no number counts as 0
		return v
	}
	p := Process{
		CPU:        time.Duration(field(14)+field(15)) * (time.Second / ticks),
		Threads:    field(20),
		Resident:   field(24) * uint64(os.Getpagesize()),
		Goroutines: runtime.NumGoroutine(),
	}
	if boot := readBoot(root); boot > 0 {
		p.Start = time.Unix(boot, 0).Add(time.Duration(field(22)) * (time.Second / ticks))
	}
	if status, err := os.ReadFile(filepath.Join(root, "/proc/self/status")); err == nil {
		for line := range strings.Lines(string(status)) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == "RssAnon:" {
				kB, _ := strconv.ParseUint(f[1], 10, 64)
				p.Anonymous = kB * 1024
			}
		}
	}
	p.OpenFiles, p.MaxFiles = readFiles(root)
	p.HeapInUse, p.HeapReleased, p.GarbageCollections = readRuntime()
	return p, true
}

// readBoot returns when the machine started, in Unix seconds.
func readBoot(root string) int64 {
	data, err := os.ReadFile(filepath.Join(root, "/proc/stat"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "btime "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return n
		}
	}
	return 0
}

// readFiles counts the open files and says how many there may be.
func readFiles(root string) (open, most uint64) {
	if names, err := os.ReadDir(filepath.Join(root, "/proc/self/fd")); err == nil {
		open = uint64(len(names))
	}
	data, err := os.ReadFile(filepath.Join(root, "/proc/self/limits"))
	if err != nil {
		return open, 0
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "Max open files"); ok {
			if f := strings.Fields(v); len(f) > 0 {
				most, _ = strconv.ParseUint(f[0], 10, 64) // "unlimited" is left out
			}
		}
	}
	return open, most
}

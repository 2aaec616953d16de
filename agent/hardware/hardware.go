package hardware

import (
	"context"
	"runtime"
	"time"

	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

// Options say what is probed.
type Options struct {
	// StateDir is where the agent keeps its state: the disk that it lies on is reported.
	StateDir string
	// GPUTimeout bounds how long the driver may take; zero: 5 s.
	GPUTimeout time.Duration

	gpus lister // nil: NVML
	root string // of /proc and /sys; empty: the machine's
}

// Probe asks the machine what it is. It returns within GPUTimeout and a few reads of /proc, or when ctx ends.
func Probe(ctx context.Context, o Options) *syncv1.Hardware {
	if o.GPUTimeout <= 0 {
		o.GPUTimeout = 5 * time.Second
	}
	if o.gpus == nil {
		o.gpus = nvmlLister{}
	}
	hw := &syncv1.Hardware{Os: runtime.GOOS, Arch: runtime.GOARCH, Kernel: kernel()}
	cgroup := readCgroup(o.root)
	hw.Cpu = probeCPU(ctx, cgroup)
	hw.MemoryBytes, hw.MemoryLimitBytes = probeMemory(ctx, cgroup)
	hw.DiskBytes, hw.DiskFreeBytes = probeDisk(ctx, o.StateDir)
	hw.Gpus, hw.GpuNote = probeGPUs(ctx, o.gpus, o.GPUTimeout)
	return hw
}

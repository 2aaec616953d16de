package metrics

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// GPU is the use of one device. What is not known is no number (math.NaN).
type GPU struct {
	UUID                    string
	Utilization             float64 // 0 to 1
	MemoryTotal, MemoryUsed float64 // bytes
	PowerUsage, PowerLimit  float64 // watts
	Energy                  float64 // joules since the source was first asked
}

// gpus writes Triton's metrics of devices.
func (p *page) gpus(devices []GPU) {
	each := func(name, kind, help string, value func(*GPU) float64) {
		p.family(name, kind, help)
		for i := range devices {
			p.value(label("gpu_uuid", devices[i].UUID), value(&devices[i]))
		}
	}
	each("nv_gpu_utilization", gauge, "Part of the time in which the GPU was busy, 0 to 1.", func(g *GPU) float64 { return g.Utilization })
	each("nv_gpu_memory_total_bytes", gauge, "The GPU's memory, in bytes.", func(g *GPU) float64 { return g.MemoryTotal })
	each("nv_gpu_memory_used_bytes", gauge, "The GPU's memory that is in use, in bytes.", func(g *GPU) float64 { return g.MemoryUsed })
	each("nv_gpu_power_usage", gauge, "Power that the GPU draws, in watts.", func(g *GPU) float64 { return g.PowerUsage })
	each("nv_gpu_power_limit", gauge, "Power that the GPU may draw, in watts.", func(g *GPU) float64 { return g.PowerLimit })
	each("nv_energy_consumption", counter, "Energy that the GPU took since the agent was first asked, in joules.", func(g *GPU) float64 { return g.Energy })
}

const (
	maxGPUs   = 64
	gpuWait   = 2 * time.Second // for the driver, at one scrape
	gpuRetry  = 5 * time.Minute // between two looks for a driver that was not there
	milliunit = 1000            // NVML's milliwatts and millijoules
)

// NewGPUs returns a source for Options.GPUs that asks NVIDIA's driver. The library is opened when it is first asked and
// stays open, since opening it takes the driver up to seconds; a machine without one is looked at again now and then. A
// driver that hangs costs a scrape two seconds, and one goroutine until it answers.
func NewGPUs() func(context.Context) []GPU {
	return newGPUs(nvml.New())
}

func newGPUs(library nvml.Interface) func(context.Context) []GPU {
	r := &gpuReader{library: library, before: map[string]uint64{}, free: make(chan struct{}, 1)}
	return r.ask
}

type gpuReader struct {
	library nvml.Interface
	free    chan struct{} // holds one while the driver is asked

	mu     sync.Mutex // of what follows; held while the driver is asked, by the one who asks
	open   bool
	failed time.Time         // when the library could last not be opened
	before map[string]uint64 // energy at the first look, by device
}

func (r *gpuReader) ask(ctx context.Context) []GPU {
	ctx, cancel := context.WithTimeout(ctx, gpuWait)
	defer cancel()
	select {
	case r.free <- struct{}{}:
	case <-ctx.Done():
		return nil
	}
	answer := make(chan []GPU, 1)
	go func() {
		defer func() { <-r.free }()
		answer <- r.read()
	}()
	select {
	case gpus := <-answer:
		return gpus
	case <-ctx.Done():
		return nil
	}
}

func (r *gpuReader) read() []GPU {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.open {
		if !r.failed.IsZero() && time.Since(r.failed) < gpuRetry {
			return nil
		}
		if r.library.Init() != nvml.SUCCESS {
			r.failed = time.Now()
			return nil
		}
		r.open = true
	}
	count, ret := r.library.DeviceGetCount()
	if ret != nvml.SUCCESS {
		// The driver was reloaded or is gone; the library must be opened anew.
		_ = r.library.Shutdown()
		r.open, r.failed = false, time.Now()
		return nil
	}
	var out []GPU
	for i := range min(count, maxGPUs) {
		d, ret := r.library.DeviceGetHandleByIndex(i)
		if ret != nvml.SUCCESS {
			continue
		}
		uuid, ret := d.GetUUID()
		if ret != nvml.SUCCESS {
			continue
		}
		out = append(out, r.device(d, uuid))
	}
	return out
}

func (r *gpuReader) device(d nvml.Device, uuid string) GPU {
	unknown := math.NaN()
	g := GPU{UUID: uuid, Utilization: unknown, MemoryTotal: unknown, MemoryUsed: unknown, PowerUsage: unknown, PowerLimit: unknown, Energy: unknown}
	if u, ret := d.GetUtilizationRates(); ret == nvml.SUCCESS {
		g.Utilization = float64(u.Gpu) / 100
	}
	if m, ret := d.GetMemoryInfo(); ret == nvml.SUCCESS {
		g.MemoryTotal, g.MemoryUsed = float64(m.Total), float64(m.Used)
	}
	if mW, ret := d.GetPowerUsage(); ret == nvml.SUCCESS {
		g.PowerUsage = float64(mW) / milliunit
	}
	if mW, ret := d.GetPowerManagementLimit(); ret == nvml.SUCCESS {
		g.PowerLimit = float64(mW) / milliunit
	}
	if mJ, ret := d.GetTotalEnergyConsumption(); ret == nvml.SUCCESS {
		first, ok := r.before[uuid]
		if !ok || mJ < first { // the driver was reloaded and counts from zero
			first = mJ
			r.before[uuid] = first
		}
		g.Energy = float64(mJ-first) / milliunit
	}
	return g
}

package hardware

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

// maxGPUs and maxMIG bound what a driver may list.
const (
	maxGPUs = 64
	maxMIG  = 16
)

// lister lists a machine's GPUs. The note says in a sentence why there are none or what could not be read.
type lister interface {
	list() (gpus []*syncv1.Gpu, note string)
}

// asking is 1 while a driver has not answered, so that a hanging one costs one goroutine and not one at each probe.
var asking atomic.Int32

func probeGPUs(ctx context.Context, l lister, timeout time.Duration) ([]*syncv1.Gpu, string) {
	if !asking.CompareAndSwap(0, 1) {
		return nil, "the NVIDIA driver has not answered an earlier question yet; run nvidia-smi to see whether it hangs"
	}
	type answer struct {
		gpus []*syncv1.Gpu
		note string
	}
	answers := make(chan answer, 1)
	go func() {
		gpus, note := l.list()
		asking.Store(0) // before the answer, after which the next question may come at once
		answers <- answer{gpus, note}
	}()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case a := <-answers:
		return a.gpus, a.note
	case <-timer.C:
		return nil, fmt.Sprintf("the NVIDIA driver did not answer within %s; run nvidia-smi to see whether it hangs", timeout)
	case <-ctx.Done():
		return nil, "the GPU probe was given up before the driver answered"
	}
}

// nvmlLister asks the NVIDIA Management Library, opened for the time of the question.
type nvmlLister struct {
	library nvml.Interface // nil: the machine's
}

func (n nvmlLister) list() ([]*syncv1.Gpu, string) {
	lib := n.library
	if lib == nil {
		lib = nvml.New()
	}
	switch ret := lib.Init(); ret {
	case nvml.SUCCESS:
	case nvml.ERROR_LIBRARY_NOT_FOUND:
		return nil, "no NVIDIA driver is installed (libnvidia-ml.so.1 was not found); models run on the CPU"
	case nvml.ERROR_DRIVER_NOT_LOADED:
		return nil, "the NVIDIA driver is installed but its kernel module is not loaded; models run on the CPU"
	default:
		return nil, "the NVIDIA driver cannot be asked: " + text(lib, ret)
	}
	defer func() { _ = lib.Shutdown() }() // what was learnt stands, and the library is let go of either way
	driver, ret := lib.SystemGetDriverVersion()
	if ret != nvml.SUCCESS {
		driver = ""
	}
	count, ret := lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return nil, "the NVIDIA driver cannot count its devices: " + text(lib, ret)
	}
	if count == 0 {
		return nil, "the NVIDIA driver is loaded but finds no device; models run on the CPU"
	}
	var gpus []*syncv1.Gpu
	var lost []string
	for i := range min(count, maxGPUs) {
		d, ret := lib.DeviceGetHandleByIndex(i)
		if ret != nvml.SUCCESS {
			lost = append(lost, fmt.Sprintf("GPU %d: %s", i, text(lib, ret)))
			continue
		}
		gpu, ret := readGPU(d)
		if ret != nvml.SUCCESS {
			lost = append(lost, fmt.Sprintf("GPU %d: %s", i, text(lib, ret)))
			continue
		}
		gpu.Index, gpu.DriverVersion = uint32(i), driver
		gpus = append(gpus, gpu)
	}
	return gpus, strings.Join(lost, "; ")
}

// readGPU returns what is known of one device. A device that does not tell its name or memory is lost; what else it
// does not tell stays empty.
func readGPU(d nvml.Device) (*syncv1.Gpu, nvml.Return) {
	gpu := &syncv1.Gpu{}
	var ret nvml.Return
	if gpu.Name, ret = d.GetName(); ret != nvml.SUCCESS {
		return nil, ret
	}
	memory, ret := d.GetMemoryInfo()
	if ret != nvml.SUCCESS {
		return nil, ret
	}
	gpu.MemoryBytes = memory.Total
	if uuid, ret := d.GetUUID(); ret == nvml.SUCCESS {
		gpu.Uuid = uuid
	}
	if major, minor, ret := d.GetCudaComputeCapability(); ret == nvml.SUCCESS {
		gpu.ComputeCapability = strconv.Itoa(major) + "." + strconv.Itoa(minor)
	}
	if current, _, ret := d.GetMigMode(); ret == nvml.SUCCESS && current == nvml.DEVICE_MIG_ENABLE {
		gpu.MigEnabled = true
		gpu.MigDevices = readMIG(d)
	}
	return gpu, nvml.SUCCESS
}

func readMIG(d nvml.Device) []*syncv1.MigDevice {
	count, ret := d.GetMaxMigDeviceCount()
	if ret != nvml.SUCCESS {
		return nil
	}
	var out []*syncv1.MigDevice
	for i := range min(count, maxMIG) {
		part, ret := d.GetMigDeviceHandleByIndex(i)
		if ret != nvml.SUCCESS {
			continue // a slot without a device
		}
		m := &syncv1.MigDevice{}
		if uuid, ret := part.GetUUID(); ret == nvml.SUCCESS {
			m.Uuid = uuid
		}
		if name, ret := part.GetName(); ret == nvml.SUCCESS {
			// "NVIDIA A100-SXM4-40GB MIG 1g.5gb"
			if _, profile, ok := strings.Cut(name, "MIG "); ok {
				m.Profile = profile
			}
		}
		if memory, ret := part.GetMemoryInfo(); ret == nvml.SUCCESS {
			m.MemoryBytes = memory.Total
		}
		out = append(out, m)
	}
	return out
}

// text is the library's sentence for an error, which may itself be missing from an old driver.
func text(lib nvml.Interface, ret nvml.Return) string {
	if s := lib.ErrorString(ret); s != "" {
		return s
	}
	return "NVML error " + strconv.Itoa(int(ret))
}

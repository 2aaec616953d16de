package metrics

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
)

// proc writes files below root/proc.
func proc(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(root, "proc", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheMachinesUse(t *testing.T) {
	root := t.TempDir()
	proc(t, root, map[string]string{
		"stat":    "cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 2 3 4\nbtime 1700000000\n",
		"meminfo": "MemTotal:        1000 kB\nMemFree:          1 kB\nMemAvailable:    400 kB\nHugePages_Total:       0\n",
	})
	synctest.Test(t, func(t *testing.T) {
		use := NewMachine(root)
		if m := use(); !math.IsNaN(m.CPU) || m.MemoryTotal != 1_024_000 || m.MemoryUsed != 600*1024 {
			t.Errorf("at once: %+v", m)
		}
		time.Sleep(2 * time.Second)
		proc(t, root, map[string]string{"stat": "cpu  150 0 150 780 120 0 0 0 99 0\n"})
		if m := use(); m.CPU != 0.5 {
			t.Errorf("100 of 200 ticks were busy: %+v", m)
		}
		time.Sleep(time.Millisecond)
		if m := use(); m.CPU != 0.5 {
			t.Errorf("a second scraper sees %+v", m)
		}
		for _, broken := range []string{"", "cpu", "cpu a b c d e f g h", "intr 1 2 3 4 5 6"} {
			time.Sleep(2 * time.Second)
			proc(t, root, map[string]string{"stat": broken, "meminfo": broken})
			if m := use(); !math.IsNaN(m.CPU) || !math.IsNaN(m.MemoryTotal) || !math.IsNaN(m.MemoryUsed) {
				t.Errorf("%q: %+v", broken, m)
			}
		}
	})
}

func TestTheProcess(t *testing.T) {
	p, ok := ReadProcess()
	if !ok || p.Resident == 0 || p.Anonymous == 0 || p.OpenFiles == 0 || p.Goroutines == 0 || p.HeapInUse == 0 || p.Threads == 0 {
		t.Errorf("%+v", p)
	}
	if age := time.Since(p.Start); age < 0 || age > time.Hour {
		t.Errorf("this test began %v ago", age)
	}
	root := t.TempDir()
	stat := "42 (a) b (c) S 1 1 1 0 -1 4194560 9 0 0 0 250 50 0 0 20 0 7 0 1000 999 3 18446744073709551615 1 1"
	proc(t, root, map[string]string{"self/stat": stat, "stat": "btime 1700000000\n", "self/limits": "Max open files            1024                 524288               files\n"})
	p, ok = readProcess(root)
	if !ok || p.CPU != 3*time.Second || p.Threads != 7 || p.Resident != 3*uint64(os.Getpagesize()) || p.Start.Unix() != 1_700_000_010 || p.MaxFiles != 1024 {
		t.Errorf("%+v", p)
	}
	for _, broken := range []string{"", "42 (x", "42 (x) S 1 2"} {
		proc(t, root, map[string]string{"self/stat": broken})
		if _, ok := readProcess(root); ok {
			t.Errorf("%q is a process", broken)
		}
	}
}

// driver is a driver with one device.
type driver struct {
	init, count nvml.Return
	inits       int
	energy      uint64
	poor        bool // tells its id only
	hang        chan struct{}
}

func (d *driver) library() *mock.Interface {
	not := func(ret nvml.Return) nvml.Return {
		if d.poor {
			return nvml.ERROR_NOT_SUPPORTED
		}
		return ret
	}
	device := &mock.Device{
		GetUUIDFunc: func() (string, nvml.Return) { return "GPU-1", nvml.SUCCESS },
		GetUtilizationRatesFunc: func() (nvml.Utilization, nvml.Return) {
			return nvml.Utilization{Gpu: 75}, not(nvml.SUCCESS)
		},
		GetMemoryInfoFunc:             func() (nvml.Memory, nvml.Return) { return nvml.Memory{Total: 100, Used: 40}, not(nvml.SUCCESS) },
		GetPowerUsageFunc:             func() (uint32, nvml.Return) { return 88_500, not(nvml.SUCCESS) },
		GetPowerManagementLimitFunc:   func() (uint32, nvml.Return) { return 700_000, not(nvml.SUCCESS) },
		GetTotalEnergyConsumptionFunc: func() (uint64, nvml.Return) { return d.energy, not(nvml.SUCCESS) },
	}
	return &mock.Interface{
		InitFunc:           func() nvml.Return { d.inits++; return d.init },
		ShutdownFunc:       func() nvml.Return { return nvml.SUCCESS },
		DeviceGetCountFunc: func() (int, nvml.Return) { return 2, d.count },
		DeviceGetHandleByIndexFunc: func(i int) (nvml.Device, nvml.Return) {
			if d.hang != nil {
				<-d.hang
			}
			if i == 1 {
				return nil, nvml.ERROR_GPU_IS_LOST
			}
			return device, nvml.SUCCESS
		},
	}
}

func TestTheDriverIsAsked(t *testing.T) {
	d := &driver{energy: 5000}
	ask := newGPUs(d.library())
	want := GPU{UUID: "GPU-1", Utilization: 0.75, MemoryTotal: 100, MemoryUsed: 40, PowerUsage: 88.5, PowerLimit: 700}
	if got := ask(t.Context()); len(got) != 1 || got[0] != want {
		t.Errorf("%+v", got)
	}
	d.energy = 7500
	want.Energy = 2.5
	if got := ask(t.Context()); len(got) != 1 || got[0] != want || d.inits != 1 {
		t.Errorf("%+v, opened %d times", got, d.inits)
	}
	// The driver was loaded anew, and counts from zero.
	d.energy, want.Energy = 100, 0
	if got := ask(t.Context()); len(got) != 1 || got[0] != want {
		t.Errorf("%+v", got)
	}
	d.poor = true
	if got := ask(t.Context()); len(got) != 1 || fmt.Sprint(got) != "[{GPU-1 NaN NaN NaN NaN NaN NaN}]" {
		t.Errorf("%+v", got)
	}
}

func TestADriverThatIsNotThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &driver{init: nvml.ERROR_LIBRARY_NOT_FOUND}
		ask := newGPUs(d.library())
		for range 10 {
			if got := ask(t.Context()); got != nil {
				t.Errorf("%+v", got)
			}
		}
		if d.inits != 1 {
			t.Errorf("looked for %d times", d.inits)
		}
		time.Sleep(gpuRetry)
		d.init = nvml.SUCCESS
		if got := ask(t.Context()); len(got) != 1 {
			t.Errorf("%+v", got)
		}
		d.count = nvml.ERROR_UNINITIALIZED
		if got := ask(t.Context()); got != nil {
			t.Errorf("%+v", got)
		}
		time.Sleep(gpuRetry)
		d.count = nvml.SUCCESS
		if got := ask(t.Context()); len(got) != 1 || d.inits != 3 {
			t.Errorf("%+v, opened %d times", got, d.inits)
		}
	})
}

func TestADriverThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &driver{hang: make(chan struct{})}
		ask := newGPUs(d.library())
		begun := time.Now()
		for range 3 {
			if got := ask(t.Context()); got != nil {
				t.Errorf("%+v", got)
			}
		}
		if took := time.Since(begun); took != 3*gpuWait {
			t.Errorf("three scrapes took %v", took)
		}
		gone, leave := context.WithCancel(t.Context())
		leave()
		if got := ask(gone); got != nil || time.Since(begun) != 3*gpuWait {
			t.Error("a scraper that has gone is waited for")
		}
		close(d.hang)
		synctest.Wait()
		if got := ask(t.Context()); len(got) != 1 {
			t.Errorf("%+v", got)
		}
	})
}

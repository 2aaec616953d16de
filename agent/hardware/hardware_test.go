package hardware

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/gpus"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/server"

	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

// TestThisMachine asks the machine that the test runs on, whatever it is.
func TestThisMachine(t *testing.T) {
	hw := Probe(t.Context(), Options{StateDir: filepath.Join(t.TempDir(), "not", "yet", "there")})
	if hw.GetCpu().GetLogicalCores() == 0 || hw.GetMemoryBytes() == 0 || hw.GetDiskBytes() == 0 || hw.GetKernel() == "" {
		t.Errorf("the machine is not known: %v", hw)
	}
	if len(hw.GetGpus()) == 0 && hw.GetGpuNote() == "" {
		t.Error("no GPU, and no sentence that says why")
	}
	var text strings.Builder
	if err := Text(&text, hw); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + text.String())
	if os.Getenv("DHOW_GPU") != "" && len(hw.GetGpus()) == 0 {
		t.Errorf("DHOW_GPU is set, but there is no GPU: %s", hw.GetGpuNote())
	}
}

func TestMockedGPUs(t *testing.T) {
	for _, c := range []struct {
		name             string
		gpu              gpus.Config
		capability, want string
	}{
		{"A100", gpus.A100_SXM4_40GB, "8.0", "A100"},
		{"H100", gpus.H100_SXM5_80GB, "9.0", "H100"},
	} {
		t.Run(c.name, func(t *testing.T) {
			lib, err := server.New(server.WithGPUs(c.gpu, c.gpu), server.WithDriverVersion("570.1"))
			if err != nil {
				t.Fatal(err)
			}
			hw := Probe(t.Context(), Options{gpus: nvmlLister{lib}})
			if len(hw.GetGpus()) != 2 || hw.GetGpuNote() != "" {
				t.Fatalf("found %d GPUs (%s), want 2", len(hw.GetGpus()), hw.GetGpuNote())
			}
			g := hw.GetGpus()[1]
			if !strings.Contains(g.GetName(), c.want) || g.GetComputeCapability() != c.capability || g.GetMemoryBytes() == 0 || g.GetUuid() == "" || g.GetIndex() != 1 || g.GetDriverVersion() != "570.1" {
				t.Errorf("wrong: %v", g)
			}
		})
	}
}

func TestMIG(t *testing.T) {
	lib, err := server.New(server.WithGPUs(gpus.A100_SXM4_40GB))
	if err != nil {
		t.Fatal(err)
	}
	d, ret := lib.DeviceGetHandleByIndex(0)
	if ret != nvml.SUCCESS {
		t.Fatal(ret)
	}
	device := d.(*server.Device)
	device.MigMode = nvml.DEVICE_MIG_ENABLE
	part := &mock.Device{
		GetUUIDFunc:       func() (string, nvml.Return) { return "MIG-1", nvml.SUCCESS },
		GetNameFunc:       func() (string, nvml.Return) { return "NVIDIA A100-SXM4-40GB MIG 1g.5gb", nvml.SUCCESS },
		GetMemoryInfoFunc: func() (nvml.Memory, nvml.Return) { return nvml.Memory{Total: 5 << 30}, nvml.SUCCESS },
	}
	device.GetMaxMigDeviceCountFunc = func() (int, nvml.Return) { return 7, nvml.SUCCESS }
	device.GetMigDeviceHandleByIndexFunc = func(i int) (nvml.Device, nvml.Return) {
		if i == 2 {
			return part, nvml.SUCCESS
		}
		return nil, nvml.ERROR_NOT_FOUND
	}
	hw := Probe(t.Context(), Options{gpus: nvmlLister{lib}})
	g := hw.GetGpus()[0]
	if !g.GetMigEnabled() || len(g.GetMigDevices()) != 1 {
		t.Fatalf("MIG devices: %v", g)
	}
	if m := g.GetMigDevices()[0]; m.GetUuid() != "MIG-1" || m.GetProfile() != "1g.5gb" || m.GetMemoryBytes() != 5<<30 {
		t.Errorf("wrong: %v", m)
	}
	var text strings.Builder
	if err := Text(&text, hw); err != nil || !strings.Contains(text.String(), "MIG 1g.5gb") {
		t.Errorf("%v: %s", err, text.String())
	}
}

func TestNoGPUSaysWhy(t *testing.T) {
	for _, c := range []struct {
		name string
		ret  nvml.Return
		want string
	}{
		{"no driver", nvml.ERROR_LIBRARY_NOT_FOUND, "no NVIDIA driver"},
		{"module missing", nvml.ERROR_DRIVER_NOT_LOADED, "kernel module"},
		{"mismatch", nvml.ERROR_LIB_RM_VERSION_MISMATCH, "mismatch"},
	} {
		t.Run(c.name, func(t *testing.T) {
			lib := &mock.Interface{
				InitFunc:        func() nvml.Return { return c.ret },
				ErrorStringFunc: func(nvml.Return) string { return "Driver/library version mismatch" },
			}
			hw := Probe(t.Context(), Options{gpus: nvmlLister{lib}})
			if len(hw.GetGpus()) != 0 || !strings.Contains(hw.GetGpuNote(), c.want) {
				t.Errorf("note %q, want %q", hw.GetGpuNote(), c.want)
			}
		})
	}
}

func TestADriverWithoutDevices(t *testing.T) {
	shut := 0
	lib := &mock.Interface{
		InitFunc:                   func() nvml.Return { return nvml.SUCCESS },
		ShutdownFunc:               func() nvml.Return { shut++; return nvml.SUCCESS },
		SystemGetDriverVersionFunc: func() (string, nvml.Return) { return "570.1", nvml.SUCCESS },
		DeviceGetCountFunc:         func() (int, nvml.Return) { return 0, nvml.SUCCESS },
	}
	hw := Probe(t.Context(), Options{gpus: nvmlLister{lib}})
	if len(hw.GetGpus()) != 0 || !strings.Contains(hw.GetGpuNote(), "finds no device") {
		t.Errorf("%v, note %q", hw.GetGpus(), hw.GetGpuNote())
	}
	if shut != 1 {
		t.Errorf("NVML was shut down %d times, want once: nothing of it may stay", shut)
	}
}

func TestTextNamesLimits(t *testing.T) {
	hw := &syncv1.Hardware{
		Os: "linux", Arch: "arm64", MemoryBytes: 64 << 30, MemoryLimitBytes: 2 << 30,
		Cpu:     &syncv1.Cpu{PhysicalCores: 128, LogicalCores: 256, LimitCores: 128.5},
		GpuNote: "no NVIDIA driver is installed",
	}
	var text strings.Builder
	if err := Text(&text, hw); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"linux/arm64", "128 cores, 256 threads, limited to 128.5", "64 GiB, limited to 2048 MiB", "no NVIDIA driver"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, text.String())
		}
	}
}

// TestOneLostGPU: a device that fell off the bus leaves the others.
func TestOneLostGPU(t *testing.T) {
	lib, err := server.New(server.WithGPUs(gpus.H100_SXM5_80GB, gpus.H100_SXM5_80GB))
	if err != nil {
		t.Fatal(err)
	}
	d, _ := lib.DeviceGetHandleByIndex(0)
	d.(*server.Device).GetNameFunc = func() (string, nvml.Return) { return "", nvml.ERROR_GPU_IS_LOST }
	lib.ErrorStringFunc = func(nvml.Return) string { return "GPU is lost" }
	hw := Probe(t.Context(), Options{gpus: nvmlLister{lib}})
	if len(hw.GetGpus()) != 1 || hw.GetGpus()[0].GetIndex() != 1 || !strings.Contains(hw.GetGpuNote(), "GPU 0: GPU is lost") {
		t.Errorf("%v, note %q", hw.GetGpus(), hw.GetGpuNote())
	}
}

type hanging struct{ release chan struct{} }

func (h hanging) list() ([]*syncv1.Gpu, string) {
	<-h.release
	return nil, "late"
}

// TestAHangingDriverHangsNobody: the probe gives up, and further probes start no further goroutine meanwhile.
func TestAHangingDriverHangsNobody(t *testing.T) {
	h := hanging{make(chan struct{})}
	for range 3 {
		hw := Probe(t.Context(), Options{gpus: h, GPUTimeout: time.Millisecond})
		if !strings.Contains(hw.GetGpuNote(), "nvidia-smi") {
			t.Errorf("note %q", hw.GetGpuNote())
		}
	}
	close(h.release)
	for asking.Load() != 0 {
		time.Sleep(time.Millisecond)
	}
	if _, note := probeGPUs(context.Background(), h, time.Minute); note != "late" {
		t.Errorf("after the driver came back: %q", note)
	}
}

func TestCgroups(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		want  cgroup
	}{
		{"none", nil, cgroup{}},
		{"version 2, the parent is tighter", map[string]string{
			"proc/self/cgroup":                   "0::/a/b\n",
			"sys/fs/cgroup/a/b/cpu.max":          "200000 100000\n",
			"sys/fs/cgroup/a/cpu.max":            "150000 100000\n",
			"sys/fs/cgroup/a/b/memory.max":       "max\n",
			"sys/fs/cgroup/a/memory.max":         "1073741824\n",
			"sys/fs/cgroup/memory.max.unrelated": "1\n",
		}, cgroup{1.5, 1 << 30}},
		{"version 1", map[string]string{
			"proc/self/cgroup":                                 "4:cpu,cpuacct:/x\n5:memory:/x\n1:name=systemd:/x\n",
			"sys/fs/cgroup/cpu/x/cpu.cfs_quota_us":             "50000\n",
			"sys/fs/cgroup/cpu/x/cpu.cfs_period_us":            "100000\n",
			"sys/fs/cgroup/memory/x/memory.limit_in_bytes":     "536870912\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":       "9223372036854771712\n",
			"sys/fs/cgroup/cpu/cpu.cfs_quota_us":               "-1\n",
			"sys/fs/cgroup/cpu/cpu.cfs_period_us":              "100000\n",
			"sys/fs/cgroup/memory/unrelated/memory.limit_in_b": "1\n",
		}, cgroup{.5, 512 << 20}},
		{"nonsense", map[string]string{
			"proc/self/cgroup":        "0::/\nx\n::\n",
			"sys/fs/cgroup/cpu.max":   "a b c\n",
			"sys/fs/cgroup/memory.ma": "\n",
		}, cgroup{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			for name, content := range c.files {
				path := filepath.Join(root, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got := readCgroup(root); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

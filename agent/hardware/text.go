package hardware

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

// Text writes what was found for a person to read, one fact a line.
func Text(w io.Writer, hw *syncv1.Hardware) error {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-14s%s\n", name, fmt.Sprintf(format, args...))
	}
	line("System", "%s/%s, kernel %s", hw.GetOs(), hw.GetArch(), orUnknown(hw.GetKernel()))
	cores := fmt.Sprintf("%d cores, %d threads", hw.GetCpu().GetPhysicalCores(), hw.GetCpu().GetLogicalCores())
	if limit := hw.GetCpu().GetLimitCores(); limit > 0 {
		cores += ", limited to " + strconv.FormatFloat(math.Round(limit*100)/100, 'f', -1, 64)
	}
	line("CPU", "%s (%s)", orUnknown(hw.GetCpu().GetModel()), cores)
	line("Extensions", "%s", orUnknown(strings.Join(hw.GetCpu().GetExtensions(), " ")))
	memory := size(hw.GetMemoryBytes())
	if limit := hw.GetMemoryLimitBytes(); limit > 0 {
		memory += ", limited to " + size(limit)
	}
	line("Memory", "%s", memory)
	line("Disk", "%s, %s free", size(hw.GetDiskBytes()), size(hw.GetDiskFreeBytes()))
	for _, g := range hw.GetGpus() {
		line(fmt.Sprintf("GPU %d", g.GetIndex()), "%s, %s, compute capability %s, driver %s, %s", g.GetName(), size(g.GetMemoryBytes()),
			orUnknown(g.GetComputeCapability()), orUnknown(g.GetDriverVersion()), g.GetUuid())
		if g.GetMigEnabled() && len(g.GetMigDevices()) == 0 {
			line("", "MIG is enabled, with no device made")
		}
		for _, m := range g.GetMigDevices() {
			line("", "MIG %s, %s, %s", m.GetProfile(), size(m.GetMemoryBytes()), m.GetUuid())
		}
	}
	if note := hw.GetGpuNote(); note != "" {
		line("GPU", "%s", note)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func size(bytes uint64) string {
	switch {
	case bytes == 0:
		return "unknown"
	case bytes >= 10<<30:
		return fmt.Sprintf("%d GiB", bytes>>30)
	default:
		return fmt.Sprintf("%d MiB", bytes>>20)
	}
}

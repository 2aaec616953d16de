package localapi

import (
	"fmt"
	"strings"

	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

// Describe says what a machine is, in sentences for Document.Hardware.
func Describe(hw *syncv1.Hardware) []string {
	if hw == nil {
		return nil
	}
	cpu := hw.GetCpu()
	cores := fmt.Sprintf("%d cores", cpu.GetLogicalCores())
	if n := cpu.GetPhysicalCores(); n > 0 && n != cpu.GetLogicalCores() {
		cores = fmt.Sprintf("%d cores, %d threads", n, cpu.GetLogicalCores())
	}
	if limit := cpu.GetLimitCores(); limit > 0 {
		cores += fmt.Sprintf(", of which the agent may use %.3g", limit)
	}
	out := []string{strings.TrimPrefix(cpu.GetModel()+", ", ", ") + cores}
	if total := hw.GetMemoryBytes(); total > 0 {
		memory := formatBytes(total) + " of memory"
		if limit := hw.GetMemoryLimitBytes(); limit > 0 {
			memory += ", of which the agent may use " + formatBytes(limit)
		}
		out = append(out, memory)
	}
	if total := hw.GetDiskBytes(); total > 0 {
		out = append(out, formatBytes(hw.GetDiskFreeBytes())+" free of "+formatBytes(total)+" on the disk of its data")
	}
	for _, g := range hw.GetGpus() {
		gpu := g.GetName() + ", " + formatBytes(g.GetMemoryBytes())
		if g.GetDriverVersion() != "" {
			gpu += ", driver " + g.GetDriverVersion()
		}
		out = append(out, gpu)
	}
	if note := hw.GetGpuNote(); note != "" {
		out = append(out, note)
	}
	return append(out, strings.TrimSuffix(fmt.Sprintf("%s/%s, kernel %s", hw.GetOs(), hw.GetArch(), hw.GetKernel()), ", kernel "))
}

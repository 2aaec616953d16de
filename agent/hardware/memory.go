package hardware

import (
	"context"

	"github.com/shirou/gopsutil/v3/mem"
)

// probeMemory returns what the machine has and what the cgroup allows, 0 when that is no less.
func probeMemory(ctx context.Context, limits cgroup) (total, limit uint64) {
	if m, err := mem.VirtualMemoryWithContext(ctx); err == nil {
		total = m.Total
	}
	if limits.memory > 0 && (total == 0 || limits.memory < total) {
		limit = limits.memory
	}
	return total, limit
}

package hardware

import (
	"context"
	"path/filepath"

	"github.com/shirou/gopsutil/v3/disk"
)

// probeDisk returns the size of the file system that dir lies on, or will lie on, and what an unprivileged process may
// still write to it.
func probeDisk(ctx context.Context, dir string) (total, free uint64) {
	if dir == "" {
		return 0, 0
	}
	dir, err := filepath.Abs(dir)
	for err == nil {
		var usage *disk.UsageStat
		if usage, err = disk.UsageWithContext(ctx, dir); err == nil {
			return usage.Total, usage.Free
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			break
		}
		dir, err = parent, nil
	}
	return 0, 0
}

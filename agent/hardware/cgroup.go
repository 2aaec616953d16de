package hardware

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// cgroup is what the process's control groups allow; 0: no limit.
type cgroup struct {
	cores  float64
	memory uint64
}

// unlimitedMemory is above every limit that anybody sets: version 1 writes "no limit" as a number near the largest.
const unlimitedMemory = 1 << 60

// readCgroup finds the tightest limits on the way from the process's group to the top, in both versions of cgroups.
// root is where /proc and /sys lie, for tests.
func readCgroup(root string) cgroup {
	var out cgroup
	data, err := os.ReadFile(filepath.Join(root, "/proc/self/cgroup"))
	if err != nil {
		return out
	}
	for line := range strings.Lines(string(data)) {
		// "0::/path" in version 2, "4:cpu,cpuacct:/path" in version 1.
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		switch {
		case parts[0] == "0" && parts[1] == "":
			walk(filepath.Join(root, "/sys/fs/cgroup"), parts[2], out.version2)
		case hasController(parts[1], "cpu"):
			walk(filepath.Join(root, "/sys/fs/cgroup/cpu"), parts[2], out.version1CPU)
		case hasController(parts[1], "memory"):
			walk(filepath.Join(root, "/sys/fs/cgroup/memory"), parts[2], out.version1Memory)
		}
	}
	return out
}

func hasController(list, name string) bool {
	for c := range strings.SplitSeq(list, ",") {
		if c == name {
			return true
		}
	}
	return false
}

// walk calls read with the folder of the group and of each of its parents. In a container the path may not exist
// below the mount, which then shows the container's own group at its top.
func walk(mount, group string, read func(dir string)) {
	for group = filepath.Clean("/" + group); ; group = filepath.Dir(group) {
		read(filepath.Join(mount, group))
		if group == "/" {
			return
		}
	}
}

func (c *cgroup) version2(dir string) {
	// cpu.max is "quota period" or "max period", in microseconds.
	if fields := strings.Fields(readString(filepath.Join(dir, "cpu.max"))); len(fields) == 2 {
		quota, err1 := strconv.ParseFloat(fields[0], 64)
		period, err2 := strconv.ParseFloat(fields[1], 64)
		if err1 == nil && err2 == nil && period > 0 {
			c.limitCores(quota / period)
		}
	}
	c.limitMemory(readString(filepath.Join(dir, "memory.max")))
}

func (c *cgroup) version1CPU(dir string) {
	quota, err1 := strconv.ParseFloat(readString(filepath.Join(dir, "cpu.cfs_quota_us")), 64)
	period, err2 := strconv.ParseFloat(readString(filepath.Join(dir, "cpu.cfs_period_us")), 64)
	if err1 == nil && err2 == nil && quota > 0 && period > 0 {
		c.limitCores(quota / period)
	}
}

func (c *cgroup) version1Memory(dir string) {
	c.limitMemory(readString(filepath.Join(dir, "memory.limit_in_bytes")))
}

func (c *cgroup) limitCores(cores float64) {
	if cores > 0 && (c.cores == 0 || cores < c.cores) {
		c.cores = cores
	}
}

func (c *cgroup) limitMemory(text string) {
	bytes, err := strconv.ParseUint(text, 10, 64) // "max" is no number
	if err == nil && bytes > 0 && bytes < unlimitedMemory && (c.memory == 0 || bytes < c.memory) {
		c.memory = bytes
	}
}

func readString(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

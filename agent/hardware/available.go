package hardware

import (
	"path/filepath"
	"strconv"
	"strings"
)

// Memory reads what memory there is, and what of it could be taken now without swapping, in bytes; 0 where it is not
// known. In a container it is the container's: the tightest of the control groups' limits, without what they use. Pages
// of files that a group could drop count as free, as they do in the kernel's own figure for the machine. root is where
// /proc and /sys lie, "" for the machine's own.
func Memory(root string) (total, available int64) {
	for line := range strings.Lines(readString(filepath.Join(root, "/proc/meminfo"))) {
		name, rest, _ := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		if len(fields) == 0 || name != "MemTotal" && name != "MemAvailable" {
			continue
		}
		n, err := strconv.ParseInt(fields[0], 10, 64)
		switch {
		case err != nil || n <= 0 || n >= unlimitedMemory>>10:
		case name == "MemTotal":
			total = n << 10
		default:
			available = n << 10
		}
	}
	lower := func(limit int64, usage, droppable string) {
		if limit <= 0 || limit >= unlimitedMemory {
			return
		}
		if total == 0 || limit < total {
			total = limit
		}
		used, err := strconv.ParseInt(usage, 10, 64)
		if err != nil || used < 0 {
			return
		}
		// A group at its limit has little, and not "it is not known".
		free := max(limit-used+max(number(droppable), 0), 1)
		if available == 0 || free < available {
			available = free
		}
	}
	for _, mount := range groups(root, "memory") {
		walk(mount.path, mount.group, func(dir string) {
			read := func(name string) string { return readString(filepath.Join(dir, name)) }
			if mount.version == 1 {
				lower(number(read("memory.limit_in_bytes")), read("memory.usage_in_bytes"), statistic(read("memory.stat"), "total_inactive_file"))
				return
			}
			lower(number(read("memory.max")), read("memory.current"), statistic(read("memory.stat"), "inactive_file"))
		})
	}
	return total, available
}

// mounted is where a control group of this process lies.
type mounted struct {
	version     int
	path, group string
}

func groups(root, controller string) (out []mounted) {
	for line := range strings.Lines(readString(filepath.Join(root, "/proc/self/cgroup"))) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(parts) != 3:
		case parts[0] == "0" && parts[1] == "":
			out = append(out, mounted{2, filepath.Join(root, "/sys/fs/cgroup"), parts[2]})
		case hasController(parts[1], controller):
			out = append(out, mounted{1, filepath.Join(root, "/sys/fs/cgroup", controller), parts[2]})
		}
	}
	return out
}

// number reads a size; what is none, such as "max", is 0.
func number(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// statistic finds a line "key value".
func statistic(text, key string) string {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), key+" "); ok {
			return rest
		}
	}
	return ""
}

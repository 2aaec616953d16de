package hardware

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
)

func TestWhatMemoryThereIs(t *testing.T) {
	machine := map[string]string{"proc/meminfo": "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:   400 kB\nHugePages_Total: 0\n"}
	for _, c := range []struct {
		name             string
		files            map[string]string
		total, available int64
	}{
		{"no group", nil, 1000 << 10, 400 << 10},
		{"a group without a limit", map[string]string{"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "max\n", "sys/fs/cgroup/a/memory.current": "5\n"}, 1000 << 10, 400 << 10},
		{"version 2, the parent has less left", map[string]string{
			"proc/self/cgroup":             "0::/a/b\n",
			"sys/fs/cgroup/a/b/memory.max": "300000\n", "sys/fs/cgroup/a/b/memory.current": "1000\n",
			"sys/fs/cgroup/a/memory.max": "400000\n", "sys/fs/cgroup/a/memory.current": "390000\n",
			"sys/fs/cgroup/a/memory.stat": "anon 5\ninactive_file 7000\nactive_file 9\n",
		}, 300000, 17000},
		{"version 1", map[string]string{
			"proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/x\n",
			"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "512000\n", "sys/fs/cgroup/memory/x/memory.usage_in_bytes": "500000\n",
			"sys/fs/cgroup/memory/x/memory.stat":         "inactive_file 1\ntotal_inactive_file 8000\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
		}, 512000, 20000},
		{"at the limit", map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "5000\n", "sys/fs/cgroup/memory.current": "5100\n"}, 5000, 1},
		{"looser than the machine", map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "99000000\n", "sys/fs/cgroup/memory.current": "0\n"}, 1000 << 10, 400 << 10},
		{"usage not known", map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "5000\n"}, 5000, 400 << 10},
		{"nothing known", map[string]string{"proc/meminfo": "MemTotal: many kB\nMemAvailable:\nx\n"}, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			files := maps.Clone(machine)
			maps.Copy(files, c.files)
			for name, content := range files {
				path := filepath.Join(root, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if total, available := Memory(root); total != c.total || available != c.available {
				t.Errorf("%d of %d, want %d of %d", available, total, c.available, c.total)
			}
		})
	}
	if total, available := Memory(""); total <= 0 || available <= 0 || available > total {
		t.Errorf("here: %d of %d", available, total)
	}
}

package probe

import (
	"bytes"
	"os"
	"strconv"
)

// anonymous returns a process's anonymous memory in bytes: what is its own, unlike the files that it has mapped. It is
// 0 when the process is gone.
func anonymous(pid int) int64 { return statusOf(pid, "RssAnon:") }

// statusOf returns a size of a process's status in bytes.
func statusOf(pid int, key string) int64 {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0
	}
	_, rest, found := bytes.Cut(status, []byte(key))
	if !found {
		return 0
	}
	fields := bytes.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kilobytes, err := strconv.ParseInt(string(fields[0]), 10, 64)
	if err != nil {
		return 0
	}
	return kilobytes << 10
}

// Package failpoint names the places at which Dhow's programs write state, so that a test can end the process there.
//
// A point does nothing until the process was started with DHOW_FAILPOINT="name" or "name:n": then the n-th passing
// (the first without n) kills the process with SIGKILL, as a power cut would, with no deferred call and no flush.
// It is the only package under test/ that the product itself imports. Passing an unarmed point costs one comparison.
package failpoint

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

var (
	armed string
	left  atomic.Int64
)

func init() { arm(os.Getenv("DHOW_FAILPOINT")) }

func arm(spec string) {
	name, count, ok := strings.Cut(spec, ":")
	n := int64(1)
	if ok {
		if parsed, err := strconv.ParseInt(count, 10, 64); err == nil && parsed > 0 {
			n = parsed
		}
	}
	armed = name
	left.Store(n)
}

var kill = func() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// Here marks a write point. Names are "package/step", for example "blob/renamed", and each is listed by Names in the
// test that kills there.
func Here(name string) {
	if armed == "" || armed != name {
		return
	}
	if left.Add(-1) == 0 {
		kill()
	}
}

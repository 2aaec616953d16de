package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// contender is one way to do the same work. run does it so many times, on the calling thread.
type contender struct {
	name string
	run  func(times int) error
}

// minimal is how long a contender works at a turn, at least: what is shorter is repeated.
const minimal = 2 * time.Millisecond

// compare lets all contenders take turns and returns the median time that each needs for one piece of work, in the
// processor time of the thread.
func compare(ctx context.Context, rounds int, contenders []contender) ([]time.Duration, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	repeat := make([]int, len(contenders))
	for i, c := range contenders {
		for repeat[i] = 1; ; repeat[i] *= 2 { // warm, and find out how often
			took, err := turn(c, repeat[i])
			if err != nil {
				return nil, err
			}
			if took >= minimal {
				break
			}
		}
	}
	all := make([][]time.Duration, len(contenders))
	for range rounds {
		for i, c := range contenders {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			took, err := turn(c, repeat[i])
			if err != nil {
				return nil, err
			}
			all[i] = append(all[i], took/time.Duration(repeat[i]))
		}
	}
	out := make([]time.Duration, len(contenders))
	for i := range all {
		out[i] = median(all[i])
	}
	return out, nil
}

func turn(c contender, n int) (time.Duration, error) {
	begin := threadTime()
	if err := c.run(n); err != nil {
		return 0, fmt.Errorf("%s: %w", c.name, err)
	}
	return threadTime() - begin, nil
}

// threadTime is the processor time of the calling thread.
func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic(fmt.Sprintf("the clock of a thread cannot be read: %v", err)) // it can since Linux 2.6
	}
	return time.Duration(ts.Nano())
}

// median sorts and returns the middle, of an even number the lower one.
func median(d []time.Duration) time.Duration { return percentile(d, 50) }

// percentile sorts and returns the value below which p of a hundred lie.
func percentile(d []time.Duration, p int) time.Duration {
	slices.Sort(d)
	return d[(len(d)-1)*p/100]
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(max(b, 1)) }

// wazeroVersion is that of the code that runs.
func wazeroVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if d.Path == "github.com/tetratelabs/wazero" {
				return d.Version
			}
		}
	}
	return "unknown"
}

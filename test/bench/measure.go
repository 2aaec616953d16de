package main

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"
)

// path is one way to get an answer.
type path struct {
	name string
	goal string
	call func() error
	// allocations in this process are those of the path; false where a client runs in it too.
	countable bool
}

type result struct {
	path        path
	p50, p99    time.Duration
	allocations string
}

// measure runs all paths in turn, round by round.
//
// quiet is called before allocations are counted: what other goroutines still have to do would be counted with them.
func measure(ctx context.Context, paths []path, rounds, calls int, quiet func(context.Context) error) ([]result, error) {
	p50 := make([][]time.Duration, len(paths))
	p99 := make([][]time.Duration, len(paths))
	times := make([]time.Duration, calls)
	for range rounds {
		for i, p := range paths {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			for range calls / 10 { // warm
				if err := p.call(); err != nil {
					return nil, fmt.Errorf("%s: %w", p.name, err)
				}
			}
			runtime.GC()
			for j := range times {
				start := time.Now()
				err := p.call()
				times[j] = time.Since(start)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", p.name, err)
				}
			}
			slices.Sort(times)
			p50[i] = append(p50[i], times[calls/2])
			p99[i] = append(p99[i], times[calls*99/100])
		}
	}
	out := make([]result, len(paths))
	for i, p := range paths {
		out[i] = result{path: p, p50: median(p50[i]), p99: median(p99[i]), allocations: "-"}
		if p.countable {
			if err := quiet(ctx); err != nil {
				return nil, err
			}
			n := testing.AllocsPerRun(200, func() { _ = p.call() }) // it answered all the while
			out[i].allocations = fmt.Sprint(n)
		}
	}
	return out, nil
}

// median sorts and returns the middle, of an even number the lower one.
func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[(len(d)-1)/2]
}

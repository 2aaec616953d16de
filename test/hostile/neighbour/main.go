// Neighbour measures what a model notices of hostile modules that are asked beside it.
//
//	go run ./test/hostile/neighbour [-seconds 2] [-all] [-run NAME] [-rate 250]
//
// One process serves two models by the path that requests take in the agent (test/inprocess): a small ONNX model, and one
// whose pre.wasm is a hostile module. A client in a process of its own asks the first at a steady rate; as many requests
// as there are cores but one ask the second all the while, each again as soon as it has its error. For each module a
// window without it comes before the window with it, so that a busy moment of the machine meets both. Garbage is
// collected every 20 ms in both, since a collection has to stop every guest.
//
// It prints the neighbour's p50 and p99 in both windows, their ratio, and the longest stop of the world; and at the end
// the worst of each beside its goal. Without -all it takes one module of each sort, with it every one that reaches a
// request. It needs ONNX Runtime (make onnxruntime). Nothing is asserted: figures depend on the machine, and the exit
// status is 0 if everything could be measured.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/dhowfleet/dhow/test/hostile"
)

// The goals.
const (
	goalRatio   = 2
	goalLongest = 5 * time.Millisecond
	goalP50     = 300 * time.Microsecond
	goalP99     = 3 * time.Millisecond
)

// sorts has one module of each way to use up time.
var sorts = []string{"loop-br", "loop-br_table", "loop-straight-line", "loop-call_indirect", "calls-without-loop", "chase-straight-line",
	"page-faults", "denormals", "deep-and-back", "large-frames", "grow-by-page", "fill-in-a-row", "copy-up", "init-for-ever",
	"emit-flood", "log-flood-long", "random-8MB", "fd_write-million", "clock-flood", "loop-in-post", "image-64MB", "result-60MB"}

func main() {
	seconds := flag.Float64("seconds", 2, "length of each window")
	all := flag.Bool("all", false, "every module that reaches a request, not one of each sort")
	only := flag.String("run", "", "only modules whose name contains this")
	rate := flag.Int("rate", 250, "the neighbour's requests a second")
	client := flag.String("client", "", "be the client: ask this address, print the times and end")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	window := time.Duration(*seconds * float64(time.Second))
	var err error
	if *client != "" {
		err = ask(ctx, *client, *rate, window, os.Stdout)
	} else {
		err = run(ctx, choose(*all, *only), *rate, window)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "neighbour:", err)
		os.Exit(1)
	}
}

func choose(all bool, only string) []hostile.Case {
	return slices.DeleteFunc(hostile.Cases(), func(c hostile.Case) bool {
		switch {
		case c.Want.Where != hostile.Call && c.Want.Where != hostile.Nowhere:
			return true
		case only != "":
			return !strings.Contains(c.Name, only)
		}
		return !all && !slices.Contains(sorts, c.Name)
	})
}

func run(ctx context.Context, cases []hostile.Case, rate int, window time.Duration) error {
	s, err := serve(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	streams := max(1, runtime.GOMAXPROCS(0)-1)
	fmt.Printf("A model beside hostile modules: %d requests a second to it, %d hostile at a time, windows of %s, %d cores, %s\n\n",
		rate, streams, window, runtime.NumCPU(), runtime.Version())
	fmt.Println("| module | hostile requests | p50 alone | beside | ratio | p99 alone | beside | ratio | longest stop of the world |\n|--|--:|--:|--:|--:|--:|--:|--:|--:|")
	if _, err := s.window(ctx, rate, window, 0); err != nil { // warm
		return err
	}
	var pauses histogram
	var alone, beside []time.Duration // p99 of each window
	misses := 0
	for _, c := range cases {
		if err := s.put(ctx, c.Build()); err != nil {
			return fmt.Errorf("cannot serve %s: %w", c.Name, err)
		}
		without, err := s.window(ctx, rate, window, 0)
		if err != nil {
			return err
		}
		with, err := s.window(ctx, rate, window, streams)
		if err != nil {
			return err
		}
		pauses.add(with.pauses)
		a, b := quantile(without.times, 99), quantile(with.times, 99)
		alone, beside = append(alone, a), append(beside, b)
		if float64(b) > goalRatio*float64(a) {
			misses++
		}
		fmt.Printf("| %s | %d | %s | %s | %.2f | %s | %s | %.2f | %s |\n", c.Name, with.hostile,
			micro(quantile(without.times, 50)), micro(quantile(with.times, 50)), ratio(quantile(with.times, 50), quantile(without.times, 50)),
			micro(a), micro(b), ratio(b, a), micro(with.pauses.quantile(1)))
	}
	if len(cases) == 0 {
		return fmt.Errorf("no module has such a name")
	}
	slices.Sort(alone)
	slices.Sort(beside)
	middle := ratio(beside[len(beside)/2], alone[len(alone)/2])
	fmt.Printf("\n| figure | measured | goal | |\n|--|--:|--:|--|\n")
	fmt.Printf("| p99 beside a hostile module over p99 alone, median of %d modules | %.2f | %d | %s |\n", len(cases), middle, goalRatio, verdict(middle <= goalRatio))
	fmt.Printf("| modules beside which p99 is more than twice that of the window before | %d | 0 | %s |\n", misses, verdict(misses == 0))
	for _, f := range []struct {
		name string
		have time.Duration
		goal time.Duration
	}{
		{"stop of the world beside them, p50", pauses.quantile(0.5), goalP50},
		{"p99", pauses.quantile(0.99), goalP99},
		{fmt.Sprintf("longest of %d", pauses.count()), pauses.quantile(1), goalLongest},
	} {
		fmt.Printf("| %s | %s | %s | %s |\n", f.name, micro(f.have), f.goal, verdict(f.have <= f.goal))
	}
	return nil
}

func verdict(holds bool) string {
	if holds {
		return "holds"
	}
	return "MISSES"
}

func micro(d time.Duration) string { return d.Round(time.Microsecond).String() }

func ratio(a, b time.Duration) float64 { return float64(a) / float64(max(b, 1)) }

// quantile returns a percentile of sorted times.
func quantile(sorted []time.Duration, percent int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)*percent/100, len(sorted)-1)]
}

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
// Between the modules the same is measured beside a loop in Go, which the scheduler can interrupt anywhere: what that
// costs, any busy core costs on this machine, and a machine that has no core to spare shows it there.
//
// It prints the neighbour's p50 and p99 in both windows, their ratio, and the longest stop of the world; and at the end
// the worst of each beside its goal. Without -all it takes one module of each sort, with it every one that reaches a
// request. It needs ONNX Runtime (make onnxruntime). Nothing is asserted: figures depend on the machine, and the exit
// status is 0 if everything could be measured.
package main

import (
	"context"
	"errors"
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

// controlEvery is how many modules are measured between two controls.
const controlEvery = 4

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
	if len(cases) == 0 {
		return errors.New("no module has such a name")
	}
	var controls, results summary
	for i, c := range cases {
		if i%controlEvery == 0 {
			if err := s.compare(ctx, "(control: a loop in Go)", c.Build(), true, rate, window, streams, &controls); err != nil {
				return err
			}
		}
		if err := s.compare(ctx, c.Name, c.Build(), false, rate, window, streams, &results); err != nil {
			return err
		}
	}
	fmt.Printf("\n| figure | beside hostile modules | beside the control | goal | |\n|--|--:|--:|--:|--|\n")
	a, b := results.ratio(), controls.ratio()
	fmt.Printf("| p99 beside over p99 alone, medians of %d and %d windows | %.2f | %.2f | %d | %s |\n", len(results.alone), len(controls.alone), a, b, goalRatio, verdict(a <= goalRatio))
	fmt.Printf("| windows with a p99 of more than twice that of the window before | %d | %d | 0 | %s |\n", results.misses, controls.misses, verdict(results.misses == 0))
	for _, f := range []struct {
		name string
		q    float64
		goal time.Duration
	}{{"stop of the world, p50", 0.5, goalP50}, {"p99", 0.99, goalP99}, {"longest", 1, goalLongest}} {
		have := results.pauses.quantile(f.q)
		fmt.Printf("| %s | %s | %s | %s | %s |\n", f.name, micro(have), micro(controls.pauses.quantile(f.q)), f.goal, verdict(have <= f.goal))
	}
	return nil
}

// summary is of all windows of one sort.
type summary struct {
	alone, beside []time.Duration // p99 of each window
	misses        int
	pauses        histogram
}

func (s *summary) ratio() float64 {
	slices.Sort(s.alone)
	slices.Sort(s.beside)
	return ratio(s.beside[len(s.beside)/2], s.alone[len(s.alone)/2])
}

// compare measures a window without and one with hostile requests, and prints a line.
func (s *server) compare(ctx context.Context, name string, module []byte, busy bool, rate int, window time.Duration, streams int, sum *summary) error {
	if err := s.put(ctx, module, busy); err != nil {
		return fmt.Errorf("cannot serve %s: %w", name, err)
	}
	without, err := s.window(ctx, rate, window, 0)
	if err != nil {
		return err
	}
	with, err := s.window(ctx, rate, window, streams)
	if err != nil {
		return err
	}
	sum.pauses.add(with.pauses)
	a, b := quantile(without.times, 99), quantile(with.times, 99)
	sum.alone, sum.beside = append(sum.alone, a), append(sum.beside, b)
	if float64(b) > goalRatio*float64(a) {
		sum.misses++
	}
	p, q := quantile(without.times, 50), quantile(with.times, 50)
	fmt.Printf("| %s | %d | %s | %s | %.2f | %s | %s | %.2f | %s |\n", name, with.hostile,
		micro(p), micro(q), ratio(q, p), micro(a), micro(b), ratio(b, a), micro(with.pauses.quantile(1)))
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

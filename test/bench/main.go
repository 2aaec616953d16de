// Command bench measures what Dhow adds to a call of ONNX Runtime, and prints it as a table.
//
// Every path answers the same request: one FP32 tensor of 4 KiB in, one out, through a model that only negates, so that
// what is measured is the way and not the model. "bare" is the least that a Go program can do: the binding's session
// with tensors that are made once and used again. The other paths are measured beside it in the same round, one after
// the other, so that a busy moment of the machine meets all of them. A figure is the median over the rounds of a round's
// percentile. Nothing is asserted: figures depend on the machine, which is printed with them.
//
// Other tables measure what is around it: the agent as a process of its own beside fastify with onnxruntime-node.
//
// Usage: go run ./test/bench [-tables paths,decode,swap,batching,peers] [-rounds 5] [-calls 4000] [-window 2s]. It needs ONNX Runtime (make
// onnxruntime), for the peers also bin/dhow-agent (make binaries) and npm, and listens on loopback only.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	rounds := flag.Int("rounds", 5, "rounds, of which the median counts")
	calls := flag.Int("calls", 4000, "calls of each path in a round")
	tables := flag.String("tables", "paths,decode,swap,batching,peers", "what is measured")
	window := flag.Duration("window", 2*time.Second, "how long a server is pressed at a time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := runTables(ctx, strings.Split(*tables, ","), *rounds, *calls, *window); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func runTables(ctx context.Context, tables []string, rounds, calls int, window time.Duration) error {
	known := map[string]func() error{
		"paths":    func() error { return run(ctx, rounds, calls) },
		"decode":   func() error { return decodeTable(rounds) },
		"swap":     func() error { return swapTable(ctx, rounds) },
		"batching": func() error { return batchingTable(ctx, rounds < 3) },
		"peers":    func() error { return peersTable(ctx, window, rounds) },
	}
	for _, name := range tables {
		table, ok := known[name]
		if !ok {
			return fmt.Errorf("there is no table %q", name)
		}
		if err := table(); err != nil {
			return err
		}
	}
	return nil
}

func run(ctx context.Context, rounds, calls int) error {
	if rounds < 1 || calls < 100 {
		return fmt.Errorf("at least one round of 100 calls is needed")
	}
	dir, err := os.MkdirTemp("", "dhow-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	b, err := newBench(ctx, dir)
	if err != nil {
		return err
	}
	defer b.close()
	results, err := measure(ctx, b.paths(), rounds, calls, b.recorder.Flush)
	if err != nil {
		return err
	}
	fmt.Printf("%s, %d cores, load %s, %s, ONNX Runtime %s, %s\n", processor(), runtime.NumCPU(), load(), runtime.Version(), b.version, time.Now().Format("2006-01-02"))
	fmt.Printf("FP32[1,%d] (%d bytes) in and out, median of %d rounds of %d calls\n\n", width, 4*width, rounds, calls)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "path\tp50\tp99\tp50 over bare\tallocations\tgoal\t")
	for _, r := range results {
		over := "-"
		if r.path.name != results[0].path.name {
			over = micros(r.p50 - results[0].p50)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t\n", r.path.name, micros(r.p50), micros(r.p99), over, r.allocations, r.path.goal)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	s := b.recorder.Stats()
	fmt.Printf("\nrecorded %d requests; %d were dropped, since a loop without a pause outruns the disk\n", s.Written+s.Lost, s.Dropped)
	return nil
}

func micros(d time.Duration) string { return fmt.Sprintf("%.2f us", float64(d)/1e3) }

// processor names the machine as Linux does.
func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(text)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				return strings.TrimSpace(value)
			}
		}
	}
	return runtime.GOARCH
}

func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}

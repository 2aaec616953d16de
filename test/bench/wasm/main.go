// Command wasm measures what bounding WASM guests costs, and holds each figure against its goal.
//
// Guests run in three ways beside each other: by wazero alone without any bound ("plain"), by wazero with its own bound
// (WithCloseOnContextDone), and rewritten by package metering, with or without calls of the host when fuel runs out
// ("yield", "trap"). What package host adds to a call is measured against wazero alone, and against Extism's SDK and
// WASI's standard streams. All contenders of a table take turns, round by round, so that a busy moment of the machine
// meets all of them; ratios are those of medians over the rounds. Work of one thread is measured in processor time of
// that thread, since others may use the machine; waits are measured in wall time.
//
// Each row ends with its goal and with "holds" or "MISSES". The exit code is 0 all the same, unless -strict is given:
// figures depend on the machine, which is printed with them. A row whose tool chain is missing says so.
//
// It is a module of its own because it needs Extism's SDK, which nothing of the product should depend on.
//
// Usage, in this folder: go run . [-short] [-strict] [-urgent] [-tables kernels,call,...] [-kernels DIR]. The kernels are built by
// wasm/examples/kernels/build; without them the table has those that are put together by hand.
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
	"time"

	"golang.org/x/sys/unix"
)

// bench is what the tables share.
type bench struct {
	short   bool
	kernels string // folder of kernels
	scratch string // folder for what is built on the way
	report  report
}

// table is one of the program's tables.
type table struct {
	name, title string
	run         func(*bench, context.Context) error
}

var tables = []table{
	{"kernels", "time over plain wazero", (*bench).kernelTable},
	{"call", "a call of a guest that does nothing", (*bench).callTable},
	{"compile", "rewriting and compiling", (*bench).compileTable},
	{"fuel", "fuel is the same on every run", (*bench).fuelTable},
	{"overshoot", "how long after its deadline a guest is stopped", (*bench).overshootTable},
	{"pauses", "how long the Go runtime waits for a guest to stop the world", (*bench).pauseTable},
	{"reset", "putting an instance back to its image", (*bench).resetTable},
	{"toll", "an echo through each way of handing over bytes", (*bench).tollTable},
}

func main() {
	b := &bench{report: report{out: os.Stdout}}
	flag.BoolVar(&b.short, "short", false, "fewer rounds, for continuous integration")
	strict := flag.Bool("strict", false, "exit with code 1 when a figure misses its goal")
	flag.StringVar(&b.kernels, "kernels", "../../../build/kernels", "folder of the kernels")
	urgent := flag.Bool("urgent", false, "run at the highest priority, so that other work of the machine delays the guests less; needs root")
	names := flag.String("tables", "", "tables to measure, separated by commas (default: all)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *urgent {
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, -20); err != nil {
			fmt.Fprintln(os.Stderr, "bench: cannot raise the priority:", err)
		}
	}
	err := b.runAll(ctx, *names)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	if err != nil || *strict && b.report.missed > 0 {
		os.Exit(1) //nolint:gocritic // nothing is left to clean up but a signal handler
	}
}

// runAll measures the tables named, or all of them.
func (b *bench) runAll(ctx context.Context, names string) error {
	chosen := tables
	if names != "" {
		chosen = nil
		for name := range strings.SplitSeq(names, ",") {
			found := false
			for _, t := range tables {
				if t.name == name {
					chosen, found = append(chosen, t), true
				}
			}
			if !found {
				return fmt.Errorf("there is no table %q", name)
			}
		}
	}
	var err error
	if b.scratch, err = os.MkdirTemp("", "dhow-bench-wasm-"); err != nil {
		return fmt.Errorf("cannot make a folder to build in: %w", err)
	}
	defer func() { _ = os.RemoveAll(b.scratch) }()
	b.report.machine()
	for _, t := range chosen {
		begin := time.Now()
		fmt.Fprintf(b.report.out, "\n%s: %s\n", t.name, t.title)
		if err := t.run(b, ctx); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
		fmt.Fprintf(b.report.out, "(%.1f s)\n", time.Since(begin).Seconds())
		runtime.GC()
	}
	b.report.summary()
	return nil
}

// rounds is how often contenders take turns.
func (b *bench) rounds(full int) int {
	if b.short {
		return max(3, full/5)
	}
	return full
}

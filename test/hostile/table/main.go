// Table runs the hostile modules of test/hostile and prints what became of each, with times.
//
//	go run ./test/hostile/table [-o docs/wasm-hostile.md] [-run NAME]
//
// With -o it writes the document, which holds no times, so that it is the same on every machine. Modules without an end
// are run twice: with a budget of fuel, which gives the verdict, and with a deadline of 50 ms alone, which gives the
// overshoot: how much later than that the error was there, the reset of the instance included. Beside each a loop in Go
// is timed that ends itself, which shows what the machine's other work adds; and the processor time of the call is divided
// by how often the host looked at the clock, which other work does not change. The exit status is 1 when a verdict is not
// the table's. Everything runs one after the other in this process.
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
	"syscall"
	"time"

	"github.com/dhowfleet/dhow/test/hostile"
	"github.com/dhowfleet/dhow/wasm/host"
)

const deadline = 50 * time.Millisecond

func main() {
	out := flag.String("o", "", "write the document to this file")
	only := flag.String("run", "", "run only modules whose name contains this")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	wrong, err := run(ctx, *only)
	if err == nil && *out != "" {
		err = os.WriteFile(*out, []byte(hostile.Document(hostile.Cases())), 0o644)
	}
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "hostile:", err)
		os.Exit(2)
	case wrong > 0:
		fmt.Printf("%d verdicts are not the table's\n", wrong)
		os.Exit(1)
	}
}

func run(ctx context.Context, only string) (wrong int, err error) {
	r, err := host.NewRuntime(ctx, host.Config{})
	if err != nil {
		return 0, err
	}
	limits := hostile.Limits
	limits.Fuel, limits.Timeout = 0, deadline
	var overshoots, controls []time.Duration
	ran := 0
	var gaps []time.Duration
	fmt.Println("| module | kind | verdict | took | over the deadline | processor time between two looks |\n|--|--|--|--:|--:|--:|")
	for _, c := range hostile.Cases() {
		if err := ctx.Err(); err != nil {
			return wrong, err
		}
		if !strings.Contains(c.Name, only) {
			continue
		}
		ran++
		o := hostile.Run(ctx, r, &c, hostile.Limits, nil)
		verdict, over, gap := o.Verdict.String(), "-", "-"
		if o.Verdict != c.Want {
			verdict += fmt.Sprintf(", WANTED %s: %v", c.Want, o.Err)
			wrong++
		}
		if c.Endless() {
			before := processor()
			late := hostile.Run(ctx, r, &c, limits, nil)
			gaps = append(gaps, (processor()-before)/time.Duration(max(late.Usage.Refills, 1)))
			gap = gaps[len(gaps)-1].String()
			if late.What != hostile.Deadline {
				verdict += fmt.Sprintf(", and WITHOUT FUEL %s: %v", late.Verdict, late.Err)
				wrong++
			}
			overshoots, controls = append(overshoots, late.Took-deadline), append(controls, control()-deadline)
			over = (late.Took - deadline).Round(10 * time.Microsecond).String()
		}
		fmt.Printf("| %s | %s | %s | %s | %s | %s |\n", c.Name, c.Kind, verdict, o.Took.Round(10*time.Microsecond), over, gap)
	}
	if ran == 0 {
		return 0, fmt.Errorf("no module has %q in its name", only)
	}
	fmt.Printf("\n%d modules. Overshoot of a deadline of %s: %s (goal 2ms); of a loop in Go that looks at the clock, on this machine now: %s\n",
		ran, deadline, spread(overshoots), spread(controls))
	fmt.Printf("Processor time between two looks at the clock, compiling and all else of the call included: %s (goal 50µs)\n", spread(gaps))
	return wrong, nil
}

// processor is what this process has used of the processors: how long other processes kept it from them is not in it.
func processor() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// control takes as long as a loop that ends itself at the deadline: what is beyond it, the machine's other work took.
func control() time.Duration {
	begin := time.Now()
	for time.Since(begin) < deadline {
		for at := time.Now(); time.Since(at) < 30*time.Microsecond; {
			runtime.Gosched()
		}
	}
	return time.Since(begin)
}

func spread(times []time.Duration) string {
	if len(times) == 0 {
		return "none measured"
	}
	slices.Sort(times)
	round := func(d time.Duration) time.Duration { return d.Round(time.Microsecond) }
	return fmt.Sprintf("median %s, longest %s", round(times[len(times)/2]), round(times[len(times)-1]))
}

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/tetratelabs/wazero"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host"
	"github.com/dhowfleet/dhow/wasm/metering"
)

const (
	callBound         = 50 * time.Nanosecond  // over plain wazero, without a deadline
	callDeadlineBound = 120 * time.Nanosecond // with one
	rewriteBound      = 5 * time.Millisecond  // a megabyte
	compileBound      = 1.25
	resetSmallBound   = 3 * time.Microsecond
	resetLargeBound   = 150 * time.Microsecond
)

// guestCalls is how often the host calls a guest for one request: cabi_realloc, process, cabi_post_process.
const guestCalls = 3

// callTable measures what the bounds cost a call of a guest that does nothing.
func (b *bench) callTable(ctx context.Context) error {
	code := echoGuest(1)
	in := []tensor.Tensor{{Name: "x", Datatype: tensor.Uint8, Shape: []int64{8}, Data: make([]byte, 8)}}
	type row struct {
		name  string
		bound time.Duration // on each of the guest's calls, 0 for none
		call  func() error
	}
	var rows []row
	for _, w := range ways {
		r, err := w.start(ctx, code)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		defer r.close()
		bound := time.Duration(0)
		if w.name == "yield" {
			bound = callBound
		}
		rows = append(rows, row{"wazero, " + w.name, bound, contractCall(r, in, func([]byte) error { return nil })})
	}
	m, err := b.compile(ctx, code, host.Options{Name: "echo", State: host.Keep, Limits: host.Limits{Timeout: time.Minute}})
	if err != nil {
		return err
	}
	defer func() { _ = m.Close() }()
	limited, cancel := context.WithTimeout(ctx, time.Hour)
	defer cancel()
	use := func([]tensor.Tensor) error { return nil }
	rows = append(rows,
		row{"host.View, whose limits are a deadline", callDeadlineBound, func() error { return m.View(context.Background(), in, nil, use) }},
		row{"host.View, the request has one as well", callDeadlineBound, func() error { return m.View(limited, in, nil, use) }},
		row{"host.Process", 0, func() error { _, err := m.Process(limited, in, nil); return err }},
	)
	contenders := make([]contender, len(rows))
	for i, r := range rows {
		contenders[i] = contender{r.name, repeated(r.call)}
	}
	took, err := compare(ctx, b.rounds(50), contenders)
	if err != nil {
		return err
	}
	s := b.report.sheet("a request of 8 bytes", "time", "over plain", "for each guest call", "allocations")
	for i, r := range rows {
		over := took[i] - took[0]
		allocations := testing.AllocsPerRun(200, func() { _ = r.call() }) // it answered all the while
		var g goals
		if r.bound > 0 {
			g = goals{within("a guest call", over/guestCalls, r.bound), {"0 allocations", allocations == 0}}
		}
		s.row(g, r.name, span(took[i]), span(over), span(over/guestCalls), fmt.Sprint(allocations))
	}
	return s.flush()
}

func repeated(call func() error) func(int) error {
	return func(n int) error {
		for range n {
			if err := call(); err != nil {
				return err
			}
		}
		return nil
	}
}

// compile takes a module through package host, with a cache of its own.
func (b *bench) compile(ctx context.Context, code []byte, o host.Options) (*host.Module, error) {
	r, err := host.NewRuntime(ctx, host.Config{CacheDir: filepath.Join(b.scratch, "cache")})
	if err != nil {
		return nil, err
	}
	return r.Compile(ctx, code, o)
}

// compileTable measures what rewriting takes, and what compiling takes more for it, on a guest in Go.
func (b *bench) compileTable(ctx context.Context) error {
	if err := b.buildKernels(ctx); err != nil {
		return err
	}
	code, err := os.ReadFile(filepath.Join(b.kernels, "go.wasm"))
	if err != nil {
		return err
	}
	var metered *metering.Module
	rewrite := func(n int) (err error) {
		for range n {
			metered, err = metering.Rewrite(code, metering.Options{})
		}
		return err
	}
	took, err := compare(ctx, b.rounds(15), []contender{{"rewrite", rewrite}})
	if err != nil {
		return err
	}
	s := b.report.sheet("Go guest", "bytes", "time", "ratio")
	perMB := time.Duration(float64(took[0]) / (float64(len(code)) / 1e6))
	s.row(goals{within("a MB", perMB, rewriteBound)}, "rewrite", megabytes(code), span(took[0]), span(perMB)+" a MB")

	var plain, rewritten []time.Duration
	for range b.rounds(5) {
		for _, c := range []struct {
			code []byte
			into *[]time.Duration
		}{{code, &plain}, {metered.Code, &rewritten}} {
			if err := ctx.Err(); err != nil {
				return err
			}
			t, err := compileOnce(ctx, c.code)
			if err != nil {
				return err
			}
			*c.into = append(*c.into, t)
		}
	}
	before, after := median(plain), median(rewritten)
	s.row(nil, "compile as it is", megabytes(code), span(before))
	s.row(goals{atMost("", ratio(after, before), compileBound)}, "compile, metered", megabytes(metered.Code), span(after), times(ratio(after, before)))
	return s.flush()
}

func megabytes(b []byte) string { return fmt.Sprintf("%.2f MB", float64(len(b))/1e6) }

// compileOnce returns the processor time of the whole process: the collector works for the compiler on other threads.
func compileOnce(ctx context.Context, code []byte) (time.Duration, error) {
	runtime.GC()
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithDebugInfoEnabled(false))
	defer func() { _ = r.Close(ctx) }()
	begin := processTime()
	_, err := r.CompileModule(ctx, code)
	return processTime() - begin, err
}

func processTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(fmt.Sprintf("the process's own use cannot be read: %v", err)) // it always can
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// resetTable measures what a clean instance for each request costs.
func (b *bench) resetTable(ctx context.Context) error {
	inGo, err := b.goEcho(ctx)
	if err != nil {
		return err
	}
	s := b.report.sheet("a clean instance for each request", "image", "state kept", "reset", "the reset alone", "new instance")
	for _, c := range []struct {
		name  string
		code  []byte
		bound time.Duration
	}{
		{"put together by hand", echoGuest(1), resetSmallBound},
		{"put together by hand", echoGuest(64), resetLargeBound},
		{"Go", inGo, resetLargeBound},
	} {
		if err := b.reset(ctx, s, c.name, c.code, c.bound); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return s.flush()
}

func (b *bench) reset(ctx context.Context, s *sheet, name string, code []byte, bound time.Duration) error {
	in := []tensor.Tensor{{Name: "x", Datatype: tensor.Uint8, Shape: []int64{8}, Data: make([]byte, 8)}}
	use := func([]tensor.Tensor) error { return nil }
	var contenders []contender
	var image int64
	for _, state := range []host.State{host.Keep, host.Reset} {
		m, err := b.compile(ctx, code, host.Options{Name: name, State: state, Limits: host.Limits{Timeout: time.Minute}})
		if err != nil {
			return err
		}
		defer func() { _ = m.Close() }()
		image = m.Info().ImageBytes
		contenders = append(contenders, contender{fmt.Sprint("state ", state), repeated(func() error { return m.View(ctx, in, nil, use) })})
	}
	r, _, err := startMetered(ctx, code, metering.Yield, quantum)
	if err != nil {
		return err
	}
	defer r.close()
	contenders = append(contenders, contender{"new instance", repeated(r.again)})
	took, err := compare(ctx, b.rounds(25), contenders)
	if err != nil {
		return err
	}
	alone := took[1] - took[0]
	s.row(goals{within("reset", alone, bound)}, name, fmt.Sprintf("%d KiB", image>>10), span(took[0]), span(took[1]), span(alone), span(took[2]))
	return nil
}

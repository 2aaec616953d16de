package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/tetratelabs/wazero/api"

	"github.com/dhowfleet/dhow/wasm/examples/kernels"
	"github.com/dhowfleet/dhow/wasm/metering"
)

// fuelTable runs each kernel several times, in new instances and with other quanta, and wants the same fuel each time.
// How much fuel a nanosecond takes says why fuel is no measure of time.
func (b *bench) fuelTable(ctx context.Context) error {
	if err := b.buildKernels(ctx); err != nil {
		return err
	}
	s := b.report.sheet("kernel", "fuel", "fuel/ns", "runs", "values")
	type started struct {
		r *running
		g *meter
	}
	files := map[string]started{}
	defer func() {
		for _, f := range files {
			f.r.close()
		}
	}()
	for _, k := range kernels.All {
		f, ok := files[k.File]
		if !ok {
			code, err := os.ReadFile(filepath.Join(b.kernels, k.File))
			if errors.Is(err, os.ErrNotExist) {
				s.note(k.Name, k.File+" is missing (apt install clang lld)")
				continue
			} else if err != nil {
				return err
			}
			if f.r, f.g, err = startMetered(ctx, code, metering.Yield, quantum); err != nil {
				return fmt.Errorf("%s: %w", k.Name, err)
			}
			files[k.File] = f
		}
		values, rate, err := fuels(f.r, f.g, k)
		if err != nil {
			return fmt.Errorf("%s: %w", k.Name, err)
		}
		distinct := slices.Clone(values)
		slices.Sort(distinct)
		distinct = slices.Compact(distinct)
		s.row(goals{{"1 value", len(distinct) == 1}}, k.Name, fmt.Sprint(values[0]), fmt.Sprintf("%.2f", rate), fmt.Sprint(len(values)), fmt.Sprint(len(distinct)))
	}
	return s.flush()
}

// fuels returns what a kernel used in each of some runs, and how much that is a nanosecond.
func fuels(r *running, g *meter, k kernels.Kernel) (values []int64, rate float64, err error) {
	runtime.LockOSThread() // whose time is taken
	defer runtime.UnlockOSThread()
	n := max(k.N/20, k.Check)
	for _, q := range []int64{quantum, quantum, 10_000, 1_237} {
		g.quantum, g.grant = q, q
		if err := r.again(); err != nil { // what a run before has left behind would count
			return nil, 0, err
		}
		stack := []uint64{api.EncodeI32(n)}
		begin := threadTime()
		if err := r.function(k.Export)(stack); err != nil {
			return nil, 0, err
		}
		took := threadTime() - begin
		if got, want := int64(stack[0]), k.Native(n); got != want {
			return nil, 0, fmt.Errorf("it answers %d, and in Go %d", got, want)
		}
		values = append(values, g.used())
		rate = float64(g.used()) / float64(max(took, time.Nanosecond))
	}
	return values, rate, nil
}

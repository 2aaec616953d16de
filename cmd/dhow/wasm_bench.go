package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
	"github.com/dhowfleet/dhow/wasm/host"
)

func (a *app) newWasmBench() *cobra.Command {
	var f wasmFlags
	var inputs []string
	var request, output string
	var o benchOptions
	cmd := &cobra.Command{
		Use:   "bench FILE|BUNDLE",
		Short: "Time a module beside wazero alone and beside the same work without WASM",
		Long: `Time a module as an agent calls it, beside wazero alone, beside wazero with its own way to end a call, and beside the
same source built for this machine. All take turns, round by round, on the first sample of a bundle, or on the request
that --input or --request give (see dhow wasm run). What each answers is compared.

--native is a program whose main calls guest.Serve, as every step in Go does when it is built with a plain go build.`,
		Example: "  go build -o /tmp/pre ./wasm/examples/fashion-pre\n  dhow wasm bench build/fashion --module pre.wasm --native /tmp/pre",
		Args:    wantArgs(false, "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("output", output, "text", "json"); err != nil {
				return err
			}
			if o.rounds < 1 || o.rounds > 1000 || o.calls < 10 || o.calls > 1_000_000 {
				return usagef("--rounds must be 1 to 1000, --calls 10 to 1000000")
			}
			modules, err := f.loadWasm(args[0], nil)
			if err != nil {
				return err
			}
			m, err := one(modules)
			if err != nil {
				return err
			}
			if o.in, err = m.request(inputs, request); err != nil {
				return err
			}
			return a.wasmBench(cmd.Context(), m, &o, output == "json")
		},
	}
	f.register(cmd)
	cmd.Flags().StringArrayVarP(&inputs, "input", "i", nil, "an input, as dhow wasm run describes; may be repeated")
	cmd.Flags().StringVar(&request, "request", "", "file with a request in JSON")
	cmd.Flags().StringVar(&f.samples, "samples", "", "file or folder of requests in JSON; the first is used")
	cmd.Flags().StringVar(&o.native, "native", "", "the step built for this machine")
	cmd.Flags().IntVar(&o.rounds, "rounds", 5, "rounds, of which the median counts")
	cmd.Flags().IntVar(&o.calls, "calls", 200, "calls of each way in a round")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "one of text, json")
	return cmd
}

type benchOptions struct {
	native        string
	rounds, calls int
	in            []tensor.Tensor
}

// request is what --input or --request say, or else the module's first sample.
func (m *wasmModule) request(inputs []string, file string) ([]tensor.Tensor, error) {
	if len(inputs) > 0 && file != "" {
		return nil, usagef("give either --input or --request")
	}
	if file != "" {
		return readRequest(file)
	}
	var in []tensor.Tensor
	for _, text := range inputs {
		t, err := m.parseInput(text)
		if err != nil {
			return nil, err
		}
		in = append(in, t)
	}
	switch {
	case in != nil:
		return in, nil
	case len(m.samples) > 0:
		return m.samples[0].in, nil
	case m.behind:
		return nil, usagef("%s comes after a model, so that the bundle's samples do not reach it as they are: give --input or --request", m.name)
	}
	return nil, usagef("there is no sample for %s: give --input or --request", m.name)
}

// wasmWay is one way to answer the request. call returns how long that took and the answer as a tensor list.
type wasmWay struct {
	name  string
	call  func() (time.Duration, []byte, error)
	close func()
}

// wasmTiming is a row of the table.
type wasmTiming struct {
	Way       string  `json:"way"`
	P50       float64 `json:"p50_microseconds"`
	P99       float64 `json:"p99_microseconds"`
	OverPlain float64 `json:"p50_over_wazero_alone"`
	Note      string  `json:"note,omitempty"`
}

func (a *app) wasmBench(ctx context.Context, m *wasmModule, o *benchOptions, asJSON bool) error {
	ways, err := m.ways(ctx, o)
	defer func() {
		for _, w := range ways {
			w.close()
		}
	}()
	if err != nil {
		return err
	}
	rows, err := timeWays(ctx, ways, o.rounds, o.calls)
	if err != nil {
		return err
	}
	if asJSON {
		return a.writeJSON(rows)
	}
	t := newTable(a.out, "WAY", "P50", "P99", "P50 OVER WAZERO ALONE", "ANSWER")
	for _, r := range rows {
		micros := func(v float64) string { return fmt.Sprintf("%.2f us", v) }
		t.row(r.Way, micros(r.P50), micros(r.P99), fmt.Sprintf("%.2fx", r.OverPlain), firstOf(r.Note, "the same"))
	}
	t.flush()
	return nil
}

const plainWay = "wazero alone"

// ways starts every way to answer. What it returns is to be closed, also beside an error.
func (m *wasmModule) ways(ctx context.Context, o *benchOptions) (ways []wasmWay, err error) {
	size, err := abi.Size(o.in)
	if err != nil {
		return nil, fmt.Errorf("the request is no tensor list: %w", err)
	}
	for _, closing := range []bool{false, true} {
		p, err := startPlain(ctx, m, closing)
		name := plainWay
		if closing {
			name = "wazero, CloseOnContextDone"
		}
		if err != nil {
			return ways, fmt.Errorf("cannot start %s by %s: %w", m.name, name, err)
		}
		ways = append(ways, wasmWay{name, func() (time.Duration, []byte, error) {
			var list []byte
			begin := time.Now()
			err := p.call(o.in, size, func(view []byte) error { list = bytes.Clone(view); return nil })
			return time.Since(begin), list, err
		}, p.close})
	}
	hosted, err := m.hostedWays(ctx, o)
	if ways = append(ways, hosted...); err != nil {
		return ways, err
	}
	if o.native != "" {
		n, err := startNative(ctx, o.native, m)
		if err != nil {
			return ways, err
		}
		ways = append(ways, wasmWay{"built for this machine", func() (time.Duration, []byte, error) { return n.call(o.in, size) }, n.close})
	}
	return ways, nil
}

// batch is how many requests are answered at once in the way that takes several.
const batch = 16

// hostedWays are those of an agent.
func (m *wasmModule) hostedWays(ctx context.Context, o *benchOptions) (ways []wasmWay, err error) {
	runtime, err := host.NewRuntime(ctx, host.Config{Policy: host.Everything})
	if err != nil {
		return nil, err
	}
	for _, state := range []host.State{host.Reset, host.Keep} {
		options := m.options
		options.State = state
		module, err := runtime.Compile(ctx, m.code, options)
		if err != nil {
			return ways, fmt.Errorf("%w; dhow wasm check says more", err)
		}
		name := "agent, each call from the image"
		if state == host.Keep {
			name = "agent, state kept"
		}
		ways = append(ways, wasmWay{name, func() (time.Duration, []byte, error) {
			var list []byte
			begin := time.Now()
			err := module.View(ctx, o.in, nil, func(out []tensor.Tensor) (err error) {
				list, err = abi.Encode(out)
				return err
			})
			took := time.Since(begin)
			if err != nil {
				return 0, nil, errors.New(faultOf(err))
			}
			return took, list, nil
		}, func() { _ = module.Close() }})
		if state == host.Keep {
			continue
		}
		requests := make([][]tensor.Tensor, batch)
		for i := range requests {
			requests[i] = o.in
		}
		name = fmt.Sprintf("agent, one of a batch of %d", batch)
		if !module.Info().Batches {
			name += ", one by one"
		}
		ways = append(ways, wasmWay{name, func() (time.Duration, []byte, error) {
			begin := time.Now()
			answers := module.Batch(ctx, requests, nil)
			took := time.Since(begin) / batch
			for _, answer := range answers {
				if answer.Err != nil {
					return 0, nil, errors.New(faultOf(answer.Err))
				}
			}
			list, err := abi.Encode(answers[batch-1].Tensors)
			return took, list, err
		}, func() {}})
	}
	return ways, nil
}

// timeWays lets all ways take turns.
func timeWays(ctx context.Context, ways []wasmWay, rounds, calls int) ([]wasmTiming, error) {
	rows := make([]wasmTiming, len(ways))
	var want []byte
	for i, w := range ways {
		rows[i].Way = w.name
		for range max(calls/10, 3) { // warm
			_, got, err := w.call()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", w.name, err)
			}
			switch {
			case i == 0:
				want = got
			case !bytes.Equal(got, want):
				rows[i].Note = "DIFFERS"
			}
		}
	}
	p50, p99 := make([][]time.Duration, len(ways)), make([][]time.Duration, len(ways))
	times := make([]time.Duration, calls)
	for range rounds {
		for i, w := range ways {
			if ctx.Err() != nil {
				return nil, errors.New("interrupted")
			}
			for j := range times {
				took, _, err := w.call()
				if err != nil {
					return nil, fmt.Errorf("%s: %w", w.name, err)
				}
				times[j] = took
			}
			slices.Sort(times)
			p50[i], p99[i] = append(p50[i], times[calls/2]), append(p99[i], times[calls*99/100])
		}
	}
	for i := range rows {
		slices.Sort(p50[i])
		slices.Sort(p99[i])
		rows[i].P50, rows[i].P99 = float64(p50[i][rounds/2])/1e3, float64(p99[i][rounds/2])/1e3
	}
	for i := range rows {
		rows[i].OverPlain = rows[i].P50 / max(rows[0].P50, 1e-3)
	}
	return rows, nil
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/models/jsontensor"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host"
)

func (a *app) newWasmRun() *cobra.Command {
	var f wasmFlags
	var inputs []string
	var request, output string
	cmd := &cobra.Command{
		Use:   "run FILE|BUNDLE",
		Short: "Hand one request to a module and print what it makes of it",
		Long: `Hand one request to a WASM module, as an agent does, and print its outputs, the numbers and counters that it reports,
its log lines, and what the call took. An input is the bytes of a file, numbers in a file, or JSON:

  photo=@shoe.png                one BYTES element
  x=FP32[1,3,224,224]@x.bin      numbers, little-endian
  x=FP32:[[1,2],[3,4]]           JSON; the shape is how the lists are nested, or is said as in FP32[4]:[1,2,3,4]
  x=[1,2]                        where a bundle says the datatype

--request takes a whole request of the Open Inference Protocol in JSON, or a golden sample of a bundle.`,
		Example: "  dhow wasm run build/fashion --module pre.wasm --input photo=@shoe.png",
		Args:    wantArgs(false, "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("output", output, "text", "json"); err != nil {
				return err
			}
			if (len(inputs) == 0) == (request == "") {
				return usagef("dhow wasm run needs either --input or --request")
			}
			log := &wasmLog{}
			modules, err := f.loadWasm(args[0], slog.New(log))
			if err != nil {
				return err
			}
			m, err := one(modules)
			if err != nil {
				return err
			}
			var in []tensor.Tensor
			if request != "" {
				in, err = readRequest(request)
			}
			for _, text := range inputs {
				var t tensor.Tensor
				if t, err = m.parseInput(text); err != nil {
					break
				}
				in = append(in, t)
			}
			if err != nil {
				return err
			}
			return a.wasmRun(cmd.Context(), m, in, log, output == "json")
		},
	}
	f.register(cmd)
	cmd.Flags().StringArrayVarP(&inputs, "input", "i", nil, "an input, as described above; may be repeated")
	cmd.Flags().StringVar(&request, "request", "", "file with a request in JSON")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "one of text, json")
	return cmd
}

// wasmAnswer is what one call gave.
type wasmAnswer struct {
	Module   string             `json:"module"`
	Error    string             `json:"error,omitempty"`
	Outputs  []answerOutput     `json:"outputs,omitempty"`
	Features map[string]float64 `json:"features,omitempty"`
	Counters map[string]uint64  `json:"counters,omitempty"`
	Dropped  uint64             `json:"dropped_emits,omitempty"`
	Log      []string           `json:"log,omitempty"`
	Usage    wasmUsage          `json:"usage"`
}

// wasmUsage is what a call took.
type wasmUsage struct {
	Fuel    int64   `json:"fuel"`
	Refills int64   `json:"refills"`
	Memory  int64   `json:"memory_bytes"`
	Micros  float64 `json:"microseconds"`
}

func (a *app) wasmRun(ctx context.Context, m *wasmModule, in []tensor.Tensor, log *wasmLog, asJSON bool) error {
	runtime, err := host.NewRuntime(ctx, host.Config{Logger: m.options.Logger, Policy: host.Everything})
	if err != nil {
		return err
	}
	module, err := runtime.Compile(ctx, m.code, m.options)
	if err != nil {
		a.printLog(log)
		return fmt.Errorf("%w; dhow wasm check says more", err)
	}
	defer func() { _ = module.Close() }()
	answer := &wasmAnswer{Module: m.name, Features: map[string]float64{}, Counters: map[string]uint64{}}
	out, usage, runErr := module.Measure(ctx, in, answer)
	answer.Usage = usageOf(usage)
	answer.Dropped = module.Stats().DroppedEmits
	answer.Log = log.take()
	for i := range out {
		o, err := outputOf(&out[i])
		if err != nil {
			return err
		}
		answer.Outputs = append(answer.Outputs, o)
	}
	if runErr != nil {
		answer.Error = faultOf(runErr)
	}
	if asJSON {
		if err := a.writeJSON(answer); err != nil {
			return err
		}
	} else {
		a.printRun(answer)
	}
	if runErr != nil {
		return errors.New(m.name + " gave no answer: " + answer.Error)
	}
	return nil
}

// faultOf says whose fault an error is, as an agent would.
func faultOf(err error) string {
	var guest *host.GuestError
	if errors.As(err, &guest) {
		if guest.Input {
			return "it says that the request is at fault: " + guest.Message
		}
		return "it says that it failed: " + guest.Message
	}
	return err.Error()
}

// Feature takes a number that the module reports.
func (w *wasmAnswer) Feature(name string, value float64) { w.Features[name] = value }

// Count takes a count.
func (w *wasmAnswer) Count(name string, n uint64) { w.Counters[name] += n }

// outputOf writes a tensor as an answer of the protocol has it.
func outputOf(t *tensor.Tensor) (answerOutput, error) {
	o := answerOutput{Name: t.Name, Datatype: t.Datatype.String(), Shape: t.Shape}
	n, err := tensor.Elements(t.Shape)
	if err != nil {
		return o, fmt.Errorf("cannot print output %q: %w", t.Name, err)
	}
	e := jsontensor.NewEncoder(t, "it is printed as null")
	// What JSON cannot hold, such as bytes that are no text, NaN or FP16, is left out; name and shape are shown.
	o.Data = json.RawMessage("null")
	if data, err := e.Append([]byte{'['}, n); err == nil {
		o.Data = append(data, ']')
	}
	return o, nil
}

func (a *app) printRun(w *wasmAnswer) {
	if len(w.Outputs) > 0 {
		t := newTable(a.out, "OUTPUT", "DATATYPE", "SHAPE", "VALUES")
		for _, o := range w.Outputs {
			t.row(o.Name, o.Datatype, shapeText(o.Shape), values(o))
		}
		t.flush()
	}
	for _, name := range slices.Sorted(maps.Keys(w.Features)) {
		fmt.Fprintf(a.out, "feature %s: %s\n", printable(name), strconv.FormatFloat(w.Features[name], 'g', 6, 64))
	}
	for _, name := range slices.Sorted(maps.Keys(w.Counters)) {
		fmt.Fprintf(a.out, "counter %s: +%d\n", printable(name), w.Counters[name])
	}
	if w.Dropped > 0 {
		fmt.Fprintf(a.out, "dropped: %s of names that are not declared, or not a number, or too many; declare names with --features and --counters, or in bundle.yaml\n", count(int(w.Dropped), "emit"))
	}
	for _, line := range w.Log {
		fmt.Fprintf(a.out, "log %s\n", printable(line))
	}
	fmt.Fprintln(a.out, w.Usage.text())
}

func (u *wasmUsage) text() string {
	return fmt.Sprintf("took %s fuel, %s of memory and %s", grouped(u.Fuel), sizeOf(u.Memory), short(time.Duration(u.Micros*float64(time.Microsecond))))
}

func shapeText(shape []int64) string {
	var parts []string
	for _, d := range shape {
		parts = append(parts, strconv.FormatInt(d, 10))
	}
	return "[" + strings.Join(parts, ",") + "]"
}

func (a *app) printLog(log *wasmLog) {
	for _, line := range log.take() {
		fmt.Fprintf(a.err, "log %s\n", printable(line))
	}
}

// wasmLog keeps the lines that modules and their host write.
type wasmLog struct {
	mu    sync.Mutex
	lines []string
}

const maxLogLines = 1000

// Enabled takes every level.
func (l *wasmLog) Enabled(context.Context, slog.Level) bool { return true }

// Handle keeps a line.
func (l *wasmLog) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(attr slog.Attr) bool {
		switch attr.Key {
		case "line": // the guest's own
			text = attr.Value.String()
		case "class":
		default:
			text += " " + attr.Key + "=" + attr.Value.String()
		}
		return true
	})
	line := strings.ToLower(r.Level.String()) + ": " + text
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) < maxLogLines {
		l.lines = append(l.lines, line)
	}
	return nil
}

// WithAttrs leaves out the module's name, which is known.
func (l *wasmLog) WithAttrs([]slog.Attr) slog.Handler { return l }

// WithGroup knows no groups.
func (l *wasmLog) WithGroup(string) slog.Handler { return l }

func (l *wasmLog) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := l.lines
	l.lines = nil
	return lines
}

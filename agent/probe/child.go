package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/onnxruntime"
	"github.com/dhowfleet/dhow/agent/pipeline"
	"github.com/dhowfleet/dhow/agent/telemetry"
	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/confine"
	"github.com/dhowfleet/dhow/wasm/host"
	"github.com/dhowfleet/dhow/wasm/host/compiled"
)

const (
	maxRequest  = 64 << 10
	measureRuns = 25
	measureFor  = 2 * time.Second
)

// Main is the child: it reads a Request, tries the bundle, writes the answer, and returns the exit code. The process
// is of no other use afterwards, since its limits stay.
func Main(stdin io.Reader, stdout io.Writer) int {
	var r Request
	if err := json.NewDecoder(io.LimitReader(stdin, maxRequest)).Decode(&r); err != nil {
		fmt.Fprintln(os.Stderr, "probe: the request is no JSON; this command is started by the agent itself:", err)
		return 64
	}
	if err := limit(&r); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		return 70
	}
	t := &trial{request: r}
	err := t.try()
	t.note()
	var failure *failure
	var missing *inference.RuntimeError
	switch {
	case errors.As(err, &missing):
		t.answer.Runtime = missing
	case errors.As(err, &failure):
		t.answer.Reason, t.answer.Message, t.answer.Detail = failure.reason, failure.message, failure.detail
	default:
		t.answer.OK = true
	}
	line, err := json.Marshal(t.answer)
	if err == nil {
		_, err = stdout.Write(append(line, '\n'))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "probe: cannot answer:", err)
		return 74
	}
	return 0
}

// limit bounds this process before it touches the bundle.
func limit(r *Request) error {
	l := confine.Limits{Memory: r.MemoryBytes, CPUSeconds: r.CPUSeconds}
	if r.WasmCache != "" {
		l.FileBytes = compiled.MaxCompiled
	}
	return l.Apply()
}

// failure is why a bundle may not serve.
type failure struct{ reason, message, detail string }

func (f *failure) Error() string { return f.message }

// trial is one bundle being tried.
type trial struct {
	request Request
	answer  answer
	before  int64 // anonymous memory when the runtime was there and nothing was loaded
	spec    *bundle.Spec
	line    *pipeline.Pipeline
}

// note keeps the highest memory seen.
func (t *trial) note() { t.answer.PeakBytes = max(t.answer.PeakBytes, confine.Anonymous(os.Getpid())) }

func (t *trial) try() error {
	ctx, cancel := context.WithTimeout(context.Background(), t.request.Wall)
	defer cancel()
	if t.request.Model != "" {
		return t.tryModel(ctx)
	}
	folder := os.DirFS(t.request.Dir)
	b, err := bundle.Load(folder)
	if err != nil {
		return &failure{reason: BundleInvalid, message: err.Error()}
	}
	t.spec = &b.Spec
	if err := t.load(ctx); err != nil {
		return err
	}
	defer func() { _ = t.line.Close() }()
	t.note()
	defer t.hold()
	return t.measure(ctx, folder)
}

// hold notes what memory stays.
func (t *trial) hold() {
	debug.FreeOSMemory() // what the Go heap could give back is not the bundle's
	t.answer.HeldBytes = max(confine.Anonymous(os.Getpid())-t.before, 0)
}

func (t *trial) load(ctx context.Context) error {
	start := time.Now()
	wasm, err := host.NewRuntime(ctx, host.Config{CacheDir: t.request.WasmCache, Policy: t.request.WasmPolicy})
	if err != nil {
		return &failure{reason: WasmFailed, message: "the WASM runtime cannot be started", detail: err.Error()}
	}
	engine := t.runtime()
	deps := pipeline.Deps{Engine: engine, Wasm: wasm, Instances: 1}
	t.line, err = pipeline.Open(ctx, deps, t.request.Dir, *t.spec, t.request.Variant)
	if err != nil {
		return t.loadFailure(err)
	}
	t.answer.LoadMillis = time.Since(start).Milliseconds()
	t.answer.Provider = t.line.Provider()
	return nil
}

// runtime opens ONNX Runtime, which has memory of its own that is no model's.
func (t *trial) runtime() *onnxruntime.Engine {
	engine := onnxruntime.New(t.request.Library)
	_ = engine.Open() // the load says what is wrong with it, if it needs it
	t.before = confine.Anonymous(os.Getpid())
	return engine
}

func (t *trial) loadFailure(err error) error {
	var missing *inference.RuntimeError
	if errors.As(err, &missing) {
		return missing
	}
	var failed *pipeline.Error
	errors.As(err, &failed)
	step := "the bundle"
	code := telemetry.ModelError
	if failed != nil {
		step, code = failed.Step, failed.Code()
	}
	switch code {
	case telemetry.WasmError:
		return &failure{WasmFailed, step + " cannot be loaded", err.Error()}
	case telemetry.Deadline:
		return &failure{TimeLimit, fmt.Sprintf("%s was not loaded within %v", step, t.spec.Budgets.Load), err.Error()}
	}
	if hungry := t.starved(step, err); hungry != nil {
		return hungry
	}
	var load *inference.LoadError
	if errors.As(err, &load) { // says what is wrong with the file, and nothing else
		return &failure{LoadFailed, load.Message, err.Error()}
	}
	return &failure{LoadFailed, step + " does not fit the bundle: " + unwrapped(err), err.Error()}
}

// starved returns the failure of a part that was refused memory, by how the runtimes put it; nil when it failed otherwise.
func (t *trial) starved(step string, err error) error {
	for _, words := range []string{"bad allocation", "bad_alloc", "Failed to allocate memory", "cannot allocate memory"} {
		if strings.Contains(err.Error(), words) {
			return &failure{MemoryLimit, fmt.Sprintf("%s asked for more memory than the budget of %s", step, bundle.FormatSize(t.request.MemoryBytes)), err.Error()}
		}
	}
	return nil
}

func unwrapped(err error) string {
	if inner := errors.Unwrap(err); inner != nil {
		return inner.Error()
	}
	return err.Error()
}

// measure answers the golden samples, compares, and then times them.
func (t *trial) measure(ctx context.Context, folder fs.FS) error {
	samples, err := t.spec.Golden(folder)
	if err != nil {
		return &failure{reason: BundleInvalid, message: err.Error()}
	}
	for i := range samples {
		// The first request also starts the WASM instances and whatever the runtime leaves until then.
		budget := t.spec.Budgets.Infer
		if i == 0 {
			budget = max(budget, t.spec.Budgets.Load)
		}
		if err := t.golden(ctx, &samples[i], budget); err != nil {
			return err
		}
		t.note()
	}
	inputs := make([][]tensor.Tensor, len(samples))
	for i := range samples {
		inputs[i] = samples[i].Inputs
	}
	if len(samples) == 0 {
		blank := zeros(t.line.Inputs())
		if blank == nil {
			return nil
		}
		// Without samples there is no telling which requests the model must take: a refusal is no failure, a crash is one,
		// and so is a lack of memory, which may have left undone what the runtime was to compute when it loaded the model.
		if _, err := t.line.Infer(ctx, blank, nil, nil); err != nil {
			return t.starved(stepOf(err), err)
		}
		inputs = append(inputs, blank)
	}
	var times []time.Duration
	for start := time.Now(); len(times) < measureRuns && time.Since(start) < measureFor; {
		begin := time.Now()
		if _, err := t.line.Infer(ctx, inputs[len(times)%len(inputs)], nil, nil); err != nil {
			break // it answered before; one that fails now and then will show in service
		}
		times = append(times, time.Since(begin))
	}
	if len(times) > 0 {
		slices.Sort(times)
		t.answer.MedianMicros = max(times[len(times)/2].Microseconds(), 1)
	}
	return nil
}

func (t *trial) golden(ctx context.Context, g *bundle.Golden, budget time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	wanted := make([]string, len(g.Outputs))
	for i := range g.Outputs {
		wanted[i] = g.Outputs[i].Name
	}
	out, err := t.line.Infer(ctx, g.Inputs, wanted, nil)
	if err == nil {
		if err := g.Compare(out); err != nil {
			return &failure{reason: GoldenMismatch, message: "golden " + err.Error()}
		}
		return nil
	}
	if hungry := t.starved(stepOf(err), err); hungry != nil {
		return hungry
	}
	var failed *pipeline.Error
	if !errors.As(err, &failed) {
		return &failure{GoldenMismatch, fmt.Sprintf("golden sample %s was not answered", g.Name), err.Error()}
	}
	switch failed.Code() {
	case telemetry.Deadline:
		return &failure{TimeLimit, fmt.Sprintf("golden sample %s was not answered within %v", g.Name, budget), err.Error()}
	case telemetry.WasmError:
		return &failure{WasmFailed, fmt.Sprintf("%s failed on golden sample %s", failed.Step, g.Name), err.Error()}
	case telemetry.InvalidInput:
		return &failure{GoldenMismatch, fmt.Sprintf("golden sample %s was refused as a wrong request", g.Name), err.Error()}
	}
	return &failure{GoldenMismatch, fmt.Sprintf("%s failed on golden sample %s", failed.Step, g.Name), err.Error()}
}

// stepOf names the part that failed.
func stepOf(err error) string {
	var failed *pipeline.Error
	if errors.As(err, &failed) && failed.Step != "" {
		return failed.Step
	}
	return "the bundle"
}

// zeros makes a request of zeros, or nothing when an input holds bytes.
func zeros(inputs []tensor.Spec) []tensor.Tensor {
	var out []tensor.Tensor
	for _, s := range inputs {
		shape := make([]int64, len(s.Shape))
		for i, d := range s.Shape {
			if shape[i] = d; d < 0 {
				shape[i] = 1
			}
		}
		n, err := tensor.Elements(shape)
		size := int64(s.Datatype.Size())
		if err != nil || size == 0 || n > 64<<20/size {
			return nil
		}
		out = append(out, tensor.Tensor{Name: s.Name, Datatype: s.Datatype, Shape: shape, Data: make([]byte, n*size)})
	}
	return out
}

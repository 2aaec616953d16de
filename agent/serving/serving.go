// Package serving holds the loaded models and answers requests with them.
//
// A Table maps a model's name to its variants. A request takes the map as it is, routes to a variant (agent/routing),
// holds that variant, waits for one of a bounded number of places, runs, and is recorded with how long it took and how
// it ended. Set replaces what a name stands for in one step: requests that come later see the new variants, those in
// flight end on the ones they hold, and a variant that is no longer in the table is closed after its last request, so
// that a swap loses none.
//
// Everything is safe for concurrent use. Infer blocks for a place (bounded by the queue and the request's deadline)
// and for the computation; everything else returns at once, Drain.Wait and Table.Close apart. On its own way a request
// allocates nothing.
package serving

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dhowfleet/dhow/agent/routing"
	"github.com/dhowfleet/dhow/agent/telemetry"
	"github.com/dhowfleet/dhow/models/tensor"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/wasm/host"
)

// Runner answers requests of one variant; agent/pipeline is one.
//
// The context given to Infer ends with the call: a runner does not keep it.
type Runner interface {
	Infer(ctx context.Context, in []tensor.Tensor, wanted []string, sink host.Sink) ([]tensor.Tensor, error)
	Inputs() []tensor.Spec
	Outputs() []tensor.Spec
	Close() error
}

// Recorder is told of every request that reached a model. The observation is the table's again when Record returns.
type Recorder interface {
	Record(*telemetry.Observation)
}

// Variant is one version of a model.
type Variant struct {
	Version         string
	Role            uint8 // a syncv1.Role; a shadow gets no request but those that name its version
	ShareMillionths uint32
	Runner          Runner
	Timeout         time.Duration // for one request, waiting included; 0 means the table's
}

// Options of a table.
type Options struct {
	// Concurrency is how many requests compute at a time; 0 means one a core. Models compute on one thread, so more
	// would only make each slower.
	Concurrency int
	// Queue is how many more may wait; further ones are refused at once. 0 means 64 for each that computes.
	Queue int
	// Timeout of a request whose variant has none; 0 means 30 s.
	Timeout  time.Duration
	Recorder Recorder     // nil records nothing
	Logger   *slog.Logger // nil logs nothing
}

// Table is the models in service.
type Table struct {
	recorder Recorder
	logger   *slog.Logger
	timeout  time.Duration
	places   chan struct{}
	queue    int64
	waiting  atomic.Int64
	models   atomic.Pointer[map[string]*entry]

	mu     sync.Mutex // held by writers of models
	closed bool
}

// entry is what a model's name stands for; it is never changed after it is in the map.
type entry struct {
	name   string
	all    []*held
	routed []*held // those of all that get traffic, as split numbers them
	split  routing.Split
}

// NewTable returns a table without models.
func NewTable(o Options) *Table {
	if o.Concurrency <= 0 {
		o.Concurrency = runtime.GOMAXPROCS(0)
	}
	if o.Queue <= 0 {
		o.Queue = 64 * o.Concurrency
	}
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	t := &Table{recorder: o.Recorder, logger: o.Logger, timeout: o.Timeout, places: make(chan struct{}, o.Concurrency), queue: int64(o.Queue)}
	t.models.Store(&map[string]*entry{})
	return t
}

// Set makes variants what model stands for, and takes the model out when there are none. A variant whose Runner is in
// the table already stays as it is, whatever its role and share become. The others of before leave: the table closes
// each after its last request. The table owns the runners it was given from here on. After Close, it only closes them.
func (t *Table) Set(model string, variants []Variant) *Drain {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := (*t.models.Load())[model]
	next := &entry{name: model}
	var shares []routing.Share
	for _, v := range variants {
		h := &held{version: v.Version, role: v.Role, share: v.ShareMillionths, timeout: v.Timeout, runner: v.Runner, count: before.find(v.Runner)}
		next.all = append(next.all, h)
		if v.Role == uint8(syncv1.Role_ROLE_SHADOW) {
			continue
		}
		next.routed = append(next.routed, h)
		shares = append(shares, routing.Share{Millionths: v.ShareMillionths, Baseline: v.Role == uint8(syncv1.Role_ROLE_BASELINE)})
	}
	next.split = routing.NewSplit(shares)
	if t.closed {
		return retire(next, nil)
	}
	models := maps.Clone(*t.models.Load())
	if len(variants) == 0 {
		delete(models, model)
	} else {
		models[model] = next
	}
	t.models.Store(&models)
	return retire(before, next)
}

// Close takes every model out and waits for their requests; it may be given up by ctx, the requests go on then.
func (t *Table) Close(ctx context.Context) error {
	t.mu.Lock()
	t.closed = true
	var drains []*Drain
	old := *t.models.Load()
	t.models.Store(&map[string]*entry{})
	for _, e := range old {
		drains = append(drains, retire(e, nil))
	}
	t.mu.Unlock()
	for _, d := range drains {
		if err := d.Wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Request is one question to a model.
type Request struct {
	Model   string
	Version string // asks for this version, whatever the shares; "" is routed
	ID      string // decides the variant, and is recorded; "" is routed at random
	Inputs  []tensor.Tensor
	Outputs []string // wanted; none means all
}

// Response is the answer, and who gave it.
type Response struct {
	Version string
	Role    uint8
	Outputs []tensor.Tensor
}

// Infer answers a request. Errors are a *NotFoundError, ErrOverloaded, a *PanicError, or the runner's; CodeOf classes
// them. When a variant was found, the Response names it even beside an error.
func (t *Table) Infer(ctx context.Context, req Request) (Response, error) {
	start := time.Now()
	h, err := t.take(&req)
	if err != nil {
		return Response{}, err
	}
	defer h.release()
	timeout := h.timeout
	if timeout <= 0 {
		timeout = t.timeout
	}
	c := newCall(ctx, start.Add(timeout))
	res := Response{Version: h.version, Role: h.role}
	if err = t.enter(c); err == nil {
		res.Outputs, err = t.run(c, h, &req)
	}
	if t.recorder != nil {
		c.observed = telemetry.Observation{
			At: start, Duration: time.Since(start), Model: req.Model, Version: h.version, Role: res.Role,
			RequestID: req.ID, Code: CodeOf(err), Counts: c.counts, Features: c.features,
		}
		t.recorder.Record(&c.observed)
	}
	c.end()
	return res, err
}

// take routes a request and holds the variant.
func (t *Table) take(req *Request) (*held, error) {
	for {
		e := (*t.models.Load())[req.Model]
		if e == nil {
			return nil, &NotFoundError{Model: req.Model}
		}
		h, err := e.route(req)
		if err != nil {
			return nil, err
		}
		// It fails only when a Set has taken the variant out since; that Set's map is there to be read then.
		if h.hold() {
			return h, nil
		}
	}
}

func (e *entry) route(req *Request) (*held, error) {
	if req.Version != "" {
		if h := e.version(req.Version); h != nil {
			return h, nil
		}
		return nil, &NotFoundError{Model: req.Model, Version: req.Version, Versions: e.versions()}
	}
	point := uint32(0)
	switch {
	case len(e.routed) <= 1:
	case req.ID == "":
		point = rand.Uint32N(routing.Whole)
	default:
		point = routing.Point(req.Model, req.ID)
	}
	i := e.split.Pick(point)
	if i < 0 {
		return nil, &NotFoundError{Model: req.Model, Versions: e.versions()}
	}
	return e.routed[i], nil
}

// enter waits for a place.
func (t *Table) enter(c *call) error {
	select {
	case t.places <- struct{}{}:
		return c.Err()
	default:
	}
	if t.waiting.Add(1) > t.queue {
		t.waiting.Add(-1)
		return ErrOverloaded
	}
	defer t.waiting.Add(-1)
	select {
	case t.places <- struct{}{}:
		if err := c.Err(); err != nil {
			<-t.places
			return err
		}
		return nil
	case <-c.Done():
		return c.Err()
	}
}

// run computes on the place that enter got.
func (t *Table) run(c *call, h *held, req *Request) (out []tensor.Tensor, err error) {
	defer func() {
		<-t.places
		if p := recover(); p != nil {
			stack := make([]byte, 8<<10)
			stack = stack[:runtime.Stack(stack, false)]
			t.logger.Error("a model panicked", "model", req.Model, "version", h.version, "panic", fmt.Sprint(p), "stack", string(stack))
			out, err = nil, &PanicError{Model: req.Model, Version: h.version}
		}
	}()
	return h.runner.Infer(c, req.Inputs, req.Outputs, c)
}

// Info describes a model in service.
type Info struct {
	Name     string
	Variants []VariantInfo
	// Inputs and Outputs are those of the asked-for version, or of the baseline.
	Inputs, Outputs []tensor.Spec
}

// VariantInfo is a version of a model in service.
type VariantInfo struct {
	Version         string
	Role            uint8
	ShareMillionths uint32
}

// Models lists what is in service, by name.
func (t *Table) Models() []Info {
	models := *t.models.Load()
	out := make([]Info, 0, len(models))
	for _, name := range slices.Sorted(maps.Keys(models)) {
		out = append(out, models[name].info(models[name].main()))
	}
	return out
}

// Lookup describes one model; version "" is its baseline.
func (t *Table) Lookup(model, version string) (Info, error) {
	e := (*t.models.Load())[model]
	if e == nil {
		return Info{}, &NotFoundError{Model: model}
	}
	h := e.main()
	if version != "" {
		h = e.version(version)
	}
	if h == nil {
		return Info{}, &NotFoundError{Model: model, Version: version, Versions: e.versions()}
	}
	return e.info(h), nil
}

// Has returns nil when Infer would find the model and version, and its *NotFoundError otherwise.
func (t *Table) Has(model, version string) error {
	e := (*t.models.Load())[model]
	if e == nil {
		return &NotFoundError{Model: model}
	}
	_, err := e.route(&Request{Model: model, Version: version})
	return err
}

// ErrOverloaded is returned when the queue is full.
var ErrOverloaded = errors.New("too many requests are waiting; try again later")

// NotFoundError says that the table has no such model, or not in that version.
type NotFoundError struct {
	Model, Version string
	Versions       []string // that there are
}

func (e *NotFoundError) Error() string {
	switch {
	case e.Version != "":
		return fmt.Sprintf("model %q has no version %q, but %q", e.Model, e.Version, e.Versions)
	case e.Versions != nil:
		return fmt.Sprintf("model %q has no version in service, only shadows %q", e.Model, e.Versions)
	}
	return fmt.Sprintf("there is no model %q", e.Model)
}

// PanicError says that the code that ran a model panicked; the log has the details.
type PanicError struct{ Model, Version string }

func (e *PanicError) Error() string {
	return fmt.Sprintf("model %q version %q failed inside Dhow; the agent's log says where", e.Model, e.Version)
}

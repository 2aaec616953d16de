// Package serving holds the loaded models and answers requests with them.
//
// A Table maps a model's name to its variants. A request takes the map as it is, routes to a variant (agent/routing),
// holds that variant, waits for one of a bounded number of places, runs, and is recorded with how long it took and how
// it ended. How many may wait is bounded for each version by itself, so that a model that is asked too much does not
// keep others from answering. Requests of which a shadow gets a copy are copied before they run, and the copy runs after
// the answer, on places that nobody else wants. Set replaces what a name stands for in one step: requests that come later see the new variants, those in
// flight end on the ones they hold, and a variant that is no longer in the table is closed after its last request, so
// that a swap loses none.
//
// Everything is safe for concurrent use. Infer blocks for a place (bounded by the queue and the request's deadline)
// and for the computation; everything else returns at once, Drain.Wait and Table.Close apart. On its own way a request
// allocates nothing.
package serving

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dhowfleet/dhow/agent/routing"
	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/agent/telemetry"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/models/triton"
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

// Scheduler is a Runner that waits for places by itself, as one that joins requests to batches does. The table bounds
// how many requests it has and takes no place for them.
type Scheduler interface {
	Runner
	// Scheduled says whether it does; it does not change.
	Scheduled() bool
}

// Recorder is told of every request that reached a model. The observation is the table's again when Record returns.
type Recorder interface {
	Record(*telemetry.Observation)
}

// Variant is one version of a model.
type Variant struct {
	Version         string
	Role            uint8  // a syncv1.Role; a shadow answers none but the requests that name its version
	ShareMillionths uint32 // of a shadow: of how many requests it gets a copy
	Runner          Runner
	Timeout         time.Duration // for one request, waiting included; 0 means the table's
	// Queue is how many requests may wait; 0 means the table's. Concurrency is how many compute at a time; 0 means as
	// many as there are places.
	Queue, Concurrency int
	// Config is the model's configuration, nil where it has none. Labels are the names of an output's classes.
	Config *triton.Config
	Labels map[string][]string
}

// Options of a table.
type Options struct {
	// Concurrency is how many requests compute at a time; 0 means one a core. Models compute on one thread, so more
	// would only make each slower.
	Concurrency int
	// Places that are shared with runners that schedule by themselves; nil makes Concurrency of them.
	Places *Places
	// Queue is how many more may wait for one version of a model; further ones are refused at once. 0 means 64 for each
	// that computes.
	Queue int
	// Statistics counts by model and version; nil counts nothing.
	Statistics *statistics.Registry
	// Timeout of a request whose variant has none; 0 means 30 s.
	Timeout  time.Duration
	Recorder Recorder     // nil records nothing
	Logger   *slog.Logger // nil logs nothing
}

// Table is the models in service.
type Table struct {
	recorder   Recorder
	logger     *slog.Logger
	timeout    time.Duration
	places     *Places
	computing  int64 // places that there are
	queue      int64
	statistics *statistics.Registry
	copies     copies
	models     atomic.Pointer[map[string]*entry]

	mu     sync.Mutex // held by writers of models
	closed bool
}

// entry is what a model's name stands for; it is never changed after it is in the map.
type entry struct {
	name    string
	all     []*held
	routed  []*held // those of all that get traffic, as split numbers them
	split   routing.Split
	shadows []*held // those of all that get copies
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
	if o.Places == nil {
		o.Places = NewPlaces(o.Concurrency)
	}
	t := &Table{
		recorder: o.Recorder, logger: o.Logger, timeout: o.Timeout, places: o.Places, computing: int64(o.Concurrency),
		queue: int64(o.Queue), statistics: o.Statistics,
	}
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
		h := t.newHeld(model, v, before)
		next.all = append(next.all, h)
		if v.Role == uint8(syncv1.Role_ROLE_SHADOW) {
			if v.ShareMillionths > 0 {
				next.shadows = append(next.shadows, h)
			}
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
	t.forget(before, next)
	return retire(before, next)
}

// forget drops what was counted of versions that are gone.
func (t *Table) forget(before, next *entry) {
	if t.statistics == nil || before == nil {
		return
	}
	for _, h := range before.all {
		if next.version(h.version) == nil {
			t.statistics.Forget(before.name, h.version)
		}
	}
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
	// Priority puts the request before others that wait: 1 is the most urgent one, 0 the model's default.
	Priority uint64
	// Timeout shortens the variant's; 0 does not.
	Timeout time.Duration
}

// Response is the answer, and who gave it.
type Response struct {
	Version string
	Role    uint8
	Outputs []tensor.Tensor
	// Timing says where the time went.
	Timing statistics.Timing
}

// Infer answers a request. Errors are a *NotFoundError, ErrOverloaded, a *PanicError, or the runner's; CodeOf classes
// them. When a variant was found, the Response names it even beside an error.
func (t *Table) Infer(ctx context.Context, req Request) (Response, error) {
	start := time.Now()
	h, shadow, err := t.take(&req)
	if err != nil {
		return Response{}, err
	}
	defer h.release()
	var job *copied
	if shadow != nil {
		job = t.copy(shadow, &req)
	}
	timeout := h.timeout
	if req.Timeout > 0 && req.Timeout < timeout {
		timeout = req.Timeout
	}
	res := Response{Version: h.version, Role: h.role}
	res.Outputs, err = t.answer(ctx, start, timeout, h, &req, &res.Timing)
	if job != nil {
		job.follow(CodeOf(err))
	}
	return res, err
}

// answer runs a request on a variant that is held, and records it.
func (t *Table) answer(ctx context.Context, start time.Time, timeout time.Duration, h *held, req *Request, timing *statistics.Timing) (out []tensor.Tensor, err error) {
	c := newCall(ctx, start.Add(timeout))
	c.priority = req.Priority
	if h.stats != nil {
		h.stats.Begin()
	}
	if err = h.enter(c); err == nil {
		out, err = t.run(c, h, req)
	}
	total, code := time.Since(start), CodeOf(err)
	*timing = c.timing
	if h.stats != nil {
		h.stats.End(code, total, timing)
	}
	if t.recorder != nil {
		c.observed = telemetry.Observation{
			At: start, Duration: total, Model: req.Model, Version: h.version, Role: h.role,
			RequestID: req.ID, Code: code, Counts: c.counts, Features: c.features,
		}
		t.recorder.Record(&c.observed)
	}
	c.end()
	return out, err
}

// take routes a request and holds the variant, and a shadow that is to get a copy, where there is one.
func (t *Table) take(req *Request) (h, shadow *held, err error) {
	for {
		e := (*t.models.Load())[req.Model]
		if e == nil {
			return nil, nil, &NotFoundError{Model: req.Model}
		}
		h, point, err := e.route(req)
		if err != nil {
			return nil, nil, err
		}
		// It fails only when a Set has taken the variant out since; that Set's map is there to be read then.
		if !h.hold() {
			continue
		}
		if req.Version != "" {
			return h, nil, nil
		}
		for _, s := range e.shadows {
			if point < s.share && s.hold() {
				return h, s, nil
			}
		}
		return h, nil, nil
	}
}

func (e *entry) route(req *Request) (*held, uint32, error) {
	if req.Version != "" {
		if h := e.version(req.Version); h != nil {
			return h, 0, nil
		}
		return nil, 0, &NotFoundError{Model: req.Model, Version: req.Version, Versions: e.versions()}
	}
	point := uint32(0)
	switch {
	case len(e.routed) <= 1 && len(e.shadows) == 0:
	case req.ID == "":
		point = rand.Uint32N(routing.Whole)
	default:
		point = routing.Point(req.Model, req.ID)
	}
	i := e.split.Pick(point)
	if i < 0 {
		return nil, 0, &NotFoundError{Model: req.Model, Versions: e.versions()}
	}
	return e.routed[i], point, nil
}

// run computes on the place that enter got.
func (t *Table) run(c *call, h *held, req *Request) (out []tensor.Tensor, err error) {
	defer func() {
		h.exit()
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
	// Config, Labels and Role are that version's too; Version is which one it is.
	Version string
	Role    uint8
	Config  *triton.Config
	Labels  map[string][]string
	// Platform is what the model is, in Triton's words.
	Platform string
}

// VariantInfo is a version of a model in service.
type VariantInfo struct {
	Version         string
	Role            uint8
	ShareMillionths uint32
}

// Versions returns the versions in service, or the one asked for: numbers by their value, others behind them.
func (i *Info) Versions(asked string) []string {
	out := make([]string, 0, len(i.Variants))
	for _, v := range i.Variants {
		if asked == "" || asked == v.Version {
			out = append(out, v.Version)
		}
	}
	number := func(s string) uint64 {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return math.MaxUint64
		}
		return n
	}
	slices.SortStableFunc(out, func(a, b string) int {
		return cmp.Or(cmp.Compare(number(a), number(b)), strings.Compare(a, b))
	})
	return out
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
	_, _, err := e.route(&Request{Model: model, Version: version})
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

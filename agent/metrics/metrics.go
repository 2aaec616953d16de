// Package metrics shows what the agent counts to Prometheus, on the port that Triton's users scrape.
//
// Handler reads its sources when it is asked and writes them down in the text format; nothing is counted here. What
// concerns inference has the names, labels and units of Triton's metrics, so that dashboards and autoscalers made for
// them go on working; our own are called dhow_, in base units. A source that is missing leaves its metrics out: a
// machine without a GPU has none of nv_gpu_. Triton's optional summaries (nv_inference_*_summary_us) are not there:
// quantiles come from the histograms, which can be added up over machines.
//
// A page grows with the number of model versions and with nothing that a request says. Handlers are safe for concurrent
// use. A page waits for its sources: those here read /proc, and ask the GPU's driver within a bound.
package metrics

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/dhowfleet/dhow/agent/statistics"
)

// Options say what is shown; what is nil is not.
type Options struct {
	Models func() []statistics.Snapshot
	Agent  func(context.Context) Agent
	// Machine gives the processor's and memory's use; NewMachine makes one.
	Machine func() Machine
	// Process is the agent's own use; ReadProcess is one.
	Process func() (Process, bool)
	// GPUs lists the devices; NewGPUs makes one.
	GPUs func(context.Context) []GPU
}

// Agent is what only the agent knows of itself.
type Agent struct {
	Version, GoVersion string

	Fleet     bool // there is a fleet manager, so that what follows means something
	Enrolled  bool
	Connected bool

	OutboxPending, OutboxBytes, OutboxDropped         uint64
	TelemetryWritten, TelemetryDropped, TelemetryLost uint64
	AccessWritten, AccessDropped                      uint64

	Cache    *Cache   // nil: there is no response cache
	Warnings []string // codes of what holds
	Models   []Model
}

// Cache is the response cache.
type Cache struct {
	Entries, Bytes, Limit uint64
	Evicted               uint64
}

// Model is a model version as it is loaded.
type Model struct {
	Model, Version, State, Role string
	Memory                      uint64 // bytes; 0: not known
}

// bucket is an upper bound, as a number and as it is written.
type bucket struct {
	bound time.Duration
	le    string
}

// Bounds of histograms are those at which statistics.Histogram is exact.
var (
	seconds = []bucket{
		{100 * time.Microsecond, "0.0001"}, {250 * time.Microsecond, "0.00025"}, {500 * time.Microsecond, "0.0005"},
		{time.Millisecond, "0.001"}, {2500 * time.Microsecond, "0.0025"}, {5 * time.Millisecond, "0.005"},
		{10 * time.Millisecond, "0.01"}, {25 * time.Millisecond, "0.025"}, {50 * time.Millisecond, "0.05"},
		{100 * time.Millisecond, "0.1"}, {250 * time.Millisecond, "0.25"}, {500 * time.Millisecond, "0.5"},
		{time.Second, "1"}, {2500 * time.Millisecond, "2.5"}, {5 * time.Second, "5"}, {10 * time.Second, "10"}, {25 * time.Second, "25"},
	}
	milliseconds = []bucket{
		{100 * time.Millisecond, "100"}, {500 * time.Millisecond, "500"}, {2 * time.Second, "2000"}, {5 * time.Second, "5000"},
	}
)

// Handler answers every path with the metrics; the caller chooses where it is.
func Handler(o Options) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "metrics are read with GET", http.StatusMethodNotAllowed)
			return
		}
		body := Append(nil, r.Context(), o)
		h := w.Header()
		h.Set("Content-Type", contentType)
		h.Set("Content-Length", strconv.Itoa(len(body)))
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		if r.Method == http.MethodGet {
			_, _ = w.Write(body) // the scraper has gone
		}
	})
}

// Append appends the page to b.
func Append(b []byte, ctx context.Context, o Options) []byte {
	p := &page{buf: b}
	if o.Models != nil {
		models := withLabels(o.Models())
		p.inference(models)
		p.ours(models)
	}
	if o.GPUs != nil {
		p.gpus(o.GPUs(ctx))
	}
	if o.Machine != nil {
		p.machine(o.Machine())
	}
	if o.Agent != nil {
		p.agent(o.Agent(ctx))
	}
	if o.Process != nil {
		if self, ok := o.Process(); ok {
			p.process(self)
		}
	}
	return p.buf
}

// counted is a version's counters and the labels of its samples.
type counted struct {
	*statistics.Snapshot
	labels labels
}

func withLabels(all []statistics.Snapshot) []counted {
	out := make([]counted, len(all))
	for i := range all {
		out[i] = counted{&all[i], label("model", all[i].Name, "version", all[i].Version)}
	}
	return out
}

// inference writes Triton's metrics of models.
func (p *page) inference(models []counted) {
	each := func(name, kind, help string, value func(*statistics.Snapshot) uint64) {
		p.family(name, kind, help)
		for i := range models {
			p.count(models[i].labels, value(models[i].Snapshot))
		}
	}
	microseconds := func(name, help string, d func(*statistics.Snapshot) statistics.Duration) {
		each(name, counter, help, func(s *statistics.Snapshot) uint64 { return d(s).Nanos / 1000 })
	}
	type snapshot = statistics.Snapshot
	type duration = statistics.Duration
	each("nv_inference_request_success", counter, "Requests that were answered.", func(s *snapshot) uint64 { return s.Success.Count })
	p.family("nv_inference_request_failure", counter, "Requests that failed, by reason: REJECTED (a limit of queue or time), CANCELED (by the client), BACKEND (in the model), OTHER.")
	for i := range models {
		for _, f := range models[i].Failures {
			p.count(label("model", models[i].Name, "reason", f.Reason, "version", models[i].Version), f.Count)
		}
	}
	each("nv_inference_count", counter, "Inferences, each row of a batch as one, without those that the response cache answered.", func(s *snapshot) uint64 { return s.InferenceCount })
	each("nv_inference_exec_count", counter, "Times that the model ran, a batch as one.", func(s *snapshot) uint64 { return s.ExecutionCount })
	each("nv_inference_pending_request_count", gauge, "Requests that came and are not answered yet.", func(s *snapshot) uint64 { return uint64(s.Pending) })
	microseconds("nv_inference_request_duration_us", "Time of answered requests in all, in microseconds.", func(s *snapshot) duration { return s.Success })
	microseconds("nv_inference_queue_duration_us", "Time that answered requests waited, in microseconds.", func(s *snapshot) duration { return s.Queue })
	microseconds("nv_inference_compute_input_duration_us", "Time to prepare the inputs, in microseconds.", func(s *snapshot) duration { return s.ComputeInput })
	microseconds("nv_inference_compute_infer_duration_us", "Time to compute, in microseconds.", func(s *snapshot) duration { return s.ComputeInfer })
	microseconds("nv_inference_compute_output_duration_us", "Time to take the outputs, in microseconds.", func(s *snapshot) duration { return s.ComputeOutput })
	each("nv_cache_num_hits_per_model", counter, "Requests that the response cache answered.", func(s *snapshot) uint64 { return s.CacheHit.Count })
	each("nv_cache_num_misses_per_model", counter, "Requests that the response cache could not answer.", func(s *snapshot) uint64 { return s.CacheMiss.Count })
	microseconds("nv_cache_hit_duration_per_model", "Time in the response cache of requests that it answered, in microseconds.", func(s *snapshot) duration { return s.CacheHit })
	microseconds("nv_cache_miss_duration_per_model", "Time in the response cache of requests that it could not answer, in microseconds.", func(s *snapshot) duration { return s.CacheMiss })
	p.family("nv_inference_first_response_histogram_ms", histogram, "Time to the first response of answered requests, in milliseconds.")
	for i := range models {
		p.times(models[i].labels, milliseconds, &models[i].Latency, time.Millisecond)
	}
}

// times adds a histogram of times in a unit.
func (p *page) times(l labels, bounds []bucket, h *statistics.Histogram, unit time.Duration) {
	p.distribution(l, bounds, func(b bucket) uint64 { return h.AtMost(b.bound) }, h.Count, float64(h.Sum)/float64(unit))
}

// ours writes our own metrics of models.
func (p *page) ours(models []counted) {
	p.family("dhow_request_duration_seconds", histogram, "Time of answered requests, waiting included.")
	for i := range models {
		p.times(models[i].labels, seconds, &models[i].Latency, time.Second)
	}
	p.family("dhow_queue_duration_seconds", histogram, "Time that requests waited, however they ended.")
	for i := range models {
		p.times(models[i].labels, seconds, &models[i].Waiting, time.Second)
	}
	p.family("dhow_request_errors_total", counter, "Requests that failed by no doing of their sender.")
	for i := range models {
		p.count(models[i].labels, models[i].Errors)
	}
}

// agent writes what the agent says of itself.
func (p *page) agent(a Agent) {
	truth := func(name, help string, v bool) {
		p.family(name, gauge, help)
		n := uint64(0)
		if v {
			n = 1
		}
		p.count("", n)
	}
	one := func(name, kind, help string, n uint64) {
		p.family(name, kind, help)
		p.count("", n)
	}
	p.family("dhow_build_info", gauge, "The agent's version; always 1.")
	p.count(label("goversion", a.GoVersion, "version", a.Version), 1)
	if a.Fleet {
		truth("dhow_node_enrolled", "Whether the node belongs to a fleet.", a.Enrolled)
		truth("dhow_uplink_connected", "Whether the fleet manager can be reached.", a.Connected)
		one("dhow_outbox_pending", gauge, "Aggregates that wait for delivery.", a.OutboxPending)
		one("dhow_outbox_bytes", gauge, "Size of what waits for delivery.", a.OutboxBytes)
		one("dhow_outbox_dropped_total", counter, "Aggregates that were dropped since there was no room.", a.OutboxDropped)
	}
	one("dhow_telemetry_written_total", counter, "Requests that were written down.", a.TelemetryWritten)
	one("dhow_telemetry_dropped_total", counter, "Requests that were not written down since they came too fast.", a.TelemetryDropped)
	one("dhow_telemetry_lost_total", counter, "Requests that could not be written down.", a.TelemetryLost)
	one("dhow_access_log_written_total", counter, "Lines of the access log.", a.AccessWritten)
	one("dhow_access_log_dropped_total", counter, "Lines that the access log lacks.", a.AccessDropped)
	if c := a.Cache; c != nil {
		one("dhow_response_cache_entries", gauge, "Answers in the response cache.", c.Entries)
		one("dhow_response_cache_bytes", gauge, "Size of the response cache.", c.Bytes)
		one("dhow_response_cache_limit_bytes", gauge, "Largest size of the response cache.", c.Limit)
		one("dhow_response_cache_evicted_total", counter, "Answers that left the response cache for others.", c.Evicted)
	}
	p.family("dhow_warning", gauge, "1 for each warning that holds; dhow-agent status has its remedy.")
	for _, code := range a.Warnings {
		p.count(label("code", code), 1)
	}
	p.family("dhow_model_info", gauge, "1 for each model version and the state it is in.")
	for _, m := range a.Models {
		p.count(label("model", m.Model, "version", m.Version, "role", m.Role, "state", m.State), 1)
	}
	p.family("dhow_model_memory_bytes", gauge, "Memory that a model version takes, where it is known.")
	for _, m := range a.Models {
		if m.Memory > 0 {
			p.count(label("model", m.Model, "version", m.Version), m.Memory)
		}
	}
}

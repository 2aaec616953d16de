// Package openinference answers the REST form of the Open Inference Protocol, version 2, over a table of models, and
// KServe's first protocol beside it.
//
//	GET  /v2                                          what this server is
//	GET  /v2/health/live, /v2/health/ready
//	GET  /v2/models/{model}[/versions/{version}]      what the model takes and returns
//	GET  /v2/models/{model}[/versions/{version}]/ready, .../config, .../stats
//	POST /v2/models/{model}[/versions/{version}]/infer
//	GET  /v2/models/stats
//	POST /v2/repository/index, /v2/repository/models/{model}/load, .../unload
//	GET, POST /v2/logging
//	GET  /v1/models, /v1/models/{model}
//	POST /v1/models/{model}:predict
//
// A request is resolved (names are percent-decoded), authorized by its endpoint's group, and answered by the endpoint's
// function, whose error, if any, is written in one place. What this server does not do, shared memory and traces among
// it, is not in its list of extensions and is answered 501.
//
// A request without a version is routed by its id (agent/routing); model_version in the answer, and the headers
// Dhow-Model-Version and Dhow-Variant, say who answered. Tensors come as JSON, nested or flat, or in the binary form:
// then the header Inference-Header-Content-Length says how long the JSON is, and the raw tensors follow it in the order
// of the inputs that have a binary_data_size. Outputs are JSON unless binary_data or binary_data_output asks for the
// binary form. JSON has no FP16, BF16, NaN or infinity and no bytes that are not UTF-8: such outputs must be asked for
// in binary, and bytes may be sent as base64 in JSON (content_type "base64" in the input's parameters). Bodies may be
// compressed with gzip or deflate, and so are answers from 1 KiB on whose sender accepts it; the header's length is that
// of the JSON before.
//
// Errors are {"error": "..."}: 400 for a request that is wrong, 401 and 403 for one that may not be made, 404 for what
// is not there, 408 for a body that did not come in time, 413 for too much, 429 with Retry-After when the queue is full
// or a quota spent, 501 for what is not done, 503 with Retry-After when memory for requests is, 504 after the deadline,
// and 500 when the model failed.
//
// A body is read into memory, its binary tensors are handed to the model where they lie, and it is reused after the
// answer is written. Memory for bodies and what is decoded from them is bounded over all requests. Handlers block for
// reading, the model and writing, and are safe for concurrent use.
package openinference

import (
	"net/http"
	"time"

	"github.com/dhowfleet/dhow/agent/access"
	"github.com/dhowfleet/dhow/agent/accesslog"
	"github.com/dhowfleet/dhow/agent/modelrepository"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/agent/tracing"
)

const (
	headerLength  = "Inference-Header-Content-Length"
	headerVersion = "Dhow-Model-Version"
	headerVariant = "Dhow-Variant"
)

// Options of a handler. What is nil is not served or not done.
type Options struct {
	// Version is that of this server, for its metadata.
	Version string
	// Ready says whether the server wants requests; nil means always.
	Ready func() bool
	// MaxBody bounds one body, compressed and not, in bytes; 0 means 64 MiB.
	MaxBody int64
	// Budget bounds bodies and decoded tensors of all requests in flight, here and in other forms of the protocol that
	// share it; nil makes one of MaxMemory bytes, and 0 of them means 512 MiB.
	Budget    *Budget
	MaxMemory int64
	// BodyTimeout bounds how long a client may take to send a body, and, with some time for its length, to take an answer;
	// 0 means 30 s.
	BodyTimeout time.Duration
	// Serves says whether requests may call this server by a name, beside localhost; see Protect. nil: by none.
	Serves func(host string) bool
	// Plain never compresses answers: where only this machine reaches the listener it costs more than it saves, and most
	// HTTP clients ask for it without being told to.
	Plain bool
	// Repository lists, loads and unloads models.
	Repository modelrepository.Controller
	// Statistics counts what became of requests.
	Statistics func() []statistics.Snapshot
	// Logging is what the server logs.
	Logging Logging
	// Authorize lets a request in or refuses it with an *access.Error; access.Gate has one. model is "" where there is no
	// single one. What it returns is called when the request has ended. nil lets everyone in.
	Authorize func(header func(string) string, group access.Group, model string) (access.Caller, func(), error)
	// AccessLog is told of every request that was answered. The entry is the handler's again when it returns.
	AccessLog func(*accesslog.Entry)
}

// handler is the state behind the endpoints.
type handler struct {
	table      *serving.Table
	options    Options
	extensions []string
}

// New returns the handler of all endpoints, behind Protect.
func New(table *serving.Table, o Options) http.Handler {
	if o.MaxBody <= 0 {
		o.MaxBody = 64 << 20
	}
	if o.MaxMemory <= 0 {
		o.MaxMemory = 512 << 20
	}
	if o.Budget == nil {
		o.Budget = NewBudget(o.MaxMemory)
	}
	if o.BodyTimeout <= 0 {
		o.BodyTimeout = 30 * time.Second
	}
	h := &handler{table: table, options: o, extensions: extensions(&o)}
	return Protect(h, o.Serves)
}

// extensions lists what is done beyond the protocol's core.
func extensions(o *Options) []string {
	done := []string{"binary_tensor_data", "classification", "model_configuration", "parameters", "schedule_policy"}
	if o.Repository != nil {
		done = append(done, "model_repository", "model_repository(unload_dependents)")
	}
	if o.Statistics != nil {
		done = append(done, "statistics")
	}
	if o.Logging != nil {
		done = append(done, "logging")
	}
	return done
}

// endpoint is what answers requests for a resource.
type endpoint struct {
	methods string // GET answers HEAD too
	group   access.Group
	// get returns what is written as JSON. Others write by themselves when they return no error.
	get   func(*handler, *exchange) (any, error)
	serve func(*handler, *exchange) error
}

var endpoints = [...]endpoint{
	pathServer:          {methods: "GET", group: access.Metadata, get: (*handler).server},
	pathLive:            {methods: "GET", group: access.Health, get: (*handler).live},
	pathReady:           {methods: "GET", group: access.Health, get: (*handler).ready},
	pathStatistics:      {methods: "GET", group: access.Statistics, get: (*handler).statistics},
	pathModel:           {methods: "GET", group: access.Metadata, get: (*handler).model},
	pathModelReady:      {methods: "GET", group: access.Health, get: (*handler).modelReady},
	pathModelConfig:     {methods: "GET", group: access.ModelConfig, get: (*handler).config},
	pathModelStatistics: {methods: "GET", group: access.Statistics, get: (*handler).statistics},
	pathInfer:           {methods: "POST", group: access.Inference, serve: (*handler).infer},
	pathIndex:           {methods: "POST", group: access.ModelRepository, get: (*handler).index},
	pathLoad:            {methods: "POST", group: access.ModelRepository, get: (*handler).load},
	pathUnload:          {methods: "POST", group: access.ModelRepository, get: (*handler).unload},
	pathLogging:         {methods: "GET, POST", group: access.Logging, get: (*handler).logging},
	pathTrace:           {methods: "GET, POST", group: access.Trace, get: notDone("traces are not recorded here; the header traceparent is taken into the access log")},
	pathSharedMemory:    {methods: "GET, POST", group: access.SharedMemory, get: notDone(noSharedMemory)},
	pathModelsV1:        {methods: "GET", group: access.Metadata, get: (*handler).servedV1},
	pathModelV1:         {methods: "GET", group: access.Health, get: (*handler).modelV1},
	pathPredictV1:       {methods: "POST", group: access.Inference, serve: (*handler).predict},
}

func notDone(why string) func(*handler, *exchange) (any, error) {
	return func(*handler, *exchange) (any, error) {
		return nil, &apiError{status: http.StatusNotImplemented, message: why}
	}
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := exchanges.Get().(*exchange)
	defer x.giveBack()
	x.w, x.r, x.target, x.budget, x.plain = w, r, resolve(r.URL), h.options.Budget, h.options.Plain
	x.patience = h.options.BodyTimeout
	if x.what == pathPredictV1 && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		x.what, x.model = pathModelV1, x.model+":predict"
	}
	if h.options.AccessLog == nil {
		h.serve(x)
		return
	}
	start := time.Now()
	h.serve(x)
	x.entry = accesslog.Entry{
		Time: start, Protocol: "http", Method: r.Method, Group: string(endpoints[x.what].group), Model: x.model, Version: x.version,
		ID: x.request.id, Caller: x.caller.Name, Status: x.status, Code: codeOf(x.status), BytesIn: x.received, BytesOut: x.sent,
		Duration: time.Since(start), Queue: x.queued,
	}
	if x.answered != "" {
		x.entry.Version = x.answered
	}
	if trace, ok := tracing.FromHeaders(r.Header["Traceparent"]); ok {
		x.entry.TraceID = trace.TraceID()
	}
	h.options.AccessLog(&x.entry)
}

// serve authorizes and answers a request.
func (h *handler) serve(x *exchange) {
	e := &endpoints[x.what]
	if x.what == pathNothing {
		x.fail(&apiError{status: http.StatusNotFound, message: "there is nothing at " + shorten(x.r.URL.Path)})
		return
	}
	if !allowed(e.methods, x.r.Method) {
		x.w.Header()["Allow"] = []string{e.methods}
		x.fail(&apiError{status: http.StatusMethodNotAllowed, message: shorten(x.r.URL.Path) + " wants " + e.methods + ", not " + shorten(x.r.Method)})
		return
	}
	if h.options.Authorize != nil {
		caller, done, err := h.options.Authorize(x.r.Header.Get, e.group, x.model)
		defer done()
		if err != nil {
			x.fail(err)
			return
		}
		x.caller = caller
	}
	var err error
	if e.serve != nil {
		err = e.serve(h, x)
	} else {
		var value any
		if value, err = e.get(h, x); err == nil {
			err = x.value(value)
		}
	}
	if err != nil {
		x.fail(err)
	}
}

func allowed(methods, method string) bool {
	switch method {
	case http.MethodHead:
		method = http.MethodGet
	case http.MethodGet, http.MethodPost:
	default:
		return false
	}
	return methods == method || methods == "GET, POST"
}

// Package openinference answers the REST form of the Open Inference Protocol, version 2, over a table of models.
//
//	GET  /v2                                          what this server is
//	GET  /v2/health/live, /v2/health/ready
//	GET  /v2/models/{model}[/versions/{version}]      what the model takes and returns
//	GET  /v2/models/{model}[/versions/{version}]/ready
//	POST /v2/models/{model}[/versions/{version}]/infer
//
// A request without a version is routed by its id (agent/routing); model_version in the answer, and the headers
// Dhow-Model-Version and Dhow-Variant, say who answered. Tensors come as JSON, nested or flat, or in the binary form:
// then the header Inference-Header-Content-Length says how long the JSON is, and the raw tensors follow it in the order
// of the inputs that have a binary_data_size. Outputs are JSON unless binary_data or binary_data_output asks for the
// binary form. JSON has no FP16, BF16, NaN or infinity and no bytes that are not UTF-8: such outputs must be asked for
// in binary, and bytes may be sent as base64 in JSON (content_type "base64" in the input's parameters). Bodies may be
// compressed with gzip or deflate.
//
// Errors are {"error": "..."}: 400 for a request that is wrong, 403 for a browser's request from elsewhere, 404 for what
// is not there, 413 for too much, 429 with Retry-After when the queue is full, 503 with Retry-After when memory for
// requests is, 504 after the deadline, and 500 when the model failed.
//
// A body is read into memory, its binary tensors are handed to the model where they lie, and it is reused after the
// answer is written. Memory for bodies and what is decoded from them is bounded over all requests. Handlers block for
// reading, the model and writing, and are safe for concurrent use.
package openinference

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/agent/telemetry"
	"github.com/dhowfleet/dhow/models/tensor"
)

const (
	headerLength  = "Inference-Header-Content-Length"
	headerVersion = "Dhow-Model-Version"
	headerVariant = "Dhow-Variant"
)

// Options of a handler.
type Options struct {
	// Version is that of this server, for its metadata.
	Version string
	// Ready says whether the server wants requests; nil means always.
	Ready func() bool
	// MaxBody bounds one body, compressed and not, in bytes; 0 means 64 MiB.
	MaxBody int64
	// MaxMemory bounds bodies and decoded tensors of all requests in flight, in bytes; 0 means 512 MiB.
	MaxMemory int64
	// BodyTimeout bounds how long a client may take to send a body; 0 means 30 s.
	BodyTimeout time.Duration
	// Hosts are names, beside localhost, that requests may call this server; see Protect.
	Hosts []string
}

// handler is the state behind the routes.
type handler struct {
	table   *serving.Table
	options Options
	memory  atomic.Int64 // bytes reserved by requests in flight
	mux     *http.ServeMux
}

// New returns the handler of all routes, behind Protect.
func New(table *serving.Table, o Options) http.Handler {
	if o.MaxBody <= 0 {
		o.MaxBody = 64 << 20
	}
	if o.MaxMemory <= 0 {
		o.MaxMemory = 512 << 20
	}
	if o.BodyTimeout <= 0 {
		o.BodyTimeout = 30 * time.Second
	}
	h := &handler{table: table, options: o, mux: http.NewServeMux()}
	h.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, &apiError{status: http.StatusNotFound, message: "there is nothing at " + r.URL.Path})
	})
	h.get("/v2", h.server)
	h.get("/v2/health/live", func(*http.Request) (any, error) { return map[string]bool{"live": true}, nil })
	h.get("/v2/health/ready", h.ready)
	for _, prefix := range []string{"/v2/models/{model}", "/v2/models/{model}/versions/{version}"} {
		h.get(prefix, h.model)
		h.get(prefix+"/ready", h.modelReady)
		h.handle(prefix+"/infer", http.MethodPost, h.infer)
	}
	return Protect(h.mux, o.Hosts...)
}

// handle registers a route for one method; HEAD goes with GET.
func (h *handler) handle(pattern, method string, serve http.HandlerFunc) {
	h.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != method && !(method == http.MethodGet && r.Method == http.MethodHead) {
			w.Header().Set("Allow", method)
			writeError(w, &apiError{status: http.StatusMethodNotAllowed, message: fmt.Sprintf("%s wants %s, not %s", r.URL.Path, method, r.Method)})
			return
		}
		serve(w, r)
	})
}

// get registers a route that returns a value to be written as JSON.
func (h *handler) get(pattern string, serve func(*http.Request) (any, error)) {
	h.handle(pattern, http.MethodGet, func(w http.ResponseWriter, r *http.Request) {
		value, err := serve(r)
		if err != nil {
			writeError(w, err)
			return
		}
		body, err := json.Marshal(value)
		if err != nil {
			writeError(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body) // a client that left misses nothing
	})
}

func (h *handler) server(*http.Request) (any, error) {
	return struct {
		Name       string   `json:"name"`
		Version    string   `json:"version"`
		Extensions []string `json:"extensions"`
	}{"dhow", h.options.Version, []string{"binary_tensor_data"}}, nil
}

func (h *handler) ready(*http.Request) (any, error) {
	if h.options.Ready != nil && !h.options.Ready() {
		return nil, &apiError{status: http.StatusServiceUnavailable, message: "the agent is not ready", retry: true}
	}
	return map[string]bool{"ready": true}, nil
}

type tensorMetadata struct {
	Name     string  `json:"name"`
	Datatype string  `json:"datatype"`
	Shape    []int64 `json:"shape"`
}

func describe(specs []tensor.Spec) []tensorMetadata {
	out := make([]tensorMetadata, len(specs))
	for i, s := range specs {
		out[i] = tensorMetadata{s.Name, s.Datatype.String(), append([]int64{}, s.Shape...)}
	}
	return out
}

func (h *handler) model(r *http.Request) (any, error) {
	info, err := h.table.Lookup(r.PathValue("model"), r.PathValue("version"))
	if err != nil {
		return nil, err
	}
	versions := []string{}
	for _, v := range info.Variants {
		if asked := r.PathValue("version"); asked == "" || asked == v.Version {
			versions = append(versions, v.Version)
		}
	}
	return struct {
		Name     string           `json:"name"`
		Versions []string         `json:"versions"`
		Platform string           `json:"platform"`
		Inputs   []tensorMetadata `json:"inputs"`
		Outputs  []tensorMetadata `json:"outputs"`
	}{info.Name, versions, "onnxruntime_onnx", describe(info.Inputs), describe(info.Outputs)}, nil
}

func (h *handler) modelReady(r *http.Request) (any, error) {
	info, err := h.table.Lookup(r.PathValue("model"), r.PathValue("version"))
	if err != nil {
		return nil, err
	}
	return struct {
		Name  string `json:"name"`
		Ready bool   `json:"ready"`
	}{info.Name, true}, nil
}

// apiError is an error with the status that it is answered with.
type apiError struct {
	status  int
	message string
	retry   bool // trying again may help
}

func (e *apiError) Error() string { return e.message }

// Code makes it countable beside the errors of models.
func (e *apiError) Code() telemetry.Code { return telemetry.InvalidInput }

func badRequest(format string, args ...any) error {
	return &apiError{status: http.StatusBadRequest, message: fmt.Sprintf(format, args...)}
}

// writeError writes any error in the protocol's form.
func writeError(w http.ResponseWriter, err error) {
	status, retry := http.StatusInternalServerError, false
	var api *apiError
	var missing *serving.NotFoundError
	switch {
	case errors.As(err, &api):
		status, retry = api.status, api.retry
	case errors.As(err, &missing):
		status = http.StatusNotFound
	default:
		switch serving.CodeOf(err) {
		case telemetry.InvalidInput:
			status = http.StatusBadRequest
		case telemetry.Overloaded:
			status, retry = http.StatusTooManyRequests, true
		case telemetry.Deadline:
			status = http.StatusGatewayTimeout
			err = errors.New("the model did not answer within its time")
		case telemetry.Canceled: // nobody reads it
			status = http.StatusServiceUnavailable
		}
	}
	if retry {
		w.Header().Set("Retry-After", "1")
	}
	body := append(appendText([]byte(`{"error":`), []byte(err.Error())), '}')
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that left misses nothing
}

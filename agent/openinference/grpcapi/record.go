package grpcapi

import (
	"net/http"
	"path"
	"time"

	"connectrpc.com/connect"

	"github.com/dhowfleet/dhow/agent/accesslog"
	"github.com/dhowfleet/dhow/agent/tracing"
)

func codeName(err error) string {
	if err == nil {
		return "ok"
	}
	return connect.CodeOf(err).String()
}

// begin fills in what is known when a request comes.
func begin(e *accesslog.Entry, r *http.Request) {
	e.Protocol, e.Method, e.Time = "grpc", path.Base(r.URL.Path), time.Now()
	if trace, ok := tracing.FromHeaders(r.Header["Traceparent"]); ok {
		e.TraceID = trace.TraceID()
	}
}

// record hands an entry to the log. BytesOut is the size of an answer's tensors and what describes them, before it is
// compressed, and 0 for methods without.
func (h *handler) record(e *accesslog.Entry) {
	if h.options.AccessLog == nil {
		return
	}
	if e.Code == "" {
		e.Code = "unreadable"
	}
	e.Duration = time.Since(e.Time)
	h.options.AccessLog(e)
}

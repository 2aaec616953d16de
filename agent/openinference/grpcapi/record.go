package grpcapi

import (
	"net/http"
	"path"
	"strings"
	"time"

	"connectrpc.com/connect"
)

// Entry is what is written of a request that has ended; nothing of what it held.
type Entry struct {
	Start    time.Time
	Duration time.Duration
	Queue    time.Duration // waiting, of Duration
	Method   string        // such as ModelInfer
	Protocol string        // "grpc", "grpcweb" or "connect"
	Model    string        // "" where the request is about none
	Version  string        // that answered
	ID       string        // the request's own
	// Code is "ok", the error's code in lower case as gRPC names it, or "unreadable" for what was no message.
	Code string
	In   int64 // bytes that were read
	// Out is the size of the answer's tensors and what describes them, before compression; 0 for other methods.
	Out int64
	// Request has the headers; it is the server's again when the hook returns.
	Request *http.Request
}

func codeName(err error) string {
	if err == nil {
		return "ok"
	}
	return connect.CodeOf(err).String()
}

// begin fills in what is known when a request comes.
func (e *Entry) begin(r *http.Request) {
	e.Request, e.Method, e.Start = r, path.Base(r.URL.Path), time.Now()
	switch kind := r.Header.Get("Content-Type"); {
	case strings.HasPrefix(kind, "application/grpc-web"):
		e.Protocol = "grpcweb"
	case strings.HasPrefix(kind, "application/grpc"):
		e.Protocol = "grpc"
	default:
		e.Protocol = "connect"
	}
}

// record hands an entry to the log.
func (h *handler) record(e *Entry) {
	if h.options.AccessLog == nil {
		return
	}
	if e.Code == "" {
		e.Code = "unreadable"
	}
	e.Duration = time.Since(e.Start)
	h.options.AccessLog(*e)
}

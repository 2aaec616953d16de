// Package inprocess serves models in the process of a test, by the path that requests take in the agent: real listeners
// on loopback, the front of the Open Inference Protocol, the serving table, ONNX Runtime.
//
// Start opens the listeners; Load puts a model file into the table under a name, whatever the name, and Unload takes it
// out again; Close ends everything. What the agent does before it serves (bundles, probes, the repository) is left out.
// A Server is safe for concurrent use; Load blocks for as long as ONNX Runtime takes, Unload and Close for the requests
// in flight.
package inprocess

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/onnxruntime"
	"github.com/dhowfleet/dhow/agent/openinference"
	"github.com/dhowfleet/dhow/agent/openinference/grpcapi"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/models/tensor"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/wasm/host"
)

// Server is a serving path under way.
type Server struct {
	Table  *serving.Table
	URL    string // of REST
	GRPC   string // host:port
	engine inference.Engine
	fronts []*http.Server
}

// Start serves an empty table on free ports of 127.0.0.1.
func Start() (*Server, error) {
	engine := onnxruntime.New("")
	if err := engine.Open(); err != nil {
		return nil, err
	}
	counters := statistics.New()
	s := &Server{Table: serving.NewTable(serving.Options{Statistics: counters}), engine: engine}
	rest, err := s.listen(openinference.New(s.Table, openinference.Options{Version: "test"}), false)
	if err != nil {
		return nil, err
	}
	s.URL = "http://" + rest
	if s.GRPC, err = s.listen(grpcapi.New(s.Table, grpcapi.Options{Version: "test", Statistics: counters.Snapshot}), true); err != nil {
		_ = s.Close(context.Background())
		return nil, err
	}
	return s, nil
}

// listen serves h on a free port until Close.
func (s *Server) listen(h http.Handler, clearHTTP2 bool) (address string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	front := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, Protocols: new(http.Protocols)}
	front.Protocols.SetHTTP1(true)
	front.Protocols.SetUnencryptedHTTP2(clearHTTP2)
	s.fronts = append(s.fronts, front)
	go func() { _ = front.Serve(l) }() // ends with Close
	return l.Addr().String(), nil
}

// Load serves the model file under the name. Its outputs that are no tensors are returned; they are not served.
func (s *Server) Load(ctx context.Context, name, path string) (unserved []string, err error) {
	m, err := s.engine.Load(ctx, path, inference.Options{})
	if err != nil {
		return nil, err
	}
	s.Table.Set(name, []serving.Variant{{Version: "1", Role: uint8(syncv1.Role_ROLE_BASELINE), Runner: runner{m}}})
	return m.Unserved(), nil
}

// Unload takes the model out and waits for it to be closed.
func (s *Server) Unload(ctx context.Context, name string) error {
	return s.Table.Set(name, nil).Wait(ctx)
}

// Close ends the listeners and closes the models.
func (s *Server) Close(ctx context.Context) error {
	var errs []error
	for _, front := range s.fronts {
		errs = append(errs, front.Close())
	}
	return errors.Join(append(errs, s.Table.Close(ctx))...)
}

// runner serves a model as it is.
type runner struct{ inference.Model }

func (r runner) Infer(ctx context.Context, in []tensor.Tensor, wanted []string, _ host.Sink) ([]tensor.Tensor, error) {
	return r.Run(ctx, in, wanted)
}

// Package inprocess serves models in the process of a test, by the path that requests take in the agent: real listeners
// on loopback, the front of the Open Inference Protocol, the serving table, ONNX Runtime.
//
// Start opens the listeners; Load puts a model file into the table under a name, whatever the name, and Unload takes it
// out again; Close ends everything. StartRepository serves a folder of models besides. What
// else the agent does before it serves (bundles, probes) is left out.
// A Server is safe for concurrent use; Load blocks for as long as ONNX Runtime takes, Unload and Close for the requests
// in flight.
package inprocess

import (
	"context"
	"errors"
	"net"
	"net/http"
	"runtime"
	"time"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/onnxruntime"
	"github.com/dhowfleet/dhow/agent/modelrepository"
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
	repo   *modelrepository.Repository // nil without a folder
	fronts []*http.Server
}

// patience is how long a request may take: longer than a busy machine needs.
const patience = 2 * time.Minute

// Start serves an empty table on free ports of 127.0.0.1.
func Start() (*Server, error) { return StartRepository(context.Background(), "") }

// StartRepository serves the models of a folder in Triton's layout too, all of them from the start, to be unloaded and
// loaded by request. "" is no folder.
func StartRepository(ctx context.Context, dir string) (*Server, error) {
	engine := onnxruntime.New("")
	if err := engine.Open(); err != nil {
		return nil, err
	}
	counters := statistics.New()
	cores := runtime.GOMAXPROCS(0)
	places := serving.NewPlaces(cores)
	s := &Server{
		Table:  serving.NewTable(serving.Options{Concurrency: cores, Places: places, Statistics: counters, Timeout: patience}),
		engine: engine,
	}
	if err := s.open(ctx, dir, places, counters); err != nil {
		return nil, errors.Join(err, s.Close(context.WithoutCancel(ctx)))
	}
	return s, nil
}

func (s *Server) open(ctx context.Context, dir string, places *serving.Places, counters *statistics.Registry) error {
	rest := openinference.Options{Version: "test", Statistics: counters.Snapshot}
	grpc := grpcapi.Options{Version: "test", Statistics: counters.Snapshot}
	if dir != "" {
		var err error
		s.repo, err = modelrepository.Open(modelrepository.Config{
			Dir: dir, Mode: modelrepository.Explicit, LoadModels: []string{"*"}, Engine: s.engine, Table: s.Table, Places: places,
		})
		if err != nil {
			return err
		}
		rest.Repository, grpc.Repository = s.repo, s.repo
		if err := s.repo.Start(ctx); err != nil {
			return err
		}
	}
	address, err := s.listen(openinference.New(s.Table, rest), false)
	if err != nil {
		return err
	}
	s.URL = "http://" + address
	s.GRPC, err = s.listen(grpcapi.New(s.Table, grpc), true)
	return err
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
	if s.repo != nil {
		errs = append(errs, s.repo.Close(ctx))
	}
	return errors.Join(append(errs, s.Table.Close(ctx))...)
}

// runner serves a model as it is.
type runner struct{ inference.Model }

func (r runner) Infer(ctx context.Context, in []tensor.Tensor, wanted []string, _ host.Sink) ([]tensor.Tensor, error) {
	return r.Run(ctx, in, wanted)
}

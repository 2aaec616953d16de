// Package server puts together what answers clients, for an agent in a fleet and for one that serves a folder of models
// by itself: the table of models with its places and statistics, who may ask what, and the addresses.
//
//	address -> Host check -> REST | gRPC | metrics | status page -> who may -> table -> record
//
// New opens keys, certificate and access log and takes the addresses, so that a mistake in any of them shows at once.
// Serve answers on them, once the models of before are loaded; connections wait until then. Run reads keys again when
// they change, until its context ends. Shutdown lets requests in flight end; Close gives everything back.
package server

import (
	"context"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/dhowfleet/dhow/agent/access"
	"github.com/dhowfleet/dhow/agent/accesslog"
	"github.com/dhowfleet/dhow/agent/config"
	"github.com/dhowfleet/dhow/agent/endpoints"
	"github.com/dhowfleet/dhow/agent/health"
	"github.com/dhowfleet/dhow/agent/localapi"
	"github.com/dhowfleet/dhow/agent/memory"
	"github.com/dhowfleet/dhow/agent/modelrepository"
	"github.com/dhowfleet/dhow/agent/openinference"
	"github.com/dhowfleet/dhow/agent/openinference/grpcapi"
	"github.com/dhowfleet/dhow/agent/responsecache"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/protocol/version"
)

// Deps are what a server gets from outside.
type Deps struct {
	Logger *slog.Logger
	Health *health.Registry
	// Recorder is told of every request that reached a model; nil: nobody is.
	Recorder serving.Recorder
	Now      func() time.Time // nil: time.Now
}

// Server answers clients.
type Server struct {
	Table      *serving.Table
	Places     *serving.Places
	Statistics *statistics.Registry
	// Memory keeps account of what models take.
	Memory *memory.Account
	// Responses keeps answers for models that want it; nil where no memory is given to it.
	Responses *responsecache.Cache

	config      config.Serving
	log         *slog.Logger
	policy      *access.Policy
	certificate *access.Certificate // nil without TLS
	requests    *accesslog.Log
	budget      *openinference.Budget
	endpoints   *endpoints.Endpoints
	handlers    map[string]http.Handler // by endpoint, set by Serve

	hardware sync.Once
	lines    []string // about the machine, after hardware
}

// maxMemory bounds bodies and decoded tensors of all requests in flight.
const maxMemory = 512 << 20

// New opens what is needed and takes the addresses.
func New(c config.Serving, d Deps) (_ *Server, err error) {
	s := &Server{config: c, log: d.Logger, budget: openinference.NewBudget(maxMemory), handlers: map[string]http.Handler{}}
	if d.Now == nil {
		d.Now = time.Now
	}
	if s.policy, err = access.Open(c.ServingKeys, access.Options{
		Header: c.KeyHeader, Anonymous: c.Anonymous, Logger: d.Logger, Now: d.Now,
		Warn: warn(d.Health, health.ServingKeysBroken),
	}); err != nil {
		return nil, err
	}
	options := endpoints.Options{Logger: d.Logger, Taken: taken(d.Health)}
	if c.TLSCertificate != "" {
		if s.certificate, err = access.OpenCertificate(c.TLSCertificate, c.TLSKey, access.CertificateOptions{
			Logger: d.Logger, Now: d.Now, Warn: warn(d.Health, health.TLSBroken),
		}); err != nil {
			return nil, err
		}
		options.TLS = s.certificate.Config()
	}
	if c.AccessLog != "" {
		if s.requests, err = accesslog.New(accesslog.Options{Path: c.AccessLog, Logger: d.Logger}); err != nil {
			return nil, err
		}
	}
	concurrency := c.Concurrency
	if concurrency == 0 {
		concurrency = runtime.GOMAXPROCS(0)
	}
	s.Memory = memory.New(memory.Options{Total: c.ModelMemory})
	s.Places, s.Statistics = serving.NewPlaces(concurrency), statistics.New()
	s.Table = serving.NewTable(serving.Options{
		Concurrency: concurrency, Places: s.Places, Statistics: s.Statistics, Recorder: d.Recorder, Logger: d.Logger,
	})
	if c.ResponseCache > 0 {
		s.Responses = responsecache.New(responsecache.Options{MaxBytes: c.ResponseCache, Places: s.Places, Priority: serving.PriorityOf})
	}
	var listeners []endpoints.Listener
	for _, a := range c.Addresses() {
		listeners = append(listeners, endpoints.Listener{Name: a.Name, Address: a.Address, Optional: a.Optional, Handler: s.late(a.Name),
			Express: a.Name == "http" || a.Name == "socket"})
	}
	if s.endpoints, err = endpoints.Bind(listeners, options); err != nil {
		s.closeLog()
		return nil, err
	}
	return s, nil
}

// warn raises a code while an error holds.
func warn(r *health.Registry, code health.Code) func(error) {
	return func(err error) {
		if err != nil {
			r.Raise(code, "")
		} else {
			r.Clear(code)
		}
	}
}

// taken keeps one warning for all addresses that other programs have.
func taken(r *health.Registry) func(endpoints.Listener, error) {
	var mu sync.Mutex
	missing := map[string]string{}
	return func(l endpoints.Listener, err error) {
		mu.Lock()
		defer mu.Unlock()
		delete(missing, l.Name)
		if err != nil {
			missing[l.Name] = l.Address
		}
		var all []string
		for _, name := range []string{"http", "grpc", "metrics", "socket"} {
			if a := missing[name]; a != "" {
				all = append(all, name+" "+a)
			}
		}
		r.Set(health.EndpointTaken, len(all) > 0, strings.Join(all, ", "))
	}
}

// late is the handler of an endpoint that is bound before there is one. Serve sets it before any request is taken.
func (s *Server) late(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.handlers[name].ServeHTTP(w, r) })
}

// Fronts are what clients ask for beside inference.
type Fronts struct {
	// Ready says whether requests are wanted; nil: always.
	Ready func() bool
	// Repository lists, loads and unloads models.
	Repository modelrepository.Controller
	// Status says how the agent is; the page and the document at / and /dhow/ are made of it, and part of the metrics.
	Status func(context.Context) (localapi.Document, error)
}

// Serve answers until Shutdown or until a listener fails. It is called once.
func (s *Server) Serve(f Fronts) error {
	counted := s.metrics(f.Status)
	for _, a := range s.config.Addresses() {
		local := access.Local(a.Address)
		gate := s.policy.Gate(local)
		switch a.Name {
		case "http":
			s.handlers[a.Name] = s.rest(f, gate, local)
		case "grpc":
			s.handlers[a.Name] = openinference.Protect(s.grpc(f, gate), s.serves())
		case "metrics":
			s.handlers[a.Name] = openinference.Protect(s.page("/metrics", access.Metrics, counted, gate), s.serves())
		case "socket":
			s.handlers[a.Name] = s.everything(f, counted, gate)
		}
	}
	s.log.Info("listening", "address", s.Addr(), "grpc", s.endpoints.Addr("grpc"), "metrics", s.endpoints.Addr("metrics"), "version", version.Build)
	return s.endpoints.Serve()
}

// serves says by which names requests may call this server, beside those of this machine for itself: the certificate's.
func (s *Server) serves() func(host string) bool {
	if s.certificate == nil {
		return nil
	}
	return s.certificate.Serves
}

func (s *Server) rest(f Fronts, gate *access.Gate, local bool) http.Handler {
	o := openinference.Options{
		Version: version.Build, Ready: f.Ready, MaxBody: s.config.MaxBody, Budget: s.budget, Serves: s.serves(),
		Repository: f.Repository, Statistics: s.Statistics.Snapshot, Authorize: gate.Authorize,
		Plain: local,
	}
	if s.requests != nil {
		o.AccessLog = s.requests.Record
	}
	inference := openinference.New(s.Table, o)
	pages := localapi.New(func(r *http.Request) (localapi.Document, error) { return f.Status(r.Context()) })
	status := openinference.Protect(s.page("", access.Status, pages, gate), s.serves())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" || strings.HasPrefix(r.URL.Path, localapi.PagePath) {
			status.ServeHTTP(w, r)
			return
		}
		inference.ServeHTTP(w, r)
	})
}

func (s *Server) grpc(f Fronts, gate *access.Gate) http.Handler {
	o := grpcapi.Options{
		Version: version.Build, Ready: f.Ready, MaxMessage: s.config.MaxBody, Memory: s.budget,
		Repository: f.Repository, Statistics: s.Statistics.Snapshot, Authorize: gate.Authorize,
	}
	if s.requests != nil {
		o.AccessLog = s.requests.Record
	}
	return grpcapi.New(s.Table, o)
}

// page lets a group's callers to a handler, at one path or at all.
func (s *Server) page(path string, group access.Group, next http.Handler, gate *access.Gate) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if path != "" && r.URL.Path != path {
			http.NotFound(w, r)
			return
		}
		if err := gate.Request(r, group, ""); err != nil {
			openinference.WriteError(w, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// everything is what a Unix socket answers, where no web page reaches and a host's name says nothing.
func (s *Server) everything(f Fronts, counted http.Handler, gate *access.Gate) http.Handler {
	rest, grpc, metrics := s.rest(f, gate, true), s.grpc(f, gate), s.page("/metrics", access.Metrics, counted, gate)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Host = "localhost"
		switch {
		case r.ProtoMajor == 2 && r.Method == http.MethodPost && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc"):
			grpc.ServeHTTP(w, r)
		case r.URL.Path == "/metrics":
			metrics.ServeHTTP(w, r)
		default:
			rest.ServeHTTP(w, r)
		}
	})
}

// Addr is the address of the HTTP endpoint.
func (s *Server) Addr() string { return s.endpoints.Addr("http") }

// Run reads the keys again when they change, until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	s.policy.Run(ctx)
	return nil
}

// Shutdown takes no more requests and waits for those in flight until ctx ends.
func (s *Server) Shutdown(ctx context.Context) error { return s.endpoints.Shutdown(ctx) }

// Close gives the addresses back and closes the table and the access log.
func (s *Server) Close(ctx context.Context) {
	s.endpoints.Close()
	if err := s.Table.Close(ctx); err != nil {
		s.log.Warn("models did not close cleanly", "error", err)
	}
	s.closeLog()
}

func (s *Server) closeLog() {
	if s.requests == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.requests.Close(ctx); err != nil {
		s.log.Warn("the access log is not complete", "error", err)
	}
}

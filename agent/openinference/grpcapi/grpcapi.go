// Package grpcapi answers the gRPC form of the Open Inference Protocol, as clients of Triton and KServe speak it, over a
// table of models. One handler also speaks gRPC-Web and Connect.
//
//	message -> decode -> authorize -> serving.Table -> classify -> encode
//
// The service is inference.GRPCInferenceService with the core methods, ModelStreamInfer, ModelConfig, ModelStatistics and
// the model repository's; beside it are grpc.health.v1.Health and server reflection. Inputs come typed (contents) or raw
// (raw_input_contents), not both in one request; outputs are always raw. What the service does not have, shared memory
// among it, is UNIMPLEMENTED.
//
// Errors have the codes that Triton gives: INVALID_ARGUMENT for a request that is wrong, NOT_FOUND for what is not there,
// UNAVAILABLE when the queue or the memory for requests is full or the models cannot be set from here,
// DEADLINE_EXCEEDED, CANCELLED, RESOURCE_EXHAUSTED for a message that is too large or a quota that is used up,
// UNAUTHENTICATED and PERMISSION_DENIED, INTERNAL when the model failed. On a stream they are the error_message of an
// answer, and the stream goes on; a stream ends for what is no message.
//
// A message is copied once, out of the buffer that it was read into; tensors are views of the copy, which is reused after
// the answer. Memory for messages, compressed or not, and what is decoded from them is bounded over all requests, each
// message by MaxMessage, and requests in flight on a stream by streamDepth: a client that sends faster waits. Answers are
// compressed when the request was. Handlers block for reading, the model and writing; a message must come within
// BodyTimeout and an idle stream may stay. Everything is safe for concurrent use.
package grpcapi

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"

	"github.com/dhowfleet/dhow/agent/access"
	"github.com/dhowfleet/dhow/agent/accesslog"
	"github.com/dhowfleet/dhow/agent/modelrepository"
	"github.com/dhowfleet/dhow/agent/openinference/conns"
	"github.com/dhowfleet/dhow/agent/openinference/grpcapi/wire"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/agent/statistics"
	healthv1 "github.com/dhowfleet/dhow/protocol/gen/grpc/health/v1"
	"github.com/dhowfleet/dhow/protocol/gen/grpc/health/v1/healthv1connect"
	inferencepb "github.com/dhowfleet/dhow/protocol/gen/inference"
	"github.com/dhowfleet/dhow/protocol/gen/inference/inferencepbconnect"
)

const (
	compressFrom = 1 << 10 // answers smaller than that are not compressed
	smallMessage = 1 << 20 // bounds the messages that hold no tensors
	streamDepth  = 16      // requests in flight on one stream
)

// Options of a handler.
type Options struct {
	// Version is that of this server, for its metadata.
	Version string
	// Ready says whether the server wants requests; nil means always.
	Ready func() bool
	// Repository lists, loads and unloads models; nil lists the table and refuses the rest.
	Repository modelrepository.Controller
	// Statistics are the counters of the table's models; nil leaves the method out.
	Statistics func() []statistics.Snapshot
	// Authorize lets a request in or refuses it with an *access.Error; access.Gate has one. It is called once for each
	// request, on a stream for each message; what it returns is called when that has ended. nil lets everyone in.
	Authorize func(header func(string) string, group access.Group, model string) (access.Caller, func(), error)
	// AccessLog is told of every request when it has ended, on a stream of every message. The entry is the handler's again
	// when it returns.
	AccessLog func(*accesslog.Entry)
	// MaxMessage bounds one message, compressed and not, in bytes; 0 means 64 MiB.
	MaxMessage int64
	// Memory is shared with other handlers; nil bounds this one by MaxMemory, where 0 means 512 MiB.
	Memory    Memory
	MaxMemory int64
	// BodyTimeout bounds how long a client may take to send a message it has begun, and, with some time for its length,
	// to take an answer; 0 means 30 s.
	BodyTimeout time.Duration
	// Logger is told of what should not be; nil logs nothing.
	Logger *slog.Logger
}

// handler is the state behind the methods.
type handler struct {
	table   *serving.Table
	options Options
	memory  Memory
	routes  map[string]http.Handler
	errors  *connect.ErrorWriter
}

// New returns the handler of all methods. It is meant for a server that speaks HTTP/2, without TLS too, and belongs
// behind openinference.Protect where browsers can reach it.
func New(table *serving.Table, o Options) http.Handler {
	if o.MaxMessage <= 0 {
		o.MaxMessage = 64 << 20
	}
	if o.MaxMemory <= 0 {
		o.MaxMemory = 512 << 20
	}
	if o.BodyTimeout <= 0 {
		o.BodyTimeout = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	h := &handler{table: table, options: o, memory: o.Memory, routes: map[string]http.Handler{}, errors: connect.NewErrorWriter()}
	if h.memory == nil {
		b := &budget{}
		b.most.Store(o.MaxMemory)
		h.memory = b
	}
	h.register()
	return h
}

func (h *handler) register() {
	every := connect.WithHandlerOptions(
		connect.WithCodec(codec{"proto"}), connect.WithCodec(jsonCodec{"json"}), connect.WithCodec(jsonCodec{"json; charset=utf-8"}),
		h.compression())
	large := []connect.HandlerOption{every, connect.WithReadMaxBytes(int(h.options.MaxMessage))}
	small := []connect.HandlerOption{every, connect.WithReadMaxBytes(smallMessage)}
	h.routes[inferencepbconnect.GRPCInferenceServiceModelInferProcedure] = connect.NewUnaryHandlerSimple(
		inferencepbconnect.GRPCInferenceServiceModelInferProcedure, h.modelInfer, large...)
	h.routes[inferencepbconnect.GRPCInferenceServiceModelStreamInferProcedure] = connect.NewBidiStreamHandler(
		inferencepbconnect.GRPCInferenceServiceModelStreamInferProcedure, h.modelStreamInfer, large...)

	route(h, small, inferencepbconnect.GRPCInferenceServiceServerLiveProcedure, access.Health, nil, h.serverLive)
	route(h, small, inferencepbconnect.GRPCInferenceServiceServerReadyProcedure, access.Health, nil, h.serverReady)
	route(h, small, inferencepbconnect.GRPCInferenceServiceModelReadyProcedure, access.Health, (*inferencepb.ModelReadyRequest).GetName, h.modelReady)
	route(h, small, inferencepbconnect.GRPCInferenceServiceServerMetadataProcedure, access.Metadata, nil, h.serverMetadata)
	route(h, small, inferencepbconnect.GRPCInferenceServiceModelMetadataProcedure, access.Metadata, (*inferencepb.ModelMetadataRequest).GetName, h.modelMetadata)
	route(h, small, inferencepbconnect.GRPCInferenceServiceModelConfigProcedure, access.ModelConfig, (*inferencepb.ModelConfigRequest).GetName, h.modelConfig)
	if h.options.Statistics != nil {
		route(h, small, inferencepbconnect.GRPCInferenceServiceModelStatisticsProcedure, access.Statistics, (*inferencepb.ModelStatisticsRequest).GetName, h.modelStatistics)
	}
	route(h, small, inferencepbconnect.GRPCInferenceServiceRepositoryIndexProcedure, access.ModelRepository, nil, h.repositoryIndex)
	route(h, small, inferencepbconnect.GRPCInferenceServiceRepositoryModelLoadProcedure, access.ModelRepository, (*inferencepb.RepositoryModelLoadRequest).GetModelName, h.repositoryModelLoad)
	route(h, small, inferencepbconnect.GRPCInferenceServiceRepositoryModelUnloadProcedure, access.ModelRepository, (*inferencepb.RepositoryModelUnloadRequest).GetModelName, h.repositoryModelUnload)

	route(h, small, healthv1connect.HealthCheckProcedure, access.Health, nil, h.check)
	h.routes[healthv1connect.HealthWatchProcedure] = connect.NewServerStreamHandlerSimple(healthv1connect.HealthWatchProcedure,
		func(ctx context.Context, r *healthv1.HealthCheckRequest, s *connect.ServerStream[healthv1.HealthCheckResponse]) error {
			c := callOf(ctx)
			c.body.late.Stop() // what comes has come
			err := c.authorize(access.Health, "")
			if err == nil {
				err = h.watch(ctx, r.GetService(), s.Send)
			}
			_, err = answered[struct{}](c, nil, err)
			return err
		}, small...)

	reflector := grpcreflect.NewStaticReflector(inferencepbconnect.GRPCInferenceServiceName, healthv1connect.HealthName)
	gate := connect.WithHandlerOptions(every, connect.WithReadMaxBytes(smallMessage),
		connect.WithRequestGate(func(ctx context.Context, _ connect.Spec, _ connect.Peer, _ http.Header) (context.Context, error) {
			// Its messages are not settled one by one: the whole stream must come within BodyTimeout.
			_, err := answered[struct{}](callOf(ctx), nil, callOf(ctx).authorize(access.Metadata, ""))
			return nil, err
		}))
	for _, make := range []func(*grpcreflect.Reflector, ...connect.HandlerOption) (string, http.Handler){grpcreflect.NewHandlerV1, grpcreflect.NewHandlerV1Alpha} {
		path, reflect := make(reflector, gate)
		h.routes[path+"ServerReflectionInfo"] = reflect
	}
}

// route registers a method that holds no tensors. model names the one that a request is about, where there is one.
func route[Req, Res any](h *handler, options []connect.HandlerOption, procedure string, group access.Group, model func(*Req) string, serve func(context.Context, *Req) (*Res, error)) {
	h.routes[procedure] = connect.NewUnaryHandlerSimple(procedure, func(ctx context.Context, r *Req) (*Res, error) {
		name := ""
		if model != nil {
			name = model(r)
		}
		c := callOf(ctx)
		c.body.late.Stop() // loading a model may take longer
		c.entry.Model = wire.Clip(name, wire.MaxName)
		var res *Res
		err := c.authorize(group, name)
		if err == nil {
			res, err = serve(ctx, r)
		}
		return answered(c, res, err)
	}, options...)
}

// answered notes how a call ended.
func answered[Res any](c *call, res *Res, err error) (*Res, error) {
	if err != nil {
		err := coded(err)
		c.entry.Code = codeName(err)
		return nil, err
	}
	c.entry.Code = codeName(nil)
	return res, nil
}

// call is one HTTP request: the context of its handlers, and what ends with it.
type call struct {
	context.Context
	h        *handler
	r        *http.Request
	w        http.ResponseWriter
	body     body
	exchange *exchange // of a unary inference
	entry    accesslog.Entry
	done     func() // of Authorize
	overdue  atomic.Bool
	hurried  bool // the answer has a deadline; of whoever writes it

	mu    sync.Mutex
	ended bool // the server has w again
}

type callKey struct{}

func (c *call) Value(key any) any {
	if key == (callKey{}) {
		return c
	}
	return c.Context.Value(key)
}

func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	serve := h.routes[r.URL.Path]
	if serve == nil {
		h.unknown(w, r)
		return
	}
	plainAnswer(r.Header)
	c := &call{Context: r.Context(), h: h, r: r, w: w, done: nothing}
	c.body = body{ReadCloser: r.Body, call: c}
	c.body.late = time.AfterFunc(h.options.BodyTimeout, func() {
		c.overdue.Store(true)
		c.interrupt()
	})
	if h.options.AccessLog != nil {
		begin(&c.entry, r)
	}
	defer c.end()
	r = r.WithContext(c)
	r.Body = &c.body
	serve.ServeHTTP(w, r)
}

// end gives back what the call holds.
func (c *call) end() {
	c.done()
	c.body.settle()
	if c.entry.Method != "" && c.entry.Method != "ModelStreamInfer" { // a stream's messages are recorded one by one
		c.entry.BytesIn = c.body.total
		c.h.record(&c.entry)
	}
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	if c.exchange != nil {
		c.relax()
		c.exchange.end(c.h)
	}
}

// hurry bounds how long the client of an answer may keep what an exchange holds.
func (c *call) hurry(x *exchange, size int64) {
	if c.hurried = x.reserved+size > conns.Much; c.hurried {
		conns.Hurry(c.w, size, c.h.options.BodyTimeout)
	}
}

func (c *call) relax() {
	if c.hurried {
		c.hurried = false
		conns.Relax(c.w)
	}
}

// plainAnswer asks connect for an answer that is not compressed unless the request is: clients say that they can read
// compressed answers whether or not they want them, and tensors hardly get smaller.
func plainAnswer(header http.Header) {
	for _, names := range [...][2]string{
		{"Grpc-Encoding", "Grpc-Accept-Encoding"},
		{"Content-Encoding", "Accept-Encoding"},
		{"Connect-Content-Encoding", "Connect-Accept-Encoding"},
	} {
		if e := header[names[0]]; len(e) == 0 || e[0] == "" || e[0] == "identity" {
			delete(header, names[1])
		}
	}
}

// authorize asks the hook about a request that ends with the call.
func (c *call) authorize(group access.Group, model string) (err error) {
	_, c.done, err = c.h.authorize(c.r, group, model, &c.entry)
	return err
}

// authorize asks the hook. What it returns, never nil, is called when the request has ended.
func (h *handler) authorize(r *http.Request, group access.Group, model string, e *accesslog.Entry) (access.Caller, func(), error) {
	e.Group = string(group)
	if h.options.Authorize == nil {
		return access.Caller{}, nothing, nil
	}
	caller, done, err := h.options.Authorize(r.Header.Get, group, model)
	e.Caller = caller.Name
	return caller, done, err
}

func nothing() {}

// reserve takes memory from the bound on all requests.
func (h *handler) reserve(n int64) error {
	if err := h.memory.Reserve(n); err != nil {
		return errNoMemory
	}
	return nil
}

// unknown answers for a method that is not there, as the protocol that was spoken wants it.
func (h *handler) unknown(w http.ResponseWriter, r *http.Request) {
	if !h.errors.IsSupported(r) {
		http.Error(w, "this is a gRPC server; REST has a port of its own", http.StatusNotFound)
		return
	}
	_ = h.errors.Write(w, r, connect.NewError(connect.CodeUnimplemented, errUnknown)) // a client that left misses nothing
}

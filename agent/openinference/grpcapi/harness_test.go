package grpcapi

import (
	"context"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/tensor"
	inferencepb "github.com/dhowfleet/dhow/protocol/gen/inference"
	"github.com/dhowfleet/dhow/protocol/gen/inference/inferencepbconnect"
	"github.com/dhowfleet/dhow/wasm/host"
)

// echo answers with its inputs, renamed, after whatever run says.
type echo struct {
	run func(ctx context.Context, in []tensor.Tensor) error
}

func (e *echo) Infer(ctx context.Context, in []tensor.Tensor, wanted []string, _ host.Sink) ([]tensor.Tensor, error) {
	if e.run != nil {
		if err := e.run(ctx, in); err != nil {
			return nil, err
		}
	}
	var out []tensor.Tensor
	for _, t := range in {
		if err := t.Validate(); err != nil {
			return nil, inference.Inputf("%v", err)
		}
		t.Name += "_out"
		out = append(out, t)
	}
	if len(wanted) == 0 {
		return out, nil
	}
	var asked []tensor.Tensor
	for _, w := range wanted {
		i := slices.IndexFunc(out, func(t tensor.Tensor) bool { return t.Name == w })
		if i < 0 {
			return nil, inference.Inputf("the model has no output %q", w)
		}
		asked = append(asked, out[i])
	}
	return asked, nil
}

func (*echo) Inputs() []tensor.Spec {
	return []tensor.Spec{{Name: "x", Datatype: tensor.FP32, Shape: []int64{-1, 2}}}
}

func (*echo) Outputs() []tensor.Spec {
	return []tensor.Spec{{Name: "x_out", Datatype: tensor.FP32, Shape: []int64{-1, 2}}}
}

func (*echo) Close() error { return nil }

type server struct {
	testing.TB
	url     string
	echo    *echo // of model m, version 1
	table   *serving.Table
	handler *handler
	http    *http.Client
	inferencepbconnect.GRPCInferenceServiceClient
}

const odd = `a model/with:odd "name" ü`

func start(t testing.TB, o Options) *server {
	t.Helper()
	s := &server{TB: t, echo: &echo{}, table: serving.NewTable(serving.Options{Concurrency: 4, Queue: 100})}
	s.table.Set("m", []serving.Variant{
		{Version: "1", Role: 1, ShareMillionths: 1_000_000, Runner: s.echo, Labels: map[string][]string{"x_out": {"cat", "dog"}}},
		{Version: "2", Role: 2, Runner: &echo{}},
	})
	s.table.Set(odd, []serving.Variant{{Version: "1", Role: 1, Runner: &echo{}}})
	h := New(s.table, o)
	s.handler = h.(*handler)
	s.url = listen(t, h)
	s.http = &http.Client{Transport: transport(t)}
	s.GRPCInferenceServiceClient = s.client(connect.WithGRPC())
	return s
}

func listen(t testing.TB, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, Protocols: &http.Protocols{}}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	ended := make(chan struct{})
	go func() { defer close(ended); srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-ended })
	return "http://" + l.Addr().String()
}

func transport(t testing.TB) *http.Transport {
	tr := &http.Transport{Protocols: &http.Protocols{}}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func (s *server) client(o ...connect.ClientOption) inferencepbconnect.GRPCInferenceServiceClient {
	return inferencepbconnect.NewGRPCInferenceServiceClient(s.http, s.url, o...)
}

// infer asks with a message of the generated kind.
func (s *server) infer(ctx context.Context, r *inferencepb.ModelInferRequest) (*inferencepb.ModelInferResponse, error) {
	res, err := s.ModelInfer(ctx, connect.NewRequest(r))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// good asks what must always be answered, exactly.
func (s *server) good() {
	s.Helper()
	res, err := s.infer(s.Context(), ask("m"))
	if err != nil {
		s.Fatalf("a good request failed: %v", err)
	}
	if got := tensorOf(res, 0); res.GetModelName() != "m" || got.Name != "x_out" || !slices.Equal(got.Float32s(), []float32{1, 2}) || !slices.Equal(got.Shape, []int64{1, 2}) {
		s.Fatalf("a good request was answered with %v", res)
	}
}

// free waits until nothing is reserved.
func (s *server) free() {
	s.Helper()
	b := s.handler.memory.(*budget)
	for range 500 {
		if b.used.Load() == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.Errorf("%d bytes are still reserved", b.used.Load())
}

// ask is a request with x = [[1, 2]] as raw FP32.
func ask(model string) *inferencepb.ModelInferRequest {
	x := tensor.FromFloat32("x", []int64{1, 2}, []float32{1, 2})
	return &inferencepb.ModelInferRequest{
		ModelName:        model,
		Inputs:           []*inferencepb.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: "FP32", Shape: x.Shape}},
		RawInputContents: [][]byte{x.Data},
	}
}

func tensorOf(res *inferencepb.ModelInferResponse, i int) tensor.Tensor {
	if i >= len(res.GetOutputs()) || i >= len(res.GetRawOutputContents()) {
		return tensor.Tensor{}
	}
	o := res.GetOutputs()[i]
	d, _ := tensor.ParseDatatype(o.GetDatatype())
	return tensor.Tensor{Name: o.GetName(), Datatype: d, Shape: o.GetShape(), Data: res.GetRawOutputContents()[i]}
}

func int64Param(v int64) *inferencepb.InferParameter {
	return &inferencepb.InferParameter{ParameterChoice: &inferencepb.InferParameter_Int64Param{Int64Param: v}}
}

func textParam(v string) *inferencepb.InferParameter {
	return &inferencepb.InferParameter{ParameterChoice: &inferencepb.InferParameter_StringParam{StringParam: v}}
}

// refused checks an error's code and that its message says something and gives nothing away.
func refused(t testing.TB, err error, code connect.Code, say string) {
	t.Helper()
	if connect.CodeOf(err) != code || err == nil {
		t.Errorf("got %v, want %s", err, code)
		return
	}
	message := err.Error()
	if !strings.Contains(message, say) {
		t.Errorf("%q does not say %q", message, say)
	}
	if len(message) > 2*maxSentence {
		t.Errorf("the message has %d bytes", len(message))
	}
	for _, leak := range []string{"grpcapi", "inferencepb", "*serving", "runtime error", "0xc0", "goroutine", ".go:", "/root", "/work", "\n"} {
		if strings.Contains(message, leak) {
			t.Errorf("%q gives away %q", message, leak)
		}
	}
}

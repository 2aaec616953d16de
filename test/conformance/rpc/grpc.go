// Package rpc holds the checks of the protocol over gRPC.
//
// What gRPC answers is compared with what REST answered (suite.Model.Reference): the two are one server. Answers must come
// as raw_output_contents, which is all that stock clients read. Checks lists the checks; a Target is safe for concurrent
// use and its calls block until they are answered or their time is over.
package rpc

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"github.com/dhowfleet/dhow/test/conformance/fixture"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"connectrpc.com/connect"

	healthv1 "github.com/dhowfleet/dhow/protocol/gen/grpc/health/v1"
	"github.com/dhowfleet/dhow/protocol/gen/grpc/health/v1/healthv1connect"
	inferencepb "github.com/dhowfleet/dhow/protocol/gen/inference"
	"github.com/dhowfleet/dhow/protocol/gen/inference/inferencepbconnect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/dhowfleet/dhow/test/conformance/suite"
	"github.com/dhowfleet/dhow/test/conformance/wire"
)

// Target is the server's gRPC address.
type Target struct {
	inference inferencepbconnect.GRPCInferenceServiceClient
	health    healthv1connect.HealthClient
	header    http.Header
}

// NewTarget returns a target at host:port, in the clear unless https:// is before it. header goes with every call.
func NewTarget(address string, header http.Header, timeout time.Duration) *Target {
	address = strings.TrimRight(address, "/")
	protocols := new(http.Protocols)
	if strings.HasPrefix(address, "https://") {
		protocols.SetHTTP2(true)
	} else {
		address = "http://" + strings.TrimPrefix(address, "http://")
		protocols.SetUnencryptedHTTP2(true)
	}
	client := &http.Client{
		Timeout:   timeout,
		Transport: &http.Transport{Protocols: protocols, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}},
	}
	options := []connect.ClientOption{connect.WithGRPC(), connect.WithReadMaxBytes(wire.MaxAnswer)}
	return &Target{
		inference: inferencepbconnect.NewGRPCInferenceServiceClient(client, address, options...),
		health:    healthv1connect.NewHealthClient(client, address, options...),
		header:    header,
	}
}

// rpc makes a call and keeps it for the report.
func rpc[In, Out any](r *suite.Run, t *Target, name string, call func(context.Context, *connect.Request[In]) (*connect.Response[Out], error), in *In) (*Out, error) {
	req := connect.NewRequest(in)
	for name, values := range t.header {
		req.Header()[name] = values
	}
	res, err := call(r.Context, req)
	if err != nil {
		r.Keep(name+" "+message(in), err.Error())
		return nil, err
	}
	r.Keep(name+" "+message(in), message(res.Msg))
	return res.Msg, nil
}

func message(m any) string {
	p, ok := m.(proto.Message)
	if !ok {
		return ""
	}
	b, err := protojson.Marshal(p)
	if err != nil {
		return err.Error()
	}
	var text strings.Builder
	wire.Printable(&text, b[:min(len(b), wire.MaxShown)])
	return text.String()
}

// Checks lists what the protocol says over gRPC; they are skipped when t is nil.
func Checks(t *Target) []suite.Check {
	g := func(name string, scope suite.Scope, about string, try func(*suite.Run) error) suite.Check {
		return suite.Check{Group: "grpc", Name: name, Scope: scope, About: about, Run: func(r *suite.Run) error {
			if t == nil {
				return suite.Skip("-grpc was not given")
			}
			return try(r)
		}}
	}
	return []suite.Check{
		g("live", suite.Once, "ServerLive", func(r *suite.Run) error {
			got, err := rpc(r, t, "ServerLive", t.inference.ServerLive, &inferencepb.ServerLiveRequest{})
			if err == nil && !got.GetLive() {
				err = errors.New("live is false")
			}
			return err
		}),
		g("ready", suite.Once, "ServerReady", func(r *suite.Run) error {
			got, err := rpc(r, t, "ServerReady", t.inference.ServerReady, &inferencepb.ServerReadyRequest{})
			if err == nil && !got.GetReady() {
				err = errors.New("ready is false")
			}
			return err
		}),
		g("health", suite.Once, "grpc.health.v1 says SERVING", func(r *suite.Run) error {
			got, err := rpc(r, t, "Health.Check", t.health.Check, &healthv1.HealthCheckRequest{})
			if connect.CodeOf(err) == connect.CodeUnimplemented {
				return suite.Skip("the server has no grpc.health.v1")
			}
			if err == nil && got.GetStatus() != healthv1.HealthCheckResponse_SERVING {
				err = fmt.Errorf("the status is %v", got.GetStatus())
			}
			return err
		}),
		g("server-metadata", suite.Once, "ServerMetadata has what REST has", func(r *suite.Run) error {
			got, err := rpc(r, t, "ServerMetadata", t.inference.ServerMetadata, &inferencepb.ServerMetadataRequest{})
			if err == nil && got.GetName() == "" {
				err = errors.New("there is no name")
			}
			return err
		}),
		g("model-metadata", suite.Each, "ModelMetadata is that of REST", t.describes),
		g("model-ready", suite.Each, "ModelReady of a model that answers", func(r *suite.Run) error {
			got, err := rpc(r, t, "ModelReady", t.inference.ModelReady, &inferencepb.ModelReadyRequest{Name: r.Model.Name})
			if err == nil && !got.GetReady() {
				err = errors.New("ready is false")
			}
			return err
		}),
		g("infer-raw", suite.Each, "raw contents give REST's answer", func(r *suite.Run) error { return t.agrees(r, true) }),
		g("infer-typed", suite.Each, "typed contents give REST's answer", func(r *suite.Run) error { return t.agrees(r, false) }),
		g("id", suite.First, "the id comes back, and the model's name and version", func(r *suite.Run) error {
			req := request(r.Model.Name, r.Model.Inputs, true)
			req.Id = "a/b é 42"
			got, err := rpc(r, t, "ModelInfer", t.inference.ModelInfer, req)
			if err != nil {
				return err
			}
			if got.GetId() != req.GetId() || got.GetModelName() != r.Model.Name {
				return fmt.Errorf("id %q, model_name %q", got.GetId(), got.GetModelName())
			}
			return nil
		}),
		g("requested-outputs", suite.Each, "each output can be asked for alone", func(r *suite.Run) error {
			for _, d := range r.Model.Metadata.Outputs[:min(8, len(r.Model.Metadata.Outputs))] {
				req := request(r.Model.Name, r.Model.Inputs, true)
				req.Outputs = []*inferencepb.ModelInferRequest_InferRequestedOutputTensor{{Name: d.Name}}
				got, err := rpc(r, t, "ModelInfer", t.inference.ModelInfer, req)
				if err != nil {
					return err
				}
				if len(got.GetOutputs()) != 1 || got.GetOutputs()[0].GetName() != d.Name {
					return fmt.Errorf("%q was asked for; %d outputs came", d.Name, len(got.GetOutputs()))
				}
			}
			return nil
		}),
		g("stream", suite.First, "ModelStreamInfer answers each request, and goes on after one that is wrong", t.stream),
		g("config", suite.Each, "ModelConfig names the model", func(r *suite.Run) error {
			if !r.Suite.Has("model_configuration") {
				return suite.Skip("the server does not advertise the extension \"model_configuration\"")
			}
			got, err := rpc(r, t, "ModelConfig", t.inference.ModelConfig, &inferencepb.ModelConfigRequest{Name: r.Model.Name})
			if err == nil && got.GetConfig().GetName() != r.Model.Name {
				err = fmt.Errorf("the configuration is that of %q", got.GetConfig().GetName())
			}
			return err
		}),
		g("statistics", suite.Each, "ModelStatistics lists the model", func(r *suite.Run) error {
			if !r.Suite.Has("statistics") {
				return suite.Skip("the server does not advertise the extension \"statistics\"")
			}
			got, err := rpc(r, t, "ModelStatistics", t.inference.ModelStatistics, &inferencepb.ModelStatisticsRequest{Name: r.Model.Name})
			if err == nil && (len(got.GetModelStats()) == 0 || got.GetModelStats()[0].GetName() != r.Model.Name || got.GetModelStats()[0].GetInferenceCount() == 0) {
				err = errors.New("there is no entry for the model that counts its inferences")
			}
			return err
		}),
		g("index", suite.Once, "RepositoryIndex lists the models that answer", func(r *suite.Run) error {
			if !r.Suite.Has("model_repository") {
				return suite.Skip("the server does not advertise the extension %q", "model_repository")
			}
			got, err := rpc(r, t, "RepositoryIndex", t.inference.RepositoryIndex, &inferencepb.RepositoryIndexRequest{Ready: true})
			if err != nil {
				return err
			}
			for _, m := range r.Suite.Models {
				if !slices.ContainsFunc(got.GetModels(), func(e *inferencepb.RepositoryIndexResponse_ModelIndex) bool { return e.GetName() == m.Name }) {
					return fmt.Errorf("%q is missing", m.Name)
				}
			}
			return nil
		}),
		{Group: "fixture", Name: "simple-grpc", About: "simple adds and subtracts over gRPC", Run: func(r *suite.Run) error {
			switch {
			case r.Suite.Options.Fixture != "simple":
				return suite.Skip("-fixture simple was not given")
			case t == nil:
				return suite.Skip("-grpc was not given")
			}
			got, err := t.infer(r, "simple", fixture.Inputs(), true)
			if err != nil {
				return err
			}
			return fixture.Holds(got)
		}},
		refusal(t, "unknown-model", "a model that is not there", connect.CodeNotFound, func(req *inferencepb.ModelInferRequest) string {
			req.ModelName = "conformance no such model"
			return ""
		}),
		refusal(t, "unknown-version", "a version that is not there", connect.CodeNotFound, func(req *inferencepb.ModelInferRequest) string {
			req.ModelVersion = "987654321"
			return ""
		}),
		refusal(t, "unknown-input", "an input that the model does not have", connect.CodeInvalidArgument, func(req *inferencepb.ModelInferRequest) string {
			req.Inputs[0].Name = "conformance no such input"
			return ""
		}),
		refusal(t, "unknown-datatype", "a datatype that the protocol does not have", connect.CodeInvalidArgument, func(req *inferencepb.ModelInferRequest) string {
			req.Inputs[0].Datatype = "FLOAT"
			return ""
		}),
		refusal(t, "raw-short", "raw contents that are too short", connect.CodeInvalidArgument, func(req *inferencepb.ModelInferRequest) string {
			raw := req.RawInputContents[0]
			if len(raw) == 0 {
				return "the model's request has no bytes"
			}
			req.RawInputContents[0] = raw[:len(raw)-1]
			return ""
		}),
		refusal(t, "raw-count", "fewer raw contents than inputs", connect.CodeInvalidArgument, func(req *inferencepb.ModelInferRequest) string {
			req.RawInputContents = req.RawInputContents[1:]
			if len(req.RawInputContents) == 0 {
				return "the model has one input"
			}
			return ""
		}),
		refusal(t, "no-contents", "an input without contents", connect.CodeInvalidArgument, func(req *inferencepb.ModelInferRequest) string {
			if len(req.RawInputContents[0]) == 0 {
				return "the model's request has no bytes"
			}
			req.RawInputContents = nil
			return ""
		}),
		refusal(t, "negative-dimension", "a shape with -1", connect.CodeInvalidArgument, func(req *inferencepb.ModelInferRequest) string {
			req.Inputs[0].Shape = []int64{-1}
			return ""
		}),
		refusal(t, "unknown-output", "an output that the model does not have", connect.CodeInvalidArgument, func(req *inferencepb.ModelInferRequest) string {
			req.Outputs = []*inferencepb.ModelInferRequest_InferRequestedOutputTensor{{Name: "conformance no such output"}}
			return ""
		}),
	}
}

// refusal is a request that must be refused with a code that blames the sender.
func refusal(t *Target, name, about string, best connect.Code, change func(*inferencepb.ModelInferRequest) string) suite.Check {
	return suite.Check{Group: "grpc", Name: name, Scope: suite.First, About: about + " is refused", Run: func(r *suite.Run) error {
		if t == nil {
			return suite.Skip("-grpc was not given")
		}
		if len(r.Model.Inputs) == 0 {
			return suite.Skip("the model has no inputs")
		}
		req := request(r.Model.Name, r.Model.Inputs, true)
		if why := change(req); why != "" {
			return suite.Skip("%s", why)
		}
		_, err := rpc(r, t, "ModelInfer", t.inference.ModelInfer, req)
		// Servers differ between the codes that blame the sender; any of them tells the client the same.
		blames := []connect.Code{best, connect.CodeInvalidArgument, connect.CodeNotFound, connect.CodeUnavailable, connect.CodeOutOfRange, connect.CodeFailedPrecondition}
		var e *connect.Error
		switch code := connect.CodeOf(err); {
		case err == nil:
			return errors.New("it was answered")
		case !slices.Contains(blames, code):
			return fmt.Errorf("the code is %v, not %v", code, best)
		case errors.As(err, &e) && strings.TrimSpace(e.Message()) == "":
			return errors.New("the error has no message")
		}
		return t.agrees(r, true)
	}}
}

func (t *Target) describes(r *suite.Run) error {
	got, err := rpc(r, t, "ModelMetadata", t.inference.ModelMetadata, &inferencepb.ModelMetadataRequest{Name: r.Model.Name})
	if err != nil {
		return err
	}
	if got.GetName() != r.Model.Name {
		return fmt.Errorf("the name is %q", got.GetName())
	}
	compare := func(what string, rest []suite.Description, theirs []*inferencepb.ModelMetadataResponse_TensorMetadata) error {
		if len(rest) != len(theirs) {
			return fmt.Errorf("%d %ss, REST has %d", len(theirs), what, len(rest))
		}
		for i, m := range theirs {
			if d := rest[i]; m.GetName() != d.Name || m.GetDatatype() != d.Datatype || !slices.Equal(m.GetShape(), d.Shape) {
				return fmt.Errorf("%s %d is %q %s %v, REST says %q %s %v", what, i, m.GetName(), m.GetDatatype(), m.GetShape(), d.Name, d.Datatype, d.Shape)
			}
		}
		return nil
	}
	if err := compare("input", r.Model.Metadata.Inputs, got.GetInputs()); err != nil {
		return err
	}
	return compare("output", r.Model.Metadata.Outputs, got.GetOutputs())
}

// request makes a request with raw or typed contents.
func request(model string, inputs []wire.Value, raw bool) *inferencepb.ModelInferRequest {
	req := &inferencepb.ModelInferRequest{ModelName: model}
	for i := range inputs {
		v := &inputs[i]
		in := &inferencepb.ModelInferRequest_InferInputTensor{Name: v.Name, Datatype: v.Datatype, Shape: v.Shape}
		if raw {
			req.RawInputContents = append(req.RawInputContents, v.Raw)
		} else {
			in.Contents = typed(v)
		}
		req.Inputs = append(req.Inputs, in)
	}
	return req
}

func typed(v *wire.Value) *inferencepb.InferTensorContents {
	c := &inferencepb.InferTensorContents{}
	_ = v.Each(func(_ int64, e []byte) { // made by fill, so that raw fits the shape
		switch v.Datatype {
		case "BOOL":
			c.BoolContents = append(c.BoolContents, e[0] != 0)
		case "INT8", "INT16", "INT32":
			c.IntContents = append(c.IntContents, int32(wire.Number(v.Datatype, e)))
		case "UINT8", "UINT16", "UINT32":
			c.UintContents = append(c.UintContents, uint32(wire.Number(v.Datatype, e)))
		case "INT64":
			c.Int64Contents = append(c.Int64Contents, int64(binary.LittleEndian.Uint64(e)))
		case "UINT64":
			c.Uint64Contents = append(c.Uint64Contents, binary.LittleEndian.Uint64(e))
		case "FP32":
			c.Fp32Contents = append(c.Fp32Contents, math.Float32frombits(binary.LittleEndian.Uint32(e)))
		case "FP64":
			c.Fp64Contents = append(c.Fp64Contents, wire.Number(v.Datatype, e))
		case "BYTES":
			c.BytesContents = append(c.BytesContents, e)
		}
	})
	return c
}

// Infer asks a model, for those who have no run.
func (t *Target) Infer(ctx context.Context, model string, inputs []wire.Value, raw bool) (*wire.Answer, error) {
	return t.infer(&suite.Run{Context: ctx}, model, inputs, raw)
}

func (t *Target) infer(r *suite.Run, model string, inputs []wire.Value, raw bool) (*wire.Answer, error) {
	got, err := rpc(r, t, "ModelInfer", t.inference.ModelInfer, request(model, inputs, raw))
	if err != nil {
		return nil, err
	}
	return read(got)
}

// read reads an answer. Contents must be Raw: that is all that stock clients read.
func read(got *inferencepb.ModelInferResponse) (*wire.Answer, error) {
	a := &wire.Answer{Model: got.GetModelName(), Version: got.GetModelVersion(), ID: got.GetId()}
	if len(got.GetOutputs()) != len(got.GetRawOutputContents()) {
		return nil, fmt.Errorf("%d outputs with %d raw_output_contents; clients read only raw ones", len(got.GetOutputs()), len(got.GetRawOutputContents()))
	}
	for i, o := range got.GetOutputs() {
		v := wire.Value{Name: o.GetName(), Datatype: o.GetDatatype(), Shape: o.GetShape(), Raw: got.GetRawOutputContents()[i]}
		if o.GetContents() != nil {
			return nil, fmt.Errorf("output %q has contents beside raw ones", v.Name)
		}
		if err := v.Each(func(int64, []byte) {}); err != nil {
			return nil, err
		}
		a.Outputs = append(a.Outputs, v)
	}
	return a, nil
}

func (t *Target) agrees(r *suite.Run, raw bool) error {
	for i := range r.Model.Inputs {
		if d := r.Model.Inputs[i].Datatype; !raw && (d == "FP16" || d == "BF16") {
			return suite.Skip("%q is %s, which has no typed contents", r.Model.Inputs[i].Name, d)
		}
	}
	got, err := t.infer(r, r.Model.Name, r.Model.Inputs, raw)
	if err != nil {
		return err
	}
	return r.Matches(got)
}

func (t *Target) stream(r *suite.Run) error {
	ctx, cancel := context.WithTimeout(r.Context, r.Suite.Options.Timeout)
	defer cancel()
	stream := t.inference.ModelStreamInfer(ctx)
	for name, values := range t.header {
		stream.RequestHeader()[name] = values
	}
	const requests = 5
	for i := range requests {
		req := request(r.Model.Name, r.Model.Inputs, true)
		req.Id = fmt.Sprint("stream-", i)
		if i == 2 && len(req.Inputs) > 0 {
			req.Inputs[0].Name = "conformance no such input"
		}
		if err := stream.Send(req); err != nil {
			return fmt.Errorf("sending request %d: %v", i, err)
		}
	}
	if err := stream.CloseRequest(); err != nil {
		return err
	}
	good, bad := 0, 0
	for {
		res, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			break
		}
		if connect.CodeOf(err) == connect.CodeUnimplemented {
			return suite.Skip("the server has no ModelStreamInfer")
		}
		if err != nil {
			return fmt.Errorf("the stream ended after %d answers: %v", good+bad, err)
		}
		if strings.IndexFunc(res.GetErrorMessage(), unicode.IsPrint) >= 0 {
			bad++
			continue
		}
		good++
		a, err := read(res.GetInferResponse())
		if err != nil {
			return err
		}
		if err := r.Matches(a); err != nil {
			return err
		}
	}
	want := 1
	if len(r.Model.Inputs) == 0 {
		want = 0
	}
	if bad != want || good != requests-want {
		return fmt.Errorf("%d requests, %d of them wrong: %d answers and %d errors came", requests, want, good, bad)
	}
	return stream.CloseResponse()
}

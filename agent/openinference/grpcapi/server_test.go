package grpcapi

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/dhowfleet/dhow/agent/access"
	"github.com/dhowfleet/dhow/agent/accesslog"
	"github.com/dhowfleet/dhow/agent/modelrepository"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/models/triton"
	healthv1 "github.com/dhowfleet/dhow/protocol/gen/grpc/health/v1"
	"github.com/dhowfleet/dhow/protocol/gen/grpc/health/v1/healthv1connect"
	inferencepb "github.com/dhowfleet/dhow/protocol/gen/inference"
)

func TestHealthAndMetadata(t *testing.T) {
	var ready atomic.Bool
	s := start(t, Options{Version: "1.2.3", Ready: ready.Load})
	for _, want := range []bool{false, true} {
		ready.Store(want)
		live, err := s.ServerLive(t.Context(), connect.NewRequest(&inferencepb.ServerLiveRequest{}))
		if err != nil || !live.Msg.GetLive() {
			t.Error(live, err)
		}
		got, err := s.ServerReady(t.Context(), connect.NewRequest(&inferencepb.ServerReadyRequest{}))
		if err != nil || got.Msg.GetReady() != want {
			t.Error(got, err)
		}
	}
	for _, c := range []struct {
		name, version string
		ready         bool
	}{{"m", "", true}, {"m", "2", true}, {odd, "", true}, {"m", "3", false}, {"nobody", "", false}} {
		got, err := s.ModelReady(t.Context(), connect.NewRequest(&inferencepb.ModelReadyRequest{Name: c.name, Version: c.version}))
		if err != nil || got.Msg.GetReady() != c.ready {
			t.Errorf("%v: %v, %v", c, got, err)
		}
	}
	meta, err := s.ServerMetadata(t.Context(), connect.NewRequest(&inferencepb.ServerMetadataRequest{}))
	if err != nil || meta.Msg.GetName() != "dhow" || meta.Msg.GetVersion() != "1.2.3" || slices.Contains(meta.Msg.GetExtensions(), "statistics") || !slices.Contains(meta.Msg.GetExtensions(), "classification") {
		t.Error(meta, err)
	}
	model, err := s.ModelMetadata(t.Context(), connect.NewRequest(&inferencepb.ModelMetadataRequest{Name: "m"}))
	want := &inferencepb.ModelMetadataResponse{
		Name: "m", Versions: []string{"1", "2"}, Platform: "onnxruntime_onnx",
		Inputs:  []*inferencepb.ModelMetadataResponse_TensorMetadata{{Name: "x", Datatype: "FP32", Shape: []int64{-1, 2}}},
		Outputs: []*inferencepb.ModelMetadataResponse_TensorMetadata{{Name: "x_out", Datatype: "FP32", Shape: []int64{-1, 2}}},
	}
	if err != nil || !proto.Equal(model.Msg, want) {
		t.Errorf("got %v, %v", model, err)
	}
	model, err = s.ModelMetadata(t.Context(), connect.NewRequest(&inferencepb.ModelMetadataRequest{Name: "m", Version: "2"}))
	if err != nil || !slices.Equal(model.Msg.GetVersions(), []string{"2"}) {
		t.Error(model, err)
	}
	for name, say := range map[string]string{"": "name is missing", "nobody": `no model "nobody"`, strings.Repeat("n", 2000): "1024 bytes"} {
		code := connect.CodeInvalidArgument
		if name == "nobody" {
			code = connect.CodeNotFound
		}
		_, err = s.ModelMetadata(t.Context(), connect.NewRequest(&inferencepb.ModelMetadataRequest{Name: name}))
		refused(t, err, code, say)
		_, err = s.ModelConfig(t.Context(), connect.NewRequest(&inferencepb.ModelConfigRequest{Name: name}))
		refused(t, err, code, say)
	}
	_, err = s.ModelStatistics(t.Context(), connect.NewRequest(&inferencepb.ModelStatisticsRequest{}))
	refused(t, err, connect.CodeUnimplemented, "no such method")
}

// full sets every field of a configuration, so that a field that is forgotten is seen.
var full = triton.Config{
	Name: "c", Platform: "onnxruntime_onnx", Backend: "onnxruntime", DefaultFile: "m.onnx", MaxBatchSize: 8,
	Inputs:        []triton.Input{{Name: "x", DataType: "TYPE_FP32", Dims: []int64{-1, 2}, Reshape: &[]int64{2}, Optional: true}},
	Outputs:       []triton.Output{{Name: "y", DataType: "TYPE_STRING", Dims: []int64{3}, Reshape: &[]int64{}, LabelFilename: "labels.txt"}},
	VersionPolicy: triton.VersionPolicy{Specific: []int64{3, 5}},
	DynamicBatching: &triton.DynamicBatching{
		Preferred: []int{4, 8}, MaxQueueDelay: 100 * time.Microsecond, PreserveOrdering: true, PriorityLevels: 3, DefaultPriorityLevel: 2,
		QueuePolicy:      triton.QueuePolicy{Delay: true, DefaultTimeout: time.Millisecond, AllowTimeoutOverride: true, MaxQueueSize: 9},
		PriorityPolicies: map[uint64]triton.QueuePolicy{1: {MaxQueueSize: 4}},
	},
	InstanceGroups: []triton.InstanceGroup{{Name: "g", Kind: "KIND_GPU", Count: 2, GPUs: []int{0, 1}}, {Kind: "KIND_CPU"}},
	Warmup: []triton.Warmup{{Name: "w", BatchSize: 1, Count: 2, Inputs: []triton.WarmupInput{
		{Name: "x", DataType: "TYPE_FP32", Dims: []int64{2}, Zero: true}, {Name: "r", DataType: "TYPE_INT8", Random: true}, {Name: "f", DataType: "TYPE_BF16", File: "raw"},
	}}},
	Parameters:    []triton.Parameter{{Key: "k", Value: "v\xff"}},
	ResponseCache: true,
}

const fullJSON = `{"name":"c","platform":"onnxruntime_onnx","backend":"onnxruntime","defaultModelFilename":"m.onnx","maxBatchSize":8,
"versionPolicy":{"specific":{"versions":["3","5"]}},
"input":[{"name":"x","dataType":"TYPE_FP32","dims":["-1","2"],"reshape":{"shape":["2"]},"optional":true}],
"output":[{"name":"y","dataType":"TYPE_STRING","dims":["3"],"reshape":{},"labelFilename":"labels.txt"}],
"instanceGroup":[{"name":"g","count":2,"gpus":[0,1],"kind":"KIND_GPU"},{"count":1,"kind":"KIND_CPU"}],
"dynamicBatching":{"preferredBatchSize":[4,8],"maxQueueDelayMicroseconds":"100","preserveOrdering":true,"priorityLevels":"3","defaultPriorityLevel":"2",
 "defaultQueuePolicy":{"timeoutAction":"DELAY","defaultTimeoutMicroseconds":"1000","allowTimeoutOverride":true,"maxQueueSize":9},"priorityQueuePolicy":{"1":{"maxQueueSize":4}}},
"parameters":{"k":{"stringValue":"v\ufffd"}},
"modelWarmup":[{"name":"w","batchSize":1,"count":2,"inputs":{"x":{"dataType":"TYPE_FP32","dims":["2"],"zeroData":true},"r":{"dataType":"TYPE_INT8","randomData":true},"f":{"dataType":"TYPE_BF16","inputDataFile":"raw"}}}],
"responseCache":{"enable":true}}`

func TestModelConfig(t *testing.T) {
	s := start(t, Options{})
	ensembled := triton.Config{
		Name: "e", Platform: "ensemble", VersionPolicy: triton.VersionPolicy{All: true},
		Ensemble: []triton.EnsembleStep{{ModelName: "a", ModelVersion: -1, InputMap: map[string]string{"x": "in"}, OutputMap: map[string]string{"y": "out"}}},
	}
	s.table.Set("c", []serving.Variant{{Version: "1", Role: 1, Runner: &echo{}, Config: &full}})
	s.table.Set("e", []serving.Variant{{Version: "1", Role: 1, Runner: &echo{}, Config: &ensembled}})
	for name, want := range map[string]string{
		"c": fullJSON,
		"e": `{"name":"e","platform":"ensemble","versionPolicy":{"all":{}},"ensembleScheduling":{"step":[{"modelName":"a","modelVersion":"-1","inputMap":{"x":"in"},"outputMap":{"y":"out"}}]}}`,
		"m": `{"name":"m","platform":"onnxruntime_onnx","backend":"onnxruntime","versionPolicy":{"latest":{"numVersions":1}},
			"input":[{"name":"x","dataType":"TYPE_FP32","dims":["-1","2"]}],"output":[{"name":"x_out","dataType":"TYPE_FP32","dims":["-1","2"]}]}`,
	} {
		var config inferencepb.ModelConfig
		if err := protojson.Unmarshal([]byte(want), &config); err != nil {
			t.Fatal(err)
		}
		got, err := s.ModelConfig(t.Context(), connect.NewRequest(&inferencepb.ModelConfigRequest{Name: name}))
		if err != nil || !proto.Equal(got.Msg.GetConfig(), &config) {
			t.Errorf("%s: got %v, %v\nwant %v", name, got, err, &config)
		}
	}
	// The numbers are Triton's.
	fields := (&inferencepb.ModelConfig{}).ProtoReflect().Descriptor().Fields()
	for name, number := range map[string]int{"platform": 2, "max_batch_size": 4, "instance_group": 7, "dynamic_batching": 11, "ensemble_scheduling": 15, "backend": 17, "response_cache": 24} {
		if f := fields.ByName(protoreflect.Name(name)); f == nil || int(f.Number()) != number {
			t.Errorf("%s is %v, want %d", name, f, number)
		}
	}
	v := reflect.ValueOf(full)
	for i := range v.NumField() {
		// A model has batches or is an ensemble; whether the file said how many is no part of the answer.
		if name := v.Type().Field(i).Name; name != "Ensemble" && name != "MaxBatchSaid" && v.Field(i).IsZero() {
			t.Errorf("the test leaves %s out", name)
		}
	}
}

func TestModelStatistics(t *testing.T) {
	d := func(n uint64) statistics.Duration { return statistics.Duration{Count: n, Nanos: 10 * n} }
	s := start(t, Options{Statistics: func() []statistics.Snapshot {
		return []statistics.Snapshot{
			{Name: "m", Version: "1", LastInference: time.UnixMilli(1234), InferenceCount: 9, ExecutionCount: 8, Success: d(1), Fail: d(2), Queue: d(3), ComputeInput: d(4), ComputeInfer: d(5), ComputeOutput: d(6), CacheHit: d(7), CacheMiss: d(8),
				Batches: []statistics.Batch{{Size: 4, ComputeInput: d(1), ComputeInfer: d(2), ComputeOutput: d(3)}}},
			{Name: "m", Version: "2"}, {Name: odd, Version: "1"},
		}
	}})
	get := func(name, version string) ([]*inferencepb.ModelStatistics, error) {
		res, err := s.ModelStatistics(t.Context(), connect.NewRequest(&inferencepb.ModelStatisticsRequest{Name: name, Version: version}))
		if err != nil {
			return nil, err
		}
		return res.Msg.GetModelStats(), nil
	}
	for _, c := range []struct {
		name, version string
		n             int
	}{{"", "", 3}, {"m", "", 2}, {"m", "2", 1}, {odd, "", 1}} {
		if got, err := get(c.name, c.version); err != nil || len(got) != c.n {
			t.Errorf("%v: %v, %v", c, got, err)
		}
	}
	got, err := get("m", "1")
	if err != nil {
		t.Fatal(err)
	}
	var want inferencepb.ModelStatistics
	if err := protojson.Unmarshal([]byte(`{"name":"m","version":"1","lastInference":"1234","inferenceCount":"9","executionCount":"8","inferenceStats":{
		"success":{"count":"1","ns":"10"},"fail":{"count":"2","ns":"20"},"queue":{"count":"3","ns":"30"},"computeInput":{"count":"4","ns":"40"},"computeInfer":{"count":"5","ns":"50"},
		"computeOutput":{"count":"6","ns":"60"},"cacheHit":{"count":"7","ns":"70"},"cacheMiss":{"count":"8","ns":"80"}},
		"batchStats":[{"batchSize":"4","computeInput":{"count":"1","ns":"10"},"computeInfer":{"count":"2","ns":"20"},"computeOutput":{"count":"3","ns":"30"}}]}`), &want); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(got[0], &want) {
		t.Errorf("got %v", got[0])
	}
	_, err = get("nobody", "")
	refused(t, err, connect.CodeNotFound, "no model")
	_, err = get("", "1")
	refused(t, err, connect.CodeInvalidArgument, "no name")
}

// repository is a Controller that notes what it was asked.
type repository struct {
	asked []string
	err   error
}

func (r *repository) Index(_ context.Context, ready bool) ([]modelrepository.Entry, error) {
	return []modelrepository.Entry{{Name: "m", Version: "1", State: modelrepository.Unavailable, Reason: fmt.Sprint(ready)}}, r.err
}

func (r *repository) Load(_ context.Context, name string, parameters map[string]string) error {
	r.asked = append(r.asked, name+fmt.Sprint(slices.Sorted(maps.Keys(parameters)))+parameters["config"]+parameters["n"]+parameters["b"]+parameters["file:1/model.onnx"])
	return r.err
}

func (r *repository) Unload(_ context.Context, name string, dependents bool) error {
	r.asked = append(r.asked, name+fmt.Sprint(dependents))
	return r.err
}

func TestRepository(t *testing.T) {
	r := &repository{}
	s := start(t, Options{Repository: r})
	index, err := s.RepositoryIndex(t.Context(), connect.NewRequest(&inferencepb.RepositoryIndexRequest{Ready: true}))
	if err != nil || len(index.Msg.GetModels()) != 1 || !proto.Equal(index.Msg.GetModels()[0], &inferencepb.RepositoryIndexResponse_ModelIndex{Name: "m", Version: "1", State: "UNAVAILABLE", Reason: "true"}) {
		t.Error(index, err)
	}
	load := &inferencepb.RepositoryModelLoadRequest{ModelName: odd, Parameters: map[string]*inferencepb.ModelRepositoryParameter{
		"config":            {ParameterChoice: &inferencepb.ModelRepositoryParameter_StringParam{StringParam: "{}"}},
		"n":                 {ParameterChoice: &inferencepb.ModelRepositoryParameter_Int64Param{Int64Param: -5}},
		"b":                 {ParameterChoice: &inferencepb.ModelRepositoryParameter_BoolParam{BoolParam: true}},
		"file:1/model.onnx": {ParameterChoice: &inferencepb.ModelRepositoryParameter_BytesParam{BytesParam: []byte("\xff")}},
		"none":              {},
	}}
	unload := &inferencepb.RepositoryModelUnloadRequest{ModelName: "m", Parameters: map[string]*inferencepb.ModelRepositoryParameter{
		"unload_dependents": {ParameterChoice: &inferencepb.ModelRepositoryParameter_BoolParam{BoolParam: true}},
	}}
	if _, err := s.RepositoryModelLoad(t.Context(), connect.NewRequest(load)); err != nil {
		t.Error(err)
	}
	if _, err := s.RepositoryModelUnload(t.Context(), connect.NewRequest(unload)); err != nil {
		t.Error(err)
	}
	if want := []string{odd + "[b config file:1/model.onnx n none]{}-5true\xff", "mtrue"}; !slices.Equal(r.asked, want) {
		t.Errorf("asked %q, want %q", r.asked, want)
	}
	for _, c := range []struct {
		err  error
		code connect.Code
	}{
		{&modelrepository.NotFoundError{Name: "m"}, connect.CodeNotFound},
		{fmt.Errorf("set by its fleet manager: %w", modelrepository.ErrNotControlled), connect.CodeUnavailable},
		{errors.New("cannot load m: it does not parse"), connect.CodeInternal},
	} {
		r.err = c.err
		_, err := s.RepositoryModelLoad(t.Context(), connect.NewRequest(load))
		refused(t, err, c.code, c.err.Error())
		_, err = s.RepositoryModelUnload(t.Context(), connect.NewRequest(unload))
		refused(t, err, c.code, c.err.Error())
	}
	_, err = s.RepositoryModelLoad(t.Context(), connect.NewRequest(&inferencepb.RepositoryModelLoadRequest{}))
	refused(t, err, connect.CodeInvalidArgument, "model_name is missing")
	_, err = s.RepositoryModelUnload(t.Context(), connect.NewRequest(&inferencepb.RepositoryModelUnloadRequest{ModelName: strings.Repeat("m", 5000)}))
	refused(t, err, connect.CodeInvalidArgument, "at most 1024")
	_, err = s.RepositoryIndex(t.Context(), connect.NewRequest(&inferencepb.RepositoryIndexRequest{RepositoryName: "other"}))
	refused(t, err, connect.CodeUnimplemented, "leave repository_name empty")

	// Without a repository the table is listed, and is not to be changed.
	s = start(t, Options{})
	index, err = s.RepositoryIndex(t.Context(), connect.NewRequest(&inferencepb.RepositoryIndexRequest{}))
	if err != nil || len(index.Msg.GetModels()) != 3 || index.Msg.GetModels()[0].GetState() != "READY" {
		t.Error(index, err)
	}
	_, err = s.RepositoryModelLoad(t.Context(), connect.NewRequest(load))
	refused(t, err, connect.CodeUnavailable, "cannot be loaded")
}

func TestHealthCheckAndReflection(t *testing.T) {
	var ready atomic.Bool
	s := start(t, Options{Ready: ready.Load})
	client := healthv1connect.NewHealthClient(s.http, s.url, connect.WithGRPC())
	check := func(service string) (healthv1.HealthCheckResponse_ServingStatus, error) {
		res, err := client.Check(t.Context(), connect.NewRequest(&healthv1.HealthCheckRequest{Service: service}))
		if err != nil {
			return 0, err
		}
		return res.Msg.GetStatus(), nil
	}
	for i, want := range []healthv1.HealthCheckResponse_ServingStatus{2, 1} {
		ready.Store(i == 1)
		for _, service := range []string{"", "inference.GRPCInferenceService"} {
			if got, err := check(service); err != nil || got != want {
				t.Errorf("%q: %v, %v, want %v", service, got, err, want)
			}
		}
	}
	_, err := check("a.B")
	refused(t, err, connect.CodeNotFound, "no such service")
	st, err := client.Watch(t.Context(), connect.NewRequest(&healthv1.HealthCheckRequest{}))
	if err != nil || !st.Receive() || st.Msg().GetStatus() != 1 {
		t.Error(st, err)
	}
	st.Close()

	reflection := grpcreflect.NewClient(s.http, s.url).NewStream(t.Context())
	defer reflection.Close()
	names, err := reflection.ListServices()
	if err != nil || len(names) != 2 {
		t.Error(names, err)
	}
	files, err := reflection.FileContainingSymbol("inference.GRPCInferenceService")
	if err != nil || len(files) == 0 {
		t.Error(files, err)
	}
}

// TestWatchTellsChanges, once each and within a second.
func TestWatchTellsChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ready atomic.Bool
		h := &handler{options: Options{Ready: ready.Load}}
		ctx, cancel := context.WithCancel(t.Context())
		var got []int
		ended := make(chan error)
		go func() {
			ended <- h.watch(ctx, "", func(r *healthv1.HealthCheckResponse) error {
				got = append(got, int(r.GetStatus()))
				return nil
			})
		}()
		for range 3 {
			time.Sleep(10 * time.Second)
			ready.Store(!ready.Load())
			time.Sleep(watchEvery + 1)
			synctest.Wait()
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) || !slices.Equal(got, []int{2, 1, 2, 1}) {
			t.Errorf("told %v, ended with %v", got, err)
		}
		if err := h.watch(t.Context(), "a.B", func(r *healthv1.HealthCheckResponse) error {
			return errors.New(r.GetStatus().String())
		}); err == nil || err.Error() != "SERVICE_UNKNOWN" {
			t.Error(err)
		}
	})
}

// TestAuthorize: every method asks, with its group and model, and answers what it is told.
func TestAuthorize(t *testing.T) {
	var asked []string
	var refusal error
	var ended atomic.Int64
	s := start(t, Options{
		Repository: &repository{}, Statistics: func() []statistics.Snapshot { return nil },
		Authorize: func(header func(string) string, group access.Group, model string) (access.Caller, func(), error) {
			if header("Triton-Grpc-Protocol-Key") != "k" {
				return access.Caller{}, nothing, errors.New("the headers are not the request's")
			}
			asked = append(asked, string(group)+" "+model)
			return access.Caller{}, func() { ended.Add(1) }, refusal
		},
	})
	methods := map[string]struct{ message, want string }{
		"ServerLive": {"", "health "}, "ServerReady": {"", "health "}, "ModelReady": {"\x0a\x01m", "health m"},
		"ServerMetadata": {"", "metadata "}, "ModelMetadata": {"\x0a\x01m", "metadata m"}, "ModelConfig": {"\x0a\x01m", "model-config m"},
		"ModelStatistics": {"\x0a\x01m", "statistics m"}, "RepositoryIndex": {"", "model-repository "},
		"RepositoryModelLoad": {"\x12\x01m", "model-repository m"}, "RepositoryModelUnload": {"\x12\x01m", "model-repository m"},
		"ModelInfer": {"\x0a\x01m", "inference m"}, "ModelStreamInfer": {"\x0a\x01m", "inference m"},
		"/grpc.health.v1.Health/Check": {"", "health "}, "/grpc.health.v1.Health/Watch": {"", "health "},
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      {"", "metadata "},
		"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": {"", "metadata "},
	}
	if len(methods) != len(s.handler.routes) {
		t.Errorf("%d methods are tried, there are %d", len(methods), len(s.handler.routes))
	}
	tries := int64(0)
	for method, c := range methods {
		for code, refused := range map[string]*access.Error{
			"16": {Kind: access.Unauthenticated, Message: "who are you"}, "7": {Kind: access.Forbidden, Message: "not you"},
			"8": {Kind: access.QuotaExceeded, Message: "enough", RetryAfter: 1500 * time.Millisecond},
		} {
			asked, refusal = nil, refused
			got := s.post(method, framed([]byte(c.message)), "Triton-Grpc-Protocol-Key", "k")
			if method == "ModelStreamInfer" {
				if got.code != "0" || !strings.Contains(string(got.body), refused.Message) {
					t.Errorf("%s: got %+v", method, got)
				}
			} else if got.code != code || got.message != refused.Message {
				t.Errorf("%s: status %s %q, want %s", method, got.code, got.message, code)
			}
			if !slices.Equal(asked, []string{c.want}) {
				t.Errorf("%s asked %q, want %q", method, asked, c.want)
			}
			if tries++; ended.Load() != tries {
				t.Errorf("%s: %d of %d requests were said to have ended", method, ended.Load(), tries)
			}
		}
	}
	s.free()
}

// TestAccessLog has a line for each request, on a stream for each message.
func TestAccessLog(t *testing.T) {
	entries := make(chan accesslog.Entry, 10)
	s := start(t, Options{
		AccessLog: func(e *accesslog.Entry) { entries <- *e },
		Authorize: func(func(string) string, access.Group, string) (access.Caller, func(), error) {
			return access.Caller{Name: "till"}, nothing, nil
		},
	})
	next := func() string {
		e := <-entries
		if e.Time.IsZero() || e.Duration < 0 || e.Duration < e.Queue || e.BytesIn == 0 || e.Protocol != "grpc" {
			t.Errorf("entry %+v", e)
		}
		return fmt.Sprintf("%s %s %s %s %s %s %s %v", e.Method, e.Group, e.Caller, e.Model, e.Version, e.ID, e.Code, e.BytesOut > 0)
	}
	r := ask("m")
	r.Id, r.ModelVersion = "i", "1"
	s.infer(t.Context(), r)
	r.ModelVersion = "7"
	s.infer(t.Context(), r)
	s.post("ModelInfer", framed(nil)+"x")
	s.post("ModelReady", framed([]byte("\x0a\x01m")), "Content-Type", "application/grpc-web")
	st := s.ModelStreamInfer(t.Context())
	for _, version := range []string{"1", "7"} {
		r.ModelVersion = version
		send(t, st, r)
		receive(t, st)
	}
	st.CloseRequest()
	st.Receive()
	for _, want := range []string{
		"ModelInfer inference till m 1 i ok true", "ModelInfer inference till m  i not_found false", "ModelInfer      unreadable false",
		"ModelReady health till m   ok false",
		"ModelStreamInfer inference till m 1 i ok true", "ModelStreamInfer inference till m  i not_found false",
	} {
		if got := next(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	select {
	case e := <-entries:
		t.Errorf("one more: %+v", e)
	default:
	}
}
